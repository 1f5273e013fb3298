//! A zchunk file: only the chunks that older files lack are fetched.
//!
//! The header comes first, from one mirror; it lists the chunks, and so those that the older files lack. Their ranges are
//! fetched into a partial: many short ones with one request where a mirror allows that, all others in segments. Each
//! chunk is verified by the header, and a bad one is fetched again from another mirror.

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use taipan_mirrors::{MirrorId, Pick};
use taipan_zchunk::{
    Archive, Assembler, CostModel, Error as ZchunkError, Goal, Header, Lead, Limits, Planner,
};

use crate::{
    BackendError, Delta, Expected, FetchError, Fetched, SinkError, Validators, VerifyError,
    blocking::blocking,
    exchange::{Exchange, Timeouts, WholeFile},
    fetch::{
        journal::Key,
        partial::{Partial, PartialBody, part_path},
        segments::SegmentedFetch,
    },
    ledger::Ledger,
};

/// How many bytes are requested first: the whole header of most files.
const FIRST_BYTES: u64 = 32 << 10;

/// Ranges of at most this many bytes share a request, because of what a request costs.
const SHORT_RANGE: u64 = 64 << 10;

/// Fewer short ranges are requested one by one: many servers and proxies answer several ranges
/// wrongly, and requests that are under way together cost little more than one.
const MIN_SHORT_RANGES: usize = 12;

/// How many ranges share one request. Many servers have a limit of a hundred or two.
const MAX_RANGES_PER_REQUEST: usize = 48;

/// How many requests the header may take, from a server that sends less than was requested.
const MAX_HEADER_REQUESTS: usize = 16;

/// How often bad chunks are fetched again.
const MAX_ROUNDS: usize = 8;

type FileAssembler = Assembler<PartialBody>;

/// Fetches the file to `path` and reuses chunks of `old`. If the file is replaced on its mirror meanwhile, it is begun anew
/// with the new header.
pub(crate) async fn fetch(
    ledger: &mut Ledger<'_>,
    config: taipan_mirrors::SegmentConfig,
    old: &[PathBuf],
    path: &Path,
) -> Result<Fetched, FetchError> {
    loop {
        let result = fetch_version(ledger, config.clone(), old, path).await;
        match result {
            Err(FetchError::Exhausted { attempts, .. }) if !ledger.take_changed().is_empty() => {
                ledger.restore(attempts);
                ledger.begin_round();
                ledger.context.expected = ledger.job.expected;
            }
            result => return result,
        }
    }
}

async fn fetch_version(
    ledger: &mut Ledger<'_>,
    config: taipan_mirrors::SegmentConfig,
    old: &[PathBuf],
    path: &Path,
) -> Result<Fetched, FetchError> {
    let header = fetch_header(ledger).await?;
    let size = header.file_len();
    let job = ledger.job;
    let key = Key::named(&format!("zchunk {} {}", header.digest(), header.len()));
    // Chunks are verified one by one, and not by hashing the file while it grows.
    let (part, unknown) = (part_path(path), Expected::default());
    let mut segments = SegmentedFetch::open(ledger, config, size, &part, key, unknown).await?;

    let (target, sources) = (header.clone(), old.to_vec());
    let planned = blocking(move || Ok(plan(&target, &sources))).await;
    let (plan, sources) = planned.map_err(|source| job.sink_error(source))?;
    let mut ranges = plan.ranges().to_vec();
    let delta = Delta {
        header_bytes: header.len(),
        reused_bytes: header.body_len() - plan.fetch_bytes(),
        fetched_bytes: plan.fetch_bytes(),
        ranges: ranges.len(),
    };
    tracing::debug!(job = %job.label, size, ?delta, "fetching chunks");
    let wrong = |source| FetchError::Zchunk {
        label: job.label.clone(),
        source: Box::new(source),
    };
    let body = segments.partial.body();
    let mut assembler = Assembler::new(header.clone(), &plan, body).map_err(wrong)?;
    assembler = segments.fetch_short_ranges(assembler, &ranges).await?;
    let mut sources = Some(sources);
    for _ in 0..MAX_ROUNDS {
        if let Err(error) = segments.fill(&ranges).await {
            let filled = segments.fill_from_whole_file(&ranges, error).await;
            filled.inspect_err(|error| segments.discard_unless_resumable(error))?;
        }
        let (from, wanted) = (sources.take(), ranges.clone());
        let work = move |partial: &Partial| assemble(assembler, from, partial, &wanted);
        let (returned, bad) = segments.blocking(work).await?;
        assembler = returned.map_err(wrong)?;
        segments.accuse_for(&header, &bad).await?;
        ranges = assembler.replan(&CostModel::BYTES_ONLY).ranges().to_vec();
        if ranges.is_empty() {
            break;
        }
    }
    let finished = segments
        .blocking(move |_| Ok(assembler.finish().map(drop)))
        .await?;
    if let Err(source) = finished {
        segments.partial.discard();
        return Err(wrong(source));
    }
    // A job with a digest of the whole file trusts that, and not the header.
    let expected = job.expected;
    let verified = segments
        .blocking(move |partial| partial.verify_against(expected))
        .await?;
    let sha256 = verified.map_err(|source| {
        segments.partial.discard();
        FetchError::Wrong {
            label: job.label.clone(),
            source: Box::new(source),
        }
    })?;
    let target = path.to_owned();
    segments
        .blocking(move |partial| partial.finish(&target))
        .await?;
    Ok(Fetched {
        delta: Some(delta),
        validators: Validators::default(),
        ..segments.fetched(sha256)
    })
}

