//! Carrying out a transaction.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rattler_conda_types::package::FileMode;
use rattler_conda_types::prefix_record::{PathType, PathsEntry};
use rattler_conda_types::{PrefixRecord, RepoDataRecord};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::draft::{Draft, DraftFile, DraftPackage, Inputs, Source};
use super::failpoint::failpoint;
use super::journal::{Journal, Stage};
use super::layout::Step;
use super::plan::{Plan, PlannedLink, Respec};
use super::record;
use super::undo;
use crate::link::{
    Compilation, FileKind, LinkError, LinkMethod, LinkObserver, LinkOptions, LinkPackage,
    LinkWarning, Linker, Methods, Module, PackageFile, Replacement, ScriptKind, ScriptRunner,
    compile, copy, create_executable, create_like, dist_name, replace_text,
};
use crate::prefix::{
    LockedPrefix, Prefix, Revision, append_history, edit_record, revision, write_record,
};

/// Files that one worker links before it looks for other work.
const CHUNK: usize = 32;

/// A plan whose packages are extracted.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    unlink: Vec<PrefixRecord>,
    keep: Vec<PrefixRecord>,
    respec: Vec<Respec>,
    link: Vec<LinkPackage>,
}

/// What a transaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Packages that came, as `name-version-build`, in link order.
    pub linked: Vec<String>,
    /// Packages that went, likewise.
    pub unlinked: Vec<String>,
    /// Files that were linked or made, without byte code.
    pub files: usize,
    /// Modules that were compiled.
    pub compiled: usize,
}

impl Transaction {
    /// Pairs every package to be linked with its extracted tree.
    ///
    /// # Errors
    /// Those of `extracted`.
    pub fn new<E>(
        plan: Plan,
        mut extracted: impl FnMut(&PlannedLink) -> Result<LinkPackage, E>,
    ) -> Result<Self, E> {
        let link = plan
            .link
            .iter()
            .map(|planned| {
                let mut package = extracted(planned)?;
                package.requested_specs.clone_from(&planned.requested_specs);
                Ok(package)
            })
            .collect::<Result<_, E>>()?;
        Ok(Self {
            unlink: plan.unlink,
            keep: plan.keep,
            respec: plan.respec,
            link,
        })
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.unlink.is_empty() && self.link.is_empty() && self.respec.is_empty()
    }

    /// Carries the transaction out, or leaves the prefix as it was. An empty transaction writes
    /// nothing in a prefix that is an environment already.
    ///
    /// Blocks; works on `options.threads` threads of its own. `cancel` is looked at between files
    /// and while child processes run.
    ///
    /// What link scripts did by themselves cannot be taken back, except in a prefix that did not
    /// exist before, which is removed as a whole.
    ///
    /// # Errors
    /// Any [`LinkError`]; [`LinkError::Cancelled`] after `cancel` was set. The prefix has been
    /// restored, except with [`LinkError::UndoFailed`], after which the next lock restores it.
    pub fn execute(
        &self,
        prefix: &LockedPrefix,
        options: &LinkOptions,
        observer: &dyn LinkObserver,
        cancel: &AtomicBool,
    ) -> Result<Summary, LinkError> {
        let location = prefix.prefix();
        if let Some(frozen) = location.frozen()?
            && !options.override_frozen
            && !self.is_empty()
        {
            let path = location.path().to_path_buf();
            return Err(LinkError::Frozen {
                path,
                message: frozen.message,
            });
        }
        if self.is_empty() && location.is_environment() {
            return Ok(Summary::default());
        }
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|index| format!("link-{index}"))
            .build()
            .map_err(|source| LinkError::Threads { source })?;
        let run = Run {
            transaction: self,
            prefix,
            location,
            options,
            observer,
            cancel,
        };
        threads.install(|| run.run())
    }

    /// The names of the records' files by package, after checking that the prefix holds exactly
    /// the packages that the plan was made against.
    fn record_files(&self, prefix: &Prefix) -> Result<HashMap<String, String>, LinkError> {
        let changed = || LinkError::PrefixChanged {
            path: prefix.path().to_path_buf(),
        };
        let mut present: HashMap<String, PathBuf> = prefix
            .record_files()?
            .into_iter()
            .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)))
            .collect();
        let mut files = HashMap::new();
        let mut unnamed = Vec::new();
        for record in self.unlink.iter().chain(&self.keep) {
            let name = record.repodata_record.package_record.name.as_normalized();
            let file = record.file_name();
            if present.remove(&file).is_some() {
                files.insert(name.to_owned(), file);
            } else {
                unnamed.push(record);
            }
        }
        // Other tools may have named a record in another way; then its content decides.
        for (file, path) in present {
            let text = fs::read(&path).map_err(LinkError::io("read", &path))?;
            let found: PrefixRecord = serde_json::from_slice(&text)
                .map_err(|source| LinkError::BadRecord { path, source })?;
            let index = unnamed.iter().position(|record| {
                dist_name(&record.repodata_record.package_record)
                    == dist_name(&found.repodata_record.package_record)
            });
            let record = unnamed.swap_remove(index.ok_or_else(changed)?);
            let name = record.repodata_record.package_record.name.as_normalized();
            files.insert(name.to_owned(), file);
        }
        if unnamed.is_empty() {
            Ok(files)
        } else {
            Err(changed())
        }
    }
}

