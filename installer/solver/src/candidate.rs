//! What can be chosen for a name.

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

/// One thing that can be chosen for a name.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) what: What,
    /// Its place among the candidates of its name.
    pub(crate) index: usize,
    /// The place of its channel in the request; installed records that no channel has come last.
    pub(crate) channel: usize,
    /// Compares as the version does within the name: the higher the newer. Equal versions share
    /// a rank.
    pub(crate) version_rank: u32,
    /// Why it must not be chosen.
    pub(crate) excluded: Option<StringId>,
    pub(crate) dependencies: OnceCell<Result<Needs, StringId>>,
}

/// What a candidate is.
#[derive(Debug)]
pub(crate) enum What {
    Record(Box<RepoDataRecord>),
    Virtual(GenericVirtualPackage),
}

/// The dependencies of a candidate, parsed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    pub(crate) requires: Vec<VersionSetId>,
    pub(crate) constrains: Vec<VersionSetId>,
}

impl Candidate {
    pub(crate) fn version(&self) -> &Version {
        match &self.what {
            What::Record(record) => record.package_record.version.version(),
            What::Virtual(package) => &package.version,
        }
    }

    pub(crate) fn record(&self) -> Option<&RepoDataRecord> {
        match &self.what {
            What::Record(record) => Some(record),
            What::Virtual(_) => None,
        }
    }
}

impl Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Record(record) => Display::fmt(&record.package_record, formatter),
            What::Virtual(package) => Display::fmt(package, formatter),
        }
    }
}

/// What is known of a name once its records were read.
#[derive(Debug, Default)]
pub(crate) struct Package {
    pub(crate) candidates: Vec<SolvableId>,
    pub(crate) favored: Option<SolvableId>,
    /// The channels that have the name and are not looked at, by strict priority.
    pub(crate) hidden_in: Vec<usize>,
    /// What is wrong with the records of an index, when none could be read.
    pub(crate) unreadable: Vec<String>,
}
