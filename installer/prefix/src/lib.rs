//! The state of a conda prefix: what is installed, and how it changes.
//!
//! A [`Preparer`] brings packages into the store, a [`Plan`] says what goes and what comes, and a
//! [`Transaction`] changes the prefix, all or nothing, so that conda itself can read and change
//! it. This crate must not know argument parsing, terminals or how a solution is found: progress
//! goes to the caller's observer, and the records of an environment are plain data.

mod link;
mod prefix;
mod prepare;
mod transaction;

pub use link::{LinkError, LinkMethod, LinkObserver, LinkOptions, LinkPackage, LinkWarning};
pub use prefix::{
    Frozen, HistoryEntry, LockedPrefix, Prefix, append_history, register_environment,
};
pub use prepare::{ChannelMirrors, FetchedPackage, PrepareError, Prepared, Preparer};
pub use transaction::{Plan, PlannedLink, Respec, Summary, Transaction, Wanted, topological_order};
