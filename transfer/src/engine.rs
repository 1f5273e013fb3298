//! The engine: carries a job from mirror to mirror until its file is here.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use taipan_mirrors::{Choice, Kind, MirrorId, Request, SegmentConfig, Tried, Why};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    Attempt, ByteRange, Event, Expected, FetchError, FileSink, GetRequest, GetResponse, JobId,
    MirrorSet, Observer, Sha256, Sink, SinkError, Target, Validators,
    limits::Limits,
    partial::{Key, Partial},
    run::Run,
    segments::Segments,
};

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How many jobs have a slot at a time; the others wait.
    pub slots: usize,
    /// How many bytes the files that are under way may have together; a job that would exceed it
    /// waits, unless it is alone. A file of unknown length counts as nothing.
    pub bytes_under_way: u64,
    /// How long one job waits in sum for mirrors that rest after failures, when no other is left.
    pub patience: Duration,
    /// How long one job waits in sum for mirrors that asked for a pause, when no other is left.
    pub throttled_patience: Duration,
    /// How large files are cut into segments. Files of less than twice
    /// [`least_bytes`](SegmentConfig::least_bytes) are not.
    pub segments: SegmentConfig,
    /// The most bytes per second of all jobs together.
    pub rate_limit: Option<u64>,
    /// The most bytes per second from each mirror.
    pub mirror_rate_limit: Option<u64>,
    /// Only mirrors on this machine are asked: `file://`.
    pub offline: bool,
    /// Distinguishes this client from others, so that a herd does not move as one.
    pub seed: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            slots: 16,
            bytes_under_way: 64 << 30,
            patience: Duration::from_secs(6),
            throttled_patience: Duration::from_mins(3),
            segments: SegmentConfig::default(),
            rate_limit: None,
            mirror_rate_limit: None,
            offline: false,
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

/// What a job that has ended brought.
pub(crate) trait FileLength {
    /// The length of the file in bytes; 0 when nothing was fetched.
    fn file_length(&self) -> u64;
}

