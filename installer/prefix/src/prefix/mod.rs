//! The state of a prefix: its path, its records, its history.

mod history;
mod location;
mod record_file;
mod registry;
mod requested;

pub use history::{HistoryEntry, append_history};
pub(crate) use history::{Revision, revision};
pub(crate) use location::JOURNAL;
pub use location::{Frozen, Prefix};
pub(crate) use record_file::{edit_record, write_record};
pub use registry::register_environment;
