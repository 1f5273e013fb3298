//! Solve, extract, link: the state of a conda prefix.
//!
//! This crate turns specs into a [`Solution`], package archives into immutable entries of a
//! [`Store`], and both into a prefix that conda itself can read and change. It knows nothing of
//! argument parsing or terminals: what happens is told to a caller-supplied observer.

mod link;
mod prefix;
mod transaction;

pub use link::{LinkError, LinkMethod, LinkObserver, LinkOptions, LinkPackage, LinkWarning};
pub use prefix::{
    Frozen, HistoryEntry, LockedPrefix, Prefix, append_history, register_environment,
};
pub use transaction::{
    Plan, PlannedLink, Recovery, Respec, Summary, Transaction, Wanted, topological_order,
};
