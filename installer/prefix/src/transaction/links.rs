//! Symbolic links to directories, below which packages have files.
//!
//! A package may link `lib64` to `lib`, and another may have `lib64/x`. The file has one place then, `lib/x`, by which it is
//! planned, claimed and recorded; the record keeps the declared path as `original_path`. When the link goes, or when one
//! comes where a directory was, files of kept packages move to the place that their declared path has afterwards.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rattler_conda_types::PrefixRecord;
use rattler_conda_types::prefix_record::PathType;

use super::claims::{Owner, ranks};
use super::draft::{DraftPackage, Inputs, Source};
use crate::link::FileKind;

/// As many links are followed in a path as Linux follows.
const MOST_FOLLOWED: usize = 40;

/// The links between directories before and after a transaction.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) before: DirectoryLinks,
    pub(super) after: DirectoryLinks,
}

/// The targets of links, by the place of the link. A target is relative to the directory of its link.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DirectoryLinks(HashMap<String, String>);

impl DirectoryLinks {
    /// The place of a file: its path with the links above it followed. `None` if they lead out of the prefix or in a circle.
    pub(super) fn place<'p>(&self, path: &'p str) -> Option<Cow<'p, str>> {
        let mut above = ancestors(path);
        if self.0.is_empty() || !above.any(|above| self.0.contains_key(above)) {
            return Some(path.into());
        }
        self.follow(path, false).map(Cow::Owned)
    }

    /// The place of a directory, which may be such a link itself.
    pub(super) fn directory<'p>(&self, path: &'p str) -> Option<Cow<'p, str>> {
        if self.0.contains_key(path) {
            return self.follow(path, true).map(Cow::Owned);
        }
        self.place(path)
    }

    fn follow(&self, path: &str, last: bool) -> Option<String> {
        let mut place = String::with_capacity(path.len());
        let mut parts: Vec<&str> = path.split('/').rev().collect();
        let mut followed = 0;
        while let Some(part) = parts.pop() {
            match part {
                "" | "." => continue,
                ".." => {
                    // Every directory in `place` is a real one.
                    let above = parent(&place).map(str::len);
                    place.truncate(above.or((!place.is_empty()).then_some(0))?);
                    continue;
                }
                _ if place.is_empty() => place.push_str(part),
                _ => {
                    place.push('/');
                    place.push_str(part);
                }
            }
            if let Some(target) = self.0.get(&place)
                && (last || !parts.is_empty())
            {
                followed += 1;
                if followed > MOST_FOLLOWED {
                    return None;
                }
                place.truncate(parent(&place).map_or(0, str::len));
                parts.extend(target.split('/').rev());
            }
        }
        (!place.is_empty()).then_some(place)
    }

    /// Links by their declared path; a link may itself be declared below another.
    fn new(declared: &HashMap<String, String>) -> Self {
        let mut links = Self::default();
        for _ in 0..MOST_FOLLOWED {
            let placed = declared.iter().map(|(path, target)| {
                let place = links.place(path).unwrap_or(Cow::Borrowed(path));
                (place.into_owned(), target.clone())
            });
            let next = Self(placed.collect());
            if next == links {
                break;
            }
            links = next;
        }
        links
    }
}

