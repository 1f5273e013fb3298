//! Fetching zchunk files: only the chunks that older files lack.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use taipan_mirrors::Class;
use taipan_transfer::{
    Engine, EngineOptions, Expected, FetchError, Fetched, Job, Sha256, Silent, Target,
};
use taipan_zchunk::{WriterOptions, write_to_vec};

use tokio::time::timeout;

use crate::world::*;

/// Many chunks, of which each version differs from the one before in a few places.
fn version(number: usize) -> Vec<u8> {
    let mut bytes = content(9, 1_500_000).to_vec();
    for change in 0..number {
        for place in 0..3 {
            bytes[100_000 + change * 7_000 + place * 450_000] ^= 1;
        }
    }
    bytes
}

fn zck(content: &[u8]) -> Bytes {
    write_to_vec(content, WriterOptions::default())
        .unwrap()
        .0
        .into()
}

fn engine() -> Engine {
    Engine::new(EngineOptions::default(), Arc::new(Silent))
}

fn world(new: &Bytes, scripts: Vec<Script>) -> World {
    World::new(BTreeMap::from([("x.zck".to_owned(), new.clone())]), scripts)
}

fn job() -> Job {
    Job::metadata("x.zck", Target::path("x.zck"))
}

async fn fetch(
    world: &World,
    job: &Job,
    dir: &Path,
    old: Option<&Bytes>,
) -> Result<Fetched, FetchError> {
    let path = dir.join("x.zck");
    let from = dir.join("old.zck");
    if let Some(old) = old {
        std::fs::write(&from, old).unwrap();
    }
    let fetched = engine().fetch_zchunk(&world.set, job, &[from], &path).await;
    world.assert_idle();
    if fetched.is_ok() {
        assert!(
            std::fs::read(&path).unwrap() == world.files["x.zck"],
            "a wrong file"
        );
    } else {
        assert!(!path.exists());
    }
    assert!(!dir.join("x.zck.taipan-part").exists());
    fetched
}

fn good(count: usize) -> Vec<Script> {
    (0..count).map(|_| acts([Act::Good])).collect()
}

#[tokio::test(start_paused = true)]
async fn only_new_chunks_are_fetched() {
    let (old, new) = (zck(&version(0)), zck(&version(1)));
    let dir = tempfile::tempdir().unwrap();
    let world = world(&new, good(2));
    let fetched = fetch(&world, &job(), dir.path(), Some(&old)).await.unwrap();
    let (delta, size) = (fetched.delta.unwrap(), fetched.file.unwrap().1);
    assert_eq!(size, new.len() as u64);
    assert_eq!(delta.ranges, 3);
    assert_eq!(fetched.wasted, 0);
    let whole = delta.header_bytes + delta.reused_bytes + delta.fetched_bytes;
    assert_eq!(whole, size);
    assert!(delta.fetched_bytes < size / 4, "{delta:?}");
}

