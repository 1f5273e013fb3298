//! What several fuzz targets share.

pub mod checks;
mod input;
pub mod sealed;
pub mod tars;
pub mod yard;

pub use input::Input;