impl Links {
    /// The links that packages have before and after the transaction, as far as others have files below them.
    /// `keep` and `unlink` are the paths of those packages.
    pub(super) fn new(
        inputs: &Inputs<'_>,
        keep: &[Vec<RecordedPath<'_>>],
        unlink: &[Vec<RecordedPath<'_>>],
        packages: &[DraftPackage<'_>],
    ) -> Self {
        let prefix = inputs.prefix.path();
        let mut before = Declared::default();
        for path in keep.iter().chain(unlink).flatten() {
            before.add(path.recorded, path.may_be_link);
        }
        let mut links = HashMap::new();
        for path in before.links_above_others() {
            if let Some(target) = relative_target(&prefix.join(path)) {
                links.insert(path.to_owned(), target);
            }
        }
        let mut after = Declared::default();
        for path in keep.iter().flatten() {
            after.add(path.declared, path.may_be_link);
        }
        for package in packages {
            for file in &package.files {
                let kind = match file.source {
                    Source::File(index) => package.contents.files[index].kind,
                    Source::EntryPoint(_) => FileKind::File,
                };
                after.add(&file.location, kind == FileKind::SoftLink);
            }
        }
        Self {
            before: DirectoryLinks::new(&links),
            after: DirectoryLinks::new(&winning_links(inputs, keep, packages, &after)),
        }
    }
}

/// The targets of links whose package has their path, also where others claim it.
fn winning_links(
    inputs: &Inputs<'_>,
    keep: &[Vec<RecordedPath<'_>>],
    packages: &[DraftPackage<'_>],
    declared: &Declared<'_>,
) -> HashMap<String, String> {
    let paths: HashSet<&str> = declared.links_above_others().collect();
    if paths.is_empty() {
        return HashMap::new();
    }
    // Each claimant, and the target of its link if it has one.
    let mut claimants: HashMap<&str, Vec<(Owner, Option<String>)>> = HashMap::new();
    for (index, kept) in keep.iter().enumerate() {
        for entry in kept {
            if !entry.is_directory && paths.contains(entry.declared) {
                let target = relative_target(&inputs.prefix.path().join(entry.recorded));
                let claimants = claimants.entry(entry.declared).or_default();
                claimants.push((Owner::Kept(index), target));
            }
        }
    }
    for (index, package) in packages.iter().enumerate() {
        for file in &package.files {
            let path = file.location.as_str();
            if !paths.contains(path) || package.is_directory(file) {
                continue;
            }
            let target = match file.source {
                Source::File(source) => {
                    let source = &package.contents.files[source];
                    let is_link = source.kind == FileKind::SoftLink;
                    let path = package.package.source_dir.join(&source.path);
                    is_link.then(|| relative_target(&path)).flatten()
                }
                Source::EntryPoint(_) => None,
            };
            let claimants = claimants.entry(path).or_default();
            claimants.push((Owner::New(index), target));
        }
    }
    let is_contested = claimants.values().any(|claimants| claimants.len() > 1);
    let ranks = if is_contested {
        ranks(inputs)
    } else {
        HashMap::new()
    };
    let winner = |(path, mut claimants): (&str, Vec<(Owner, Option<String>)>)| {
        claimants.sort_by_key(|(owner, _)| ranks.get(owner).copied());
        let (_, target) = claimants.pop()?;
        Some((path.to_owned(), target?))
    };
    claimants.into_iter().filter_map(winner).collect()
}

/// A file or directory of an installed package.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordedPath<'a> {
    /// The path in the record.
    pub(super) recorded: &'a str,
    /// The path that the package has it at.
    pub(super) declared: &'a str,
    pub(super) is_directory: bool,
    may_be_link: bool,
}

/// The paths of an installed package: the detailed ones of its record, and those that only its plain list has.
pub(super) fn recorded(record: &PrefixRecord) -> Vec<RecordedPath<'_>> {
    let detailed = record.paths_data.paths.iter().filter_map(|entry| {
        let recorded = entry.relative_path.to_str()?;
        let original = entry.original_path.as_deref().and_then(Path::to_str);
        Some(RecordedPath {
            recorded,
            declared: original.unwrap_or(recorded),
            is_directory: entry.path_type == PathType::Directory,
            may_be_link: entry.path_type == PathType::SoftLink,
        })
    });
    let entries = record.paths_data.paths.iter();
    let listed: HashSet<&Path> = entries.map(|entry| entry.relative_path.as_path()).collect();
    let files = record.files.iter();
    let plain = files
        .filter(move |file| !listed.contains(file.as_path()))
        .filter_map(|file| {
            let path = file.to_str()?;
            Some(RecordedPath {
                recorded: path,
                declared: path,
                is_directory: false,
                // Records of old packages do not tell.
                may_be_link: true,
            })
        });
    detailed.chain(plain).collect()
}

/// Paths that may be links, and the directories in which paths lie.
#[derive(Debug, Default)]
struct Declared<'a> {
    links: Vec<&'a str>,
    directories: HashSet<&'a str>,
    last: &'a str,
}

impl<'a> Declared<'a> {
    fn add(&mut self, path: &'a str, may_be_link: bool) {
        if may_be_link {
            self.links.push(path);
        }
        let above = parent(path).unwrap_or_default();
        // Most paths are in the directory of the path before.
        if above == self.last {
            return;
        }
        self.last = above;
        for directory in ancestors(path) {
            if !self.directories.insert(directory) {
                break;
            }
        }
    }

    fn links_above_others(&self) -> impl Iterator<Item = &'a str> {
        let links = self.links.iter().copied();
        links.filter(|path| self.directories.contains(path))
    }
}

/// The target of a link, unless it is absolute.
fn relative_target(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?.into_os_string();
    let target = target.into_string().ok()?;
    (!target.starts_with('/')).then_some(target)
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

/// The directories above a path, innermost first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(path), |path| parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(declared: &[(&str, &str)]) -> DirectoryLinks {
        let pairs = declared.iter();
        DirectoryLinks::new(&pairs.map(|&(l, t)| (l.to_owned(), t.to_owned())).collect())
    }

    fn place(links: &DirectoryLinks, path: &str) -> String {
        links.place(path).map_or("-".to_owned(), Cow::into_owned)
    }

    #[test]
    fn links_above_a_file_are_followed() {
        let links = links(&[
            ("sr/usr/lib64", "lib"),
            ("sr/lib64", "usr/lib64"),
            ("share/X11/xkb", "../xkb-2/data"),
            ("sr/usr/lib64/odd", "./x/../y"),
        ]);
        for (path, expected) in [
            ("sr/usr/lib64/libX11.so", "sr/usr/lib/libX11.so"),
            ("sr/lib64/security/pam.so", "sr/usr/lib/security/pam.so"),
            ("sr/lib64", "sr/lib64"),
            ("share/X11/xkb/rules/mine", "share/xkb-2/data/rules/mine"),
            ("sr/lib64/odd/z", "sr/usr/lib/y/z"),
            ("lib/x", "lib/x"),
        ] {
            assert_eq!(place(&links, path), expected, "{path}");
        }
        assert_eq!(links.directory("sr/lib64").as_deref(), Some("sr/usr/lib"));
    }

    #[test]
    fn a_link_that_is_replaced_by_a_real_parent_goes_up_from_there() {
        let links = links(&[("a", "b/c"), ("d", "a/../x")]);
        assert_eq!(place(&links, "d/f"), "b/x/f");
    }

    #[test]
    fn circles_and_links_that_lead_out_have_no_place() {
        let links = links(&[
            ("a", "b"),
            ("b", "a"),
            ("out", "../../etc"),
            ("top", ".."),
            ("self", "."),
        ]);
        for path in ["a/x", "out/passwd", "top/x"] {
            assert_eq!(place(&links, path), "-", "{path}");
        }
        assert_eq!(place(&links, "self/x"), "x");
        assert_eq!(links.directory("self"), None);
    }
}
