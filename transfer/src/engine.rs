//! The engine: fetches the files of jobs from mirrors.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use taipan_mirrors::{Kind, SegmentConfig};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    BackendError, Event, Expected, FetchError, Fetched, FileSink, JobId, MirrorSet, Observer, Sink,
    SinkError, Target, Validators,
    exchange::{Response, WholeFile},
    fetch::{
        delta,
        journal::Key,
        partial::{Partial, part_path},
        segments::SegmentedFetch,
        stream::StreamFetch,
    },
    ledger::Ledger,
    limits::Limits,
};

/// The options of an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How many jobs run at a time; others wait for a slot.
    pub slots: usize,
    /// How many bytes the files of running jobs may have in total; a job that would exceed it
    /// waits, unless it is the only one. A file of unknown length counts as empty.
    pub bytes_under_way: u64,
    /// How long one job waits in total for mirrors in backoff after failures, when no other is left.
    pub wait_budget: Duration,
    /// How long one job waits in total for throttled mirrors, when no other is left.
    pub throttled_wait_budget: Duration,
    /// How long one job tries again when no mirror is left and one of them may only be away for a short
    /// time: it refuses connections, times out, or sends 502, 503 or 504. The time is that without any
    /// progress. A job that has an older copy does not try again.
    pub retry_for: Duration,
    /// Whether that holds for mirrors that have never responded, too.
    pub retry_unseen: bool,
    /// How large files are divided into segments. Files of less than twice
    /// [`least_bytes`](SegmentConfig::least_bytes) are not divided.
    pub segments: SegmentConfig,
    /// The rate limit of all jobs together, in bytes per second.
    pub rate_limit: Option<u64>,
    /// The rate limit of each mirror, in bytes per second.
    pub mirror_rate_limit: Option<u64>,
    /// Whether only mirrors on this machine are used: `file://`.
    pub offline: bool,
    /// Seeds the choice between similar mirrors, so that many clients do not choose the same one.
    pub seed: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            slots: 16,
            bytes_under_way: 64 << 30,
            wait_budget: Duration::from_secs(6),
            throttled_wait_budget: Duration::from_mins(3),
            retry_for: Duration::ZERO,
            retry_unseen: false,
            segments: SegmentConfig::default(),
            rate_limit: None,
            mirror_rate_limit: None,
            offline: false,
            seed: 0,
        }
    }
}

/// One file to fetch.
#[derive(Debug, Clone)]
pub struct Job {
    /// The name of the job in events and errors.
    pub label: String,
    /// Where the file lies below every mirror.
    pub target: Target,
    /// The expected size and digests of the file.
    pub expected: Expected,
    /// Whether the file may differ between mirrors without a failure.
    pub kind: Kind,
    /// The validators of the copy that the caller has, by the [`Fetched::url`] that they came
    /// with.
    pub validators: BTreeMap<String, Validators>,
}

impl Job {
    /// A file with a known digest.
    pub fn content(label: impl Into<String>, target: Target, expected: Expected) -> Self {
        Self {
            label: label.into(),
            target,
            expected,
            kind: Kind::Content,
            validators: BTreeMap::new(),
        }
    }

    /// A file that changes under its name, and whose size and digests are not known.
    pub fn metadata(label: impl Into<String>, target: Target) -> Self {
        Self {
            kind: Kind::Metadata,
            ..Self::content(label, target, Expected::default())
        }
    }

    /// The error of this job when its sink fails.
    pub(crate) fn sink_error(&self, source: SinkError) -> FetchError {
        FetchError::Sink {
            label: self.label.clone(),
            source,
        }
    }
}

/// Fetches files. Cheap to clone; clones share their slots and limits.
#[derive(Clone)]
pub struct Engine {
    pub(crate) options: EngineOptions,
    pub(crate) limits: Arc<Limits>,
    pub(crate) observer: Arc<dyn Observer>,
    slots: Arc<Semaphore>,
    /// In units of [`UNIT`].
    bytes: Arc<Semaphore>,
    next: Arc<AtomicU64>,
}

