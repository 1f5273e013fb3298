//! One process at a time changes a prefix.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::rollback::{Recovery, recover};
use crate::error::PrefixError;
use crate::platform::same_file;
use crate::prefix::Prefix;

/// Within `conda-meta`. It is never deleted in an environment: if it were deleted while another
/// process waits for it, two processes could hold the lock.
const LOCK: &str = ".taipan-lock";

/// How often a lock is tried again because its directory was removed meanwhile.
const MAX_TRIES: usize = 1000;

/// How often a waiting process polls: a blocking `flock` cannot be cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A prefix that no other process changes while this value lives.
///
/// When it is dropped, the directories that were created for it are removed, unless the prefix has
/// become an environment.
#[derive(Debug)]
pub struct LockedPrefix {
    prefix: Prefix,
    /// Open to hold the lock; `None` only on a file system without locks.
    lock: Option<File>,
    /// Directories that did not exist, outermost first, the prefix itself included.
    created: Mutex<Vec<PathBuf>>,
    recovery: Recovery,
}

impl Prefix {
    /// Locks the prefix for this process, creating it if needed, and repairs what an interrupted
    /// transaction left behind.
    ///
    /// Waits for another process that holds the lock, until `cancel` is set.
    ///
    /// # Errors
    /// [`PrefixError::Cancelled`], and those of the repair.
    pub fn lock(&self, cancel: &AtomicBool) -> Result<LockedPrefix, PrefixError> {
        LockedPrefix::take(self, cancel)
    }
}

impl LockedPrefix {
    fn take(prefix: &Prefix, cancel: &AtomicBool) -> Result<Self, PrefixError> {
        let mut locked = Self::wait(prefix, cancel)?;
        locked.recovery = recover(prefix)?;
        if locked.recovery == Recovery::Removed {
            // The rollback has removed the prefix, with this lock in it.
            let recovery = locked.recovery;
            locked.forget_created();
            drop(locked);
            locked = Self::wait(prefix, cancel)?;
            locked.recovery = recovery;
        }
        Ok(locked)
    }

    /// The prefix.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// What was repaired when the lock was taken.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The directories that were created for this prefix, outermost first.
    pub(crate) fn created(&self) -> Vec<PathBuf> {
        self.created
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// The prefix is an environment now, or removed, so nothing is cleaned up.
    pub(crate) fn forget_created(&self) {
        self.created
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
    }

    fn wait(prefix: &Prefix, cancel: &AtomicBool) -> Result<Self, PrefixError> {
        let directory = prefix.conda_meta();
        let path = directory.join(LOCK);
        let mut tries = 0..MAX_TRIES;
        loop {
            // The holder of the lock may remove the directories while they are looked at.
            let is_removed = |error: &PrefixError| matches!(error, PrefixError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
            let created = match create_directories(prefix, &directory) {
                Err(error) if is_removed(&error) && tries.next().is_some() => continue,
                created => created?,
            };
            let mut locked = Self {
                prefix: prefix.clone(),
                lock: None,
                created: Mutex::new(created),
                recovery: Recovery::Nothing,
            };
            let opened = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(PrefixError::io("open the lock file", &path));
            let file = match opened {
                Err(error) if is_removed(&error) && tries.next().is_some() => continue,
                opened => opened?,
            };
            loop {
                match file.try_lock() {
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) => {
                        if cancel.load(Ordering::Relaxed) {
                            // The directories belong to the other process now.
                            locked.forget_created();
                            return Err(PrefixError::Cancelled);
                        }
                        thread::sleep(POLL_INTERVAL);
                    }
                    Err(TryLockError::Error(error)) => {
                        // Some network file systems have no locks. conda does not lock prefixes
                        // at all, so this is a warning.
                        tracing::warn!(path = %path.display(), %error, "cannot lock the prefix");
                        return Ok(locked);
                    }
                }
            }
            // The previous holder may have removed the prefix, with this file.
            let current = fs::metadata(&path)
                .and_then(|current| file.metadata().map(|held| same_file(&current, &held)));
            match current {
                Ok(true) => {
                    locked.lock = Some(file);
                    // Another process may have filled the prefix meanwhile.
                    let untouched = has_only(&directory, LOCK)
                        && (has_only(prefix.path(), "conda-meta")
                            || !locked.created().iter().any(|path| path == prefix.path()));
                    if !untouched {
                        locked.forget_created();
                    }
                    return Ok(locked);
                }
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(PrefixError::Io {
                        action: "stat the lock file",
                        path,
                        source,
                    });
                }
            }
            locked.forget_created();
        }
    }
}

