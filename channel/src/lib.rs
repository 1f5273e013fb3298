//! What a conda channel is.
//!
//! Repodata, the index that the solver reads, and how a channel lies on a web server, in a bucket
//! and in an OCI registry. This crate must not know prefixes, archives or how a solution is found.

mod channel;
mod channel_indexes;
mod index;
mod indexing;
mod layout;
mod look_up;
mod mirrored_channel;
mod oci_layout;
mod odd_fields;
mod package_target;
mod probe_sample;
mod records;
mod repodata;
mod sync;

#[cfg(test)]
mod error_texts;

pub use channel::{Channel, ChannelError};
pub use channel_indexes::{ChannelIndexes, fetch_channels};
pub use index::{IndexError, IndexLimits, RecordError, RepodataIndex, SkippedRecord};
pub use indexing::{
    BuildError, BuildReport, FileEntry, IndexBuilder, NewPackage, PackageReader, RecordProblem,
    add_packages, new_package,
};
pub use layout::package_file;
pub use look_up::{FoundPackage, LookUp, PackageQuery, is_package_path, look_up};
pub use mirrored_channel::MirroredChannel;
pub use oci_layout::{OciLayoutError, metadata_target, package_reference};
pub use odd_fields::parse_record;
pub use package_target::package_target;
pub use probe_sample::{looks_like_repodata, probe_candidates};
pub use records::{Form, RecordTable, Rewrite, Row, ScanError};
pub use repodata::{
    RepodataCache, RepodataError, RepodataOptions, RepodataStatus, SubdirIndex, fetch_index,
};
pub use sync::{
    CopyFailure, DestinationOutcome, DestinationReport, Failure, FailureSide, Filter, FilterError,
    Grave, MirrorState, Prune, SubdirReport, SyncError, SyncEvent, SyncObserver, SyncOptions,
    VerifyReport, Worker, needed_names, read_status, sync_subdir, verify_mirror,
};
