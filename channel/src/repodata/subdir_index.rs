//! A subdir's index, and how it was obtained.

use taipan_transfer::{Attempt, FetchError};

use crate::index::RepodataIndex;

/// How a [`SubdirIndex`] was obtained.
#[derive(Debug)]
pub enum RepodataStatus {
    /// A mirror sent it now.
    Fetched,
    /// A mirror confirmed that the cached copy is current.
    Unchanged,
    /// No mirror has this subdir, so it has no records.
    Absent,
    /// The fetch failed, so this is the cached copy, which may be out of date.
    Stale(FetchError),
}

/// The index of one subdir.
#[derive(Debug)]
pub struct SubdirIndex {
    /// The subdir, e.g. `linux-64`.
    pub subdir: String,
    /// Its records.
    pub index: RepodataIndex,
    /// How it was obtained.
    pub status: RepodataStatus,
    /// The printable URL that it came from; empty when no mirror has it.
    pub url: String,
    /// The failed attempts.
    pub attempts: Vec<Attempt>,
}
