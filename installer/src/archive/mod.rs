//! Conda package archives, unpacked while their bytes arrive.
//!
//! [`extract`] reads a `.conda` or a `.tar.bz2` from any [`std::io::Read`] exactly once, front to
//! back, and writes the package's tree into a directory. It trusts nothing in the archive: paths
//! are checked, every directory is entered without following links, sizes are counted as they
//! arrive, and what a header merely claims is never allocated.
//!
//! The formats are CEP 35 (`.conda`, `.tar.bz2`), PKWARE's APPNOTE (zip), RFC 8878 (zstd) and
//! POSIX.1-2001 `pax` with the GNU extensions (tar).

mod conda;
mod entry_path;
mod error;
mod extract;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod limits;
mod meter;
mod pax;
mod sparse;
mod spool;
mod tar_stream;
mod tree;
mod unpack;
mod zip_stream;

#[cfg(test)]
mod container_tests;
#[cfg(test)]
mod entry_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
pub(crate) mod samples;

pub(crate) use error::is_full;
pub use error::{ArchiveError, EntryProblem, LimitKind};
pub use extract::{ArchiveFormat, extract};
pub use limits::{CancelFlag, ExtractLimits, ExtractSummary};
pub(crate) use tree::replace_file_nofollow;
