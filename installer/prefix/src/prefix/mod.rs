//! The state of a prefix: its records, its history, its lock.

mod history;
mod location;
mod lock;
mod record_file;
mod registry;

pub use history::{HistoryEntry, append_history};
pub(crate) use history::{Revision, revision};
pub use location::{Frozen, Prefix};
pub use lock::LockedPrefix;
pub(crate) use record_file::{edit_record, write_record};
pub use registry::register_environment;
