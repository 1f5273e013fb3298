//! Executes a transaction.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rattler_conda_types::prefix_record::PathsEntry;
use rattler_conda_types::{PackageRecord, PrefixRecord, RepoDataRecord};
use rayon::prelude::*;
use taipan_channel::ChannelIndexes;

use super::draft::{Draft, Inputs};
use super::linking::Linking;
use super::plan::{Plan, PlannedLink, Respec};
use super::record;
use crate::error::PrefixError;
use crate::failpoint::failpoint;
use crate::link::{
    Compilation, LinkObserver, LinkOptions, LinkPackage, LinkWarning, Linker, Module, ScriptKind,
    ScriptRunner, compile, copy, dist_name,
};
use crate::prefix::{Prefix, Revision, append_history, edit_record, revision, write_record};
use crate::prepare::Prepared;
use crate::recovery::{self, Journal, LockedPrefix, Recovery, Stage};

/// The number of files that a worker links as one task.
const FILES_PER_TASK: usize = 32;

/// A plan whose packages are extracted.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    unlink: Vec<PrefixRecord>,
    keep: Vec<PrefixRecord>,
    respec: Vec<Respec>,
    link: Vec<LinkPackage>,
}

/// The result of a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Linked packages, as `name-version-build`, in link order.
    pub linked: Vec<String>,
    /// Unlinked packages, likewise.
    pub unlinked: Vec<String>,
    /// The number of linked and generated files, without byte code.
    pub files: usize,
    /// The number of compiled modules.
    pub compiled: usize,
}

impl Transaction {
    /// A transaction that executes `plan` with packages in the store. `prepared` are those of
    /// [`Plan::records_to_link`], in the same order. Fields of `channels` that records do not have
    /// are kept for `conda-meta`.
    pub fn new(plan: Plan, prepared: &[Prepared], channels: &[ChannelIndexes]) -> Self {
        let mut prepared = prepared.iter();
        Self::with_packages(plan, |planned| {
            let package = prepared.next().expect("every planned package is prepared");
            let record = &planned.record;
            let mut link = LinkPackage::new(record.clone(), &package.dir);
            // Where conda would have the archive. It is not kept, but a record has the field.
            let archive = record.identifier.to_file_name();
            link.package_tarball_full_path = Some(package.dir.with_file_name(archive));
            let mut channels = channels.iter();
            link.extra = channels
                .find_map(|channel| channel.published_fields(record))
                .unwrap_or_default();
            link
        })
    }

