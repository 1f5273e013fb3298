//! Written files are read back, for all options and all sizes of pieces.

#![allow(clippy::cast_possible_truncation, reason = "tests of small numbers")]

mod common;

use std::io::{Cursor, Read};

use proptest::prelude::*;
use taipan_zchunk::{
    Archive, Boundaries, Buzhash, Compression, Encoding, Error, HashKind, Header, Limits, Reader,
    StreamDecoder, Writer, WriterOptions, extract, train_dictionary, write_to_vec,
};

fn read_all(file: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    Reader::new(file, &Limits::default())
        .unwrap()
        .read_to_end(&mut content)
        .unwrap();
    content
}

fn push_all(file: &[u8], step: usize) -> Vec<u8> {
    let mut decoder = StreamDecoder::new(Limits::default());
    let mut content = Vec::new();
    for piece in file.chunks(step) {
        decoder
            .push(piece, |_, bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
    }
    decoder.finish().unwrap();
    content
}

fn every_way(file: &[u8], content: &[u8], step: usize) {
    assert!(read_all(file) == content, "by Read");
    assert!(push_all(file, step) == content, "by pushing");
    let mut out = Vec::new();
    extract(&mut &file[..], &mut out, &Limits::default()).unwrap();
    assert!(out == content, "by extracting");
    let mut archive = Archive::open(Cursor::new(file), &Limits::default()).unwrap();
    for index in (1..archive.header().chunk_count()).rev() {
        let chunk = archive.header().chunk(index);
        let range = chunk.raw_offset as usize..(chunk.raw_offset + chunk.raw_len) as usize;
        assert!(
            archive.chunk(index).unwrap() == content[range],
            "by random access"
        );
        assert_eq!(archive.stored_chunk(index).unwrap().len() as u64, chunk.len);
    }
    assert!(archive.chunk(archive.header().chunk_count()).is_err());
}

#[test]
fn every_input_round_trips_under_every_checksum_and_encoding() {
    for (name, content) in common::inputs() {
        for hash in HashKind::ALL {
            for encoding in [Encoding::None, Encoding::zstd(1)] {
                let options = WriterOptions {
                    hash,
                    chunk_hash: hash,
                    encoding,
                    ..Default::default()
                };
                let (file, written) = write_to_vec(&content, options).unwrap();
                assert_eq!(written.header().file_len(), file.len() as u64, "{name}");
                assert_eq!(written.header().raw_len(), content.len() as u64, "{name}");
                every_way(&file, &content, 10_007);
            }
        }
    }
}

#[test]
fn flag_4_carries_both_checksums_and_needs_a_strong_one() {
    let content = common::json(200_000, 3);
    let options = WriterOptions::default().with_uncompressed_source();
    let (file, written) = write_to_vec(&content, options).unwrap();
    every_way(&file, &content, 999);
    let header = written.header();
    assert!(header.has_uncompressed_source() && header.data_digest().is_none());
    for chunk in header.chunks().skip(1) {
        let range = chunk.raw_offset as usize..(chunk.raw_offset + chunk.raw_len) as usize;
        assert_eq!(
            chunk.raw_digest,
            Some(HashKind::Sha256.digest(&content[range]))
        );
    }
    for chunk_hash in [HashKind::Sha1, HashKind::Sha512_128] {
        let options = WriterOptions {
            uncompressed_source: true,
            chunk_hash,
            ..Default::default()
        };
        assert!(Writer::new(options).is_err());
    }
}

#[test]
fn a_trained_dictionary_shrinks_small_chunks_and_is_in_the_detached_header() {
    let content = common::json(300_000, 4);
    let lines: Vec<&[u8]> = content.split_inclusive(|&b| b == b'\n').collect();
    let dictionary = train_dictionary(&lines, 8 << 10).unwrap();
    assert_eq!(dictionary, train_dictionary(&lines, 8 << 10).unwrap());
    let file = |dictionary: Vec<u8>| {
        let options = WriterOptions::default()
            .with_manual_boundaries()
            .with_element(99, b"kept".to_vec())
            .with_dictionary(dictionary);
        let mut writer = Writer::new(options).unwrap();
        for line in &lines {
            writer.push(line).unwrap();
            writer.end_chunk().unwrap();
        }
        let mut out = Vec::new();
        let written = writer.finish(&mut out).unwrap();
        (out, written)
    };
    let (without, _) = file(Vec::new());
    let (with, written) = file(dictionary.clone());
    assert!(
        with.len() < without.len() * 9 / 10,
        "{} {}",
        with.len(),
        without.len()
    );
    every_way(&with, &content, 77);

    let detached = written.detached();
    let header = Header::parse(&detached, &Limits::default()).unwrap();
    assert!(header.is_detached());
    assert_eq!(header.element(99), Some(&b"kept"[..]));
    assert_eq!(header.chunk_count(), lines.len() + 1);
    assert_eq!(header.as_bytes(), written.header().as_bytes());
    assert_eq!(detached.len() as u64, header.len() + header.chunk(0).len);
    let mut archive = Archive::open(Cursor::new(&detached), &Limits::default()).unwrap();
    assert_eq!(archive.dictionary(), dictionary);
    assert!(archive.chunk(1).is_err());
    let mut decoder = StreamDecoder::new(Limits::default());
    decoder
        .push(&detached, |_, _| panic!("a detached header has no chunks"))
        .unwrap();
    decoder.finish().unwrap();
}

#[test]
fn the_output_does_not_depend_on_spool_and_threads() {
    let content = common::json(3_000_000, 5);
    let (file, _) = write_to_vec(&content, WriterOptions::default()).unwrap();
    let spool = tempfile::tempfile().unwrap();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let mut out = Vec::new();
    pool.install(|| {
        let mut writer = Writer::with_spool(WriterOptions::default(), spool).unwrap();
        for piece in content.chunks(4097) {
            writer.push(piece).unwrap();
        }
        writer.finish(&mut out).unwrap();
    });
    assert!(file == out);
}

#[test]
fn a_stored_chunk_is_copied_unchanged() {
    let content = common::json(100_000, 6);
    let (file, written) = write_to_vec(&content, WriterOptions::default()).unwrap();
    let mut archive = Archive::open(Cursor::new(&file), &Limits::default()).unwrap();
    let mut writer = Writer::new(WriterOptions::default()).unwrap();
    for index in 1..written.header().chunk_count() {
        let (content, stored) = (
            archive.chunk(index).unwrap(),
            archive.stored_chunk(index).unwrap(),
        );
        writer.push_stored(&content, &stored).unwrap();
    }
    let mut again = Vec::new();
    writer.finish(&mut again).unwrap();
    assert!(again == file);
}

#[test]
fn the_header_declares_no_compression() {
    let options = WriterOptions::default().with_encoding(Encoding::None);
    let (_, written) = write_to_vec(b"plain", options).unwrap();
    assert_eq!(written.header().compression(), Compression::None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_content_any_boundaries_any_options(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..30),
        hash in 0usize..4,
        chunk_hash in 0usize..4,
        level in -3i32..20,
        none: bool,
        uncompressed_source: bool,
        auto in prop::option::of((4u32..12, 1usize..100, 100usize..4000)),
        elements in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)), 0..4),
        dictionary in prop::collection::vec(any::<u8>(), 0..200),
        step in 1usize..5000,
    ) {
        let mut options = WriterOptions {
            hash: HashKind::ALL[hash],
            chunk_hash: HashKind::ALL[chunk_hash],
            encoding: if none { Encoding::None } else { Encoding::zstd(level) },
            boundaries: auto.map_or(Boundaries::MANUAL, |(bits, min, max)| {
                Boundaries::Auto(Buzhash { bits, min, max })
            }),
            dictionary,
            ..Default::default()
        };
        for (id, data) in &elements {
            options = options.with_element(*id, data.clone());
        }
        if uncompressed_source {
            options = options.with_uncompressed_source();
        }
        let mut writer = Writer::new(options).unwrap();
        for piece in &pieces {
            writer.push(piece).unwrap();
            writer.end_chunk().unwrap();
        }
        let mut file = Vec::new();
        let written = writer.finish(&mut file).unwrap();
        prop_assert_eq!(written.header().elements().len(), elements.len());
        every_way(&file, &pieces.concat(), step);
    }
}

