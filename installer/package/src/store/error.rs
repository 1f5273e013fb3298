use std::io;
use std::path::{Path, PathBuf};

use crate::archive::is_full;

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("cannot {action} {}: the file system is read-only", path.display())]
    ReadOnly {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no permission to {action} {}", path.display())]
    Permission {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The disk, or the user's quota.
    #[error("no space left to {action} {}", path.display())]
    Full {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The caller's record has no JSON form.
    #[error("cannot write the record of the package as JSON")]
    Record {
        #[source]
        source: serde_json::Error,
    },
    /// A bug of the caller: the entry was begun without a key and never given one.
    #[error("cannot commit a store entry without a key")]
    NoKey,
}

impl StoreError {
    /// For `map_err`: sorts an I/O error by what the user can do about it.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly {
                action,
                path,
                source,
            },
            io::ErrorKind::PermissionDenied => Self::Permission {
                action,
                path,
                source,
            },
            _ if is_full(&source) => Self::Full {
                action,
                path,
                source,
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// Whether the store may be read but not written.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::ReadOnly { .. } | Self::Permission { .. })
    }
}
