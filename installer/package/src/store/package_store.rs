use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::entry_file::{EntryFile, TREE};
use super::error::StoreError;
use super::extraction::Extraction;
use super::key::StoreKey;
use super::lock::LockFile;
use super::scratch::{self, Scratch};

const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// How late [`Store::begin_when_free`] may notice that an entry was made.
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// A package store. Cheap to clone; safe to share between threads and processes.
///
/// All methods block on the disk, and [`begin`](Self::begin) on other processes.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    root: PathBuf,
    /// Made when first needed, so that a read-only store can be read.
    scratch: Mutex<Option<Arc<Scratch>>>,
}

/// A complete entry. It is immutable: link or copy from it, never write into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    pub key: StoreKey,
    /// Bytes of the extracted files.
    pub size: u64,
    /// Names of files and links.
    pub files: u64,
    dir: PathBuf,
}

impl StoreEntry {
    /// The extracted tree, with `info/` in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What [`Store::begin`] found.
#[derive(Debug)]
pub enum Begin {
    /// The entry is there; perhaps somebody else just made it.
    Present(StoreEntry),
    /// The caller is to make it, and others wait until it is committed or dropped.
    Build(Extraction),
}

/// What a store holds.
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
    /// Lock files that nobody holds.
    pub locks: u64,
    /// Entries that lost their mark or their tree.
    pub damaged: u64,
}

