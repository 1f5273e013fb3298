//! A mirror that is merely strict, or away for a short time, and a file that is replaced while it is fetched.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use taipan_mirrors::{Class, SegmentConfig};
use taipan_transfer::{
    Engine, EngineOptions, Event, FetchError, Fetched, Job, MemorySink, Observer, Target,
};
use tokio::time::Instant;

use crate::world::*;

/// The waits that were announced: seconds and reason.
#[derive(Default)]
struct Waits(Mutex<Vec<(u64, String)>>);

impl Observer for Waits {
    fn event(&self, event: &Event<'_>) {
        if let Event::Waiting { delay, why, .. } = event {
            let seconds = delay.as_secs_f64().round();
            let seconds = Duration::from_secs_f64(seconds).as_secs();
            self.0.lock().unwrap().push((seconds, (*why).to_owned()));
        }
    }
}

fn engine(retry_for: u64, retry_unseen: bool) -> (Engine, Arc<Waits>) {
    let waits = Arc::new(Waits::default());
    let options = EngineOptions {
        retry_for: Duration::from_secs(retry_for),
        retry_unseen,
        segments: SegmentConfig {
            least_bytes: 64 << 10,
            ..SegmentConfig::default()
        },
        ..EngineOptions::default()
    };
    (Engine::new(options, waits.clone()), waits)
}

/// Fetches `f` in segments.
async fn fetch_file(world: &World, engine: &Engine, job: &Job) -> Result<Fetched, FetchError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let fetched = engine.fetch_file(&world.set, job, &path).await?;
    let sha256 = job.expected.sha256.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(
        taipan_transfer::Sha256::of(&bytes) == sha256,
        "a wrong file"
    );
    world.assert_idle();
    Ok(fetched)
}

/// Two versions of a file.
fn versions() -> BTreeMap<String, bytes::Bytes> {
    BTreeMap::from([
        ("f".to_owned(), content(2, 2_000_000)),
        ("f.1".to_owned(), content(1, 2_000_000)),
        ("f.2".to_owned(), content(2, 2_000_000)),
    ])
}

/// Refuses connections until a time in seconds, and sends good responses afterwards.
fn away_until(seconds: u64, first: Option<Act>) -> Script {
    let begun = Instant::now();
    let mut first = first;
    Box::new(move |_| match first.take() {
        Some(act) => act,
        None if begun.elapsed() < Duration::from_secs(seconds) => Act::Refuse,
        None => Act::Good,
    })
}

