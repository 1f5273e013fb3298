//! The ledger: what one job has tried, and what it may still try.
//!
//! A job has one ledger for all its exchanges. It holds the failures and exclusions per mirror, the list of failed
//! attempts, the wait budget, and the wasted bytes. Every choice of a mirror and every exchange of the job begins here.

use std::{collections::BTreeMap, time::Duration};

use taipan_mirrors::{
    Choice, Class, DemotionReason, MirrorId, Observation, Pick, Request, Time, Tried, Why,
};
use tokio::{
    sync::futures::Notified,
    time::{Instant, sleep},
};

use crate::{
    Attempt, BackendError, Engine, Event, FetchError, Job, JobId, MirrorSet, SinkError, Validators,
    VerifyError,
    error::chain,
    exchange::{self, Context, Exchange, Timeouts, WholeFile},
    outage::Outage,
    wait_budget::WaitBudget,
};

/// An attempt that brings fewer bytes makes little progress.
pub(crate) const MIN_PROGRESS: u64 = 64 * 1024;

/// How many attempts with little progress a mirror may have in one job.
const MAX_LOW_PROGRESS: u32 = 20;

/// How many responses of a mirror may mean that it serves fewer requests at a time. Further ones are failures.
const MAX_OVERLOADS: u32 = 20;

/// How often the version of a file on a mirror may change in one job. Afterwards versions are ignored: the `ETag`s of servers
/// behind one name may differ for the same file.
const MAX_CHANGES: u32 = 2;

/// How long a mirror may take to tell its version of the file.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// In a shorter time a file is hardly ever replaced.
const UNLIKELY_REPLACED: Duration = Duration::from_millis(500);

/// Shorter waits are not announced.
const MIN_ANNOUNCED: Duration = Duration::from_secs(2);

/// How many failed attempts are listed. A long download over a bad connection has thousands.
const MAX_LISTED: usize = 200;

/// Why a job does not use a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exclusion {
    /// It failed permanently, or too often.
    Failed,
    /// It sent wrong bytes.
    Corrupt,
    /// It is remote, and the engine is offline.
    Offline,
}

/// What one job knows of one mirror.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct MirrorRecord {
    /// Failed attempts.
    failed: u32,
    /// Failed attempts without progress, since the last one with progress.
    failures: u32,
    /// Failed attempts with little progress.
    low_progress: u32,
    exclusion: Option<Exclusion>,
    /// It cannot serve ranges: only the whole file is requested from it.
    whole_file_only: bool,
    /// It was left once for being slow. It is not left twice: it may be the only one with the file.
    was_slow: bool,
    /// Responses that meant too many requests at a time.
    overloads: u32,
    /// The version of the file that it serves.
    version: Option<Validators>,
    /// When the version was first seen.
    version_since: Option<Instant>,
    /// How often the version has changed.
    changes: u32,
    /// The version has changed, and bytes of the earlier one may be part of the file.
    has_changed: bool,
    /// It sends the whole file whenever `If-Range` is present.
    ignores_if_range: bool,
    /// It has sent a response in this job.
    has_responded: bool,
    /// Its last failure may be over soon.
    is_away: bool,
}

