//! The journal of a transaction.
//!
//! One file in `conda-meta`. Its first line says, as JSON, everything that the transaction will
//! touch; it is complete before anything is touched. Each later line is a stage that was reached.
//! The file appears whole (written beside, then renamed) and is synchronised at every stage; a
//! stage whose line is cut short was not reached.
//!
//! - (first line only): files that have to go are being moved aside into the trash, and nothing
//!   new exists. To undo, move them back.
//! - `linking`: all are moved, new files are being made. To undo, delete every new file that is
//!   there (none of these paths existed when the stage began), then move back.
//! - `restoring`: an undo has deleted every new file. To go on, move back.
//! - `committed`: all is in place. To finish, delete the trash.
//!
//! What is moved aside is numbered, and stays on its file system, so that moving is a rename. The
//! guarantee is against the death of the process at any instruction. File contents are not
//! synchronised one by one, so a power cut may lose data that the journal believes to be written;
//! conda and others make the same choice, for the sake of speed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::link::LinkError;
use crate::prefix::Prefix;

/// Within `conda-meta`.
pub(crate) const JOURNAL: &str = ".taipan-journal";

/// Within `conda-meta`.
const TRASH: &str = ".taipan-trash";

/// What a transaction touches. Paths are relative to the prefix unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scope {
    /// The version of this format.
    pub(super) version: u32,
    /// Absolute directories made for this prefix, outermost first. When the prefix itself is
    /// among them, undoing means removing it.
    pub(super) created: Vec<PathBuf>,
    /// The length of the history before, or nothing if there was none.
    pub(super) history: Option<u64>,
    /// Files that go aside. The one at index `i` becomes `i` in the trash.
    pub(super) moved: Vec<String>,
    /// Which of them other moved files are reached through (links to directories), deepest first.
    /// They go last and come back first.
    pub(super) moved_doors: Vec<usize>,
    /// Directories that are empty once the files are aside, where files are to be, deepest first.
    pub(super) emptied: Vec<String>,
    /// Directories to be made, outermost first.
    pub(super) directories: Vec<String>,
    /// Files to be made, records included.
    pub(super) files: Vec<String>,
    /// Symbolic links to be made that other files are reached through, outermost first.
    pub(super) doors: Vec<String>,
    /// Directories to be removed after the commit if nothing is left in them, deepest first.
    pub(super) swept: Vec<String>,
}

/// How far a transaction came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
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
pub(super) struct Journal {
    path: PathBuf,
    trash: PathBuf,
    pub(super) scope: Scope,
    stage: Stage,
}

impl Journal {
    /// Writes the journal and makes the trash. From here on the prefix counts as interrupted.
    pub(super) fn begin(prefix: &Prefix, scope: Scope) -> Result<Self, LinkError> {
        let meta = prefix.conda_meta();
        let path = meta.join(JOURNAL);
        let beside = meta.join(format!("{JOURNAL}.new"));
        let mut text = serde_json::to_vec(&scope).map_err(|source| LinkError::BadJournal {
            path: path.clone(),
            source,
        })?;
        text.push(b'\n');
        write_synced(&beside, &text)
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| sync_directory(&meta))
            .map_err(LinkError::io("write the journal", &path))?;
        let journal = Self {
            path,
            trash: meta.join(TRASH),
            scope,
            stage: Stage::Moving,
        };
        fs::create_dir_all(&journal.trash)
            .map_err(LinkError::io("create directory", &journal.trash))?;
        Ok(journal)
    }

    /// The journal of a transaction that was interrupted, if there is one.
    pub(super) fn find(prefix: &Prefix) -> Result<Option<Self>, LinkError> {
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
                return Err(LinkError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        let scope: Scope =
            serde_json::from_slice(lines.next().unwrap_or_default()).map_err(|source| {
                LinkError::BadJournal {
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

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Records on disk that the stage is reached.
    pub(super) fn reach(&mut self, stage: Stage) -> Result<(), LinkError> {
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
            .map_err(LinkError::io("write the journal", &self.path))?;
        self.stage = stage;
        Ok(())
    }

    /// Where the moved file of that index is.
    pub(super) fn aside(&self, index: usize) -> PathBuf {
        self.trash.join(index.to_string())
    }

    pub(super) fn trash(&self) -> &Path {
        &self.trash
    }

    /// Forgets the transaction; the last step of every way through it.
    pub(super) fn end(&self) -> Result<(), LinkError> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(LinkError::Io {
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
        // Not every file system synchronises directories; the rename is then as safe as it gets.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}
