use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use serde_json::json;

use super::tests::{FORMAT, building, key, temporary};
use super::*;
use crate::archive::samples::{Tar, conda, sample};
use crate::archive::{ArchiveError, ExtractLimits};

fn start(store: &Store) -> (StreamingExtraction, PathBuf) {
    let extraction = building(store.begin(&key(1)).unwrap());
    let dest = extraction.dest().to_owned();
    (
        StreamingExtraction::start(extraction, FORMAT, ExtractLimits::default()),
        dest,
    )
}

#[tokio::test]
async fn a_stream_is_unpacked_as_it_comes() {
    let (_dir, store) = temporary();
    let (mut stream, dest) = start(&store);
    let archive = sample(FORMAT);
    for chunk in archive.chunks(100) {
        stream.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    let (extraction, summary) = stream.finish().await.unwrap();
    assert_eq!(summary.archive_bytes, archive.len() as u64);
    assert!(dest.join("bin/tool").exists());
    assert_eq!(store.get(&key(1)).unwrap(), None);
    assert_eq!(extraction.commit(&json!({})).unwrap().size, summary.bytes);
}

#[tokio::test]
async fn a_stream_larger_than_the_queue_is_unpacked_whole() {
    let (_dir, store) = temporary();
    let (mut stream, _) = start(&store);
    // Bytes that do not compress.
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(400_000)
    .flatten()
    .collect();
    let archive = conda(Tar::info(), Tar::new().file("noise", &noise));
    assert!(archive.len() > 3 << 20);
    for chunk in archive.chunks(16 << 10) {
        stream.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    let (extraction, _) = stream.finish().await.unwrap();
    assert!(fs::read(extraction.dest().join("noise")).unwrap() == noise);
}

#[tokio::test]
async fn a_short_stream_fails_and_is_cleaned() {
    let (_dir, store) = temporary();
    let (mut stream, dest) = start(&store);
    let archive = sample(FORMAT);
    stream
        .write(Bytes::copy_from_slice(&archive[..200]))
        .await
        .unwrap();
    let error = stream.finish().await.unwrap_err();
    assert!(matches!(error, ArchiveError::Truncated { .. }), "{error:?}");
    assert!(!dest.exists());
    assert!(store.try_begin(&key(1)).unwrap().is_some());
}

#[tokio::test]
async fn a_failure_reaches_the_writer_with_its_reason() {
    let (_dir, store) = temporary();
    let (mut stream, dest) = start(&store);
    // More than the queue holds, so the writer must hear of it.
    let error = loop {
        if let Err(error) = stream.write(Bytes::from(vec![b'<'; 300_000])).await {
            break error;
        }
    };
    assert!(
        matches!(error, ArchiveError::NotAnArchive { .. }),
        "{error:?}"
    );
    assert!(!dest.exists());
    assert!(matches!(
        stream.write(Bytes::from_static(b"x")).await,
        Err(ArchiveError::Lost)
    ));
    assert!(matches!(stream.finish().await, Err(ArchiveError::Lost)));
}

#[tokio::test]
async fn an_aborted_stream_leaves_nothing() {
    let (_dir, store) = temporary();
    for written in [0, 200, usize::MAX] {
        let (mut stream, dest) = start(&store);
        let archive = sample(FORMAT);
        let part = &archive[..written.min(archive.len())];
        stream.write(Bytes::copy_from_slice(part)).await.unwrap();
        stream.abort().await;
        assert!(!dest.exists());
        assert_eq!(store.get(&key(1)).unwrap(), None);
    }
}

#[tokio::test]
async fn a_dropped_stream_frees_its_key() {
    let (_dir, store) = temporary();
    let (mut stream, dest) = start(&store);
    stream
        .write(Bytes::copy_from_slice(&sample(FORMAT)[..200]))
        .await
        .unwrap();
    drop(stream);
    // Waits for the extraction's thread, which removes what it wrote before it lets go.
    let begun = tokio::task::spawn_blocking(move || store.begin(&key(1)).unwrap());
    building(begun.await.unwrap());
    assert!(!dest.exists());
}
