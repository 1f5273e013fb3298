//! Solve, extract, link: the state of a conda prefix.
//!
//! This crate turns specs into a [`Solution`], package archives into immutable entries of a
//! [`Store`], and both into a prefix that conda itself can read and change. It knows nothing of
//! argument parsing or terminals: what happens is told to a caller-supplied observer.

mod archive;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::{archive::fuzzing::*, link::fuzzing::*};
}
mod link;
mod prefix;
mod prepare;
mod solve;
mod store;
mod transaction;

pub use archive::{
    ArchiveError, ArchiveFormat, CancelFlag, EntryProblem, ExtractLimits, ExtractSummary,
    LimitKind, extract,
};
pub use link::{LinkError, LinkMethod, LinkObserver, LinkOptions, LinkPackage, LinkWarning};
pub use prefix::{
    Frozen, HistoryEntry, LockedPrefix, Prefix, append_history, register_environment,
};
pub use prepare::{ChannelMirrors, FetchedPackage, PrepareError, Prepared, Preparer};
pub use solve::{
    ChannelIndexes, ChannelPriority, ConflictingSpec, Explanation, Orphans, Reason, Solution,
    SolveError, SolveRequest, SpecError, SpecOrigin, UnknownPackage, UpdatePolicy,
    VirtualPackageError, detect_virtual_packages, parse_spec, solve,
};
pub use store::{
    Begin, ByteFeed, Extraction, FeedClosed, FeedReader, ParseStoreKeyError, Store, StoreEntry,
    StoreError, StoreKey, StoreSize, StreamingExtraction, Swept, byte_feed,
};
pub use transaction::{
    Plan, PlannedLink, Recovery, Respec, Summary, Transaction, Wanted, topological_order,
};
