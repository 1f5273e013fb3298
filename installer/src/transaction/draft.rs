//! Everything a transaction will do to a prefix, worked out before anything is touched.
//!
//! Paths are claimed by packages. A path with several claimants belongs to the package that is
//! latest in the topological order of the whole environment (names break ties there), so the
//! winner depends on what is installed and not on the history of how it came to be. The file of
//! a loser is put below `conda-meta/.taipan-clobbered/`, finished for this prefix, and its record
//! says where it is (`_path`) and where it would be (`original_path`, the field rattler uses).
//! When the winner goes, the file moves to its place without the package being needed again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::Path;

use rattler_conda_types::{PackageRecord, PrefixRecord};
use rayon::prelude::*;

use super::journal::Scope;
use super::layout::{Layout, Step};
use super::order::topological_order;
use super::plan::Respec;
use crate::link::{
    BIN, FileKind, LinkError, LinkObserver, LinkPackage, LinkWarning, Module, PackageContents,
    Python, claim_key, dist_name, normalise,
};
use crate::prefix::Prefix;

/// Where the files of losers are kept.
const CLOBBERED: &str = "conda-meta/.taipan-clobbered";

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
    pub(super) created: Vec<std::path::PathBuf>,
    pub(super) keep: &'a [PrefixRecord],
    pub(super) unlink: &'a [PrefixRecord],
    pub(super) link: &'a [LinkPackage],
    pub(super) respec: &'a [Respec],
    /// The file names of the records in `conda-meta`, by package name.
    pub(super) record_files: &'a HashMap<String, String>,
    pub(super) compile: bool,
}

/// A path of an installed package.
#[derive(Debug, Clone)]
struct Owned<'a> {
    /// Where the file is.
    location: &'a str,
    /// The path it claims.
    claim: &'a str,
    directory: bool,
}

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
            package.plan_modules(python.as_ref(), inputs.compile);
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
        self.scope = Scope {
            version: 1,
            created: inputs.created.clone(),
            history: history.ok().map(|metadata| metadata.len()),
            moved: std::mem::take(&mut layout.moved.list),
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
    fn plan_modules(&mut self, python: Option<&Python>, compile: bool) {
        let Some(python) = python.filter(|_| compile && self.contents.noarch_python) else {
            return;
        };
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
            .filter_map(|(file, _)| {
                Some(Module {
                    source: file.location.clone(),
                    byte_code: python.byte_code(&file.location)?,
                })
            })
            .filter(|module| !existing.contains(module.byte_code.as_str()))
            .collect();
        self.modules = modules;
    }
}

/// The files that go aside, in order and without repetition.
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

    /// What the removed packages own and no package that stays does, with the byte code that
    /// python made of their modules on its own, and their records.
    fn unlinked(&mut self, inputs: &Inputs<'_>, kept: &[Vec<Owned<'_>>]) -> Result<(), LinkError> {
        if inputs.unlink.is_empty() {
            return Ok(());
        }
        let kept_at: HashSet<&str> = kept.iter().flatten().map(|path| path.location).collect();
        for record in inputs.unlink {
            let mut modules: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
            for path in owned(record) {
                let Some(location) = normalise(path.location) else {
                    return Err(LinkError::UnsafeRecord {
                        package: dist_name(&record.repodata_record.package_record),
                        recorded: path.location.to_owned(),
                    });
                };
                if path.directory || kept_at.contains(path.location) {
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

/// The paths of an installed package: what its record says in detail, or its plain list.
fn owned(record: &PrefixRecord) -> Vec<Owned<'_>> {
    let mut paths: Vec<Owned<'_>> = record
        .paths_data
        .paths
        .iter()
        .filter_map(|entry| {
            let location = entry.relative_path.to_str()?;
            Some(Owned {
                location,
                claim: entry
                    .original_path
                    .as_deref()
                    .and_then(Path::to_str)
                    .unwrap_or(location),
                directory: entry.path_type
                    == rattler_conda_types::prefix_record::PathType::Directory,
            })
        })
        .collect();
    let listed: HashSet<&str> = paths.iter().map(|path| path.location).collect();
    let plain: Vec<Owned<'_>> = record
        .files
        .iter()
        .filter_map(|file| file.to_str())
        .filter(|file| !listed.contains(file))
        .map(|file| Owned {
            location: file,
            claim: file,
            directory: false,
        })
        .collect();
    paths.extend(plain);
    paths
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
struct Contest {
    /// New files that lost: package, index of the file, the path they claim.
    losers: Vec<(usize, usize, String)>,
    /// Files of kept packages that go elsewhere, with the index of the package.
    relocated: Vec<(usize, Relocated)>,
}

/// Settles who has the paths that several packages claim.
fn contest(
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

fn clobbered_location(package: &str, path: &str) -> String {
    format!("{CLOBBERED}/{package}/{path}")
}

fn record_path(inputs: &Inputs<'_>, record: &PrefixRecord) -> String {
    let name = record.repodata_record.package_record.name.as_normalized();
    let file = inputs
        .record_files
        .get(name)
        .cloned()
        .unwrap_or_else(|| record.file_name());
    format!("conda-meta/{file}")
}

/// The directories that the removed files leave, deepest first, without those that are declared.
fn swept(inputs: &Inputs<'_>, kept: &[Vec<Owned<'_>>], moved: &[String]) -> Vec<String> {
    let declared: HashSet<&str> = kept
        .iter()
        .flatten()
        .filter(|path| path.directory)
        .map(|path| path.location)
        .collect();
    let mut directories: BTreeSet<String> = BTreeSet::new();
    let removed = inputs
        .unlink
        .iter()
        .flat_map(owned)
        .filter(|path| path.directory);
    for path in removed.filter_map(|path| normalise(path.location)) {
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
