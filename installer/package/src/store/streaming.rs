use bytes::Bytes;
use tokio::task::JoinHandle;

use super::extraction::Extraction;
use super::feed::{ByteFeed, byte_feed};
use crate::archive::{ArchiveError, ArchiveFormat, CancelFlag, ExtractLimits, ExtractSummary};

/// Bytes between download and extraction; enough to bridge a slow write of the disk.
const FEED_BYTES: usize = 1 << 20;

/// An extraction that is fed by asynchronous code while it runs on a blocking thread.
///
/// Dropping it stops the extraction and removes what it wrote: soon after, on the extraction's own
/// thread, or at once, if all was unpacked already. [`abort`](Self::abort) waits for that without
/// blocking.
#[derive(Debug)]
pub struct StreamingExtraction {
    feed: Option<ByteFeed>,
    task: Option<JoinHandle<Outcome>>,
    cancel: CancelFlag,
}

type Outcome = Result<(Extraction, ExtractSummary), ArchiveError>;

impl StreamingExtraction {
    /// Starts on a blocking thread of the current tokio runtime, of which there must be one. The
    /// thread is taken until the end of the extraction.
    pub fn start(mut extraction: Extraction, format: ArchiveFormat, limits: ExtractLimits) -> Self {
        let (feed, reader) = byte_feed(FEED_BYTES);
        let cancel = CancelFlag::new();
        let cancelled = cancel.clone();
        let task = tokio::task::spawn_blocking(move || {
            // On an error the extraction is dropped here, where blocking is allowed.
            let summary = extraction.unpack(reader, format, &limits, &cancelled)?;
            Ok((extraction, summary))
        });
        Self {
            feed: Some(feed),
            task: Some(task),
            cancel,
        }
    }

    /// Hands over the next bytes of the archive; waits while the extraction is behind.
    ///
    /// Fails when the extraction failed, with its reason. Cancel-safe: a dropped call handed over
    /// nothing.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        if let Some(feed) = &self.feed
            && feed.send(bytes).await.is_ok()
        {
            return Ok(());
        }
        // It reads to the end of the archive, so without a failure it would still be reading.
        self.feed = None;
        match self.outcome().await {
            Err(error) => Err(error),
            Ok(_) => Err(ArchiveError::Lost),
        }
    }

    /// Ends the archive and waits for the extraction. The caller commits what it gets when size
    /// and digest agree, and drops it otherwise.
    pub async fn finish(mut self) -> Result<(Extraction, ExtractSummary), ArchiveError> {
        if let Some(feed) = self.feed.take() {
            feed.finish();
        }
        self.outcome().await
    }

    /// Stops the extraction and waits until everything it wrote is removed.
    pub async fn abort(mut self) {
        self.cancel.cancel();
        self.feed = None;
        if let Ok((extraction, _)) = self.outcome().await {
            // It was through already. If the runtime ends first, this runs on the way.
            let _ = tokio::task::spawn_blocking(move || drop(extraction)).await;
        }
    }

    async fn outcome(&mut self) -> Outcome {
        let Some(task) = &mut self.task else {
            return Err(ArchiveError::Lost);
        };
        let outcome = task.await;
        self.task = None;
        outcome.unwrap_or(Err(ArchiveError::Lost))
    }
}

impl Drop for StreamingExtraction {
    fn drop(&mut self) {
        // The feed's end wakes a reader that waits; the flag stops one that is busy.
        self.cancel.cancel();
    }
}
