//! Fetching a zchunk file by what differs from files that are here.

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use futures_util::StreamExt as _;
use taipan_mirrors::{Choice, Class, MirrorId, Pick, Request, Tried, Why};
use taipan_zchunk::{
    Archive, Assembler, CostModel, Error as ZchunkError, Goal, Header, Lead, Limits as Bounds,
    Planner,
};
use tokio::time::timeout;

use crate::{
    Attempt, BackendError, ByteRange, Engine, Event, Expected, FetchError, GetRequest, GetResponse,
    Job, JobId, MirrorSet, Sha256, SinkError, VerifyError,
    engine::FileLength,
    error::chain,
    mirror_set::InFlight,
    partial::{Key, Partial, PartialBody},
    patience::Patience,
    segments::Segments,
};

/// How much is asked for first: the whole header of most files.
const FIRST: u64 = 32 << 10;

/// Ranges of at most so many bytes are asked for together, because of what a request costs.
const SMALL: u64 = 64 << 10;

/// Fewer of them are asked for one by one: servers and proxies that get several ranges wrong are
/// many, and requests that are under way together cost little more than one.
const MANY: usize = 12;

/// How many of them one request asks for. Many servers have a limit of a hundred or two.
const MOST_AT_ONCE: usize = 48;

/// How often bad chunks are fetched again.
const ROUNDS: usize = 8;

/// A zchunk file that is here.
#[derive(Debug)]
pub struct FetchedZchunk {
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
    /// The length of its header, in bytes.
    pub header_bytes: u64,
    /// How many bytes of its body came from the files that were here.
    pub reused_bytes: u64,
    /// How many bytes of its body were fetched, those of an earlier run included.
    pub fetched_bytes: u64,
    /// In how many ranges they lie.
    pub ranges: usize,
    /// How many bytes were fetched in vain.
    pub wasted: u64,
    /// What went wrong on the way.
    pub attempts: Vec<Attempt>,
}

impl FileLength for FetchedZchunk {
    fn file_length(&self) -> u64 {
        self.size
    }
}

/// A header, and where it came from.
struct Found {
    header: Header,
    attempts: Vec<Attempt>,
}

impl Engine {
    /// Fetches a zchunk file to `path`, whose directory must exist: its header, and of its chunks
    /// those that none of the zchunk files `old` has. Their ranges are spread over the mirrors; each
    /// chunk is verified by the header, and one that is bad is fetched again elsewhere. Files that
    /// cannot be read, or are no zchunk files, are as good as absent. Where nothing can be reused,
    /// the whole file is fetched in the same way.
    ///
    /// The header is believed to whoever is asked for it, unless the job has a digest of the file.
    pub async fn fetch_zchunk(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        old: &[PathBuf],
        path: &Path,
    ) -> Result<FetchedZchunk, FetchError> {
        self.admit(job, async |id| {
            self.zchunk(id, mirrors, job, old, path).await
        })
        .await
    }

    async fn zchunk(
        &self,
        id: JobId,
        mirrors: &MirrorSet,
        job: &Job,
        old: &[PathBuf],
        path: &Path,
    ) -> Result<FetchedZchunk, FetchError> {
        let Found { header, attempts } = self.header(id, mirrors, job).await?;
        let size = header.file_len();
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".taipan-part");
        let (part, expected) = (path.with_file_name(name), job.expected);
        let key = Key::named(&format!("zchunk {} {}", header.digest(), header.len()));
        let label = || job.label.clone();
        let unwritable = |source| FetchError::Sink {
            label: label(),
            source,
        };
        // Its chunks are verified one by one, and not by hashing it while it grows.
        let open = move || Partial::open(&part, key, size, Expected::default());
        let partial = blocking(open).await.map_err(unwritable)?;
        let mut segments = Segments::new(self, id, mirrors, job, size, partial.clone());
        segments.attempts = attempts;

