//! Unpacks a package while it arrives.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rattler_conda_types::RepoDataRecord;
use taipan_package::{
    ArchiveError, ArchiveFormat, Begin, ExtractLimits, Extraction, Store, StoreEntry, StoreError,
    StoreKey, StreamingExtraction,
};
use taipan_transfer::{Sink, SinkError};

enum State {
    /// No byte has come yet, so no thread is taken.
    Waiting(Extraction),
    Unpacking(StreamingExtraction),
    /// It is in the store, made by us or meanwhile by somebody else.
    Done(StoreEntry),
    /// An error was told.
    Broken,
}

/// Takes one archive in and makes it an entry of the store.
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
        extraction: Extraction,
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
            state: State::Waiting(extraction),
        }
    }

    pub(super) fn into_entry(self) -> Option<StoreEntry> {
        match self.state {
            State::Done(entry) => Some(entry),
            _ => None,
        }
    }

    /// Stops, and returns when nothing is left of it on the disk.
    pub(super) async fn abort(&mut self) {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Unpacking(unpacking) => unpacking.abort().await,
            State::Waiting(extraction) => {
                // Removing files blocks; a panic in there has nobody to go to.
                let _ = tokio::task::spawn_blocking(move || drop(extraction)).await;
            }
            State::Done(_) | State::Broken => {}
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
            && let State::Waiting(extraction) = std::mem::replace(&mut self.state, State::Broken)
        {
            let limits = self.limits.clone();
            let unpacking = StreamingExtraction::start(extraction, self.format, limits);
            self.state = State::Unpacking(unpacking);
        }
        match &mut self.state {
            State::Unpacking(unpacking) => unpacking.write(bytes).await.map_err(archive_error),
            // Somebody else has made it meanwhile; the rest is not needed.
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
            Begin::Build(extraction) => State::Waiting(extraction),
        };
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        let unpacking = match std::mem::replace(&mut self.state, State::Broken) {
            State::Unpacking(unpacking) => unpacking,
            State::Done(entry) => {
                self.state = State::Done(entry);
                return Ok(());
            }
            // An archive of no bytes: let the extraction say what it thinks of it.
            State::Waiting(extraction) => {
                StreamingExtraction::start(extraction, self.format, self.limits.clone())
            }
            State::Broken => return Err(archive_error(ArchiveError::Lost)),
        };
        let (extraction, _) = unpacking.finish().await.map_err(archive_error)?;
        let record = self.record.clone();
        let commit = tokio::task::spawn_blocking(move || extraction.commit(&record)).await;
        let commit = commit.map_err(|error| SinkError::Failed(Box::new(error)))?;
        self.state = State::Done(commit.map_err(store_error)?);
        Ok(())
    }
}
