//! The engine: carries a job from mirror to mirror until its file is here.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use taipan_mirrors::{Choice, Class, Kind, MirrorId, Pick, Request, Standing, Why};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    Attempt, BackendError, ByteRange, Event, Expected, FetchError, GetRequest, GetResponse, JobId,
    MirrorSet, Observer, Sha256, Sink, SinkError, Target, Validators, Verifier, error::chain,
    mirror_set::InFlight,
};

/// Over how long a connection's speed is judged.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How many jobs have a slot at a time; the others wait.
    pub slots: usize,
    /// How long one job waits in sum for mirrors that rest after failures, when no other is left.
    pub patience: Duration,
    /// How long one job waits in sum for mirrors that asked for a pause, when no other is left.
    pub throttled_patience: Duration,
    /// Distinguishes this client from others, so that a herd does not move as one.
    pub seed: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            slots: 16,
            patience: Duration::from_secs(6),
            throttled_patience: Duration::from_secs(180),
            seed: 0,
        }
    }
}

/// One file that is wanted.
#[derive(Debug, Clone)]
pub struct Job {
    /// What to call it in events and errors.
    pub label: String,
    /// Where it lies on every mirror.
    pub target: Target,
    /// What is known of it.
    pub expected: Expected,
    /// Whether it may differ between mirrors that are in order.
    pub kind: Kind,
    /// What mirrors said of the copy that the caller has, by the URL that
    /// [`Fetched::url`] gave at the time.
    pub validators: BTreeMap<String, Validators>,
}

impl Job {
    /// A file whose digest is known.
    pub fn content(label: impl Into<String>, target: Target, expected: Expected) -> Self {
        Self {
            label: label.into(),
            target,
            expected,
            kind: Kind::Content,
            validators: BTreeMap::new(),
        }
    }

    /// A file that changes, and of which nothing is known.
    pub fn metadata(label: impl Into<String>, target: Target) -> Self {
        Self {
            kind: Kind::Metadata,
            ..Self::content(label, target, Expected::default())
        }
    }
}

/// A file that is here.
#[derive(Debug)]
pub struct Fetched {
    /// Its SHA-256 and length in bytes; `None` when it has not changed and nothing was fetched.
    pub file: Option<(Sha256, u64)>,
    /// The printable URL that gave the file, or the last part of it.
    pub url: String,
    /// What that mirror said of this version of the file.
    pub validators: Validators,
    /// What went wrong before.
    pub attempts: Vec<Attempt>,
    /// How many bytes arrived that are not part of the file as it is now.
    pub wasted: u64,
}

/// Fetches files. Cheap to clone; clones share their slots.
#[derive(Clone)]
pub struct Engine {
    options: EngineOptions,
    slots: Arc<Semaphore>,
    observer: Arc<dyn Observer>,
    next: Arc<AtomicU64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that tells `observer` what it does.
    pub fn new(options: EngineOptions, observer: Arc<dyn Observer>) -> Self {
        let slots = Arc::new(Semaphore::new(options.slots.max(1)));
        Self {
            options,
            slots,
            observer,
            next: Arc::default(),
        }
    }

    /// Fetches one file into `sink`. It waits for a slot first. When it returns `Ok`, the sink
    /// has finished. Dropping the future ends all that it began; the sink is the caller's.
    pub async fn fetch(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        sink: &mut dyn Sink,
    ) -> Result<Fetched, FetchError> {
        let _slot = self
            .slots
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let id = JobId(self.next.fetch_add(1, Ordering::Relaxed));
        let started = Instant::now();
        self.observer.event(&Event::Started {
            job: id,
            label: &job.label,
            size: job.expected.size,
        });
        let mut run = Run {
            engine: self,
            id,
            mirrors,
            job,
            verifier: Verifier::new(job.expected),
            refused: None,
            contributors: Vec::new(),
            solo: false,
            tally: BTreeMap::new(),
            attempts: Vec::new(),
            wasted: 0,
            patience: self.options.patience,
            throttled_patience: self.options.throttled_patience,
        };
        let result = run.run(sink).await;
        match &result {
            Ok(fetched) => {
                let bytes = fetched.file.map_or(0, |(_, length)| length);
                let duration = started.elapsed();
                self.observer.event(&Event::Done {
                    job: id,
                    bytes,
                    duration,
                });
            }
            Err(_) => self.observer.event(&Event::Failed { job: id }),
        }
        result
    }
}

