//! The candidates for a name.

use std::{
    cell::OnceCell,
    fmt::{self, Display},
};

use rattler_conda_types::{GenericVirtualPackage, NamelessMatchSpec, RepoDataRecord, Version};
use resolvo::{SolvableId, StringId, VersionSetId, utils::VersionSet};

/// A spec without its name, which the pool keeps beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Spec(pub(crate) NamelessMatchSpec);

impl VersionSet for Spec {
    type V = Candidate;
}

/// A record or virtual package that can be chosen for a name.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) kind: Kind,
    /// Its index among the candidates of its name.
    pub(crate) index: usize,
    /// The index of its channel in the request; installed records that no channel has come last.
    pub(crate) channel: usize,
    /// The rank of the version within the name: newer versions rank higher, equal ones equally.
    pub(crate) version_rank: u32,
    /// Why it must not be chosen.
    pub(crate) excluded: Option<StringId>,
    pub(crate) dependencies: OnceCell<Result<DependencySpecs, StringId>>,
}

/// The kind of a candidate.
#[derive(Debug)]
pub(crate) enum Kind {
    Record(Box<RepoDataRecord>),
    Virtual(GenericVirtualPackage),
}

/// The dependencies of a candidate, parsed.
#[derive(Debug, Clone, Default)]
pub(crate) struct DependencySpecs {
    pub(crate) requires: Vec<VersionSetId>,
    pub(crate) constrains: Vec<VersionSetId>,
}

impl Candidate {
    pub(crate) fn version(&self) -> &Version {
        match &self.kind {
            Kind::Record(record) => record.package_record.version.version(),
            Kind::Virtual(package) => &package.version,
        }
    }

    pub(crate) fn record(&self) -> Option<&RepoDataRecord> {
        match &self.kind {
            Kind::Record(record) => Some(record),
            Kind::Virtual(_) => None,
        }
    }
}

impl Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Record(record) => Display::fmt(&record.package_record, formatter),
            Kind::Virtual(package) => Display::fmt(package, formatter),
        }
    }
}

/// A name whose records were read.
#[derive(Debug, Default)]
pub(crate) struct Package {
    pub(crate) candidates: Vec<SolvableId>,
    pub(crate) favored: Option<SolvableId>,
    /// The channels that have the name and are excluded by strict priority.
    pub(crate) hidden_in: Vec<usize>,
    /// The errors of indexes that have the name and no record that can be read.
    pub(crate) unreadable: Vec<String>,
}

/// The best candidate that a spec allows: without `track_features`, then the newest. The greater
/// the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Best {
    pub(crate) without_features: bool,
    pub(crate) version_rank: u32,
}
