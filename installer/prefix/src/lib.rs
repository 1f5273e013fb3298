//! The state of a conda prefix: what is installed, and how it changes.
//!
//! A [`Preparer`] brings packages into the store, a [`Plan`] says what goes and what comes, and a
//! [`Transaction`] changes the prefix, all or nothing, so that conda itself can read and change
//! it. This crate must not know argument parsing, terminals or how a solution is found: progress
//! goes to the caller's observer, and the records of an environment are plain data.

mod error;
mod failpoint;
mod link;
mod platform;
mod prefix;
mod prepare;
mod recovery;
mod transaction;

#[cfg(test)]
mod error_texts;

pub use error::PrefixError;
pub use link::{LinkMethod, LinkObserver, LinkOptions, LinkWarning};
pub use prefix::{Frozen, HistoryEntry, Prefix, append_history, register_environment};
pub use prepare::{PrepareError, Prepared, Preparer};
pub use recovery::LockedPrefix;
pub use transaction::{Plan, Summary, Transaction};