    /// Pairs every planned package with what `extracted` returns for it.
    pub(crate) fn with_packages(
        plan: Plan,
        mut extracted: impl FnMut(&PlannedLink) -> LinkPackage,
    ) -> Self {
        let link = plan.link.iter().map(|planned| {
            let mut package = extracted(planned);
            package.requested_specs.clone_from(&planned.requested_specs);
            package
        });
        Self {
            link: link.collect(),
            unlink: plan.unlink,
            keep: plan.keep,
            respec: plan.respec,
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.unlink.is_empty() && self.link.is_empty() && self.respec.is_empty()
    }

    /// Executes the transaction, or leaves the prefix as it was. An empty transaction does not
    /// change an existing environment.
    ///
    /// Blocks; works on `options.threads` threads of its own. `cancel` is checked between files and
    /// while child processes run.
    ///
    /// Changes that link scripts make by themselves cannot be rolled back, except in a new prefix,
    /// which is removed as a whole.
    ///
    /// # Errors
    /// Any [`PrefixError`]; [`PrefixError::Cancelled`] after `cancel` was set. The prefix has been
    /// restored, except with [`PrefixError::RollbackFailed`]: then the next lock restores it.
    pub fn execute(
        &self,
        prefix: &LockedPrefix,
        options: &LinkOptions,
        observer: &dyn LinkObserver,
        cancel: &AtomicBool,
    ) -> Result<Summary, PrefixError> {
        let location = prefix.prefix();
        if let Some(frozen) = location.frozen()?
            && !options.override_frozen
            && !self.is_empty()
        {
            let path = location.path().to_path_buf();
            return Err(PrefixError::Frozen {
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
            .map_err(|source| PrefixError::Threads { source })?;
        let execution = Execution {
            transaction: self,
            prefix,
            location,
            options,
            observer,
            cancel,
        };
        threads.install(|| execution.run())
    }

    /// The files of the records by package. Checks that the prefix has exactly the packages that
    /// the plan was made for.
    fn record_files(&self, prefix: &Prefix) -> Result<HashMap<String, String>, PrefixError> {
        let changed = || PrefixError::PrefixChanged {
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
        // Other tools may name the file of a record differently; then its content decides.
        for (file, path) in present {
            let text = fs::read(&path).map_err(PrefixError::io("read", &path))?;
            let found: PrefixRecord = taipan_channel::parse_record(&text)
                .map_err(|source| PrefixError::BadRecord { path, source })?;
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

/// One execution of a transaction and everything it needs.
struct Execution<'a> {
    transaction: &'a Transaction,
    prefix: &'a LockedPrefix,
    location: &'a Prefix,
    options: &'a LinkOptions,
    observer: &'a dyn LinkObserver,
    cancel: &'a AtomicBool,
}

impl Execution<'_> {
    fn run(&self) -> Result<Summary, PrefixError> {
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
            byte_code_cache: self.options.byte_code_cache.as_deref(),
        };
        let (draft, scope) = Draft::new(&inputs, self.observer)?;
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
        let mut journal = Journal::begin(self.location, scope)?;
        failpoint("journal");
        match self.change(&draft, &mut journal) {
            Ok(summary) => {
                self.prefix.forget_created();
                // The environment is complete; the next run can clean up.
                if let Err(error) = recovery::finish(self.location, &journal) {
                    self.observer.warning(&LinkWarning::LeftBehind {
                        path: journal.trash().to_path_buf(),
                        reason: error.to_string(),
                    });
                }
                Ok(summary)
            }
            Err(cause) => match recovery::roll_back(self.location, &mut journal) {
                Ok(recovery) => {
                    if recovery == Recovery::Removed {
                        self.prefix.forget_created();
                    }
                    Err(cause)
                }
                Err(source) => Err(PrefixError::RollbackFailed {
                    prefix: self.location.path().to_path_buf(),
                    cause: Box::new(cause),
                    source: Box::new(source),
                }),
            },
        }
    }

    /// All changes between the journal and the commit.
    fn change(&self, draft: &Draft<'_>, journal: &mut Journal) -> Result<Summary, PrefixError> {
        self.move_to_trash(journal)?;
        journal.reach(Stage::Linking)?;
        failpoint("linking");
        let linker = Linker::new(&self.options.methods, journal.trash().to_path_buf());
        let linking = self.prepare(draft, &linker)?;
        self.make_directories(draft)?;
        for package in &draft.packages {
            let record = &package.package.record.package_record;
            self.script(ScriptKind::PreLink, record, &package.package.source_dir)?;
        }
        for relocation in &draft.relocations {
            let target = self.location.path().join(&relocation.to);
            copy(&journal.trash_path(relocation.moved_index), &target)
                .map_err(PrefixError::io("move", &target))?;
        }
        let entries = self.link_files(draft, &linking)?;
        failpoint("linked");
        for package in &draft.packages {
            let record = &package.package.record.package_record;
            self.script(ScriptKind::PostLink, record, self.location.path())?;
        }
        let compiled = self.compile(draft, &linker)?;
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

    fn check_cancelled(&self) -> Result<(), PrefixError> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(PrefixError::Cancelled)
        } else {
            Ok(())
        }
    }

    fn script(
        &self,
        kind: ScriptKind,
        record: &PackageRecord,
        directory: &Path,
    ) -> Result<(), PrefixError> {
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

    fn move_to_trash(&self, journal: &Journal) -> Result<(), PrefixError> {
        let scope = &journal.scope;
        let move_one = |index: usize| {
            self.check_cancelled()?;
            let full = self.location.path().join(&scope.moved[index]);
            // The user may have deleted the file, or put a directory in its place, which is kept.
            // Neither prevents the removal of the package.
            match fs::symlink_metadata(&full) {
                Ok(metadata) if metadata.is_dir() => return Ok(()),
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
            failpoint("move");
            fs::rename(&full, journal.trash_path(index))
                .map_err(PrefixError::io("move into the trash", &full))
        };
        let dir_symlinks: HashSet<usize> = scope.moved_dir_symlinks.iter().copied().collect();
        (0..scope.moved.len())
            .into_par_iter()
            .filter(|index| !dir_symlinks.contains(index))
            .try_for_each(move_one)?;
        scope
            .moved_dir_symlinks
            .iter()
            .copied()
            .try_for_each(move_one)?;
        for directory in &journal.scope.emptied {
            let full = self.location.path().join(directory);
            fs::remove_dir(&full).map_err(PrefixError::io("delete", &full))?;
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
    ) -> Result<Vec<Linking<'d>>, PrefixError> {
        draft
            .packages
            .par_iter()
            .map(|package| Linking::new(package, draft, linker, self.location))
            .collect()
    }

    fn make_directories(&self, draft: &Draft<'_>) -> Result<(), PrefixError> {
        for path in &draft.directories {
            let full = self.location.path().join(path);
            fs::create_dir(&full).map_err(PrefixError::io("create directory", &full))?;
        }
        Ok(())
    }

    fn link_files(
        &self,
        draft: &Draft<'_>,
        linking: &[Linking<'_>],
    ) -> Result<Vec<Vec<PathsEntry>>, PrefixError> {
        let mut work = Vec::new();
        for (index, package) in draft.packages.iter().enumerate() {
            if package.files.is_empty() {
                self.observer.package_started(&package.name, 0);
                self.observer.package_done(&package.name);
            }
            work.extend(
                package
                    .files
                    .chunks(FILES_PER_TASK)
                    .map(|files| (index, files)),
            );
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
                    entries.push(linking.file(file)?);
                }
                self.observer.files_linked(name, files.len());
                let before = linking.done.fetch_add(files.len(), Ordering::Relaxed);
                if before + files.len() == linking.package.files.len() {
                    self.observer.package_done(name);
                }
                Ok((index, entries))
            })
            .collect::<Result<_, PrefixError>>()?;
        let mut by_package = vec![Vec::new(); draft.packages.len()];
        for (index, entries) in done {
            by_package[index].extend(entries);
        }
        Ok(by_package)
    }

    /// The size of each compiled module's byte code, by path.
    fn compile(
        &self,
        draft: &Draft<'_>,
        linker: &Linker,
    ) -> Result<HashMap<String, u64>, PrefixError> {
        let modules: Vec<Module> = draft
            .packages
            .iter()
            .flat_map(|package| package.modules.iter().cloned())
            .collect();
        let Some(python) = draft.python.as_ref().filter(|_| !modules.is_empty()) else {
            return Ok(HashMap::new());
        };
        let prefix = self.location.path();
        let missing: Vec<Module> = modules
            .par_iter()
            .filter(|module| !module.reuse(prefix, linker))
            .cloned()
            .collect();
        self.observer.compile_started(missing.len());
        let interpreter = prefix.join(python.interpreter());
        let workers = rayon::current_num_threads();
        let outcome = compile(
            prefix,
            &interpreter,
            python.major,
            &missing,
            workers,
            self.cancel,
        );
        if matches!(outcome, Compilation::Done) {
            missing.par_iter().for_each(|module| module.keep(prefix));
        }
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
            Compilation::Cancelled => return Err(PrefixError::Cancelled),
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
    ) -> Result<(), PrefixError> {
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
                    journal.trash(),
                    &record,
                    &package.package.extra,
                )
            })?;
        draft.edits.iter().try_for_each(|edit| {
            let target = self.location.path().join(&edit.file);
            let source = journal.trash_path(edit.moved_index);
            edit_record(&source, &target, journal.trash(), |fields| {
                record::apply(edit, fields);
            })
        })
    }

    fn write_history(&self) -> Result<(), PrefixError> {
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
