//! One round of probes over the mirrors of a channel: carries out what a `ProbePlan` decides.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    pin::pin,
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered,
};
use taipan_channel::{Channel, metadata_target};
use taipan_mirrors::{
    Class, Location, MirrorId, Observation, Origin, ProbeConfig, ProbePlan, ProbeResult,
    ProbeSample, ProbeStep, Time, Verdict,
};
use taipan_transfer::{
    BackendError, ByteRange, Expected, GetRequest, GetResponse, MirrorSet, Sha256, Target,
};
use tokio::time::{Instant, timeout};

use crate::{
    error::chain,
    freshness::{Freshness, Version, judge},
};

/// How many mirrors are asked at a time which file there is.
const SEARCHERS: usize = 16;

/// How much of the end of the sample is compared, in bytes.
const TAIL: u64 = 64;

/// What a channel's mirrors have in common: its repodata. The zstd form comes first, since its end
/// differs when anything in it does.
fn candidates(platform: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for file in ["repodata.json.zst", "repodata.json"] {
        for subdir in ["noarch", platform] {
            if !all.contains(&(subdir.to_owned(), file.to_owned())) {
                all.push((subdir.to_owned(), file.to_owned()));
            }
        }
    }
    all
}

/// A probe that has ended, for who watches.
#[derive(Debug)]
pub(crate) struct Probed<'a> {
    pub(crate) mirror: MirrorId,
    /// Whether it was about freshness; otherwise it was about speed.
    pub(crate) is_freshness: bool,
    pub(crate) class: Class,
    pub(crate) bytes: u64,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) duration: Duration,
    pub(crate) cause: Option<&'a str>,
}

