//! Copying packages: each is read once and sent to every destination that lacks it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use taipan_mirrors::{Class, Location};
use taipan_transfer::{
    Content, DeliveryError, Engine, Job, MemorySink, MirrorSet, NewFile, Outlet, PutOptions,
    Sha256, Target,
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    error::SyncError,
    local::blocking,
    report::{FailureSide, SyncEvent, SyncObserver},
};
use crate::{
    layout::{IMMUTABLE, content_type, package_file},
    records::{RecordTable, Row},
};

/// A package of at most this many bytes is kept in memory while it is copied.
const MAX_IN_MEMORY: u64 = 4 << 20;

/// The bytes of all packages in memory.
const MEMORY: u64 = 48 << 20;

/// The unit in which memory is counted.
const UNIT: u64 = 64 << 10;

/// How many larger packages are copied at a time. They lie in temporary files.
const LARGE: usize = 6;

/// Why a permit is always given.
const OPEN: &str = "the semaphore is never closed";

/// The number of failures in sequence after which a destination is given up.
const MAX_FAILURES: u32 = 20;

/// Packages that are sent together: those of one tag in a registry.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// The numbers of rows, each with the destinations that lack it, one bit for each.
    pub(super) rows: Vec<(usize, u64)>,
    /// Whether the table has other packages of the same tag.
    pub(super) has_twin: bool,
}

/// What was done at one destination.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) sent: usize,
    pub(super) bytes: u64,
    pub(super) found: usize,
    /// By row.
    pub(super) failures: BTreeMap<usize, (FailureSide, String)>,
    /// Rows that were not begun.
    pub(super) postponed: Vec<usize>,
    failures_in_sequence: u32,
    pub(super) gave_up: Option<SyncError>,
}

/// Everything that copying needs.
pub(super) struct Copier {
    pub(super) engine: Engine,
    pub(super) source: MirrorSet,
    /// The path of a package at the source is this, and its name.
    pub(super) prefix: String,
    pub(super) subdir: String,
    pub(super) outlets: Vec<Outlet>,
    pub(super) table: Arc<RecordTable>,
    pub(super) work: PathBuf,
    pub(super) jobs: usize,
    /// Destinations at which packages may be that the index does not name: a bit for each.
    pub(super) looks_first: u64,
    pub(super) max_bytes: Option<u64>,
    pub(super) deadline: Option<Instant>,
    pub(super) observer: Arc<dyn SyncObserver>,
    memory: Semaphore,
    large: Semaphore,
    bytes: AtomicU64,
    is_at_limit: AtomicBool,
    done: Mutex<Vec<Done>>,
}

/// What a [`Copier`] is made of.
pub(super) struct CopierParts {
    pub(super) engine: Engine,
    pub(super) source: MirrorSet,
    pub(super) prefix: String,
    pub(super) subdir: String,
    pub(super) outlets: Vec<Outlet>,
    pub(super) table: Arc<RecordTable>,
    pub(super) work: PathBuf,
    pub(super) jobs: usize,
    pub(super) looks_first: u64,
    pub(super) max_bytes: Option<u64>,
    pub(super) max_time: Option<Duration>,
    pub(super) observer: Arc<dyn SyncObserver>,
}

impl Copier {
    pub(super) fn new(parts: CopierParts) -> Self {
        let done = parts.outlets.iter().map(|_| Done::default()).collect();
        Self {
            engine: parts.engine,
            source: parts.source,
            prefix: parts.prefix,
            subdir: parts.subdir,
            outlets: parts.outlets,
            table: parts.table,
            work: parts.work,
            jobs: parts.jobs,
            looks_first: parts.looks_first,
            max_bytes: parts.max_bytes,
            deadline: parts.max_time.map(|time| Instant::now() + time),
            observer: parts.observer,
            memory: Semaphore::new(usize::try_from(MEMORY / UNIT).unwrap_or(1)),
            large: Semaphore::new(LARGE),
            bytes: AtomicU64::new(0),
            is_at_limit: AtomicBool::new(false),
            done: Mutex::new(done),
        }
    }

