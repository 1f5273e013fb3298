//! One job on its way from mirror to mirror.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt as _;
use taipan_mirrors::{Choice, Class, MirrorId, Pick, Request, Standing, Why};
use tokio::time::{Instant, timeout};

use crate::{
    Attempt, BackendError, Body, ByteRange, Engine, Event, FetchError, Fetched, GetRequest,
    GetResponse, Job, JobId, MirrorSet, Sha256, Sink, SinkError, Validators, Verifier,
    error::chain,
    mirror_set::InFlight,
    pace::{Pace, leaves},
};

/// How long the end of a body is waited for when all of its bytes are here. It is waited for at
/// all so that the connection can be used again.
const LAST_WORD: Duration = Duration::from_secs(1);

/// An attempt that brings less than this, in bytes, brings little.
const LITTLE: u64 = 64 * 1024;

/// Longer than the pause that the selector cuts an open circuit to when no mirror is left.
const LONG_PAUSE: Duration = Duration::from_secs(15);

/// How many attempts that bring little one mirror has in one job.
const LITTLES: u32 = 20;

/// What became of a mirror in this job.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// Tries that brought nothing that could be kept, since the last that did.
    fruitless: u32,
    /// Tries that brought little.
    meagre: u32,
    /// Not to be asked again for this file.
    out: bool,
    /// It gets ranges wrong, so it is asked for the whole file only.
    whole_only: bool,
    /// It was left once for being slow. It may be the only one there is, so not twice.
    was_slow: bool,
}

/// The way of one job.
pub(crate) struct Run<'a> {
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
    /// The body was complete, and the file as a whole is wrong.
    Wrong(BackendError),
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

/// What a request led to.
enum Opened {
    /// There is no body to wait for.
    Done(Got),
    Body(Incoming),
}

/// A body that is about to come.
struct Incoming {
    url: String,
    validators: Validators,
    /// The length of the whole file, when it is known.
    length: Option<u64>,
    /// How many bytes of it are here already.
    skip: u64,
    body: Body,
}

impl<'a> Run<'a> {
    pub(crate) fn new(engine: &'a Engine, id: JobId, mirrors: &'a MirrorSet, job: &'a Job) -> Self {
        Self {
            engine,
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
            patience: engine.options.patience,
            throttled_patience: engine.options.throttled_patience,
        }
    }