        let sources = old.to_vec();
        let target = header.clone();
        let (planned, sources) = tokio::task::spawn_blocking(move || plan(&target, &sources))
            .await
            .map_err(|error| unwritable(SinkError::Failed(error.into())))?;
        let mut ranges = planned.ranges().to_vec();
        let fetched_bytes: u64 = planned.fetch_bytes();
        let (first_ranges, reused_bytes) = (ranges.len(), header.body_len() - fetched_bytes);
        tracing::debug!(
            job = %job.label, size, reused_bytes, fetched_bytes, ranges = first_ranges,
            "fetching by chunks"
        );
        let wrong = |source: ZchunkError| FetchError::Zchunk {
            label: label(),
            source: Box::new(source),
        };
        let body = partial.body();
        let mut assembler = Assembler::new(header.clone(), &planned, body).map_err(wrong)?;
        segments.fill_at_once(&ranges).await?;
        let mut sources = Some(sources);
        for _ in 0..ROUNDS {
            if let Err(error) = segments.fill(&ranges).await {
                return Err(segments.gives_up(error));
            }
            let (from, wanted) = (sources.take(), ranges.clone());
            let partial = partial.clone();
            let work = move || assemble(assembler, from, &partial, &wanted);
            let (returned, bad) = blocking(work).await.map_err(unwritable)?;
            assembler = returned.map_err(wrong)?;
            let bad: Vec<Range<u64>> = bad.into_iter().map(|at| header.chunk(at).range()).collect();
            segments.accuse_of(&bad).await?;
            ranges = assembler.replan(&CostModel::BYTES_ONLY).ranges().to_vec();
            if ranges.is_empty() {
                break;
            }
        }
        let finish = move || Ok(assembler.finish().map(drop));
        let finished = blocking(finish).await.map_err(unwritable)?;
        if let Err(source) = finished {
            partial.discard();
            return Err(wrong(source));
        }
        // Whoever has a digest of the whole trusts that, and not the header.
        let whole = partial.clone();
        let judged = blocking(move || whole.judge_as(expected)).await;
        let sha256 = match judged.map_err(unwritable)? {
            Ok(sha256) => sha256,
            Err(source) => {
                partial.discard();
                return Err(FetchError::Wrong {
                    label: label(),
                    source: Box::new(source),
                });
            }
        };
        let target = path.to_owned();
        blocking(move || partial.finish(&target))
            .await
            .map_err(unwritable)?;
        Ok(FetchedZchunk {
            sha256,
            size,
            header_bytes: header.len(),
            reused_bytes,
            fetched_bytes,
            ranges: first_ranges,
            wasted: segments.wasted,
            attempts: std::mem::take(&mut segments.attempts),
        })
    }

    /// Fetches the header, from the first mirror that has one.
    async fn header(&self, id: JobId, mirrors: &MirrorSet, job: &Job) -> Result<Found, FetchError> {
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut patience = Patience::new(&self.options);
        let mut tried = Tried::new().excluding(self.out_of_reach(mirrors));
        loop {
            let changed = mirrors.changed();
            let request = Request {
                path: &job.target.path,
                bytes: Some(FIRST),
                kind: job.kind,
                tried: &tried,
                attempt: u32::try_from(attempts.len()).unwrap_or(u32::MAX),
                seed: self.options.seed ^ id.0,
            };
            let (pick, why) = match mirrors.choose(&request) {
                (Choice::Use(pick), why) => (pick, why),
                (Choice::Wait { until, why }, _) => {
                    mirrors.queued(&request);
                    if patience.wait(mirrors, until, why, changed).await {
                        continue;
                    }
                    let all: Vec<(MirrorId, Why)> = mirrors.ids().map(|id| (id, why)).collect();
                    return Err(self.exhausted(mirrors, job, attempts, all));
                }
                (Choice::Exhausted(reasons), _) => {
                    return Err(self.exhausted(mirrors, job, attempts, reasons));
                }
            };
            let mirror = pick.mirror;
            let name = mirrors.describe(mirror, &job.target);
            self.observer.event(&Event::Attempt {
                job: id,
                mirror,
                name: &name,
                offset: 0,
                why: &why,
            });
            let mut flight = mirrors.start(&pick, &job.target.path);
            let error = match header_from(mirrors, job, &pick, &mut flight).await {
                Ok(header) => {
                    flight.finish(Class::Ok, None);
                    return Ok(Found { header, attempts });
                }
                Err(error) => error,
            };
            let (class, cause) = (error.class(), chain(&error));
            if error.is_transient() {
                tried.record_failure(mirror);
            } else {
                tried.exclude(mirror);
            }
            flight.finish(class, error.retry_after());
            let bytes = flight.bytes();
            self.observer.event(&Event::AttemptFailed {
                job: id,
                mirror,
                name: &name,
                class,
                cause: &cause,
                bytes,
            });
            attempts.push(Attempt {
                mirror,
                name,
                class,
                error,
                bytes,
            });
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(SinkError::Failed(error.into())))
}

