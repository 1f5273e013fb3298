//! A set of mirrors that have the same files: their backends, and what is known of them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use taipan_mirrors::{
    Choice, Location, Mirror, MirrorId, MirrorReport, Observation, Pick, Progress, Provenance,
    Request, SavedState, SegmentPlan, SegmentStep, Selector, SelectorConfig, Time,
};
use tokio::{sync::Notify, time::Instant};

use crate::{Backend, FileBackend, HttpBackend, HttpClient, OciBackend, S3Backend, Target};

/// The time as the mirrors' crate wants it: since the Unix epoch, but never going backwards while
/// the process runs, and following tokio's clock when a test has paused it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    epoch: Duration,
}

impl Clock {
    /// A clock that starts at the system's time.
    pub fn new() -> Self {
        let epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            epoch,
        }
    }

    /// The time now.
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
    /// The mirrors of a list, each with the backend of its kind. `client` serves those that speak
    /// HTTP, so that they share connections.
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

    /// One place that is its own only mirror; `None` when the URL is not of a kind that can be.
    pub fn of_url(url: &str, client: &HttpClient) -> Option<Self> {
        let mirror = Mirror::new(Location::parse(url).ok()?, Provenance::Upstream);
        Some(Self::new(vec![mirror], SelectorConfig::default(), client))
    }

    /// Mirrors with backends of the caller's choice, one each, in the same order.
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

    /// The time by the clock that this set goes by.
    pub fn now(&self) -> Time {
        self.0.clock.now()
    }

    /// Looks at the judgement over these mirrors, or takes part in it, for who asks mirrors without
    /// an engine: a round of probes, a table of reasons. The time is that of [`now`](Self::now).
    pub fn with_selector<T>(&self, work: impl FnOnce(&mut Selector, Time) -> T) -> T {
        let now = self.now();
        work(&mut self.selector(), now)
    }

    /// What is known of every mirror, in the order of the list.
    pub fn reports(&self) -> Vec<MirrorReport> {
        let selector = self.selector();
        selector
            .ids()
            .filter_map(|id| selector.report(id, self.now()))
            .collect()
    }

    /// Writes what has been learnt of these mirrors into a state that may hold that of others,
    /// too, and that a later run begins with.
    pub fn save(&self, state: &mut SavedState) {
        self.selector().save(state, self.now());
    }

    /// Takes over what an earlier run has learnt.
    pub fn load(&self, state: &SavedState) {
        self.selector().load(state, self.now());
    }

    fn selector(&self) -> MutexGuard<'_, Selector> {
        // The selector is left whole between any two of its calls, even if one panics.
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

    /// The job of this request waits, as [`choose`](Self::choose) has told it to.
    pub(crate) fn queued(&self, request: &Request<'_>) {
        self.selector().queued(request);
    }

    /// What the plan for a large file wants done next.
    pub(crate) fn next_segment(&self, plan: &mut SegmentPlan) -> SegmentStep {
        let now = self.now();
        plan.next(&mut self.selector(), now)
    }

    /// How long to wait for a request before it is sent to a second mirror, too.
    pub(crate) fn hedge_after(&self, request: &Request<'_>, mirror: MirrorId) -> Option<Duration> {
        let now = self.now();
        self.selector().hedge_after(request, mirror, now)
    }

    /// Whether a mirror is not on this machine.
    pub(crate) fn is_remote(&self, mirror: MirrorId) -> bool {
        let selector = self.selector();
        let mirror = selector.mirror(mirror);
        !mirror.is_some_and(|mirror| matches!(mirror.location, Location::File(_)))
    }

    /// Tells this set from others.
    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    /// How many attempts of one job a mirror gets.
    pub(crate) fn attempts_per_mirror(&self) -> u32 {
        self.selector().config().attempts_per_mirror
    }

    /// Below this many bytes per second, what is left of a request is better had elsewhere.
    pub(crate) fn min_rate(&self, request: &Request<'_>, mirror: MirrorId) -> f64 {
        self.selector().min_rate(request, mirror, self.now())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = MirrorId> + use<> {
        self.selector().ids()
    }

    /// Wakes up when a request on these mirrors ends after this call, polled yet or not.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.changed.notified()
    }

    /// The way to one of the mirrors, whose id is of this set. Requests through it are not seen by
    /// the selector unless it is told.
    pub fn backend(&self, mirror: MirrorId) -> &dyn Backend {
        &*self.0.backends[mirror.index()]
    }

    pub(crate) fn describe(&self, mirror: MirrorId, target: &Target) -> String {
        self.backend(mirror).describe(target)
    }

    /// A request to the mirror of a pick begins.
    pub(crate) fn started(&self, pick: &Pick) {
        self.selector().started(pick, self.now());
    }

    /// A request begins to a mirror that was not chosen for it.
    pub(crate) fn started_unchosen(&self, mirror: MirrorId) {
        self.selector().started_unchosen(mirror, self.now());
    }

    /// A request has ended, with a verdict.
    pub(crate) fn finished(&self, mirror: MirrorId, observation: &Observation<'_>) {
        self.selector().finished(mirror, observation);
        self.0.changed.notify_waiters();
    }

    /// A request has ended, for a reason that says nothing about the mirror.
    pub(crate) fn cancelled(&self, mirror: MirrorId, progress: &Progress) {
        self.selector().cancelled(mirror, progress);
        self.0.changed.notify_waiters();
    }

    /// Reports something about a mirror that is known only after its requests have ended.
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
