//! A request to the solver.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rattler_conda_types::{GenericVirtualPackage, MatchSpec, RepoDataRecord};
use serde::{Deserialize, Serialize};
use taipan_channel::Index;
use url::Url;

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
    /// What the machine offers: see [`detect_virtual_packages`](crate::detect_virtual_packages).
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