/// Fetches the header from the first mirror that has a usable one.
async fn fetch_header(ledger: &mut Ledger<'_>) -> Result<Header, FetchError> {
    loop {
        let pick = ledger.choose(Some(FIRST_BYTES)).await?;
        let mut exchange = ledger.begin(&pick, 0);
        // Their verdict waits for the checksum of the header.
        let mut earlier = Vec::new();
        match header_from(ledger, &pick, &mut exchange, &mut earlier).await {
            Ok(header) => {
                earlier.push(exchange);
                earlier.into_iter().for_each(Exchange::succeed);
                return Ok(header);
            }
            Err(error) => {
                ledger.fail(exchange, error, 0);
            }
        }
    }
}

/// The header as one mirror has it.
async fn header_from(
    ledger: &mut Ledger<'_>,
    pick: &Pick,
    exchange: &mut Exchange,
    earlier: &mut Vec<Exchange>,
) -> Result<Header, BackendError> {
    let limits = Limits::default();
    let url = exchange.url().to_owned();
    let unusable = |source: ZchunkError| BackendError::Unusable {
        url: url.clone(),
        source: Box::new(source),
    };
    let mut bytes = Vec::new();
    let mut wanted = FIRST_BYTES;
    loop {
        let have = bytes.len() as u64;
        let mut response = exchange.send_range(have..wanted, WholeFile::Skip).await?;
        if have == 0 {
            ledger.forget_version(pick.mirror);
        }
        if !ledger.note_version(pick.mirror, &response.validators) {
            return Err(BackendError::Changed { url });
        }
        let more = response.collect().await;
        ledger.wasted += response.take_skipped();
        bytes.extend(more?);
        let have = bytes.len() as u64;
        let needed = match Lead::parse(&bytes, &limits).map_err(unusable)? {
            Some(lead) => lead.header_len(),
            None => Lead::MAX_LEN as u64,
        };
        if have >= needed {
            let header = Header::parse(&bytes, &limits).map_err(unusable)?;
            if header.is_detached() {
                return Err(unusable(ZchunkError::Detached));
            }
            let length = ledger.job.expected.size.or(response.total);
            return match length.filter(|length| *length != header.file_len()) {
                None => Ok(header),
                Some(got) => Err(BackendError::Corrupt {
                    url,
                    source: VerifyError::Size {
                        expected: header.file_len(),
                        got,
                    },
                }),
            };
        }
        if have < wanted && !(response.is_partial() && earlier.len() < MAX_HEADER_REQUESTS) {
            return Err(BackendError::Short {
                url,
                expected: needed,
                got: have,
            });
        }
        wanted = needed;
        let why = "the rest of the header";
        let next = ledger.begin_on(pick.mirror, pick.into(), have, why);
        earlier.push(std::mem::replace(exchange, next));
    }
}