/// What became of a mirror in this job.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    tries: u32,
    /// Not to be asked again for this file.
    out: bool,
    /// It was left once for being slow. It may be the only one there is, so not twice.
    was_slow: bool,
}

/// The way of one job.
struct Run<'a> {
    engine: &'a Engine,
    id: JobId,
    mirrors: &'a MirrorSet,
    job: &'a Job,
    verifier: Verifier,
    /// The sink took offence at bytes whose digest is still to be seen.
    refused: Option<SinkError>,
    /// The mirrors whose bytes are in the verifier.
    contributors: Vec<MirrorId>,
    /// A file put together from several mirrors was wrong, so that nobody can be blamed: from
    /// here on each mirror is asked for all of it.
    solo: bool,
    tally: BTreeMap<MirrorId, Tally>,
    attempts: Vec<Attempt>,
    wasted: u64,
    /// What is left of the options' patience.
    patience: Duration,
    throttled_patience: Duration,
}

/// How an attempt ended, when not in a complete body.
enum Stop {
    Mirror(BackendError),
    Sink(SinkError),
}

impl From<BackendError> for Stop {
    fn from(error: BackendError) -> Self {
        Self::Mirror(error)
    }
}

/// What a complete attempt leaves.
struct Got {
    url: String,
    validators: Validators,
    not_modified: bool,
}

