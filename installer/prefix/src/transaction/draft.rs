//! Everything that a transaction will change in a prefix, determined before it changes anything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rattler_conda_types::PrefixRecord;
use rayon::prelude::*;

use super::claims::contest;
use super::layout::Layout;
use super::links::{DirectoryLinks, Links, RecordedPath, recorded};
use super::plan::Respec;
use super::removal::{MovedFiles, Owned, owned, record_path, swept};
use crate::error::PrefixError;
use crate::link::{
    FileKind, LinkObserver, LinkPackage, Module, PackageContents, Python, dist_name,
};
use crate::platform::BIN;
use crate::prefix::Prefix;
use crate::recovery::Scope;

/// A transaction that is ready to execute.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    /// Directories to create, outermost first.
    pub(super) directories: Vec<String>,
    pub(super) packages: Vec<DraftPackage<'a>>,
    pub(super) relocations: Vec<Relocation>,
    pub(super) edits: Vec<RecordEdit>,
    pub(super) python: Option<Python>,
}

/// A package to link, with its files mapped into the prefix.
#[derive(Debug)]
pub(super) struct DraftPackage<'a> {
    pub(super) name: String,
    pub(super) package: &'a LinkPackage,
    pub(super) contents: PackageContents,
    pub(super) files: Vec<DraftFile>,
    pub(super) modules: Vec<Module>,
}

/// A file to create.
#[derive(Debug, Clone)]
pub(super) struct DraftFile {
    pub(super) source: Source,
    /// Its path in the prefix, with links above it followed.
    pub(super) location: String,
    /// The declared path, if the file is not there by that name.
    pub(super) original: Option<String>,
    /// Whether another package has won the path.
    pub(super) is_lost: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// Index into the package's files.
    File(usize),
    /// Index into the package's entry points.
    EntryPoint(usize),
}

/// A file of a kept package that moves.
#[derive(Debug)]
pub(super) struct Relocation {
    /// Index into the moved files.
    pub(super) moved_index: usize,
    pub(super) to: String,
}

/// A change to the record of a kept package.
#[derive(Debug)]
pub(super) struct RecordEdit {
    /// Index into the moved files.
    pub(super) moved_index: usize,
    /// The record's file, relative to the prefix.
    pub(super) file: String,
    pub(super) relocated: Vec<Relocated>,
    pub(super) requested_specs: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
pub(super) struct Relocated {
    /// The path in the record.
    pub(super) recorded: String,
    pub(super) from: String,
    pub(super) to: String,
    /// The declared path, if the file is not there by that name.
    pub(super) original: Option<String>,
}

/// The input of a draft.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    pub(super) prefix: &'a Prefix,
    pub(super) created: Vec<PathBuf>,
    pub(super) keep: &'a [PrefixRecord],
    pub(super) unlink: &'a [PrefixRecord],
    pub(super) link: &'a [LinkPackage],
    pub(super) respec: &'a [Respec],
    /// The file names of the records in `conda-meta`, by package name.
    pub(super) record_files: &'a HashMap<String, String>,
    pub(super) compile: bool,
    pub(super) byte_code_cache: Option<&'a Path>,
}

