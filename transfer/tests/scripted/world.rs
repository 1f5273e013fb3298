//! Scripted mirrors in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use taipan_mirrors::{Class, Location, Mirror, Provenance, SelectorConfig};
use taipan_transfer::{
    Backend, BackendError, Engine, EngineOptions, Expected, FetchError, GetRequest, GetResponse,
    Job, MemorySink, MirrorSet, Ranges, Sha256, Silent, Target, Validators,
};
use tokio::time::sleep;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The behaviour of a mirror for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Act {
    Good,
    Status(u16),
    RetryAfter(u64),
    Hang,
    SlowFirstByte(Duration),
    /// This many bytes of the response, then an error.
    Break(u64),
    /// This many bytes of the response, then a stall.
    Stall(u64),
    /// A body at this many bytes per second.
    Drip(u64),
    /// The byte at this offset of the file is wrong.
    Corrupt(u64),
    IgnoreRange,
    /// At most this many bytes of a range, as the header of the response says.
    Partial(u64),
    /// This version of the file (`PATH.N`), with an `ETag`. A range of another version is not sent.
    Version(u64),
    /// The same, and the body breaks off after this many bytes.
    VersionBreak(u64, u64),
    /// 503 while more than this many requests are open, otherwise a good response.
    Limit(usize),
    /// The connection is refused.
    Refuse,
    /// Ranges are refused as lying beyond the end.
    NoRange,
    /// The length of the file in the response is one byte too large.
    WrongTotal,
    /// All bytes, then an error instead of the end.
    BreakAfterAll,
}

pub(crate) type Script = Box<dyn FnMut(u64) -> Act + Send>;

pub(crate) struct Scripted {
    name: String,
    files: Arc<BTreeMap<String, Bytes>>,
    script: Mutex<Script>,
    /// The first byte of each request, and the behaviour.
    log: Mutex<Vec<(u64, Act)>>,
    open: Arc<AtomicUsize>,
    /// Whether it supports several ranges in one request.
    has_multi_range: bool,
    connections: Arc<Connections>,
}