impl Run<'_> {
    async fn run(&mut self, sink: &mut dyn Sink) -> Result<Fetched, FetchError> {
        loop {
            let (pick, why) = self.choose().await?;
            let mirror = pick.mirror;
            let name = self.mirrors.describe(mirror, &self.job.target);
            if !self.can_continue_on(mirror) {
                self.restart(sink).await?;
            }
            let offset = self.verifier.length();
            tracing::debug!(job = %self.job.label, mirror = %name, offset, %why, "asking");
            self.engine.observer.event(&Event::Attempt {
                job: self.id,
                mirror,
                name: &name,
                offset,
                why: &why,
            });
            self.tally.entry(mirror).or_default().tries += 1;
            let mut flight = self.mirrors.start(mirror, &self.job.target.path);
            let stop = match self.attempt(&pick, &mut flight, sink).await {
                Ok(got) if got.not_modified => {
                    flight.finish(Class::Ok, None);
                    return Ok(self.fetched(None, got));
                }
                Ok(got) => match self.judge(&mut flight, &name, sink).await {
                    Ok(file) => return Ok(self.fetched(Some(file), got)),
                    Err(stop) => stop,
                },
                Err(stop) => stop,
            };
            match stop {
                Stop::Sink(source) => {
                    flight.cancel();
                    return Err(FetchError::Sink {
                        label: self.job.label.clone(),
                        source,
                    });
                }
                Stop::Mirror(error) => self.note(flight, name, error, sink).await?,
            }
        }
    }

    fn fetched(&mut self, file: Option<(Sha256, u64)>, got: Got) -> Fetched {
        Fetched {
            file,
            url: got.url,
            validators: got.validators,
            attempts: std::mem::take(&mut self.attempts),
            wasted: self.wasted,
        }
    }

    /// Picks the next mirror, waiting while all that can be asked are busy or resting.
    async fn choose(&mut self) -> Result<(Pick, String), FetchError> {
        loop {
            // Armed before the state is looked at, so that no wake-up is lost in between.
            let changed = self.mirrors.changed();
            let choice = self.ask();
            match choice {
                (Choice::Use(pick), why) => return Ok((pick, why)),
                (Choice::Wait { until, why }, _) => {
                    let now = self.mirrors.now();
                    let pause = until.since(now).max(Duration::from_millis(1));
                    let patience = match why {
                        // Somebody else's transfer will end; there is no harm in waiting.
                        Why::Busy { .. } | Why::WaitingForBetter { .. } => None,
                        Why::StandsBack(Standing::OnTrial) => None,
                        Why::StandsBack(Standing::Throttled { .. }) => {
                            Some(&mut self.throttled_patience)
                        }
                        _ => Some(&mut self.patience),
                    };
                    if patience.as_ref().is_some_and(|left| pause > **left) {
                        let all = self.mirrors.ids().map(|id| (id, why)).collect();
                        return Err(self.exhausted(all));
                    }
                    // Cancel-safe: both only wait.
                    let _ = timeout(pause, changed).await;
                    if let Some(left) = patience {
                        *left = left.saturating_sub(self.mirrors.now().since(now));
                    }
                }
                (Choice::Exhausted(reasons), _) => return Err(self.exhausted(reasons)),
            }
        }
    }

    /// The error that tells every attempt, and of the mirrors that were not asked, why.
    fn exhausted(&mut self, reasons: Vec<(MirrorId, Why)>) -> FetchError {
        let attempts = std::mem::take(&mut self.attempts);
        let skipped = reasons
            .into_iter()
            .filter(|(id, _)| !attempts.iter().any(|attempt| attempt.mirror == *id))
            .map(|(id, why)| (self.mirrors.describe(id, &self.job.target), why.to_string()))
            .collect();
        FetchError::Exhausted {
            label: self.job.label.clone(),
            attempts,
            skipped,
        }
    }

    /// What the selector is asked: one entry of `exclude` stands for one attempt, and a mirror is
    /// out after as many as it allows.
    fn request<'r>(&'r self, exclude: &'r [MirrorId]) -> Request<'r> {
        let left = self
            .job
            .expected
            .size
            .map(|size| size.saturating_sub(self.verifier.length()));
        Request {
            path: &self.job.target.path,
            bytes: left,
            kind: self.job.kind,
            exclude,
            attempt: u32::try_from(self.attempts.len()).unwrap_or(u32::MAX),
            seed: self.engine.options.seed ^ self.id.0,
        }
    }

    fn ask(&self) -> (Choice, String) {
        let most = self.mirrors.attempts_per_mirror();
        let mut exclude: Vec<MirrorId> = Vec::new();
        for (id, tally) in &self.tally {
            let entries = if tally.out {
                most
            } else {
                tally.tries.min(most.saturating_sub(1))
            };
            exclude.extend(std::iter::repeat_n(*id, entries as usize));
        }
        self.mirrors.choose(&self.request(&exclude))
    }

    /// Whether what has arrived may be continued with bytes of this mirror.
    fn can_continue_on(&self, mirror: MirrorId) -> bool {
        if self.verifier.length() == 0 {
            return true;
        }
        // Without a digest nobody would notice that two halves do not belong together.
        self.job.expected.is_content_addressed()
            && (!self.solo || self.contributors.iter().all(|other| *other == mirror))
    }

    async fn restart(&mut self, sink: &mut dyn Sink) -> Result<(), FetchError> {
        let bytes = self.verifier.length();
        self.wasted += bytes;
        self.verifier = Verifier::new(self.job.expected);
        self.contributors.clear();
        self.refused = None;
        self.engine.observer.event(&Event::Restarted {
            job: self.id,
            bytes,
        });
        let label = || self.job.label.clone();
        sink.restart().await.map_err(|source| FetchError::Sink {
            label: label(),
            source,
        })
    }

    /// One request and its body.
    async fn attempt(
        &mut self,
        pick: &Pick,
        flight: &mut InFlight,
        sink: &mut dyn Sink,
    ) -> Result<Got, Stop> {
        let mirror = pick.mirror;
        let url = self.mirrors.describe(mirror, &self.job.target);
        let offset = self.verifier.length();
        let validators = self
            .job
            .validators
            .get(&url)
            .filter(|v| offset == 0 && !v.is_empty());
        let request = GetRequest {
            target: &self.job.target,
            expected: self.job.expected,
            range: (offset > 0).then(|| ByteRange::from(offset)),
            validators,
        };
        let patience = pick.first_byte_timeout;
        let answer = timeout(patience, self.mirrors.backend(mirror).get(request)).await;
        let answer = answer.map_err(|_| BackendError::Timeout {
            url: url.clone(),
            what: "no answer",
            after: patience,
        })??;
        flight.answered();
        let (start, total, said, mut body) = match answer {
            GetResponse::NotModified => match validators {
                Some(validators) => {
                    let validators = validators.clone();
                    return Ok(Got {
                        url,
                        validators,
                        not_modified: true,
                    });
                }
                None => return Err(BackendError::Unasked { url }.into()),
            },
            GetResponse::Body {
                start,
                total,
                validators,
                body,
            } => (start, total, validators, body),
        };
        if let (Some(expected), Some(got)) = (self.job.expected.size, total)
            && expected != got
        {
            let source = crate::VerifyError::Size { expected, got };
            return Err(BackendError::Corrupt { url, source }.into());
        }
        // A server that ignores ranges sends all; what we have of it is passed over.
        let mut skip = offset.saturating_sub(start);
        self.wasted += skip;
        let length = self.job.expected.size.or(total);
        let was_slow = self.tally.get(&mirror).is_some_and(|tally| tally.was_slow);
        let may_leave = !was_slow && self.job.expected.is_content_addressed();
        let mut pace = Pace::new();
        loop {
            let piece = match timeout(pick.stall_timeout, body.next()).await {
                Ok(piece) => piece,
                Err(_) => {
                    let after = pick.stall_timeout;
                    let what = "the body stalled";
                    return Err(BackendError::Timeout { url, what, after }.into());
                }
            };
            let Some(piece) = piece else { break };
            let mut piece = piece?;
            flight.received(piece.len() as u64);
            if skip > 0 {
                let passed = skip.min(piece.len() as u64);
                // `passed` is at most the length of the piece.
                piece = piece.slice(usize::try_from(passed).unwrap_or(piece.len())..);
                skip -= passed;
                if piece.is_empty() {
                    continue;
                }
            }
            if let Some(expected) = self.job.expected.size
                && self.verifier.length() + piece.len() as u64 > expected
            {
                return Err(BackendError::Long { url, expected }.into());
            }
            self.verifier.update(&piece);
            if self.contributors.last() != Some(&mirror) {
                self.contributors.push(mirror);
            }
            let bytes = piece.len() as u64;
            let waiting = Instant::now();
            self.write(sink, piece, &url).await?;
            // A slow sink is not the mirror's fault.
            pace.excuse(waiting.elapsed());
            flight.excuse(waiting.elapsed());
            self.engine.observer.event(&Event::Progress {
                job: self.id,
                bytes,
            });
            let left = length.map_or(0, |length| length.saturating_sub(self.verifier.length()));
            let least = || self.mirrors.min_rate(&self.request(&[]), mirror);
            if let Some(rate) = pace.measure(bytes)
                && may_leave
                && rate < least()
                // A few seconds more at this rate are better than a new connection.
                && seconds(left, rate) > 2.0
            {
                self.tally.entry(mirror).or_default().was_slow = true;
                return Err(BackendError::Slow { url, rate }.into());
            }
        }
        if let Some(expected) = length
            && self.verifier.length() < expected
        {
            let got = self.verifier.length();
            return Err(BackendError::Short { url, expected, got }.into());
        }
        Ok(Got {
            url,
            validators: said,
            not_modified: false,
        })
    }

    async fn write(
        &mut self,
        sink: &mut dyn Sink,
        piece: bytes::Bytes,
        url: &str,
    ) -> Result<(), Stop> {
        if self.refused.is_some() {
            return Ok(());
        }
        match sink.write(piece).await {
            Ok(()) => Ok(()),
            // Either the bytes are wrong, or the file is what it should be and is of no use.
            // Only the digest of the whole can tell, so the rest is hashed without the sink.
            Err(error @ SinkError::Rejected(_)) if self.job.expected.is_content_addressed() => {
                self.refused = Some(error);
                Ok(())
            }
            Err(SinkError::Rejected(source)) => Err(BackendError::Unusable {
                url: url.to_owned(),
                source,
            }
            .into()),
            Err(error) => Err(Stop::Sink(error)),
        }
    }

    /// The body is complete. Is it the file?
    async fn judge(
        &mut self,
        flight: &mut InFlight,
        name: &str,
        sink: &mut dyn Sink,
    ) -> Result<(Sha256, u64), Stop> {
        let url = || name.to_owned();
        let length = self.verifier.length();
        flight.body_ended();
        let sha256 = self
            .verifier
            .clone()
            .finish()
            .map_err(|source| BackendError::Corrupt { url: url(), source })?;
        if let Some(refused) = self.refused.take() {
            return Err(Stop::Sink(refused));
        }
        match sink.finish().await {
            Ok(()) => {}
            Err(SinkError::Rejected(source)) if !self.job.expected.is_content_addressed() => {
                return Err(BackendError::Unusable { url: url(), source }.into());
            }
            Err(error) => return Err(Stop::Sink(error)),
        }
        flight.finish(Class::Ok, None);
        Ok((sha256, length))
    }

    /// Remembers a failure and draws the consequences.
    async fn note(
        &mut self,
        mut flight: InFlight,
        name: String,
        error: BackendError,
        sink: &mut dyn Sink,
    ) -> Result<(), FetchError> {
        let mirror = flight.mirror();
        let class = error.class();
        let bytes = flight.bytes();
        // Bytes of several mirrors were put together wrong: which of them lied is not known.
        let nobody_to_blame = matches!(error, BackendError::Corrupt { .. })
            && self.contributors.iter().any(|other| *other != mirror);
        let tally = self.tally.entry(mirror).or_default();
        if nobody_to_blame {
            self.solo = true;
            flight.cancel();
        } else {
            let gave_up = tally.tries >= self.mirrors.attempts_per_mirror();
            // One that keeps delivering parts of the file may go on; there is only so much file.
            tally.out = !error.is_transient() || (gave_up && bytes == 0) || tally.tries > 20;
            if matches!(error, BackendError::Slow { .. }) {
                // Our choice and not its failure; what it gave tells how fast it is.
                flight.cancel();
            } else {
                flight.finish(class, error.retry_after());
            }
        }
        let cause = chain(&error);
        tracing::debug!(job = %self.job.label, mirror = %name, %class, %cause, "failed");
        self.engine.observer.event(&Event::AttemptFailed {
            job: self.id,
            mirror,
            name: &name,
            class,
            cause: &cause,
            bytes,
        });
        let corrupt = class == Class::Corrupt;
        self.attempts.push(Attempt {
            mirror,
            name,
            class,
            error,
            bytes,
        });
        if corrupt && self.verifier.length() > 0 {
            self.restart(sink).await?;
        }
        Ok(())
    }
}

/// How long so many bytes take at this rate in bytes per second.
fn seconds(bytes: u64, rate: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an estimate need not be exact")]
    let bytes = bytes as f64;
    bytes / rate.max(1.0)
}

/// Watches how fast a body comes.
struct Pace {
    since: Instant,
    bytes: u64,
    excused: Duration,
}

impl Pace {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
            excused: Duration::ZERO,
        }
    }

    /// Time in which the mirror was not the one waited for.
    fn excuse(&mut self, pause: Duration) {
        self.excused += pause;
    }

    /// Counts what arrived; once in a window, the rate over that window in bytes per second.
    fn measure(&mut self, bytes: u64) -> Option<f64> {
        self.bytes += bytes;
        let span = self.since.elapsed().saturating_sub(self.excused);
        if span < RATE_WINDOW {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let rate = self.bytes as f64 / span.as_secs_f64();
        *self = Self::new();
        Some(rate)
    }
}
