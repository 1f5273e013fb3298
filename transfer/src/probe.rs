//! A round of probes over a mirror set: carries out what a `ProbePlan` decides.
//!
//! 1. Screening: the first byte of the candidates is requested from all mirrors, in order, until the mirror has one. The first
//!    candidate that a mirror has is the sample.
//! 2. The plan measures the mirrors that respond by the beginning of the sample, and compares the end of it.
//! 3. Mirrors whose version of the sample is older than the reference are behind.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::Range,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered,
};
use taipan_mirrors::{
    Class, Freshness, Location, MirrorId, Observation, ProbeConfig, ProbeKind, ProbePlan,
    ProbeResult, ProbeSample, ProbeStep, Provenance, Verdict, Version, judge_freshness,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

mod screening;

use screening::{Screened, Screening};

use crate::{
    BackendError, Engine, Expected, MirrorSet, Sha256, Target, TimeoutPhase,
    error::chain,
    exchange::{Context, Exchange, Timeouts, WholeFile},
};

/// How many requests for an end are under way at a time.
const MAX_SEARCHES: usize = 16;

/// How much of the end of the sample is compared, in bytes.
const TAIL: u64 = 64;

/// The options of a round of probes.
#[derive(Debug)]
pub struct ProbeRound<'a> {
    /// Files that every mirror should have, the best sample first.
    pub candidates: &'a [Target],
    /// Whether a file at this path may begin with these bytes.
    pub looks_right: fn(&str, &[u8]) -> bool,
    /// The server that the mirrors copy, if it is known.
    pub upstream: Option<&'a Location>,
    /// The limits of time, bytes and concurrency.
    pub config: ProbeConfig,
}

/// A probe that has ended.
#[derive(Debug)]
pub struct Probed<'a> {
    /// The mirror.
    pub mirror: MirrorId,
    /// The kind of the probe.
    pub kind: ProbeKind,
    /// The class of the outcome.
    pub class: Class,
    /// Bytes of the body.
    pub bytes: u64,
    /// The time to the first byte of the body.
    pub first_byte: Option<Duration>,
    /// The time from the request to the end.
    pub duration: Duration,
    /// The error and its causes.
    pub cause: Option<&'a str>,
}

/// Observes a round of probes.
pub trait ProbeObserver {
    /// A probe begins.
    fn begun(&self, mirror: MirrorId, kind: ProbeKind);
    /// A probe has ended.
    fn ended(&self, probed: &Probed<'_>);
}

/// The results of a round for one mirror, besides its place in the ranking.
#[derive(Debug, Clone, Default)]
pub struct ProbeDetail {
    /// The shortest time from a request to the header of its response.
    pub latency: Option<Duration>,
    /// The age of its version of the sample, compared with the reference.
    pub freshness: Option<Freshness>,
    /// The last error and its causes.
    pub cause: Option<String>,
    /// Bytes that it sent.
    pub bytes: u64,
    version: Option<Version>,
}

/// The outcome of a round.
#[derive(Debug)]
pub struct ProbeRanking {
    /// The path of the sample, and its length in bytes; `None` when no mirror has one.
    pub sample: Option<(String, u64)>,
    /// The mirrors, the best first.
    pub results: Vec<ProbeResult>,
    details: BTreeMap<MirrorId, ProbeDetail>,
}

impl ProbeRanking {
    /// The results for one mirror.
    pub fn detail(&self, mirror: MirrorId) -> ProbeDetail {
        self.details.get(&mirror).cloned().unwrap_or_default()
    }
}

/// The outcome of one probe.
#[derive(Default)]
struct Outcome {
    latency: Option<Duration>,
    first_byte: Option<Duration>,
    duration: Duration,
    bytes: Vec<u8>,
    /// Where the bytes begin in the file.
    start: u64,
    /// The length of the whole file, if the mirror sent it.
    total: Option<u64>,
    modified: Option<SystemTime>,
    error: Option<BackendError>,
}

/// A probe that has ended. The exchange waits for its verdict.
struct Probe {
    mirror: MirrorId,
    kind: ProbeKind,
    exchange: Exchange,
    outcome: Outcome,
}

impl Probe {
    fn class(&self) -> Class {
        match &self.outcome.error {
            None => Class::Ok,
            // The file is shorter: it is another version, and not a failure.
            Some(BackendError::BeyondEnd { .. }) if self.kind == ProbeKind::Freshness => Class::Ok,
            Some(error) => error.class(),
        }
    }
}

impl Engine {
    /// Probes the mirrors of a set. Mirrors that served within `config.fresh` are not measured.
    ///
    /// The set keeps the measurements. Requests keep to the rate limits of the engine, and an offline
    /// engine sends none to remote mirrors.
    pub async fn probe(
        &self,
        mirrors: &MirrorSet,
        round: &ProbeRound<'_>,
        observer: &dyn ProbeObserver,
    ) -> ProbeRanking {
        let started = Instant::now();
        let mut screening = Screening::new(self, mirrors, round);
        let mut screened: Vec<Screened> = Vec::new();
        let mut found: Option<(Target, u64)> = None;
        let end = started + round.config.time;
        while found.is_none()
            && let Ok(Some(one)) = timeout_at(end, screening.next()).await
        {
            found.clone_from(&one.sample);
            screened.push(one);
        }
        let details = BTreeMap::new();
        let sample = found
            .as_ref()
            .map(|(target, size)| (target.path.clone(), *size));
        // Without a sample the first candidate is requested, for the reasons why mirrors lack it.
        let first = || Some((round.candidates.first()?.clone(), round.config.probe_bytes));
        let Some((target, size)) = found.or_else(first) else {
            let results = Vec::new();
            return ProbeRanking {
                sample,
                results,
                details,
            };
        };
        let plan_of = ProbeSample {
            path: target.path.clone(),
            size,
            compares_versions: true,
        };
        let config = ProbeConfig {
            time: round.config.time.saturating_sub(started.elapsed()),
            ..round.config.clone()
        };
        let plan = mirrors.with_selector(|selector, now| {
            let mut plan = ProbePlan::new(selector, plan_of, config, now);
            plan.hold();
            RefCell::new(plan)
        });
        let mut measuring = Measuring {
            mirrors,
            round,
            observer,
            size,
            context: self.probe_context(mirrors, &target),
            plan: &plan,
            details,
        };
        // Mirrors that served recently are not measured, but are needed for the comparison.
        let known = measuring.known();
        let ends = measuring.ends(known);
        for one in screened {
            measuring.screened(one);
        }
        let (ends, ()) = futures_util::join!(ends, measuring.run(&mut screening));
        for end in ends {
            measuring.ended_known(end);
        }
        measuring.compare();
        let details = measuring.details;
        let results = mirrors.with_selector(|selector, now| plan.borrow().ranking(selector, now));
        ProbeRanking {
            sample,
            results,
            details,
        }
    }