impl<'a> Draft<'a> {
    /// Determines the changes, and the scope for the journal.
    pub(super) fn new(
        inputs: &Inputs<'a>,
        observer: &dyn LinkObserver,
    ) -> Result<(Self, Scope), PrefixError> {
        let python = python(inputs)?;
        let mut packages: Vec<DraftPackage<'a>> = inputs
            .link
            .par_iter()
            .map(|package| draft_package(package, python.as_ref(), observer))
            .collect::<Result<_, _>>()?;
        let keep: Vec<_> = inputs.keep.par_iter().map(recorded).collect();
        let unlink: Vec<_> = inputs.unlink.par_iter().map(recorded).collect();
        let links = Links::new(inputs, &keep, &unlink, &packages);
        for package in &mut packages {
            package.follow(&links.after)?;
        }
        let place = |paths: &Vec<RecordedPath<'a>>| owned(paths, &links);
        let kept: Vec<Vec<Owned<'_>>> = keep.par_iter().map(place).collect();
        let unlinked: Vec<Vec<Owned<'_>>> = unlink.par_iter().map(place).collect();
        let mut moved = MovedFiles::default();
        moved.add_unlinked(inputs, &kept, &unlinked)?;

        let contest = contest(inputs, &kept, &packages, observer);
        for (package, index, aside) in contest.losers {
            let file = &mut packages[package].files[index];
            let claimed = std::mem::replace(&mut file.location, aside);
            file.original.get_or_insert(claimed);
            file.is_lost = true;
        }
        let mut edits: BTreeMap<usize, (Vec<Relocated>, Option<Vec<String>>)> = BTreeMap::new();
        let mut relocations = Vec::new();
        for (kept_index, relocated) in contest.relocated {
            let moved_index = moved.add(&relocated.from);
            relocations.push(Relocation {
                moved_index,
                to: relocated.to.clone(),
            });
            edits.entry(kept_index).or_default().0.push(relocated);
        }
        for respec in inputs.respec {
            let found = inputs.keep.iter().position(|record| {
                record.repodata_record.package_record.name.as_normalized() == respec.name
            });
            if let Some(index) = found {
                edits.entry(index).or_default().1 = Some(respec.requested_specs.clone());
            }
        }
        let edits: Vec<RecordEdit> = edits
            .into_iter()
            .map(|(index, (relocated, requested_specs))| {
                let file = record_path(inputs, &inputs.keep[index]);
                RecordEdit {
                    moved_index: moved.add(&file),
                    file,
                    relocated,
                    requested_specs,
                }
            })
            .collect();
        for package in &mut packages {
            package.plan_modules(python.as_ref(), inputs);
        }
        let kept_at = kept_at(inputs, &kept, &moved);
        let mut layout = Layout::new(inputs.prefix, moved, kept_at, observer);
        layout.packages(&packages)?;
        for relocation in &relocations {
            layout.file(&relocation.to, "a kept package")?;
        }
        let draft = Self {
            directories: std::mem::take(&mut layout.directories),
            packages,
            relocations,
            edits,
            python,
        };
        let scope = draft.scope(inputs, &kept, &unlinked, layout);
        Ok((draft, scope))
    }

    /// The number of files that will be linked.
    pub(super) fn file_count(&self) -> usize {
        self.packages
            .iter()
            .map(|package| package.files.len())
            .sum()
    }

    /// What the transaction touches.
    fn scope(
        &self,
        inputs: &Inputs<'a>,
        kept: &[Vec<Owned<'_>>],
        unlinked: &[Vec<Owned<'_>>],
        layout: Layout<'_>,
    ) -> Scope {
        let history = fs::metadata(inputs.prefix.conda_meta().join("history"));
        Scope {
            version: 1,
            created: inputs.created.clone(),
            history: history.ok().map(|metadata| metadata.len()),
            moved_dir_symlinks: layout.moved.dir_symlinks(),
            emptied: layout.emptied,
            directories: self.directories.clone(),
            files: self.new_files(),
            swept: swept(kept, unlinked, &layout.moved.list),
            moved: layout.moved.list,
        }
    }

    /// All files that will be made.
    fn new_files(&self) -> Vec<String> {
        let mut files: Vec<String> = Vec::new();
        for package in &self.packages {
            let linked = package
                .files
                .iter()
                .filter(|file| !package.is_directory(file));
            files.extend(linked.map(|file| file.location.clone()));
            files.extend(
                package
                    .modules
                    .iter()
                    .map(|module| module.byte_code.clone()),
            );
            files.push(package.record_path());
        }
        files.extend(
            self.relocations
                .iter()
                .map(|relocation| relocation.to.clone()),
        );
        files.extend(self.edits.iter().map(|edit| edit.file.clone()));
        files
    }
}

/// The files of kept packages that do not move, with the package.
fn kept_at<'k>(
    inputs: &Inputs<'_>,
    kept: &'k [Vec<Owned<'_>>],
    moved: &MovedFiles,
) -> HashMap<&'k str, String> {
    kept.iter()
        .zip(inputs.keep)
        .flat_map(|(paths, record)| {
            let name = dist_name(&record.repodata_record.package_record);
            let files = paths.iter().filter(|path| !path.directory);
            files.map(move |path| (&*path.location, name.clone()))
        })
        .filter(|(location, _)| !moved.set.contains(*location))
        .collect()
}

