//! Large files, in segments from several mirrors at once.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use taipan_mirrors::{Class, SegmentConfig};
use taipan_transfer::{
    Engine, EngineOptions, Event, FetchError, Fetched, Job, MemorySink, Observer, Sha256, Sink,
    SinkError,
};
use tokio::time::{Instant, sleep, timeout};

use crate::world::*;

const MIN_BYTES: u64 = 16 << 10;

/// Adds up the bytes of events.
#[derive(Default)]
struct Sums(Mutex<(i64, u64)>);

impl Observer for Sums {
    fn event(&self, event: &Event<'_>) {
        let mut sums = self.0.lock().unwrap();
        match event {
            Event::Progress { bytes, .. } => sums.0 += i64::try_from(*bytes).unwrap(),
            Event::Restarted { bytes, .. } => sums.0 -= i64::try_from(*bytes).unwrap(),
            Event::Resumed { bytes, .. } => {
                sums.0 += i64::try_from(*bytes).unwrap();
                sums.1 += bytes;
            }
            _ => {}
        }
    }
}

fn options() -> EngineOptions {
    EngineOptions {
        segments: SegmentConfig {
            least_bytes: MIN_BYTES,
            ..SegmentConfig::default()
        },
        ..EngineOptions::default()
    }
}

fn engine() -> (Engine, Arc<Sums>) {
    let sums = Arc::new(Sums::default());
    (Engine::new(options(), sums.clone()), sums)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn fetch(world: &World, engine: &Engine, dir: &Path) -> Result<Fetched, FetchError> {
    let job = world.job("f");
    let fetched = engine.fetch_file(&world.set, &job, &dir.join("f")).await?;
    assert_eq!(
        std::fs::read(dir.join("f")).unwrap(),
        world.files["f"],
        "a wrong file"
    );
    assert_eq!(names(dir), ["f"]);
    world.assert_idle();
    Ok(fetched)
}

fn good_responses(world: &World, mirror: usize) -> usize {
    world
        .log(mirror)
        .iter()
        .filter(|entry| entry.1 == Act::Good)
        .count()
}

#[tokio::test(start_paused = true)]
async fn two_mirrors_are_nearly_twice_as_fast_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut times = Vec::new();
    for count in 1..=2 {
        let scripts = (0..count).map(|_| acts([Act::Good])).collect();
        let world = World::one(8_000_000, scripts);
        // A megabyte per second and connection.
        let (engine, sums) = engine();
        let started = Instant::now();
        let fetched = fetch(&world, &engine, dir.path()).await.unwrap();
        times.push(started.elapsed().as_secs_f64());
        assert_eq!(sums.0.lock().unwrap().0, 8_000_000);
        assert!(fetched.wasted < 400_000, "{}", fetched.wasted);
        assert!((0..count).all(|mirror| good_responses(&world, mirror) > 0));
    }
    assert!(times[1] < 5.0, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_mirror_costs_only_its_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let scripts = vec![
        acts([Act::Stall(500_000), Act::Hang]),
        acts([Act::Good]),
        acts([Act::Good]),
    ];
    let world = World::one(6_000_000, scripts);
    let (engine, _) = engine();
    let started = Instant::now();
    fetch(&world, &engine, dir.path()).await.unwrap();
    let took = started.elapsed().as_secs_f64();
    assert!(took < 6.0, "{took}");
}

#[tokio::test(start_paused = true)]
async fn one_mirror_of_three_with_wrong_bytes_is_found_and_only_its_bytes_are_fetched_again() {
    // Every body of this mirror has one wrong byte.
    let lies: Script = Box::new(|wanted| Act::Corrupt(wanted + 5));
    let dir = tempfile::tempdir().unwrap();
    let world = World::one(3_000_000, vec![acts([Act::Good]), lies, acts([Act::Good])]);
    let (engine, sums) = engine();
    let fetched = fetch(&world, &engine, dir.path()).await.unwrap();
    assert_eq!(classes_of(&fetched), [Class::Corrupt]);
    let quarantined: Vec<bool> = world.set.reports().iter().map(|r| r.quarantined).collect();
    assert_eq!(quarantined, [false, true, false]);
    assert!(fetched.wasted < 6_000_000, "{}", fetched.wasted);
    assert_eq!(
        sums.0.lock().unwrap().0,
        3_000_000,
        "the sum that bars show"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_byte_outside_of_all_samples_is_found_by_replacement() {
    for liar in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let scripts = (0..2)
            .map(|mirror| {
                acts([if mirror == liar {
                    Act::Corrupt(5_600_000)
                } else {
                    Act::Good
                }])
            })
            .collect();
        let world = World::one(8_000_000, scripts);
        let (engine, _) = engine();
        fetch(&world, &engine, dir.path()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn with_two_mirrors_that_send_wrong_bytes_the_file_comes_from_the_third() {
    let lies = |step: u64| -> Script { Box::new(move |wanted| Act::Corrupt(wanted + step)) };
    let dir = tempfile::tempdir().unwrap();
    let world = World::one(1_000_000, vec![lies(1), acts([Act::Good]), lies(2)]);
    let (engine, _) = engine();
    fetch(&world, &engine, dir.path()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_digest_that_no_mirror_has_is_an_error_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::one(500_000, vec![acts([Act::Good]), acts([Act::Good])]);
    let mut job = world.job("f");
    job.expected.sha256 = Some(Sha256::of(b"another file"));
    let (engine, _) = engine();
    let path = dir.path().join("f");
    let error = engine
        .fetch_file(&world.set, &job, &path)
        .await
        .unwrap_err();
    let FetchError::Exhausted { attempts, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt.class == Class::Corrupt),
        "{error}"
    );
    assert!(error.is_corrupt());
    assert_eq!(names(dir.path()), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn mirrors_with_wrong_ranges_send_the_whole_file() {
    for act in [Act::IgnoreRange, Act::NoRange] {
        let dir = tempfile::tempdir().unwrap();
        let script: Script = Box::new(move |wanted| if wanted > 0 { act } else { Act::Good });
        let world = World::one(300_000, vec![script]);
        let (engine, _) = engine();
        fetch(&world, &engine, dir.path()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_download_is_resumed_on_another_mirror() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::one(4_000_000, vec![acts([Act::Good]), acts([Act::Hang])]);
    let (first, _) = engine();
    let job = world.job("f");
    let path = dir.path().join("f");
    let dropped = timeout(2 * SECOND, first.fetch_file(&world.set, &job, &path)).await;
    assert!(dropped.is_err(), "it should take longer");
    world.assert_idle();
    assert_eq!(names(dir.path()), ["f.taipan-part"]);
    let other = World::one(4_000_000, vec![acts([Act::Good])]);
    let (second, sums) = engine();
    let fetched = fetch(&other, &second, dir.path()).await.unwrap();
    let resumed = sums.0.lock().unwrap().1;
    assert!(resumed > 1_000_000, "{resumed}");
    assert!(fetched.wasted < 100_000, "{}", fetched.wasted);
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_of_an_earlier_run_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::one(2_000_000, vec![acts([Act::Corrupt(3)]), acts([Act::Hang])]);
    let (first, _) = engine();
    let path = dir.path().join("f");
    let job = world.job("f");
    let dropped = timeout(SECOND, first.fetch_file(&world.set, &job, &path)).await;
    assert!(dropped.is_err(), "it should take longer");
    let sound = World::one(2_000_000, vec![acts([Act::Good])]);
    let (second, sums) = engine();
    let fetched = fetch(&sound, &second, dir.path()).await.unwrap();
    assert!(sums.0.lock().unwrap().1 > 0);
    assert!(
        fetched.attempts.is_empty(),
        "no mirror of this run is accused"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_bytes_that_can_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let scripts = vec![acts([Act::Break(300_000), Act::Status(404)])];
    let world = World::one(1_000_000, scripts);
    let (first, _) = engine();
    let path = dir.path().join("f");
    let error = first
        .fetch_file(&world.set, &world.job("f"), &path)
        .await
        .unwrap_err();
    assert!(error.details()[0].contains("404"), "{error}");
    assert_eq!(names(dir.path()), ["f.taipan-part"]);
    let world = World::one(1_000_000, vec![acts([Act::Good])]);
    let (second, sums) = engine();
    fetch(&world, &second, dir.path()).await.unwrap();
    assert!(sums.0.lock().unwrap().1 >= 60_000);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_length_is_requested() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::one(2_000_000, vec![acts([Act::Good]), acts([Act::Good])]);
    let mut job = world.job("f");
    job.expected.size = None;
    let (engine, _) = engine();
    engine
        .fetch_file(&world.set, &job, &dir.path().join("f"))
        .await
        .unwrap();
    assert_eq!(
        std::fs::read(dir.path().join("f")).unwrap(),
        world.files["f"]
    );
    assert!(good_responses(&world, 0) > 0 && good_responses(&world, 1) > 0);
}

#[tokio::test(start_paused = true)]
async fn rate_limits_hold_in_total_and_for_each_mirror() {
    for (rate, mirror_rate, least) in [(Some(500_000), None, 3.8), (None, Some(250_000), 3.8)] {
        let dir = tempfile::tempdir().unwrap();
        let world = World::one(2_000_000, vec![acts([Act::Good]), acts([Act::Good])]);
        let options = EngineOptions {
            rate_limit: rate,
            mirror_rate_limit: mirror_rate,
            ..options()
        };
        let engine = Engine::new(options, Arc::new(taipan_transfer::Silent));
        let started = Instant::now();
        fetch(&world, &engine, dir.path()).await.unwrap();
        let took = started.elapsed().as_secs_f64();
        assert!(took > least, "{took} s for {rate:?} {mirror_rate:?}");
        assert!(took < 9.0, "{took} s for {rate:?} {mirror_rate:?}");
        // The limits also hold for a single connection.
        let world = World::one(1_000_000, vec![acts([Act::Good])]);
        let started = Instant::now();
        let mut sink = MemorySink::new(1 << 30);
        engine
            .fetch(&world.set, &world.job("f"), &mut sink)
            .await
            .unwrap();
        assert!(started.elapsed().as_secs_f64() > 1.8);
    }
}

#[tokio::test(start_paused = true)]
async fn an_offline_engine_sends_no_request_to_remote_mirrors() {
    let dir = tempfile::tempdir().unwrap();
    for length in [1_000, 500_000] {
        let world = World::one(length, vec![acts([Act::Good])]);
        let options = EngineOptions {
            offline: true,
            ..options()
        };
        let engine = Engine::new(options, Arc::new(taipan_transfer::Silent));
        let path = dir.path().join("f");
        let error = engine
            .fetch_file(&world.set, &world.job("f"), &path)
            .await
            .unwrap_err();
        assert!(error.details()[0].contains("offline"), "{error}");
        assert_eq!(world.log(0), []);
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_under_way_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let files = BTreeMap::from([
        ("a".to_owned(), content(1, 3_000_000)),
        ("b".to_owned(), content(2, 3_000_000)),
    ]);
    let world = World::new(files, vec![acts([Act::Good]), acts([Act::Good])]);
    let options = EngineOptions {
        bytes_under_way: 4 << 20,
        ..options()
    };
    let engine = Engine::new(options, Arc::new(taipan_transfer::Silent));
    let one = async |path: &str| {
        let job = world.job(path);
        engine
            .fetch_file(&world.set, &job, &dir.path().join(path))
            .await
            .unwrap();
    };
    tokio::join!(one("a"), one("b"), async {
        sleep(SECOND).await;
        assert_eq!(names(dir.path()), ["a.taipan-part"], "the other waits");
    });
    assert_eq!(names(dir.path()), ["a", "b"]);
}

/// A slow sink.
struct SlowSink(Vec<u8>, Duration);

#[async_trait]
impl Sink for SlowSink {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError> {
        sleep(self.1).await;
        self.0.extend_from_slice(&bytes);
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.0.clear();
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_receives_the_bytes_in_order() {
    let lies: Script = Box::new(|wanted| Act::Corrupt(wanted + 5));
    for (script, pause) in [
        (acts([Act::Good]), 1),
        (lies, 1),
        (acts([Act::Stall(40_000)]), 300),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let world = World::one(
            2_000_000,
            vec![acts([Act::Good]), script, acts([Act::Good])],
        );
        let (engine, _) = engine();
        let mut sink = SlowSink(Vec::new(), Duration::from_millis(pause));
        let spool = dir.path().join("spool");
        let fetched = engine
            .fetch_spooled(&world.set, &world.job("f"), &spool, &mut sink)
            .await
            .unwrap();
        assert!(sink.0 == world.files["f"], "a wrong file");
        assert_eq!(fetched.file.unwrap().1, 2_000_000);
        assert_eq!(names(dir.path()), [""; 0]);
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn an_unwritable_path_is_an_error_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::one(2_000_000, vec![acts([Act::Good])]);
    let (engine, _) = engine();
    let path = dir.path().join("no/such/f");
    let error = engine
        .fetch_file(&world.set, &world.job("f"), &path)
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Sink { .. }));
    std::fs::create_dir(dir.path().join("f")).unwrap();
    let path = dir.path().join("f");
    engine
        .fetch_file(&world.set, &world.job("f"), &path)
        .await
        .unwrap_err();
    assert_eq!(
        names(dir.path()),
        ["f", "f.taipan-part"],
        "complete, so it is worth keeping"
    );
    world.assert_idle();
}

fn classes_of(fetched: &Fetched) -> Vec<Class> {
    fetched
        .attempts
        .iter()
        .map(|attempt| attempt.class)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_thousand_segmented_runs_with_random_faults_give_the_right_files() {
    const MIRRORS: u64 = 5;
    const LONGEST: u64 = 400_000;
    for seed in 0..1000_u64 {
        let begin = Instant::now();
        let dir = tempfile::tempdir().unwrap();
        let files: BTreeMap<String, Bytes> = (0..2)
            .map(|n| {
                let length = MIN_BYTES * 2 + mix(seed ^ (n << 32)) % LONGEST;
                let length = usize::try_from(length).unwrap();
                (format!("f{n}"), content(seed * 10 + n, length))
            })
            .collect();
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
                        (false, true) => crate::passing(random, LONGEST),
                        (false, false) => crate::any(random, LONGEST),
                    }
                });
                script
            })
            .collect();
        let world = World::new(files, scripts);
        let (engine, _) = engine();
        let jobs: Vec<Job> = world.files.keys().map(|path| world.job(path)).collect();
        let all = join_all(jobs.iter().map(|job| {
            let path = dir.path().join(&job.target.path);
            let (engine, set) = (&engine, &world.set);
            async move { engine.fetch_file(set, job, &path).await }
        }));
        let results = timeout(600 * SECOND, all)
            .await
            .unwrap_or_else(|_| panic!("seed {seed} hangs"));
        for (job, result) in jobs.iter().zip(results) {
            if let Err(error) = result {
                panic!("seed {seed}: {error}");
            }
            let path = &job.target.path;
            let got = std::fs::read(dir.path().join(path)).unwrap();
            assert!(got == world.files[path], "seed {seed}: a wrong file");
        }
        assert_eq!(names(dir.path()), ["f0", "f1"], "seed {seed}");
        world.assert_idle();
    }
}
