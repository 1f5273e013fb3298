//! Solve, extract, link: the state of a conda prefix.
//!
//! This crate turns specs into a [`Solution`], package archives into immutable entries of a
//! [`Store`], and both into a prefix that conda itself can read and change. It knows nothing of
//! argument parsing or terminals: what happens is told to a caller-supplied observer.

mod archive;
mod store;

pub use archive::{
    ArchiveError, ArchiveFormat, CancelFlag, EntryProblem, ExtractLimits, ExtractSummary,
    LimitKind, extract,
};
pub use store::{
    Begin, ByteFeed, Extraction, FeedClosed, FeedReader, ParseStoreKeyError, Store, StoreEntry,
    StoreError, StoreKey, StoreSize, StreamingExtraction, Swept, byte_feed,
};
