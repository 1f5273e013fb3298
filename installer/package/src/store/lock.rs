use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A held lock file. Dropping it removes the file and releases the lock.
///
/// The kernel releases the lock when its holder dies, so a lock is never stale. A file that a dead
/// holder left behind is harmless; the next holder removes it. Two handles of one process exclude
/// each other like two processes.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    /// Open and locked until the drop has ended.
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

    /// `None` when the lock is held.
    pub(super) fn attempt(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt_opened(path, true)
    }

    /// Like [`attempt`](Self::attempt), but does not create the file: without one, returns `None`.
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

    /// Checks that the locked file still has its name. The previous holder removed its file, so
    /// another process may hold a newer file of this name.
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
        // This precedes the release: only the holder may remove the name. A file that stays
        // because the directory became read-only is harmless.
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
