//! One large file, in segments from several mirrors at once.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use taipan_mirrors::{Class, MirrorId, Pick, SegmentId, SegmentPlan, SegmentStep, Why};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

use crate::{
    Attempt, BackendError, Engine, Event, FetchError, Fetched, Job, JobId, MirrorSet, Sha256,
    SinkError, Validators,
    error::chain,
    mirror_set::InFlight,
    partial::Partial,
    patience::Patience,
    range_map::RangeMap,
    run::LITTLE,
    segment::{Asking, Landed},
};

/// How many batches may be on their way to the disk.
const WRITES: usize = 8;

/// How many attempts are told of; a download of days on a bad line has thousands.
const MOST_TOLD: usize = 200;

/// The way of one job in segments.
pub(crate) struct Segments<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) id: JobId,
    pub(crate) mirrors: &'a MirrorSet,
    pub(crate) job: &'a Job,
    pub(crate) size: u64,
    pub(crate) partial: Partial,
    /// Who gave what; `None` for what an earlier run has left.
    pub(crate) from: RangeMap<Option<MirrorId>>,
    /// Mirrors that are not asked, as long as they stand here.
    pub(crate) banned: Vec<MirrorId>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) wasted: u64,
    /// A mirror gets ranges wrong, so that the whole file may yet be had from it.
    pub(crate) has_whole_only: bool,
    /// Bytes that were here have been fetched again.
    pub(crate) has_replaced: bool,
    patience: Patience,
    writes: VecDeque<JoinHandle<Result<(), SinkError>>>,
}

/// One segment under way.
struct Line {
    mirror: MirrorId,
    /// The mirror, printable.
    name: String,
    /// The first byte asked for.
    start: u64,
    /// Where the next byte belongs.
    next: u64,
    end: u64,
    flight: InFlight,
    /// Dropped with the line, which ends what is under way for it.
    _open: oneshot::Sender<()>,
}

type Flying = FuturesUnordered<BoxFuture<'static, Landed>>;

