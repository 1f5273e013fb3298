//! The records of an index as text: found in a file of any size in bounded memory, and copied verbatim.

mod rewrite;
mod scan;
mod shards;
mod table;
mod zck;

pub use rewrite::Rewrite;
pub use scan::ScanError;
pub use table::{Form, RecordTable, Row};

pub(crate) use rewrite::write_index;
pub(crate) use shards::{ShardCache, Shards, make_shards, shard_file};
pub(crate) use table::identity;
pub(crate) use zck::IndexLog;
