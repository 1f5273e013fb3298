//! Why a prefix could not be read or changed.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a prefix could not be read or changed.
///
/// Display prints this level only; the cause, where there is one, is the `source`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// A file-system operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb phrase: "hard-link", "read", "create directory".
        action: &'static str,
        /// The path it was attempted on.
        path: PathBuf,
        source: io::Error,
    },

    /// A record in `conda-meta` is not valid.
    #[error("invalid record {}", path.display())]
    BadRecord {
        path: PathBuf,
        source: serde_json::Error,
    },

    /// A record in `conda-meta` lists a path outside of the prefix.
    #[error("the record of {package} lists {recorded:?}, which is outside of the prefix")]
    UnsafeRecord {
        /// The installed package.
        package: String,
        /// The path as recorded.
        recorded: String,
    },

    /// A metadata file inside an extracted package is missing or not valid.
    #[error("invalid {file} in the package {package}")]
    BadPackage {
        /// `name-version-build` of the package.
        package: String,
        /// The metadata file, relative to the package.
        file: &'static str,
        source: io::Error,
    },

    /// A link that no package owns leads out of the prefix, and a package has files below it.
    #[error("{} in the prefix is a link that leads out of it, and {package} has files below it: remove the link, or use another prefix", path.display())]
    ForeignLink {
        /// The path of the link, relative to the prefix.
        path: PathBuf,
        /// `name-version-build` of the package.
        package: String,
    },

    /// A package has a path outside of the prefix.
    #[error("the package {package} contains {path:?}, which is outside of the prefix")]
    PathEscape {
        /// `name-version-build` of the package.
        package: String,
        /// The path as the package states it.
        path: String,
    },

    /// A package lists a file that it does not contain.
    #[error("the package {package} lists {}, but does not contain it", path.display())]
    MissingFile {
        /// `name-version-build` of the package.
        package: String,
        /// The path relative to the package.
        path: PathBuf,
    },

    /// A package has a file where another one needs a directory.
    #[error(
        "{file_owner} has a file at {}, where {directory_owner} needs a directory",
        path.display()
    )]
    FileDirectoryConflict {
        /// The contested path, relative to the prefix.
        path: PathBuf,
        /// The package with the file.
        file_owner: String,
        /// The package that needs the directory.
        directory_owner: String,
    },

    /// A directory with files that belong to no package is in the place of a file.
    #[error(
        "cannot replace the directory {} by a file of {package}: it has files of its own",
        path.display()
    )]
    DirectoryInTheWay {
        /// The directory, relative to the prefix.
        path: PathBuf,
        /// The package that has a file there.
        package: String,
    },

    /// The prefix is longer than the placeholder in a binary file.
    #[error(
        "the prefix is too long for {} of {package}: it has {needed} bytes, and the placeholder \
         {available}",
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

    /// The prefix cannot be written into records and scripts.
    #[error("the prefix {} contains invalid UTF-8 or a line break", path.display())]
    UnusablePrefix { path: PathBuf },

    /// A `noarch: python` package in an environment without python.
    #[error("the package {package} needs python, which the environment does not have")]
    NoPython {
        /// `name-version-build` of the package.
        package: String,
    },

    /// The `python_site_packages_path` of python (CEP 17) is outside of the prefix.
    #[error("the python_site_packages_path {path:?} of {package} is outside of the prefix")]
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
        /// Its exit status, as the system words it.
        status: String,
        /// The end of its output.
        output: String,
    },

    /// The transaction was planned against records that have changed since.
    #[error("another program has changed {} since the plan was made; run the command again", path.display())]
    PrefixChanged { path: PathBuf },

    /// The prefix has the frozen marker of CEP 22.
    #[error("the environment {} is frozen{}", path.display(), reason(message.as_deref()))]
    Frozen {
        path: PathBuf,
        /// The reason in the marker, if it states one.
        message: Option<String>,
    },

    /// The journal of an interrupted transaction cannot be parsed.
    #[error("invalid journal {} of an interrupted transaction", path.display())]
    BadJournal {
        path: PathBuf,
        source: serde_json::Error,
    },

    /// The worker threads could not be started.
    #[error("cannot start the worker threads")]
    Threads { source: rayon::ThreadPoolBuildError },

    /// The transaction failed, and its rollback as well; the next lock finishes the rollback.
    #[error("cannot roll back the changes to {}; the next run repairs it", prefix.display())]
    RollbackFailed {
        prefix: PathBuf,
        /// Why the transaction failed.
        cause: Box<PrefixError>,
        /// Why the rollback failed.
        source: Box<PrefixError>,
    },

    /// The caller has cancelled the operation.
    #[error("interrupted")]
    Cancelled,
}

impl PrefixError {
    /// Whether the caller has cancelled the operation.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::RollbackFailed { cause, .. } => cause.is_cancelled(),
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

/// The end of the output of a script, which often says why it failed.
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
