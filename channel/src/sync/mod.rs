//! Mirrors of a channel: copying what an index names, publishing the index, removing what no index names any more.
//!
//! A destination holds its own state, so that any machine can go on with it. What an index there names is there:
//! packages are sent before the index, and deleted only after a time in which no index has named them.

mod copy;
mod error;
mod filter;
mod finish;
mod local;
mod needed;
mod options;
mod plan;
mod prune;
mod publish;
mod report;
mod run;
mod source;
mod state;
mod status;
mod worker;
mod zck;

pub(crate) use error::SyncError as Error;
pub(crate) use local::{blocking, compress, local};
pub(crate) use source::{IndexResponse, LocalIndex, fetch_form};
pub(crate) use zck::{ZCK, Zck, fetch_zck, make_zck};

pub use error::SyncError;
pub use filter::{Filter, FilterError};
pub use needed::needed_names;
pub use options::{Prune, SyncOptions, Worker};
pub use report::{
    CopyFailure, DestinationOutcome, DestinationReport, FailureSide, SubdirReport, SyncEvent,
    SyncObserver,
};
pub use run::sync_subdir;
pub use state::{Failure, Grave, MirrorState};
pub use status::{VerifyReport, read_status, verify_mirror};
