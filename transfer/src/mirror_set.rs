//! A set of mirrors that have the same files: their backends, and their selector.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use taipan_mirrors::{
    Choice, Location, Mirror, MirrorId, MirrorReport, Observation, Pick, Progress, Provenance,
    Request, SavedState, SegmentPlan, SegmentStep, Selector, SelectorConfig, Time, distinct_texts,
};
use tokio::{sync::Notify, time::Instant};

use crate::{Backend, FileBackend, HttpBackend, HttpClient, OciBackend, S3Backend, Target};

/// A clock for `taipan-mirrors`: the time since the Unix epoch, which does not go backwards while
/// the process runs, and follows tokio's clock when a test has paused it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    epoch: Duration,
}

impl Clock {
    /// A clock that starts at the system time.
    pub fn new() -> Self {
        let epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            epoch,
        }
    }

    /// The current time.
    pub fn now(&self) -> Time {
        Time::from_unix(self.epoch + self.start.elapsed())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Inner {
    number: u64,
    selector: Mutex<Selector>,
    backends: Vec<Arc<dyn Backend>>,
    changed: Notify,
    clock: Clock,
}

/// Mirrors that have the same files. Cheap to clone; clones share what they learn.
#[derive(Debug, Clone)]
pub struct MirrorSet(Arc<Inner>);

impl MirrorSet {
    /// A set of these mirrors, each with the backend of its kind. Those that speak HTTP share
    /// `client` and its connections.
    pub fn new(mirrors: Vec<Mirror>, config: SelectorConfig, client: &HttpClient) -> Self {
        const CONNECT: Duration = Duration::from_secs(10);
        let backends = mirrors
            .iter()
            .map(|mirror| -> Arc<dyn Backend> {
                match mirror.location.clone() {
                    Location::Http(url) => Arc::new(HttpBackend::new(client.clone(), url)),
                    Location::S3(bucket) => {
                        Arc::new(S3Backend::new(bucket, CONNECT).with_client(client))
                    }
                    Location::Oci(registry) => Arc::new(OciBackend::new(registry, client.clone())),
                    Location::File(root) => Arc::new(FileBackend::new(root)),
                }
            })
            .collect();
        Self::with_backends(mirrors, backends, config)
    }

    /// A set of one mirror; `None` if the URL is not a valid location.
    pub fn of_url(url: &str, client: &HttpClient) -> Option<Self> {
        let mirror = Mirror::new(Location::parse(url).ok()?, Provenance::Upstream);
        Some(Self::new(vec![mirror], SelectorConfig::default(), client))
    }

    /// A set of mirrors with these backends, one each, in the same order.
    pub fn with_backends(
        mirrors: Vec<Mirror>,
        backends: Vec<Arc<dyn Backend>>,
        config: SelectorConfig,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        assert_eq!(mirrors.len(), backends.len(), "each mirror has one backend");
        Self(Arc::new(Inner {
            number: COUNT.fetch_add(1, Ordering::Relaxed),
            selector: Mutex::new(Selector::new(mirrors, config)),
            backends,
            changed: Notify::new(),
            clock: Clock::new(),
        }))
    }

    /// The time by the clock of this set.
    pub fn now(&self) -> Time {
        self.0.clock.now()
    }

    /// Gives access to the selector, for requests without an engine and for reports. The time is that
    /// of [`now`](Self::now).
    pub fn with_selector<T>(&self, work: impl FnOnce(&mut Selector, Time) -> T) -> T {
        let now = self.now();
        work(&mut self.selector(), now)
    }

    /// What is known of every mirror, in the order of the list. No two have the same text as location.
    pub fn reports(&self) -> Vec<MirrorReport> {
        let selector = self.selector();
        let texts = distinct_texts(selector.mirrors().iter().map(|mirror| &mirror.location));
        let reports = selector
            .ids()
            .filter_map(|id| selector.report(id, self.now()));
        let named = |(report, location)| MirrorReport { location, ..report };
        reports.zip(texts).map(named).collect()
    }

    /// Writes what is known of these mirrors to a state for a later run, which may contain other
    /// mirrors as well.
    pub fn save(&self, state: &mut SavedState) {
        self.selector().save(state, self.now());
    }

    /// Reads what an earlier run has saved of these mirrors.
    pub fn load(&self, state: &SavedState) {
        self.selector().load(state, self.now());
    }

    fn selector(&self) -> MutexGuard<'_, Selector> {
        // The selector is consistent after every call, even after one that panics.
        self.0
            .selector
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn choose(&self, request: &Request<'_>) -> Choice {
        let now = self.now();
        let mut selector = self.selector();
        selector.tick(now);
        selector.choose(request, now)
    }

    /// Records that the job of this request waits, as [`choose`](Self::choose) decided.
    pub(crate) fn queued(&self, request: &Request<'_>) {
        self.selector().queued(request);
    }

    /// The next step of the plan for a large file.
    pub(crate) fn next_segment(&self, plan: &mut SegmentPlan) -> SegmentStep {
        let now = self.now();
        plan.next(&mut self.selector(), now)
    }

    /// How long to wait for a response before the request is sent to a second mirror as well.
    pub(crate) fn hedge_after(&self, request: &Request<'_>, mirror: MirrorId) -> Option<Duration> {
        let now = self.now();
        self.selector().hedge_after(request, mirror, now)
    }

    /// Whether requests to a mirror leave this machine.
    pub(crate) fn is_remote(&self, mirror: MirrorId) -> bool {
        let selector = self.selector();
        let mirror = selector.mirror(mirror);
        !mirror.is_some_and(|mirror| matches!(mirror.location, Location::File(_)))
    }

    /// The number of this set in the process.
    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    /// The maximum of failed attempts of one job on one mirror.
    pub(crate) fn attempts_per_mirror(&self) -> u32 {
        self.selector().config().attempts_per_mirror
    }

    /// The number of requests in flight on a mirror.
    pub(crate) fn in_flight(&self, mirror: MirrorId) -> u32 {
        let report = self.selector().report(mirror, self.now());
        report.map_or(0, |report| report.in_flight)
    }

    /// Whether a mirror is known to have sent a response, in this run or before.
    pub(crate) fn has_responded(&self, mirror: MirrorId) -> bool {
        let report = self.selector().report(mirror, self.now());
        report.is_some_and(|report| report.first_byte.is_some())
    }

    /// The throughput, in bytes per second, below which another mirror would finish the request
    /// sooner.
    pub(crate) fn min_rate(&self, request: &Request<'_>, mirror: MirrorId) -> f64 {
        self.selector().min_rate(request, mirror, self.now())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = MirrorId> + use<> {
        self.selector().ids()
    }

    /// Completes when a request to these mirrors ends after this call, even before the first poll.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.changed.notified()
    }

    /// The backend of a mirror of this set. Requests through it are not reported to the selector.
    pub fn backend(&self, mirror: MirrorId) -> &dyn Backend {
        &*self.0.backends[mirror.index()]
    }

    pub(crate) fn describe(&self, mirror: MirrorId, target: &Target) -> String {
        self.backend(mirror).describe(target)
    }

    /// Records that the request of a pick begins.
    pub(crate) fn started(&self, pick: &Pick) {
        self.selector().started(pick, self.now());
    }

    /// Records that a request begins to a mirror that the selector did not pick.
    pub(crate) fn started_unchosen(&self, mirror: MirrorId) {
        self.selector().started_unchosen(mirror, self.now());
    }

    /// Records the verdict on a request that has ended.
    pub(crate) fn finished(&self, mirror: MirrorId, observation: &Observation<'_>) {
        self.selector().finished(mirror, observation);
        self.0.changed.notify_waiters();
    }

    /// Records that a request has ended for a reason other than the mirror.
    pub(crate) fn cancelled(&self, mirror: MirrorId, progress: &Progress) {
        self.selector().cancelled(mirror, progress);
        self.0.changed.notify_waiters();
    }

    /// Records a verdict that is known only after the requests to a mirror have ended.
    pub(crate) fn report(&self, mirror: MirrorId, observation: &Observation<'_>) {
        self.started_unchosen(mirror);
        self.finished(mirror, observation);
    }

    /// Waits until a mirror may serve another request.
    pub(crate) async fn capacity(&self, mirror: MirrorId) {
        loop {
            // Armed before the state is read, so that no wake-up is lost in between.
            let changed = self.changed();
            let report = self.selector().report(mirror, self.now());
            if report.is_none_or(|report| report.in_flight < report.window) {
                return;
            }
            changed.await;
        }
    }
}
