//! The difference between the installed packages and the desired ones.

use std::collections::{HashMap, HashSet};

use rattler_conda_types::{MatchSpec, PackageRecord, PrefixRecord, RepoDataRecord};

use super::order::topological_order;
use crate::error::PrefixError;
use crate::link::Python;

/// A package that the environment should contain.
#[derive(Debug, Clone)]
pub(crate) struct DesiredPackage {
    pub(crate) record: RepoDataRecord,
    /// The specs that request it. `None` keeps those recorded for the installed package of that
    /// name; an empty list means that it is only a dependency.
    pub(crate) requested_specs: Option<Vec<String>>,
}

impl DesiredPackage {
    /// A package that keeps its recorded specs.
    #[cfg(test)]
    pub(crate) fn new(record: RepoDataRecord) -> Self {
        Self {
            record,
            requested_specs: None,
        }
    }
}

/// A package to link.
#[derive(Debug, Clone)]
pub struct PlannedLink {
    /// Its record.
    pub record: RepoDataRecord,
    /// The specs that request it.
    pub requested_specs: Vec<String>,
}

/// A kept package whose record needs other requested specs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respec {
    /// The package's normalised name.
    pub name: String,
    /// The specs that its record should have.
    pub requested_specs: Vec<String>,
}

/// What changes in an environment.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Packages to unlink, dependents before dependencies.
    pub unlink: Vec<PrefixRecord>,
    /// Packages to link, dependencies before dependents.
    pub link: Vec<PlannedLink>,
    /// Packages that are kept.
    pub keep: Vec<PrefixRecord>,
    /// Kept packages whose record needs other requested specs.
    pub respec: Vec<Respec>,
}

impl Plan {
    /// The changes that make `records` the complete environment. `specs` are the specs that are
    /// requested now; the other packages keep their recorded ones.
    ///
    /// # Errors
    /// [`PrefixError::SitePackagesEscape`] if a python record names a path outside the prefix.
    pub fn for_solution(
        installed: &[PrefixRecord],
        records: &[RepoDataRecord],
        specs: &[MatchSpec],
    ) -> Result<Self, PrefixError> {
        let mut requested: HashMap<&str, Vec<String>> = HashMap::new();
        for spec in specs {
            if let Some(name) = spec.name.as_exact() {
                let specs = requested.entry(name.as_normalized()).or_default();
                specs.push(spec.to_string());
            }
        }
        let desired: Vec<DesiredPackage> = records
            .iter()
            .map(|record| DesiredPackage {
                record: installed_record(installed, record)
                    .unwrap_or(record)
                    .clone(),
                requested_specs: requested.remove(name(&record.package_record)),
            })
            .collect();
        Self::between(installed, &desired)
    }

    /// The records of the packages to link, in the order of `link`.
    pub fn records_to_link(&self) -> Vec<RepoDataRecord> {
        let records = self.link.iter().map(|planned| &planned.record);
        records.cloned().collect()
    }