/// Watches a round.
pub(crate) trait Watch {
    fn asked(&self, mirror: MirrorId, is_freshness: bool);
    fn probed(&self, probed: &Probed<'_>);
}

/// What a round has shown beside the ranking.
#[derive(Debug, Clone, Default)]
pub(crate) struct Detail {
    /// The shortest time from a request to the header of its answer.
    pub(crate) latency: Option<Duration>,
    pub(crate) freshness: Option<Freshness>,
    /// What was wrong last.
    pub(crate) cause: Option<String>,
    /// Bytes of the sample and of its end.
    pub(crate) bytes: u64,
    version: Option<Version>,
}

/// What came of a round.
#[derive(Debug)]
pub(crate) struct Ranking {
    /// The file that was asked for, and its length in bytes; `None` when no mirror has one.
    pub(crate) sample: Option<(String, u64)>,
    /// The mirrors, the best first.
    pub(crate) results: Vec<ProbeResult>,
    details: BTreeMap<MirrorId, Detail>,
}

impl Ranking {
    pub(crate) fn detail(&self, mirror: MirrorId) -> Detail {
        self.details.get(&mirror).cloned().unwrap_or_default()
    }
}

/// What one request brought.
#[derive(Debug, Default)]
struct Answer {
    header: Option<Duration>,
    first_byte: Option<Duration>,
    duration: Duration,
    bytes: Vec<u8>,
    /// Where the body begins in the file.
    start: u64,
    total: Option<u64>,
    modified: Option<SystemTime>,
    error: Option<BackendError>,
}

impl Answer {
    fn class(&self) -> Class {
        self.error.as_ref().map_or(Class::Ok, BackendError::class)
    }
}

/// A request that has ended.
struct Ended {
    mirror: MirrorId,
    is_freshness: bool,
    answer: Answer,
}

impl Ended {
    fn class(&self) -> Class {
        match &self.answer.error {
            // Its file is shorter: it is another version, and no failure.
            Some(BackendError::BeyondEnd { .. }) if self.is_freshness => Class::Ok,
            _ => self.answer.class(),
        }
    }
}

/// Probes the mirrors of a channel. Mirrors that served within `config.fresh` are left alone.
pub(crate) async fn probe(
    mirrors: &MirrorSet,
    channel: &Channel,
    platform: &str,
    config: ProbeConfig,
    watch: &dyn Watch,
) -> Ranking {
    let found = find_sample(mirrors, platform, &config).await;
    let ((subdir, file), size) = found.sample.clone().unwrap_or_else(|| {
        // Whoever is asked for it says why it cannot give it.
        let first = candidates(platform).swap_remove(0);
        (first, config.probe_bytes)
    });
    let path = format!("{subdir}/{file}");
    let target = Target {
        path: path.clone(),
        oci: metadata_target(&subdir, &file),
    };
    let sample = ProbeSample {
        path: path.clone(),
        size,
        // A name that no file has: what is asked for is the end of the same file.
        metadata: Some(format!("{path} (its end)")),
    };
    let limits = config.clone();
    let plan = mirrors.with_selector(|selector, now| {
        RefCell::new(ProbePlan::new(selector, sample.clone(), config, now))
    });
    let mut round = Round {
        mirrors,
        target: &target,
        sample: &sample,
        plan: &plan,
        watch,
        details: found.details,
    };
    // Those that served lately are not measured, but must be there to compare with.
    let known = mirrors.with_selector(|selector, now| {
        let ranking = plan.borrow().ranking(selector, now);
        let is_known = |row: &&ProbeResult| row.verdict == Verdict::Known;
        ranking
            .iter()
            .filter(is_known)
            .map(|row| row.mirror)
            .collect::<Vec<_>>()
    });
    let ends = ends(mirrors, &target, size, known, &limits);
    let (ends, ()) = futures_util::join!(ends, round.run());
    for ended in &ends {
        round.known(ended);
    }
    round.compare(channel);
    let details = round.details;
    let results = mirrors.with_selector(|selector, now| plan.borrow().ranking(selector, now));
    Ranking {
        sample: found.sample.map(|_| (path, size)),
        results,
        details,
    }
}

struct Found {
    sample: Option<((String, String), u64)>,
    details: BTreeMap<MirrorId, Detail>,
}

/// Asks all mirrors for one byte; the first that has any of the files says which it is and how long.
async fn find_sample(mirrors: &MirrorSet, platform: &str, config: &ProbeConfig) -> Found {
    let ids: Vec<MirrorId> = mirrors.with_selector(|selector, now| {
        let sound = |id: &MirrorId| !selector.report(*id, now).is_some_and(|r| r.quarantined);
        selector.ids().filter(sound).collect()
    });
    let files = candidates(platform);
    let search = |mirror: MirrorId| {
        let files = &files;
        async move {
            let mut header = None;
            for (subdir, file) in files {
                let target = Target {
                    path: format!("{subdir}/{file}"),
                    oci: metadata_target(subdir, file),
                };
                let Some(range) = ByteRange::new(0, 1) else {
                    break;
                };
                let answer = ask(mirrors, mirror, &target, range, config.probe_time, || ()).await;
                header = answer.header.or(header);
                match (answer.class(), answer.total) {
                    (Class::Ok, Some(total)) if total > 0 => {
                        return (
                            mirror,
                            header,
                            Some(((subdir.clone(), file.clone()), total)),
                        );
                    }
                    (Class::Ok | Class::NotHere, _) => {}
                    _ => break,
                }
            }
            (mirror, header, None)
        }
    };
    let mut found = Found {
        sample: None,
        details: BTreeMap::new(),
    };
    // However many of them hang.
    let end = pin!(tokio::time::sleep(config.time));
    let mut searches = futures_util::stream::iter(ids.into_iter().map(search))
        .buffer_unordered(SEARCHERS)
        .take_until(end);
    while let Some((mirror, latency, sample)) = searches.next().await {
        found.details.entry(mirror).or_default().latency = latency;
        if sample.is_some() {
            found.sample = sample;
            break;
        }
    }
    found
}

/// Asks mirrors for the end of the sample.
async fn ends(
    mirrors: &MirrorSet,
    target: &Target,
    size: u64,
    of: Vec<MirrorId>,
    limits: &ProbeConfig,
) -> Vec<Ended> {
    let Some(range) = ByteRange::new(size.saturating_sub(TAIL), size) else {
        return Vec::new();
    };
    let end = |mirror: MirrorId| async move {
        mirrors.with_selector(|selector, now| selector.started_unchosen(mirror, now));
        Ended {
            mirror,
            is_freshness: true,
            answer: ask(mirrors, mirror, target, range, limits.probe_time, || ()).await,
        }
    };
    let over = tokio::time::sleep(limits.time);
    futures_util::stream::iter(of.into_iter().map(end))
        .buffer_unordered(SEARCHERS)
        .take_until(pin!(over))
        .collect()
        .await
}

struct Round<'a> {
    mirrors: &'a MirrorSet,
    target: &'a Target,
    sample: &'a ProbeSample,
    plan: &'a RefCell<ProbePlan>,
    watch: &'a dyn Watch,
    details: BTreeMap<MirrorId, Detail>,
}

