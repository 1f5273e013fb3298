//! One round of probes over the mirrors of a channel: executes a `ProbePlan`.

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
    error_chain::one_line,
    freshness::{Freshness, Version, judge},
};

/// The number of concurrent requests that search the sample.
const SEARCHERS: usize = 16;

/// The length of the compared end of the sample, in bytes.
const TAIL: u64 = 64;

/// The files that all mirrors of a channel have: its repodata. The zstd form comes first, since its
/// end depends on all of its content.
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

/// A finished probe.
#[derive(Debug)]
pub(crate) struct Probed<'a> {
    pub(crate) mirror: MirrorId,
    /// Whether the probe measured freshness; otherwise it measured speed.
    pub(crate) is_freshness: bool,
    pub(crate) class: Class,
    pub(crate) bytes: u64,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) duration: Duration,
    pub(crate) cause: Option<&'a str>,
}

/// Observes a round.
pub(crate) trait Watch {
    fn started(&self, mirror: MirrorId, is_freshness: bool);
    fn probed(&self, probed: &Probed<'_>);
}

/// The measurements of a mirror beside the ranking.
#[derive(Debug, Clone, Default)]
pub(crate) struct Detail {
    /// The shortest time to the header of a response.
    pub(crate) latency: Option<Duration>,
    pub(crate) freshness: Option<Freshness>,
    /// The last error.
    pub(crate) cause: Option<String>,
    /// The received bytes.
    pub(crate) bytes: u64,
    version: Option<Version>,
}

/// The result of a round.
#[derive(Debug)]
pub(crate) struct Ranking {
    /// The path of the sample and its length in bytes; `None` when no mirror has one.
    pub(crate) sample: Option<(String, u64)>,
    /// Best first.
    pub(crate) results: Vec<ProbeResult>,
    details: BTreeMap<MirrorId, Detail>,
}

impl Ranking {
    pub(crate) fn detail(&self, mirror: MirrorId) -> Detail {
        self.details.get(&mirror).cloned().unwrap_or_default()
    }
}

/// The response to one request, or its error.
#[derive(Debug, Default)]
struct ProbeResponse {
    header: Option<Duration>,
    first_byte: Option<Duration>,
    duration: Duration,
    bytes: Vec<u8>,
    /// The position of the body in the file.
    start: u64,
    total: Option<u64>,
    modified: Option<SystemTime>,
    error: Option<BackendError>,
}

impl ProbeResponse {
    fn class(&self) -> Class {
        self.error.as_ref().map_or(Class::Ok, BackendError::class)
    }
}

/// A finished request.
struct Ended {
    mirror: MirrorId,
    is_freshness: bool,
    response: ProbeResponse,
}

impl Ended {
    fn class(&self) -> Class {
        match &self.response.error {
            // The file is shorter: another version, not a failure.
            Some(BackendError::BeyondEnd { .. }) if self.is_freshness => Class::Ok,
            _ => self.response.class(),
        }
    }
}

/// Probes the mirrors of a channel, except those that were used successfully within
/// `config.fresh`.
pub(crate) async fn probe(
    mirrors: &MirrorSet,
    channel: &Channel,
    platform: &str,
    config: ProbeConfig,
    watch: &dyn Watch,
) -> Ranking {
    let found = find_sample(mirrors, platform, &config).await;
    let ((subdir, file), size) = found.sample.clone().unwrap_or_else(|| {
        // The responses to the requests say why no mirror has it.
        (candidates(platform)[0].clone(), config.probe_bytes)
    });
    let path = format!("{subdir}/{file}");
    let target = Target {
        path: path.clone(),
        oci: metadata_target(&subdir, &file),
    };
    let sample = ProbeSample {
        path: path.clone(),
        size,
        // A path that no file has, for the probe of the end of the same file.
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
    // Mirrors with recent measurements are not measured, but their versions are compared.
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

/// Requests one byte of the candidates from all mirrors. The first mirror that has a candidate
/// determines the sample and its length.
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
                let response = ask(mirrors, mirror, &target, range, config.probe_time, || ()).await;
                header = response.header.or(header);
                match (response.class(), response.total) {
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
    // Also when mirrors do not respond.
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

/// Requests the end of the sample from mirrors.
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
        mirrors.with_selector(|selector, now| selector.started(mirror, now));
        Ended {
            mirror,
            is_freshness: true,
            response: ask(mirrors, mirror, target, range, limits.probe_time, || ()).await,
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
                    // An empty range is not requested.
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
                    // Cancel-safe: an unfinished request stays in `running`.
                    match timeout(left, running.next()).await {
                        Ok(Some(ended)) => self.ended(&ended),
                        // Without running requests nothing will change.
                        Ok(None) => break,
                        Err(_) => {}
                    }
                }
                ProbeStep::Done => break,
            }
        }
        // The remaining requests reach their timeout now; their results count.
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
        mirrors.with_selector(|selector, now| selector.started(mirror, now));
        self.watch.started(mirror, is_freshness);
        async move {
            let begun = || plan.borrow_mut().answered(mirror);
            let mut response = ask(mirrors, mirror, target, range, limit, begun).await;
            if !is_freshness
                && response.error.is_none()
                && !looks_right(&target.path, &response.bytes)
            {
                response.error = Some(BackendError::Unusable {
                    url: mirrors.backend(mirror).describe(target),
                    source: "the content is not of the expected type: possibly a login page".into(),
                });
            }
            Ended {
                mirror,
                is_freshness,
                response,
            }
        }
        .boxed_local()
    }

