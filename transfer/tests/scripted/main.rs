//! The engine with scripted mirrors in memory, under a paused clock: delays cost no time, and are
//! measured exactly.

mod passing_trouble;
mod request_path;
mod segments;
mod world;
mod zchunk;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use taipan_mirrors::Class;
use taipan_transfer::{BackendError, FetchError, Job, Target};
use tokio::time::{Instant, timeout};

use world::*;

#[tokio::test(start_paused = true)]
async fn a_stalled_body_is_resumed_on_another_mirror_at_the_next_byte() {
    let world = World::one(100_000, first_request(2, Act::Stall(40_000)));
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
async fn a_request_without_a_response_is_hedged() {
    let world = World::one(1000, first_request(3, Act::Hang));
    let started = Instant::now();
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    // The first request was dropped before it could fail.
    assert!(fetched.attempts.is_empty());
    let took = started.elapsed();
    assert!(took < 2 * SECOND, "{took:?}");
    let requests: usize = (0..3).map(|mirror| world.log(mirror).len()).sum();
    assert_eq!(requests, 2);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_single_slow_mirror_is_not_given_up() {
    let world = World::one(1000, vec![acts([Act::SlowFirstByte(20 * SECOND)])]);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert!(fetched.attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_left_for_a_faster_mirror() {
    let world = World::one(2_000_000, first_request(2, Act::Drip(5_000)));
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
async fn a_slow_body_is_kept_when_no_other_mirror_has_the_file() {
    let world = World::one(
        100_000,
        vec![acts([Act::Drip(5_000)]), acts([Act::Status(404)])],
    );
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert!(fetched.attempts.len() <= 2, "{:?}", fetched.attempts);
}

#[tokio::test(start_paused = true)]
async fn without_a_digest_a_slow_body_is_restarted_on_another_mirror() {
    let world = World::one(2_000_000, first_request(2, Act::Drip(5_000)));
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
async fn when_all_mirrors_fail_each_has_a_limited_number_of_attempts() {
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
async fn a_single_throttled_mirror_is_used_after_retry_after() {
    let world = World::one(1000, vec![acts([Act::RetryAfter(7), Act::Good])]);
    let started = Instant::now();
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert_eq!(classes(&fetched.attempts), [Class::Throttled]);
    let took = started.elapsed();
    assert!(took >= 7 * SECOND && took < 8 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_free_mirror_is_preferred_to_a_throttled_one() {
    let world = World::one(1000, first_request(2, Act::RetryAfter(60)));
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
async fn a_job_that_waits_for_a_busy_mirror_starts_when_it_is_free() {
    let files = (0..8)
        .map(|n| (format!("f{n}"), content(n, 50_000)))
        .collect();
    let world = World::with(
        files,
        vec![acts([Act::Drip(100_000)])],
        false,
        |_, mirror| mirror.with_max_connections(1),
    );
    let engine = engine(8);
    let started = Instant::now();
    let paths: Vec<String> = world.files.keys().cloned().collect();
    let jobs: Vec<Job> = paths.iter().map(|path| world.job(path)).collect();
    for result in join_all(jobs.iter().map(|job| world.fetch(&engine, job))).await {
        result.unwrap();
    }
    // Eight requests in sequence, of half a second and the latency each.
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn the_mirror_with_wrong_bytes_in_a_resumed_file_is_found() {
    // The first body breaks off; the other mirror resumes with wrong bytes. Then the whole file is
    // requested from each.
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
    // Both halves were discarded, and the sound mirror sent the whole file.
    assert_eq!(world.log(first).last(), Some(&(0, Act::Good)));
    let reports = world.set.reports();
    assert!(
        !reports[first].quarantined,
        "the sound mirror is not accused"
    );
    if classes.len() == 3 {
        assert_eq!(classes[2], Class::Corrupt);
        assert!(
            reports[1 - first].quarantined,
            "the other mirror is accused"
        );
    }
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_from_every_mirror_are_an_error_of_their_own() {
    let world = World::one(
        10_000,
        vec![acts([Act::Corrupt(1)]), acts([Act::Corrupt(2)])],
    );
    let error = world.fetch(&engine(1), &world.job("f")).await.unwrap_err();
    assert!(error.is_corrupt() && !error.is_absent(), "{error}");
    assert_eq!([world.log(0).len(), world.log(1).len()], [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_error_after_the_last_byte_is_ignored() {
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
async fn the_whole_file_is_requested_from_a_mirror_that_refuses_ranges() {
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
async fn known_bytes_are_skipped_when_a_mirror_ignores_ranges() {
    let world = World::one(10_000, vec![acts([Act::Break(5_000), Act::IgnoreRange])]);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert_eq!(fetched.wasted, 5_000);
    assert_eq!(fetched.attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_with_another_length_is_quarantined_and_no_bytes_are_lost() {
    // The first body breaks off, the second mirror has another file, the third resumes.
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
async fn a_single_mirror_whose_bodies_break_off_completes_the_file() {
    let world = World::one(1_000_000, vec![acts([Act::Break(70_000)])]);
    let fetched = world.fetch(&engine(1), &world.job("f")).await.unwrap();
    assert_eq!(fetched.attempts.len(), 14);
    assert_eq!(fetched.wasted, 0);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_sends_one_byte_per_request_is_given_up() {
    let world = World::one(1_000_000, vec![acts([Act::Break(1)])]);
    let error = world.fetch(&engine(1), &world.job("f")).await.unwrap_err();
    assert!(matches!(&error, FetchError::Exhausted { attempts, .. } if attempts.len() < 30));
    let world = World::one(1_000_000, vec![acts([Act::Break(1)])]);
    let job = Job::metadata("f", Target::path("f"));
    let error = world.fetch(&engine(1), &job).await.unwrap_err();
    assert!(matches!(&error, FetchError::Exhausted { attempts, .. } if attempts.len() == 3));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_job_ends_its_requests_and_frees_its_slot() {
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

/// A random fault that is transient.
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

/// A random fault.
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
        // In half of the runs one mirror is always sound and the others have any fault; in the other
        // half each mirror is sound in turn, and all faults are transient.
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
