//! A sink that takes a file in order while its segments arrive in any.

use bytes::Bytes;
use tokio::sync::watch;

use crate::{FetchError, Sha256, Sink, SinkError, partial::Partial, segments::Segments};

/// How many bytes are read from the partial at a time.
const PIECE: u64 = 256 << 10;

/// Feeds a sink with what is in a partial.
struct Follower<'a> {
    partial: Partial,
    front: watch::Receiver<u64>,
    sink: &'a mut dyn Sink,
    /// How many bytes the sink has had.
    fed: u64,
    /// The sink took offence at bytes whose digest is still to be seen.
    refused: Option<SinkError>,
}

impl Follower<'_> {
    /// Feeds the sink until the end of the file; ends early only when the sink fails.
    async fn follow(&mut self, size: u64) -> Result<(), SinkError> {
        while self.fed < size && self.refused.is_none() {
            let front = *self.front.borrow_and_update();
            if front <= self.fed {
                if self.front.changed().await.is_err() {
                    // Nobody writes any more.
                    return Ok(());
                }
                continue;
            }
            let range = self.fed..front.min(self.fed + PIECE);
            let (partial, wanted) = (self.partial.clone(), range.clone());
            let read = tokio::task::spawn_blocking(move || partial.read(wanted)).await;
            let bytes = read.unwrap_or_else(|error| Err(SinkError::Failed(error.into())))?;
            self.fed = range.end;
            match self.sink.write(Bytes::from(bytes)).await {
                Ok(()) => {}
                // Either the bytes are wrong, or the file is of no use. Only the digest can tell.
                Err(error @ SinkError::Rejected(_)) => self.refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.fed = 0;
        self.refused = None;
        self.sink.restart().await
    }
}

impl Segments<'_> {
    /// Fetches the whole file, and gives it to `sink` in order while it arrives. When it returns
    /// `Ok`, the sink has finished.
    pub(crate) async fn fetch_into(&mut self, sink: &mut dyn Sink) -> Result<Sha256, FetchError> {
        let size = self.size;
        let label = self.job.label.clone();
        let failed = |source| FetchError::Sink {
            label: label.clone(),
            source,
        };
        let mut follower = Follower {
            partial: self.partial.clone(),
            front: self.partial.front(),
            sink,
            fed: 0,
            refused: None,
        };
        let sha256;
        let is_fed = {
            let follow = follower.follow(size);
            tokio::pin!(follow);
            let mut is_fed = false;
            {
                let fetch = self.fetch();
                tokio::pin!(fetch);
                sha256 = loop {
                    tokio::select! {
                        result = &mut fetch => break result?,
                        result = &mut follow, if !is_fed => {
                            result.map_err(failed)?;
                            is_fed = true;
                        }
                    }
                };
            }
            // What the sink has had may have been found wrong and replaced since.
            if !is_fed && !self.has_replaced {
                follow.await.map_err(failed)?;
                is_fed = true;
            }
            is_fed && !self.has_replaced
        };
        if !is_fed {
            follower.restart().await.map_err(failed)?;
            follower.follow(size).await.map_err(failed)?;
        }
        if let Some(refused) = follower.refused.take() {
            return Err(failed(refused));
        }
        follower.sink.finish().await.map_err(failed)?;
        Ok(sha256)
    }
}