/// The ledger of one job.
pub(crate) struct Ledger<'a> {
    pub(crate) context: Context,
    pub(crate) job: &'a Job,
    pub(crate) mirrors: &'a MirrorSet,
    /// Bytes that arrived and are not part of the file.
    pub(crate) wasted: u64,
    wait_budget: WaitBudget,
    outage: Outage,
    /// The last failure of a mirror that is away.
    why_away: Option<String>,
    /// Whether to wait also for a mirror that has never responded.
    retry_unseen: bool,
    seed: u64,
    records: BTreeMap<MirrorId, MirrorRecord>,
    attempts: Vec<Attempt>,
    /// The number of failed attempts, listed or not.
    failures: u32,
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(engine: &Engine, id: JobId, mirrors: &'a MirrorSet, job: &'a Job) -> Self {
        let mut ledger = Self {
            context: Context {
                mirrors: mirrors.clone(),
                target: job.target.clone().into(),
                expected: job.expected,
                job: id,
                limits: engine.limits.clone(),
                observer: engine.observer.clone(),
                is_offline: engine.options.offline,
            },
            job,
            mirrors,
            wasted: 0,
            wait_budget: WaitBudget::new(&engine.options),
            outage: Outage::new(&engine.options),
            why_away: None,
            retry_unseen: engine.options.retry_unseen,
            seed: engine.options.seed ^ id.0,
            records: BTreeMap::new(),
            attempts: Vec::new(),
            failures: 0,
        };
        if engine.options.offline {
            for mirror in mirrors.ids().filter(|id| mirrors.is_remote(*id)) {
                ledger.record(mirror).exclusion = Some(Exclusion::Offline);
            }
        }
        ledger
    }

    // Records.

    fn record(&mut self, mirror: MirrorId) -> &mut MirrorRecord {
        self.records.entry(mirror).or_default()
    }

    pub(crate) fn is_excluded(&self, mirror: MirrorId) -> bool {
        let record = self.records.get(&mirror);
        record.is_some_and(|record| record.exclusion.is_some())
    }

    /// Whether it sent wrong bytes.
    pub(crate) fn is_accused(&self, mirror: MirrorId) -> bool {
        let record = self.records.get(&mirror);
        record.is_some_and(|record| record.exclusion == Some(Exclusion::Corrupt))
    }

    /// Begins another round of attempts: mirrors that merely failed may be used again.
    pub(crate) fn begin_round(&mut self) {
        for record in self.records.values_mut() {
            record.failed = 0;
            record.failures = 0;
            record.low_progress = 0;
            record.exclusion = record.exclusion.filter(|why| *why != Exclusion::Failed);
        }
    }

    /// The mirrors that this job may still use.
    pub(crate) fn usable(&self) -> Vec<MirrorId> {
        let ids = self.mirrors.ids();
        ids.filter(|mirror| !self.is_excluded(*mirror)).collect()
    }

    pub(crate) fn whole_file_only(&self, mirror: MirrorId) -> bool {
        self.records.get(&mirror).is_some_and(|r| r.whole_file_only)
    }

    /// The mirrors that may have the file although they cannot serve parts of it.
    pub(crate) fn whole_file_mirrors(&self) -> Vec<MirrorId> {
        let is_usable = |record: &MirrorRecord| {
            record.whole_file_only
                && !matches!(
                    record.exclusion,
                    Some(Exclusion::Corrupt | Exclusion::Offline)
                )
        };
        let records = self.records.iter();
        records
            .filter(|(_, record)| is_usable(record))
            .map(|(mirror, _)| *mirror)
            .collect()
    }

    /// A mirror that failed is chosen again only when no other is left, even if it made progress.
    fn tried(&self) -> Tried {
        let most = self.mirrors.attempts_per_mirror().max(1);
        let mut tried = Tried::new();
        for (mirror, record) in &self.records {
            if record.exclusion.is_some() {
                tried.exclude(*mirror);
            } else if record.failed > 0 {
                for _ in 0..record.failures.max(1).min(most - 1) {
                    tried.record_failure(*mirror);
                }
            }
        }
        tried
    }

    /// A number that differs from job to job.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    // Choosing.

    fn request<'r>(&'r self, tried: &'r Tried, bytes: Option<u64>) -> Request<'r> {
        Request {
            path: &self.job.target.path,
            bytes,
            kind: self.job.kind,
            tried,
            attempt: self.failures,
            seed: self.seed,
        }
    }

    /// Picks a mirror for a request of this many bytes, if known, and waits while all are busy or
    /// in backoff.
    pub(crate) async fn choose(&mut self, bytes: Option<u64>) -> Result<Pick, FetchError> {
        let mut tried = self.tried();
        loop {
            // Armed before the state is read, so that no wake-up is lost in between.
            let changed = self.mirrors.changed();
            let request = self.request(&tried, bytes);
            match self.mirrors.choose(&request) {
                Choice::Use(pick) => return Ok(pick),
                Choice::Wait { until, why } => {
                    self.mirrors.queued(&request);
                    if let Err(error) = self.wait(until, why, changed).await {
                        self.outlast(error).await?;
                        tried = self.tried();
                    }
                }
                Choice::Exhausted(reasons) => {
                    let error = self.exhausted(reasons);
                    self.outlast(error).await?;
                    tried = self.tried();
                }
            }
        }
    }

    /// Waits until `until`, or until a request ends. An error if that exceeds the wait budget. `changed` was armed before the
    /// state was read.
    pub(crate) async fn wait(
        &mut self,
        until: Time,
        why: Why,
        changed: Notified<'_>,
    ) -> Result<(), FetchError> {
        let mirrors = self.mirrors;
        let delay = until.since(mirrors.now());
        if self.wait_budget.allows(delay, &why) {
            if let Why::Demoted(DemotionReason::Throttled { .. }) = why {
                self.announce_wait(delay, &why.to_string());
            } else if let Some(why) = &self.why_away {
                self.announce_wait(delay, why);
            }
        }
        if self.wait_budget.wait(mirrors, until, why, changed).await {
            return Ok(());
        }
        let all = mirrors.ids().map(|id| (id, why)).collect();
        Err(self.exhausted(all))
    }

    /// After an error for which no mirror is left: waits if one may be away for a short time only, and begins another round
    /// of attempts. Returns the error when the time is up.
    pub(crate) async fn outlast(&mut self, error: FetchError) -> Result<(), FetchError> {
        let FetchError::Exhausted { attempts, .. } = &error else {
            return Err(error);
        };
        let away = attempts
            .iter()
            .rev()
            .find(|attempt| self.is_away(attempt.mirror));
        // A job with validators has an older copy, which is better than a long wait.
        let (Some(attempt), true) = (away, self.job.validators.is_empty()) else {
            return Err(error);
        };
        let why = chain(&attempt.error);
        let Some(pause) = self.outage.pause() else {
            return Err(error);
        };
        self.announce_wait(pause, &why);
        self.why_away = Some(why);
        if let FetchError::Exhausted { attempts, .. } = error {
            self.restore(attempts);
        }
        sleep(pause).await;
        self.begin_round();
        self.wait_budget.renew();
        Ok(())
    }

    /// Whether this mirror has failed in a way that may be over soon.
    fn is_away(&self, mirror: MirrorId) -> bool {
        let record = self.records.get(&mirror).filter(|record| {
            record.is_away && matches!(record.exclusion, None | Some(Exclusion::Failed))
        });
        record.is_some_and(|record| {
            self.retry_unseen || record.has_responded || self.mirrors.has_responded(mirror)
        })
    }

    fn announce_wait(&self, delay: Duration, why: &str) {
        if delay >= MIN_ANNOUNCED {
            let job = self.context.job;
            let event = Event::Waiting { job, delay, why };
            self.context.observer.event(&event);
        }
    }

    /// Picks a mirror that is free now and not among `others`.
    pub(crate) fn choose_now(
        &self,
        bytes: Option<u64>,
        others: impl IntoIterator<Item = MirrorId>,
    ) -> Option<Pick> {
        let tried = self.tried().excluding(others);
        match self.mirrors.choose(&self.request(&tried, bytes)) {
            Choice::Use(pick) => Some(pick),
            _ => None,
        }
    }

    /// How long to wait for a response before the request is sent to a second mirror as well.
    pub(crate) fn hedge_after(
        &self,
        bytes: Option<u64>,
        mirror: MirrorId,
    ) -> Option<std::time::Duration> {
        let tried = self.tried();
        self.mirrors
            .hedge_after(&self.request(&tried, bytes), mirror)
    }

    /// The throughput below which another mirror would finish sooner, in bytes per second; zero for
    /// a mirror that was left for that once.
    pub(crate) fn min_throughput(&self, bytes: Option<u64>, mirror: MirrorId) -> f64 {
        if self.records.get(&mirror).is_some_and(|r| r.was_slow) {
            return 0.0;
        }
        let tried = Tried::new();
        self.mirrors.min_rate(&self.request(&tried, bytes), mirror)
    }

    // Exchanges.

    pub(crate) fn begin(&self, pick: &Pick, offset: u64) -> Exchange {
        let mut exchange = Exchange::begin(&self.context, pick, offset);
        // With a digest the version does not matter: the ETags of one file may differ.
        if !self.job.expected.is_content_addressed() {
            exchange.set_version(self.version(pick.mirror));
        }
        exchange
    }

    pub(crate) fn begin_on(
        &self,
        mirror: MirrorId,
        timeouts: Timeouts,
        offset: u64,
        why: &str,
    ) -> Exchange {
        Exchange::begin_on(&self.context, mirror, timeouts, offset, why)
    }

    /// The version of the file on a mirror, for further ranges of it.
    fn version(&self, mirror: MirrorId) -> Option<Validators> {
        let record = self.records.get(&mirror)?;
        let mut version = (record.version.clone()).filter(|_| record.changes < MAX_CHANGES)?;
        if record.ignores_if_range {
            version.etag = None;
        }
        Some(version)
    }

    /// Whether a range from this mirror is certain to be of the version of which bytes are here.
    pub(crate) fn has_strong_version(&self, mirror: MirrorId) -> bool {
        let version = self.version(mirror);
        version.is_some_and(|version| version.strong_etag().is_some())
    }

    /// Notes the version of the file in a response. Returns `false` if it is another than that of an earlier response, and the
    /// bytes of the two must not be mixed. With a digest they may: it shows whether they are different.
    pub(crate) fn note_version(&mut self, mirror: MirrorId, version: &Validators) -> bool {
        let is_verified = self.job.expected.is_content_addressed();
        let record = self.record(mirror);
        match &record.version {
            Some(known) if record.changes < MAX_CHANGES && version.contradicts(known) => {
                if is_verified {
                    record.has_changed = true;
                    record.changes += 1;
                    record.version = Some(version.clone());
                }
                is_verified
            }
            Some(_) => true,
            None => {
                record.version = Some(version.clone()).filter(|version| !version.is_empty());
                record.version_since = Some(Instant::now());
                true
            }
        }
    }

    /// Asks a mirror that sent wrong bytes for its version of the file, which may have been replaced since.
    pub(crate) async fn check_version(&mut self, mirror: MirrorId) {
        let record = self.records.get(&mirror);
        let since = record.and_then(|record| record.version_since);
        let is_recent = since.is_none_or(|since| since.elapsed() < UNLIKELY_REPLACED);
        if is_recent || self.version(mirror).is_none() || self.is_excluded(mirror) {
            return;
        }
        let timeouts = Timeouts {
            header: VERSION_TIMEOUT,
            stall: VERSION_TIMEOUT,
        };
        let exchange = self.begin_on(mirror, timeouts, 0, "to see whether the file was replaced");
        if let Ok(response) = exchange.send_range(0..1, WholeFile::Skip).await {
            self.note_version(mirror, &response.validators);
        }
        exchange.cancel();
    }

    /// No bytes of an earlier version on this mirror are part of the file any more.
    pub(crate) fn forget_version(&mut self, mirror: MirrorId) {
        let record = self.record(mirror);
        record.version = None;
        record.has_changed = false;
    }

    /// The mirrors on which the file was replaced, so that bytes of two versions of it may be mixed. Each is returned once.
    pub(crate) fn take_changed(&mut self) -> Vec<MirrorId> {
        let changed = self.records.iter_mut();
        changed
            .filter_map(|(mirror, record)| {
                std::mem::take(&mut record.has_changed).then_some(*mirror)
            })
            .collect()
    }

    /// Records that the file was replaced on a mirror, and that the attempt ends for that reason. No mirror is at fault.
    pub(crate) fn changed(&mut self, exchange: Exchange) {
        let record = self.record(exchange.mirror());
        record.version = None;
        record.has_changed = true;
        record.changes += 1;
        let url = exchange.url().to_owned();
        let attempt = exchange.leave(BackendError::Changed { url });
        self.list(attempt);
    }

    /// Records a failed attempt after which `kept` bytes of it are part of the file. Returns whether it counts: a mirror that
    /// only serves fewer requests at a time has not failed.
    pub(crate) fn fail(&mut self, exchange: Exchange, error: BackendError, kept: u64) -> bool {
        let most = self.mirrors.attempts_per_mirror();
        let is_busy = self.mirrors.in_flight(exchange.mirror()) > 1;
        let has_header = exchange.latency().is_some();
        let record = self.record(exchange.mirror());
        record.is_away = error.is_outage();
        record.has_responded |= has_header
            || matches!(
                error,
                BackendError::Status { .. } | BackendError::Service { .. }
            );
        if kept == 0 && is_busy && error.is_overload() && record.overloads < MAX_OVERLOADS {
            record.overloads += 1;
            let attempt = exchange.fail_as(Class::Throttled, error);
            self.list(attempt);
            return false;
        }
        if exchange.has_version()
            && !record.ignores_if_range
            && matches!(error, BackendError::WrongRange { .. })
        {
            record.ignores_if_range = true;
            let attempt = exchange.leave(error);
            self.list(attempt);
            return false;
        }
        record.failed += 1;
        record.whole_file_only |= error.is_about_ranges();
        if kept > 0 {
            record.failures = 0;
            record.low_progress += u32::from(kept < MIN_PROGRESS);
        } else {
            record.failures += 1;
        }
        let is_slow = matches!(error, BackendError::Slow { .. });
        record.was_slow |= is_slow;
        if error.class() == Class::Corrupt {
            record.exclusion = Some(Exclusion::Corrupt);
        } else if !is_slow
            && (!error.is_transient()
                || record.failures >= most
                || record.low_progress > MAX_LOW_PROGRESS)
        {
            record.exclusion.get_or_insert(Exclusion::Failed);
        }
        if kept >= MIN_PROGRESS {
            self.wait_budget.renew();
            self.outage.end();
            self.why_away = None;
        }
        // A slow mirror has not failed; its throughput is reported with its bytes.
        let attempt = if is_slow {
            exchange.leave(error)
        } else {
            exchange.fail(error)
        };
        self.list(attempt);
        true
    }

    /// Records an attempt whose outcome says nothing about its mirror.
    pub(crate) fn leave(&mut self, exchange: Exchange, error: BackendError) {
        let record = self.record(exchange.mirror());
        record.failed += 1;
        record.failures += 1;
        let attempt = exchange.leave(error);
        self.list(attempt);
    }

    /// Records that a mirror sent wrong bytes in exchanges that are over.
    pub(crate) fn accuse(&mut self, mirror: MirrorId, error: &VerifyError, bytes: u64) {
        if self.is_accused(mirror) {
            return;
        }
        self.record(mirror).exclusion = Some(Exclusion::Corrupt);
        let (now, path) = (self.mirrors.now(), &self.job.target.path);
        let seen = Observation::new(now, path, Class::Corrupt);
        self.mirrors.report(mirror, &seen);
        let name = self.mirrors.describe(mirror, &self.job.target);
        let (url, source) = (name.clone(), error.clone());
        let error = BackendError::Corrupt { url, source };
        let attempt = exchange::failed(&self.context, mirror, name, error, bytes);
        self.list(attempt);
    }

    /// Lists a failed attempt that has no other consequence for the job.
    pub(crate) fn list(&mut self, attempt: Attempt) {
        self.failures = self.failures.saturating_add(1);
        if self.attempts.len() < MAX_LISTED {
            self.attempts.push(attempt);
        }
    }

    // Results.

    /// Bytes that had arrived are discarded, and fetched again.
    pub(crate) fn restarted(&mut self, bytes: u64) {
        self.wasted += bytes;
        self.context.observer.event(&Event::Restarted {
            job: self.context.job,
            bytes,
        });
    }

    /// Bytes of the file arrived.
    pub(crate) fn progress(&self, bytes: u64) {
        self.context.observer.event(&Event::Progress {
            job: self.context.job,
            bytes,
        });
    }

    /// The failed attempts so far.
    pub(crate) fn take_attempts(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.attempts)
    }

    /// Takes back the attempts of an error that does not end the job.
    pub(crate) fn restore(&mut self, attempts: Vec<Attempt>) {
        self.attempts = attempts;
    }

    pub(crate) fn sink_error(&self, source: SinkError) -> FetchError {
        self.job.sink_error(source)
    }

    /// The error that lists every attempt, and the reason for each mirror that was not tried.
    pub(crate) fn exhausted(&mut self, reasons: Vec<(MirrorId, Why)>) -> FetchError {
        let attempts = self.take_attempts();
        let skipped = reasons
            .into_iter()
            .filter(|(id, _)| !attempts.iter().any(|attempt| attempt.mirror == *id))
            .map(|(id, why)| {
                let why = if self.context.is_offline && self.mirrors.is_remote(id) {
                    "it is not on this machine, and this run is offline".to_owned()
                } else {
                    why.to_string()
                };
                (self.mirrors.describe(id, &self.job.target), why)
            })
            .collect();
        FetchError::Exhausted {
            label: self.job.label.clone(),
            attempts,
            skipped,
        }
    }
}
