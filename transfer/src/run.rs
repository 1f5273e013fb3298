//! One job on its way from mirror to mirror.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{
    StreamExt as _,
    future::{Either, select},
};
use taipan_mirrors::{Choice, Class, MirrorId, Pick, Request, Tried, Why};
use tokio::time::{Instant, timeout};

use crate::{
    Attempt, BackendError, Body, ByteRange, Engine, Event, FetchError, Fetched, GetRequest,
    GetResponse, Job, JobId, MirrorSet, Sha256, Sink, SinkError, Validators, Verifier,
    error::chain,
    mirror_set::InFlight,
    pace::{Pace, leaves},
    patience::Patience,
};

/// How long the end of a body is waited for when all of its bytes are here. It is waited for at
/// all so that the connection can be used again.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(1);

/// An attempt that brings less than this, in bytes, brings little.
pub(crate) const LITTLE: u64 = 64 * 1024;

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
    patience: Patience,
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

/// One request under way.
struct Line {
    pick: Pick,
    /// The mirror, printable.
    name: String,
    flight: InFlight,
}

/// What became of a request, or of two of which one came too late.
struct Asked {
    line: Line,
    answer: Result<Opened, BackendError>,
    /// The other, if it failed before.
    failed: Option<(Line, BackendError)>,
}

