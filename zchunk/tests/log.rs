//! The log layout: with any changes of records, every follower ends with the newer content.

#![allow(clippy::cast_possible_truncation, reason = "tests of small numbers")]

mod common;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use proptest::prelude::*;
use taipan_zchunk::{
    Archive, CostModel, Encoding, Error, Field, Follower, Form, Frame, Goal, Header,
    LAYOUT_ELEMENT, Limits, LogDictionary, LogFile, LogOptions, Planner, Reader, WriterOptions,
    write_log, write_to_vec,
};

type Records = BTreeMap<String, String>;

fn record(key: &str, version: u64) -> String {
    let mut random = common::Random(version);
    let (digest, size) = (random.next(), random.below(100_000));
    format!("\"{key}\":{{\"digest\":\"{digest:016x}\",\"needs\":[\"base\"],\"size\":{size}}}")
}

fn write(
    previous: Option<&LogFile>,
    frame: &Frame,
    records: &Records,
    options: &LogOptions,
) -> Vec<u8> {
    let mut file = Vec::new();
    let records = records.values().map(String::as_bytes);
    write_log(previous, frame, records, options, &mut file).unwrap();
    file
}

fn read(file: &[u8]) -> LogFile {
    LogFile::read(&mut &file[..], &Limits::default()).unwrap()
}

/// Follows, and returns the number of fetched bytes and rounds.
fn follow(old: &LogFile, file: &[u8]) -> (LogFile, u64, u32) {
    let target = Header::parse(file, &Limits::default()).unwrap();
    let (mut bytes, mut rounds, mut steps) = (target.len(), 0, 0);
    let mut follower = Follower::new(old, target).unwrap();
    while !follower.is_complete() {
        let plan = follower.plan(&CostModel::BYTES_ONLY);
        rounds += u32::from(!plan.ranges().is_empty());
        steps += 1;
        assert!(steps < 100, "a follower that never arrives");
        bytes += plan.fetch_bytes();
        for range in plan.ranges() {
            let piece = &file[range.start as usize..range.end as usize];
            assert!(
                follower
                    .push_range(range.start, piece)
                    .unwrap()
                    .bad
                    .is_empty()
            );
        }
        follower.derive().unwrap();
    }
    (follower.finish().unwrap(), bytes, rounds)
}

#[derive(Debug, Clone)]
enum Change {
    Put(u8, u64),
    Remove(u8),
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change = prop_oneof![
        3 => (any::<u8>(), 0u64..50).prop_map(|(key, version)| Change::Put(key, version)),
        1 => any::<u8>().prop_map(Change::Remove),
    ];
    prop::collection::vec(prop::collection::vec(change, 0..25), 1..9)
}