/// Requests of one mirror, from their beginning to the end of their bodies.
#[derive(Default)]
struct Connections {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One request, until it is dropped.
struct Connection(Arc<Connections>);

impl Connection {
    fn begin(connections: &Arc<Connections>) -> Self {
        let now = connections.now.fetch_add(1, Ordering::SeqCst) + 1;
        connections.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(connections))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// Counts a body while it lives.
pub(crate) struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    fn failed(&self, status: u16, retry_after: Option<Duration>) -> BackendError {
        let url: url::Url = format!("http://{}/", self.name).parse().unwrap();
        BackendError::Status {
            url: url.into(),
            status,
            retry_after,
        }
    }
}

impl Scripted {
    /// Several ranges in one response, at a megabyte per second.
    async fn get_ranges(
        &self,
        request: &GetRequest<'_>,
        ranges: &[std::ops::Range<u64>],
        connection: Connection,
    ) -> Result<GetResponse, BackendError> {
        let wanted = ranges[0].start;
        let act = (self.script.lock().unwrap())(wanted);
        self.log.lock().unwrap().push((wanted, act));
        let mut file = self.files[&request.target.path].to_vec();
        match act {
            Act::Good => {}
            Act::Status(status) => return Err(self.failed(status, None)),
            Act::RetryAfter(seconds) => {
                return Err(self.failed(429, Some(Duration::from_secs(seconds))));
            }
            Act::Corrupt(at) => file[usize::try_from(at).unwrap()] ^= 1,
            other => panic!("{other:?} is not scripted for several ranges"),
        }
        let mut text = Vec::new();
        for range in ranges {
            let (start, end) = (range.start, range.end);
            let place = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            let last = end - 1;
            let head = format!("\r\n--x\r\nContent-Range: bytes {start}-{last}/*\r\n\r\n");
            text.extend_from_slice(head.as_bytes());
            text.extend_from_slice(&file[place]);
        }
        text.extend_from_slice(b"\r\n--x--\r\n");
        sleep(Duration::from_millis(500)).await;
        let body = stream::unfold(
            (Bytes::from(text), connection),
            |(mut left, connection)| async move {
                if left.is_empty() {
                    return None;
                }
                let piece = left.split_to(left.len().min(4096));
                sleep(Duration::from_micros(piece.len() as u64)).await;
                Some((Ok(piece), (left, connection)))
            },
        );
        Ok(GetResponse::Parts {
            boundary: "x".to_owned(),
            body: body.boxed(),
        })
    }
}

#[async_trait]
impl Backend for Scripted {
    #[expect(clippy::too_many_lines, reason = "one arm per act")]
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        const PIECE: usize = 4096;
        let connection = Connection::begin(&self.connections);
        let one = match request.ranges {
            Ranges::Several(ranges) => return self.get_ranges(&request, ranges, connection).await,
            Ranges::One(range) => Some(range),
            Ranges::All => None,
        };
        let wanted = one.map_or(0, |range| range.start());
        let act = (self.script.lock().unwrap())(wanted);
        self.log.lock().unwrap().push((wanted, act));
        let mut start = wanted;
        let mut whole = one.is_none();
        let Some(file) = self.files.get(&request.target.path) else {
            return Err(self.failed(404, None));
        };
        let mut file = file.clone();
        let mut total = file.len() as u64;
        let mut rate = 1_000_000;
        let mut end = one.and_then(|range| range.end()).unwrap_or(total);
        end = end.min(total);
        let mut last_words = None;
        let mut promised = end;
        let mut validators = Validators::default();
        match act {
            Act::Good => {}
            Act::Refuse => {
                let url: url::Url = self.describe(request.target).parse().unwrap();
                return Err(BackendError::Connect {
                    url: url.into(),
                    source: std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into(),
                });
            }
            Act::Partial(most) => {
                end = end.min(start + most);
                promised = end;
            }
            Act::Limit(most) => {
                if self.connections.now.load(Ordering::SeqCst) > most {
                    return Err(self.failed(503, None));
                }
            }
            Act::Version(number) | Act::VersionBreak(number, _) => {
                let etag = format!("\"{number}\"");
                file = self.files[&format!("{}.{number}", request.target.path)].clone();
                total = file.len() as u64;
                end = end.min(total);
                if request.if_range.is_some_and(|wanted| wanted != etag) {
                    (start, end) = (0, total);
                    whole = true;
                }
                promised = end;
                validators.etag = Some(etag);
                if let Act::VersionBreak(_, after) = act {
                    end = end.min(start + after);
                    last_words = Some(false);
                }
            }
            Act::Status(status) => return Err(self.failed(status, None)),
            Act::RetryAfter(seconds) => {
                return Err(self.failed(429, Some(Duration::from_secs(seconds))));
            }
            Act::Hang => std::future::pending().await,
            Act::SlowFirstByte(pause) => sleep(pause).await,
            Act::Break(after) => {
                end = end.min(start + after);
                last_words = Some(false);
            }
            Act::Stall(after) => {
                end = end.min(start + after);
                last_words = Some(true);
            }
            Act::Drip(slow) => rate = slow,
            Act::Corrupt(at) => {
                let mut bytes = file.to_vec();
                if let Some(byte) = bytes.get_mut(usize::try_from(at).unwrap()) {
                    *byte ^= 1;
                }
                file = bytes.into();
            }
            Act::IgnoreRange => {
                start = 0;
                end = total;
                whole = true;
            }
            Act::NoRange => {
                if let Some(wanted) = one {
                    let url = self.describe(request.target);
                    return Err(BackendError::BeyondEnd { url, wanted });
                }
                end /= 2;
                last_words = Some(false);
            }
            Act::WrongTotal => total += 1,
            Act::BreakAfterAll => last_words = Some(false),
        }
        sleep(Duration::from_millis(20)).await;
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = (Open(Arc::clone(&self.open)), connection);
        let name = self.name.clone();
        let piece = usize::try_from(rate / 4).unwrap().clamp(1, PIECE);
        let range = usize::try_from(start.min(end)).unwrap()..usize::try_from(end).unwrap();
        let left = file.slice(range);
        let body = stream::unfold(
            (left, last_words, open, name),
            move |(mut left, mut last_words, open, name)| async move {
                if left.is_empty() {
                    return match last_words.take() {
                        None => None,
                        Some(true) => std::future::pending().await,
                        Some(false) => {
                            let error = BackendError::Body {
                                url: name.clone(),
                                source: "the wire was cut".into(),
                            };
                            Some((Err(error), (left, None, open, name)))
                        }
                    };
                }
                let next = left.split_to(piece.min(left.len()));
                sleep(Duration::from_micros(next.len() as u64 * 1_000_000 / rate)).await;
                Some((Ok(next), (left, last_words, open, name)))
            },
        );
        Ok(GetResponse::Body {
            start,
            end: (!whole).then_some(promised),
            total: Some(total),
            validators,
            duplicates: None,
            body: body.boxed(),
        })
    }

    fn has_multi_range(&self) -> bool {
        self.has_multi_range
    }

    fn describe(&self, target: &Target) -> String {
        format!("http://{}/{}", self.name, target.path)
    }
}

pub(crate) struct World {
    pub(crate) files: Arc<BTreeMap<String, Bytes>>,
    mirrors: Vec<Arc<Scripted>>,
    pub(crate) set: MirrorSet,
    open: Arc<AtomicUsize>,
}

pub(crate) fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub(crate) fn content(seed: u64, length: usize) -> Bytes {
    (0..length)
        .map(|i| mix(seed ^ (i as u64 / 8)).to_le_bytes()[i % 8])
        .collect()
}

