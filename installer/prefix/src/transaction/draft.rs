//! Everything a transaction will do to a prefix, worked out before anything is touched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rattler_conda_types::PrefixRecord;
use rayon::prelude::*;

use super::claims::{clobbered_location, contest};
use super::journal::Scope;
use super::layout::{Layout, Step};
use super::plan::Respec;
use super::removal::{MovedFiles, Owned, owned, record_path, swept};
use crate::link::{
    BIN, FileKind, LinkError, LinkObserver, LinkPackage, Module, PackageContents, Python, dist_name,
};
use crate::prefix::Prefix;

/// A transaction, ready to be carried out.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) scope: Scope,
    pub(super) steps: Vec<Step>,
    pub(super) packages: Vec<DraftPackage<'a>>,
    pub(super) relocations: Vec<Relocation>,
    pub(super) edits: Vec<RecordEdit>,
    pub(super) python: Option<Python>,
}

/// A package to be linked, with its files mapped into the prefix.
#[derive(Debug)]
pub(super) struct DraftPackage<'a> {
    pub(super) name: String,
    pub(super) package: &'a LinkPackage,
    pub(super) contents: PackageContents,
    pub(super) files: Vec<DraftFile>,
    pub(super) modules: Vec<Module>,
}

/// A file to be made.
#[derive(Debug, Clone)]
pub(super) struct DraftFile {
    pub(super) source: Source,
    /// Where it goes, relative to the prefix.
    pub(super) location: String,
    /// Where it would go if another package had not won that path.
    pub(super) original: Option<String>,
    /// Made together with the directories, because other files are reached through it.
    pub(super) door: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// Index into the package's files.
    File(usize),
    /// Index into the package's entry points.
    EntryPoint(usize),
}

/// A file of a package that stays, which goes elsewhere.
#[derive(Debug)]
pub(super) struct Relocation {
    /// Index into the moved files.
    pub(super) aside: usize,
    pub(super) to: String,
}

/// A change to the record of a package that stays.
#[derive(Debug)]
pub(super) struct RecordEdit {
    /// Index into the moved files.
    pub(super) aside: usize,
    /// The record's file, relative to the prefix.
    pub(super) file: String,
    pub(super) relocated: Vec<Relocated>,
    pub(super) requested_specs: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
pub(super) struct Relocated {
    pub(super) from: String,
    pub(super) to: String,
    /// The claimed path, if the file is not there.
    pub(super) original: Option<String>,
}

/// What the draft is made from.
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
    pub(super) fn new(inputs: &Inputs<'a>, observer: &dyn LinkObserver) -> Result<Self, LinkError> {
        let python = python(inputs)?;
        let mut packages: Vec<DraftPackage<'a>> = inputs
            .link
            .par_iter()
            .map(|package| draft_package(package, python.as_ref(), observer))
            .collect::<Result<_, _>>()?;
        let kept: Vec<Vec<Owned<'_>>> = inputs.keep.iter().map(owned).collect();
        let mut moved = MovedFiles::default();
        moved.unlinked(inputs, &kept)?;

        let contest = contest(inputs, &kept, &packages, observer);
        for (package, index, original) in contest.losers {
            let location = clobbered_location(&packages[package].name, &original);
            packages[package].files[index].location = location;
            packages[package].files[index].original = Some(original);
        }
        let mut edits: BTreeMap<usize, (Vec<Relocated>, Option<Vec<String>>)> = BTreeMap::new();
        let mut relocations = Vec::new();
        for (kept_index, relocated) in contest.relocated {
            let aside = moved.add(&relocated.from);
            relocations.push(Relocation {
                aside,
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
                    aside: moved.add(&file),
                    file,
                    relocated,
                    requested_specs,
                }
            })
            .collect();
        for package in &mut packages {
            package.plan_modules(python.as_ref(), inputs);
        }
        let mut draft = Self {
            scope: Scope::default(),
            steps: Vec::new(),
            packages,
            relocations,
            edits,
            python,
        };
        draft.lay_out(inputs, &kept, moved, observer)?;
        Ok(draft)
    }

    /// The number of files that will be linked.
    pub(super) fn file_count(&self) -> usize {
        self.packages
            .iter()
            .map(|package| package.files.len())
            .sum()
    }

