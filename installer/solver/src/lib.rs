//! From specs to the set of records that an environment consists of.
//!
//! The search is resolvo's (CDCL). What is specific to conda is here: which records are candidates
//! for a name, in which order they are tried, what a spec matches, and how a failure is explained.
//! Everything is read lazily: a name's records are parsed when the search reaches the name. This
//! crate must not know archives, prefixes or terminals: a request and its answer are plain data.

mod candidate;
mod check;
mod error;
mod explain;
mod explanation;
mod order;
mod provider;
mod request;
mod root_problem;
mod solve;
mod spec;
mod spec_list;
mod suggest;
mod virtual_packages;

#[cfg(test)]
mod error_texts;
#[cfg(test)]
mod tests;

pub use error::{SolveError, UnknownPackage};
pub use explanation::{ConflictingSpec, Explanation, Reason, SpecOrigin};
pub use request::{ChannelPriority, Orphans, SolveRequest, UpdatePolicy};
pub use solve::{Solution, solve};
pub use spec::{SpecError, parse_spec};
pub use spec_list::{SpecListError, parse_spec_list};
pub use virtual_packages::{VirtualPackageError, virtual_packages};