/// The header as one mirror has it.
async fn header_from(
    mirrors: &MirrorSet,
    job: &Job,
    pick: &Pick,
    flight: &mut InFlight,
) -> Result<Header, BackendError> {
    let url = mirrors.describe(pick.mirror, &job.target);
    let unusable = |source: ZchunkError| BackendError::Unusable {
        url: url.clone(),
        source: Box::new(source),
    };
    let bounds = Bounds::default();
    let mut bytes = Vec::new();
    let mut wanted = FIRST;
    loop {
        let (got, total) = read(mirrors, job, pick, flight, bytes.len() as u64..wanted).await?;
        let is_at_end = got.is_empty();
        bytes.extend(got);
        let needed = match Lead::parse(&bytes, &bounds).map_err(unusable)? {
            Some(lead) => lead.header_len(),
            None => Lead::MAX_LEN as u64,
        };
        if bytes.len() as u64 >= needed {
            let header = Header::parse(&bytes, &bounds).map_err(unusable)?;
            if header.is_detached() {
                return Err(unusable(ZchunkError::Detached));
            }
            let expected = job.expected.size.or(total).unwrap_or(header.file_len());
            if expected != header.file_len() {
                let (expected, got) = (header.file_len(), expected);
                let source = VerifyError::Size { expected, got };
                return Err(BackendError::Corrupt { url, source });
            }
            return Ok(header);
        }
        if is_at_end {
            let got = bytes.len() as u64;
            let expected = needed;
            return Err(BackendError::Short { url, expected, got });
        }
        wanted = needed;
    }
}

/// Bytes as one mirror has them: fewer only where the file ends.
async fn read(
    mirrors: &MirrorSet,
    job: &Job,
    pick: &Pick,
    flight: &mut InFlight,
    range: Range<u64>,
) -> Result<(Vec<u8>, Option<u64>), BackendError> {
    let url = mirrors.describe(pick.mirror, &job.target);
    let late = |what, after| BackendError::Timeout {
        url: url.clone(),
        what,
        after,
    };
    let request = GetRequest {
        target: &job.target,
        expected: job.expected,
        range: ByteRange::new(range.start, range.end),
        validators: None,
    };
    let answer = timeout(
        pick.first_byte_timeout,
        mirrors.backend(pick.mirror).get(request),
    );
    let answer = answer
        .await
        .map_err(|_| late("no answer", pick.first_byte_timeout))??;
    flight.answered();
    let GetResponse::Body {
        start,
        total,
        mut body,
        ..
    } = answer
    else {
        return Err(BackendError::Unasked { url });
    };
    // A server that ignores ranges sends all; what is here already is passed over.
    let mut skip = range.start.saturating_sub(start);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < range.end - range.start {
        let next = timeout(pick.stall_timeout, body.next()).await;
        let Some(piece) = next.map_err(|_| late("the body stalled", pick.stall_timeout))? else {
            break;
        };
        let piece = piece?;
        flight.received(piece.len() as u64);
        let passed = skip.min(piece.len() as u64);
        skip -= passed;
        let passed = usize::try_from(passed).unwrap_or(piece.len());
        bytes.extend_from_slice(&piece[passed..]);
    }
    bytes.truncate(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
    Ok((bytes, total))
}

/// What is to be fetched when there are these files, and those of them that are of use.
fn plan(target: &Header, old: &[PathBuf]) -> (taipan_zchunk::Plan, Vec<(usize, File)>) {
    let bounds = Bounds::default();
    let mut planner = Planner::new(target, Goal::File);
    let mut sources = Vec::new();
    for path in old {
        let opened = File::open(path).ok().and_then(|file| {
            let archive = Archive::open(file, &bounds).ok()?;
            let number = planner.add_file(archive.header());
            Some((number, File::open(path).ok()?))
        });
        if opened.is_none() {
            tracing::debug!(path = %path.display(), "not a zchunk file that can be used");
        }
        sources.extend(opened);
    }
    (planner.plan(&CostModel::default()), sources)
}

type Assembled = (Result<Assembler<PartialBody>, ZchunkError>, Vec<usize>);

/// Takes what the old files have, and what was fetched; the chunks that are not what they should
/// be come back.
fn assemble(
    mut assembler: Assembler<PartialBody>,
    sources: Option<Vec<(usize, File)>>,
    partial: &Partial,
    ranges: &[Range<u64>],
) -> Result<Assembled, SinkError> {
    /// Of a range, at a time.
    const PIECE: u64 = 1 << 20;
    let mut bad = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + PIECE);
            let bytes = partial.read(at..end)?;
            match assembler.push_range(at, &bytes) {
                Ok(outcome) => bad.extend(outcome.bad),
                Err(error) => return Ok((Err(error), bad)),
            }
            at = end;
        }
    }
    for (number, file) in sources.into_iter().flatten() {
        // What cannot be taken from it is missing, and fetched in the next round.
        if let Ok(mut archive) = Archive::open(file, &Bounds::default())
            && let Err(error) = assembler.take_file(number, &mut archive)
        {
            return Ok((Err(error), bad));
        }
    }
    Ok((Ok(assembler), bad))
}

