//! A request to the solver.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rattler_conda_types::{GenericVirtualPackage, MatchSpec, PrefixRecord, RepoDataRecord};
use serde::{Deserialize, Serialize};
use taipan_channel::ChannelIndexes;

use crate::spec::{exact_name, parse_spec};

/// How the order of channels matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelPriority {
    /// A name is taken only from the first channel that has it.
    #[default]
    Strict,
    /// Records of earlier channels are tried first, whatever their version.
    Flexible,
    /// Versions decide; of equal records, that of the earlier channel is preferred.
    Disabled,
}

/// How installed records are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdatePolicy {
    /// An installed record stays as long as the specs and the other records allow it.
    #[default]
    KeepInstalled,
    /// The names in the specs are updated; the others stay if possible.
    UpdateNamed,
    /// Everything is updated.
    UpdateAll,
}

/// How installed records that no spec requires and nothing depends on are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orphans {
    /// They stay unless the specs exclude every version of them.
    #[default]
    Keep,
    /// They are left out of the solution.
    Drop,
}

/// A request to the solver.
#[derive(Debug, Clone, Default)]
pub struct SolveRequest {
    /// The channels, the most important first.
    pub channels: Vec<ChannelIndexes>,
    /// What the environment must contain. Names must be exact.
    pub specs: Vec<MatchSpec>,
    /// The installed records, preferred as `update` says.
    pub installed: Vec<RepoDataRecord>,
    /// What a name must satisfy *if* it is installed.
    pub pins: Vec<MatchSpec>,
    /// The virtual packages of the machine:
    /// see [`virtual_packages`](crate::virtual_packages).
    pub virtual_packages: Vec<GenericVirtualPackage>,
    /// How the order of the channels matters.
    pub channel_priority: ChannelPriority,
    /// How installed records are treated.
    pub update: UpdatePolicy,
    /// How installed records that nothing needs are treated.
    pub orphans: Orphans,
    /// Records built after this time are excluded, except for installed ones. Records without a
    /// time are older than the field, and not excluded.
    pub exclude_newer: Option<jiff::Timestamp>,
    /// The time limit. The explanation of a failure may take a little longer.
    pub timeout: Option<Duration>,
    /// Cancels the search when it becomes true.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl SolveRequest {
    /// A request that changes an environment as `specs` say. What was requested earlier still
    /// holds, except for the names that `specs` name.
    pub fn for_environment(
        specs: &[MatchSpec],
        installed: &[PrefixRecord],
        pins: Vec<MatchSpec>,
    ) -> Self {
        let mut all = specs.to_vec();
        for record in installed {
            let name = &record.repodata_record.package_record.name;
            if specs.iter().any(|spec| exact_name(spec) == Some(name)) {
                continue;
            }
            for text in &record.requested_specs {
                // Another tool may write specs that cannot be parsed here; the name still holds.
                let spec = parse_spec(text).or_else(|_| parse_spec(name.as_normalized()));
                all.extend(spec);
            }
        }
        let records = installed.iter().map(|record| &record.repodata_record);
        Self {
            specs: all,
            installed: records.cloned().collect(),
            pins,
            ..Self::default()
        }
    }
}