    /// Goes from mirror to mirror until the file is in the sink, or none is left.
    pub(crate) async fn run(&mut self, sink: &mut dyn Sink) -> Result<Fetched, FetchError> {
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
                Stop::Mirror(error) => {
                    let gained = self.verifier.length().saturating_sub(offset);
                    self.note(flight, name, error, gained, sink).await?;
                }
                Stop::Wrong(error) => self.wrong(flight, name, error, sink).await?,
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
            match self.mirrors.choose(&self.request(&self.exclude())) {
                (Choice::Use(pick), why) => return Ok((pick, why)),
                (Choice::Wait { until, why }, _) => {
                    let now = self.mirrors.now();
                    let pause = until.since(now).max(Duration::from_millis(1));
                    let patience = match why {
                        // Somebody else's transfer will end; there is no harm in waiting.
                        Why::Busy { .. }
                        | Why::WaitingForBetter { .. }
                        | Why::StandsBack(Standing::OnTrial) => None,
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

    /// The mirrors that were tried, as often as their failures count. The selector asks one again
    /// only when nothing better is left, and not at all when it stands here often enough.
    fn exclude(&self) -> Vec<MirrorId> {
        let most = self.mirrors.attempts_per_mirror().max(1);
        let count = |tally: &Tally| {
            if tally.out {
                most
            } else {
                tally.fruitless.max(1).min(most - 1)
            }
        };
        self.tally
            .iter()
            .flat_map(|(id, tally)| std::iter::repeat_n(*id, count(tally) as usize))
            .collect()
    }

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

    /// Whether what has arrived may be continued with bytes of this mirror.
    fn can_continue_on(&self, mirror: MirrorId) -> bool {
        if self.verifier.length() == 0 {
            return true;
        }
        if self.tally.get(&mirror).is_some_and(|t| t.whole_only) {
            return false;
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
        match self.open(pick, flight).await? {
            Opened::Done(got) => Ok(got),
            Opened::Body(incoming) => self.receive(pick, flight, incoming, sink).await,
        }
    }

    /// One request, up to the header of its answer.
    async fn open(&mut self, pick: &Pick, flight: &mut InFlight) -> Result<Opened, Stop> {
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
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            // The last mirror broke off after the last byte, and nobody knew that it was the last.
            Ok(Err(BackendError::BeyondEnd { .. })) if self.is_right() => {
                let validators = Validators::default();
                return Ok(Opened::Done(Got {
                    url,
                    validators,
                    not_modified: false,
                }));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                let (what, after) = ("no answer", patience);
                return Err(BackendError::Timeout { url, what, after }.into());
            }
        };
        flight.answered();
        let (start, total, validators, body) = match answer {
            GetResponse::NotModified => match validators {
                Some(validators) => {
                    let validators = validators.clone();
                    return Ok(Opened::Done(Got {
                        url,
                        validators,
                        not_modified: true,
                    }));
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
        Ok(Opened::Body(Incoming {
            url,
            validators,
            length: self.job.expected.size.or(total),
            // A server that ignores ranges sends all; what we have of it is passed over.
            skip: offset.saturating_sub(start),
            body,
        }))
    }

    /// The body of an answer, to its end.
    async fn receive(
        &mut self,
        pick: &Pick,
        flight: &mut InFlight,
        incoming: Incoming,
        sink: &mut dyn Sink,
    ) -> Result<Got, Stop> {
        let mirror = pick.mirror;
        let Incoming {
            url,
            validators,
            length,
            mut skip,
            mut body,
        } = incoming;
        let was_slow = self.tally.get(&mirror).is_some_and(|tally| tally.was_slow);
        let mut pace = Pace::new();
        loop {
            let whole = skip == 0 && length.is_some_and(|length| self.verifier.length() >= length);
            let patience = if whole {
                pick.stall_timeout.min(LAST_WORD)
            } else {
                pick.stall_timeout
            };
            let mut piece = match timeout(patience, body.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(piece))) => piece,
                // What goes wrong after the last byte is no longer of interest.
                _ if whole || (length.is_none() && self.is_right()) => break,
                Ok(Some(Err(error))) => return Err(error.into()),
                Err(_) => {
                    let (what, after) = ("the body stalled", patience);
                    return Err(BackendError::Timeout { url, what, after }.into());
                }
            };
            flight.received(piece.len() as u64);
            if skip > 0 {
                let passed = skip.min(piece.len() as u64);
                // `passed` is at most the length of the piece.
                piece = piece.slice(usize::try_from(passed).unwrap_or(piece.len())..);
                skip -= passed;
                self.wasted += passed;
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
            let have = self.verifier.length();
            let left = length.map(|length| length.saturating_sub(have));
            // Without a digest nobody else can continue, so that what is here would be lost.
            let again = if self.job.expected.is_content_addressed() {
                0
            } else {
                have
            };
            let least = || self.mirrors.min_rate(&self.request(&[]), mirror);
            if let Some(rate) = pace.measure(bytes)
                && !was_slow
                && leaves(rate, least(), left, again)
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
            validators,
            not_modified: false,
        })
    }

    /// Whether what has arrived is the file: its digest is known and agrees.
    fn is_right(&self) -> bool {
        self.job.expected.is_content_addressed() && self.verifier.clone().finish().is_ok()
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
            .map_err(|source| Stop::Wrong(BackendError::Corrupt { url: url(), source }))?;
        let known = self.job.expected.is_content_addressed();
        if known {
            // Whatever the sink says now, the mirror has done its part.
            flight.finish(Class::Ok, None);
        }
        if let Some(refused) = self.refused.take() {
            return Err(Stop::Sink(refused));
        }
        match sink.finish().await {
            Ok(()) => {}
            Err(SinkError::Rejected(source)) if !known => {
                let error = BackendError::Unusable { url: url(), source };
                return Err(Stop::Wrong(error));
            }
            Err(error) => return Err(Stop::Sink(error)),
        }
        flight.finish(Class::Ok, None);
        Ok((sha256, length))
    }

    /// Remembers a failure after which `gained` bytes of this mirror are in the verifier, and
    /// draws the consequences.
    async fn note(
        &mut self,
        mut flight: InFlight,
        name: String,
        error: BackendError,
        gained: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), FetchError> {
        let class = error.class();
        let corrupt = class == Class::Corrupt;
        let addressed = self.job.expected.is_content_addressed();
        let solo = self.solo;
        let tally = self.tally.entry(flight.mirror()).or_default();
        if matches!(
            error,
            BackendError::BeyondEnd { .. } | BackendError::WrongRange { .. }
        ) {
            tally.whole_only = true;
        }
        // Bytes that the next mirror will not continue are no progress.
        let kept = addressed && !solo && !corrupt && !tally.whole_only && gained > 0;
        if kept {
            tally.fruitless = 0;
            tally.meagre += u32::from(gained < LITTLE);
            if gained >= LITTLE {
                // The file comes nearer, so the longest pause of a mirror is worth waiting for.
                self.patience = self.engine.options.patience.max(LONG_PAUSE);
            }
        } else {
            tally.fruitless += 1;
        }
        let most = self.mirrors.attempts_per_mirror();
        tally.out = !error.is_transient() || tally.fruitless >= most || tally.meagre > LITTLES;
        if matches!(error, BackendError::Slow { .. }) {
            // Our choice and not its failure; what it gave tells how fast it is.
            tally.out = false;
            flight.cancel();
        } else {
            flight.finish(class, error.retry_after());
        }
        self.record(&flight, name, error);
        if corrupt && gained > 0 {
            self.restart(sink).await?;
        }
        Ok(())
    }

    /// The whole file is wrong. One mirror that gave all of it is to blame; of several it is not
    /// known which of them lied.
    async fn wrong(
        &mut self,
        mut flight: InFlight,
        name: String,
        error: BackendError,
        sink: &mut dyn Sink,
    ) -> Result<(), FetchError> {
        let mirror = flight.mirror();
        let tally = self.tally.entry(mirror).or_default();
        tally.fruitless += 1;
        if self.contributors.iter().all(|other| *other == mirror) {
            tally.out = true;
            flight.finish(error.class(), None);
        } else {
            self.solo = true;
            flight.cancel();
        }
        self.record(&flight, name, error);
        self.restart(sink).await
    }

    fn record(&mut self, flight: &InFlight, name: String, error: BackendError) {
        let (mirror, class, bytes) = (flight.mirror(), error.class(), flight.bytes());
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
        self.attempts.push(Attempt {
            mirror,
            name,
            class,
            error,
            bytes,
        });
    }
}
