use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock::LockFile;

const LOCK_EXTENSION: &str = "lock";

/// The directory of one process below `tmp`, and a lock that ends with the process.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: PathBuf,
    next: AtomicU64,
    /// Dropped after the directory, so that no directory is without its lock.
    _lock: LockFile,
}

impl Scratch {
    pub(super) fn create(tmp: &Path) -> io::Result<Self> {
        loop {
            let name = format!("{:016x}", RandomState::new().build_hasher().finish());
            let Some(lock) = LockFile::attempt(&lock_path(&tmp.join(&name)))? else {
                continue;
            };
            let dir = tmp.join(name);
            match fs::create_dir(&dir) {
                Ok(()) => {
                    return Ok(Self {
                        dir,
                        next: AtomicU64::new(0),
                        _lock: lock,
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// An unused path in the directory.
    pub(super) fn fresh_path(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(number.to_string())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next sweep.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Removes the directories of dead processes and returns their number. One that cannot be removed
/// is logged and left.
pub(super) fn sweep(tmp: &Path) -> io::Result<u64> {
    let mut swept = 0;
    for found in fs::read_dir(tmp)? {
        let path = found?.path();
        let is_lock = path.extension().is_some_and(|e| e == LOCK_EXTENSION);
        let dir = if is_lock {
            path.with_extension("")
        } else {
            path
        };
        // The lock file is created if it is missing, which means that it was deleted by hand: a
        // process creates it before the directory.
        match LockFile::attempt(&lock_path(&dir)) {
            Ok(Some(_lock)) => match fs::remove_dir_all(&dir) {
                Ok(()) => swept += 1,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %dir.display(), %error, "cannot remove an abandoned directory");
                }
            },
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(path = %dir.display(), %error, "cannot determine whether the directory is in use");
            }
        }
    }
    Ok(swept)
}

fn lock_path(dir: &Path) -> PathBuf {
    dir.with_extension(LOCK_EXTENSION)
}