impl Segments<'_> {
    /// Fetches many small ranges in few requests, from mirrors that can. Only an optimisation:
    /// whatever does not come this way is still missing, and asked for range by range.
    async fn fill_at_once(&mut self, ranges: &[Range<u64>]) -> Result<(), FetchError> {
        let length = |range: &Range<u64>| range.end - range.start;
        let is_missing = |range: &&Range<u64>| self.from.covered((*range).clone()) == 0;
        let small: Vec<Range<u64>> = ranges
            .iter()
            .filter(|range| length(range) <= SMALL)
            .filter(is_missing)
            .cloned()
            .collect();
        if small.len() < MANY {
            return Ok(());
        }
        for batch in small.chunks(MOST_AT_ONCE) {
            let bytes = batch.iter().map(length).sum();
            let offline = self.engine.out_of_reach(self.mirrors);
            let tried = Tried::new().excluding(offline);
            let request = Request {
                path: &self.job.target.path,
                bytes: Some(bytes),
                kind: self.job.kind,
                tried: &tried,
                attempt: 0,
                seed: self.engine.options.seed ^ self.id.0 ^ batch[0].start,
            };
            let (Choice::Use(pick), _) = self.mirrors.choose(&request) else {
                return Ok(());
            };
            let mirror = pick.mirror;
            let mut flight = self.mirrors.start(&pick, &self.job.target.path);
            let backend = self.mirrors.backend(mirror);
            let asked = backend.get_ranges(&self.job.target, batch);
            let patience = pick.first_byte_timeout + pick.stall_timeout;
            let Ok(Ok(Some(parts))) = timeout(patience, asked).await else {
                // It cannot, or not now; the others are asked in the usual way, too.
                flight.cancel();
                return Ok(());
            };
            flight.received(bytes);
            flight.finish(Class::Ok, None);
            for (offset, part) in parts {
                let length = part.len() as u64;
                self.store(mirror, offset, vec![part], length).await?;
            }
        }
        self.written().await
    }

    /// These ranges, each a chunk, are not what they should be. They are forgotten, and whoever gave
    /// them is not asked again.
    async fn accuse_of(&mut self, bad: &[Range<u64>]) -> Result<(), FetchError> {
        for range in bad {
            let given: Vec<Option<MirrorId>> = self
                .from
                .iter()
                .filter(|(part, _)| part.start < range.end && range.start < part.end)
                .map(|(_, mirror)| mirror)
                .collect();
            // Of two who gave parts of it nobody knows which one is wrong.
            if let [Some(mirror)] = given[..] {
                let error = VerifyError::Digest {
                    name: "checksum of a chunk",
                    expected: "that of the header".to_owned(),
                    got: format!("another at {}..{}", range.start, range.end),
                };
                self.accuse(mirror, &error);
            }
        }
        if bad.is_empty() {
            return Ok(());
        }
        self.forget(bad).await
    }
}
