//! One large file, in segments from several mirrors at once.
//!
//! One task and no spawned ones, so that dropping the future ends everything. `SegmentPlan` of the crate `mirrors`
//! assigns segments to mirrors; a [`Partial`] holds the bytes.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use taipan_mirrors::{Class, MirrorId, Pick, SegmentConfig, SegmentId, SegmentPlan, SegmentStep};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

use crate::{
    BackendError, Event, Expected, FetchError, Fetched, Sha256, SinkError, TimeoutPhase,
    Validators,
    blocking::blocking,
    exchange::{Exchange, WholeFile},
    fetch::{
        journal::Key,
        partial::Partial,
        range_map::RangeMap,
        segment::{self, SegmentEvent},
    },
    ledger::{Ledger, MIN_PROGRESS},
};

/// How many batches may be written at a time.
const MAX_WRITES: usize = 8;

/// The fetch of one file in segments.
pub(crate) struct SegmentedFetch<'l, 'a> {
    pub(crate) ledger: &'l mut Ledger<'a>,
    pub(crate) size: u64,
    pub(crate) partial: Partial,
    /// The mirror that sent each range; `None` for ranges of an earlier run.
    pub(crate) sources: RangeMap<Option<MirrorId>>,
    /// Mirrors that are not used for the moment: arbitration replaces their bytes.
    pub(crate) suspended: Vec<MirrorId>,
    /// Bytes that were here have been fetched again.
    pub(crate) has_replaced: bool,
    config: SegmentConfig,
    writes: VecDeque<JoinHandle<Result<(), SinkError>>>,
}

/// One segment under way.
struct Connection {
    exchange: Exchange,
    /// The first byte of the segment.
    start: u64,
    /// Where the next byte belongs.
    next: u64,
    end: u64,
    /// Dropped with the connection, which ends its request.
    _open: oneshot::Sender<()>,
}

type Connections = BTreeMap<SegmentId, Connection>;
type Events = FuturesUnordered<BoxFuture<'static, SegmentEvent>>;

impl<'l, 'a> SegmentedFetch<'l, 'a> {
    /// Opens the partial at `path`, or begins it.
    pub(crate) async fn open(
        ledger: &'l mut Ledger<'a>,
        config: SegmentConfig,
        size: u64,
        path: &Path,
        key: Key,
        expected: Expected,
    ) -> Result<Self, FetchError> {
        let path = path.to_owned();
        let partial = blocking(move || Partial::open(&path, key, size, expected)).await;
        let partial = partial.map_err(|source| ledger.sink_error(source))?;
        let mut sources = RangeMap::default();
        for (range, ()) in partial.have().iter() {
            sources.insert(range, None);
        }
        let bytes = sources.total();
        if bytes > 0 {
            ledger.context.observer.event(&Event::Resumed {
                job: ledger.context.job,
                bytes,
            });
        }
        // A response with another length is not this file.
        ledger.context.expected.size = Some(size);
        Ok(Self {
            ledger,
            size,
            partial,
            sources,
            suspended: Vec::new(),
            has_replaced: false,
            config,
            writes: VecDeque::new(),
        })
    }

    /// Fetches those of these bytes that are missing.
    pub(crate) async fn fill(&mut self, wanted: &[Range<u64>]) -> Result<(), FetchError> {
        self.ledger.begin_round();
        let mut plan = self.plan(wanted);
        let mut connections = Connections::new();
        let mut events = Events::new();
        loop {
            // Armed before the state is read, so that no wake-up is lost in between.
            let mirrors = self.ledger.mirrors;
            let changed = mirrors.changed();
            let (until, why) = loop {
                match self.ledger.mirrors.next_segment(&mut plan) {
                    SegmentStep::Fetch {
                        segment,
                        range,
                        pick,
                    } => {
                        let connection = self.connect(segment, range, &pick, &mut events);
                        connections.insert(segment, connection);
                    }
                    SegmentStep::Shorten { segment, end } => {
                        if let Some(connection) = connections.get_mut(&segment) {
                            connection.end = end;
                        }
                    }
                    SegmentStep::Drop { segment } => {
                        if let Some(connection) = connections.remove(&segment) {
                            connection.close();
                        }
                    }
                    SegmentStep::Stalled { segment, silence } => {
                        if let Some(connection) = connections.remove(&segment) {
                            self.stalled(connection, silence);
                        }
                    }
                    SegmentStep::Wait { until, why } => break (until, why),
                    SegmentStep::Done => return self.written().await,
                    SegmentStep::Exhausted(reasons) => {
                        self.written().await?;
                        let error = self.ledger.exhausted(reasons);
                        self.ledger.outlast(error).await?;
                        plan = self.plan(wanted);
                    }
                }
            };
            if let Some(why) = why
                && connections.is_empty()
            {
                if let Err(error) = self.ledger.wait(until, why, changed).await {
                    self.written().await?;
                    self.ledger.outlast(error).await?;
                    plan = self.plan(wanted);
                }
                continue;
            }
            let pause = until.since(mirrors.now()).max(Duration::from_millis(1));
            // Cancel-safe: what a segment has read is handed over before the next await in it.
            let event = tokio::select! {
                biased;
                Some(event) = events.next() => Some(event),
                () = changed => None,
                () = sleep(pause) => None,
            };
            // The plan learns of everything that has happened before it decides: a connection
            // whose bytes are only waiting to be taken must not look silent.
            let mut next = event;
            while let Some(event) = next {
                self.apply(event, &mut plan, &mut connections, &mut events)
                    .await?;
                next = events.next().now_or_never().flatten();
            }
        }
    }

