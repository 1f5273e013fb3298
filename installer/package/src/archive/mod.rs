//! Conda package archives, extracted while their bytes arrive.
//!
//! [`extract`] reads a `.conda` or a `.tar.bz2` from any [`std::io::Read`] exactly once, front to
//! back, and writes the package's tree into a directory. It trusts nothing in the archive: paths
//! are checked, every directory is entered without following links, sizes are counted as they
//! arrive, and what a header merely claims is never allocated.
//!
//! The formats are CEP 35 (`.conda`, `.tar.bz2`), PKWARE's APPNOTE (zip), RFC 8878 (zstd) and
//! POSIX.1-2001 `pax` with the GNU extensions (tar).

mod central_directory;
mod conda;
mod entry_path;
pub(crate) mod error;
mod extract;
mod format;
mod limits;
mod meter;
mod mtime;
mod pax;
mod sparse;
mod tar_extractor;
mod tar_stream;
mod tree;
mod zip_stream;

#[cfg(test)]
mod container_tests;
#[cfg(test)]
mod entry_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
pub(crate) mod samples;

pub use error::ArchiveError;
pub(crate) use error::is_full;
pub use extract::extract;
pub use format::ArchiveFormat;
pub use limits::{CancelFlag, ExtractLimits, ExtractSummary};
pub(crate) use tree::replace_file_nofollow;
