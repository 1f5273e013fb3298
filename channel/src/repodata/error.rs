//! Why there is no repodata.

use std::{io, path::PathBuf};

use taipan_transfer::FetchError;

/// Why there is no repodata.
#[derive(Debug, thiserror::Error)]
pub enum RepodataError {
    /// The fetch failed on all mirrors.
    #[error("cannot fetch repodata for {channel}/{subdir}")]
    Fetch {
        channel: String,
        subdir: String,
        /// Every attempt.
        source: FetchError,
    },
    /// No mirror of a channel has any of the subdirs.
    #[error("no mirror of the channel {channel} has repodata for {}", .subdirs.join(" or "))]
    NoSubdir {
        channel: String,
        /// The subdirs, as `CHANNEL/SUBDIR`.
        subdirs: Vec<String>,
    },
    /// The cache cannot be written.
    #[error("cannot write the repodata cache {}", path.display())]
    Cache { path: PathBuf, source: io::Error },
}