impl Store {
    /// Opens the store below `root`, made if it is not there, and removes what killed processes
    /// left. A store that may only be read opens, too; then only present entries are to be had.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, StoreError> {
        let root = root.as_ref();
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let store = Self {
            shared: Arc::new(Shared {
                root,
                scratch: Mutex::new(None),
            }),
        };
        let versioned = store.shared.versioned();
        let tmp = store.shared.tmp();
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
        &self.shared.root
    }

    /// The entry, if it is complete.
    pub fn get(&self, key: &StoreKey) -> Result<Option<StoreEntry>, StoreError> {
        self.shared.get(key)
    }

    /// The entry, or the right to make it. Waits while another thread or process makes it; so
    /// the same thread must not begin a key twice.
    pub fn begin(&self, key: &StoreKey) -> Result<Begin, StoreError> {
        if let Some(entry) = self.get(key)? {
            return Ok(Begin::Present(entry));
        }
        let path = self.shared.prepare_lock(key)?;
        let lock = LockFile::wait(&path).map_err(StoreError::io("lock", &path))?;
        self.begin_locked(key, lock)
    }

    /// Like [`begin`](Self::begin), but `None` when it would have to wait.
    pub fn try_begin(&self, key: &StoreKey) -> Result<Option<Begin>, StoreError> {
        if let Some(entry) = self.get(key)? {
            return Ok(Some(Begin::Present(entry)));
        }
        let path = self.shared.prepare_lock(key)?;
        let lock = LockFile::attempt(&path).map_err(StoreError::io("lock", &path))?;
        lock.map(|lock| self.begin_locked(key, lock)).transpose()
    }

    /// Like [`begin`](Self::begin) for asynchronous code, on a tokio runtime. Cancel-safe: a
    /// dropped call holds nothing, whereas a thread that waits for a lock cannot be stopped.
    ///
    /// Looks again every now and then, at most 160 ms after the entry was made. Do not
    /// call it with a permit in hand that other extractions need: two processes that each wait
    /// for the other's entries would never get on.
    pub async fn begin_when_free(&self, key: StoreKey) -> Result<Begin, StoreError> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let store = self.clone();
            let attempt = tokio::task::spawn_blocking(move || store.try_begin(&key));
            let begun = attempt.await.map_err(|e| {
                let dir = self.shared.entry_dir(&key);
                StoreError::io("begin", &dir)(io::Error::other(e))
            })??;
            if let Some(begun) = begun {
                return Ok(begun);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// For a package without any digest, a local file for instance: the key follows with
    /// [`Extraction::with_key`], when its bytes were seen.
    pub fn begin_unkeyed(&self) -> Result<Extraction, StoreError> {
        Extraction::new(&self.shared, None)
    }

    /// All complete entries, by key.
    pub fn entries(&self) -> Result<Vec<StoreEntry>, StoreError> {
        let mut entries = Vec::new();
        for name in self.shared.names()? {
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

    /// Removes an entry; waits while somebody makes it. `false` when there was none.
    pub fn remove(&self, key: &StoreKey) -> Result<bool, StoreError> {
        if !self.shared.entry_dir(key).exists() {
            return Ok(false);
        }
        let path = self.shared.prepare_lock(key)?;
        let _lock = LockFile::wait(&path).map_err(StoreError::io("lock", &path))?;
        self.shared.discard(key)
    }

    /// Removes what crashes and strangers left: unfinished extractions of dead processes, unheld
    /// lock files, and entries that are not whole. Never anything in use.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let tmp = self.shared.tmp();
        let mut swept = Swept {
            unfinished: scratch::sweep(&tmp).map_err(StoreError::io("read", &tmp))?,
            ..Swept::default()
        };
        for name in self.shared.names()? {
            if let Some(key) = name.strip_suffix(".lock").and_then(|key| key.parse().ok()) {
                let path = self.shared.lock_path(&key);
                let lock = LockFile::attempt_existing(&path);
                if lock.map_err(StoreError::io("lock", &path))?.is_some() {
                    swept.locks += 1;
                }
            } else if let Ok(key) = name.parse()
                && self.get(&key)?.is_none()
            {
                let path = self.shared.lock_path(&key);
                let lock = LockFile::attempt(&path).map_err(StoreError::io("lock", &path))?;
                // Again, now that nobody can be committing it.
                if lock.is_some() && self.get(&key)?.is_none() && self.shared.discard(&key)? {
                    swept.damaged += 1;
                }
            }
        }
        Ok(swept)
    }

    fn begin_locked(&self, key: &StoreKey, lock: LockFile) -> Result<Begin, StoreError> {
        // Whoever held the lock before may have made it.
        if let Some(entry) = self.get(key)? {
            return Ok(Begin::Present(entry));
        }
        Extraction::new(&self.shared, Some((*key, lock))).map(Begin::Build)
    }
}

impl Shared {
    fn versioned(&self) -> PathBuf {
        self.root.join("v1")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn entry_dir(&self, key: &StoreKey) -> PathBuf {
        self.versioned().join(key.shard()).join(key.to_string())
    }

    fn lock_path(&self, key: &StoreKey) -> PathBuf {
        self.versioned()
            .join(key.shard())
            .join(format!("{key}.lock"))
    }

    fn prepare_lock(&self, key: &StoreKey) -> Result<PathBuf, StoreError> {
        let shard = self.versioned().join(key.shard());
        fs::create_dir_all(&shard).map_err(StoreError::io("create", &shard))?;
        Ok(self.lock_path(key))
    }

    pub(super) fn get(&self, key: &StoreKey) -> Result<Option<StoreEntry>, StoreError> {
        let dir = self.entry_dir(key);
        let file = EntryFile::read(&dir, key).map_err(StoreError::io("read", &dir))?;
        Ok(file.map(|file| StoreEntry {
            key: *key,
            size: file.bytes,
            files: file.files,
            dir: dir.join(TREE),
        }))
    }

    pub(super) fn scratch(&self) -> Result<Arc<Scratch>, StoreError> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scratch) = &*scratch {
            return Ok(Arc::clone(scratch));
        }
        let tmp = self.tmp();
        fs::create_dir_all(&tmp).map_err(StoreError::io("create", &tmp))?;
        let made = Scratch::create(&tmp).map_err(StoreError::io("write into", &tmp))?;
        Ok(Arc::clone(scratch.insert(Arc::new(made))))
    }

    /// Takes an entry's directory away, whole, and removes it. The caller holds its lock.
    pub(super) fn discard(&self, key: &StoreKey) -> Result<bool, StoreError> {
        let dir = self.entry_dir(key);
        let away = self.scratch()?.fresh_path();
        match fs::rename(&dir, &away) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(StoreError::io("remove", &dir)(e)),
        }
        let removed = match fs::symlink_metadata(&away) {
            Ok(metadata) if !metadata.is_dir() => fs::remove_file(&away),
            _ => fs::remove_dir_all(&away),
        };
        removed.map_err(StoreError::io("remove", &away))?;
        Ok(true)
    }

    /// The names of all shards, sorted: entries, locks and whatever strangers put there.
    fn names(&self) -> Result<Vec<String>, StoreError> {
        let versioned = self.versioned();
        let mut names = Vec::new();
        for shard in list(&versioned)? {
            if shard.is_dir() {
                for path in list(&shard)? {
                    names.extend(
                        path.file_name()
                            .and_then(|name| Some(name.to_str()?.to_owned())),
                    );
                }
            }
        }
        names.sort();
        Ok(names)
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    fs::read_dir(dir)
        .and_then(|found| found.map(|entry| Ok(entry?.path())).collect())
        .map_err(StoreError::io("read", dir))
}
