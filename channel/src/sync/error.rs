//! Why a subdir could not be mirrored.

use std::{io, path::PathBuf};

use taipan_transfer::{DeliveryError, FetchError};

use super::filter::FilterError;

/// Why a subdir could not be mirrored, or not to one destination. What was copied before is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The index of the source cannot be fetched.
    #[error("cannot fetch the index of {subdir}")]
    Source {
        /// The subdir.
        subdir: String,
        /// The cause.
        source: FetchError,
    },
    /// The source has no such subdir.
    #[error("the channel has no {subdir}")]
    NoSubdir {
        /// The subdir.
        subdir: String,
    },
    /// The state of a destination cannot be read.
    #[error("cannot read the state of the mirror {place}")]
    State {
        /// The destination.
        place: String,
        /// The cause.
        source: FetchError,
    },
    /// The index of a destination cannot be read.
    #[error("cannot read the index of the mirror {place}")]
    Published {
        /// The destination.
        place: String,
        /// The cause.
        source: FetchError,
    },
    /// The state of a destination is damaged, or of a newer version.
    #[error("cannot use the state of the mirror at {place}: {problem}")]
    BadState {
        /// The destination.
        place: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The source lists much less than the mirror.
    #[error(
        "{subdir} would lose {dropped} of {published} packages at {place}, more than {limit} %: \
         nothing was changed"
    )]
    TooManyDropped {
        /// The subdir.
        subdir: String,
        /// The destination.
        place: String,
        /// Packages that the new index does not name.
        dropped: usize,
        /// Packages that the published index names.
        published: usize,
        /// The limit, in percent.
        limit: f64,
    },
    /// A request to a destination failed.
    #[error(transparent)]
    Destination(#[from] DeliveryError),
    /// The packages that cannot be copied stop the publication.
    #[error("{subdir} is not published at {place}: {count} packages could not be copied")]
    Held {
        /// The subdir.
        subdir: String,
        /// The destination.
        place: String,
        /// How many packages.
        count: usize,
    },
    /// The destination failed for too many packages in sequence.
    #[error("gave up on {place} after {count} failures in sequence; the last: {problem}")]
    GaveUp {
        /// The destination.
        place: String,
        /// How many failures.
        count: u32,
        /// The last of them.
        problem: String,
    },
    /// Another run published at the same time, again and again.
    #[error("other runs change {place} at the same time: run again later")]
    Contended {
        /// The destination.
        place: String,
    },
    /// A local file cannot be written or read.
    #[error("cannot use {}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The filters cannot be applied.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The source is a mirror of the destination.
    #[error(
        "{place} is a mirror of this destination; sync from the channel that it was copied from"
    )]
    Loop {
        /// The source.
        place: String,
    },
}

/// An error with its causes in one line.
pub(super) fn describe(error: &SyncError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