    fn lay_out(
        &mut self,
        inputs: &Inputs<'a>,
        kept: &[Vec<Owned<'_>>],
        moved: MovedFiles,
        observer: &dyn LinkObserver,
    ) -> Result<(), LinkError> {
        let kept_at: HashMap<&str, String> = kept
            .iter()
            .zip(inputs.keep)
            .flat_map(|(paths, record)| {
                let name = dist_name(&record.repodata_record.package_record);
                paths
                    .iter()
                    .filter(|path| !path.directory)
                    .map(move |path| (path.location, name.clone()))
            })
            .filter(|(location, _)| !moved.set.contains(*location))
            .collect();
        let mut layout = Layout::new(inputs.prefix, moved, kept_at, observer);
        for (index, package) in self.packages.iter().enumerate() {
            for (file_index, file) in package.files.iter().enumerate() {
                layout.wants(file, index, file_index, package);
            }
        }
        for (index, package) in self.packages.iter().enumerate() {
            for file in &package.files {
                match file.source {
                    Source::File(file_index)
                        if package.contents.files[file_index].kind == FileKind::Directory =>
                    {
                        layout.directory(&file.location, &package.name)?;
                    }
                    _ => layout.file(&file.location, &package.name)?,
                }
            }
            for module in &package.modules {
                layout.byte_code(&module.byte_code, &package.name)?;
            }
            let record = format!("conda-meta/{}.json", self.packages[index].name);
            layout.file(&record, &package.name)?;
        }
        for relocation in &self.relocations {
            layout.file(&relocation.to, "a package that stays")?;
        }
        let mut layout = layout.done();
        for (package, file) in &layout.doors {
            self.packages[*package].files[*file].door = true;
        }
        let mut files: Vec<String> = Vec::new();
        for package in &self.packages {
            let made = package.files.iter().filter(|file| {
                !file.door
                    && !matches!(file.source, Source::File(index)
                        if package.contents.files[index].kind == FileKind::Directory)
            });
            files.extend(made.map(|file| file.location.clone()));
            files.extend(
                package
                    .modules
                    .iter()
                    .map(|module| module.byte_code.clone()),
            );
            files.push(format!("conda-meta/{}.json", package.name));
        }
        files.extend(
            self.relocations
                .iter()
                .map(|relocation| relocation.to.clone()),
        );
        files.extend(self.edits.iter().map(|edit| edit.file.clone()));
        let history = fs::metadata(inputs.prefix.conda_meta().join("history"));
        let swept = swept(inputs, kept, &layout.moved.list);
        let moved_doors = layout.moved.doors();
        self.scope = Scope {
            version: 1,
            created: inputs.created.clone(),
            history: history.ok().map(|metadata| metadata.len()),
            moved: std::mem::take(&mut layout.moved.list),
            moved_doors,
            emptied: layout.emptied,
            directories: layout
                .steps
                .iter()
                .filter_map(|step| match step {
                    Step::Directory(path) => Some(path.clone()),
                    Step::Door { .. } => None,
                })
                .collect(),
            files,
            doors: layout
                .doors
                .iter()
                .map(|(package, file)| self.packages[*package].files[*file].location.clone())
                .collect(),
            swept,
        };
        self.steps = layout.steps;
        Ok(())
    }
}

impl DraftPackage<'_> {
    /// Byte code is made for the modules that are in their place, not for those put aside.
    fn plan_modules(&mut self, python: Option<&Python>, inputs: &Inputs<'_>) {
        let Some(python) = python.filter(|_| inputs.compile && self.contents.noarch_python) else {
            return;
        };
        // Only an archive's digest says for certain which modules these are.
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
            .filter(|file| file.original.is_none())
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

/// The python of the environment as it will be.
fn python(inputs: &Inputs<'_>) -> Result<Option<Python>, LinkError> {
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
) -> Result<DraftPackage<'a>, LinkError> {
    let name = package.dist_name();
    let contents = PackageContents::read(package, observer)?;
    let python = match (contents.noarch_python, python) {
        (true, None) => return Err(LinkError::NoPython { package: name }),
        (true, python) => python,
        (false, _) => None,
    };
    let mut files: Vec<DraftFile> = Vec::with_capacity(contents.files.len());
    for (index, file) in contents.files.iter().enumerate() {
        files.push(DraftFile {
            source: Source::File(index),
            location: python.map_or_else(|| file.path.clone(), |python| python.target(&file.path)),
            original: None,
            door: false,
        });
    }
    for (index, entry_point) in contents.entry_points.iter().enumerate() {
        let location = format!("{BIN}/{}", entry_point.command);
        // A script that the package ships under the same name gives way, as in conda.
        files.retain(|file| file.location != location);
        files.push(DraftFile {
            source: Source::EntryPoint(index),
            location,
            original: None,
            door: false,
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