    /// Handles the response of a mirror with recent measurements to the request for the end of the
    /// sample.
    fn known(&mut self, ended: &Ended) {
        let Ended {
            mirror, response, ..
        } = ended;
        let class = ended.class();
        if class == Class::Ok {
            // A file that ends before the sample has another length; which one is not known.
            let length = match &response.error {
                Some(_) => Some(0),
                None => response.total,
            };
            self.details.entry(*mirror).or_default().version = length.map(|length| Version {
                length,
                head: None,
                tail: None,
                modified: response.modified,
            });
        } else {
            // The mirror no longer works, and the plan must know.
            let seen = observation(self.mirrors.now(), &self.sample.path, class, response);
            self.plan.borrow_mut().finished(*mirror, &seen);
        }
        self.ended(ended);
    }

    fn ended(&mut self, ended: &Ended) {
        let Ended {
            mirror,
            is_freshness,
            response,
        } = ended;
        let class = ended.class();
        let cause = response.error.as_ref().map(|error| one_line(error));
        let detail = self.details.entry(*mirror).or_default();
        detail.latency = match (detail.latency, response.header) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
        detail.bytes += response.bytes.len() as u64;
        if class != Class::Ok {
            detail.cause.clone_from(&cause);
        } else if *is_freshness {
            let length = detail.version.as_ref().map(|version| version.length);
            let is_end = response.start + response.bytes.len() as u64 == length.unwrap_or_default();
            if let Some(version) = &mut detail.version
                && is_end
            {
                version.tail = Some(response.bytes.clone());
            }
        } else if detail.version.is_none() {
            detail.version = response.total.map(|length| Version {
                length,
                head: Some(Sha256::of(&response.bytes).as_bytes().to_vec()),
                tail: None,
                modified: response.modified,
            });
        }
        let mut seen = observation(self.mirrors.now(), &self.sample.path, class, response);
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
            bytes: response.bytes.len() as u64,
            first_byte: response.first_byte,
            duration: response.duration,
            cause: cause.as_deref(),
        });
    }

    fn metadata(&self) -> &'a str {
        self.sample.metadata.as_deref().unwrap_or_default()
    }

    /// Judges the versions of all mirrors, and reports those that are behind to plan and selector.
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
                selector.started(mirror, now);
                selector.finished(mirror, &seen);
            });
            seen.path = self.metadata();
            self.plan.borrow_mut().finished(mirror, &seen);
        }
    }

    /// The version without its time, if that is the time of a copy or an upload.
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

fn observation<'p>(
    at: Time,
    path: &'p str,
    class: Class,
    response: &ProbeResponse,
) -> Observation<'p> {
    let mut seen = Observation::new(at, path, class)
        .with_bytes(response.bytes.len() as u64)
        .with_duration(response.duration);
    seen.first_byte = response.first_byte;
    seen.retry_after = response.error.as_ref().and_then(BackendError::retry_after);
    seen
}

/// Whether the bytes may be the beginning of the file with this path.
fn looks_right(path: &str, bytes: &[u8]) -> bool {
    // RFC 8878 §3.1.1.
    const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
    if path.ends_with(".zst") {
        return bytes.starts_with(&ZSTD[..ZSTD.len().min(bytes.len())]);
    }
    bytes.trim_ascii_start().first().is_none_or(|&b| b == b'{')
}

/// Requests a range from a mirror, with `limit` as timeout.
async fn ask(
    mirrors: &MirrorSet,
    mirror: MirrorId,
    target: &Target,
    range: ByteRange,
    limit: Duration,
    begun: impl Fn(),
) -> ProbeResponse {
    let started = Instant::now();
    let mut response = ProbeResponse::default();
    let result = timeout(
        limit,
        receive(
            mirrors,
            mirror,
            target,
            range,
            started,
            &mut response,
            begun,
        ),
    )
    .await;
    response.duration = started.elapsed();
    response.error = match result {
        Ok(result) => result.err(),
        Err(_) => Some(BackendError::Timeout {
            url: mirrors.backend(mirror).describe(target),
            what: match (response.header, response.first_byte) {
                (None, _) => "no response",
                (Some(_), None) => "no body",
                _ => "the body was not complete",
            },
            after: limit,
        }),
    };
    response
}

async fn receive(
    mirrors: &MirrorSet,
    mirror: MirrorId,
    target: &Target,
    range: ByteRange,
    started: Instant,
    response: &mut ProbeResponse,
    begun: impl Fn(),
) -> Result<(), BackendError> {
    let backend = mirrors.backend(mirror);
    let request = GetRequest {
        target,
        expected: Expected::default(),
        range: Some(range),
        validators: None,
    };
    let got = backend.get(request).await?;
    response.header = Some(started.elapsed());
    let url = || backend.describe(target);
    let GetResponse::Body {
        start,
        total,
        validators,
        mut body,
    } = got
    else {
        return Err(BackendError::Unasked { url: url() });
    };
    (response.start, response.total) = (start, total);
    response.modified = validators
        .last_modified
        .and_then(|date| httpdate::parse_http_date(&date).ok());
    if start < range.start() {
        // The mirror ignores ranges and would send the whole file.
        return Ok(());
    }
    let end = range
        .end()
        .unwrap_or(u64::MAX)
        .min(total.unwrap_or(u64::MAX));
    let wanted = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
    while response.bytes.len() < wanted {
        let Some(piece) = body.next().await else {
            break;
        };
        let piece = piece?;
        if response.first_byte.is_none() && !piece.is_empty() {
            response.first_byte = Some(started.elapsed());
            begun();
        }
        let room = wanted - response.bytes.len();
        response
            .bytes
            .extend_from_slice(&piece[..piece.len().min(room)]);
    }
    if total.is_some() && response.bytes.len() < wanted {
        return Err(BackendError::Short {
            url: url(),
            expected: end,
            got: start + response.bytes.len() as u64,
        });
    }
    Ok(())
}