impl<'a> Round<'a> {
    async fn run(&mut self) {
        let mut running: FuturesUnordered<LocalBoxFuture<'a, Ended>> = FuturesUnordered::new();
        loop {
            let step = self
                .mirrors
                .with_selector(|selector, now| self.plan.borrow_mut().next(selector, now));
            match step {
                ProbeStep::Speed {
                    mirror,
                    range,
                    timeout,
                } => {
                    // A range of no bytes is never asked for.
                    if let Some(range) = ByteRange::new(range.start, range.end) {
                        running.push(self.start(mirror, range, timeout, false));
                    }
                }
                ProbeStep::Freshness { mirror, timeout } => {
                    let size = self.sample.size;
                    if let Some(range) = ByteRange::new(size.saturating_sub(TAIL), size) {
                        running.push(self.start(mirror, range, timeout, true));
                    }
                }
                ProbeStep::Wait { until } => {
                    let left = until.since(self.mirrors.now());
                    // Cancel-safe: what is not ready stays in `running`.
                    match timeout(left, running.next()).await {
                        Ok(Some(ended)) => self.ended(&ended),
                        // Nothing runs, so nothing will change.
                        Ok(None) => break,
                        Err(_) => {}
                    }
                }
                ProbeStep::Done => break,
            }
        }
        // What still runs has its timeout at this moment, and is to be counted.
        while let Ok(Some(ended)) = timeout(Duration::from_millis(50), running.next()).await {
            self.ended(&ended);
        }
    }

    fn start(
        &self,
        mirror: MirrorId,
        range: ByteRange,
        limit: Duration,
        is_freshness: bool,
    ) -> LocalBoxFuture<'a, Ended> {
        let (mirrors, target, plan) = (self.mirrors, self.target, self.plan);
        mirrors.with_selector(|selector, now| selector.started_unchosen(mirror, now));
        self.watch.asked(mirror, is_freshness);
        async move {
            let begun = || plan.borrow_mut().answered(mirror);
            let mut answer = ask(mirrors, mirror, target, range, limit, begun).await;
            if !is_freshness && answer.error.is_none() && !looks_right(&target.path, &answer.bytes)
            {
                answer.error = Some(BackendError::Unusable {
                    url: mirrors.backend(mirror).describe(target),
                    source: "it is something else than its name says, perhaps a login page".into(),
                });
            }
            Ended {
                mirror,
                is_freshness,
                answer,
            }
        }
        .boxed_local()
    }

    /// The end of the sample, or why not, from a mirror that served lately.
    fn known(&mut self, ended: &Ended) {
        let Ended { mirror, answer, .. } = ended;
        let class = ended.class();
        if class == Class::Ok {
            // A file that ends before the sample does is of another length, whatever it is.
            let length = match &answer.error {
                Some(_) => Some(0),
                None => answer.total,
            };
            self.details.entry(*mirror).or_default().version = length.map(|length| Version {
                length,
                head: None,
                tail: None,
                modified: answer.modified,
            });
        } else {
            // Then it serves no longer, and the plan is to know.
            let seen = observation(self.mirrors.now(), &self.sample.path, class, answer);
            self.plan.borrow_mut().finished(*mirror, &seen);
        }
        self.ended(ended);
    }

    fn ended(&mut self, ended: &Ended) {
        let Ended {
            mirror,
            is_freshness,
            answer,
        } = ended;
        let class = ended.class();
        let cause = answer.error.as_ref().map(|error| chain(error));
        let detail = self.details.entry(*mirror).or_default();
        detail.latency = match (detail.latency, answer.header) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
        detail.bytes += answer.bytes.len() as u64;
        if class != Class::Ok {
            detail.cause.clone_from(&cause);
        } else if *is_freshness {
            let length = detail.version.as_ref().map(|version| version.length);
            let is_end = answer.start + answer.bytes.len() as u64 == length.unwrap_or_default();
            if let Some(version) = &mut detail.version
                && is_end
            {
                version.tail = Some(answer.bytes.clone());
            }
        } else if detail.version.is_none() {
            detail.version = answer.total.map(|length| Version {
                length,
                head: Some(Sha256::of(&answer.bytes).as_bytes().to_vec()),
                tail: None,
                modified: answer.modified,
            });
        }
        let mut seen = observation(self.mirrors.now(), &self.sample.path, class, answer);
        self.mirrors
            .with_selector(|selector, _| selector.finished(*mirror, &seen));
        if *is_freshness {
            seen.path = self.metadata();
        }
        self.plan.borrow_mut().finished(*mirror, &seen);
        self.watch.probed(&Probed {
            mirror: *mirror,
            is_freshness: *is_freshness,
            class,
            bytes: answer.bytes.len() as u64,
            first_byte: answer.first_byte,
            duration: answer.duration,
            cause: cause.as_deref(),
        });
    }

    fn metadata(&self) -> &'a str {
        self.sample.metadata.as_deref().unwrap_or_default()
    }

    /// Judges the versions of all that have served, and tells plan and selector who is behind.
    fn compare(&mut self, channel: &Channel) {
        let itself = Location::parse(channel.base().as_str()).ok();
        let (known, versions): (Vec<MirrorId>, Vec<Version>) = self
            .details
            .iter()
            .filter_map(|(id, detail)| Some((*id, detail.version.clone()?)))
            .map(|(id, version)| (id, self.dated(id, version)))
            .unzip();
        let origin = self.mirrors.with_selector(|selector, _| {
            known.iter().position(|&id| {
                selector.mirror(id).is_some_and(|mirror| {
                    mirror.origin == Origin::Channel
                        || itself
                            .as_ref()
                            .is_some_and(|i| i.same_place(&mirror.location))
                })
            })
        });
        let Some(judged) = judge(&versions, origin) else {
            return;
        };
        for (mirror, freshness) in known.into_iter().zip(judged) {
            self.details.entry(mirror).or_default().freshness = Some(freshness);
            if freshness == Freshness::Current {
                continue;
            }
            let now = self.mirrors.now();
            let mut seen = Observation::new(now, &self.sample.path, Class::Behind);
            self.mirrors.with_selector(|selector, now| {
                selector.started_unchosen(mirror, now);
                selector.finished(mirror, &seen);
            });
            seen.path = self.metadata();
            self.plan.borrow_mut().finished(mirror, &seen);
        }
    }

    /// A version without a date that says when it was copied rather than made.
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