    fn probe_context(&self, mirrors: &MirrorSet, target: &Target) -> Context {
        Context {
            mirrors: mirrors.clone(),
            target: Arc::new(target.clone()),
            expected: Expected::default(),
            job: self.next_id(),
            limits: Arc::clone(&self.limits),
            observer: Arc::clone(&self.observer),
            is_offline: self.options.offline,
        }
    }
}

/// A round, once the sample is known.
struct Measuring<'a> {
    mirrors: &'a MirrorSet,
    round: &'a ProbeRound<'a>,
    observer: &'a dyn ProbeObserver,
    /// The length of the sample in bytes.
    size: u64,
    context: Context,
    plan: &'a RefCell<ProbePlan>,
    details: BTreeMap<MirrorId, ProbeDetail>,
}

impl<'a> Measuring<'a> {
    fn known(&self) -> Vec<MirrorId> {
        self.mirrors.with_selector(|selector, now| {
            let ranking = self.plan.borrow().ranking(selector, now);
            let known = ranking.iter().filter(|row| row.verdict == Verdict::Known);
            known.map(|row| row.mirror).collect()
        })
    }

    fn tail(&self) -> Range<u64> {
        self.size.saturating_sub(TAIL)..self.size
    }

    /// Fetches the end of the sample from mirrors that are not measured.
    fn ends(&self, of: Vec<MirrorId>) -> impl Future<Output = Vec<Probe>> + use<'a> {
        let (context, range) = (self.context.clone(), self.tail());
        let config = &self.round.config;
        async move {
            let end = |mirror: MirrorId| {
                let (context, range) = (&context, range.clone());
                async move {
                    let (limit, kind) = (config.probe_time, ProbeKind::Freshness);
                    let exchange = begin(context, mirror, limit, range.start, why(kind));
                    let outcome = receive(&exchange, range, limit, || ()).await;
                    Probe {
                        mirror,
                        kind,
                        exchange,
                        outcome,
                    }
                }
            };
            let over = pin!(sleep(config.time));
            futures_util::stream::iter(of.into_iter().map(end))
                .buffer_unordered(MAX_SEARCHES)
                .take_until(over)
                .collect()
                .await
        }
    }

    /// A mirror responded, and will be measured, or failed.
    fn screened(&mut self, one: Screened) {
        let is_held = self.plan.borrow().is_held(one.mirror);
        let detail = self.details.entry(one.mirror).or_default();
        detail.latency = one.latency;
        match one.failure {
            Some(probe) if is_held => self.ended(probe),
            // The comparison of mirrors that served recently tells what of them failed.
            Some(probe) => probe.exchange.cancel(),
            None => self.plan.borrow_mut().release(one.mirror),
        }
    }

    /// Executes the plan, while screening goes on.
    async fn run(&mut self, screening: &mut Screening<'_>) {
        let mut running: FuturesUnordered<LocalBoxFuture<'a, Probe>> = FuturesUnordered::new();
        loop {
            let plan = self.plan;
            let step = self
                .mirrors
                .with_selector(|selector, now| plan.borrow_mut().next(selector, now));
            match step {
                ProbeStep::Speed {
                    mirror,
                    range,
                    timeout,
                } => running.push(self.start(mirror, range, timeout, ProbeKind::Speed)),
                ProbeStep::Freshness { mirror, timeout } => {
                    running.push(self.start(mirror, self.tail(), timeout, ProbeKind::Freshness));
                }
                ProbeStep::Wait { until } => {
                    let left = until.since(self.mirrors.now());
                    if running.is_empty() && screening.is_over() {
                        // Nothing runs, so nothing will change.
                        break;
                    }
                    // Cancel-safe: what is not ready stays where it is.
                    tokio::select! {
                        Some(probe) = running.next(), if !running.is_empty() => self.ended(probe),
                        Some(one) = screening.next(), if !screening.is_over() => self.screened(one),
                        () = sleep(left) => {}
                    }
                }
                ProbeStep::Done => break,
            }
        }
        // Probes that still run reach their timeout now, and count.
        while let Ok(Some(probe)) = timeout(Duration::from_millis(50), running.next()).await {
            self.ended(probe);
        }
    }

    fn start(
        &self,
        mirror: MirrorId,
        range: Range<u64>,
        limit: Duration,
        kind: ProbeKind,
    ) -> LocalBoxFuture<'a, Probe> {
        let (plan, looks_right) = (self.plan, self.round.looks_right);
        let path = self.context.target.path.clone();
        let exchange = begin(&self.context, mirror, limit, range.start, why(kind));
        self.observer.begun(mirror, kind);
        async move {
            let first_byte = || plan.borrow_mut().answered(mirror);
            let mut outcome = receive(&exchange, range, limit, first_byte).await;
            if kind == ProbeKind::Speed
                && outcome.error.is_none()
                && !looks_right(&path, &outcome.bytes)
            {
                outcome.error = Some(BackendError::Unusable {
                    url: exchange.url().to_owned(),
                    source: "the content does not match the file name; it may be a login page"
                        .into(),
                });
            }
            Probe {
                mirror,
                kind,
                exchange,
                outcome,
            }
        }
        .boxed_local()
    }

    /// Records the end of the sample from a mirror that served recently.
    fn ended_known(&mut self, probe: Probe) {
        let (mirror, outcome) = (probe.mirror, &probe.outcome);
        if probe.class() == Class::Ok {
            // A file that ends before the sample has another length, which need not be known.
            let length = match &outcome.error {
                Some(_) => Some(0),
                None => outcome.total,
            };
            self.details.entry(mirror).or_default().version = length.map(|length| Version {
                length,
                head: None,
                tail: None,
                modified: outcome.modified,
            });
        } else {
            // It does not serve any more, which the plan must know.
            let seen = self.observation(&probe);
            let mut plan = self.plan.borrow_mut();
            plan.finished(mirror, ProbeKind::Speed, &seen);
        }
        self.ended(probe);
    }

    fn ended(&mut self, probe: Probe) {
        let class = probe.class();
        let seen = self.observation(&probe);
        self.plan
            .borrow_mut()
            .finished(probe.mirror, probe.kind, &seen);
        let Probe {
            mirror,
            kind,
            exchange,
            outcome,
        } = probe;
        let cause = outcome.error.as_ref().map(|error| chain(error));
        let detail = self.details.entry(mirror).or_default();
        detail.latency = match (detail.latency, outcome.latency) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
        detail.bytes += outcome.bytes.len() as u64;
        if class != Class::Ok {
            detail.cause.clone_from(&cause);
        } else if kind == ProbeKind::Freshness {
            let length = detail.version.as_ref().map(|version| version.length);
            let end = outcome.start + outcome.bytes.len() as u64;
            if let Some(version) = &mut detail.version
                && end == length.unwrap_or_default()
            {
                version.tail = Some(outcome.bytes.clone());
            }
        } else if detail.version.is_none() {
            detail.version = outcome.total.map(|length| Version {
                length,
                head: Some(Sha256::of(&outcome.bytes).as_bytes().to_vec()),
                tail: None,
                modified: outcome.modified,
            });
        }
        self.observer.ended(&Probed {
            mirror,
            kind,
            class,
            bytes: outcome.bytes.len() as u64,
            first_byte: outcome.first_byte,
            duration: outcome.duration,
            cause: cause.as_deref(),
        });
        match outcome.error {
            Some(error) if class != Class::Ok => drop(exchange.fail(error)),
            _ => exchange.succeed(),
        }
    }

    fn observation(&self, probe: &Probe) -> Observation<'static> {
        let outcome = &probe.outcome;
        // The plan does not look at the path.
        let mut seen = Observation::new(self.mirrors.now(), "", probe.class())
            .with_bytes(outcome.bytes.len() as u64)
            .with_duration(outcome.duration);
        seen.first_byte = outcome.first_byte;
        seen.retry_after = outcome.error.as_ref().and_then(BackendError::retry_after);
        seen
    }

    /// Compares the versions of all mirrors that have served, and reports to plan and selector which
    /// of them are behind.
    fn compare(&mut self) {
        let (known, versions): (Vec<MirrorId>, Vec<Version>) = self
            .details
            .iter()
            .filter_map(|(id, detail)| Some((*id, detail.version.clone()?)))
            .map(|(id, version)| (id, self.dated(id, version)))
            .unzip();
        let upstream = self.mirrors.with_selector(|selector, _| {
            known.iter().position(|&id| {
                selector.mirror(id).is_some_and(|mirror| {
                    let is_it = |upstream: &Location| upstream.same_place(&mirror.location);
                    mirror.provenance == Provenance::Upstream
                        || self.round.upstream.is_some_and(is_it)
                })
            })
        });
        let Some(judged) = judge_freshness(&versions, upstream) else {
            return;
        };
        let path = &self.context.target.path;
        for (mirror, freshness) in known.into_iter().zip(judged) {
            self.details.entry(mirror).or_default().freshness = Some(freshness);
            if freshness == Freshness::Current {
                continue;
            }
            let seen = Observation::new(self.mirrors.now(), path, Class::Behind);
            self.mirrors.report(mirror, &seen);
            let mut plan = self.plan.borrow_mut();
            plan.finished(mirror, ProbeKind::Freshness, &seen);
        }
    }

    /// Removes the date of a version if it is that of the copy and not that of the file.
    fn dated(&self, mirror: MirrorId, version: Version) -> Version {
        let keeps_dates = self.mirrors.with_selector(|selector, _| {
            let location = selector.mirror(mirror).map(|mirror| &mirror.location);
            matches!(location, Some(Location::Http(_) | Location::File(_)))
        });
        Version {
            modified: version.modified.filter(|_| keeps_dates),
            ..version
        }
    }
}