impl FileLength for Fetched {
    fn file_length(&self) -> u64 {
        self.file.map_or(0, |(_, length)| length)
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

/// Bytes under way are counted in these.
const UNIT: u64 = 1 << 20;

/// A file that is at most so long, in bytes, is kept in memory until it is complete.
const SMALL: u64 = 256 << 10;

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

    /// Fetches one file into `sink`, over one connection at a time. It waits for a slot first. When
    /// it returns `Ok`, the sink has finished. Dropping the future ends all that it began; the sink
    /// is the caller's.
    pub async fn fetch(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        sink: &mut dyn Sink,
    ) -> Result<Fetched, FetchError> {
        self.admit(job, async |id| {
            Run::new(self, id, mirrors, job).run(sink).await
        })
        .await
    }

    /// Fetches one file to `path`, whose directory must exist.
    ///
    /// What has arrived lies beside it until the file is complete and verified. A large file whose
    /// digest is known comes in segments from several mirrors at once, into a partial
    /// (`NAME.taipan-part`) that survives a failure, a dropped future and the death of the process,
    /// and that the next call for the same file continues, on any mirror. Any other file leaves
    /// nothing when it is not complete.
    pub async fn fetch_file(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        path: &Path,
    ) -> Result<Fetched, FetchError> {
        self.admit(job, async |id| {
            let Some(size) = self.size_for_segments(mirrors, job).await else {
                return self.fetch_small(id, mirrors, job, path).await;
            };
            let mut name = path.file_name().unwrap_or_default().to_os_string();
            name.push(".taipan-part");
            let mut segments = self
                .segments(id, mirrors, job, size, &path.with_file_name(name))
                .await?;
            let sha256 = match segments.fetch().await {
                Ok(sha256) => sha256,
                Err(error)
                    if segments.has_whole_only && !matches!(error, FetchError::Sink { .. }) =>
                {
                    // Somebody has it who cannot serve parts of it.
                    segments.partial.discard();
                    return self.fetch_small(id, mirrors, job, path).await;
                }
                Err(error) => return Err(segments.gives_up(error)),
            };
            let target = path.to_owned();
            segments
                .blocking(move |partial| partial.finish(&target))
                .await?;
            Ok(segments.fetched(sha256))
        })
        .await
    }

    /// Fetches one file into `sink`. A large one whose digest is known comes in segments from
    /// several mirrors at once; what arrives early lies in a partial at `spool`, whose directory
    /// must exist, until the sink has had it. The partial is removed in the end, and survives a
    /// failure like that of [`fetch_file`](Self::fetch_file).
    pub async fn fetch_spooled(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        spool: &Path,
        sink: &mut dyn Sink,
    ) -> Result<Fetched, FetchError> {
        self.admit(job, async |id| {
            let Some(size) = self.size_for_segments(mirrors, job).await else {
                return Run::new(self, id, mirrors, job).run(sink).await;
            };
            let mut segments = self.segments(id, mirrors, job, size, spool).await?;
            match segments.fetch_into(sink).await {
                Ok(sha256) => {
                    segments.partial.discard();
                    Ok(segments.fetched(sha256))
                }
                Err(error)
                    if segments.has_whole_only && !matches!(error, FetchError::Sink { .. }) =>
                {
                    segments.partial.discard();
                    sink.restart()
                        .await
                        .map_err(|source| segments.unwritable(source))?;
                    Run::new(self, id, mirrors, job).run(sink).await
                }
                Err(error) => Err(segments.gives_up(error)),
            }
        })
        .await
    }

    /// Waits until a job may begin, gives it a number, and tells the observer of its beginning and
    /// its end.
    pub(crate) async fn admit<T: FileLength>(
        &self,
        job: &Job,
        work: impl AsyncFnOnce(JobId) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        const OPEN: &str = "the semaphore is never closed";
        let _slot = self.slots.acquire().await.expect(OPEN);
        let all = units(self.options.bytes_under_way);
        let bytes = units(job.expected.size.unwrap_or(0)).min(all);
        let _bytes = self.bytes.acquire_many(bytes).await.expect(OPEN);
        let id = JobId(self.next.fetch_add(1, Ordering::Relaxed));
        let started = Instant::now();
        self.observer.event(&Event::Started {
            job: id,
            label: &job.label,
            size: job.expected.size,
        });
        let result = work(id).await;
        match &result {
            Ok(fetched) => {
                let bytes = fetched.file_length();
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

    /// The length of a file that is worth to be fetched in segments.
    async fn size_for_segments(&self, mirrors: &MirrorSet, job: &Job) -> Option<u64> {
        if !job.expected.is_content_addressed() {
            // Without a digest nobody would notice that two parts do not belong together.
            return None;
        }
        let size = match job.expected.size {
            Some(size) => size,
            None => self.ask_size(mirrors, job).await?,
        };
        (size >= self.options.segments.least_bytes.saturating_mul(2)).then_some(size)
    }

    /// What the mirror that would be asked first says of the length of the file.
    async fn ask_size(&self, mirrors: &MirrorSet, job: &Job) -> Option<u64> {
        let tried = Tried::new().excluding(self.out_of_reach(mirrors));
        let request = Request {
            path: &job.target.path,
            bytes: Some(1),
            kind: job.kind,
            tried: &tried,
            attempt: 0,
            seed: self.options.seed,
        };
        let (Choice::Use(pick), _) = mirrors.choose(&request) else {
            return None;
        };
        let first = GetRequest {
            target: &job.target,
            expected: job.expected,
            range: ByteRange::new(0, 1),
            validators: None,
        };
        let answer = mirrors.backend(pick.mirror).get(first);
        match timeout(pick.first_byte_timeout, answer).await {
            Ok(Ok(GetResponse::Body { total, .. })) => total,
            _ => None,
        }
    }

    /// Opens the partial of a large file.
    async fn segments<'a>(
        &'a self,
        id: JobId,
        mirrors: &'a MirrorSet,
        job: &'a Job,
        size: u64,
        path: &Path,
    ) -> Result<Segments<'a>, FetchError> {
        let (path, expected) = (path.to_owned(), job.expected);
        let open = move || Partial::open(&path, Key::of(&expected), size, expected);
        let partial = tokio::task::spawn_blocking(open).await;
        let partial = partial.unwrap_or_else(|error| Err(SinkError::Failed(error.into())));
        let partial = partial.map_err(|source| FetchError::Sink {
            label: job.label.clone(),
            source,
        })?;
        let segments = Segments::new(self, id, mirrors, job, size, partial);
        let bytes = segments.from.total();
        if bytes > 0 {
            self.observer.event(&Event::Resumed { job: id, bytes });
        }
        Ok(segments)
    }

    /// Fetches a file over one connection at a time.
    async fn fetch_small(
        &self,
        id: JobId,
        mirrors: &MirrorSet,
        job: &Job,
        path: &Path,
    ) -> Result<Fetched, FetchError> {
        let mut sink = FileSink::new(path);
        if job.expected.size.is_some_and(|size| size <= SMALL) {
            sink = sink.in_memory();
        }
        Run::new(self, id, mirrors, job).run(&mut sink).await
    }

    /// The mirrors that may not be asked.
    pub(crate) fn out_of_reach(&self, mirrors: &MirrorSet) -> Vec<MirrorId> {
        if self.options.offline {
            mirrors.remote_ids()
        } else {
            Vec::new()
        }
    }

    /// The error that tells every attempt, and of the mirrors that were not asked, why.
    pub(crate) fn exhausted(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        attempts: Vec<Attempt>,
        reasons: Vec<(MirrorId, Why)>,
    ) -> FetchError {
        let out = self.out_of_reach(mirrors);
        let skipped = reasons
            .into_iter()
            .filter(|(id, _)| !attempts.iter().any(|attempt| attempt.mirror == *id))
            .map(|(id, why)| {
                let why = if out.contains(&id) {
                    "it is not on this machine, and this run is offline".to_owned()
                } else {
                    why.to_string()
                };
                (mirrors.describe(id, &job.target), why)
            })
            .collect();
        FetchError::Exhausted {
            label: job.label.clone(),
            attempts,
            skipped,
        }
    }
}

fn units(bytes: u64) -> u32 {
    // A semaphore holds fewer permits than a usize has values, on any machine.
    u32::try_from(bytes.div_ceil(UNIT))
        .unwrap_or(u32::MAX)
        .min(1 << 28)
}
