//! What a conda channel is.
//!
//! Repodata in every form, the index that the solver reads, and how a channel lies on a web
//! server, in a bucket and in an OCI registry. This crate must not know prefixes.

mod channel;
mod index;
mod oci_layout;
mod repodata;
mod repodata_sink;

pub use channel::{Channel, ChannelError, package_target};
pub use index::{Index, IndexError, IndexLimits, RecordError, SkippedRecord};
pub use oci_layout::{OciLayoutError, metadata_target, package_reference};
pub use repodata::{
    Freshness, RepodataCache, RepodataError, RepodataOptions, SubdirIndex, fetch_index,
};
