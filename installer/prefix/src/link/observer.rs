//! The events and warnings of a transaction.

use std::fmt;
use std::path::PathBuf;

/// A problem that did not stop the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkWarning {
    /// Several packages have a file of the same path.
    Clobber {
        /// The path relative to the prefix.
        path: PathBuf,
        /// The package whose file is used.
        winner: String,
        /// The packages whose files are kept elsewhere.
        losers: Vec<String>,
    },
    /// A file that belongs to no package was replaced.
    UnownedReplaced {
        /// The path relative to the prefix.
        path: PathBuf,
        /// The package whose file replaced it.
        package: String,
    },
    /// A package lists a path that no package may install; it was skipped.
    ReservedPath {
        /// The path relative to the package.
        path: PathBuf,
        package: String,
    },
    /// A pre-unlink script failed. The removal continues, as in conda.
    ScriptFailed {
        package: String,
        kind: &'static str,
        /// Its exit status, as the system words it.
        status: String,
    },
    /// Byte code could not be compiled, so modules are compiled when they are imported.
    NotCompiled {
        reason: String,
        /// The number of modules without byte code.
        files: usize,
    },
    /// A file whose package is gone could not be deleted after the transaction was complete.
    LeftBehind { path: PathBuf, reason: String },
}

impl fmt::Display for LinkWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clobber {
                path,
                winner,
                losers,
            } => write!(
                f,
                "{} is in {winner} and in {}; the file of {winner} is used",
                path.display(),
                losers.join(", ")
            ),
            Self::UnownedReplaced { path, package } => write!(
                f,
                "{} belonged to no package and was replaced by a file of {package}",
                path.display()
            ),
            Self::ReservedPath { path, package } => {
                write!(
                    f,
                    "skipped {}, which {package} must not install",
                    path.display()
                )
            }
            Self::ScriptFailed {
                package,
                kind,
                status,
            } => {
                write!(f, "the {kind} script of {package} failed with {status}")
            }
            Self::NotCompiled { reason, files } => {
                write!(f, "cannot compile byte code of {files} modules: {reason}")
            }
            Self::LeftBehind { path, reason } => {
                write!(f, "cannot delete {}: {reason}", path.display())
            }
        }
    }
}

/// Receives the events of a transaction. Every method may be called from any worker thread.
///
/// Packages are named as `name-version-build`.
pub trait LinkObserver: Send + Sync {
    /// The prefix is about to change: the numbers of packages to unlink and to link, and of new
    /// files.
    fn started(&self, _unlink: usize, _link: usize, _files: usize) {}
    /// The files of a package were removed from the prefix.
    fn package_unlinked(&self, _package: &str) {}
    /// The first file of a package is about to be linked, and the number of its files.
    fn package_started(&self, _package: &str, _files: usize) {}
    /// More files of the package are linked.
    fn files_linked(&self, _package: &str, _files: usize) {}
    /// The last file of a package is linked.
    fn package_done(&self, _package: &str) {}
    /// Modules of `noarch: python` packages are about to be compiled.
    fn compile_started(&self, _files: usize) {}
    /// The compilation has ended, and the number of compiled modules.
    fn compile_done(&self, _files: usize) {}
    /// A script is about to run; the kind is `pre-link`, `post-link` or `pre-unlink`.
    fn script_started(&self, _package: &str, _kind: &'static str) {}
    /// What a script wrote to its standard output and error, truncated.
    fn script_output(&self, _package: &str, _kind: &'static str, _output: &str) {}
    /// What a script wrote to `.messages.txt` for the user.
    fn message(&self, _package: &str, _text: &str) {}
    /// A warning for the user.
    fn warning(&self, _warning: &LinkWarning) {}
}

/// Ignores all events.
impl LinkObserver for () {}