/// The plan for a file with these older files, and those of them that are usable.
fn plan(target: &Header, old: &[PathBuf]) -> (taipan_zchunk::Plan, Vec<(usize, File)>) {
    let limits = Limits::default();
    let mut planner = Planner::new(target, Goal::File);
    let mut sources = Vec::new();
    for path in old {
        let opened = File::open(path).ok().and_then(|file| {
            let archive = Archive::open(file, &limits).ok()?;
            let number = planner.add_file(archive.header());
            Some((number, File::open(path).ok()?))
        });
        if opened.is_none() {
            tracing::debug!(path = %path.display(), "not a usable zchunk file");
        }
        sources.extend(opened);
    }
    (planner.plan(&CostModel::default()), sources)
}

type Assembled = (Result<FileAssembler, ZchunkError>, Vec<usize>);

/// Assembles the file from fetched ranges and older files. Returns the chunks whose checksum is
/// wrong.
fn assemble(
    mut assembler: FileAssembler,
    sources: Option<Vec<(usize, File)>>,
    partial: &Partial,
    ranges: &[Range<u64>],
) -> Result<Assembled, SinkError> {
    /// How many bytes of a range are read at a time.
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
        if let Ok(mut archive) = Archive::open(file, &Limits::default())
            && let Err(error) = assembler.take_file(number, &mut archive)
        {
            return Ok((Err(error), bad));
        }
    }
    Ok((Ok(assembler), bad))
}

/// Takes the parts of one response. Returns the chunks whose checksum is wrong.
fn take_parts(mut assembler: FileAssembler, parts: &[(u64, Bytes)]) -> Assembled {
    let mut bad = Vec::new();
    for (offset, part) in parts {
        match assembler.push_range(*offset, part) {
            Ok(outcome) => bad.extend(outcome.bad),
            Err(error) => return (Err(error), bad),
        }
    }
    (Ok(assembler), bad)
}

impl SegmentedFetch<'_, '_> {
    /// Fetches short ranges with few requests, from mirrors that allow several ranges in one. Only
    /// an optimisation: other ranges are still missing afterwards.
    async fn fetch_short_ranges(
        &mut self,
        mut assembler: FileAssembler,
        ranges: &[Range<u64>],
    ) -> Result<FileAssembler, FetchError> {
        let length = |range: &Range<u64>| range.end - range.start;
        let short: Vec<Range<u64>> = ranges
            .iter()
            .filter(|range| length(range) <= SHORT_RANGE)
            .filter(|range| self.sources.covered((*range).clone()) == 0)
            .cloned()
            .collect();
        if short.len() < MIN_SHORT_RANGES {
            return Ok(assembler);
        }
        // Mirrors with any other response get no further request for several ranges.
        let ids = self.ledger.mirrors.ids();
        let mut without: Vec<MirrorId> = ids
            .filter(|mirror| !self.ledger.mirrors.backend(*mirror).has_multi_range())
            .collect();
        let header = assembler.target().clone();
        let mut batches = short.chunks(MAX_RANGES_PER_REQUEST);
        let mut batch = batches.next();
        while let Some(ranges) = batch {
            let bytes = ranges.iter().map(length).sum();
            let Some(pick) = self.ledger.choose_now(Some(bytes), without.clone()) else {
                break;
            };
            let exchange = self.ledger.begin(&pick, ranges[0].start);
            let parts = match exchange.send_ranges(ranges).await {
                Ok(parts) => parts,
                Err(error) => {
                    without.push(pick.mirror);
                    match error {
                        // The mirror is in order.
                        BackendError::NoMultiRange { .. } => exchange.cancel(),
                        error => {
                            self.ledger.fail(exchange, error, 0);
                        }
                    }
                    continue;
                }
            };
            exchange.body_ended();
            for (offset, part) in &parts {
                let length = part.len() as u64;
                self.store(pick.mirror, *offset, vec![part.clone()], length)
                    .await?;
            }
            self.written().await?;
            let taken = blocking(move || Ok(take_parts(assembler, &parts))).await;
            let (returned, bad) = taken.map_err(|source| self.ledger.sink_error(source))?;
            assembler = returned.map_err(|source| FetchError::Zchunk {
                label: self.ledger.job.label.clone(),
                source: Box::new(source),
            })?;
            if let Some(first) = bad.first() {
                let error = chunk_mismatch(&header.chunk(*first).range());
                let url = exchange.url().to_owned();
                let error = BackendError::Corrupt { url, source: error };
                self.ledger.fail(exchange, error, 0);
                let bad = bad.iter().map(|index| header.chunk(*index).range());
                self.forget(&bad.collect::<Vec<_>>()).await?;
            } else {
                exchange.succeed();
            }
            batch = batches.next();
        }
        Ok(assembler)
    }

