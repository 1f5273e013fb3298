//! What a conda channel is.
//!
//! Repodata in every form, the index that the solver reads, and how a channel lies on a web
//! server, in a bucket and in an OCI registry. This crate knows nothing of prefixes: what is done
//! with a package once its bytes are here is the business of `taipan-installer`.

mod index;

pub use index::{Index, IndexError, IndexLimits, RecordError, SkippedRecord};
