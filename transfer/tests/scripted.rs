//! The engine over mirrors that exist in memory only, under a paused clock: what takes seconds
//! on a network takes none here, and can be measured exactly.

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
use futures_util::{StreamExt as _, future::join_all, stream};
use taipan_mirrors::{Class, Location, Mirror, Origin, SelectorConfig};
use taipan_transfer::{
    Backend, BackendError, Engine, EngineOptions, Expected, FetchError, GetRequest, GetResponse,
    Job, MemorySink, MirrorSet, Sha256, Silent, Target, Validators,
};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// What a mirror does with one request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Good,
    Status(u16),
    RetryAfter(u64),
    Hang,
    SlowFirstByte(Duration),
    /// So many bytes of the answer, then an error.
    Break(u64),
    /// So many bytes of the answer, then nothing.
    Stall(u64),
    /// Bytes per second.
    Drip(u64),
    /// The byte at this offset of the file is wrong.
    Corrupt(u64),
    IgnoreRange,
    /// Ranges are refused as lying beyond the end.
    NoRange,
    /// The file is said to be one byte longer than it is.
    WrongTotal,
    /// All bytes, then an error where the end should be.
    BreakAfterAll,
}

type Script = Box<dyn FnMut(u64) -> Act + Send>;

struct Scripted {
    name: String,
    files: Arc<BTreeMap<String, Bytes>>,
    script: Mutex<Script>,
    /// The first byte asked for, and what was done.
    log: Mutex<Vec<(u64, Act)>>,
    open: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// Counts a body while it lives.
struct Open(Arc<AtomicUsize>);

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

#[async_trait]
impl Backend for Scripted {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        const PIECE: usize = 4096;
        let wanted = request.range.map_or(0, |range| range.start());
        let act = (self.script.lock().unwrap())(wanted);
        self.log.lock().unwrap().push((wanted, act));
        let mut start = wanted;
        let Some(file) = self.files.get(&request.target.path) else {
            return Err(self.failed(404, None));
        };
        let mut file = file.clone();
        let mut total = file.len() as u64;
        let mut rate = 1_000_000;
        let mut end = total;
        let mut last_words = None;
        match act {
            Act::Good => {}
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
            Act::IgnoreRange => start = 0,
            Act::NoRange => {
                if let Some(wanted) = request.range {
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
        let open = Open(Arc::clone(&self.open));
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
            total: Some(total),
            validators: Validators::default(),
            body: body.boxed(),
        })
    }

    fn describe(&self, target: &Target) -> String {
        format!("http://{}/{}", self.name, target.path)
    }
}

struct World {
    files: Arc<BTreeMap<String, Bytes>>,
    mirrors: Vec<Arc<Scripted>>,
    set: MirrorSet,
    open: Arc<AtomicUsize>,
}

fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn content(seed: u64, length: usize) -> Bytes {
    (0..length)
        .map(|i| mix(seed ^ (i as u64 / 8)).to_le_bytes()[i % 8])
        .collect()
}

impl World {
    fn new(files: BTreeMap<String, Bytes>, scripts: Vec<Script>) -> Self {
        Self::with(files, scripts, |mirror| mirror)
    }