fn options() -> impl Strategy<Value = LogOptions> {
    let dictionary = prop::sample::select(vec![
        LogDictionary::None,
        LogDictionary::Trained(2000),
        LogDictionary::Given(b"\"digest\":\"0123\",\"needs\":[\"base\"]".to_vec()),
    ]);
    (
        dictionary,
        60usize..5000,
        0u32..300,
        0usize..200,
        prop::sample::select(vec![0, 3, 256]),
        1i32..6,
    )
        .prop_map(
            |(dictionary, max_chunk, slack_percent, min_chunk, max_removed, level)| LogOptions {
                encoding: Encoding::zstd(level),
                dictionary,
                max_chunk,
                slack_percent,
                min_chunk,
                max_removed,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_follower_of_every_history_arrives(
        history in changes(),
        options in options(),
        head in prop::sample::select(vec!["", "{\"all\":{\n"]),
        tail in prop::sample::select(vec!["", "\n}}\n"]),
        new_tail: bool,
        forget_at in prop::option::of(1usize..8),
    ) {
        let mut frame = Frame::json(head.as_bytes(), tail.as_bytes());
        let mut records = Records::new();
        let mut files: Vec<Vec<u8>> = Vec::new();
        for (n, changes) in history.iter().enumerate() {
            for change in changes {
                match *change {
                    Change::Put(key, version) => {
                        let key = format!("item-{key}");
                        let record = record(&key, version);
                        records.insert(key, record);
                    }
                    Change::Remove(key) => {
                        records.remove(&format!("item-{key}"));
                    }
                }
            }
            if new_tail && n == 2 {
                frame.tail.extend_from_slice(b" ");
                frame.head.extend_from_slice(b" ");
            }
            // Sometimes the writer has no previous file and starts a new series.
            let previous = files.last().filter(|_| forget_at != Some(n)).map(|file| read(file));
            let file = write(previous.as_ref(), &frame, &records, &options);
            prop_assert_eq!(&file, &write(previous.as_ref(), &frame, &records, &options));

            // Any reader reads it.
            let mut content = Vec::new();
            Reader::new(&file[..], &Limits::default()).unwrap().read_to_end(&mut content).unwrap();
            let new = read(&file);
            prop_assert!(new.content() == content);
            let mut found: Vec<&[u8]> = new.records().collect();
            found.sort_unstable();
            let mut expected: Vec<&[u8]> = records.values().map(String::as_bytes).collect();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
            prop_assert!(content.starts_with(&frame.head) && content.ends_with(&frame.tail));

            for old in &files {
                let old = read(old);
                let (followed, bytes, rounds) = follow(&old, &file);
                prop_assert!(followed.content() == content);
                prop_assert!(bytes <= file.len() as u64);
                // A follower may start from the content of its last update.
                let kept = LogFile::from_content(
                    &followed.detached(), followed.content().to_vec(), &Limits::default(),
                ).unwrap();
                prop_assert_eq!(kept.header(), new.header());
                if options.max_removed >= 256 && forget_at.is_none() {
                    prop_assert!(rounds <= 1, "{} rounds", rounds);
                }
            }
            files.push(file);
        }
    }
}

fn grown(from: u64, to: u64) -> Records {
    (from..to)
        .map(|n| (format!("item-{n:05}"), record(&format!("item-{n:05}"), n)))
        .collect()
}

fn json_frame() -> Frame {
    Frame::json(b"{\"info\":{\"a\":1},\"all\":{\n", b"\n}}\n")
}

#[test]
fn the_document_is_valid_json_and_unchanged_content_costs_only_the_header() {
    let records = grown(0, 2000);
    let options = LogOptions::default();
    let first = write(None, &json_frame(), &records, &options);
    let old = read(&first);
    let document: serde_json::Value = serde_json::from_slice(old.content()).unwrap();
    assert_eq!(document["all"].as_object().unwrap().len(), 2000);
    let second = write(Some(&old), &json_frame(), &records, &options);
    let (followed, bytes, _) = follow(&old, &second);
    assert_eq!(followed.layout().generation(), 2);
    let header = followed.header();
    // The tail is a chunk of its own now.
    assert_eq!(
        bytes,
        header.len() + header.chunk(header.chunk_count() - 1).len
    );
    // The same version again costs only its header.
    let (_, bytes, rounds) = follow(&followed, &second);
    assert_eq!((bytes, rounds), (header.len(), 0));
}

#[test]
fn a_follower_fetches_new_records_and_derives_thinned_and_merged_chunks() {
    let options = LogOptions::default();
    let mut records = grown(0, 3000);
    let mut files = vec![write(None, &json_frame(), &records, &options)];
    for n in 0..40u64 {
        records.extend(grown(3000 + n * 20, 3020 + n * 20));
        for changed in 0..5 {
            let key = format!("item-{:05}", (n * 37 + changed * 501) % 3000);
            let text = record(&key, 1_000_000 + n);
            records.insert(key, text);
        }
        records.remove(&format!("item-{:05}", n * 61));
        let previous = read(files.last().unwrap());
        files.push(write(Some(&previous), &json_frame(), &records, &options));
    }
    let last = files.last().unwrap();
    let content = read(last).content().to_vec();
    let chunks = read(last).header().chunk_count();
    assert!(chunks < 30, "{chunks} chunks");
    for back in [1, 2, 8, 31, 40] {
        let old = read(&files[files.len() - 1 - back]);
        let (followed, bytes, rounds) = follow(&old, last);
        assert!(followed.content() == content);
        assert_eq!(rounds, 1, "{back} back");
        // 25 records of about 30 incompressible bytes per version.
        let lacked = back as u64 * 25 * 34;
        assert!(bytes < lacked * 3 / 2 + 2000, "{back} back: {bytes}");
        // A client that does not know the layout fetches more.
        let target = followed.header();
        let mut planner = Planner::new(target, Goal::File);
        planner.add_file(old.header());
        assert!(planner.plan(&CostModel::BYTES_ONLY).update_bytes() > bytes);
    }
}

#[test]
fn a_removal_that_the_header_no_longer_lists_costs_only_a_second_round() {
    let options = LogOptions {
        max_removed: 0,
        max_chunk: 20_000,
        ..Default::default()
    };
    let mut records = grown(0, 3000);
    let old = read(&write(None, &json_frame(), &records, &options));
    records.remove("item-01500");
    records.extend(grown(5000, 5005));
    let new = write(Some(&old), &json_frame(), &records, &options);
    let (followed, bytes, rounds) = follow(&old, &new);
    assert_eq!(rounds, 2);
    assert!(followed.content() == read(&new).content());
    // One chunk of several could not be derived.
    let largest = followed
        .header()
        .chunks()
        .map(|chunk| chunk.len)
        .max()
        .unwrap();
    assert!(bytes < followed.header().len() + 1000 + largest, "{bytes}");
}

#[test]
fn another_series_with_the_same_generations_is_recognised() {
    let options = LogOptions::default();
    let base = grown(0, 500);
    let old = read(&write(None, &json_frame(), &base, &options));
    let fork = |from| {
        let records: Records = base
            .clone()
            .into_iter()
            .chain(grown(from, from + 30))
            .collect();
        write(Some(&old), &json_frame(), &records, &options)
    };
    let (a, b) = (read(&fork(1000)), fork(2000));
    let (followed, _, _) = follow(&a, &b);
    assert!(followed.content() == read(&b).content());
    // A file without the layout is refused.
    let (plain, written) = write_to_vec(b"plain", WriterOptions::default()).unwrap();
    assert!(matches!(
        LogFile::read(&mut &plain[..], &Limits::default()),
        Err(Error::Inconsistent {
            field: Field::Layout,
            ..
        })
    ));
    assert!(Follower::new(&a, written.header().clone()).is_err());
}

#[test]
fn a_corrupt_old_file_and_wrong_bytes_are_detected() {
    let options = LogOptions::default();
    let mut records = grown(0, 500);
    let old = read(&write(None, &json_frame(), &records, &options));
    let mut content = old.content().to_vec();
    content[2000] ^= 1;
    assert!(matches!(
        LogFile::from_content(&old.detached(), content, &Limits::default()),
        Err(Error::Digest {
            field: Field::ChunkRawDigest,
            ..
        })
    ));
    records.extend(grown(600, 610));
    let file = write(Some(&old), &json_frame(), &records, &options);
    let target = Header::parse(&file, &Limits::default()).unwrap();
    let mut follower = Follower::new(&old, target).unwrap();
    let plan = follower.plan(&CostModel::default());
    let range = plan.ranges()[0].clone();
    let mut piece = file[range.start as usize..range.end as usize].to_vec();
    piece[3] ^= 1;
    let outcome = follower.push_range(range.start, &piece).unwrap();
    assert_eq!(outcome.bad.len(), 1);
    assert_eq!(follower.plan(&CostModel::default()).ranges(), plan.ranges());
    piece[3] ^= 1;
    follower.push_range(range.start, &piece).unwrap();
    follower.derive().unwrap();
    assert!(follower.finish().unwrap().content() == read(&file).content());
}

#[test]
fn records_that_the_layout_does_not_allow_are_refused() {
    let refused = |records: &[&str], frame: &Frame| {
        let records = records.iter().map(|record| record.as_bytes());
        let result = write_log(
            None,
            frame,
            records,
            &LogOptions::default(),
            &mut std::io::sink(),
        );
        result.map(|_| ()).unwrap_err().to_string()
    };
    let frame = json_frame();
    assert_eq!(
        refused(&["\"a\":1", "\"a\":2"], &frame),
        "record \"\\\"a\": another record has the same key"
    );
    assert_eq!(
        refused(&["\"a\":[1,\n2]"], &frame),
        "record \"\\\"a\": the separator stands inside it"
    );
    assert_eq!(refused(&[""], &frame), "record \"\": a record of no bytes");
    // `xa` followed by `aa` would be read as `x`, `aa`, `a`.
    let frame = Frame {
        separator: b"aa".to_vec(),
        ..Frame::default()
    };
    assert!(refused(&["xa", "y"], &frame).contains("separator"));
    assert!(refused(&["x"], &Frame::default()).contains("no bytes"));
}

#[test]
fn a_whole_file_continues_a_log_and_content_alone_gives_the_same_bytes() {
    let options = LogOptions::default();
    let mut records = grown(0, 800);
    let file = write(None, &json_frame(), &records, &options);
    let whole = read(&file);
    let mut again = Vec::new();
    whole.write_file(&mut again).unwrap();
    assert!(again == file);
    let content_only = LogFile::from_content(
        &whole.detached(),
        whole.content().to_vec(),
        &Limits::default(),
    )
    .unwrap();
    assert!(content_only.write_file(&mut again).is_err());
    records.extend(grown(900, 920));
    assert!(
        write(Some(&whole), &json_frame(), &records, &options)
            == write(Some(&content_only), &json_frame(), &records, &options)
    );
}

#[test]
fn a_store_of_contents_supplies_a_log_without_flag_4() {
    let file = write(None, &json_frame(), &grown(0, 50), &LogOptions::default());
    let mut archive = Archive::open(Cursor::new(&file), &Limits::default()).unwrap();
    let header = archive.header().clone();
    assert!(!header.has_uncompressed_source() && header.element(LAYOUT_ELEMENT).is_some());
    let mut planner = Planner::new(&header, Goal::Content);
    planner.add_store(|_| Some(Form::Content));
    let plan = planner.plan(&CostModel::default());
    assert_eq!(plan.fetch_bytes(), 0);
    let sink = Cursor::new(Vec::new());
    let mut assembler = taipan_zchunk::Assembler::new(header.clone(), &plan, sink).unwrap();
    for index in 1..header.chunk_count() {
        let content = archive.chunk(index).unwrap();
        assert_eq!(
            assembler
                .put_chunk(index, Form::Content, &content)
                .unwrap()
                .good,
            [index]
        );
    }
    assembler.finish().unwrap();
}

#[test]
fn a_log_that_has_grown_gets_a_new_dictionary_and_followers_fetch_only_that() {
    let options = LogOptions::default();
    let mut previous: Option<LogFile> = None;
    let mut dictionaries = std::collections::BTreeSet::new();
    let mut count = 20;
    while count < 6000 {
        let records = grown(0, count);
        let file = write(previous.as_ref(), &json_frame(), &records, &options);
        let new = read(&file);
        let dictionary = new.header().chunk(0);
        dictionaries.insert(dictionary.digest);
        if let Some(old) = &previous {
            let (followed, bytes, rounds) = follow(old, &file);
            assert!(rounds == 1 && followed.content() == new.content());
            let layout = new.layout();
            let last = new.header().chunks().skip(2 + layout.settled_chunks());
            let fresh: u64 = last.map(|chunk| chunk.len).sum();
            let changed = old.header().chunk(0).digest != dictionary.digest;
            let dictionary = if changed { dictionary.len } else { 0 };
            assert_eq!(bytes, new.header().len() + fresh + dictionary);
        }
        previous = Some(new);
        count += 1 + count / 4;
    }
    assert!(
        (2..6).contains(&dictionaries.len()),
        "{}",
        dictionaries.len()
    );
}
