//! What has to change to get from what is installed to what is wanted.

use std::collections::{HashMap, HashSet};

use rattler_conda_types::{PackageRecord, PrefixRecord, RepoDataRecord};

use super::order::topological_order;
use crate::link::{LinkError, Python};

/// A package that should be in the environment.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The record of the current repodata.
    pub record: RepoDataRecord,
    /// The specs by which a person asked for it. `None` leaves what is recorded for the
    /// installed package of that name; an empty list says that nobody asks for it by name.
    pub requested_specs: Option<Vec<String>>,
}

impl Wanted {
    /// A package about whose requested specs nothing new is said.
    pub fn new(record: RepoDataRecord) -> Self {
        Self {
            record,
            requested_specs: None,
        }
    }
}

/// A package to be linked.
#[derive(Debug, Clone)]
pub struct PlannedLink {
    /// Its record.
    pub record: RepoDataRecord,
    /// The specs by which a person asked for it.
    pub requested_specs: Vec<String>,
}

/// A package that stays, with other requested specs than recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respec {
    /// The package's normalised name.
    pub name: String,
    /// The specs that its record should have.
    pub requested_specs: Vec<String>,
}

/// The difference between what is installed and what is wanted.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Packages that go, dependents before dependencies.
    pub unlink: Vec<PrefixRecord>,
    /// Packages that come, dependencies before dependents.
    pub link: Vec<PlannedLink>,
    /// Packages that stay as they are.
    pub keep: Vec<PrefixRecord>,
    /// Packages that stay, but whose record needs other requested specs.
    pub respec: Vec<Respec>,
}

impl Plan {
    /// `wanted` is the complete environment: what is installed and not in it is removed.
    ///
    /// The same build of the same package stays untouched, unless it is `noarch: python` and the
    /// python it was linked for changes its directories.
    ///
    /// # Errors
    /// [`LinkError::SitePackagesEscape`] if a python record names a path outside the prefix.
    pub fn between(installed: &[PrefixRecord], wanted: &[Wanted]) -> Result<Self, LinkError> {
        let wanted_by_name: HashMap<&str, &Wanted> = wanted
            .iter()
            .map(|wanted| (name(&wanted.record.package_record), wanted))
            .collect();
        let python_moves = python_moves(installed, wanted)?;

        let mut plan = Self::default();
        let mut kept = HashSet::new();
        let mut recorded_specs: HashMap<&str, &Vec<String>> = HashMap::new();
        for index in topological_order(installed).into_iter().rev() {
            let record = &installed[index];
            let package = &record.repodata_record.package_record;
            recorded_specs.insert(name(package), &record.requested_specs);
            let stays = wanted_by_name
                .get(name(package))
                .filter(|wanted| same_build(&record.repodata_record, &wanted.record))
                .filter(|wanted| {
                    !(python_moves && wanted.record.package_record.noarch.is_python())
                });
            let Some(wanted) = stays else {
                plan.unlink.push(record.clone());
                continue;
            };
            kept.insert(name(package));
            plan.keep.push(record.clone());
            if let Some(specs) = &wanted.requested_specs
                && *specs != record.requested_specs
            {
                plan.respec.push(Respec {
                    name: name(package).to_owned(),
                    requested_specs: specs.clone(),
                });
            }
        }
        plan.keep.reverse();
        let records: Vec<&PackageRecord> = wanted
            .iter()
            .map(|wanted| &wanted.record.package_record)
            .collect();
        for index in topological_order(&records.iter().map(|r| ByRef(r)).collect::<Vec<_>>()) {
            let wanted = &wanted[index];
            let package = name(&wanted.record.package_record);
            if kept.contains(package) {
                continue;
            }
            let requested_specs = wanted.requested_specs.clone().unwrap_or_else(|| {
                recorded_specs
                    .get(package)
                    .map_or_else(Vec::new, |specs| (*specs).clone())
            });
            plan.link.push(PlannedLink {
                record: wanted.record.clone(),
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

/// Whether two records name one build. The archive's digest only counts between archives of one
/// kind: a build exists as `.conda` and as `.tar.bz2`.
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

/// Whether `noarch: python` packages lie elsewhere afterwards.
fn python_moves(installed: &[PrefixRecord], wanted: &[Wanted]) -> Result<bool, LinkError> {
    let find = |record: &&PackageRecord| name(record) == "python";
    let old = installed
        .iter()
        .map(|record| &record.repodata_record.package_record)
        .find(find);
    let new = wanted
        .iter()
        .map(|wanted| &wanted.record.package_record)
        .find(find);
    let (Some(old), Some(new)) = (old, new) else {
        return Ok(false);
    };
    // What is installed was linked somehow, whatever its record says of site-packages.
    let Ok(old) = Python::from_record(old) else {
        return Ok(true);
    };
    Ok(!old.same_layout(&Python::from_record(new)?))
}
