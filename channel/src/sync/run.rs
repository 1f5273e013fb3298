//! One subdir of a channel, from its source to all destinations.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::future::join_all;
use taipan_transfer::{
    Content, Engine, Expected, HttpClient, Job, MirrorSet, NewFile, Outlet, PutOptions,
};

use super::{
    copy::{Copier, CopierParts, Done},
    error::SyncError,
    filter::Filter,
    local::blocking,
    options::SyncOptions,
    plan::{Difference, Groups, Phase},
    publish::{Forms, SideFile, save_state},
    report::{
        CopyFailure, DestinationOutcome, DestinationReport, FailureSide, SubdirReport, SyncEvent,
        SyncObserver,
    },
    source::{IndexResponse, LocalIndex, fetch_index_file},
    state::{MirrorState, now, read_state, sources_of},
    zck::ZCK,
};
use crate::{
    channel::Channel,
    layout::{NEVER, index_file, note_file},
    mirrored_channel::MirroredChannel,
    records::{RecordTable, Row},
};

/// The name of the note that a run has begun to send packages.
pub(super) const UNFINISHED: &str = "unfinished";

/// Copies what a channel lists in one subdir to all destinations, and publishes its index there.
///
/// # Errors
/// When nothing can be done at any destination. What happens at one of them is in the report.
#[expect(clippy::too_many_arguments, reason = "they are what a sync connects")]
pub async fn sync_subdir(
    engine: &Engine,
    client: &HttpClient,
    source: &MirroredChannel,
    subdir: &str,
    outlets: &[Outlet],
    filter: &Filter,
    options: &SyncOptions,
    observer: Arc<dyn SyncObserver>,
) -> Result<SubdirReport, SyncError> {
    let run = Run {
        engine,
        client,
        source,
        subdir,
        outlets,
        filter,
        options,
        observer,
    };
    run.run().await
}

pub(super) struct Run<'a> {
    pub(super) engine: &'a Engine,
    pub(super) client: &'a HttpClient,
    pub(super) source: &'a MirroredChannel,
    pub(super) subdir: &'a str,
    pub(super) outlets: &'a [Outlet],
    pub(super) filter: &'a Filter,
    pub(super) options: &'a SyncOptions,
    pub(super) observer: Arc<dyn SyncObserver>,
}

/// One destination in the course of a run.
pub(super) struct Progress {
    pub(super) report: DestinationReport,
    /// What was read of it; `None` if it has none.
    pub(super) state: Option<MirrorState>,
    /// Whether it is done with, successfully or not.
    pub(super) is_over: bool,
    /// Whether it is a registry.
    pub(super) is_registry: bool,
}

