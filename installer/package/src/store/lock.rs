use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A held lock file. Dropping it removes the file and lets go of the lock.
///
/// The kernel lets go of the lock when its holder dies, so a lock is never stale; a file that a
/// dead holder left behind is harmless, and goes with the next holder. Two handles of one process
/// exclude each other just like two processes.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    /// Open, and locked, until the drop is over.
    _file: File,
}

impl LockFile {
    /// Waits for the lock.
    pub(super) fn wait(path: &Path) -> io::Result<Self> {
        loop {
            let file = open(path, true)?;
            match file.lock() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if let Some(lock) = Self::confirm(file, path)? {
                return Ok(lock);
            }
        }
    }

    /// `None` when somebody else holds the lock.
    pub(super) fn attempt(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt_opened(path, true)
    }

    /// Like [`attempt`](Self::attempt), without making the file. `None` also when there is none.
    pub(super) fn attempt_existing(path: &Path) -> io::Result<Option<Self>> {
        match Self::attempt_opened(path, false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }

    fn attempt_opened(path: &Path, create: bool) -> io::Result<Option<Self>> {
        loop {
            let file = open(path, create)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(e),
            }
            if let Some(lock) = Self::confirm(file, path)? {
                return Ok(Some(lock));
            }
        }
    }

    /// A holder removes its file, so the file we locked may have lost its name while we waited,
    /// and somebody else may hold the one that has the name now.
    fn confirm(file: File, path: &Path) -> io::Result<Option<Self>> {
        let held = file.metadata()?;
        match std::fs::metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => Ok(Some(Self {
                path: path.to_owned(),
                _file: file,
            })),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Before the lock goes: only its holder may remove the name. A file that stays because
        // the directory became read-only does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_held_lock_is_not_had_twice_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let held = LockFile::wait(&path).unwrap();
        assert!(LockFile::attempt(&path).unwrap().is_none());
        assert!(LockFile::attempt_existing(&path).unwrap().is_none());
        drop(held);
        assert!(!path.exists());
        assert!(LockFile::attempt_existing(&path).unwrap().is_none());
        assert!(LockFile::attempt(&path).unwrap().is_some());
    }

    #[test]
    fn many_threads_hold_it_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = LockFile::wait(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(!path.exists());
    }
}