#[tokio::test(start_paused = true)]
async fn an_only_mirror_that_restarts_is_waited_for() {
    let begun = Instant::now();
    let world = World::one(1_000_000, vec![away_until(30, Some(Act::Break(200_000)))]);
    let (engine, waits) = engine(60, false);
    let fetched = world.fetch(&engine, &world.job("f")).await.unwrap();
    assert_eq!(fetched.wasted, 0, "what had arrived is kept");
    let took = begun.elapsed();
    assert!(took >= 30 * SECOND && took < 42 * SECOND, "{took:?}");
    let waits = waits.0.lock().unwrap();
    assert!(waits.len() > 3, "{waits:?}");
    assert!(
        waits
            .iter()
            .all(|(_, why)| why.contains("cannot connect to http://m0.example/f")),
        "{waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn segments_wait_for_it_as_well() {
    let begun = Instant::now();
    let world = World::one(1_000_000, vec![away_until(30, Some(Act::Break(200_000)))]);
    let (engine, _) = engine(60, false);
    fetch_file(&world, &engine, &world.job("f")).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= 30 * SECOND && took < 42 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_wait_has_an_end() {
    let begun = Instant::now();
    let world = World::one(1_000_000, vec![away_until(9999, Some(Act::Break(200_000)))]);
    let (engine, _) = engine(60, false);
    world.fetch(&engine, &world.job("f")).await.unwrap_err();
    let took = begun.elapsed();
    assert!(took >= 60 * SECOND && took < 80 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_never_responded_is_waited_for_on_request_only() {
    for (retry_unseen, is_waited_for) in [(false, false), (true, true)] {
        let world = World::one(1000, vec![away_until(30, None)]);
        let (engine, _) = engine(60, retry_unseen);
        let result = world.fetch(&engine, &world.job("f")).await;
        assert_eq!(result.is_ok(), is_waited_for);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_is_announced() {
    let world = World::one(1000, vec![acts([Act::RetryAfter(90), Act::Good])]);
    let (engine, waits) = engine(0, false);
    world.fetch(&engine, &world.job("f")).await.unwrap();
    let waits = waits.0.lock().unwrap();
    let [(seconds, why)] = &waits[..] else {
        panic!("{waits:?}");
    };
    assert!((90..=99).contains(seconds), "{seconds}");
    assert!(why.contains("throttled"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_beyond_the_budget_is_in_the_error() {
    let world = World::one(1000, vec![acts([Act::RetryAfter(900)])]);
    let (engine, waits) = engine(60, true);
    let error = world.fetch(&engine, &world.job("f")).await.unwrap_err();
    assert!(
        error.details()[0].contains("429 Too Many Requests (retry after 900 s)"),
        "{:?}",
        error.details()
    );
    assert!(waits.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_connections_lowers_their_number_and_loses_no_file() {
    for limit in [1, 2] {
        // In segments.
        let world = World::one(6_000_000, vec![acts([Act::Limit(limit)])]);
        let (engine, _) = engine(0, false);
        let fetched = fetch_file(&world, &engine, &world.job("f")).await.unwrap();
        assert!(fetched.attempts.len() < 20, "{:?}", fetched.attempts.len());
        // Many files at once.
        let files = (0..60).map(|n| (format!("f{n}"), content(n, 20_000)));
        let world = World::new(files.collect(), vec![acts([Act::Limit(limit)])]);
        let begun = Instant::now();
        let jobs: Vec<Job> = world.files.keys().map(|path| world.job(path)).collect();
        let all = jobs.iter().map(|job| world.fetch(&engine, job));
        for result in futures_util::future::join_all(all).await {
            result.unwrap();
        }
        let took = begun.elapsed();
        assert!(took < 30 * SECOND, "{took:?} with at most {limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_honest_response_with_less_than_the_range_is_no_failure() {
    let world = World::one(2_000_000, vec![acts([Act::Partial(150_000)])]);
    let (engine, _) = engine(0, false);
    let fetched = fetch_file(&world, &engine, &world.job("f")).await.unwrap();
    assert!(fetched.attempts.is_empty(), "{:?}", fetched.attempts);
    // The same for a body that is resumed.
    let world = World::one(
        1_000_000,
        vec![acts([Act::Break(300_000), Act::Partial(150_000)])],
    );
    let fetched = world.fetch(&engine, &world.job("f")).await.unwrap();
    assert_eq!(classes(&fetched.attempts), [Class::Unwell]);
    assert_eq!((world.log(0).len(), fetched.wasted), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sends_a_byte_per_range_is_given_up() {
    let world = World::one(1_000_000, vec![acts([Act::Partial(1)])]);
    let (engine, _) = engine(0, false);
    fetch_file(&world, &engine, &world.job("f"))
        .await
        .unwrap_err();
}

/// Fetches `f` without a digest, as a stream.
async fn fetch_unknown(world: &World) -> (Fetched, Vec<u8>) {
    let (engine, _) = engine(0, false);
    let job = Job::metadata("f", Target::path("f"));
    let mut sink = MemorySink::new(1 << 30);
    let fetched = engine.fetch(&world.set, &job, &mut sink).await.unwrap();
    (fetched, sink.into_bytes())
}

#[tokio::test(start_paused = true)]
async fn without_a_digest_a_body_is_resumed_if_the_version_is_the_same() {
    let script = acts([Act::VersionBreak(1, 700_000), Act::Version(1)]);
    let world = World::new(versions(), vec![script]);
    let (fetched, bytes) = fetch_unknown(&world).await;
    assert!(bytes == world.files["f.1"]);
    let offsets: Vec<u64> = world.log(0).iter().map(|entry| entry.0).collect();
    assert_eq!((offsets, fetched.wasted), (vec![0, 700_000], 0));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_replaced_is_begun_anew() {
    let script = acts([Act::VersionBreak(1, 700_000), Act::Version(2)]);
    let world = World::new(versions(), vec![script]);
    let (fetched, bytes) = fetch_unknown(&world).await;
    assert!(bytes == world.files["f.2"]);
    assert_eq!(fetched.wasted, 700_000);
    assert_eq!(classes(&fetched.attempts), [Class::Unwell, Class::Unwell]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_replaced_between_segments_is_right_and_nobody_is_accused() {
    for count in [1, 2] {
        let scripts = (0..count)
            .map(|_| {
                let begun = Instant::now();
                let script: Script = Box::new(move |_| {
                    if begun.elapsed() < Duration::from_millis(150) {
                        Act::Version(1)
                    } else {
                        Act::Version(2)
                    }
                });
                script
            })
            .collect();
        let world = World::new(versions(), scripts);
        let (engine, _) = engine(0, false);
        let fetched = fetch_file(&world, &engine, &world.job("f")).await.unwrap();
        assert!(
            fetched
                .attempts
                .iter()
                .all(|attempt| attempt.class != Class::Corrupt),
            "{:?}",
            fetched.attempts
        );
        assert!(world.set.reports().iter().all(|report| !report.quarantined));
    }
}

#[tokio::test(start_paused = true)]
async fn a_zchunk_file_is_updated_from_a_server_without_ranges() {
    let new = content(9, 3_000_000);
    let zck = |bytes: &[u8]| {
        let options = taipan_zchunk::WriterOptions::default();
        bytes::Bytes::from(taipan_zchunk::write_to_vec(bytes, options).unwrap().0)
    };
    let mut old = new.to_vec();
    old[1_500_000] ^= 1;
    let files = BTreeMap::from([("x.zck".to_owned(), zck(&new))]);
    let world = World::new(files, vec![acts([Act::IgnoreRange])]);
    let (engine, _) = engine(0, false);
    let dir = tempfile::tempdir().unwrap();
    let (path, from) = (dir.path().join("x.zck"), dir.path().join("old.zck"));
    std::fs::write(&from, zck(&old)).unwrap();
    let job = Job::metadata("x.zck", Target::path("x.zck"));
    engine
        .fetch_zchunk(&world.set, &job, &[from], &path)
        .await
        .unwrap();
    assert!(std::fs::read(&path).unwrap() == world.files["x.zck"]);
    assert!(!Path::new(&format!("{}.taipan-part", path.display())).exists());
    world.assert_idle();
}
