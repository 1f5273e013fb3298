//! Guarantees of every request: limits, offline mode, backoff, events, and success only after
//! verification.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use taipan_mirrors::{Class, Location, Mirror, SegmentConfig};
use taipan_transfer::{Engine, EngineOptions, Event, FetchError, Fetched, Job, Observer, Target};
use taipan_zchunk::{Boundaries, WriterOptions, write_to_vec};
use tokio::time::Instant;

use crate::world::*;

/// Counts attempts and failed attempts.
#[derive(Default)]
struct Attempts(Mutex<(usize, usize)>);

impl Observer for Attempts {
    fn event(&self, event: &Event<'_>) {
        let mut counts = self.0.lock().unwrap();
        match event {
            Event::Attempt { .. } => counts.0 += 1,
            Event::AttemptFailed { .. } => counts.1 += 1,
            _ => {}
        }
    }
}

impl Attempts {
    fn begun(&self) -> usize {
        self.0.lock().unwrap().0
    }
}

fn segments() -> EngineOptions {
    EngineOptions {
        segments: SegmentConfig {
            least_bytes: 16 << 10,
            ..SegmentConfig::default()
        },
        ..EngineOptions::default()
    }
}

fn engine(options: EngineOptions) -> (Engine, Arc<Attempts>) {
    let attempts = Arc::new(Attempts::default());
    (Engine::new(options, attempts.clone()), attempts)
}

fn requests(world: &World, mirrors: usize) -> usize {
    (0..mirrors).map(|mirror| world.log(mirror).len()).sum()
}

/// A zchunk file, and an older one that lacks `places` short ranges of it.
fn versions(places: usize) -> (Bytes, Bytes) {
    let new = content(9, 3_000_000).to_vec();
    let mut old = new.clone();
    for place in 0..places {
        old[50_000 + place * (2_900_000 / places)] ^= 1;
    }
    let zck = |bytes: &[u8]| {
        let options = WriterOptions {
            boundaries: Boundaries::Manual { max: 20_000 },
            ..WriterOptions::default()
        };
        Bytes::from(write_to_vec(bytes, options).unwrap().0)
    };
    (zck(&old), zck(&new))
}

fn zchunk_world(new: &Bytes, scripts: Vec<Script>) -> World {
    World::with_multi_range(BTreeMap::from([("x.zck".to_owned(), new.clone())]), scripts)
}

async fn fetch_zchunk(
    world: &World,
    engine: &Engine,
    dir: &Path,
    old: &Bytes,
) -> Result<Fetched, FetchError> {
    let (path, from) = (dir.join("x.zck"), dir.join("old.zck"));
    std::fs::write(&from, old).unwrap();
    let job = Job::metadata("x.zck", Target::path("x.zck"));
    let fetched = engine
        .fetch_zchunk(&world.set, &job, &[from], &path)
        .await?;
    assert!(std::fs::read(&path).unwrap() == world.files["x.zck"]);
    world.assert_idle();
    Ok(fetched)
}

