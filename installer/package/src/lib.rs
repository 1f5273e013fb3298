//! Conda package archives and the store of extracted packages.
//!
//! [`extract`] extracts an archive of any origin while its bytes arrive; a [`Store`] keeps the
//! extracted trees, each one complete and immutable. This crate must not know channels, records,
//! prefixes or the network: an archive is a stream of bytes, and an entry is found by a digest.

mod archive;
mod inspect;
mod store;

#[cfg(test)]
mod error_texts;

pub use archive::{
    ArchiveError, ArchiveFormat, CancelFlag, ExtractLimits, ExtractSummary, extract,
};
pub use inspect::{InspectError, Inspected, inspect};
pub use store::{
    Begin, PendingEntry, Store, StoreEntry, StoreError, StoreKey, StreamingExtraction,
};

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::archive::fuzzing::*;
}