impl Drop for LockedPrefix {
    fn drop(&mut self) {
        let created = self.created();
        if created.is_empty() || self.prefix.is_environment() || self.prefix.is_interrupted() {
            return;
        }
        // Only empty directories are removed: there may be foreign files meanwhile.
        let _ = fs::remove_file(self.prefix.conda_meta().join(LOCK));
        for directory in created.iter().rev() {
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
}

/// Creates `directory` and its parents, and returns those that are new, outermost first.
///
/// A prefix with nothing but a lock file counts as new: a process that was killed before it began
/// leaves such a prefix.
fn create_directories(prefix: &Prefix, directory: &Path) -> Result<Vec<PathBuf>, PrefixError> {
    let mut missing = Vec::new();
    let mut next = Some(directory);
    while let Some(path) = next {
        match fs::metadata(path) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(path.to_path_buf());
            }
            Err(source) => {
                return Err(PrefixError::Io {
                    action: "stat",
                    path: path.into(),
                    source,
                });
            }
        }
        next = path.parent();
    }
    missing.reverse();
    for path in &missing {
        match fs::create_dir(path) {
            Ok(()) => {}
            // Another process has created it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(PrefixError::Io {
                    action: "create directory",
                    path: path.clone(),
                    source,
                });
            }
        }
    }
    if missing.is_empty() && has_only(prefix.path(), "conda-meta") && has_only(directory, LOCK) {
        missing = vec![prefix.path().to_path_buf(), directory.to_path_buf()];
    }
    // A new `conda-meta` in an existing directory does not make the prefix new.
    if !missing.iter().any(|path| path == prefix.path()) {
        missing.retain(|path| path == directory);
    }
    Ok(missing)
}

fn has_only(directory: &Path, name: &str) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.len() == 1 && names[0] == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_led_to_nothing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = Prefix::open(dir.path().join("a/b/env")).unwrap();
        drop(prefix.lock(&AtomicBool::new(false)).unwrap());
        assert!(!dir.path().join("a").exists());
        // A process killed right after locking leaves the lock file; that is repaired as well.
        fs::create_dir_all(prefix.conda_meta()).unwrap();
        fs::write(prefix.conda_meta().join(LOCK), "").unwrap();
        drop(prefix.lock(&AtomicBool::new(false)).unwrap());
        assert!(!prefix.path().exists());
        // What somebody else put there stays.
        fs::create_dir_all(prefix.path()).unwrap();
        fs::write(prefix.path().join("mine"), "").unwrap();
        drop(prefix.lock(&AtomicBool::new(false)).unwrap());
        assert!(prefix.path().join("mine").exists());
        assert!(!prefix.conda_meta().exists());
    }

    #[test]
    fn a_lock_is_taken_while_others_remove_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = Prefix::open(dir.path().join("env")).unwrap();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let prefix = prefix.clone();
                thread::spawn(move || {
                    for _ in 0..300 {
                        drop(prefix.lock(&AtomicBool::new(false)).unwrap());
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        // One of them may have taken the directory of another for one that was there before, and left it, empty.
        let left = fs::read_dir(prefix.path()).map_or(0, Iterator::count);
        assert_eq!(left, 0);
    }

    #[test]
    fn a_second_process_waits_until_it_is_told_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = Prefix::open(dir.path().join("env")).unwrap();
        let first = prefix.lock(&AtomicBool::new(false)).unwrap();
        let error = prefix.lock(&AtomicBool::new(true)).unwrap_err();
        assert!(error.is_cancelled());
        let waiting = thread::spawn({
            let prefix = prefix.clone();
            move || prefix.lock(&AtomicBool::new(false)).map(drop)
        });
        drop(first);
        waiting.join().unwrap().unwrap();
        assert!(!prefix.path().exists());
    }
}