#[test]
fn extraction_works_within_a_pool_of_one_thread_and_ends_at_the_first_bad_chunk() {
    let content = common::json(2_000_000, 15);
    let (mut file, written) = write_to_vec(&content, WriterOptions::default()).unwrap();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let run = |file: &[u8]| {
        let mut out = Vec::new();
        let result = pool.install(|| extract(&mut &file[..], &mut out, &Limits::default()));
        (result, out)
    };
    let (result, out) = run(&file);
    assert!(result.is_ok() && out == content);
    let middle = written.header().chunk(written.header().chunk_count() / 2);
    file[middle.offset as usize + 5] ^= 1;
    let (result, out) = run(&file);
    assert!(matches!(result, Err(Error::Digest { offset, .. }) if offset == middle.offset));
    assert!(out.len() as u64 <= middle.raw_offset && content.starts_with(&out));
}

/// A full disk.
struct Full;

impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Read for Full {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Ok(0)
    }
}

impl std::io::Seek for Full {
    fn seek(&mut self, _: std::io::SeekFrom) -> std::io::Result<u64> {
        Ok(0)
    }
}

#[test]
fn a_write_error_has_its_cause() {
    let content = common::json(500_000, 16);
    let mut writer = Writer::with_spool(WriterOptions::default(), Full).unwrap();
    let pushed = writer
        .push(&content)
        .and_then(|()| writer.finish(&mut Vec::new()));
    assert!(
        matches!(pushed, Err(Error::Write(cause)) if cause.kind() == std::io::ErrorKind::StorageFull)
    );
    let (file, _) = write_to_vec(&content, WriterOptions::default()).unwrap();
    assert!(matches!(
        extract(&mut &file[..], &mut Full, &Limits::default()),
        Err(Error::Write(_))
    ));
}
