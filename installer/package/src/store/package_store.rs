use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::StoreError;

use super::key::StoreKey;
use super::lock::LockFile;
use super::pending_entry::PendingEntry;
use super::scratch;
use super::store_dir::{StoreDir, StoreEntry};

const MIN_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between two attempts of [`Store::begin_when_free`].
const MAX_PAUSE: Duration = Duration::from_millis(160);

/// A package store. Cheap to clone; safe to share between threads and processes.
///
/// All methods block on the disk, and [`begin`](Self::begin) on other processes.
#[derive(Debug, Clone)]
pub struct Store {
    dir: Arc<StoreDir>,
}

/// The result of [`Store::begin`].
#[derive(Debug)]
pub enum Begin {
    /// The entry is in the store.
    Present(StoreEntry),
    /// The caller builds the entry; others wait until it is committed or dropped.
    Build(PendingEntry),
}

/// The size of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreSize {
    pub entries: u64,
    /// Bytes of all extracted files.
    pub bytes: u64,
}

/// What [`Store::sweep`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Unfinished extractions of processes that are gone.
    pub unfinished: u64,
    /// Lock files without a holder.
    pub locks: u64,
    /// Entries without their mark or their tree.
    pub damaged: u64,
}

impl Store {
    /// Opens the store in `root`, which is created if needed, and removes what killed processes
    /// left. A read-only store can be opened, too; it gives only the entries that it has.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, StoreError> {
        let root = root.as_ref();
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let store = Self {
            dir: Arc::new(StoreDir::new(root)),
        };
        let versioned = store.dir.versioned();
        let tmp = store.dir.tmp();
        let made = fs::create_dir_all(&versioned)
            .map_err(StoreError::io("create", &versioned))
            .and_then(|()| fs::create_dir_all(&tmp).map_err(StoreError::io("create", &tmp)));
        match made {
            Ok(()) => {
                if let Err(error) = scratch::sweep(&tmp) {
                    tracing::debug!(path = %tmp.display(), %error, "cannot look for left-overs");
                }
            }
            Err(error) if error.is_read_only() && versioned.is_dir() => {}
            Err(error) => return Err(error),
        }
        Ok(store)
    }

    pub fn root(&self) -> &Path {
        self.dir.root()
    }

    /// The entry, if it is complete.
    pub fn get(&self, key: &StoreKey) -> Result<Option<StoreEntry>, StoreError> {
        self.dir.get(key)
    }

    /// Returns the entry, or the exclusive right to build it. Waits while another thread or process
    /// builds it, so one thread must not begin a key twice.
    pub fn begin(&self, key: &StoreKey) -> Result<Begin, StoreError> {
        if let Some(entry) = self.get(key)? {
            return Ok(Begin::Present(entry));
        }
        let path = self.dir.prepare_lock(key)?;
        let lock = LockFile::wait(&path).map_err(StoreError::io("lock", &path))?;
        self.begin_locked(key, lock)
    }

    /// Like [`begin`](Self::begin), but `None` when it would have to wait.
    pub fn try_begin(&self, key: &StoreKey) -> Result<Option<Begin>, StoreError> {
        if let Some(entry) = self.get(key)? {
            return Ok(Some(Begin::Present(entry)));
        }
        let path = self.dir.prepare_lock(key)?;
        let lock = LockFile::attempt(&path).map_err(StoreError::io("lock", &path))?;
        lock.map(|lock| self.begin_locked(key, lock)).transpose()
    }

    /// Like [`begin`](Self::begin) for asynchronous code, on a tokio runtime. Cancel-safe: a
    /// dropped call holds nothing, whereas a thread that waits for a lock cannot be stopped.
    ///
    /// Polls, at intervals of at most 160 ms. The caller must not hold a permit that other
    /// extractions need: two processes that wait for each other's entries would never finish.
    pub async fn begin_when_free(&self, key: StoreKey) -> Result<Begin, StoreError> {
        let mut pause = MIN_PAUSE;
        loop {
            let store = self.clone();
            let attempt = tokio::task::spawn_blocking(move || store.try_begin(&key));
            let begun = attempt.await.map_err(|e| {
                let dir = self.dir.entry_dir(&key);
                StoreError::io("begin", &dir)(io::Error::other(e))
            })??;
            if let Some(begun) = begun {
                return Ok(begun);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// For a package whose digest is not known yet, e.g. a local file. Once its bytes were read,
    /// [`Self::assign_key`] gives it a key.
    pub fn begin_unkeyed(&self) -> Result<PendingEntry, StoreError> {
        PendingEntry::new(&self.dir, None)
    }

    /// Gives `pending`, which was begun without a key, its key. If the entry is already there, what
    /// was extracted is dropped. Waits like [`begin`](Self::begin).
    pub fn assign_key(&self, pending: PendingEntry, key: &StoreKey) -> Result<Begin, StoreError> {
        if pending.key() == Some(key) {
            return Ok(Begin::Build(pending));
        }
        // The lock of another key is released first, so that no two can wait for each other.
        let pending = pending.without_key();
        match self.begin(key)? {
            Begin::Present(entry) => Ok(Begin::Present(entry)),
            Begin::Build(claim) => Ok(Begin::Build(pending.with_key_of(claim))),
        }
    }

    /// All complete entries, by key.
    pub fn entries(&self) -> Result<Vec<StoreEntry>, StoreError> {
        let mut entries = Vec::new();
        for name in self.dir.names()? {
            if let Some(entry) = name.parse().ok().map(|key| self.get(&key)).transpose()? {
                entries.extend(entry);
            }
        }
        Ok(entries)
    }

    pub fn size(&self) -> Result<StoreSize, StoreError> {
        let mut size = StoreSize::default();
        for entry in self.entries()? {
            size.entries += 1;
            size.bytes += entry.size;
        }
        Ok(size)
    }

    /// Removes an entry; waits while it is being built. `false` when there was none.
    pub fn remove(&self, key: &StoreKey) -> Result<bool, StoreError> {
        if !self.dir.entry_dir(key).exists() {
            return Ok(false);
        }
        let path = self.dir.prepare_lock(key)?;
        let _lock = LockFile::wait(&path).map_err(StoreError::io("lock", &path))?;
        self.dir.discard(key)
    }

    /// Removes unfinished extractions of dead processes, lock files without a holder, and damaged
    /// entries. Never removes anything in use.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let tmp = self.dir.tmp();
        let mut swept = Swept {
            unfinished: scratch::sweep(&tmp).map_err(StoreError::io("read", &tmp))?,
            ..Swept::default()
        };
        for name in self.dir.names()? {
            if let Some(key) = name.strip_suffix(".lock").and_then(|key| key.parse().ok()) {
                let path = self.dir.lock_path(&key);
                let lock = LockFile::attempt_existing(&path);
                if lock.map_err(StoreError::io("lock", &path))?.is_some() {
                    swept.locks += 1;
                }
            } else if let Ok(key) = name.parse()
                && self.get(&key)?.is_none()
            {
                let path = self.dir.lock_path(&key);
                let lock = LockFile::attempt(&path).map_err(StoreError::io("lock", &path))?;
                // Checked again: no process can commit it while the lock is held.
                if lock.is_some() && self.get(&key)?.is_none() && self.dir.discard(&key)? {
                    swept.damaged += 1;
                }
            }
        }
        Ok(swept)
    }

    fn begin_locked(&self, key: &StoreKey, lock: LockFile) -> Result<Begin, StoreError> {
        // The previous holder of the lock may have built it.
        if let Some(entry) = self.get(key)? {
            return Ok(Begin::Present(entry));
        }
        PendingEntry::new(&self.dir, Some((*key, lock))).map(Begin::Build)
    }
}