/// The unit in which the bytes of running jobs are counted.
const UNIT: u64 = 1 << 20;

/// A file of at most this many bytes is kept in memory until it is complete.
const MAX_IN_MEMORY: u64 = 256 << 10;

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that sends its events to `observer`.
    pub fn new(options: EngineOptions, observer: Arc<dyn Observer>) -> Self {
        let slots = Arc::new(Semaphore::new(options.slots.max(1)));
        let bytes = Arc::new(Semaphore::new(units(options.bytes_under_way) as usize));
        let limits = Arc::new(Limits::new(&options));
        Self {
            options,
            limits,
            observer,
            slots,
            bytes,
            next: Arc::default(),
        }
    }

    /// Fetches one file into `sink`, over one connection at a time. Waits for a slot first. When it
    /// returns `Ok`, the sink has finished. To drop the future ends everything that it began, except
    /// for the sink, which is the caller's.
    pub async fn fetch(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        sink: &mut dyn Sink,
    ) -> Result<Fetched, FetchError> {
        self.admit(mirrors, job, async |mut ledger| {
            StreamFetch::new(&mut ledger).run(sink).await
        })
        .await
    }

    /// Fetches one file to `path`, whose directory must exist.
    ///
    /// The bytes lie in the same directory until the file is complete and verified. A large file
    /// with a known digest is fetched in segments from several mirrors at once, into a partial
    /// (`NAME.taipan-part`). The partial survives a failure, a dropped future and the end of the
    /// process, and the next call for the same file resumes it, on any mirror. Any other file leaves
    /// no bytes unless it is complete.
    pub async fn fetch_file(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        path: &Path,
    ) -> Result<Fetched, FetchError> {
        self.admit(mirrors, job, async |mut ledger| {
            let part = part_path(path);
            if let Some(mut segments) = self.segments(&mut ledger, &part).await? {
                match segments.fetch().await {
                    Ok(sha256) => {
                        let target = path.to_owned();
                        let finish = move |partial: &Partial| partial.finish(&target);
                        segments.blocking(finish).await?;
                        return Ok(segments.fetched(sha256));
                    }
                    Err(error) => segments.give_up(error)?,
                }
                ledger.begin_round();
            }
            let mut sink = FileSink::new(path);
            if job.expected.size.is_some_and(|size| size <= MAX_IN_MEMORY) {
                sink = sink.in_memory();
            }
            StreamFetch::new(&mut ledger).run(&mut sink).await
        })
        .await
    }

    /// Fetches one file into `sink`. A large file with a known digest is fetched in segments from
    /// several mirrors at once. They are written to a partial at `spool`, whose directory must
    /// exist, and the sink reads it in order. The partial is removed at the end; it survives a
    /// failure like that of [`fetch_file`](Self::fetch_file).
    pub async fn fetch_spooled(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        spool: &Path,
        sink: &mut dyn Sink,
    ) -> Result<Fetched, FetchError> {
        self.admit(mirrors, job, async |mut ledger| {
            if let Some(mut segments) = self.segments(&mut ledger, spool).await? {
                match segments.fetch_into(sink).await {
                    Ok(sha256) => {
                        segments.partial.discard();
                        return Ok(segments.fetched(sha256));
                    }
                    Err(error) => segments.give_up(error)?,
                }
                ledger.begin_round();
                let restarted = sink.restart().await;
                restarted.map_err(|source| job.sink_error(source))?;
            }
            StreamFetch::new(&mut ledger).run(sink).await
        })
        .await
    }

    /// Fetches a zchunk file to `path`, whose directory must exist: its header, and those of its
    /// chunks that none of the zchunk files `old` has. Their ranges are distributed over the mirrors;
    /// each chunk is verified by the header, and a bad one is fetched again from another mirror.
    /// Old files that cannot be read, or are not zchunk files, are ignored. If no chunk can be
    /// reused, the whole file is fetched in the same way.
    ///
    /// The header is trusted as the mirror sends it, unless the job has a digest of the file.
    pub async fn fetch_zchunk(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        old: &[PathBuf],
        path: &Path,
    ) -> Result<Fetched, FetchError> {
        let config = self.segment_config();
        self.admit(mirrors, job, async |mut ledger| {
            delta::fetch(&mut ledger, config, old, path).await
        })
        .await
    }

    pub(crate) fn next_id(&self) -> JobId {
        JobId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits for a slot, runs a job with a new id and ledger, and sends the events of its start and
    /// end.
    async fn admit(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        work: impl AsyncFnOnce(Ledger<'_>) -> Result<Fetched, FetchError>,
    ) -> Result<Fetched, FetchError> {
        const OPEN: &str = "the semaphore is never closed";
        let _slot = self.slots.acquire().await.expect(OPEN);
        let all = units(self.options.bytes_under_way);
        let bytes = units(job.expected.size.unwrap_or(0)).min(all);
        let _bytes = self.bytes.acquire_many(bytes).await.expect(OPEN);
        let id = self.next_id();
        let started = Instant::now();
        self.observer.event(&Event::Started {
            job: id,
            label: &job.label,
            size: job.expected.size,
        });
        let result = work(Ledger::new(self, id, mirrors, job)).await;
        match &result {
            Ok(fetched) => self.observer.event(&Event::Done {
                job: id,
                bytes: fetched.file.map_or(0, |(_, length)| length),
                duration: started.elapsed(),
            }),
            Err(_) => self.observer.event(&Event::Failed { job: id }),
        }
        result
    }

    /// The limits of segments. With a rate limit a segment may be silent because it is not read.
    fn segment_config(&self) -> SegmentConfig {
        let mut config = self.options.segments.clone();
        if self.options.rate_limit.is_some() || self.options.mirror_rate_limit.is_some() {
            config.stall = Duration::MAX;
            config.silence = Duration::MAX;
        }
        config
    }

    /// Opens the partial of a file that is large enough for segments.
    async fn segments<'l, 'a>(
        &self,
        ledger: &'l mut Ledger<'a>,
        path: &Path,
    ) -> Result<Option<SegmentedFetch<'l, 'a>>, FetchError> {
        let expected = ledger.job.expected;
        if !expected.is_content_addressed() {
            // Without a digest, parts of two versions of the file would not be noticed.
            return Ok(None);
        }
        let size = match expected.size {
            Some(size) => Some(size),
            None => fetch_first_byte(ledger)
                .await
                .and_then(|response| response.total),
        };
        let config = self.segment_config();
        let Some(size) = size.filter(|size| *size >= config.least_bytes.saturating_mul(2)) else {
            return Ok(None);
        };
        let key = Key::of(&expected);
        SegmentedFetch::open(ledger, config, size, path, key, expected)
            .await
            .map(Some)
    }
}

/// The header of a response to a request for one byte, from the mirror that would be used first.
pub(crate) async fn fetch_first_byte(ledger: &mut Ledger<'_>) -> Option<Response> {
    let pick = ledger.choose_now(Some(1), [])?;
    let exchange = ledger.begin(&pick, 0);
    match exchange.send_range(0..1, WholeFile::Skip).await {
        Ok(response) => {
            // One byte is too short to measure more than the latency.
            exchange.cancel();
            Some(response)
        }
        // The file is empty.
        Err(BackendError::BeyondEnd { .. }) => {
            exchange.cancel();
            None
        }
        Err(error) => {
            ledger.fail(exchange, error, 0);
            None
        }
    }
}

fn units(bytes: u64) -> u32 {
    // A semaphore holds fewer permits than a usize has values, on any machine.
    u32::try_from(bytes.div_ceil(UNIT))
        .unwrap_or(u32::MAX)
        .min(1 << 28)
}
