use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::entry_file::{EntryFile, TREE};
use super::error::StoreError;
use super::key::StoreKey;
use super::lock::LockFile;
use super::scratch::Scratch;
use super::store_dir::{StoreDir, StoreEntry};
use crate::archive::{
    ArchiveError, ArchiveFormat, CancelFlag, ExtractLimits, ExtractSummary, extract,
    replace_file_nofollow,
};

/// An entry that is being built. Dropping it removes everything, which blocks on the disk.
#[derive(Debug)]
pub struct PendingEntry {
    store: Arc<StoreDir>,
    /// Below the scratch directory; becomes the entry's directory.
    dir: PathBuf,
    dest: PathBuf,
    summary: Option<ExtractSummary>,
    slot: Option<(StoreKey, LockFile)>,
    committed: bool,
    _scratch: Arc<Scratch>,
}

impl PendingEntry {
    pub(super) fn new(
        store: &Arc<StoreDir>,
        slot: Option<(StoreKey, LockFile)>,
    ) -> Result<Self, StoreError> {
        let scratch = store.scratch()?;
        let dir = scratch.fresh_path();
        let pending = Self {
            store: Arc::clone(store),
            dest: dir.join(TREE),
            dir,
            summary: None,
            slot,
            committed: false,
            _scratch: scratch,
        };
        let dest = &pending.dest;
        fs::create_dir_all(dest).map_err(StoreError::io("create", dest))?;
        Ok(pending)
    }

    /// The directory to extract into. It exists and is empty at first.
    pub fn dest(&self) -> &Path {
        &self.dest
    }

    pub fn key(&self) -> Option<&StoreKey> {
        self.slot.as_ref().map(|(key, _)| key)
    }

    /// [`extract`]s an archive into [`dest`](Self::dest).
    pub fn extract(
        &mut self,
        reader: impl Read,
        format: ArchiveFormat,
        limits: &ExtractLimits,
        cancel: &CancelFlag,
    ) -> Result<ExtractSummary, ArchiveError> {
        self.summary = None;
        let summary = extract(reader, format, &self.dest, limits, cancel)?;
        self.summary = Some(summary);
        Ok(summary)
    }

    /// Empties [`dest`](Self::dest) for another attempt, and keeps the lock of the key.
    pub fn reset(&mut self) -> Result<(), StoreError> {
        self.summary = None;
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &self.dir)(e))
            }
            _ => fs::create_dir_all(&self.dest).map_err(StoreError::io("create", &self.dest)),
        }
    }

    /// Gives up the key, and with it the lock.
    pub(super) fn without_key(mut self) -> Self {
        self.slot = None;
        self
    }

    /// Takes the key and the lock of `other`, which is dropped.
    pub(super) fn with_key_of(mut self, mut other: Self) -> Self {
        self.slot = other.slot.take();
        self
    }

    /// Writes `record` as `info/repodata_record.json` (CEP 32) and makes the entry appear,
    /// complete.
    ///
    /// Call it only after size and digest of the archive were verified. After an error nothing is
    /// left.
    pub fn commit(mut self, record: &impl Serialize) -> Result<StoreEntry, StoreError> {
        let Some((key, _)) = self.slot.as_ref() else {
            return Err(StoreError::NoKey);
        };
        let key = *key;
        let record =
            serde_json::to_vec_pretty(record).map_err(|source| StoreError::Record { source })?;
        let path = self.dest.join("info/repodata_record.json");
        replace_file_nofollow(&self.dest, "info", "repodata_record.json", &record)
            .map_err(StoreError::io("write", &path))?;

        let (files, bytes) = match &self.summary {
            Some(summary) => (
                summary.files + summary.hard_links + summary.symlinks,
                summary.bytes,
            ),
            None => measure(&self.dest)?,
        };
        EntryFile::new(&key, files, bytes)
            .write(&self.dir)
            .map_err(StoreError::io("write into", &self.dir))?;

        let entry = self.store.entry_dir(&key);
        if let Err(first) = fs::rename(&self.dir, &entry) {
            // The lock is held and there was no complete entry, so a damaged one is in the way.
            if !matches!(
                first.kind(),
                io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::AlreadyExists
                    | io::ErrorKind::NotADirectory
            ) {
                return Err(StoreError::io("create", &entry)(first));
            }
            self.store.discard(&key)?;
            fs::rename(&self.dir, &entry).map_err(StoreError::io("create", &entry))?;
        }
        self.committed = true;
        self.store
            .get(&key)?
            .ok_or_else(|| StoreError::io("find", &entry)(io::ErrorKind::NotFound.into()))
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            // The next sweep removes it.
            tracing::warn!(path = %self.dir.display(), %error, "cannot remove an unfinished entry");
        }
    }
}

/// Counts files and links, and the bytes of files, of a tree that the caller filled.
fn measure(root: &Path) -> Result<(u64, u64), StoreError> {
    let (mut files, mut bytes) = (0, 0);
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(StoreError::io("read", &dir))? {
            let entry = entry.map_err(StoreError::io("read", &dir))?;
            let metadata = entry.metadata().map_err(StoreError::io("read", &dir))?;
            if metadata.is_dir() {
                pending.push(entry.path());
            } else {
                files += 1;
                bytes += if metadata.is_file() {
                    metadata.len()
                } else {
                    0
                };
            }
        }
    }
    Ok((files, bytes))
}
