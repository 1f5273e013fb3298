//! Rolls an incomplete transaction back, and finishes a committed one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rayon::prelude::*;

use super::journal::{Journal, Stage};
use crate::error::PrefixError;
use crate::failpoint::failpoint;
use crate::prefix::{JOURNAL, Prefix};

/// What was repaired when a prefix was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// No transaction was interrupted.
    Nothing,
    /// An incomplete transaction was rolled back; the prefix is as it was before.
    RolledBack,
    /// An incomplete transaction had created the prefix, which was removed.
    Removed,
    /// The trash of a committed transaction was deleted.
    Finished,
}

/// Repairs what an interrupted transaction left. The caller holds the lock.
pub(crate) fn recover(prefix: &Prefix) -> Result<Recovery, PrefixError> {
    let Some(mut journal) = Journal::find(prefix)? else {
        return Ok(Recovery::Nothing);
    };
    if journal.stage() == Stage::Committed {
        finish(prefix, &journal)?;
        return Ok(Recovery::Finished);
    }
    roll_back(prefix, &mut journal)
}

/// Rolls back everything in the journal. It can be interrupted and repeated.
pub(crate) fn roll_back(prefix: &Prefix, journal: &mut Journal) -> Result<Recovery, PrefixError> {
    if journal
        .scope
        .created
        .iter()
        .any(|path| path == prefix.path())
    {
        remove_prefix(prefix, journal)?;
        return Ok(Recovery::Removed);
    }
    if journal.stage() == Stage::Linking {
        journal.scope.files.par_iter().try_for_each(|path| {
            failpoint("undo-delete");
            remove_file(&prefix.path().join(path))
        })?;
        for directory in journal.scope.directories.iter().rev() {
            remove_made_directory(&prefix.path().join(directory));
        }
        restore_history(prefix, journal.scope.history)?;
        journal.reach(Stage::Restoring)?;
    }
    for directory in journal.scope.emptied.iter().rev() {
        let path = prefix.path().join(directory);
        fs::create_dir_all(&path).map_err(PrefixError::io("create directory", &path))?;
    }
    let scope = &journal.scope;
    let dir_symlinks: HashSet<usize> = scope.moved_dir_symlinks.iter().copied().collect();
    let others = (0..scope.moved.len()).filter(|index| !dir_symlinks.contains(index));
    for index in scope.moved_dir_symlinks.iter().copied().rev().chain(others) {
        let (in_trash, home) = (
            journal.trash_path(index),
            prefix.path().join(&scope.moved[index]),
        );
        match fs::rename(&in_trash, &home) {
            Ok(()) => failpoint("undo-move"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // It was never moved, or has been restored, or its directory is missing.
                if fs::symlink_metadata(&in_trash).is_err() {
                    continue;
                }
                let parent = home.parent().unwrap_or(prefix.path());
                fs::create_dir_all(parent).map_err(PrefixError::io("create directory", parent))?;
                fs::rename(&in_trash, &home).map_err(PrefixError::io("restore", &home))?;
            }
            Err(source) => {
                return Err(PrefixError::Io {
                    action: "restore",
                    path: home,
                    source,
                });
            }
        }
    }
    remove_tree(journal.trash())?;
    journal.end()?;
    Ok(Recovery::RolledBack)
}

/// Deletes the trash of a committed transaction. When that fails, the journal stays, and the next
/// run tries again.
pub(crate) fn finish(prefix: &Prefix, journal: &Journal) -> Result<(), PrefixError> {
    failpoint("committed");
    remove_tree(journal.trash())?;
    failpoint("trash-deleted");
    for directory in &journal.scope.swept {
        // It fails if other files are left in the directory.
        let _ = fs::remove_dir(prefix.path().join(directory));
    }
    journal.end()
}

/// Removes a prefix that never became an environment; the journal goes last.
fn remove_prefix(prefix: &Prefix, journal: &Journal) -> Result<(), PrefixError> {
    let meta = prefix.conda_meta();
    for (directory, spared) in [(prefix.path(), "conda-meta"), (meta.as_path(), JOURNAL)] {
        let entries = fs::read_dir(directory).map_err(PrefixError::io("list", directory))?;
        for entry in entries {
            let entry = entry.map_err(PrefixError::io("list", directory))?;
            if entry.file_name() == spared {
                continue;
            }
            failpoint("undo-remove");
            if entry
                .file_type()
                .map_err(PrefixError::io("stat", &entry.path()))?
                .is_dir()
            {
                remove_tree(&entry.path())?;
            } else {
                remove_file(&entry.path())?;
            }
        }
    }
    journal.end()?;
    fs::remove_dir(&meta).map_err(PrefixError::io("delete", &meta))?;
    for directory in journal.scope.created.iter().rev() {
        if directory == &meta {
            continue;
        }
        // A parent may have other files meanwhile.
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
    Ok(())
}

fn restore_history(prefix: &Prefix, length: Option<u64>) -> Result<(), PrefixError> {
    let path = prefix.conda_meta().join("history");
    let Some(length) = length else {
        return remove_file(&path);
    };
    let result = File::options().write(true).open(&path).and_then(|file| {
        if file.metadata()?.len() > length {
            file.set_len(length)
        } else {
            Ok(())
        }
    });
    result.map_err(PrefixError::io("restore", &path))
}

fn remove_file(path: &Path) -> Result<(), PrefixError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        Err(source) => Err(PrefixError::Io {
            action: "delete",
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn remove_tree(path: &Path) -> Result<(), PrefixError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(PrefixError::Io {
            action: "delete",
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// Removes a directory of the transaction, with the byte code that scripts may have caused in it.
/// It stays if there are other files in it.
fn remove_made_directory(path: &Path) {
    if fs::remove_dir(path).is_ok() {
        return;
    }
    let cache = path.join("__pycache__");
    if let Ok(entries) = fs::read_dir(&cache) {
        for entry in entries.flatten() {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "pyc")
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::remove_dir(&cache);
    }
    let _ = fs::remove_dir(path);
}
