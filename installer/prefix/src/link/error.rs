//! What can go wrong between an extracted package and a working prefix.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a prefix could not be read or changed.
///
/// Display prints this level only; the cause, where there is one, is the `source`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A file-system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb phrase: "hard-link", "read", "create directory".
        action: &'static str,
        /// The path it was attempted on.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },

    /// A record in `conda-meta` is not valid.
    #[error("the record {} is not valid", path.display())]
    BadRecord {
        /// The record's file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },

    /// A record in `conda-meta` names a path that is absolute or climbs out of the prefix.
    #[error("the record of {package} names {recorded:?}, which is not a path inside the prefix")]
    UnsafeRecord {
        /// The installed package.
        package: String,
        /// The path as recorded.
        recorded: String,
    },

    /// A metadata file inside an extracted package is missing or not valid.
    #[error("the package {package} has an unusable {file}")]
    BadPackage {
        /// `name-version-build` of the package.
        package: String,
        /// The metadata file, relative to the package.
        file: &'static str,
        /// Why it cannot be used.
        source: io::Error,
    },

    /// A package wants to write outside the prefix.
    #[error("the package {package} contains {path:?}, which leaves the prefix")]
    PathEscape {
        /// `name-version-build` of the package.
        package: String,
        /// The path as the package states it.
        path: String,
    },

    /// The package's list of paths names a file that its tree does not have.
    #[error("the package {package} lists {}, but does not contain it", path.display())]
    MissingFile {
        /// `name-version-build` of the package.
        package: String,
        /// The path relative to the package.
        path: PathBuf,
    },

    /// Two packages cannot be installed together: one has a file where another has a directory.
    #[error(
        "{file_owner} has a file at {}, where {directory_owner} needs a directory",
        path.display()
    )]
    FileDirectoryConflict {
        /// The contested path, relative to the prefix.
        path: PathBuf,
        /// Who has the file.
        file_owner: String,
        /// Who needs the directory.
        directory_owner: String,
    },

    /// A directory with files that belong to no package stands where a file is wanted.
    #[error(
        "{} is a directory with files of its own, and {package} has a file of that name",
        path.display()
    )]
    DirectoryInTheWay {
        /// The directory, relative to the prefix.
        path: PathBuf,
        /// The package that has a file there.
        package: String,
    },

    /// The prefix is longer than the space a binary file leaves for it.
    #[error(
        "the prefix is too long for {} of {package}: it has {available} bytes where {needed} are \
         needed",
        path.display()
    )]
    PrefixTooLong {
        /// `name-version-build` of the package.
        package: String,
        /// The binary file, relative to the package.
        path: PathBuf,
        /// Bytes of the placeholder.
        available: usize,
        /// Bytes of the prefix.
        needed: usize,
    },

    /// The prefix cannot be written into records and scripts, which are UTF-8.
    #[error("the prefix {} is not valid UTF-8 or contains a line break", path.display())]
    UnusablePrefix {
        /// The prefix.
        path: PathBuf,
    },

    /// A `noarch: python` package is to be installed where there is no python.
    #[error("the package {package} needs a python in the environment, and there is none")]
    NoPython {
        /// `name-version-build` of the package.
        package: String,
    },

    /// A python package's `python_site_packages_path` (CEP 17) leaves the prefix.
    #[error("the python_site_packages_path {path:?} of {package} leaves the prefix")]
    SitePackagesEscape {
        /// `name-version-build` of the python package.
        package: String,
        /// The path as the record states it.
        path: String,
    },

    /// A pre-link or post-link script failed.
    #[error("the {kind} script of {package} failed with {status}{}", tail(output))]
    ScriptFailed {
        /// `name-version-build` of the package.
        package: String,
        /// `pre-link` or `post-link`.
        kind: &'static str,
        /// How it ended, as the system words it.
        status: String,
        /// The end of what it wrote.
        output: String,
    },

    /// The transaction was planned against records that have changed since.
    #[error("the prefix {} was changed by somebody else since the plan was made", path.display())]
    PrefixChanged {
        /// The prefix.
        path: PathBuf,
    },

    /// The prefix carries the frozen marker of CEP 22.
    #[error("the environment {} is frozen{}", path.display(), reason(message.as_deref()))]
    Frozen {
        /// The prefix.
        path: PathBuf,
        /// The message of the marker, if it has one.
        message: Option<String>,
    },

    /// The journal of an interrupted transaction cannot be understood.
    #[error("the journal {} of an interrupted transaction is not valid", path.display())]
    BadJournal {
        /// The journal.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },

    /// The worker threads could not be started.
    #[error("cannot start the worker threads")]
    Threads {
        /// Why not.
        source: rayon::ThreadPoolBuildError,
    },

    /// The transaction failed and its undo failed as well; the next run finishes the undo.
    #[error("{} is left half-changed; the next run repairs it", prefix.display())]
    UndoFailed {
        /// The prefix.
        prefix: PathBuf,
        /// Why the transaction failed.
        cause: Box<LinkError>,
        /// Why the undo failed.
        source: Box<LinkError>,
    },

    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl LinkError {
    /// Whether this is the caller's own wish to stop, not a failure.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::UndoFailed { cause, .. } => cause.is_cancelled(),
            _ => false,
        }
    }

    /// A closure for `map_err` that names the action and the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

fn reason(message: Option<&str>) -> String {
    message
        .map(|message| format!(": {message}"))
        .unwrap_or_default()
}

/// Scripts often say why they fail, so the end of their output belongs to the message.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(": {}", lines[lines.len().saturating_sub(5)..].join("\n"))
}