impl Run<'_> {
    async fn run(&self) -> Result<SubdirReport, SyncError> {
        let now = now();
        let mut destinations = self.read_states().await;
        let filters = self.filter.digest();
        let validators = self.common_validators(&destinations, &filters, now);
        let is_new = destinations.iter().all(|it| it.state.is_none());
        let index = self.fetch_index(&validators, is_new).await?;
        let Some(index) = index else {
            // All are up to date.
            let listed = destinations.iter().find_map(|it| it.state.as_ref());
            return Ok(SubdirReport {
                subdir: self.subdir.to_owned(),
                listed: listed.map_or(0, |state| state.packages),
                source_time: listed.and_then(|state| state.source_time),
                destinations: destinations.into_iter().map(|it| it.report).collect(),
            });
        };
        let (filter, table) = (self.filter.clone(), Arc::new(index.table));
        let index = LocalIndex {
            table: RecordTable::default(),
            ..index
        };
        for (file, problem) in &table.unusable {
            let text = format!("{}/{file} is left out: {problem}", self.subdir);
            self.observer.event(&SyncEvent::Warning { text: &text });
        }
        let unlisted = self.filter.unlisted(&table);
        for file in &unlisted {
            let text = format!(
                "{}/{file} is in a lock file, and the source does not list it",
                self.subdir
            );
            self.observer.event(&SyncEvent::Warning { text: &text });
        }
        let (of_table, path) = (Arc::clone(&table), index.path.clone());
        let left_out = blocking(move || filter.left_out(&of_table, &path)).await?;
        let source_time = time_of(&index);
        let mut report = SubdirReport {
            subdir: self.subdir.to_owned(),
            listed: table.len() - left_out.len(),
            source_time,
            destinations: Vec::new(),
        };
        let sources = self.sources().await;
        let mut open: Vec<usize> = Vec::new();
        for (number, destination) in destinations.iter_mut().enumerate() {
            if destination.is_over {
                continue;
            }
            let location = &destination.report.location;
            if sources.iter().any(|it| is_same_place(it, location)) {
                let place = self.source.channel.canonical();
                destination.report.outcome = DestinationOutcome::Failed(SyncError::Loop { place });
                continue;
            }
            let is_same = destination.state.as_ref().is_some_and(|state| {
                state.source_sha256.as_deref() == Some(&*index.sha256.to_string())
                    && state.filters == filters
            });
            if is_same && !self.options.verify && !self.has_work(destination, now) {
                self.refresh_validators(number, destination, &index).await;
                continue;
            }
            open.push(number);
        }
        if !open.is_empty() {
            let has_zck = |it: &Progress| {
                let state = it.state.as_ref();
                state.is_some_and(|state| state.forms.contains_key(ZCK))
            };
            let contents = Contents {
                sources,
                makes_zck: self.options.zck || destinations.iter().any(has_zck),
                table,
                left_out,
                index,
                filters,
                now,
            };
            self.update(&contents, &open, &mut destinations).await;
        }
        report.destinations = destinations.into_iter().map(|it| it.report).collect();
        Ok(report)
    }

    /// The states of all destinations. One that cannot be read is over.
    async fn read_states(&self) -> Vec<Progress> {
        let reads = self.outlets.iter().map(|outlet| async {
            let mut report = DestinationReport::new(outlet.location().to_string());
            match read_state(self.engine, outlet, self.subdir).await {
                Ok(state) => {
                    if let Some(state) = &state {
                        report.packages = state.packages;
                        report.index_time = state.source_time;
                        report.graves = state.graves_to_delete();
                        let failures = state.failures.iter().map(|(file, failure)| CopyFailure {
                            file: file.clone(),
                            side: FailureSide::Source,
                            problem: failure.problem.clone(),
                        });
                        report.failures = failures.collect();
                    }
                    Progress {
                        report,
                        state,
                        is_over: false,
                        is_registry: outlet.is_registry(),
                    }
                }
                Err(error) => {
                    report.outcome = DestinationOutcome::Failed(error);
                    Progress {
                        report,
                        state: None,
                        is_over: true,
                        is_registry: outlet.is_registry(),
                    }
                }
            }
        });
        join_all(reads).await
    }

    /// The source, and the channels that it is a mirror of.
    async fn sources(&self) -> Vec<String> {
        let mut sources = vec![self.source.channel.canonical()];
        sources.extend(sources_of(self.engine, &self.source.mirrors, self.subdir).await);
        sources
    }

    /// The validators of the source index, if an unchanged index means that there is nothing to do.
    fn common_validators(
        &self,
        destinations: &[Progress],
        filters: &str,
        now: u64,
    ) -> BTreeMap<String, taipan_transfer::Validators> {
        let mut common = None;
        for destination in destinations.iter().filter(|it| !it.is_over) {
            let Some(state) = &destination.state else {
                return BTreeMap::new();
            };
            let validators = state.validators();
            let is_done = state.filters == filters
                && !self.options.verify
                && !self.has_work(destination, now)
                && state.source.first() == Some(&self.source.channel.canonical());
            if !is_done || common.as_ref().is_some_and(|it| *it != validators) {
                return BTreeMap::new();
            }
            common = Some(validators);
        }
        common.unwrap_or_default()
    }

    /// Whether something is to be done although the source has not changed.
    fn has_work(&self, destination: &Progress, now: u64) -> bool {
        let Some(state) = &destination.state else {
            return true;
        };
        let has_due_graves = self.options.prune.as_ref().is_some_and(|prune| {
            (state.graves.values())
                .any(|it| !it.stays && now.saturating_sub(it.since) >= prune.grace.as_secs())
        });
        let lacks_zck =
            self.options.zck && !state.forms.contains_key(ZCK) && !destination.is_registry;
        self.retries(state, now) || has_due_graves || lacks_zck
    }

    /// Whether packages that failed are to be tried again.
    fn retries(&self, state: &MirrorState, now: u64) -> bool {
        state.is_due(now) || (self.options.retry_failed && !state.failures.is_empty())
    }

    /// The index that is copied: that of the source, or the one that other workers have begun with. `None` if the source has not
    /// changed.
    async fn fetch_index(
        &self,
        validators: &BTreeMap<String, taipan_transfer::Validators>,
        is_new: bool,
    ) -> Result<Option<LocalIndex>, SyncError> {
        let Some(worker) = self.options.worker else {
            return self.fetch_source(validators, is_new).await;
        };
        if let Some(planned) = self.planned_index(worker).await? {
            return Ok(Some(planned));
        }
        match self.fetch_source(validators, is_new).await? {
            Some(index) if !self.options.dry_run => self.pin(index, worker).await.map(Some),
            Some(index) => Ok(Some(index)),
            None => Ok(None),
        }
    }

    /// The source index; `None` if it has not changed.
    async fn fetch_source(
        &self,
        validators: &BTreeMap<String, taipan_transfer::Validators>,
        is_new: bool,
    ) -> Result<Option<LocalIndex>, SyncError> {
        let name = format!("{}-source.json", self.subdir);
        let fetched = fetch_index_file(
            self.engine,
            &self.source.mirrors,
            self.subdir,
            validators,
            &self.options.work,
            &name,
        );
        match fetched.await {
            Ok(IndexResponse::NotModified) => Ok(None),
            Ok(IndexResponse::Index(index)) => Ok(Some(*index)),
            Ok(IndexResponse::Absent) => Err(SyncError::NoSubdir {
                subdir: format!("subdir `{}`", self.subdir),
            }),
            // Some mirrors say that there is none, others say nothing, and no destination has ever had it.
            Err(error) if is_new && error.has_absence() => Err(SyncError::NoSubdir {
                subdir: format!("subdir `{}`", self.subdir),
            }),
            Err(source) => Err(SyncError::Source {
                subdir: self.subdir.to_owned(),
                source,
            }),
        }
    }

    /// The source sent its index again, and it is the same: the next run may ask with validators.
    async fn refresh_validators(&self, number: usize, it: &mut Progress, index: &LocalIndex) {
        let Some(state) = &mut it.state else {
            return;
        };
        let before = state.validators.clone();
        state.set_validators(&index.url, &index.validators);
        if before != state.validators && !self.options.dry_run {
            let outlet = &self.outlets[number];
            let saved = save_state(self.engine, outlet, self.subdir, state).await;
            if let Err(error) = saved {
                it.report.outcome = DestinationOutcome::Failed(error);
            }
        }
    }

    /// Brings destinations up to date.
    async fn update(&self, contents: &Contents, open: &[usize], all: &mut [Progress]) {
        let mut differences: HashMap<usize, Difference> = HashMap::new();
        for &number in open {
            let state = all[number].state.clone();
            match self.difference(contents, number, state.as_ref()).await {
                Ok(difference) => {
                    differences.insert(number, difference);
                }
                Err(error) => all[number].report.outcome = DestinationOutcome::Failed(error),
            }
        }
        let groups = Self::groups(contents, &differences, Phase::First);
        let (mut packages, mut bytes) = (0, 0);
        for (row, _) in groups.clone().flat_map(|group| group.rows) {
            packages += 1;
            bytes += contents.table.rows()[row].size().unwrap_or(0);
        }
        self.observer.event(&SyncEvent::Planned {
            subdir: self.subdir,
            packages,
            bytes,
        });
        for (number, difference) in &differences {
            let report = &mut all[*number].report;
            report.dropped = difference.dropped.len();
            report.replaced = difference.replaced.len();
            if self.options.dry_run {
                report.outcome = DestinationOutcome::Planned;
                report.packages = contents.table.len() - contents.left_out.len();
                report.sent = difference.lacking.len();
                let rows = difference
                    .lacking
                    .iter()
                    .map(|row| &contents.table.rows()[*row]);
                report.sent_bytes = rows.filter_map(Row::size).sum();
            }
        }
        if self.options.dry_run {
            return;
        }
        self.mark(&mut differences, all).await;
        let looks_first = (differences.iter())
            .filter(|(_, difference)| difference.looks_first)
            .fold(0, |mask, (number, _)| mask | 1 << number);
        let done = self.copy(contents, groups, looks_first).await;
        let mut done = done;
        if let Some(worker) = self.options.worker {
            match self.finish_share(contents, worker, &mut done).await {
                Ok(true) => {}
                result => {
                    let problem = result.err().map(|error| super::error::describe(&error));
                    for &number in differences.keys() {
                        self.end_share(&mut all[number], &mut done[number], problem.as_deref());
                    }
                    return;
                }
            }
        }
        let mut done: Vec<Option<Done>> = done.into_iter().map(Some).collect();
        let side = self.fetch_side_file("run_exports.json").await;
        let mut forms_of: HashMap<BTreeSet<usize>, Forms> = HashMap::new();
        for (&number, difference) in &differences {
            let done = done[number].take().unwrap_or_default();
            let progress = &mut all[number];
            let finished = self
                .finish(
                    contents,
                    number,
                    difference,
                    done,
                    progress,
                    (&mut forms_of, side.as_ref()),
                )
                .await;
            match finished {
                Ok(()) => {}
                // Another worker found all marks at the same time, and published the same.
                Err(SyncError::Contended { .. }) if self.options.worker.is_some() => {
                    progress.report.outcome = DestinationOutcome::Published;
                }
                Err(error) => progress.report.outcome = DestinationOutcome::Failed(error),
            }
        }
        let is_whole = all
            .iter()
            .all(|it| !matches!(it.report.outcome, DestinationOutcome::Failed(_)));
        if let Some(worker) = self.options.worker.filter(|_| is_whole) {
            let sha256 = contents.index.sha256.to_string();
            self.forget_plan(&sha256, worker).await;
        }
    }

    /// A file of the source that goes beside the index; `None` if it has none.
    async fn fetch_side_file(&self, name: &'static str) -> Option<SideFile> {
        let path = self.options.work.join(format!("{}-{name}", self.subdir));
        let label = format!("{}/{name}", self.subdir);
        let job = Job::metadata(&label, index_file(self.subdir, name));
        let fetched = self
            .engine
            .fetch_file(&self.source.mirrors, &job, &path)
            .await;
        match fetched {
            Ok(_) => Some(SideFile { name, path }),
            Err(error) if error.is_absent() || error.has_absence() => None,
            Err(error) => {
                let text = format!("{label} is not copied: {}", error.problem());
                self.observer.event(&SyncEvent::Warning { text: &text });
                None
            }
        }
    }

    /// The end of a share, while others are not done.
    fn end_share(&self, progress: &mut Progress, done: &mut Done, problem: Option<&str>) {
        super::finish::add(&mut progress.report, done);
        progress.report.postponed = done.postponed.len();
        progress.report.outcome = match (done.gave_up.take(), problem) {
            (Some(error), _) => DestinationOutcome::Failed(error),
            (None, Some(problem)) => DestinationOutcome::Failed(SyncError::GaveUp {
                place: progress.report.location.clone(),
                count: 1,
                problem: problem.to_owned(),
            }),
            (None, None) => DestinationOutcome::ShareDone,
        };
        self.observer.event(&SyncEvent::Warning {
            text: "the index is published when the other workers are done",
        });
    }

    /// Notes at each destination that a run has begun, and reads whether an earlier one did not end.
    async fn mark(&self, differences: &mut HashMap<usize, Difference>, all: &mut [Progress]) {
        let target = note_file(self.subdir, UNFINISHED);
        let mut failed = Vec::new();
        for (&number, difference) in differences.iter_mut() {
            if difference.lacking.is_empty() {
                continue;
            }
            let outlet = &self.outlets[number];
            let look = self
                .engine
                .look(outlet, &target, &Expected::default())
                .await;
            let result = match look {
                Ok(Some(_)) => {
                    difference.looks_first = true;
                    Ok(())
                }
                Ok(None) => self.put_note(outlet, UNFINISHED, b"{}".to_vec()).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = result {
                all[number].report.outcome = DestinationOutcome::Failed(error);
                failed.push(number);
            }
        }
        for number in failed {
            differences.remove(&number);
        }
    }

    async fn put_note(&self, outlet: &Outlet, name: &str, text: Vec<u8>) -> Result<(), SyncError> {
        let target = note_file(self.subdir, name);
        let label = target.path.clone();
        let file = NewFile::new(target, Content::from(text)).await;
        let file = file.map_err(|error| SyncError::Local {
            path: label.clone().into(),
            source: std::io::Error::other(error),
        })?;
        let file = file.with_headers("application/json", Some(NEVER));
        self.engine
            .put(outlet, &label, &[file], PutOptions::default())
            .await?;
        Ok(())
    }

    pub(super) async fn copy(
        &self,
        contents: &Contents,
        groups: Groups,
        looks_first: u64,
    ) -> Vec<Done> {
        let (source, prefix) = self.files(&contents.table);
        let copier = Copier::new(CopierParts {
            engine: self.engine.clone(),
            source,
            prefix,
            subdir: self.subdir.to_owned(),
            outlets: self.outlets.to_vec(),
            table: Arc::clone(&contents.table),
            work: self.options.work.clone(),
            jobs: self.options.jobs.max(1),
            looks_first,
            max_bytes: self.options.max_bytes,
            max_time: self.options.max_time,
            observer: Arc::clone(&self.observer),
        });
        Arc::new(copier).run(groups).await
    }

    /// Where the files of the source are: mirrors, and what precedes the name of a file.
    fn files(&self, table: &RecordTable) -> (MirrorSet, String) {
        let own = || (self.source.mirrors.clone(), format!("{}/", self.subdir));
        let Some(base) = &table.base_url else {
            return own();
        };
        let channel: &Channel = &self.source.channel;
        let Ok(mut url) = channel.subdir_url(self.subdir).join(base) else {
            return own();
        };
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        match channel.path_of(&url) {
            Some(path) => (self.source.mirrors.clone(), path),
            None => match MirrorSet::of_url(url.as_str(), self.client) {
                Some(set) => (set, String::new()),
                None => own(),
            },
        }
    }
}

/// The source index and what is wanted of it.
pub(super) struct Contents {
    /// The source, and the channels that it is a mirror of.
    pub(super) sources: Vec<String>,
    /// Whether a zchunk form is made. One that was published once is kept up to date.
    pub(super) makes_zck: bool,
    pub(super) table: Arc<RecordTable>,
    pub(super) left_out: BTreeSet<usize>,
    /// Without its table.
    pub(super) index: LocalIndex,
    pub(super) filters: String,
    pub(super) now: u64,
}

/// When an index was made, as far as its server tells.
pub(super) fn time_of(index: &LocalIndex) -> Option<u64> {
    let date = index.validators.last_modified.as_deref()?;
    let time = httpdate::parse_http_date(date).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

/// Whether two URLs name one place, as far as their text tells.
fn is_same_place(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}
