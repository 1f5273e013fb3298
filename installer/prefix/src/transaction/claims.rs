//! Which package has a path that several claim.
//!
//! A path with several claimants belongs to the package that is
//! latest in the topological order of the whole environment (names break ties there), so the
//! winner depends on what is installed and not on the history of how it came to be. The file of
//! a loser is put below `conda-meta/.taipan-clobbered/`, finished for this prefix, and its record
//! says where it is (`_path`) and where it would be (`original_path`, the field rattler uses).
//! When the winner goes, the file moves to its place without the package being needed again.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use rattler_conda_types::PackageRecord;

use super::draft::{DraftPackage, Inputs, Relocated, Source};
use super::order::topological_order;
use super::removal::Owned;
use crate::link::{FileKind, LinkObserver, LinkWarning, claim_key, dist_name};

/// Where the files of losers are kept.
const CLOBBERED: &str = "conda-meta/.taipan-clobbered";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Kept(usize),
    New(usize),
}

#[derive(Debug, Clone, Copy)]
struct Claimant<'a> {
    owner: Owner,
    /// Where a kept package has its file now.
    location: Option<&'a str>,
}

/// Who wants which path. Most paths have one claimant, and cost one entry.
#[derive(Debug, Default)]
struct Claims<'a> {
    first: HashMap<Cow<'a, str>, Claimant<'a>>,
    /// The claimants after the first; also paths whose only claimant has its file elsewhere.
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
    /// Files of kept packages that go elsewhere, with the index of the package.
    pub(super) relocated: Vec<(usize, Relocated)>,
}

/// Settles who has the paths that several packages claim.
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
            let is_directory = matches!(file.source, Source::File(file)
                if package.contents.files[file].kind == FileKind::Directory);
            if !is_directory {
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

/// The place of each package in the topological order of the environment as it will be.
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
    // Packages that conda installed may share a place. As long as one of them keeps it there is
    // nothing to be saved: the bytes of the others are gone already.
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

/// Where the file of a package that lost `path` is kept.
pub(super) fn clobbered_location(package: &str, path: &str) -> String {
    format!("{CLOBBERED}/{package}/{path}")
}