    /// A plan for those of these bytes that are missing.
    fn plan(&self, wanted: &[Range<u64>]) -> SegmentPlan {
        let missing = wanted.iter().flat_map(|range| self.missing(range.clone()));
        let ledger = &*self.ledger;
        let path = &ledger.job.target.path;
        let config = self.config.clone();
        let mut plan = SegmentPlan::new(path, self.size, missing, ledger.seed(), config);
        for mirror in ledger.mirrors.ids() {
            if ledger.is_excluded(mirror) || self.suspended.contains(&mirror) {
                plan.exclude(mirror);
            }
        }
        plan
    }

    /// What is missing of a range.
    fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = self.sources.gaps(range.end);
        gaps.retain(|gap| gap.end > range.start);
        if let Some(first) = gaps.first_mut() {
            first.start = first.start.max(range.start);
        }
        gaps
    }

    /// Sends the request for a segment.
    fn connect(
        &mut self,
        segment: SegmentId,
        range: Range<u64>,
        pick: &Pick,
        events: &mut Events,
    ) -> Connection {
        let exchange = self.ledger.begin(pick, range.start);
        let request = exchange.send_range(range.clone(), WholeFile::Refuse);
        let (open, dropped) = oneshot::channel();
        events.push(segment::open(segment, request, dropped).boxed());
        Connection {
            exchange,
            start: range.start,
            next: range.start,
            end: range.end,
            _open: open,
        }
    }

    async fn apply(
        &mut self,
        event: SegmentEvent,
        plan: &mut SegmentPlan,
        connections: &mut Connections,
        events: &mut Events,
    ) -> Result<(), FetchError> {
        match event {
            SegmentEvent::Dropped => {}
            SegmentEvent::Opened(reader) => {
                let Some(connection) = connections.get(&reader.segment) else {
                    return Ok(());
                };
                let mirror = connection.exchange.mirror();
                if self.ledger.note_version(mirror, reader.version()) {
                    events.push(reader.read().boxed());
                } else {
                    self.changed(reader.segment, plan, connections);
                }
            }
            SegmentEvent::Pieces {
                reader,
                pieces,
                skipped,
                end,
            } => {
                self.ledger.wasted += skipped;
                let segment = reader.segment;
                let Some(connection) = connections.get_mut(&segment) else {
                    return Ok(());
                };
                let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
                let kept = plan.progress(segment, bytes, self.ledger.mirrors.now());
                let offset = connection.next;
                connection.next += kept;
                let mirror = connection.exchange.mirror();
                let is_complete = connection.next >= connection.end;
                let is_enough = connection.next - connection.start >= MIN_PROGRESS;
                let is_partial = matches!(end, Some(Ok(()))) && reader.is_partial() && is_enough;
                let end = match end {
                    Some(Ok(())) => Some(BackendError::Short {
                        url: connection.exchange.url().to_owned(),
                        expected: connection.end,
                        got: connection.next,
                    }),
                    Some(Err(error)) => Some(error),
                    None => None,
                };
                self.store(mirror, offset, pieces, kept).await?;
                match end {
                    None => events.push(reader.read().boxed()),
                    // What follows the last wanted byte does not matter.
                    Some(_) if is_complete => {}
                    Some(_) if is_partial => {
                        plan.ended(segment, false);
                        if let Some(connection) = connections.remove(&segment) {
                            connection.close();
                        }
                    }
                    Some(error) => self.failed(segment, error, plan, connections),
                }
            }
            SegmentEvent::Failed {
                segment,
                error: BackendError::Changed { .. },
            } => self.changed(segment, plan, connections),
            SegmentEvent::Failed { segment, error } => {
                self.failed(segment, error, plan, connections);
            }
        }
        Ok(())
    }

    /// Records the failure of a segment. Its missing bytes are fetched again.
    fn failed(
        &mut self,
        segment: SegmentId,
        error: BackendError,
        plan: &mut SegmentPlan,
        connections: &mut Connections,
    ) {
        let Some(connection) = connections.remove(&segment) else {
            return;
        };
        let mirror = connection.exchange.mirror();
        let gained = connection.next - connection.start;
        let is_final = !error.is_transient() || error.is_about_ranges();
        let counts = self.ledger.fail(connection.exchange, error, gained);
        // With enough progress the mirror is worth another request.
        plan.ended(segment, counts && gained < MIN_PROGRESS);
        if counts && is_final {
            plan.exclude(mirror);
        }
    }

    /// Records the stall of a segment, which the plan has removed.
    fn stalled(&mut self, connection: Connection, silence: Duration) {
        let gained = connection.next - connection.start;
        let error = BackendError::Timeout {
            url: connection.exchange.url().to_owned(),
            phase: TimeoutPhase::Body,
            after: silence,
        };
        self.ledger.fail(connection.exchange, error, gained);
    }

    /// The file was replaced on the mirror of this segment, and no digest is known that its bytes could be verified by.
    fn changed(
        &mut self,
        segment: SegmentId,
        plan: &mut SegmentPlan,
        connections: &mut Connections,
    ) {
        if let Some(connection) = connections.remove(&segment) {
            plan.ended(segment, false);
            plan.exclude(connection.exchange.mirror());
            self.ledger.changed(connection.exchange);
        }
    }

    /// Writes bytes to the disk, except for those that are already there.
    pub(crate) async fn store(
        &mut self,
        mirror: MirrorId,
        offset: u64,
        mut pieces: Vec<Bytes>,
        kept: u64,
    ) -> Result<(), FetchError> {
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut at = offset;
        let mut new = 0;
        for gap in self.missing(offset..offset + kept) {
            split_off_front(&mut pieces, gap.start - at);
            let part = split_off_front(&mut pieces, gap.end - gap.start);
            new += gap.end - gap.start;
            at = gap.end;
            self.sources.insert(gap.clone(), Some(mirror));
            let partial = self.partial.clone();
            let write = move || partial.write(gap.start, &part);
            self.writes.push_back(tokio::task::spawn_blocking(write));
        }
        self.ledger.wasted += bytes - new;
        self.ledger.progress(new);
        while self.writes.len() > MAX_WRITES {
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
        result.map_err(|source| self.ledger.sink_error(source))
    }

    /// Waits until all writes have ended.
    pub(crate) async fn written(&mut self) -> Result<(), FetchError> {
        while !self.writes.is_empty() {
            self.oldest_write().await?;
        }
        Ok(())
    }

    /// Runs blocking work on the partial.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Partial) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let partial = self.partial.clone();
        let result = blocking(move || work(&partial)).await;
        result.map_err(|source| self.ledger.sink_error(source))
    }

    pub(crate) fn fetched(&mut self, sha256: Sha256) -> Fetched {
        let last = self.sources.iter().filter_map(|(_, mirror)| mirror).last();
        let target = &self.ledger.job.target;
        let url = last.map(|mirror| self.ledger.mirrors.describe(mirror, target));
        Fetched {
            file: Some((sha256, self.size)),
            // Nothing was missing of what an earlier run had left.
            url: url.unwrap_or_else(|| target.path.clone()),
            validators: Validators::default(),
            attempts: self.ledger.take_attempts(),
            wasted: self.ledger.wasted,
            delta: None,
        }
    }

    /// Returns the error, unless a mirror may have the file that cannot serve parts of it. The
    /// partial is kept only if another run can resume it.
    pub(crate) fn give_up(&mut self, error: FetchError) -> Result<(), FetchError> {
        let is_sink = matches!(error, FetchError::Sink { .. });
        if !self.ledger.whole_file_mirrors().is_empty() && !is_sink {
            self.partial.discard();
            if let FetchError::Exhausted { attempts, .. } = error {
                self.ledger.restore(attempts);
            }
            return Ok(());
        }
        self.discard_unless_resumable(&error);
        Err(error)
    }

    /// Removes the partial after an error that another run would meet again with these bytes.
    pub(crate) fn discard_unless_resumable(&self, error: &FetchError) {
        let is_resumable = match error {
            FetchError::Exhausted { attempts, .. } => attempts
                .iter()
                .all(|attempt| attempt.class != Class::Corrupt),
            FetchError::Sink { source, .. } => !matches!(source, SinkError::Write { .. }),
            FetchError::Zchunk { .. } | FetchError::Wrong { .. } => false,
        };
        if !is_resumable {
            self.partial.discard();
        }
    }
}

impl Connection {
    /// Closes a connection that the plan does not need any more. The verdict reports its throughput
    /// only: the bytes are verified with the whole file, and after a mismatch arbitration accuses a
    /// mirror.
    fn close(self) {
        if self.next >= self.end {
            self.exchange.succeed();
        } else {
            self.exchange.cancel();
        }
    }
}

/// Takes the first bytes of a list of pieces.
fn split_off_front(pieces: &mut Vec<Bytes>, mut bytes: u64) -> Vec<Bytes> {
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