fn why(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Speed => "speed probe",
        ProbeKind::Freshness => "freshness probe",
    }
}

fn begin(context: &Context, mirror: MirrorId, limit: Duration, offset: u64, why: &str) -> Exchange {
    let timeouts = Timeouts {
        header: limit,
        stall: limit,
    };
    Exchange::begin_on(context, mirror, timeouts, offset, why)
}

/// Fetches a range within `limit`. `begun` is called with the first byte of the body.
async fn receive(
    exchange: &Exchange,
    range: Range<u64>,
    limit: Duration,
    begun: impl Fn(),
) -> Outcome {
    let mut outcome = Outcome::default();
    let result = timeout(limit, receive_into(exchange, range, &mut outcome, begun)).await;
    outcome.duration = exchange.elapsed();
    outcome.error = match result {
        Ok(result) => result.err(),
        Err(_) => Some(BackendError::Timeout {
            url: exchange.url().to_owned(),
            phase: match (exchange.latency(), outcome.first_byte) {
                (None, _) => TimeoutPhase::Header,
                (Some(_), None) => TimeoutPhase::FirstByte,
                _ => TimeoutPhase::WholeBody,
            },
            after: limit,
        }),
    };
    outcome.latency = exchange.latency();
    outcome
}

async fn receive_into(
    exchange: &Exchange,
    range: Range<u64>,
    outcome: &mut Outcome,
    begun: impl Fn(),
) -> Result<(), BackendError> {
    let start = range.start;
    let mut response = exchange.send_range(range, WholeFile::Skip).await?;
    outcome.total = response.total;
    outcome.modified = response
        .validators
        .last_modified
        .as_ref()
        .and_then(|date| httpdate::parse_http_date(date).ok());
    outcome.start = start;
    if response.is_whole_file() {
        // The mirror ignores ranges, and would send the whole file.
        outcome.start = 0;
        return Ok(());
    }
    while !response.is_complete()
        && let Some(piece) = response.next().await?
    {
        if outcome.first_byte.is_none() {
            outcome.first_byte = Some(exchange.elapsed());
            begun();
        }
        outcome.bytes.extend_from_slice(&piece);
    }
    Ok(())
}
