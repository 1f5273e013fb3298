//! Brings the packages of a solution into the store.

mod error;
mod partial_dir;
mod preparer;
mod sink;

pub use error::PrepareError;
pub use preparer::{Prepared, Preparer};
