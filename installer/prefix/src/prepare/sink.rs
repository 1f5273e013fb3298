//! Extracts a package while it arrives.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rattler_conda_types::RepoDataRecord;
use taipan_package::{
    ArchiveError, ArchiveFormat, Begin, ExtractLimits, PendingEntry, Store, StoreEntry, StoreError,
    StoreKey, StreamingExtraction,
};
use taipan_transfer::{Sink, SinkError};

enum State {
    /// No byte has come yet, so no thread is taken.
    Waiting(PendingEntry),
    Extracting(StreamingExtraction),
    /// It is in the store, added by this sink or meanwhile by another process.
    Done(StoreEntry),
    Failed,
}

/// Makes one archive an entry of the store.
pub(super) struct ExtractSink {
    store: Arc<Store>,
    key: StoreKey,
    format: ArchiveFormat,
    limits: ExtractLimits,
    record: RepoDataRecord,
    state: State,
}

impl ExtractSink {
    pub(super) fn new(
        store: Arc<Store>,
        key: StoreKey,
        pending: PendingEntry,
        format: ArchiveFormat,
        limits: ExtractLimits,
        record: RepoDataRecord,
    ) -> Self {
        Self {
            store,
            key,
            format,
            limits,
            record,
            state: State::Waiting(pending),
        }
    }

    pub(super) fn into_entry(self) -> Option<StoreEntry> {
        match self.state {
            State::Done(entry) => Some(entry),
            _ => None,
        }
    }

    /// Stops, and returns when everything it wrote is removed.
    pub(super) async fn abort(&mut self) {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Extracting(extracting) => extracting.abort().await,
            State::Waiting(pending) => {
                // Removing files blocks. A panic there has no consequence here.
                let _ = tokio::task::spawn_blocking(move || drop(pending)).await;
            }
            State::Done(_) | State::Failed => {}
        }
    }
}

fn archive_error(error: ArchiveError) -> SinkError {
    match error {
        ArchiveError::Full { .. } | ArchiveError::Write { .. } | ArchiveError::Lost => {
            SinkError::Failed(Box::new(error))
        }
        error => SinkError::Rejected(Box::new(error)),
    }
}

fn store_error(error: StoreError) -> SinkError {
    SinkError::Failed(Box::new(error))
}

#[async_trait]
impl Sink for ExtractSink {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError> {
        if let State::Waiting(_) = self.state
            && let State::Waiting(pending) = std::mem::replace(&mut self.state, State::Failed)
        {
            let limits = self.limits.clone();
            let extracting = StreamingExtraction::start(pending, self.format, limits);
            self.state = State::Extracting(extracting);
        }
        match &mut self.state {
            State::Extracting(extracting) => extracting.write(bytes).await.map_err(archive_error),
            // Another process has added it meanwhile; the rest is not needed.
            _ => Ok(()),
        }
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        if let State::Waiting(_) = self.state {
            return Ok(());
        }
        // The entry's lock is given back when all is removed, so this comes before `begin`.
        self.abort().await;
        let begun = self.store.begin_when_free(self.key).await;
        self.state = match begun.map_err(store_error)? {
            Begin::Present(entry) => State::Done(entry),
            Begin::Build(pending) => State::Waiting(pending),
        };
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        let extracting = match std::mem::replace(&mut self.state, State::Failed) {
            State::Extracting(extracting) => extracting,
            State::Done(entry) => {
                self.state = State::Done(entry);
                return Ok(());
            }
            // An archive of no bytes: the extraction says what is wrong with it.
            State::Waiting(pending) => {
                StreamingExtraction::start(pending, self.format, self.limits.clone())
            }
            State::Failed => return Err(archive_error(ArchiveError::Lost)),
        };
        let (pending, _) = extracting.finish().await.map_err(archive_error)?;
        let record = self.record.clone();
        let commit = tokio::task::spawn_blocking(move || pending.commit(&record)).await;
        let commit = commit.map_err(|error| SinkError::Failed(Box::new(error)))?;
        self.state = State::Done(commit.map_err(store_error)?);
        Ok(())
    }
}