impl DraftPackage<'_> {
    /// Whether an entry of the package is a directory.
    pub(super) fn is_directory(&self, file: &DraftFile) -> bool {
        matches!(file.source, Source::File(index)
            if self.contents.files[index].kind == FileKind::Directory)
    }

    /// Follows the links above the files.
    fn follow(&mut self, links: &DirectoryLinks) -> Result<(), PrefixError> {
        let mut changed = false;
        for index in 0..self.files.len() {
            let file = &self.files[index];
            let place = if self.is_directory(file) {
                links.directory(&file.location)
            } else {
                links.place(&file.location)
            };
            let place = place.ok_or_else(|| PrefixError::PathEscape {
                package: self.name.clone(),
                path: file.location.clone(),
            })?;
            if place != file.location {
                let place = place.into_owned();
                let file = &mut self.files[index];
                file.original = Some(std::mem::replace(&mut file.location, place));
                changed = true;
            }
        }
        if changed {
            self.drop_aliases();
        }
        Ok(())
    }

    /// Of a file that the package has by two names, because of a link of its own, the last entry counts.
    fn drop_aliases(&mut self) {
        let source_of = |file: &DraftFile| match file.source {
            Source::File(index) => {
                let path = &self.contents.files[index].path;
                fs::canonicalize(self.package.source_dir.join(path)).ok()
            }
            Source::EntryPoint(_) => None,
        };
        let mut last: HashMap<&str, usize> = HashMap::new();
        let mut aliases = HashSet::new();
        for (index, file) in self.files.iter().enumerate() {
            let earlier = last.insert(&file.location, index);
            let is_alias = |&earlier: &usize| {
                let source = source_of(file);
                source.is_some() && source == source_of(&self.files[earlier])
            };
            aliases.extend(earlier.filter(is_alias));
        }
        let mut index = 0;
        self.files.retain(|_| {
            index += 1;
            !aliases.contains(&(index - 1))
        });
    }

    /// The package's record, relative to the prefix.
    pub(super) fn record_path(&self) -> String {
        format!("conda-meta/{}.json", self.name)
    }

    /// Byte code is made for the modules that have won their path.
    fn plan_modules(&mut self, python: Option<&Python>, inputs: &Inputs<'_>) {
        let Some(python) = python.filter(|_| inputs.compile && self.contents.noarch_python) else {
            return;
        };
        // Only the digest of an archive identifies its modules.
        let sha256 = self.package.record.package_record.sha256;
        let cache = inputs
            .byte_code_cache
            .zip(sha256)
            .map(|(cache, sha256)| cache.join(&python.build).join(hex::encode(sha256)));
        let existing: HashSet<&str> = self
            .files
            .iter()
            .map(|file| file.location.as_str())
            .collect();
        let modules: Vec<Module> = self
            .files
            .iter()
            .filter(|file| !file.is_lost)
            .filter_map(|file| match file.source {
                Source::File(index) => Some((file, &self.contents.files[index])),
                Source::EntryPoint(_) => None,
            })
            .filter(|(_, source)| {
                source.kind == FileKind::File && source.path.starts_with("site-packages/")
            })
            .filter_map(|(file, source)| {
                Some(Module {
                    source: file.location.clone(),
                    byte_code: python.byte_code(&file.location)?,
                    cached: cache
                        .as_ref()
                        .filter(|_| source.placeholder.is_none())
                        .map(|cache| cache.join(format!("{}c", source.path))),
                })
            })
            .filter(|module| !existing.contains(module.byte_code.as_str()))
            .collect();
        self.modules = modules;
    }
}

/// The python of the resulting environment.
fn python(inputs: &Inputs<'_>) -> Result<Option<Python>, PrefixError> {
    let linked = inputs
        .link
        .iter()
        .map(|package| &package.record.package_record);
    let kept = inputs
        .keep
        .iter()
        .map(|record| &record.repodata_record.package_record);
    linked
        .chain(kept)
        .find(|record| record.name.as_normalized() == "python")
        .map(Python::from_record)
        .transpose()
}

fn draft_package<'a>(
    package: &'a LinkPackage,
    python: Option<&Python>,
    observer: &dyn LinkObserver,
) -> Result<DraftPackage<'a>, PrefixError> {
    let name = package.dist_name();
    let contents = PackageContents::read(package, observer)?;
    let python = match (contents.noarch_python, python) {
        (true, None) => return Err(PrefixError::NoPython { package: name }),
        (true, python) => python,
        (false, _) => None,
    };
    let mut files: Vec<DraftFile> = Vec::with_capacity(contents.files.len());
    for (index, file) in contents.files.iter().enumerate() {
        files.push(DraftFile {
            source: Source::File(index),
            location: python.map_or_else(|| file.path.clone(), |python| python.target(&file.path)),
            original: None,
            is_lost: false,
        });
    }
    for (index, entry_point) in contents.entry_points.iter().enumerate() {
        let location = format!("{BIN}/{}", entry_point.command);
        // It replaces a script of the same name in the package, as in conda.
        files.retain(|file| file.location != location);
        files.push(DraftFile {
            source: Source::EntryPoint(index),
            location,
            original: None,
            is_lost: false,
        });
    }
    Ok(DraftPackage {
        name,
        package,
        contents,
        files,
        modules: Vec::new(),
    })
}