    fn done(&self) -> MutexGuard<'_, Vec<Done>> {
        // Each change is complete in itself.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies all groups, and tells what was done at each destination. To drop the future ends all requests.
    pub(super) async fn run(
        self: Arc<Self>,
        groups: impl Iterator<Item = Group> + Send,
    ) -> Vec<Done> {
        let mut tasks = JoinSet::new();
        for group in groups {
            while tasks.len() >= self.jobs {
                finished(tasks.join_next().await);
            }
            let copier = Arc::clone(&self);
            tasks.spawn(async move { copier.copy(group).await });
        }
        while let Some(task) = tasks.join_next().await {
            finished(Some(task));
        }
        std::mem::take(&mut self.done())
    }

    fn must_stop(&self) -> bool {
        if self.is_at_limit.load(Ordering::Relaxed) {
            return true;
        }
        let bytes = self.bytes.load(Ordering::Relaxed);
        let is_over = self.max_bytes.is_some_and(|most| bytes >= most)
            || self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline);
        if is_over {
            self.is_at_limit.store(true, Ordering::Relaxed);
        }
        is_over
    }

    fn fail(&self, row: usize, outlet: Option<usize>, problem: &str) {
        let path = format!(
            "{}/{}",
            self.subdir,
            self.table.file_name(&self.table.rows()[row])
        );
        self.observer.event(&SyncEvent::Failed {
            path: &path,
            destination: outlet,
            problem,
        });
    }

    async fn copy(&self, mut group: Group) {
        let gave_up: u64 = (self.done().iter().enumerate())
            .filter(|(_, done)| done.gave_up.is_some())
            .fold(0, |mask, (outlet, _)| mask | 1 << outlet);
        let must_stop = self.must_stop();
        for (row, lacking) in &mut group.rows {
            let postponed = if must_stop {
                *lacking
            } else {
                *lacking & gave_up
            };
            for outlet in bits(postponed) {
                self.done()[outlet].postponed.push(*row);
            }
            *lacking &= !postponed;
        }
        group.rows.retain(|(_, lacking)| *lacking != 0);
        if group.rows.is_empty() {
            return;
        }
        let total: u64 = (group.rows.iter())
            .map(|(row, _)| self.table.rows()[*row].size().unwrap_or(MAX_IN_MEMORY + 1))
            .sum();
        let in_memory = total <= MAX_IN_MEMORY;
        let units = if in_memory {
            total.div_ceil(UNIT).max(1)
        } else {
            0
        };
        let units = u32::try_from(units).unwrap_or(1);
        let _memory = self.memory.acquire_many(units).await.expect(OPEN);
        let _large = if in_memory {
            None
        } else {
            Some(self.large.acquire().await.expect(OPEN))
        };
        let mut found: Vec<u64> = vec![0; group.rows.len()];
        for (place, (row, lacking)) in group.rows.iter_mut().enumerate() {
            found[place] = self.look(*row, *lacking & self.looks_first).await;
            *lacking &= !found[place];
        }
        let mut files: Vec<Option<NewFile>> = Vec::with_capacity(group.rows.len());
        let mut temporary = Vec::new();
        for (row, lacking) in &mut group.rows {
            if *lacking == 0 {
                files.push(None);
                continue;
            }
            match self.fetch(*row, in_memory, &mut temporary).await {
                Ok(file) => files.push(Some(file)),
                Err(problem) => {
                    self.fail(*row, None, &problem);
                    for outlet in bits(*lacking) {
                        let failure = (FailureSide::Source, problem.clone());
                        self.done()[outlet].failures.insert(*row, failure);
                    }
                    *lacking = 0;
                    files.push(None);
                }
            }
        }
        let puts = (0..self.outlets.len()).map(|outlet| self.put(&group, &files, outlet));
        let sent = join_all(puts).await;
        for (place, (row, _)) in group.rows.iter().enumerate() {
            let name = self.table.file_name(&self.table.rows()[*row]);
            let path = format!("{}/{name}", self.subdir);
            let sent: Vec<usize> = (0..self.outlets.len())
                .filter(|outlet| sent[*outlet] & (1 << place) != 0)
                .collect();
            let found: Vec<usize> = bits(found[place]).collect();
            if !sent.is_empty() || !found.is_empty() {
                self.observer.event(&SyncEvent::Copied {
                    path: &path,
                    bytes: self.table.rows()[*row].size().unwrap_or(0),
                    sha256: files[place].as_ref().map(|file| file.sha256),
                    sent: &sent,
                    found: &found,
                });
            }
        }
    }

    /// The destinations that have a package already, among those of the mask.
    async fn look(&self, row: usize, mask: u64) -> u64 {
        let row = &self.table.rows()[row];
        let (target, _) = package_file(&self.subdir, self.table.file_name(row));
        let expected = row.expected();
        let mut found = 0;
        for outlet in bits(mask) {
            // If it cannot be found out, it is sent.
            let held = self
                .engine
                .look(&self.outlets[outlet], &target, &expected)
                .await;
            if let Ok(Some(held)) = held
                && held.is(&expected)
            {
                found |= 1 << outlet;
                self.done()[outlet].found += 1;
            }
        }
        found
    }

    /// Fetches a package from the source.
    async fn fetch(
        &self,
        number: usize,
        in_memory: bool,
        temporary: &mut Vec<tempfile::TempPath>,
    ) -> Result<NewFile, String> {
        let row = &self.table.rows()[number];
        let name = self.table.file_name(row);
        let expected = row.expected();
        let (destination, _) = package_file(&self.subdir, name);
        let mut target = Target::path(format!("{}{name}", self.prefix));
        target.oci.clone_from(&destination.oci);
        let local = self.local_file(row, &target, in_memory).await;
        let file = if let Some((content, sha256)) = local {
            NewFile::known(destination, content, sha256, None)
        } else if in_memory {
            let mut sink = MemorySink::new(usize::try_from(MAX_IN_MEMORY).unwrap_or(0));
            let job = Job::content(name, target, expected);
            let fetched = self.engine.fetch(&self.source, &job, &mut sink).await;
            fetched.map_err(|error| problem_of(&error))?;
            let content = Content::from(sink.into_bytes());
            let file = NewFile::new(destination, content).await;
            file.map_err(|error| error.to_string())?
        } else {
            let path = tempfile::Builder::new()
                .prefix("package-")
                .tempfile_in(&self.work)
                .map_err(|error| error.to_string())?
                .into_temp_path();
            let job = Job::content(name, target, expected);
            let fetched = self.engine.fetch_file(&self.source, &job, &path).await;
            fetched.map_err(|error| problem_of(&error))?;
            let content = Content::file(path.to_path_buf()).await;
            temporary.push(path);
            let content = content.map_err(|error| error.to_string())?;
            let file = NewFile::new(destination, content).await;
            file.map_err(|error| error.to_string())?
        };
        // Old records have no SHA-256.
        let md5 = match expected.md5 {
            Some(_) if expected.sha256.is_none() => {
                let digests = file.content.digests().await;
                Some(digests.map_err(|error| error.to_string())?.1)
            }
            md5 => md5,
        };
        let is_right = expected.sha256.is_none_or(|sha256| sha256 == file.sha256)
            && (expected.sha256.is_some() || md5 == expected.md5)
            && expected.size.is_none_or(|size| size == file.size());
        if !is_right {
            return Err("the source has a file with another digest".to_owned());
        }
        let mut file = file.with_headers(content_type(name), Some(IMMUTABLE));
        if let Some(md5) = md5 {
            file.annotations = vec![
                ("org.opencontainers.image.title".to_owned(), name.to_owned()),
                ("org.conda.md5".to_owned(), md5.to_string()),
            ];
        }
        Ok(file)
    }

    /// The package in a source that is a directory on this machine. It is not copied before it is sent; a small one is read
    /// here, once.
    async fn local_file(
        &self,
        row: &Row,
        target: &Target,
        in_memory: bool,
    ) -> Option<(Content, Sha256)> {
        let root = self
            .source
            .with_selector(|selector, _| match selector.mirrors() {
                [only] => match &only.location {
                    Location::File(root) => Some(root.clone()),
                    _ => None,
                },
                _ => None,
            })?;
        let path = root.join(&target.path);
        if in_memory {
            let read = move || {
                let bytes = std::fs::read(path).ok()?;
                let sha256 = Sha256::of(&bytes);
                Some((Content::from(bytes), sha256))
            };
            let read = blocking(read).await?;
            return (row.size().is_none_or(|size| size == read.0.size())).then_some(read);
        }
        let content = Content::file(path).await.ok()?;
        if row.size().is_some_and(|size| size != content.size()) {
            return None;
        }
        let sha256 = content.sha256().await.ok()?;
        Some((content, sha256))
    }

    /// Sends the files of a group to one destination. The result has a bit for each that was sent.
    async fn put(&self, group: &Group, files: &[Option<NewFile>], outlet: usize) -> u64 {
        let lacking = (group.rows.iter().zip(files).enumerate())
            .filter(|(_, ((_, mask), _))| mask & (1 << outlet) != 0)
            .filter_map(|(place, ((row, _), file))| Some((place, *row, file.clone()?)));
        let lacking: Vec<(usize, usize, NewFile)> = lacking.collect();
        let Some((_, first, file)) = lacking.first() else {
            return 0;
        };
        let label = file.target.path.clone();
        let is_registry = self.outlets[outlet].is_registry();
        let (places, new): (Vec<(usize, usize)>, Vec<NewFile>) = (lacking.iter())
            .map(|(place, row, file)| ((*place, *row), file.clone()))
            .unzip();
        if is_registry
            && let (_, Err(problem)) = package_file(
                &self.subdir,
                self.table.file_name(&self.table.rows()[*first]),
            )
        {
            for (_, row) in places {
                let problem = problem.to_string();
                self.fail(row, Some(outlet), &problem);
                let failure = (FailureSide::Layout, problem);
                self.done()[outlet].failures.insert(row, failure);
            }
            return 0;
        }
        let options = PutOptions {
            keeps_other_layers: group.has_twin && new.len() == 1,
        };
        let bytes: u64 = new.iter().map(NewFile::size).sum();
        match self
            .engine
            .put(&self.outlets[outlet], &label, &new, options)
            .await
        {
            Ok(_) => {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                let mut done = self.done();
                let done = &mut done[outlet];
                done.sent += new.len();
                done.bytes += bytes;
                done.failures_in_sequence = 0;
                places.iter().fold(0, |mask, (place, _)| mask | 1 << place)
            }
            Err(error) => {
                let problem = error.problem();
                for (_, row) in &places {
                    self.fail(*row, Some(outlet), &problem);
                }
                let place = self.outlets[outlet].location().to_string();
                let mut done = self.done();
                let done = &mut done[outlet];
                for (_, row) in places {
                    let failure = (FailureSide::Destination, problem.clone());
                    done.failures.insert(row, failure);
                }
                done.failures_in_sequence += 1;
                let count = done.failures_in_sequence;
                if done.gave_up.is_none() {
                    done.gave_up = gives_up(error, count, place, problem);
                }
                0
            }
        }
    }
}

/// The error with which a destination is given up, if it is.
fn gives_up(error: DeliveryError, count: u32, place: String, problem: String) -> Option<SyncError> {
    // What no package can pass.
    if error.is_denied() || error.class() == Class::NotHere || error.is_local() {
        return Some(SyncError::Destination(error));
    }
    (count >= MAX_FAILURES).then_some(SyncError::GaveUp {
        place,
        count,
        problem,
    })
}

fn problem_of(error: &taipan_transfer::FetchError) -> String {
    error.problem()
}

fn finished(task: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = task
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// The numbers of the bits that are set.
pub(super) fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |bit| mask & (1 << bit) != 0)
}
