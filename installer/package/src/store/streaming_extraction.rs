use bytes::Bytes;
use tokio::task::JoinHandle;

use super::feed::{ByteFeed, byte_feed};
use super::pending_entry::PendingEntry;
use crate::archive::{ArchiveError, ArchiveFormat, CancelFlag, ExtractLimits, ExtractSummary};

/// Bytes queued between download and extraction; enough to bridge a slow write to the disk.
const FEED_BYTES: usize = 1 << 20;

/// An extraction that is fed by asynchronous code while it runs on a blocking thread.
///
/// Dropping it stops the extraction and removes what it wrote: soon after, on the extraction's own
/// thread, or at once, if the extraction has ended. [`abort`](Self::abort) waits for that without
/// blocking.
#[derive(Debug)]
pub struct StreamingExtraction {
    feed: Option<ByteFeed>,
    task: Option<JoinHandle<Outcome>>,
    cancel: CancelFlag,
}

type Outcome = Result<(PendingEntry, ExtractSummary), ArchiveError>;

impl StreamingExtraction {
    /// Starts on a blocking thread of the current tokio runtime, and occupies it until the
    /// extraction ends.
    pub fn start(mut pending: PendingEntry, format: ArchiveFormat, limits: ExtractLimits) -> Self {
        let (feed, reader) = byte_feed(FEED_BYTES);
        let cancel = CancelFlag::new();
        let cancelled = cancel.clone();
        let task = tokio::task::spawn_blocking(move || {
            // On an error the extraction is dropped here, where blocking is allowed.
            let summary = pending.extract(reader, format, &limits, &cancelled)?;
            Ok((pending, summary))
        });
        Self {
            feed: Some(feed),
            task: Some(task),
            cancel,
        }
    }

    /// Queues the next bytes of the archive; waits while the queue is full.
    ///
    /// Fails with the error of the extraction if that has failed. Cancel-safe: a dropped call has
    /// queued nothing.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        if let Some(feed) = &self.feed
            && feed.send(bytes).await.is_ok()
        {
            return Ok(());
        }
        // The extraction reads to the end of the archive, so it must have failed.
        self.feed = None;
        match self.outcome().await {
            Err(error) => Err(error),
            Ok(_) => Err(ArchiveError::Lost),
        }
    }

    /// Ends the archive and waits for the extraction. The caller commits the entry if size and
    /// digest agree, and drops it otherwise.
    pub async fn finish(mut self) -> Result<(PendingEntry, ExtractSummary), ArchiveError> {
        if let Some(feed) = self.feed.take() {
            feed.finish();
        }
        self.outcome().await
    }

    /// Stops the extraction and waits until everything it wrote is removed.
    pub async fn abort(mut self) {
        self.cancel.cancel();
        self.feed = None;
        if let Ok((pending, _)) = self.outcome().await {
            // It had ended. If the runtime ends first, the closure and the entry are dropped.
            let _ = tokio::task::spawn_blocking(move || drop(pending)).await;
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
        // The end of the feed wakes a waiting reader; the flag stops a busy one.
        self.cancel.cancel();
    }
}
