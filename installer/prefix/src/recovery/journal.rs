//! The journal of a transaction.
//!
//! One file in `conda-meta`. Its first line, JSON, is the [`Scope`]: everything that the
//! transaction will touch. It is complete before anything is touched. Each later line is a stage
//! that was reached. The file appears complete (written beside, then renamed) and is synchronised
//! at every stage; a stage whose line is truncated was not reached.
//!
//! | stage | what happens | rollback, or completion |
//! | --- | --- | --- |
//! | (none) | files are moved into the trash; nothing new exists | move them back |
//! | `linking` | all are moved, new files are made | delete new files, then move back |
//! | `restoring` | a rollback has deleted all new files | move back |
//! | `committed` | all is in place | delete the trash |
//!
//! The fields of the scope, in the order in which they are done:
//!
//! | field | done | rolled back |
//! | --- | --- | --- |
//! | `created` | the lock made these directories of a new prefix | the prefix is removed |
//! | `moved` | file `i` becomes `i` in the trash | moved back |
//! | `moved_dir_symlinks` | those of `moved` that others are reached through: last | first |
//! | `emptied` | directories where a file goes are removed | made again |
//! | `directories` | made, outermost first | removed, deepest first |
//! | `files` | made; none of these paths exists when `linking` begins | deleted |
//! | `history` | lines are appended | cut to the length before |
//! | `swept` | directories that became empty are removed, after the commit | never |
//!
//! The trash is on the file system of the prefix, so that moving is a rename. The guarantee is
//! against the death of the process at any instruction. File contents are not synchronised one by
//! one, so a power cut may lose data that the journal counts as written; conda and others make
//! the same choice, for speed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::PrefixError;
use crate::prefix::{JOURNAL, Prefix};

/// Within `conda-meta`.
const TRASH: &str = ".taipan-trash";

/// What a transaction touches. Paths are relative to the prefix unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    /// The version of this format.
    pub(crate) version: u32,
    /// Absolute directories that were created for this prefix, outermost first. When the prefix
    /// itself is one of them, a rollback removes it.
    pub(crate) created: Vec<PathBuf>,
    /// The length of the history before, if there was one.
    pub(crate) history: Option<u64>,
    /// Files that are moved into the trash.
    pub(crate) moved: Vec<String>,
    /// Those of `moved` that are symbolic links to directories which other moved files are reached
    /// through, deepest first.
    #[serde(alias = "moved_doors")]
    pub(crate) moved_dir_symlinks: Vec<usize>,
    /// Directories that are empty once the files are moved, and where files go, deepest first.
    pub(crate) emptied: Vec<String>,
    /// Directories to be made, outermost first.
    pub(crate) directories: Vec<String>,
    /// Files to be made, records included.
    pub(crate) files: Vec<String>,
    /// Directories to be removed after the commit if nothing is left in them, deepest first.
    pub(crate) swept: Vec<String>,
}

/// How far a transaction has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Moving,
    Linking,
    Restoring,
    Committed,
}

impl Stage {
    const NAMED: [(Self, &str); 3] = [
        (Self::Linking, "linking"),
        (Self::Restoring, "restoring"),
        (Self::Committed, "committed"),
    ];
}

/// An open transaction on disk.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    trash: PathBuf,
    pub(crate) scope: Scope,
    stage: Stage,
}

impl Journal {
    /// Writes the journal and creates the trash. From now on the prefix counts as interrupted.
    pub(crate) fn begin(prefix: &Prefix, scope: Scope) -> Result<Self, PrefixError> {
        let meta = prefix.conda_meta();
        let path = meta.join(JOURNAL);
        let beside = meta.join(format!("{JOURNAL}.new"));
        let mut text = serde_json::to_vec(&scope).map_err(|source| PrefixError::BadJournal {
            path: path.clone(),
            source,
        })?;
        text.push(b'\n');
        write_synced(&beside, &text)
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| sync_directory(&meta))
            .map_err(PrefixError::io("write the journal", &path))?;
        let journal = Self {
            path,
            trash: meta.join(TRASH),
            scope,
            stage: Stage::Moving,
        };
        fs::create_dir_all(&journal.trash)
            .map_err(PrefixError::io("create directory", &journal.trash))?;
        Ok(journal)
    }

    /// Reads the journal of an interrupted transaction, if there is one.
    pub(crate) fn find(prefix: &Prefix) -> Result<Option<Self>, PrefixError> {
        let meta = prefix.conda_meta();
        let path = meta.join(JOURNAL);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(source) => {
                return Err(PrefixError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        let scope: Scope =
            serde_json::from_slice(lines.next().unwrap_or_default()).map_err(|source| {
                PrefixError::BadJournal {
                    path: path.clone(),
                    source,
                }
            })?;
        let stage = lines
            .filter_map(|line| line.strip_suffix(b"\n"))
            .filter_map(|line| {
                Stage::NAMED
                    .iter()
                    .find(|(_, name)| name.as_bytes() == line)
            })
            .next_back()
            .map_or(Stage::Moving, |(stage, _)| *stage);
        Ok(Some(Self {
            path,
            trash: meta.join(TRASH),
            scope,
            stage,
        }))
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Records on disk that the stage was reached.
    pub(crate) fn reach(&mut self, stage: Stage) -> Result<(), PrefixError> {
        let name = Stage::NAMED
            .iter()
            .find(|(named, _)| *named == stage)
            .map_or("", |(_, name)| *name);
        File::options()
            .append(true)
            .open(&self.path)
            .and_then(|mut file| {
                file.write_all(format!("{name}\n").as_bytes())?;
                file.sync_data()
            })
            .map_err(PrefixError::io("write the journal", &self.path))?;
        self.stage = stage;
        Ok(())
    }

    /// The path of a moved file in the trash.
    pub(crate) fn trash_path(&self, index: usize) -> PathBuf {
        self.trash.join(index.to_string())
    }

    pub(crate) fn trash(&self) -> &Path {
        &self.trash
    }

    /// Deletes the journal, which ends the transaction.
    pub(crate) fn end(&self) -> Result<(), PrefixError> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(PrefixError::Io {
                action: "delete",
                path: self.path.clone(),
                source,
            }),
        }
    }
}

fn write_synced(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_data()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Not every file system can synchronise directories.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}
