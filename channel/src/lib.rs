//! What a conda channel is.
//!
//! Repodata, the index that the solver reads, and how a channel lies on a web server, in a bucket
//! and in an OCI registry. This crate must not know prefixes, archives or how a solution is found.

mod channel;
mod channel_indexes;
mod index;
mod look_up;
mod mirrored_channel;
mod oci_layout;
mod odd_fields;
mod package_target;
mod probe_sample;
mod repodata;

#[cfg(test)]
mod error_texts;

pub use channel::{Channel, ChannelError};
pub use channel_indexes::{ChannelIndexes, fetch_channels};
pub use index::{IndexError, IndexLimits, RecordError, RepodataIndex, SkippedRecord};
pub use look_up::{FoundPackage, LookUp, PackageQuery, is_package_path, look_up};
pub use mirrored_channel::MirroredChannel;
pub use oci_layout::{OciLayoutError, metadata_target, package_reference};
pub use odd_fields::parse_record;
pub use package_target::package_target;
pub use probe_sample::{looks_like_repodata, probe_candidates};
pub use repodata::{
    RepodataCache, RepodataError, RepodataOptions, RepodataStatus, SubdirIndex, fetch_index,
};
