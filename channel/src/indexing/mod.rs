//! Making and changing the index of a channel: records of packages, and what is published of them.

mod build;
mod record;
mod update;

pub use build::{BuildReport, FileEntry, IndexBuilder, IndexError as BuildError, PackageReader};
pub use record::{NewPackage, RecordProblem, new_package};
pub use update::add_packages;
