//! From specs to the set of records that an environment is made of.
//!
//! The search itself is resolvo's (CDCL). What is conda about it is here: which records are
//! candidates for a name, in which order they are tried, what a spec matches, and how a failure is
//! told. Everything is read lazily: a name's records are parsed when the search reaches the name.

mod candidate;
mod error;
mod explain;
mod order;
mod provider;
mod question;
mod spec;
mod suggest;
mod virtual_packages;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use rattler_conda_types::{
    GenericVirtualPackage, MatchSpec, PackageName, PackageRecord, RepoDataRecord,
};
use resolvo::{Solver, UnsolvableOrCancelled};
use serde::{Deserialize, Serialize};
use taipan_channel::Index;
use url::Url;

pub use error::{ConflictingSpec, Explanation, Reason, SolveError, SpecOrigin, UnknownPackage};
pub use spec::{SpecError, parse_spec};
pub use virtual_packages::{VirtualPackageError, detect_virtual_packages};

use provider::{Provider, Stop};

/// The indexes of one channel.
#[derive(Debug, Clone)]
pub struct ChannelIndexes {
    /// What the user calls it, e.g. `conda-forge`; what `conda-forge::numpy` is compared with.
    pub name: String,
    /// Its canonical URL, not a mirror's.
    pub url: Url,
    /// One for each subdir, e.g. `linux-64` and `noarch`.
    pub indexes: Vec<Index>,
}

/// What a channel earlier in the list means for those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelPriority {
    /// A name that an earlier channel has is taken from there alone.
    #[default]
    Strict,
    /// Records of earlier channels are tried first, whatever their version.
    Flexible,
    /// Versions decide; of equal records that of the earlier channel is taken.
    Disabled,
}

/// What becomes of the records that are installed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdatePolicy {
    /// An installed record stays as long as the specs and the other records allow it.
    #[default]
    KeepInstalled,
    /// The names in the specs come out as new as possible; the others stay where they can.
    UpdateNamed,
    /// Everything comes out as new as possible.
    UpdateAll,
}

/// What becomes of installed records that no spec asks for and nothing depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orphans {
    /// They stay unless what is asked for rules out every version of them.
    #[default]
    Keep,
    /// They are left out of the solution.
    Drop,
}

/// A question to the solver.
#[derive(Debug, Clone, Default)]
pub struct SolveRequest {
    /// The channels, the most important first.
    pub channels: Vec<ChannelIndexes>,
    /// What the environment must contain. Names must be exact.
    pub specs: Vec<MatchSpec>,
    /// What is installed, preferred as `update` says.
    pub installed: Vec<RepoDataRecord>,
    /// What must hold of a name *if* it comes to be installed.
    pub pins: Vec<MatchSpec>,
    /// What the machine offers: see [`detect_virtual_packages`].
    pub virtual_packages: Vec<GenericVirtualPackage>,
    /// What the order of the channels means.
    pub channel_priority: ChannelPriority,
    /// What becomes of installed records.
    pub update: UpdatePolicy,
    /// What becomes of installed records that nothing needs.
    pub orphans: Orphans,
    /// Records built after this moment are not considered. Those that say no time are: they are
    /// older than the field. Installed records are, too.
    pub exclude_newer: Option<jiff::Timestamp>,
    /// Give up after this time. The explanation of a failure may take a little longer.
    pub timeout: Option<Duration>,
    /// Give up when this becomes true.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// The answer: plain data, which can be stored, sent and compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solution {
    /// One record for each name, every one after those that it depends on (where dependencies
    /// form a circle, as near to that as possible).
    pub records: Vec<RepoDataRecord>,
}

/// Finds the newest set of records that satisfies the request. The same request gives the same
/// solution.
///
/// This computes for milliseconds to seconds and must not run on an async executor's thread.
///
/// # Errors
///
/// [`SolveError::UnknownPackage`] when no channel has a name that a spec asks for,
/// [`SolveError::Unsatisfiable`] when the specs cannot be met together; the others say that the
/// question was no question, or that it was given up.
pub fn solve(request: &SolveRequest) -> Result<Solution, SolveError> {
    let deadline = request.timeout.map(|timeout| Instant::now() + timeout);
    error::check(request)?;
    let provider = Provider::new(request, deadline);
    let mut question = provider.question();
    loop {
        let mut solver = Solver::new(&provider);
        let conflict = match solver.solve(question.problem()) {
            Ok(solvables) => {
                let records = solvables
                    .into_iter()
                    .filter_map(|it| provider.record(it))
                    .collect();
                let records = PackageRecord::sort_topologically(records);
                return Ok(Solution { records });
            }
            Err(UnsolvableOrCancelled::Unsolvable(conflict)) => conflict,
            Err(UnsolvableOrCancelled::Cancelled(value)) => {
                return Err(match value.downcast_ref() {
                    Some(Stop::Cancelled) => SolveError::Cancelled,
                    _ => SolveError::Timeout {
                        after: request.timeout.unwrap_or_default(),
                    },
                });
            }
        };
        // An orphan that stands in the way goes, one at a time, since the next may do without.
        // (Resolvo's soft requirements are not for this: with them, a record that was only to be
        // kept can displace one that was asked for.)
        if !question
            .drop_orphan(|orphans| explain::involved(&provider, &solver, &conflict, orphans))
        {
            let explanation = explain::explain(&provider, &question, &solver, &conflict);
            return Err(SolveError::Unsatisfiable(Box::new(explanation)));
        }
    }
}

/// The name that a spec asks for, if it is one name and not a pattern.
fn exact_name(spec: &MatchSpec) -> Option<&PackageName> {
    spec.name.as_exact()
}

/// Names of virtual packages begin so; channels cannot supply them.
fn is_virtual(name: &str) -> bool {
    name.starts_with("__")
}