    /// `desired` is the complete environment: installed packages that are not in it are removed.
    ///
    /// An installed build is kept, unless it is `noarch: python` and the new python has other
    /// directories.
    ///
    /// # Errors
    /// [`PrefixError::SitePackagesEscape`] if a python record names a path outside the prefix.
    pub(crate) fn between(
        installed: &[PrefixRecord],
        desired: &[DesiredPackage],
    ) -> Result<Self, PrefixError> {
        let desired_by_name: HashMap<&str, &DesiredPackage> = desired
            .iter()
            .map(|desired| (name(&desired.record.package_record), desired))
            .collect();
        let python_moves = python_moves(installed, desired)?;

        let mut plan = Self::default();
        let mut kept = HashSet::new();
        let mut recorded_specs: HashMap<&str, &Vec<String>> = HashMap::new();
        for index in topological_order(installed).into_iter().rev() {
            let record = &installed[index];
            let package = &record.repodata_record.package_record;
            recorded_specs.insert(name(package), &record.requested_specs);
            let stays = desired_by_name
                .get(name(package))
                .filter(|desired| same_build(&record.repodata_record, &desired.record))
                .filter(|desired| {
                    !(python_moves && desired.record.package_record.noarch.is_python())
                });
            let Some(desired) = stays else {
                plan.unlink.push(record.clone());
                continue;
            };
            kept.insert(name(package));
            plan.keep.push(record.clone());
            if let Some(specs) = &desired.requested_specs
                && *specs != record.requested_specs
            {
                plan.respec.push(Respec {
                    name: name(package).to_owned(),
                    requested_specs: specs.clone(),
                });
            }
        }
        plan.keep.reverse();
        let records: Vec<&PackageRecord> = desired
            .iter()
            .map(|desired| &desired.record.package_record)
            .collect();
        for index in topological_order(&records.iter().map(|r| ByRef(r)).collect::<Vec<_>>()) {
            let desired = &desired[index];
            let package = name(&desired.record.package_record);
            if kept.contains(package) {
                continue;
            }
            let requested_specs = desired.requested_specs.clone().unwrap_or_else(|| {
                recorded_specs
                    .get(package)
                    .map_or_else(Vec::new, |specs| (*specs).clone())
            });
            plan.link.push(PlannedLink {
                record: desired.record.clone(),
                requested_specs,
            });
        }
        Ok(plan)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.unlink.is_empty() && self.link.is_empty() && self.respec.is_empty()
    }
}

/// References to records do not implement `AsRef` themselves.
struct ByRef<'a>(&'a PackageRecord);

impl AsRef<PackageRecord> for ByRef<'_> {
    fn as_ref(&self) -> &PackageRecord {
        self.0
    }
}

fn name(record: &PackageRecord) -> &str {
    record.name.as_normalized()
}

/// The record by which the build of `record` is installed. It is kept, so that a channel that has
/// rewritten its metadata since causes no change.
fn installed_record<'a>(
    installed: &'a [PrefixRecord],
    record: &RepoDataRecord,
) -> Option<&'a RepoDataRecord> {
    let new = &record.package_record;
    let mut installed = installed.iter().map(|record| &record.repodata_record);
    installed.find(|old| {
        let old = &old.package_record;
        old.name == new.name
            && old.version == new.version
            && old.build == new.build
            && old.sha256 == new.sha256
    })
}

/// Whether two records are of one build. Digests are compared only between archives of one format:
/// a build exists as `.conda` and as `.tar.bz2`.
fn same_build(one: &RepoDataRecord, other: &RepoDataRecord) -> bool {
    let (first, second) = (&one.package_record, &other.package_record);
    if first.name != second.name
        || first.version != second.version
        || first.build != second.build
        || first.build_number != second.build_number
        || (first.subdir != second.subdir && !first.subdir.is_empty() && !second.subdir.is_empty())
    {
        return false;
    }
    let same_archive = one.identifier == other.identifier;
    match (first.sha256, second.sha256) {
        (Some(first), Some(second)) if same_archive => first == second,
        _ => true,
    }
}

/// Whether `noarch: python` packages have other directories afterwards.
fn python_moves(
    installed: &[PrefixRecord],
    desired: &[DesiredPackage],
) -> Result<bool, PrefixError> {
    let find = |record: &&PackageRecord| name(record) == "python";
    let old = installed
        .iter()
        .map(|record| &record.repodata_record.package_record)
        .find(find);
    let new = desired
        .iter()
        .map(|desired| &desired.record.package_record)
        .find(find);
    let (Some(old), Some(new)) = (old, new) else {
        return Ok(false);
    };
    // An installed package was linked somewhere, even if its record has an invalid path.
    let Ok(old) = Python::from_record(old) else {
        return Ok(true);
    };
    Ok(!old.same_layout(&Python::from_record(new)?))
}
