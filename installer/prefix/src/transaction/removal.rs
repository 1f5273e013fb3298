//! What is removed with packages: files, byte code and directories.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::Path;

use rattler_conda_types::PrefixRecord;

use super::draft::Inputs;
use super::links::{DirectoryLinks, Links, RecordedPath};
use crate::error::PrefixError;
use crate::link::{dist_name, normalise};

/// A path of an installed package.
#[derive(Debug, Clone)]
pub(super) struct Owned<'a> {
    /// The path in the record.
    pub(super) recorded: &'a str,
    /// The path that the package has it at.
    pub(super) declared: &'a str,
    /// Where the file is, with links above it followed.
    pub(super) location: Cow<'a, str>,
    /// The place that it claims: that of its declared path after the transaction.
    pub(super) claim: Cow<'a, str>,
    pub(super) directory: bool,
}

/// The paths of an installed package, with their places.
pub(super) fn owned<'a>(recorded: &[RecordedPath<'a>], links: &Links) -> Vec<Owned<'a>> {
    let owned = |path: &RecordedPath<'a>| {
        let place = |links: &DirectoryLinks, name: &'a str| {
            let place = if path.is_directory {
                links.directory(name)
            } else {
                links.place(name)
            };
            // A path that nothing can be linked at: as it is.
            place.unwrap_or(Cow::Borrowed(name))
        };
        Owned {
            recorded: path.recorded,
            declared: path.declared,
            location: place(&links.before, path.recorded),
            claim: place(&links.after, path.declared),
            directory: path.is_directory,
        }
    };
    recorded.iter().map(owned).collect()
}

/// The files that are moved into the trash, in order and without duplicates.
#[derive(Debug, Default)]
pub(super) struct MovedFiles {
    pub(super) list: Vec<String>,
    pub(super) set: HashSet<String>,
    index: HashMap<String, usize>,
}

impl MovedFiles {
    pub(super) fn add(&mut self, path: &str) -> usize {
        if let Some(&index) = self.index.get(path) {
            return index;
        }
        let index = self.list.len();
        self.list.push(path.to_owned());
        self.set.insert(path.to_owned());
        self.index.insert(path.to_owned(), index);
        index
    }

    /// The indexes of files that others are reached through, deepest first.
    pub(super) fn dir_symlinks(&self) -> Vec<usize> {
        let mut directories = BTreeSet::new();
        for path in &self.list {
            if let Some((parent, _)) = path.rsplit_once('/') {
                add_with_parents(&mut directories, parent);
            }
        }
        directories
            .iter()
            .rev()
            .filter_map(|path| self.index.get(path).copied())
            .collect()
    }

    /// Adds the files that only removed packages own, the byte code that python made of their
    /// modules by itself, and their records.
    pub(super) fn add_unlinked(
        &mut self,
        inputs: &Inputs<'_>,
        kept: &[Vec<Owned<'_>>],
        unlinked: &[Vec<Owned<'_>>],
    ) -> Result<(), PrefixError> {
        if inputs.unlink.is_empty() {
            return Ok(());
        }
        let kept_at: HashSet<&str> = kept.iter().flatten().map(|path| &*path.location).collect();
        for (record, paths) in inputs.unlink.iter().zip(unlinked) {
            let mut modules: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
            for path in paths {
                let Some(location) = normalise(&path.location) else {
                    return Err(PrefixError::UnsafeRecord {
                        package: dist_name(&record.repodata_record.package_record),
                        recorded: path.recorded.to_owned(),
                    });
                };
                if path.directory || kept_at.contains(&*path.location) {
                    continue;
                }
                if let Some(stem) = path.location.strip_suffix(".py") {
                    let (directory, name) = stem.rsplit_once('/').unwrap_or(("", stem));
                    modules.entry(directory).or_default().insert(name);
                }
                self.add(&location);
            }
            for (directory, names) in modules {
                self.stray_byte_code(inputs.prefix.path(), directory, &names, &kept_at);
            }
            self.add(&record_path(inputs, record));
        }
        Ok(())
    }

    fn stray_byte_code(
        &mut self,
        prefix: &Path,
        directory: &str,
        names: &HashSet<&str>,
        kept_at: &HashSet<&str>,
    ) {
        let cache = if directory.is_empty() {
            "__pycache__".into()
        } else {
            format!("{directory}/__pycache__")
        };
        let Ok(entries) = fs::read_dir(prefix.join(&cache)) else {
            return;
        };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some(file) = file.to_str() else { continue };
            let path = format!("{cache}/{file}");
            let ours = file.strip_suffix(".pyc").is_some_and(|stem| {
                stem.split_once('.')
                    .is_some_and(|(module, _tag)| names.contains(module))
            });
            if ours && !kept_at.contains(path.as_str()) {
                self.add(&path);
            }
        }
    }
}

/// The file of an installed package's record, relative to the prefix.
pub(super) fn record_path(inputs: &Inputs<'_>, record: &PrefixRecord) -> String {
    let name = record.repodata_record.package_record.name.as_normalized();
    let file = inputs
        .record_files
        .get(name)
        .cloned()
        .unwrap_or_else(|| record.file_name());
    format!("conda-meta/{file}")
}

/// The directories that the removed files leave, deepest first, without those that kept packages
/// declare.
pub(super) fn swept(
    kept: &[Vec<Owned<'_>>],
    unlinked: &[Vec<Owned<'_>>],
    moved: &[String],
) -> Vec<String> {
    let declared: HashSet<&str> = kept
        .iter()
        .flatten()
        .filter(|path| path.directory)
        .map(|path| &*path.claim)
        .collect();
    let mut directories: BTreeSet<String> = BTreeSet::new();
    let removed = unlinked.iter().flatten().filter(|path| path.directory);
    for path in removed.filter_map(|path| normalise(&path.location)) {
        add_with_parents(&mut directories, &path);
    }
    for path in moved {
        if let Some((parent, _)) = path.rsplit_once('/') {
            add_with_parents(&mut directories, parent);
        }
    }
    directories.remove("conda-meta");
    let mut swept: Vec<String> = directories
        .into_iter()
        .filter(|path| !declared.contains(path.as_str()))
        .collect();
    swept.reverse();
    swept
}

fn add_with_parents(directories: &mut BTreeSet<String>, path: &str) {
    let mut path = path;
    while directories.insert(path.to_owned()) {
        match path.rsplit_once('/') {
            Some((parent, _)) => path = parent,
            None => break,
        }
    }
}