#[tokio::test(start_paused = true)]
async fn an_offline_engine_compares_local_mirrors_only() {
    let dir = tempfile::tempdir().unwrap();
    let lies: Script = Box::new(|wanted| Act::Corrupt(wanted + 9));
    let files = BTreeMap::from([("f".to_owned(), content(1, 2_000_000))]);
    let scripts = vec![acts([Act::Good]), lies, acts([Act::Good])];
    // The first two are on this machine.
    let local = |index: usize, mut mirror: Mirror| {
        if index < 2 {
            mirror.location = Location::parse(&format!("file:///mirror{index}")).unwrap();
        }
        mirror
    };
    let world = World::with(files, scripts, false, local);
    let options = EngineOptions {
        offline: true,
        ..segments()
    };
    let (engine, _) = engine(options);
    let path = dir.path().join("f");
    engine
        .fetch_file(&world.set, &world.job("f"), &path)
        .await
        .unwrap();
    assert!(std::fs::read(&path).unwrap() == world.files["f"]);
    assert_eq!(world.log(2), [], "a remote mirror received a request");
    assert!(
        !world.log(1).is_empty(),
        "the mirror with wrong bytes sent a part"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_for_the_header_and_the_ranges_of_a_zchunk_file() {
    let (old, new) = versions(24);
    let dir = tempfile::tempdir().unwrap();
    let world = zchunk_world(&new, vec![acts([Act::Good])]);
    let options = EngineOptions {
        rate_limit: Some(50_000),
        ..EngineOptions::default()
    };
    let (engine, _) = engine(options);
    let started = Instant::now();
    let fetched = fetch_zchunk(&world, &engine, dir.path(), &old)
        .await
        .unwrap();
    let took = started.elapsed().as_secs_f64();
    let delta = fetched.delta.unwrap();
    assert!(delta.ranges >= 12, "several ranges in one request");
    let bytes = delta.header_bytes + delta.fetched_bytes;
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let least = bytes as f64 / 50_000.0;
    assert!(
        took > 0.9 * least,
        "{bytes} bytes in {took} s, {least} s at least"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_for_samples() {
    let dir = tempfile::tempdir().unwrap();
    let lies: Script = Box::new(|wanted| Act::Corrupt(wanted + 9));
    let scripts = vec![acts([Act::Good]), lies, acts([Act::Good])];
    let world = World::one(3_000_000, scripts);
    let options = EngineOptions {
        rate_limit: Some(500_000),
        ..segments()
    };
    let (engine, _) = engine(options);
    let started = Instant::now();
    let fetched = engine
        .fetch_file(&world.set, &world.job("f"), &dir.path().join("f"))
        .await
        .unwrap();
    let took = started.elapsed().as_secs_f64();
    assert!(fetched.wasted > 1_000_000, "samples were compared");
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let least = (3_000_000 + fetched.wasted) as f64 / 500_000.0;
    eprintln!("XX {took} {least} {}", fetched.wasted);
    assert!(
        took > 0.9 * least,
        "{} wasted bytes in {took} s, {least} s at least",
        fetched.wasted
    );
}

#[tokio::test(start_paused = true)]
async fn retry_after_on_a_multi_range_request_is_obeyed() {
    let (old, new) = versions(24);
    let dir = tempfile::tempdir().unwrap();
    // The header, then a refusal of the ranges.
    let world = zchunk_world(
        &new,
        vec![acts([Act::Good, Act::RetryAfter(20), Act::Good])],
    );
    let (engine, attempts) = engine(EngineOptions::default());
    let started = Instant::now();
    let fetched = fetch_zchunk(&world, &engine, dir.path(), &old)
        .await
        .unwrap();
    assert_eq!(classes(&fetched.attempts), [Class::Throttled]);
    assert_eq!(attempts.0.lock().unwrap().1, 1);
    assert!(
        started.elapsed() >= 20 * SECOND,
        "second request after {:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_multi_range_response_counts_as_success_after_verification() {
    let (old, new) = versions(24);
    let dir = tempfile::tempdir().unwrap();
    // The first response with several ranges has a wrong byte, whichever mirror sends it.
    let has_lied = Arc::new(AtomicBool::new(false));
    let script = || -> Script {
        let has_lied = Arc::clone(&has_lied);
        Box::new(move |wanted| {
            if wanted == 0 || has_lied.swap(true, Ordering::SeqCst) {
                Act::Good
            } else {
                Act::Corrupt(wanted + 9)
            }
        })
    };
    let world = zchunk_world(&new, vec![script(), script()]);
    let (engine, _) = engine(EngineOptions::default());
    let fetched = fetch_zchunk(&world, &engine, dir.path(), &old)
        .await
        .unwrap();
    assert_eq!(classes(&fetched.attempts), [Class::Corrupt]);
    let liar = fetched.attempts[0].mirror.index();
    let log = world.log(liar);
    let good = log.iter().filter(|entry| entry.1 == Act::Good).count();
    let ok = world.set.reports()[liar].counts.ok;
    assert_eq!(usize::try_from(ok).unwrap(), good, "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn the_time_to_the_first_byte_of_a_multi_range_response_is_measured() {
    let (old, new) = versions(24);
    let dir = tempfile::tempdir().unwrap();
    let world = zchunk_world(&new, vec![acts([Act::Good])]);
    let (engine, _) = engine(EngineOptions::default());
    fetch_zchunk(&world, &engine, dir.path(), &old)
        .await
        .unwrap();
    let report = &world.set.reports()[0];
    let rate = report.rate.unwrap();
    assert!(rate > 500_000.0, "{rate} bytes/s from a mirror with 1 MB/s");
}

#[tokio::test(start_paused = true)]
async fn every_request_is_an_event() {
    // The length of a file, its segments, and samples of them.
    let dir = tempfile::tempdir().unwrap();
    let lies: Script = Box::new(|wanted| Act::Corrupt(wanted + 9));
    let scripts = vec![acts([Act::Good]), lies, acts([Act::Good])];
    let world = World::one(3_000_000, scripts);
    let (engine, attempts) = engine(segments());
    let mut job = world.job("f");
    job.expected.size = None;
    engine
        .fetch_file(&world.set, &job, &dir.path().join("f"))
        .await
        .unwrap();
    assert_eq!(attempts.begun(), requests(&world, 3));
}

#[tokio::test(start_paused = true)]
async fn every_request_for_a_zchunk_file_is_an_event() {
    let (old, new) = versions(24);
    let dir = tempfile::tempdir().unwrap();
    let world = zchunk_world(&new, vec![acts([Act::Good]), acts([Act::Good])]);
    let (engine, attempts) = engine(EngineOptions::default());
    fetch_zchunk(&world, &engine, dir.path(), &old)
        .await
        .unwrap();
    assert_eq!(attempts.begun(), requests(&world, 2));
}

#[tokio::test(start_paused = true)]
async fn samples_keep_to_the_connections_that_a_mirror_allows() {
    let dir = tempfile::tempdir().unwrap();
    let lies: Script = Box::new(|wanted| Act::Corrupt(wanted + 9));
    let scripts = vec![acts([Act::Good]), lies, acts([Act::Good])];
    let files = BTreeMap::from([("f".to_owned(), content(1, 6_000_000))]);
    let one = |_, mut mirror: Mirror| {
        mirror.max_connections = Some(1);
        mirror
    };
    let world = World::with(files, scripts, false, one);
    let (engine, _) = engine(segments());
    engine
        .fetch_file(&world.set, &world.job("f"), &dir.path().join("f"))
        .await
        .unwrap();
    for mirror in 0..3 {
        assert_eq!(world.most_open(mirror), 1, "mirror {mirror}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_file_of_unknown_length_needs_no_retry() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::one(0, vec![acts([Act::NoRange])]);
    let (engine, _) = engine(segments());
    let mut job = world.job("f");
    job.expected.size = None;
    let path = dir.path().join("f");
    let fetched = engine.fetch_file(&world.set, &job, &path).await.unwrap();
    assert!(fetched.attempts.is_empty(), "{:?}", fetched.attempts);
    assert_eq!(std::fs::read(&path).unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_for_many_small_files() {
    let names: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
    let files = names.iter().map(|name| (name.clone(), content(1, 4000)));
    let world = World::new(files.collect(), vec![acts([Act::Good])]);
    let options = EngineOptions {
        rate_limit: Some(20_000),
        ..EngineOptions::default()
    };
    let (engine, _) = engine(options);
    let started = Instant::now();
    for name in &names {
        world.fetch(&engine, &world.job(name)).await.unwrap();
    }
    let took = started.elapsed().as_secs_f64();
    assert!(took > 7.0, "160 kB at 20 kB/s in {took} s");
}
