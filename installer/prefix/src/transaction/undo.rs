//! Taking a transaction back, and finishing what is left of a complete one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rayon::prelude::*;

use super::failpoint::failpoint;
use super::journal::{JOURNAL, Journal, Stage};
use crate::link::LinkError;
use crate::prefix::Prefix;

/// What was found and repaired when a prefix was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// No transaction was interrupted.
    Nothing,
    /// An incomplete transaction was undone; the prefix is as it was before.
    Undone,
    /// An incomplete transaction had made the prefix, which was removed.
    Removed,
    /// A complete transaction was tidied up after.
    Finished,
}

/// Repairs what an interrupted transaction left. The caller holds the lock.
pub(crate) fn recover(prefix: &Prefix) -> Result<Recovery, LinkError> {
    let Some(mut journal) = Journal::find(prefix)? else {
        return Ok(Recovery::Nothing);
    };
    if journal.stage() == Stage::Committed {
        finish(prefix, &journal)?;
        return Ok(Recovery::Finished);
    }
    undo(prefix, &mut journal)
}

/// Takes everything back that the journal knows of. Can itself be interrupted and repeated.
pub(super) fn undo(prefix: &Prefix, journal: &mut Journal) -> Result<Recovery, LinkError> {
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
        for path in journal.scope.doors.iter().rev() {
            remove_file(&prefix.path().join(path))?;
        }
        for directory in journal.scope.directories.iter().rev() {
            remove_made_directory(&prefix.path().join(directory));
        }
        restore_history(prefix, journal.scope.history)?;
        journal.reach(Stage::Restoring)?;
    }
    for directory in journal.scope.emptied.iter().rev() {
        let path = prefix.path().join(directory);
        fs::create_dir_all(&path).map_err(LinkError::io("create directory", &path))?;
    }
    let scope = &journal.scope;
    let doors: HashSet<usize> = scope.moved_doors.iter().copied().collect();
    let others = (0..scope.moved.len()).filter(|index| !doors.contains(index));
    for index in scope.moved_doors.iter().copied().rev().chain(others) {
        let (aside, home) = (
            journal.aside(index),
            prefix.path().join(&scope.moved[index]),
        );
        match fs::rename(&aside, &home) {
            Ok(()) => failpoint("undo-move"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Either it was never moved or is back already, or its directory is gone.
                if fs::symlink_metadata(&aside).is_err() {
                    continue;
                }
                let parent = home.parent().unwrap_or(prefix.path());
                fs::create_dir_all(parent).map_err(LinkError::io("create directory", parent))?;
                fs::rename(&aside, &home).map_err(LinkError::io("restore", &home))?;
            }
            Err(source) => {
                return Err(LinkError::Io {
                    action: "restore",
                    path: home,
                    source,
                });
            }
        }
    }
    remove_tree(journal.trash())?;
    journal.end()?;
    Ok(Recovery::Undone)
}

/// Deletes what the committed transaction put aside. When that fails the journal stays, and the
/// next run tries again.
pub(super) fn finish(prefix: &Prefix, journal: &Journal) -> Result<(), LinkError> {
    failpoint("committed");
    remove_tree(journal.trash())?;
    failpoint("trash-deleted");
    for directory in &journal.scope.swept {
        // Not being empty is the usual reason for staying.
        let _ = fs::remove_dir(prefix.path().join(directory));
    }
    journal.end()
}

/// Removes a prefix that never became an environment; the journal and the lock go last.
fn remove_prefix(prefix: &Prefix, journal: &Journal) -> Result<(), LinkError> {
    let meta = prefix.conda_meta();
    for (directory, spared) in [(prefix.path(), "conda-meta"), (meta.as_path(), JOURNAL)] {
        let entries = fs::read_dir(directory).map_err(LinkError::io("list", directory))?;
        for entry in entries {
            let entry = entry.map_err(LinkError::io("list", directory))?;
            if entry.file_name() == spared {
                continue;
            }
            failpoint("undo-remove");
            if entry
                .file_type()
                .map_err(LinkError::io("look at", &entry.path()))?
                .is_dir()
            {
                remove_tree(&entry.path())?;
            } else {
                remove_file(&entry.path())?;
            }
        }
    }
    journal.end()?;
    fs::remove_dir(&meta).map_err(LinkError::io("delete", &meta))?;
    for directory in journal.scope.created.iter().rev() {
        if directory == &meta {
            continue;
        }
        // A parent may have been put to use by somebody else meanwhile.
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
    Ok(())
}

fn restore_history(prefix: &Prefix, length: Option<u64>) -> Result<(), LinkError> {
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
    result.map_err(LinkError::io("restore", &path))
}

fn remove_file(path: &Path) -> Result<(), LinkError> {
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
        Err(source) => Err(LinkError::Io {
            action: "delete",
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn remove_tree(path: &Path) -> Result<(), LinkError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(LinkError::Io {
            action: "delete",
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// Removes a directory of ours, with the byte code that scripts may have caused in it. Anything
/// else in it is somebody's, and stays.
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