/// One execution and everything it needs.
struct Run<'a> {
    transaction: &'a Transaction,
    prefix: &'a LockedPrefix,
    location: &'a Prefix,
    options: &'a LinkOptions,
    observer: &'a dyn LinkObserver,
    cancel: &'a AtomicBool,
}

impl Run<'_> {
    fn run(&self) -> Result<Summary, LinkError> {
        let transaction = self.transaction;
        let record_files = transaction.record_files(self.location)?;
        let inputs = Inputs {
            prefix: self.location,
            created: self.prefix.created(),
            keep: &transaction.keep,
            unlink: &transaction.unlink,
            link: &transaction.link,
            respec: &transaction.respec,
            record_files: &record_files,
            compile: self.options.compile_pyc,
        };
        let mut draft = Draft::new(&inputs, self.observer)?;
        self.check_cancelled()?;
        self.observer.started(
            transaction.unlink.len(),
            transaction.link.len(),
            draft.file_count(),
        );
        for record in &transaction.unlink {
            let package = &record.repodata_record.package_record;
            self.script(ScriptKind::PreUnlink, package, self.location.path())?;
        }
        let mut journal = Journal::begin(self.location, std::mem::take(&mut draft.scope))?;
        failpoint("journal");
        match self.change(&draft, &mut journal) {
            Ok(summary) => {
                self.prefix.forget_created();
                undo::finish(self.location, &journal, self.observer)?;
                Ok(summary)
            }
            Err(cause) => match undo::undo(self.location, &mut journal) {
                Ok(recovery) => {
                    if recovery == undo::Recovery::Removed {
                        self.prefix.forget_created();
                    }
                    Err(cause)
                }
                Err(source) => Err(LinkError::UndoFailed {
                    prefix: self.location.path().to_path_buf(),
                    cause: Box::new(cause),
                    source: Box::new(source),
                }),
            },
        }
    }

    /// Everything between the journal and the commit.
    fn change(&self, draft: &Draft<'_>, journal: &mut Journal) -> Result<Summary, LinkError> {
        self.move_aside(journal)?;
        journal.reach(Stage::Linking)?;
        failpoint("linking");
        let linker = Linker::new(&self.options.methods, journal.trash().to_path_buf());
        let linking = self.prepare(draft, &linker)?;
        self.make_directories(draft, &linking)?;
        for package in &draft.packages {
            let record = &package.package.record.package_record;
            self.script(ScriptKind::PreLink, record, &package.package.source_dir)?;
        }
        for relocation in &draft.relocations {
            let target = self.location.path().join(&relocation.to);
            copy(&journal.aside(relocation.aside), &target)
                .map_err(LinkError::io("move", &target))?;
        }
        let entries = self.link_files(draft, &linking)?;
        failpoint("linked");
        for package in &draft.packages {
            let record = &package.package.record.package_record;
            self.script(ScriptKind::PostLink, record, self.location.path())?;
        }
        let compiled = self.compile(draft)?;
        self.write_records(draft, journal, &linking, entries, &compiled)?;
        self.write_history()?;
        self.check_cancelled()?;
        failpoint("history");
        journal.reach(Stage::Committed)?;
        Ok(Summary {
            linked: draft
                .packages
                .iter()
                .map(|package| package.name.clone())
                .collect(),
            unlinked: self
                .transaction
                .unlink
                .iter()
                .map(|record| dist_name(&record.repodata_record.package_record))
                .collect(),
            files: draft.file_count(),
            compiled: compiled.len(),
        })
    }

    fn check_cancelled(&self) -> Result<(), LinkError> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(LinkError::Cancelled)
        } else {
            Ok(())
        }
    }

    fn script(
        &self,
        kind: ScriptKind,
        record: &rattler_conda_types::PackageRecord,
        directory: &Path,
    ) -> Result<(), LinkError> {
        if !self.options.run_scripts {
            return Ok(());
        }
        self.check_cancelled()?;
        let prefix = self.location.path();
        let runner = ScriptRunner {
            prefix,
            root_prefix: self.options.root_prefix.as_deref().unwrap_or(prefix),
            observer: self.observer,
            cancel: self.cancel,
        };
        runner.run(kind, record, directory)
    }

    fn move_aside(&self, journal: &Journal) -> Result<(), LinkError> {
        journal
            .scope
            .moved
            .par_iter()
            .enumerate()
            .try_for_each(|(index, path)| {
                self.check_cancelled()?;
                let full = self.location.path().join(path);
                // A person may have deleted the file, or put a directory in its place, which is
                // theirs. Neither stops the package from going.
                match fs::symlink_metadata(&full) {
                    Ok(metadata) if metadata.is_dir() => return Ok(()),
                    Ok(_) => {}
                    Err(_) => return Ok(()),
                }
                failpoint("move");
                fs::rename(&full, journal.aside(index)).map_err(LinkError::io("move aside", &full))
            })?;
        for directory in &journal.scope.emptied {
            let full = self.location.path().join(directory);
            fs::remove_dir(&full).map_err(LinkError::io("delete", &full))?;
        }
        for record in &self.transaction.unlink {
            self.observer
                .package_unlinked(&dist_name(&record.repodata_record.package_record));
        }
        Ok(())
    }

    fn prepare<'d>(
        &'d self,
        draft: &'d Draft<'d>,
        linker: &'d Linker,
    ) -> Result<Vec<Linking<'d>>, LinkError> {
        draft
            .packages
            .par_iter()
            .map(|package| Linking::new(package, draft, linker, self.location))
            .collect()
    }

    fn make_directories(
        &self,
        draft: &Draft<'_>,
        linking: &[Linking<'_>],
    ) -> Result<(), LinkError> {
        let prefix = self.location.path();
        for step in &draft.steps {
            match step {
                Step::Directory(path) => {
                    let full = prefix.join(path);
                    fs::create_dir(&full).map_err(LinkError::io("create directory", &full))?;
                }
                Step::Door { package, file } => {
                    let linking = &linking[*package];
                    let file = &linking.package.files[*file];
                    linking.file(file)?;
                    // The draft followed the link by its text; the file system has the last word.
                    let full = prefix.join(&file.location);
                    let inside = match (fs::canonicalize(&full), fs::canonicalize(prefix)) {
                        (Ok(target), Ok(prefix)) => target.starts_with(prefix) && target.is_dir(),
                        _ => false,
                    };
                    if !inside {
                        return Err(LinkError::PathEscape {
                            package: linking.package.name.clone(),
                            path: file.location.clone(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn link_files(
        &self,
        draft: &Draft<'_>,
        linking: &[Linking<'_>],
    ) -> Result<Vec<Vec<PathsEntry>>, LinkError> {
        let mut work = Vec::new();
        for (index, package) in draft.packages.iter().enumerate() {
            if package.files.is_empty() {
                self.observer.package_started(&package.name, 0);
                self.observer.package_done(&package.name);
            }
            work.extend(package.files.chunks(CHUNK).map(|files| (index, files)));
        }
        let done: Vec<(usize, Vec<PathsEntry>)> = work
            .into_par_iter()
            .map(|(index, files)| {
                let linking = &linking[index];
                let name = &linking.package.name;
                if !linking.started.swap(true, Ordering::Relaxed) {
                    self.observer
                        .package_started(name, linking.package.files.len());
                }
                let mut entries = Vec::with_capacity(files.len());
                for file in files {
                    self.check_cancelled()?;
                    failpoint("link");
                    entries.push(if file.door {
                        linking.entry_of_door(file)
                    } else {
                        linking.file(file)?
                    });
                }
                self.observer.files_linked(name, files.len());
                let before = linking.done.fetch_add(files.len(), Ordering::Relaxed);
                if before + files.len() == linking.package.files.len() {
                    self.observer.package_done(name);
                }
                Ok((index, entries))
            })
            .collect::<Result<_, LinkError>>()?;
        let mut by_package = vec![Vec::new(); draft.packages.len()];
        for (index, entries) in done {
            by_package[index].extend(entries);
        }
        Ok(by_package)
    }

    /// The byte code that was made, with its size, by its path.
    fn compile(&self, draft: &Draft<'_>) -> Result<HashMap<String, u64>, LinkError> {
        let modules: Vec<Module> = draft
            .packages
            .iter()
            .flat_map(|package| package.modules.iter().cloned())
            .collect();
        let Some(python) = draft.python.as_ref().filter(|_| !modules.is_empty()) else {
            return Ok(HashMap::new());
        };
        self.observer.compile_started(modules.len());
        let prefix = self.location.path();
        let interpreter = prefix.join(python.interpreter());
        let workers = rayon::current_num_threads();
        let outcome = compile(
            prefix,
            &interpreter,
            python.major,
            &modules,
            workers,
            self.cancel,
        );
        failpoint("compiled");
        let made: HashMap<String, u64> = modules
            .par_iter()
            .filter_map(|module| {
                let metadata = fs::metadata(prefix.join(&module.byte_code)).ok()?;
                Some((module.byte_code.clone(), metadata.len()))
            })
            .collect();
        match outcome {
            Compilation::Done => {}
            Compilation::Cancelled => return Err(LinkError::Cancelled),
            Compilation::Failed(reason) => self.observer.warning(&LinkWarning::NotCompiled {
                reason,
                files: modules.len() - made.len(),
            }),
        }
        self.observer.compile_done(made.len());
        Ok(made)
    }

    fn write_records(
        &self,
        draft: &Draft<'_>,
        journal: &Journal,
        linking: &[Linking<'_>],
        entries: Vec<Vec<PathsEntry>>,
        compiled: &HashMap<String, u64>,
    ) -> Result<(), LinkError> {
        let meta = self.location.conda_meta();
        linking
            .par_iter()
            .zip(entries)
            .try_for_each(|(linking, entries)| {
                self.check_cancelled()?;
                let package = linking.package;
                let compiled: Vec<(&Module, u64)> = package
                    .modules
                    .iter()
                    .filter_map(|module| Some((module, *compiled.get(&module.byte_code)?)))
                    .collect();
                let record = record::prefix_record(package, linking.best(), entries, &compiled);
                failpoint("record");
                write_record(
                    &meta.join(record.file_name()),
                    &record,
                    &package.package.extra,
                )
            })?;
        draft.edits.iter().try_for_each(|edit| {
            let target = self.location.path().join(&edit.file);
            edit_record(&journal.aside(edit.aside), &target, |fields| {
                record::apply(edit, fields)
            })
        })
    }

    fn write_history(&self) -> Result<(), LinkError> {
        let changes = Revision {
            unlinked: self
                .transaction
                .unlink
                .iter()
                .map(|record| &record.repodata_record)
                .collect(),
            linked: self
                .transaction
                .link
                .iter()
                .map(|package| &package.record)
                .collect::<Vec<&RepoDataRecord>>(),
        };
        append_history(self.location, &revision(&changes, self.options))
    }
}

/// A package while it is being linked.
struct Linking<'a> {
    package: &'a DraftPackage<'a>,
    draft: &'a Draft<'a>,
    prefix: &'a Prefix,
    linker: &'a Linker,
    /// None when the package has no file to link.
    methods: Option<Arc<Methods>>,
    /// One per placeholder; packages have one, or very few.
    replacements: Vec<Replacement>,
    started: AtomicBool,
    done: AtomicUsize,
}

impl<'a> Linking<'a> {
    fn new(
        package: &'a DraftPackage<'a>,
        draft: &'a Draft<'a>,
        linker: &'a Linker,
        prefix: &'a Prefix,
    ) -> Result<Self, LinkError> {
        let mut replacements: Vec<Replacement> = Vec::new();
        for (placeholder, _) in package
            .contents
            .files
            .iter()
            .filter_map(|file| file.placeholder.as_ref())
        {
            if !replacements
                .iter()
                .any(|known| known.placeholder() == placeholder)
            {
                replacements.push(Replacement::new(placeholder, prefix.text()));
            }
        }
        let sample = package
            .contents
            .files
            .iter()
            .find(|file| file.kind == FileKind::File)
            .map(|file| package.package.source_dir.join(&file.path));
        let methods = match &sample {
            Some(sample) => match linker.methods(sample) {
                Ok(methods) => Some(methods),
                // Linking that file will say what is wrong with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(LinkError::io("look at", sample)(error)),
            },
            None => None,
        };
        Ok(Self {
            package,
            draft,
            prefix,
            linker,
            methods,
            replacements,
            started: AtomicBool::new(false),
            done: AtomicUsize::new(0),
        })
    }

    fn best(&self) -> LinkMethod {
        self.methods.as_ref().map_or(LinkMethod::Copy, |methods| {
            methods.best(self.linker.order())
        })
    }

    /// Makes one file and says what its record should.
    fn file(&self, file: &DraftFile) -> Result<PathsEntry, LinkError> {
        let target = self.prefix.path().join(&file.location);
        let mut entry = match file.source {
            Source::File(index) => {
                self.package_file(&self.package.contents.files[index], &file.location, &target)?
            }
            Source::EntryPoint(index) => self.entry_point(index, &file.location, &target)?,
        };
        entry.original_path = file.original.as_ref().map(PathBuf::from);
        Ok(entry)
    }

    /// The record of a link that was made with the directories.
    fn entry_of_door(&self, file: &DraftFile) -> PathsEntry {
        let mut entry = record::entry(&file.location, PathType::SoftLink);
        if let Source::File(index) = file.source {
            let source = &self.package.contents.files[index];
            entry.sha256 = source.sha256.map(Into::into);
            entry.size_in_bytes = source.size;
        }
        entry.original_path = file.original.as_ref().map(PathBuf::from);
        entry
    }

    fn package_file(
        &self,
        source: &PackageFile,
        location: &str,
        target: &Path,
    ) -> Result<PathsEntry, LinkError> {
        let mut entry = record::entry(location, PathType::HardLink);
        entry.no_link = source.no_link;
        entry.sha256 = source.sha256.map(Into::into);
        entry.size_in_bytes = source.size;
        let path = self.package.package.source_dir.join(&source.path);
        match (source.kind, &source.placeholder) {
            (FileKind::Directory, _) => {
                // Made with all the others.
                entry.path_type = PathType::Directory;
            }
            (FileKind::SoftLink, _) => {
                copy(&path, target).map_err(|error| self.failed("link", source, target, error))?;
                entry.path_type = PathType::SoftLink;
            }
            (FileKind::File, Some((placeholder, mode))) => {
                self.patched(source, &path, target, (placeholder, *mode), &mut entry)?;
            }
            (FileKind::File, None) => {
                let method = self
                    .plain(source.no_link, &path, target)
                    .map_err(|error| self.failed("link", source, target, error))?;
                if method == LinkMethod::SoftLink {
                    entry.path_type = PathType::SoftLink;
                }
                entry.sha256_in_prefix = entry.sha256;
            }
        }
        Ok(entry)
    }

    fn plain(&self, no_link: bool, path: &Path, target: &Path) -> io::Result<LinkMethod> {
        match &self.methods {
            Some(methods) if !no_link => methods.link(self.linker.order(), path, target),
            _ => copy(path, target).map(|()| LinkMethod::Copy),
        }
    }

    /// Writes a file with the prefix in it. Always a fresh inode: the store is never touched.
    fn patched(
        &self,
        source: &PackageFile,
        path: &Path,
        target: &Path,
        (placeholder, mode): (&str, FileMode),
        entry: &mut PathsEntry,
    ) -> Result<(), LinkError> {
        let failed = |error| self.failed("read", source, path, error);
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        if metadata.is_symlink() {
            // There is nothing to patch in a link.
            copy(path, target).map_err(|error| self.failed("link", source, target, error))?;
            entry.path_type = PathType::SoftLink;
            return Ok(());
        }
        let mut data = fs::read(path).map_err(failed)?;
        let replacement = self
            .replacements
            .iter()
            .find(|replacement| replacement.placeholder() == placeholder)
            .expect("there is a replacement for every placeholder of the package");
        match mode {
            FileMode::Text => {
                if let std::borrow::Cow::Owned(changed) = replace_text(&data, replacement) {
                    data = changed;
                }
            }
            FileMode::Binary => {
                replacement
                    .binary(&mut data)
                    .map_err(|_| LinkError::PrefixTooLong {
                        package: self.package.name.clone(),
                        path: PathBuf::from(&source.path),
                        available: placeholder.len(),
                        needed: self.prefix.text().len(),
                    })?;
            }
        }
        create_like(target, &metadata)
            .and_then(|mut file| file.write_all(&data))
            .map_err(LinkError::io("write", target))?;
        entry.sha256_in_prefix = Some(Sha256::digest(&data));
        entry.size_in_bytes = Some(data.len() as u64);
        entry.file_mode = Some(mode);
        entry.prefix_placeholder = Some(placeholder.to_owned());
        Ok(())
    }

    fn entry_point(
        &self,
        index: usize,
        location: &str,
        target: &Path,
    ) -> Result<PathsEntry, LinkError> {
        let entry_point = &self.package.contents.entry_points[index];
        let Some(python) = &self.draft.python else {
            return Err(LinkError::NoPython {
                package: self.package.name.clone(),
            });
        };
        let script = python.entry_point_script(self.prefix.text(), entry_point);
        create_executable(target)
            .and_then(|mut file| file.write_all(script.as_bytes()))
            .map_err(LinkError::io("write", target))?;
        let mut entry = record::entry(location, PathType::UnixPythonEntryPoint);
        entry.sha256_in_prefix = Some(Sha256::digest(script.as_bytes()));
        entry.size_in_bytes = Some(script.len() as u64);
        Ok(entry)
    }

    /// A file that the package lists and does not have is the package's fault, not the disk's.
    fn failed(
        &self,
        action: &'static str,
        source: &PackageFile,
        path: &Path,
        error: io::Error,
    ) -> LinkError {
        let missing = error.kind() == io::ErrorKind::NotFound
            && fs::symlink_metadata(self.package.package.source_dir.join(&source.path)).is_err();
        if missing {
            return LinkError::MissingFile {
                package: self.package.name.clone(),
                path: PathBuf::from(&source.path),
            };
        }
        LinkError::Io {
            action,
            path: path.to_path_buf(),
            source: error,
        }
    }
}
