//! The repodata of a subdir: fetched, decoded while it arrives, and cached.

mod cache;
mod error;
mod fetch;
mod options;
mod sink;
mod subdir_index;

#[cfg(test)]
mod tests;

pub use cache::RepodataCache;
pub use error::RepodataError;
pub use fetch::fetch_index;
pub use options::RepodataOptions;
pub use subdir_index::{RepodataStatus, SubdirIndex};
