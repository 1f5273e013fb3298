//! A sink that takes a file in order while its segments arrive in any.

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    FetchError, Sha256, Sink, SinkError,
    blocking::blocking,
    fetch::{partial::Partial, segments::SegmentedFetch},
};

/// How many bytes are read from the partial at a time.
const PIECE: u64 = 256 << 10;

/// Feeds a sink from a partial.
struct Follower<'a> {
    partial: Partial,
    front: watch::Receiver<u64>,
    sink: &'a mut dyn Sink,
    /// How many bytes the sink has received.
    fed: u64,
    /// Rejection by the sink, held back until the digest is known.
    rejection: Option<SinkError>,
}

impl Follower<'_> {
    /// Feeds the sink until the end of the file; ends early only when the sink fails.
    async fn follow(&mut self, size: u64) -> Result<(), SinkError> {
        while self.fed < size && self.rejection.is_none() {
            let front = *self.front.borrow_and_update();
            if front <= self.fed {
                if self.front.changed().await.is_err() {
                    // The partial is closed.
                    return Ok(());
                }
                continue;
            }
            let range = self.fed..front.min(self.fed + PIECE);
            let (partial, wanted) = (self.partial.clone(), range.clone());
            let bytes = blocking(move || partial.read(wanted)).await?;
            self.fed = range.end;
            match self.sink.write(Bytes::from(bytes)).await {
                Ok(()) => {}
                // Either the bytes are wrong, or the file is unusable. Only the digest decides.
                Err(error @ SinkError::Rejected(_)) => self.rejection = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.fed = 0;
        self.rejection = None;
        self.sink.restart().await
    }
}

impl SegmentedFetch<'_, '_> {
    /// Fetches the whole file, and writes it to `sink` in order while it arrives. When it returns
    /// `Ok`, the sink has finished.
    pub(crate) async fn fetch_into(&mut self, sink: &mut dyn Sink) -> Result<Sha256, FetchError> {
        let (job, size) = (self.ledger.job, self.size);
        let failed = |source| job.sink_error(source);
        let mut follower = Follower {
            partial: self.partial.clone(),
            front: self.partial.front(),
            sink,
            fed: 0,
            rejection: None,
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
            // Bytes that the sink has received may have been found wrong and replaced since.
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
        if let Some(rejection) = follower.rejection.take() {
            return Err(failed(rejection));
        }
        follower.sink.finish().await.map_err(failed)?;
        Ok(sha256)
    }
}