impl World {
    pub(crate) fn new(files: BTreeMap<String, Bytes>, scripts: Vec<Script>) -> Self {
        Self::with(files, scripts, false, |_, mirror| mirror)
    }

    /// The same, with mirrors that support several ranges in one request.
    pub(crate) fn with_multi_range(files: BTreeMap<String, Bytes>, scripts: Vec<Script>) -> Self {
        Self::with(files, scripts, true, |_, mirror| mirror)
    }

    pub(crate) fn with(
        files: BTreeMap<String, Bytes>,
        scripts: Vec<Script>,
        has_multi_range: bool,
        tweak: impl Fn(usize, Mirror) -> Mirror,
    ) -> Self {
        let (files, open) = (Arc::new(files), Arc::new(AtomicUsize::new(0)));
        let mirrors: Vec<_> = scripts
            .into_iter()
            .enumerate()
            .map(|(index, script)| {
                Arc::new(Scripted {
                    name: format!("m{index}.example"),
                    files: Arc::clone(&files),
                    script: Mutex::new(script),
                    log: Mutex::default(),
                    open: Arc::clone(&open),
                    has_multi_range,
                    connections: Arc::default(),
                })
            })
            .collect();
        let list = mirrors
            .iter()
            .enumerate()
            .map(|(index, mirror)| {
                let place = Location::parse(&format!("http://{}/", mirror.name)).unwrap();
                tweak(index, Mirror::new(place, Provenance::Upstream))
            })
            .collect();
        let backends = mirrors
            .iter()
            .map(|mirror| Arc::clone(mirror) as Arc<dyn Backend>)
            .collect();
        let set = MirrorSet::with_backends(list, backends, SelectorConfig::default());
        Self {
            files,
            mirrors,
            set,
            open,
        }
    }

    /// One file of this length, at `f`.
    pub(crate) fn one(length: usize, scripts: Vec<Script>) -> Self {
        let files = BTreeMap::from([("f".to_owned(), content(1, length))]);
        Self::new(files, scripts)
    }

    pub(crate) fn job(&self, path: &str) -> Job {
        let bytes = &self.files[path];
        let expected = Expected {
            size: Some(bytes.len() as u64),
            sha256: Some(Sha256::of(bytes)),
            ..Expected::default()
        };
        Job::content(path, Target::path(path), expected)
    }

    pub(crate) async fn fetch(
        &self,
        engine: &Engine,
        job: &Job,
    ) -> Result<taipan_transfer::Fetched, FetchError> {
        let mut sink = MemorySink::new(1 << 30);
        let fetched = engine.fetch(&self.set, job, &mut sink).await?;
        assert_eq!(
            sink.into_bytes(),
            self.files[&job.target.path],
            "a wrong file"
        );
        Ok(fetched)
    }

    pub(crate) fn log(&self, mirror: usize) -> Vec<(u64, Act)> {
        self.mirrors[mirror].log.lock().unwrap().clone()
    }

    /// The maximum of concurrent requests to a mirror.
    pub(crate) fn most_open(&self, mirror: usize) -> usize {
        self.mirrors[mirror].connections.most.load(Ordering::SeqCst)
    }

    /// Asserts that no request is under way, by the count of the mirrors and of the selector.
    pub(crate) fn assert_idle(&self) {
        assert_eq!(self.open.load(Ordering::SeqCst), 0, "open bodies");
        let in_flight: Vec<u32> = self.set.reports().iter().map(|r| r.in_flight).collect();
        assert!(in_flight.iter().all(|&n| n == 0), "{in_flight:?}");
    }
}

pub(crate) fn engine(slots: usize) -> Engine {
    let options = EngineOptions {
        slots,
        ..EngineOptions::default()
    };
    Engine::new(options, Arc::new(Silent))
}

/// These acts in order, then the last one for all later requests.
pub(crate) fn acts<const N: usize>(acts: [Act; N]) -> Script {
    let mut next = 0;
    Box::new(move |_| {
        let act = acts[next.min(N - 1)];
        next += 1;
        act
    })
}

/// The first request to any of the mirrors gets this act; all others get a good response.
pub(crate) fn first_request(count: usize, act: Act) -> Vec<Script> {
    let used = Arc::new(Mutex::new(false));
    (0..count)
        .map(|_| {
            let used = Arc::clone(&used);
            let script: Script = Box::new(move |_| {
                if std::mem::replace(&mut *used.lock().unwrap(), true) {
                    Act::Good
                } else {
                    act
                }
            });
            script
        })
        .collect()
}

pub(crate) fn classes(attempts: &[taipan_transfer::Attempt]) -> Vec<Class> {
    attempts.iter().map(|attempt| attempt.class).collect()
}