    fn with(
        files: BTreeMap<String, Bytes>,
        scripts: Vec<Script>,
        tweak: impl Fn(Mirror) -> Mirror,
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
                })
            })
            .collect();
        let list = mirrors
            .iter()
            .map(|mirror| {
                let place = Location::parse(&format!("http://{}/", mirror.name)).unwrap();
                tweak(Mirror::new(place, Origin::Channel))
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
    fn one(length: usize, scripts: Vec<Script>) -> Self {
        let files = BTreeMap::from([("f".to_owned(), content(1, length))]);
        Self::new(files, scripts)
    }

    fn job(&self, path: &str) -> Job {
        let bytes = &self.files[path];
        let expected = Expected {
            size: Some(bytes.len() as u64),
            sha256: Some(Sha256::of(bytes)),
            md5: None,
        };
        Job::content(path, Target::path(path), expected)
    }

    async fn fetch(
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

    fn log(&self, mirror: usize) -> Vec<(u64, Act)> {
        self.mirrors[mirror].log.lock().unwrap().clone()
    }

    /// No request is under way any more, neither by the mirrors' count nor by the selector's.
    fn assert_idle(&self) {
        assert_eq!(self.open.load(Ordering::SeqCst), 0, "open bodies");
        let in_flight: Vec<u32> = self.set.reports().iter().map(|r| r.in_flight).collect();
        assert!(in_flight.iter().all(|&n| n == 0), "{in_flight:?}");
    }
}

fn engine(slots: usize) -> Engine {
    let options = EngineOptions {
        slots,
        ..EngineOptions::default()
    };
    Engine::new(options, Arc::new(Silent))
}

/// These acts in order, then the last one for ever.
fn acts<const N: usize>(acts: [Act; N]) -> Script {
    let mut next = 0;
    Box::new(move |_| {
        let act = acts[next.min(N - 1)];
        next += 1;
        act
    })
}

/// The first mirror to be asked misbehaves once, whichever it is; all else is in order.
fn first_asked(count: usize, act: Act) -> Vec<Script> {
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

fn classes(attempts: &[taipan_transfer::Attempt]) -> Vec<Class> {
    attempts.iter().map(|attempt| attempt.class).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_goes_on_elsewhere_at_the_next_byte() {
    let world = World::one(100_000, first_asked(2, Act::Stall(40_000)));
    let started = Instant::now();
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert_eq!(classes(&fetched.attempts), [Class::Unwell]);
    assert_eq!(fetched.attempts[0].bytes, 40_000);
    assert_eq!(fetched.wasted, 0);
    let mut offsets: Vec<u64> = [world.log(0), world.log(1)]
        .concat()
        .iter()
        .map(|l| l.0)
        .collect();
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 40_000]);
    assert!(started.elapsed() < 10 * SECOND, "{:?}", started.elapsed());
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_never_answers_costs_a_few_seconds() {
    let world = World::one(1000, first_asked(3, Act::Hang));
    let started = Instant::now();
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert!(matches!(
        fetched.attempts[..],
        [taipan_transfer::Attempt {
            class: Class::Unwell,
            error: BackendError::Timeout { .. },
            bytes: 0,
            ..
        }]
    ));
    let took = started.elapsed();
    assert!(took > SECOND && took < 8 * SECOND, "{took:?}");
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn an_only_mirror_is_waited_for() {
    let world = World::one(1000, vec![acts([Act::SlowFirstByte(20 * SECOND)])]);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert!(fetched.attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_is_left_for_a_better_mirror() {
    let world = World::one(2_000_000, first_asked(2, Act::Drip(5_000)));
    let started = Instant::now();
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert!(
        matches!(fetched.attempts[0].error, BackendError::Slow { .. }),
        "{:?}",
        fetched.attempts
    );
    assert_eq!(fetched.wasted, 0);
    assert!(started.elapsed() < 12 * SECOND, "{:?}", started.elapsed());
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_is_borne_when_nothing_else_is_there() {
    let world = World::one(
        100_000,
        vec![acts([Act::Drip(5_000)]), acts([Act::Status(404)])],
    );
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert!(fetched.attempts.len() <= 2, "{:?}", fetched.attempts);
}

#[tokio::test(start_paused = true)]
async fn a_drip_without_a_digest_begins_anew_elsewhere() {
    let world = World::one(2_000_000, first_asked(2, Act::Drip(5_000)));
    let started = Instant::now();
    let job = Job::metadata("f", Target::path("f"));
    let fetched = world.fetch(&engine(1), &job).await.unwrap();
    assert!(matches!(
        fetched.attempts[0].error,
        BackendError::Slow { .. }
    ));
    assert_eq!(fetched.wasted, fetched.attempts[0].bytes);
    assert!(started.elapsed() < 20 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_each_has_its_tries_and_no_more() {
    let world = World::one(
        1000,
        vec![
            acts([Act::Status(500)]),
            acts([Act::Hang]),
            acts([Act::Status(404)]),
        ],
    );
    let error = world.fetch(&engine(1), &world.job("f")).await.unwrap_err();
    let FetchError::Exhausted {
        attempts, skipped, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(skipped, []);
    assert_eq!(
        [0, 1, 2].map(|mirror| world.log(mirror).len()),
        [3, 3, 1],
        "{attempts:?}"
    );
    assert_eq!(attempts.len(), 7);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_and_not_longer() {
    let world = World::one(1000, vec![acts([Act::RetryAfter(7), Act::Good])]);
    let started = Instant::now();
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert_eq!(classes(&fetched.attempts), [Class::Throttled]);
    let took = started.elapsed();
    assert!(took >= 7 * SECOND && took < 8 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_mirror_is_not_waited_for_when_another_is_free() {
    let world = World::one(1000, first_asked(2, Act::RetryAfter(60)));
    let started = Instant::now();
    world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_for_a_slot() {
    let files = (0..4)
        .map(|n| (format!("f{n}"), content(n, 50_000)))
        .collect();
    let world = World::new(files, vec![acts([Act::Drip(50_000)])]);
    let engine = engine(2);
    let started = Instant::now();
    let paths: Vec<String> = world.files.keys().cloned().collect();
    let jobs: Vec<Job> = paths.iter().map(|path| world.job(path)).collect();
    for result in join_all(jobs.iter().map(|job| world.fetch(&engine, job))).await {
        result.unwrap();
    }
    let took = started.elapsed();
    assert!(took >= 2 * SECOND && took < 3 * SECOND, "{took:?}");
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_a_busy_mirror_is_woken_when_it_is_free() {
    let files = (0..8)
        .map(|n| (format!("f{n}"), content(n, 50_000)))
        .collect();
    let world = World::with(files, vec![acts([Act::Drip(100_000)])], |mirror| {
        mirror.with_max_connections(1)
    });
    let engine = engine(8);
    let started = Instant::now();
    let paths: Vec<String> = world.files.keys().cloned().collect();
    let jobs: Vec<Job> = paths.iter().map(|path| world.job(path)).collect();
    for result in join_all(jobs.iter().map(|job| world.fetch(&engine, job))).await {
        result.unwrap();
    }
    // Eight times half a second and the latency, one after the other.
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_file_put_together_from_a_liar_and_another_finds_the_liar() {
    // One breaks off; the other goes on, and lies. Then each is asked alone.
    let broke = Arc::new(Mutex::new(None::<usize>));
    let scripts = (0..2)
        .map(|mirror| {
            let broke = Arc::clone(&broke);
            let script: Script = Box::new(move |_| {
                let mut broke = broke.lock().unwrap();
                match *broke {
                    None => {
                        *broke = Some(mirror);
                        Act::Break(50_000)
                    }
                    Some(first) if first == mirror => Act::Good,
                    Some(_) => Act::Corrupt(90_000),
                }
            });
            script
        })
        .collect();
    let world = World::one(100_000, scripts);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    let classes = classes(&fetched.attempts);
    assert_eq!(classes[..2], [Class::Unwell, Class::Corrupt]);
    let first = broke.lock().unwrap().unwrap();
    // Both halves were thrown away, and the sound mirror gave the file by itself.
    assert_eq!(world.log(first).last(), Some(&(0, Act::Good)));
    let reports = world.set.reports();
    assert!(!reports[first].quarantined, "the sound one is not blamed");
    if classes.len() == 3 {
        assert_eq!(classes[2], Class::Corrupt);
        assert!(reports[1 - first].quarantined, "the liar is found");
    }
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_only_are_an_error_of_their_own() {
    let world = World::one(
        10_000,
        vec![acts([Act::Corrupt(1)]), acts([Act::Corrupt(2)])],
    );
    let error = world.fetch(&engine(1), &world.job("f")).await.unwrap_err();
    assert!(error.is_corrupt() && !error.is_absent(), "{error}");
    assert_eq!([world.log(0).len(), world.log(1).len()], [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_after_the_last_byte_does_not_matter() {
    let world = World::one(10_000, vec![acts([Act::BreakAfterAll, Act::Status(500)])]);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert!(fetched.attempts.is_empty());
    let mut job = world.job("f");
    job.expected.size = None;
    let world = World::one(10_000, vec![acts([Act::BreakAfterAll, Act::Status(500)])]);
    let fetched = world.fetch(&engine(1), &job).await.unwrap();
    assert!(fetched.attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_refuses_ranges_is_asked_for_the_whole_file() {
    let world = World::one(
        10_000,
        vec![acts([Act::Break(5_000), Act::NoRange, Act::Good])],
    );
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    let offsets: Vec<u64> = world.log(0).iter().map(|entry| entry.0).collect();
    assert_eq!(offsets, [0, 5_000, 0]);
    assert_eq!(fetched.wasted, 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_ignores_ranges_is_read_past_what_is_here() {
    let world = World::one(10_000, vec![acts([Act::Break(5_000), Act::IgnoreRange])]);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert_eq!(fetched.wasted, 5_000);
    assert_eq!(fetched.attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_with_another_length_is_to_blame_and_costs_nothing_that_is_here() {
    // The first to be asked breaks off, the second has another file, the third continues.
    let count = Arc::new(Mutex::new(0));
    let scripts = (0..3)
        .map(|_| {
            let count = Arc::clone(&count);
            let script: Script = Box::new(move |_| {
                let mut count = count.lock().unwrap();
                *count += 1;
                match *count {
                    1 => Act::Break(6_000),
                    2 => Act::WrongTotal,
                    _ => Act::Good,
                }
            });
            script
        })
        .collect();
    let world = World::one(10_000, scripts);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert_eq!(classes(&fetched.attempts), [Class::Unwell, Class::Corrupt]);
    assert_eq!(fetched.wasted, 0);
    let quarantined: Vec<bool> = world.set.reports().iter().map(|r| r.quarantined).collect();
    assert_eq!(quarantined.iter().filter(|q| **q).count(), 1);
    let liar = fetched.attempts[1].mirror.index();
    assert!(quarantined[liar]);
}

#[tokio::test(start_paused = true)]
async fn an_only_mirror_that_keeps_breaking_off_gets_there_in_the_end() {
    let world = World::one(1_000_000, vec![acts([Act::Break(70_000)])]);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert_eq!(fetched.attempts.len(), 14);
    assert_eq!(fetched.wasted, 0);
}

#[tokio::test(start_paused = true)]
async fn an_only_mirror_that_gives_a_byte_at_a_time_is_given_up() {
    let world = World::one(1_000_000, vec![acts([Act::Break(1)])]);
    let error = world.fetch(&engine(1), &world.job("f")).await.unwrap_err();
    assert!(matches!(&error, FetchError::Exhausted { attempts, .. } if attempts.len() < 30));
    let world = World::one(1_000_000, vec![acts([Act::Break(1)])]);
    let job = Job::metadata("f", Target::path("f"));
    let error = world.fetch(&engine(1), &job).await.unwrap_err();
    assert!(matches!(&error, FetchError::Exhausted { attempts, .. } if attempts.len() == 3));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_job_leaves_nothing_under_way() {
    let world = World::one(100_000, vec![acts([Act::Stall(10_000)])]);
    let engine = engine(1);
    let job = world.job("f");
    let ended = timeout(3 * SECOND, world.fetch(&engine, &job)).await;
    assert!(ended.is_err());
    world.assert_idle();
    // Its slot is free again.
    let world = World::one(1000, vec![acts([Act::Good])]);
    world.fetch(&engine, &world.job("f")).await.unwrap();
}

/// Any fault that passes.
fn passing(random: u64, length: u64) -> Act {
    let at = mix(random) % length.max(1);
    match random % 9 {
        0 => Act::Status(500),
        1 => Act::RetryAfter(1 + at % 5),
        2 => Act::Hang,
        3 => Act::SlowFirstByte(Duration::from_secs(at % 12)),
        4 => Act::Break(at),
        5 => Act::Stall(at),
        6 => Act::Drip(500 + at % 10_000),
        7 => Act::IgnoreRange,
        _ => Act::Good,
    }
}

/// Any fault at all.
fn any(random: u64, length: u64) -> Act {
    let at = mix(random) % length.max(1);
    match random % 14 {
        9 => Act::Status(404),
        10 => Act::Status(401),
        11 => Act::Corrupt(at),
        12 => Act::WrongTotal,
        13 => Act::NoRange,
        other => passing(other, length),
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_runs_with_random_faults_give_the_right_files() {
    const MIRRORS: u64 = 5;
    const LONGEST: u64 = 60_000;
    let mut worst = Duration::ZERO;
    for seed in 0..1000_u64 {
        let begin = Instant::now();
        let files: BTreeMap<String, Bytes> = (0..4)
            .map(|n| {
                let length = mix(seed ^ (n << 32)) % LONGEST;
                let length = usize::try_from(length).unwrap();
                (format!("f{n}"), content(seed * 10 + n, length))
            })
            .collect();
        // In half of the runs one mirror is sound all the time and the others do their worst; in
        // the other half they take turns at being sound, and their faults pass.
        let turns = seed % 2 == 0;
        let scripts = (0..MIRRORS)
            .map(|mirror| {
                let mut count = 0;
                let script: Script = Box::new(move |_| {
                    count += 1;
                    let random = mix(seed ^ mix(mirror ^ mix(count)));
                    let turn = begin.elapsed().as_secs() / 120 * u64::from(turns);
                    let sound = mix(seed ^ (turn << 40)) % MIRRORS == mirror;
                    match (sound, turns) {
                        (true, _) => Act::Good,
                        (false, true) => passing(random, LONGEST),
                        (false, false) => any(random, LONGEST),
                    }
                });
                script
            })
            .collect();
        let world = World::new(files, scripts);
        let engine = engine(3);
        let paths: Vec<String> = world.files.keys().cloned().collect();
        let jobs: Vec<Job> = paths.iter().map(|path| world.job(path)).collect();
        let all = join_all(jobs.iter().map(|job| world.fetch(&engine, job)));
        let results = timeout(600 * SECOND, all)
            .await
            .unwrap_or_else(|_| panic!("seed {seed} hangs"));
        for result in results {
            if let Err(error) = result {
                panic!("seed {seed}: {error}");
            }
        }
        worst = worst.max(begin.elapsed());
        world.assert_idle();
    }
    assert!(worst < 200 * SECOND, "the slowest run took {worst:?}");
}
