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
use std::path::Path;

use rattler_conda_types::PackageRecord;

use super::draft::{DraftPackage, Inputs, Relocated};
use super::order::topological_order;
use super::removal::Owned;
use crate::link::{LinkObserver, LinkWarning, dist_name, normalise};
use crate::platform::claim_key;

/// The directory for the files of losers.
const CLOBBERED: &str = "conda-meta/.taipan-clobbered";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Kept(usize),
    New(usize),
}

#[derive(Debug, Clone, Copy)]
struct Claimant<'a> {
    owner: Owner,
    /// The path that the package has the file at.
    declared: &'a str,
    file: ClaimedFile<'a>,
}

#[derive(Debug, Clone, Copy)]
enum ClaimedFile<'a> {
    /// Of a kept package.
    Kept(&'a Owned<'a>),
    /// The index of a new file.
    New(usize),
}

impl<'a> Claimant<'a> {
    /// Where the file of a kept package is.
    fn location(&self) -> Option<&'a str> {
        match self.file {
            ClaimedFile::Kept(path) => Some(&path.location),
            ClaimedFile::New(_) => None,
        }
    }
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
                if claimant.location().is_some_and(|location| location != path) {
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
    /// New files that lost: package, index of the file, the place where it is put aside.
    pub(super) losers: Vec<(usize, usize, String)>,
    /// Files of kept packages that move, with the index of the package.
    pub(super) relocated: Vec<(usize, Relocated)>,
}

/// Decides the paths that several packages claim.
pub(super) fn contest<'a>(
    inputs: &Inputs<'_>,
    kept: &'a [Vec<Owned<'a>>],
    packages: &[DraftPackage<'_>],
    observer: &dyn LinkObserver,
) -> Contest {
    let mut claims = Claims::default();
    for (index, paths) in kept.iter().enumerate() {
        for path in paths.iter().filter(|path| !path.directory) {
            let owner = Owner::Kept(index);
            claims.add(
                &path.claim,
                Claimant {
                    owner,
                    declared: path.declared,
                    file: ClaimedFile::Kept(path),
                },
            );
        }
    }
    for (index, package) in packages.iter().enumerate() {
        for (file_index, file) in package.files.iter().enumerate() {
            if !package.is_directory(file) {
                claims.add(
                    &file.location,
                    Claimant {
                        owner: Owner::New(index),
                        declared: file.original.as_deref().unwrap_or(&file.location),
                        file: ClaimedFile::New(file_index),
                    },
                );
            }
        }
    }
    let Claims { first, contested } = claims;
    if contested.is_empty() {
        return Contest::default();
    }
    let ranks = ranks(inputs);
    let mut result = Contest::default();
    for (path, mut claimants) in contested {
        claimants.extend(first.get(&claim_key(path)));
        // A link of another package may lead two files of one package to one place.
        claimants.sort_by_key(|claimant| (ranks[&claimant.owner], claimant.declared));
        settle(path, &claimants, inputs, packages, &mut result, observer);
    }
    result
}

/// The rank of each package in the topological order of the resulting environment.
pub(super) fn ranks(inputs: &Inputs<'_>) -> HashMap<Owner, usize> {
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
    let winner_comes = winner.location() != Some(path);
    if let (Owner::Kept(index), ClaimedFile::Kept(file), true) =
        (winner.owner, winner.file, winner_comes)
        // A record that lists paths outside of the prefix is left alone.
        && normalise(&file.location).is_some()
    {
        let relocated = Relocated {
            recorded: file.recorded.to_owned(),
            from: file.location.clone().into_owned(),
            to: path.to_owned(),
            original: (file.declared != path).then(|| file.declared.to_owned()),
        };
        result.relocated.push((index, relocated));
    }
    let mut new_losers = false;
    for loser in losers {
        let to = clobbered_location(&name(loser.owner), loser.declared);
        match (loser.owner, loser.file) {
            (Owner::New(index), ClaimedFile::New(file)) => {
                result.losers.push((index, file, to));
                new_losers = true;
            }
            (Owner::Kept(index), ClaimedFile::Kept(file))
                if is_in_the_way(file, path, winner_comes) =>
            {
                let relocated = Relocated {
                    recorded: file.recorded.to_owned(),
                    from: file.location.clone().into_owned(),
                    to,
                    original: Some(file.declared.to_owned()),
                };
                result.relocated.push((index, relocated));
            }
            _ => {}
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

/// Whether the file of a kept package that lost `path` must be put aside: it is at `path`, which its winner takes, or at another
/// path, which was its place until a link came or went.
fn is_in_the_way(file: &Owned<'_>, path: &str, winner_comes: bool) -> bool {
    let is_aside = Path::new(&*file.location).starts_with(CLOBBERED);
    let is_there = file.location == path;
    !is_aside && (winner_comes || !is_there) && normalise(&file.location).is_some()
}

/// The path for the file of a package that lost the place of `path`.
fn clobbered_location(package: &str, path: &str) -> String {
    format!("{CLOBBERED}/{package}/{path}")
}
