//! The package store: extracted packages, immutable and complete, shared by all environments.
//!
//! ```text
//! ROOT/v1/ab/abcd…/pkg/          the extracted tree
//!                 /entry.json    written last: marks a complete entry
//!        /ab/abcd….lock          held while the entry is built or removed
//! ROOT/tmp/RANDOM/               entries that one process builds
//!         /RANDOM.lock           held as long as that process lives
//! ```
//!
//! An entry appears by one rename within the store, so it is complete or absent, however its
//! builder ends. All locks are `flock`s of the operating system and end with their holder. A
//! power cut is not covered: files are not synced one by one.

mod entry_file;
mod error;
mod feed;
mod key;
mod lock;
mod package_store;
mod pending_entry;
mod scratch;
mod store_dir;
mod streaming_extraction;

#[cfg(test)]
mod streaming_tests;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use key::StoreKey;
pub use package_store::{Begin, Store};
pub use pending_entry::PendingEntry;
pub use store_dir::StoreEntry;
pub use streaming_extraction::StreamingExtraction;