impl<'a> Segments<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        id: JobId,
        mirrors: &'a MirrorSet,
        job: &'a Job,
        size: u64,
        partial: Partial,
    ) -> Self {
        let mut from = RangeMap::default();
        for (range, ()) in partial.have().iter() {
            from.insert(range, None);
        }
        Self {
            engine,
            id,
            mirrors,
            job,
            size,
            partial,
            from,
            banned: Vec::new(),
            attempts: Vec::new(),
            wasted: 0,
            has_whole_only: false,
            has_replaced: false,
            patience: Patience::new(&engine.options),
            writes: VecDeque::new(),
        }
    }

    /// Fetches all of these bytes that are not here yet.
    pub(crate) async fn fill(&mut self, wanted: &[Range<u64>]) -> Result<(), FetchError> {
        let missing: Vec<Range<u64>> = wanted
            .iter()
            .flat_map(|range| self.missing(range.clone()))
            .collect();
        let path = &self.job.target.path;
        let seed = self.engine.options.seed ^ self.id.0;
        let config = self.engine.options.segments.clone();
        let mut plan = SegmentPlan::new(path, self.size, missing, seed, config);
        let offline = self.engine.out_of_reach(self.mirrors);
        for mirror in self.banned.iter().chain(&offline) {
            plan.exclude(*mirror);
        }
        let mut lines = BTreeMap::new();
        let mut flying = Flying::new();
        loop {
            // Armed before the state is looked at, so that no wake-up is lost in between.
            let changed = self.mirrors.changed();
            let (until, why) = loop {
                match self.mirrors.plan(&mut plan) {
                    SegmentStep::Fetch {
                        segment,
                        range,
                        pick,
                    } => {
                        let line = self.open(segment, range, &pick, &mut flying);
                        lines.insert(segment, line);
                    }
                    SegmentStep::Shorten { segment, end } => {
                        if let Some(line) = lines.get_mut(&segment) {
                            line.end = end;
                        }
                    }
                    SegmentStep::Drop { segment } => {
                        if let Some(line) = lines.remove(&segment) {
                            close(line);
                        }
                    }
                    SegmentStep::Wait { until, why } => break (until, why),
                    SegmentStep::Done => return self.written().await,
                    SegmentStep::Exhausted(reasons) => {
                        self.written().await?;
                        return Err(self.exhausted(reasons));
                    }
                }
            };
            if let Some(why) = why
                && lines.is_empty()
            {
                if !self.patience.wait(self.mirrors, until, why, changed).await {
                    self.written().await?;
                    let all = self.mirrors.ids().map(|id| (id, why)).collect();
                    return Err(self.exhausted(all));
                }
                continue;
            }
            let pause = until
                .since(self.mirrors.now())
                .max(Duration::from_millis(1));
            // Cancel-safe: what a line has read is handed over before the next await in it.
            let landed = tokio::select! {
                biased;
                Some(landed) = flying.next() => Some(landed),
                () = changed => None,
                () = sleep(pause) => None,
            };
            // All that has happened is told to the plan before it is asked, so that nobody looks
            // silent who only was not listened to.
            let mut next = landed;
            while let Some(landed) = next {
                self.land(landed, &mut plan, &mut lines, &mut flying)
                    .await?;
                next = flying.next().now_or_never().flatten();
            }
        }
    }

    /// What is missing of a range.
    fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = self.from.gaps(range.end);
        gaps.retain(|gap| gap.end > range.start);
        if let Some(first) = gaps.first_mut() {
            first.start = first.start.max(range.start);
        }
        gaps
    }

    /// Sends the request for a segment.
    fn open(
        &mut self,
        segment: SegmentId,
        range: Range<u64>,
        pick: &Pick,
        flying: &mut Flying,
    ) -> Line {
        let (mirror, why) = (pick.mirror, pick.why.to_string());
        let name = self.mirrors.describe(mirror, &self.job.target);
        tracing::debug!(job = %self.job.label, mirror = %name, ?range, %why, "asking for a segment");
        self.engine.observer.event(&Event::Attempt {
            job: self.id,
            mirror,
            name: &name,
            offset: range.start,
            why: &why,
        });
        let flight = self.mirrors.start(pick, &self.job.target.path);
        let (open, dropped) = oneshot::channel();
        let asking = Asking {
            segment,
            mirrors: self.mirrors.clone(),
            target: self.job.target.clone(),
            expected: self.job.expected,
            size: self.size,
            range: range.clone(),
            pick: *pick,
            limits: Arc::clone(&self.engine.limits),
            dropped,
        };
        flying.push(asking.ask().boxed());
        Line {
            mirror,
            name,
            start: range.start,
            next: range.start,
            end: range.end,
            flight,
            _open: open,
        }
    }

    async fn land(
        &mut self,
        landed: Landed,
        plan: &mut SegmentPlan,
        lines: &mut BTreeMap<SegmentId, Line>,
        flying: &mut Flying,
    ) -> Result<(), FetchError> {
        match landed {
            Landed::Dropped => {}
            Landed::Opened(reader) => {
                if let Some(line) = lines.get_mut(&reader.segment) {
                    line.flight.answered();
                    flying.push(reader.read().boxed());
                }
            }
            Landed::Pieces {
                reader,
                pieces,
                end,
            } => {
                let segment = reader.segment;
                let Some(line) = lines.get_mut(&segment) else {
                    return Ok(());
                };
                let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
                line.flight.received(bytes);
                let kept = plan.progress(segment, bytes, self.mirrors.now());
                let offset = line.next;
                line.next += kept;
                let mirror = line.mirror;
                let is_complete = line.next >= line.end;
                self.store(mirror, offset, pieces, kept).await?;
                match end {
                    None => flying.push(reader.read().boxed()),
                    // Whatever comes after the last byte that is wanted is of no interest.
                    _ if is_complete => {}
                    Some(Ok(())) => {
                        let line = lines.remove(&segment).expect("it was there just now");
                        let error = BackendError::Short {
                            url: line.name.clone(),
                            expected: line.end,
                            got: line.next,
                        };
                        self.failed(segment, line, error, plan);
                    }
                    Some(Err(error)) => {
                        let line = lines.remove(&segment).expect("it was there just now");
                        self.failed(segment, line, error, plan);
                    }
                }
            }
            Landed::Failed { segment, error } => {
                if let Some(line) = lines.remove(&segment) {
                    self.failed(segment, line, error, plan);
                }
            }
        }
        Ok(())
    }

    /// Sends bytes to the disk: those that are not there yet.
    pub(crate) async fn store(
        &mut self,
        mirror: MirrorId,
        offset: u64,
        mut pieces: Vec<Bytes>,
        kept: u64,
    ) -> Result<(), FetchError> {
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.wasted += bytes - kept;
        let mut at = offset;
        let mut new = 0;
        for gap in self.missing(offset..offset + kept) {
            cut(&mut pieces, gap.start - at);
            let part = cut(&mut pieces, gap.end - gap.start);
            new += gap.end - gap.start;
            at = gap.end;
            self.from.insert(gap.clone(), Some(mirror));
            let partial = self.partial.clone();
            let write = move || partial.write(gap.start, &part);
            self.writes.push_back(tokio::task::spawn_blocking(write));
        }
        self.wasted += kept - new;
        self.engine.observer.event(&Event::Progress {
            job: self.id,
            bytes: new,
        });
        while self.writes.len() > WRITES {
            self.oldest_write().await?;
        }
        Ok(())
    }

    async fn oldest_write(&mut self) -> Result<(), FetchError> {
        let Some(write) = self.writes.front_mut() else {
            return Ok(());
        };
        let result = write.await;
        self.writes.pop_front();
        let result = result.unwrap_or_else(|error| Err(SinkError::Failed(error.into())));
        result.map_err(|source| self.unwritable(source))
    }

    /// All that was sent to the disk is there.
    pub(crate) async fn written(&mut self) -> Result<(), FetchError> {
        while !self.writes.is_empty() {
            self.oldest_write().await?;
        }
        Ok(())
    }

    pub(crate) fn unwritable(&self, source: SinkError) -> FetchError {
        FetchError::Sink {
            label: self.job.label.clone(),
            source,
        }
    }

    /// Does something with the partial that may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Partial) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let partial = self.partial.clone();
        let result = tokio::task::spawn_blocking(move || work(&partial)).await;
        let result = result.unwrap_or_else(|error| Err(SinkError::Failed(error.into())));
        result.map_err(|source| self.unwritable(source))
    }

    /// A segment has failed; what is missing of it will be fetched anew.
    fn failed(
        &mut self,
        segment: SegmentId,
        mut line: Line,
        error: BackendError,
        plan: &mut SegmentPlan,
    ) {
        let gained = line.next - line.start;
        // The file comes nearer, so the mirror is worth another request.
        let is_fruitful = gained >= LITTLE;
        if is_fruitful {
            self.patience.renew();
        }
        plan.ended(segment, !is_fruitful);
        if is_about_ranges(&error) {
            self.has_whole_only = true;
        }
        if !error.is_transient() || is_about_ranges(&error) {
            plan.exclude(line.mirror);
        }
        line.flight.finish(error.class(), error.retry_after());
        let bytes = line.flight.bytes();
        self.note(line.mirror, line.name, error, bytes);
    }

    pub(crate) fn note(&mut self, mirror: MirrorId, name: String, error: BackendError, bytes: u64) {
        let (class, cause) = (error.class(), chain(&error));
        tracing::debug!(job = %self.job.label, mirror = %name, %class, %cause, "failed");
        self.engine.observer.event(&Event::AttemptFailed {
            job: self.id,
            mirror,
            name: &name,
            class,
            cause: &cause,
            bytes,
        });
        if self.attempts.len() < MOST_TOLD {
            self.attempts.push(Attempt {
                mirror,
                name,
                class,
                error,
                bytes,
            });
        }
    }

    pub(crate) fn fetched(&mut self, sha256: Sha256) -> Fetched {
        let last = self.from.iter().filter_map(|(_, mirror)| mirror).last();
        let url = last.map(|mirror| self.mirrors.describe(mirror, &self.job.target));
        Fetched {
            file: Some((sha256, self.size)),
            // Nothing was missing of what an earlier run had left.
            url: url.unwrap_or_else(|| self.job.target.path.clone()),
            validators: Validators::default(),
            attempts: std::mem::take(&mut self.attempts),
            wasted: self.wasted,
        }
    }

    /// What is done with the partial when the file cannot be had now.
    pub(crate) fn gives_up(&self, error: FetchError) -> FetchError {
        let is_of_use = match &error {
            FetchError::Exhausted { attempts, .. } => attempts
                .iter()
                .all(|attempt| attempt.class != Class::Corrupt),
            FetchError::Sink { source, .. } => !matches!(source, SinkError::Write { .. }),
            FetchError::Zchunk { .. } | FetchError::Wrong { .. } => false,
        };
        if !is_of_use {
            self.partial.discard();
        }
        error
    }

    /// The error that tells every attempt, and of the mirrors that were not asked, why.
    pub(crate) fn exhausted(&mut self, reasons: Vec<(MirrorId, Why)>) -> FetchError {
        let attempts = std::mem::take(&mut self.attempts);
        self.engine
            .exhausted(self.mirrors, self.job, attempts, reasons)
    }
}

/// Takes the first bytes off a list of pieces.
fn cut(pieces: &mut Vec<Bytes>, mut bytes: u64) -> Vec<Bytes> {
    let mut taken = Vec::new();
    let mut whole = 0;
    for piece in pieces.iter_mut() {
        let length = piece.len() as u64;
        if length > bytes {
            if bytes > 0 {
                // Less than the length of the piece.
                taken.push(piece.split_to(usize::try_from(bytes).unwrap_or(0)));
            }
            break;
        }
        taken.push(piece.clone());
        bytes -= length;
        whole += 1;
    }
    pieces.drain(..whole);
    taken
}

/// A line that the plan needs no more.
fn close(mut line: Line) {
    if line.next >= line.end {
        line.flight.finish(Class::Ok, None);
    } else {
        line.flight.cancel();
    }
}

/// Whether the mirror may have the file, and cannot serve parts of it.
fn is_about_ranges(error: &BackendError) -> bool {
    matches!(
        error,
        BackendError::WrongRange { .. } | BackendError::BeyondEnd { .. }
    )
}
