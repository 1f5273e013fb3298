//! The ways in which a job fetches its file.

pub(crate) mod arbitration;
pub(crate) mod delta;
pub(crate) mod journal;
pub(crate) mod partial;
pub(crate) mod range_map;
pub(crate) mod segment;
pub(crate) mod segments;
pub(crate) mod spool;
pub(crate) mod stream;