#[tokio::test(start_paused = true)]
async fn an_identical_file_needs_only_its_header() {
    let new = zck(&version(1));
    let dir = tempfile::tempdir().unwrap();
    let world = world(&new, good(1));
    let fetched = fetch(&world, &job(), dir.path(), Some(&new)).await.unwrap();
    let delta = fetched.delta.unwrap();
    assert_eq!((delta.fetched_bytes, delta.ranges), (0, 0));
    assert_eq!(world.log(0).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_reusable_chunks_the_whole_file_is_fetched_in_segments() {
    let new = zck(&version(1));
    for old in [None, Some(Bytes::from_static(b"no zchunk file"))] {
        let dir = tempfile::tempdir().unwrap();
        let world = world(&new, good(3));
        let fetched = fetch(&world, &job(), dir.path(), old.as_ref())
            .await
            .unwrap();
        assert_eq!(fetched.delta.unwrap().reused_bytes, 0);
        assert!(
            (0..3)
                .filter(|mirror| !world.log(*mirror).is_empty())
                .count()
                > 1
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_chunk_accuses_its_mirror_and_is_fetched_from_another() {
    let (old, new) = (zck(&version(0)), zck(&version(4)));
    for liar in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let lies: Script = Box::new(|wanted| {
            if wanted > 0 {
                Act::Corrupt(wanted + 9)
            } else {
                Act::Good
            }
        });
        let mut scripts = good(2);
        scripts[liar] = lies;
        let world = world(&new, scripts);
        let fetched = fetch(&world, &job(), dir.path(), Some(&old)).await.unwrap();
        let liars: Vec<bool> = world.set.reports().iter().map(|r| r.quarantined).collect();
        if fetched.attempts.is_empty() {
            assert_eq!(
                world.log(liar).iter().filter(|entry| entry.0 > 0).count(),
                0
            );
        } else {
            assert!(
                fetched
                    .attempts
                    .iter()
                    .all(|attempt| attempt.class == Class::Corrupt)
            );
            assert_eq!(liars, [liar == 0, liar == 1]);
            assert!(
                fetched.wasted < fetched.delta.unwrap().fetched_bytes,
                "{fetched:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_with_another_version_is_excluded() {
    // The header comes from the first mirror with a response. Chunks that do not match it are
    // refused, and their mirror is excluded.
    let (old, new) = (zck(&version(0)), zck(&version(2)));
    let dir = tempfile::tempdir().unwrap();
    let world = world(&new, vec![acts([Act::Good]), acts([Act::WrongTotal])]);
    fetch(&world, &job(), dir.path(), Some(&old)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_damaged_chunks_of_an_old_file_are_fetched() {
    let (old, new) = (zck(&version(0)), zck(&version(1)));
    let mut damaged = old.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    let world = world(&new, good(2));
    fetch(&world, &job(), dir.path(), Some(&damaged.into()))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn other_files_and_other_digests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let html = Bytes::from(vec![b'<'; 100_000]);
    let world_of_html = world(&html, good(2));
    let error = fetch(&world_of_html, &job(), dir.path(), None)
        .await
        .unwrap_err();
    assert!(error.is_corrupt(), "{error}");

    let new = zck(&version(1));
    let mut job = job();
    job.expected = Expected {
        sha256: Some(Sha256::of(b"another")),
        ..Expected::default()
    };
    let world = world(&new, good(1));
    let error = fetch(&world, &job, dir.path(), None).await.unwrap_err();
    assert!(matches!(error, FetchError::Wrong { .. }), "{error}");
    assert!(error.is_corrupt());
}

#[tokio::test(start_paused = true)]
async fn a_zchunk_job_waits_for_a_slot() {
    let new = zck(&version(1));
    let dir = tempfile::tempdir().unwrap();
    let (busy, free) = (
        World::one(1_000, vec![acts([Act::Hang])]),
        world(&new, good(1)),
    );
    let options = EngineOptions {
        slots: 1,
        ..EngineOptions::default()
    };
    let engine = Engine::new(options, Arc::new(Silent));
    let path = dir.path().join("x.zck");
    let waiting = busy.job("f");
    let holding = busy.fetch(&engine, &waiting);
    tokio::pin!(holding);
    assert!(
        timeout(SECOND, &mut holding).await.is_err(),
        "it has the slot"
    );
    let job = job();
    let second = engine.fetch_zchunk(&free.set, &job, &[], &path);
    assert!(timeout(SECOND, second).await.is_err());
    assert_eq!(free.log(0), []);
}

#[tokio::test(start_paused = true)]
async fn faults_of_every_kind_lose_no_zchunk_file() {
    let (old, new) = (zck(&version(0)), zck(&version(6)));
    for seed in 0..200_u64 {
        let dir = tempfile::tempdir().unwrap();
        let scripts = (0..4_u64)
            .map(|mirror| {
                let mut count = 0;
                let script: Script = Box::new(move |_| {
                    count += 1;
                    if seed % 4 == mirror {
                        return Act::Good;
                    }
                    let random = mix(seed ^ mix(mirror ^ mix(count)));
                    // A wrong header would be trusted, because the job has no digest.
                    match crate::any(random, 300_000) {
                        Act::Corrupt(at) => Act::Corrupt(at + 100_000),
                        other => other,
                    }
                });
                script
            })
            .collect();
        let world = world(&new, scripts);
        if let Err(error) = fetch(&world, &job(), dir.path(), Some(&old)).await {
            panic!("seed {seed}: {error}");
        }
    }
}
