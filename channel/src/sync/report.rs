//! What a sync tells while it runs and at its end.

use super::error::SyncError;

/// Where a package failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureSide {
    /// No mirror of the source has it, or not with the right digest.
    Source,
    /// The destination did not take it.
    Destination,
    /// It cannot be there, for example by its name.
    Layout,
}

/// A package that could not be copied.
#[derive(Debug, Clone)]
pub struct CopyFailure {
    /// The name of the file.
    pub file: String,
    /// Where it failed.
    pub side: FailureSide,
    /// Why, in one line.
    pub problem: String,
}

/// What became of one destination.
#[derive(Debug)]
pub enum DestinationOutcome {
    /// It was up to date.
    Unchanged,
    /// The index was published.
    Published,
    /// What would be done, of a dry run.
    Planned,
    /// The share of this worker is done; others are not.
    ShareDone,
    /// It failed.
    Failed(SyncError),
}

/// What was done at one destination.
#[derive(Debug)]
pub struct DestinationReport {
    /// The destination, printable.
    pub location: String,
    /// What became of it.
    pub outcome: DestinationOutcome,
    /// Packages that were sent.
    pub sent: usize,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packages that were to be sent, and were there already.
    pub found: usize,
    /// Packages that the new index names.
    pub packages: usize,
    /// Packages that were named before, and are not any more.
    pub dropped: usize,
    /// Packages whose content was replaced under the same name.
    pub replaced: usize,
    /// Files that were deleted.
    pub deleted: usize,
    /// Files that wait for their deletion.
    pub graves: usize,
    /// Packages that could not be copied.
    pub failures: Vec<CopyFailure>,
    /// Packages that were not begun because of a limit of time or bytes.
    pub postponed: usize,
    /// Packages that were named and not there, or wrong. They were sent again.
    pub missing: usize,
    /// When the source index was made that the published index comes from, in seconds since 1970, if its server told.
    pub index_time: Option<u64>,
}

impl DestinationReport {
    pub(super) fn new(location: String) -> Self {
        Self {
            location,
            outcome: DestinationOutcome::Unchanged,
            index_time: None,
            sent: 0,
            sent_bytes: 0,
            found: 0,
            packages: 0,
            dropped: 0,
            replaced: 0,
            deleted: 0,
            graves: 0,
            failures: Vec::new(),
            postponed: 0,
            missing: 0,
        }
    }
}

/// What was done in one subdir.
#[derive(Debug)]
pub struct SubdirReport {
    /// The subdir.
    pub subdir: String,
    /// Packages that the source lists, after filters.
    pub listed: usize,
    /// When the source index was made, if its server tells, in seconds since 1970.
    pub source_time: Option<u64>,
    /// By destination, in their order.
    pub destinations: Vec<DestinationReport>,
}

/// Something that happened in a sync.
#[derive(Debug)]
#[non_exhaustive]
pub enum SyncEvent<'a> {
    /// So much is to be sent.
    Planned {
        /// The subdir.
        subdir: &'a str,
        /// Packages.
        packages: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// A package is done with, at all destinations.
    Copied {
        /// The path below the channel.
        path: &'a str,
        /// Its length in bytes.
        bytes: u64,
        /// The digest of its content, if it was fetched.
        sha256: Option<taipan_transfer::Sha256>,
        /// The destinations to which it was sent, by number.
        sent: &'a [usize],
        /// The destinations that had it.
        found: &'a [usize],
    },
    /// A package was not copied to a destination.
    Failed {
        /// The path below the channel.
        path: &'a str,
        /// The destination, by number; `None` for all.
        destination: Option<usize>,
        /// Why.
        problem: &'a str,
    },
    /// A file was deleted.
    Deleted {
        /// The path below the channel.
        path: &'a str,
        /// The destination, by number.
        destination: usize,
    },
    /// Something that the user should know.
    Warning {
        /// In one line.
        text: &'a str,
    },
}

/// Receives the events of a sync. It must not block.
pub trait SyncObserver: Send + Sync {
    /// Called for each event.
    fn event(&self, event: &SyncEvent<'_>);
}
