//! The directory of a store: where its entries and locks are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::entry_file::{EntryFile, TREE};
use super::error::StoreError;
use super::key::StoreKey;
use super::scratch::Scratch;

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

/// The directory of a store, shared by all clones of its handle.
#[derive(Debug)]
pub(super) struct StoreDir {
    root: PathBuf,
    /// Created when first needed, so that a read-only store can be read.
    scratch: Mutex<Option<Arc<Scratch>>>,
}

impl StoreDir {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            scratch: Mutex::new(None),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn versioned(&self) -> PathBuf {
        self.root.join("v1")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn entry_dir(&self, key: &StoreKey) -> PathBuf {
        self.versioned().join(key.shard()).join(key.to_string())
    }

    pub(super) fn lock_path(&self, key: &StoreKey) -> PathBuf {
        self.versioned()
            .join(key.shard())
            .join(format!("{key}.lock"))
    }

    pub(super) fn prepare_lock(&self, key: &StoreKey) -> Result<PathBuf, StoreError> {
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

    /// Removes an entry: by one rename first, then file by file. The caller holds its lock.
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

    /// The names in all shards, sorted: entries, locks, and foreign files.
    pub(super) fn names(&self) -> Result<Vec<String>, StoreError> {
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