    /// Fetches the missing bytes of these ranges with the whole file, from a mirror that sends no
    /// ranges. Returns the given error if there is none.
    async fn fill_from_whole_file(
        &mut self,
        wanted: &[Range<u64>],
        error: FetchError,
    ) -> Result<(), FetchError> {
        let FetchError::Exhausted { attempts, .. } = error else {
            return Err(error);
        };
        self.ledger.restore(attempts);
        for mirror in self.ledger.whole_file_mirrors() {
            let why = "the whole file, because it sends no ranges";
            let exchange = self.ledger.begin_on(mirror, Timeouts::PATIENT, 0, why);
            match self.take_whole_file(&exchange, wanted).await? {
                Ok(()) => {
                    exchange.cancel();
                    return self.written().await;
                }
                Err(error) => {
                    self.ledger.fail(exchange, error, 0);
                }
            }
        }
        self.written().await?;
        Err(self.ledger.exhausted(Vec::new()))
    }

    /// Takes the wanted bytes from a response with the whole file. The outer error is not the mirror's.
    async fn take_whole_file(
        &mut self,
        exchange: &Exchange,
        wanted: &[Range<u64>],
    ) -> Result<Result<(), BackendError>, FetchError> {
        let mut response = match exchange.send(0, None).await {
            Ok(Some(response)) => response,
            Ok(None) => {
                let url = exchange.url().to_owned();
                return Ok(Err(BackendError::UnexpectedNotModified { url }));
            }
            Err(error) => return Ok(Err(error)),
        };
        let mut at = 0;
        loop {
            let piece = match response.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            };
            let end = at + piece.len() as u64;
            for range in wanted {
                let part = range.start.max(at)..range.end.min(end);
                if part.is_empty() {
                    continue;
                }
                let length = part.end - part.start;
                // Both lie in the piece.
                let from = usize::try_from(part.start - at).unwrap_or(0);
                let to = usize::try_from(part.end - at).unwrap_or(0);
                let bytes = piece.slice(from..to);
                self.store(exchange.mirror(), part.start, vec![bytes], length)
                    .await?;
            }
            at = end;
        }
    }

    /// Forgets bad chunks, and records which mirrors sent them.
    async fn accuse_for(&mut self, header: &Header, bad: &[usize]) -> Result<(), FetchError> {
        if bad.is_empty() {
            return Ok(());
        }
        let bad: Vec<Range<u64>> = bad.iter().map(|at| header.chunk(*at).range()).collect();
        for range in &bad {
            let senders: Vec<Option<MirrorId>> = self
                .sources
                .iter()
                .filter(|(part, _)| part.start < range.end && range.start < part.end)
                .map(|(_, mirror)| mirror)
                .collect();
            // Of two that sent parts of it, it is not known which one is wrong.
            if let [Some(mirror)] = senders[..] {
                self.accuse(mirror, &chunk_mismatch(range));
            }
        }
        self.forget(&bad).await
    }
}

fn chunk_mismatch(range: &Range<u64>) -> VerifyError {
    VerifyError::Digest {
        name: "checksum of a chunk",
        expected: "the one in the header".to_owned(),
        got: format!("another one for the bytes {}..{}", range.start, range.end),
    }
}
