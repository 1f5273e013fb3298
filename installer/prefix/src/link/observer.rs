//! What a transaction tells its caller while it runs.

use std::fmt;
use std::path::PathBuf;

/// Something that did not stop the transaction, but that a person should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkWarning {
    /// Several packages have the same path.
    Clobber {
        /// The path relative to the prefix.
        path: PathBuf,
        /// The package whose file is there now.
        winner: String,
        /// The packages whose files were put aside.
        losers: Vec<String>,
    },
    /// A file that belongs to no package was replaced.
    UnownedReplaced {
        /// The path relative to the prefix.
        path: PathBuf,
        /// The package whose file took its place.
        package: String,
    },
    /// A package lists a path that no package may install; it was skipped.
    ReservedPath {
        /// The path relative to the package.
        path: PathBuf,
        /// The package.
        package: String,
    },
    /// A pre-unlink script failed. The removal goes on, as in conda.
    ScriptFailed {
        /// The package.
        package: String,
        /// The kind of script.
        kind: &'static str,
        /// How it ended.
        status: String,
    },
    /// Byte code could not be compiled; modules are compiled at their first import instead.
    NotCompiled {
        /// What went wrong.
        reason: String,
        /// How many modules lack byte code.
        files: usize,
    },
    /// A file whose package is gone could not be deleted after the transaction was complete.
    LeftBehind {
        /// The path.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
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
                "{} belonged to no package and was replaced by the one of {package}",
                path.display()
            ),
            Self::ReservedPath { path, package } => {
                write!(f, "{package} may not install {}; skipped", path.display())
            }
            Self::ScriptFailed {
                package,
                kind,
                status,
            } => {
                write!(f, "the {kind} script of {package} failed with {status}")
            }
            Self::NotCompiled { reason, files } => {
                write!(f, "byte code of {files} modules was not compiled: {reason}")
            }
            Self::LeftBehind { path, reason } => {
                write!(f, "{} could not be deleted: {reason}", path.display())
            }
        }
    }
}

/// Receives the events of a transaction. Every method may be called from any worker thread.
///
/// Packages are named as `name-version-build`.
pub trait LinkObserver: Send + Sync {
    /// The prefix is about to be touched: so many packages go, come, with so many new files.
    fn started(&self, _unlink: usize, _link: usize, _files: usize) {}
    /// The files of a package were taken out of the prefix.
    fn package_unlinked(&self, _package: &str) {}
    /// The first file of a package is about to be linked; it has so many.
    fn package_started(&self, _package: &str, _files: usize) {}
    /// So many more files of the package are in place.
    fn files_linked(&self, _package: &str, _files: usize) {}
    /// The last file of a package is in place.
    fn package_done(&self, _package: &str) {}
    /// So many modules of `noarch: python` packages are about to be compiled.
    fn compile_started(&self, _files: usize) {}
    /// Compilation ended with so many modules compiled.
    fn compile_done(&self, _files: usize) {}
    /// A script is about to run; the kind is `pre-link`, `post-link` or `pre-unlink`.
    fn script_started(&self, _package: &str, _kind: &'static str) {}
    /// What a script wrote to its standard output and error, cut to a bounded size.
    fn script_output(&self, _package: &str, _kind: &'static str, _output: &str) {}
    /// What a script left in `.messages.txt` for the person at the terminal.
    fn message(&self, _package: &str, _text: &str) {}
    /// Something a person should hear of.
    fn warning(&self, _warning: &LinkWarning) {}
}

/// An observer that is not interested.
impl LinkObserver for () {}
