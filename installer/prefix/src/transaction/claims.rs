//! Which package has a path that several claim.
//!
//! A path with several claimants belongs to the last of them in the topological order of the whole
//! environment (names break ties there), so the winner depends on what is installed, and not on the
//! order of installation. The file of a loser is kept below `conda-meta/.taipan-clobbered/`, linked
//! for this prefix. Its record has the path of the file (`_path`) and the claimed one
//! (`original_path`, the field that rattler uses). When the winner is removed, the file moves to
//! its path, and the package is not needed.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use rattler_conda_types::PackageRecord;

use super::draft::{DraftPackage, Inputs, Relocated};
use super::order::topological_order;
use super::removal::Owned;
use crate::link::{LinkObserver, LinkWarning, dist_name};
use crate::platform::claim_key;

/// The directory for the files of losers.
const CLOBBERED: &str = "conda-meta/.taipan-clobbered";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Kept(usize),
    New(usize),
}

#[derive(Debug, Clone, Copy)]
struct Claimant<'a> {
    owner: Owner,
    /// The current path of a kept package's file.
    location: Option<&'a str>,
}

/// The claimants of each path. Most paths have one, and need one entry.
#[derive(Debug, Default)]
struct Claims<'a> {
    first: HashMap<Cow<'a, str>, Claimant<'a>>,
    /// The claimants after the first; and paths whose only claimant has its file elsewhere.
    contested: BTreeMap<&'a str, Vec<Claimant<'a>>>,
}

impl<'a> Claims<'a> {
    fn add(&mut self, path: &'a str, claimant: Claimant<'a>) {
        match self.first.entry(claim_key(path)) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                if claimant.location.is_some_and(|location| location != path) {
                    self.contested.entry(path).or_default();
                }
                entry.insert(claimant);
            }
            std::collections::hash_map::Entry::Occupied(_) => {
                self.contested.entry(path).or_default().push(claimant);
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Contest {
    /// New files that lost: package, index of the file, the path they claim.
    pub(super) losers: Vec<(usize, usize, String)>,
    /// Files of kept packages that move, with the index of the package.
    pub(super) relocated: Vec<(usize, Relocated)>,
}

/// Decides the paths that several packages claim.
pub(super) fn contest(
    inputs: &Inputs<'_>,
    kept: &[Vec<Owned<'_>>],
    packages: &[DraftPackage<'_>],
    observer: &dyn LinkObserver,
) -> Contest {
    let mut claims = Claims::default();
    let mut file_of: HashMap<(usize, &str), usize> = HashMap::new();
    for (index, paths) in kept.iter().enumerate() {
        for path in paths.iter().filter(|path| !path.directory) {
            let owner = Owner::Kept(index);
            claims.add(
                path.claim,
                Claimant {
                    owner,
                    location: Some(path.location),
                },
            );
        }
    }
    for (index, package) in packages.iter().enumerate() {
        for file in &package.files {
            if !package.is_directory(file) {
                claims.add(
                    &file.location,
                    Claimant {
                        owner: Owner::New(index),
                        location: None,
                    },
                );
            }
        }
    }
    let Claims { first, contested } = claims;
    if contested.is_empty() {
        return Contest::default();
    }
    for (index, package) in packages.iter().enumerate() {
        for (file_index, file) in package.files.iter().enumerate() {
            if contested.contains_key(file.location.as_str()) {
                file_of.insert((index, &file.location), file_index);
            }
        }
    }
    let ranks = ranks(inputs);
    let mut result = Contest::default();
    for (path, mut claimants) in contested {
        claimants.extend(first.get(&claim_key(path)));
        claimants.sort_by_key(|claimant| ranks[&claimant.owner]);
        settle(
            path,
            &claimants,
            inputs,
            packages,
            &file_of,
            &mut result,
            observer,
        );
    }
    result
}

/// The rank of each package in the topological order of the resulting environment.
fn ranks(inputs: &Inputs<'_>) -> HashMap<Owner, usize> {
    let records: Vec<RecordRef<'_>> = inputs
        .keep
        .iter()
        .map(|record| RecordRef(&record.repodata_record.package_record))
        .chain(
            inputs
                .link
                .iter()
                .map(|package| RecordRef(&package.record.package_record)),
        )
        .collect();
    topological_order(&records)
        .into_iter()
        .enumerate()
        .map(|(rank, index)| {
            let owner = index
                .checked_sub(inputs.keep.len())
                .map_or(Owner::Kept(index), Owner::New);
            (owner, rank)
        })
        .collect()
}

struct RecordRef<'a>(&'a PackageRecord);

impl AsRef<PackageRecord> for RecordRef<'_> {
    fn as_ref(&self) -> &PackageRecord {
        self.0
    }
}

/// Decides one path. `claimants` are sorted, the winner last.
fn settle(
    path: &str,
    claimants: &[Claimant<'_>],
    inputs: &Inputs<'_>,
    packages: &[DraftPackage<'_>],
    file_of: &HashMap<(usize, &str), usize>,
    result: &mut Contest,
    observer: &dyn LinkObserver,
) {
    let Some((winner, losers)) = claimants.split_last() else {
        return;
    };
    let name = |owner: Owner| match owner {
        Owner::Kept(index) => dist_name(&inputs.keep[index].repodata_record.package_record),
        Owner::New(index) => packages[index].name.clone(),
    };
    // Packages that conda installed may share a path. The files of the others are lost already, so
    // nothing moves as long as one of them keeps the path.
    let winner_comes = winner.location != Some(path);
    if let (Owner::Kept(index), Some(from), true) = (winner.owner, winner.location, winner_comes) {
        let relocated = Relocated {
            from: from.to_owned(),
            to: path.to_owned(),
            original: None,
        };
        result.relocated.push((index, relocated));
    }
    let mut new_losers = false;
    for loser in losers {
        match (loser.owner, loser.location) {
            (Owner::New(index), _) => {
                if let Some(&file) = file_of.get(&(index, path)) {
                    result.losers.push((index, file, path.to_owned()));
                    new_losers = true;
                }
            }
            (Owner::Kept(index), Some(location)) if winner_comes && location == path => {
                let to = clobbered_location(&name(loser.owner), path);
                let original = Some(path.to_owned());
                let relocated = Relocated {
                    from: path.to_owned(),
                    to,
                    original,
                };
                result.relocated.push((index, relocated));
            }
            (Owner::Kept(_), _) => {}
        }
    }
    let new_winner = matches!(winner.owner, Owner::New(_)) && !losers.is_empty();
    if new_winner || new_losers {
        observer.warning(&LinkWarning::Clobber {
            path: path.into(),
            winner: name(winner.owner),
            losers: losers.iter().map(|loser| name(loser.owner)).collect(),
        });
    }
}

/// The path for the file of a package that lost `path`.
pub(super) fn clobbered_location(package: &str, path: &str) -> String {
    format!("{CLOBBERED}/{package}/{path}")
}
