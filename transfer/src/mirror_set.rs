//! A set of mirrors that have the same files: their backends, and what is known of them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use taipan_mirrors::{
    Choice, Class, Location, Mirror, MirrorId, MirrorReport, Observation, Origin, Pick, Progress,
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
        let mirror = Mirror::new(Location::parse(url).ok()?, Origin::Channel);
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

    pub(crate) fn choose(&self, request: &Request<'_>) -> (Choice, String) {
        let now = self.now();
        let mut selector = self.selector();
        selector.tick(now);
        let choice = selector.choose(request, now);
        let why = match &choice {
            Choice::Use(pick) => pick.why.to_string(),
            _ => String::new(),
        };
        (choice, why)
    }

    /// What a plan for a large file wants done next.
    pub(crate) fn plan(&self, plan: &mut SegmentPlan) -> SegmentStep {
        let now = self.now();
        plan.next(&mut self.selector(), now)
    }

    /// The job of this request waits, as [`choose`](Self::choose) has told it to.
    pub(crate) fn queued(&self, request: &Request<'_>) {
        self.selector().queued(request);
    }

    /// How long to wait for a request before it is sent to a second mirror, too.
    pub(crate) fn hedge_after(&self, request: &Request<'_>, mirror: MirrorId) -> Option<Duration> {
        let now = self.now();
        self.selector().hedge_after(request, mirror, now)
    }

    /// The mirrors that are not on this machine.
    pub(crate) fn remote_ids(&self) -> Vec<MirrorId> {
        let selector = self.selector();
        let is_local = |id: &MirrorId| {
            let mirror = selector.mirror(*id);
            mirror.is_some_and(|mirror| matches!(mirror.location, Location::File(_)))
        };
        selector.ids().filter(|id| !is_local(id)).collect()
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

    /// The request of a pick goes out.
    pub(crate) fn start(&self, pick: &Pick, path: &str) -> InFlight {
        self.selector().started(pick, self.now());
        self.in_flight(pick.mirror, path)
    }

    /// A request goes out to a mirror that was not chosen for it.
    pub(crate) fn start_unchosen(&self, mirror: MirrorId, path: &str) -> InFlight {
        self.selector().started_unchosen(mirror, self.now());
        self.in_flight(mirror, path)
    }

    fn in_flight(&self, mirror: MirrorId, path: &str) -> InFlight {
        InFlight {
            set: self.clone(),
            mirror,
            path: path.to_owned(),
            started: Instant::now(),
            first_byte: None,
            ended: None,
            excused: Duration::ZERO,
            bytes: 0,
            reported: false,
        }
    }
}

/// One request under way. However it ends, the selector is told once.
pub(crate) struct InFlight {
    set: MirrorSet,
    mirror: MirrorId,
    path: String,
    started: Instant,
    first_byte: Option<Duration>,
    ended: Option<Instant>,
    excused: Duration,
    bytes: u64,
    reported: bool,
}

impl InFlight {
    pub(crate) fn mirror(&self) -> MirrorId {
        self.mirror
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn answered(&mut self) {
        self.first_byte = Some(self.started.elapsed());
    }

    pub(crate) fn received(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Time in which the mirror was not the one waited for.
    pub(crate) fn excuse(&mut self, pause: Duration) {
        self.excused += pause;
    }

    pub(crate) fn body_ended(&mut self) {
        self.ended = Some(Instant::now());
    }

    pub(crate) fn finish(&mut self, outcome: Class, retry_after: Option<Duration>) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let ended = self.ended.unwrap_or_else(Instant::now);
        let duration = (ended - self.started).saturating_sub(self.excused);
        let observation = Observation {
            at: self.set.now(),
            path: &self.path,
            outcome,
            bytes: self.bytes,
            first_byte: self.first_byte,
            duration,
            retry_after,
        };
        self.set.selector().finished(self.mirror, &observation);
        self.set.0.changed.notify_waiters();
    }

    /// It ended for a reason that says nothing of the mirror.
    pub(crate) fn cancel(&mut self) {
        self.cancel_wasting(0);
    }

    /// The same, after so many bytes were asked for in vain.
    pub(crate) fn cancel_wasting(&mut self, wasted: u64) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let seen = Progress {
            at: self.set.now(),
            bytes: self.bytes,
            wasted,
            first_byte: self.first_byte,
            duration: self.started.elapsed().saturating_sub(self.excused),
        };
        self.set.selector().cancelled(self.mirror, &seen);
        self.set.0.changed.notify_waiters();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.cancel();
    }
}