impl Asked {
    fn one(mut line: Line, answer: Result<Opened, BackendError>) -> Self {
        if answer.is_ok() {
            line.flight.answered();
        }
        Self {
            line,
            answer,
            failed: None,
        }
    }
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
        let out = engine.out_of_reach(mirrors).into_iter().map(|mirror| {
            let tally = Tally {
                out: true,
                ..Tally::default()
            };
            (mirror, tally)
        });
        Self {
            engine,
            id,
            mirrors,
            job,
            verifier: Verifier::new(job.expected),
            refused: None,
            contributors: Vec::new(),
            solo: false,
            tally: out.collect(),
            attempts: Vec::new(),
            wasted: 0,
            patience: Patience::new(&engine.options),
        }
    }

    /// Goes from mirror to mirror until the file is in the sink, or none is left.
    pub(crate) async fn run(&mut self, sink: &mut dyn Sink) -> Result<Fetched, FetchError> {
        loop {
            let (pick, why) = self.choose().await?;
            let mirror = pick.mirror;
            if !self.can_continue_on(mirror) {
                self.restart(sink).await?;
            }
            let offset = self.verifier.length();
            let line = self.begin(pick, &why);
            let Asked {
                line:
                    Line {
                        pick,
                        name,
                        mut flight,
                    },
                answer,
                failed,
            } = self.open(line).await;
            if let Some((line, error)) = failed {
                self.note(line.flight, line.name, error, 0, sink).await?;
            }
            let stop = match self.take(&pick, &mut flight, answer, sink).await {
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
            let tried = self.tried();
            let request = self.request(&tried);
            match self.mirrors.choose(&request) {
                (Choice::Use(pick), why) => return Ok((pick, why)),
                (Choice::Wait { until, why }, _) => {
                    self.mirrors.queued(&request);
                    if !self.patience.wait(self.mirrors, until, why, changed).await {
                        let all = self.mirrors.ids().map(|id| (id, why)).collect();
                        return Err(self.exhausted(all));
                    }
                }
                (Choice::Exhausted(reasons), _) => return Err(self.exhausted(reasons)),
            }
        }
    }

    /// The error that tells every attempt, and of the mirrors that were not asked, why.
    fn exhausted(&mut self, reasons: Vec<(MirrorId, Why)>) -> FetchError {
        let attempts = std::mem::take(&mut self.attempts);
        self.engine
            .exhausted(self.mirrors, self.job, attempts, reasons)
    }

    /// What was tried, as the selector wants it: a mirror that failed is asked again only when
    /// nothing better is left, even if it made progress.
    fn tried(&self) -> Tried {
        let most = self.mirrors.attempts_per_mirror().max(1);
        let mut tried = Tried::new();
        for (id, tally) in &self.tally {
            if tally.out {
                tried.exclude(*id);
                continue;
            }
            for _ in 0..tally.fruitless.max(1).min(most - 1) {
                tried.record_failure(*id);
            }
        }
        tried
    }

    /// How many bytes are still to come, when it is known.
    fn left(&self) -> Option<u64> {
        let size = self.job.expected.size?;
        Some(size.saturating_sub(self.verifier.length()))
    }

    fn request<'r>(&'r self, tried: &'r Tried) -> Request<'r> {
        Request {
            path: &self.job.target.path,
            bytes: self.left(),
            kind: self.job.kind,
            tried,
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

    /// What an answer leads to.
    async fn take(
        &mut self,
        pick: &Pick,
        flight: &mut InFlight,
        answer: Result<Opened, BackendError>,
        sink: &mut dyn Sink,
    ) -> Result<Got, Stop> {
        match answer? {
            Opened::Done(got) => Ok(got),
            Opened::Body(incoming) => self.receive(pick, flight, incoming, sink).await,
        }
    }

    /// One request, up to the header of its answer. When it takes longer than it should, another
    /// mirror is asked as well, and the one that answers first is listened to.
    async fn open(&self, line: Line) -> Asked {
        let first = self.ask(line.pick);
        tokio::pin!(first);
        let tried = self.tried();
        let request = self.request(&tried);
        let second = match self.mirrors.hedge_after(&request, line.pick.mirror) {
            None => None,
            Some(after) => match timeout(after, &mut first).await {
                Ok(answer) => return Asked::one(line, answer),
                Err(_) => self.second(line.pick.mirror),
            },
        };
        let Some(other) = second else {
            return Asked::one(line, first.await);
        };
        let second = self.ask(other.pick);
        tokio::pin!(second);
        match select(first, second).await {
            Either::Left((answer, rest)) => self.race(line, other, answer, rest).await,
            Either::Right((answer, rest)) => self.race(other, line, answer, rest).await,
        }
    }

    /// One of two requests has been answered; `rest` is the other.
    async fn race(
        &self,
        early: Line,
        mut late: Line,
        answer: Result<Opened, BackendError>,
        rest: impl Future<Output = Result<Opened, BackendError>>,
    ) -> Asked {
        match answer {
            Ok(opened) => {
                // It may have sent all of it by now.
                late.flight.cancel_wasting(self.left().unwrap_or(0));
                Asked::one(early, Ok(opened))
            }
            Err(error) => Asked {
                failed: Some((early, error)),
                ..Asked::one(late, rest.await)
            },
        }
    }

    /// Another mirror for a request that takes long on this one, if there is one that is no worse.
    fn second(&self, mirror: MirrorId) -> Option<Line> {
        let tried = self.tried().excluding([mirror]);
        let (Choice::Use(pick), why) = self.mirrors.choose(&self.request(&tried)) else {
            return None;
        };
        let is_last_resort = matches!(pick.why, Why::LastResort(_) | Why::Retry { .. });
        if is_last_resort || !self.can_continue_on(pick.mirror) {
            return None;
        }
        Some(self.begin(pick, &why))
    }

    /// Tells everybody of a request that goes out.
    fn begin(&self, pick: Pick, why: &str) -> Line {
        let mirror = pick.mirror;
        let name = self.mirrors.describe(mirror, &self.job.target);
        let offset = self.verifier.length();
        tracing::debug!(job = %self.job.label, mirror = %name, offset, %why, "asking");
        self.engine.observer.event(&Event::Attempt {
            job: self.id,
            mirror,
            name: &name,
            offset,
            why,
        });
        let flight = self.mirrors.start(&pick, &self.job.target.path);
        Line { pick, name, flight }
    }

    /// The header of an answer, checked.
    async fn ask(&self, pick: Pick) -> Result<Opened, BackendError> {
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
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let (what, after) = ("no answer", patience);
                return Err(BackendError::Timeout { url, what, after });
            }
        };
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
                None => return Err(BackendError::Unasked { url }),
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
            return Err(BackendError::Corrupt { url, source });
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
            let limited = (self.mirrors.number(), mirror);
            self.engine.limits.take(limited, bytes).await;
            // Neither a slow sink nor a limit is the mirror's fault.
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
            let tried = Tried::new();
            let least = || self.mirrors.min_rate(&self.request(&tried), mirror);
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
                self.patience.renew();
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
