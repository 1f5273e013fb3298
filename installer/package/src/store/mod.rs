//! The package store: extracted packages, immutable and complete, shared by all environments.
//!
//! ```text
//! ROOT/v1/ab/abcd…/pkg/          the extracted tree
//!                 /entry.json    written last: its presence, after a rename, is the entry's
//!        /ab/abcd….lock          held while somebody makes or removes the entry
//! ROOT/tmp/RANDOM/               what one process is making
//!         /RANDOM.lock           held as long as that process lives
//! ```
//!
//! An entry appears by one rename within the store, so it is there whole or not at all, however
//! its maker ends. All locks are `flock`s of the operating system and die with their holder. A
//! power cut is not covered: files are not synced one by one.

mod entry_file;
mod error;
mod extraction;
mod feed;
mod key;
mod lock;
mod package_store;
mod scratch;
mod streaming;

#[cfg(test)]
mod streaming_tests;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use extraction::Extraction;
pub use key::StoreKey;
pub use package_store::{Begin, Store, StoreEntry};
pub use streaming::StreamingExtraction;