fn observation<'p>(at: Time, path: &'p str, class: Class, answer: &Answer) -> Observation<'p> {
    let mut seen = Observation::new(at, path, class)
        .with_bytes(answer.bytes.len() as u64)
        .with_duration(answer.duration);
    seen.first_byte = answer.first_byte;
    seen.retry_after = answer.error.as_ref().and_then(BackendError::retry_after);
    seen
}

/// Whether a sample may be the file of this name.
fn looks_right(path: &str, bytes: &[u8]) -> bool {
    // RFC 8878 §3.1.1.
    const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
    if path.ends_with(".zst") {
        return bytes.starts_with(&ZSTD[..ZSTD.len().min(bytes.len())]);
    }
    bytes.trim_ascii_start().first().is_none_or(|&b| b == b'{')
}

/// Asks a mirror for a range, and waits for it no longer than `limit`.
async fn ask(
    mirrors: &MirrorSet,
    mirror: MirrorId,
    target: &Target,
    range: ByteRange,
    limit: Duration,
    begun: impl Fn(),
) -> Answer {
    let started = Instant::now();
    let mut answer = Answer::default();
    let result = timeout(
        limit,
        receive(mirrors, mirror, target, range, started, &mut answer, begun),
    )
    .await;
    answer.duration = started.elapsed();
    answer.error = match result {
        Ok(result) => result.err(),
        Err(_) => Some(BackendError::Timeout {
            url: mirrors.backend(mirror).describe(target),
            what: match (answer.header, answer.first_byte) {
                (None, _) => "no answer",
                (Some(_), None) => "no body",
                _ => "the body was not complete",
            },
            after: limit,
        }),
    };
    answer
}

async fn receive(
    mirrors: &MirrorSet,
    mirror: MirrorId,
    target: &Target,
    range: ByteRange,
    started: Instant,
    answer: &mut Answer,
    begun: impl Fn(),
) -> Result<(), BackendError> {
    let backend = mirrors.backend(mirror);
    let request = GetRequest {
        target,
        expected: Expected::default(),
        range: Some(range),
        validators: None,
    };
    let response = backend.get(request).await?;
    answer.header = Some(started.elapsed());
    let url = || backend.describe(target);
    let GetResponse::Body {
        start,
        total,
        validators,
        mut body,
    } = response
    else {
        return Err(BackendError::Unasked { url: url() });
    };
    (answer.start, answer.total) = (start, total);
    answer.modified = validators
        .last_modified
        .and_then(|date| httpdate::parse_http_date(&date).ok());
    if start < range.start() {
        // It ignores ranges, and all of the file would come.
        return Ok(());
    }
    let end = range
        .end()
        .unwrap_or(u64::MAX)
        .min(total.unwrap_or(u64::MAX));
    let wanted = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
    while answer.bytes.len() < wanted {
        let Some(piece) = body.next().await else {
            break;
        };
        let piece = piece?;
        if answer.first_byte.is_none() && !piece.is_empty() {
            answer.first_byte = Some(started.elapsed());
            begun();
        }
        let room = wanted - answer.bytes.len();
        answer
            .bytes
            .extend_from_slice(&piece[..piece.len().min(room)]);
    }
    if total.is_some() && answer.bytes.len() < wanted {
        return Err(BackendError::Short {
            url: url(),
            expected: end,
            got: start + answer.bytes.len() as u64,
        });
    }
    Ok(())
}
