//! Compatibility with the C tools in both directions. Without them the tests are reported as skipped, or
//! fail with `TAIPAN_REQUIRE_REAL_SERVERS=1`.

#![allow(clippy::print_stderr, reason = "a test that skips says so")]

mod common;

use std::io::{Cursor, Read};
use std::path::Path;
use std::process::{Command, Output};

use taipan_zchunk::{
    Archive, Buzhash, Chunker, CostModel, Encoding, Frame, Goal, HashKind, Header, Limits, LogFile,
    LogOptions, Planner, Reader, Writer, WriterOptions, Written, extract, train_dictionary,
    write_log, write_to_vec,
};

fn have_tools() -> bool {
    let missing: Vec<&str> = ["zck", "unzck", "zck_read_header", "zck_delta_size"]
        .into_iter()
        .filter(|tool| Command::new(tool).arg("--version").output().is_err())
        .collect();
    if missing.is_empty() {
        return true;
    }
    let required = std::env::var("TAIPAN_REQUIRE_REAL_SERVERS").is_ok_and(|value| value == "1");
    assert!(!required, "not installed: {missing:?}");
    eprintln!("skipped: not installed: {missing:?}");
    false
}

fn run(folder: &Path, tool: &str, args: &[&str]) -> Output {
    let output = Command::new(tool)
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{tool} {args:?}: {} {stderr}",
        output.status
    );
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Chunk digests, lengths and offsets as `zck_read_header -c` lists them.
fn c_chunks(folder: &Path, name: &str) -> Vec<(String, u64, u64)> {
    let text = stdout(&run(folder, "zck_read_header", &["-c", name]));
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number: u64 = words.first()?.parse().ok()?;
            // The dictionary's entry is listed as chunk 0.
            let hex = words
                .iter()
                .position(|w| w.len() >= 32 && w.bytes().all(|b| b.is_ascii_hexdigit()))?;
            let rest: Vec<u64> = words[hex + 1..]
                .iter()
                .filter_map(|w| w.parse().ok())
                .collect();
            let _ = number;
            let [.., offset, len, _] = rest[..] else {
                return None;
            };
            Some((words[hex].to_owned(), offset, len))
        })
        .collect()
}

fn accepted_by_the_tools(folder: &Path, file: &[u8], header: &Header, content: &[u8]) {
    std::fs::write(folder.join("ours.zck"), file).unwrap();
    let _ = std::fs::remove_file(folder.join("ours"));
    run(folder, "unzck", &["ours.zck"]);
    assert!(
        std::fs::read(folder.join("ours")).unwrap() == content,
        "unzck"
    );
    run(folder, "zck_read_header", &["-q", "-f", "ours.zck"]);
    let listed = c_chunks(folder, "ours.zck");
    assert_eq!(
        listed.len(),
        header.chunk_count(),
        "zck_read_header lists all chunks"
    );
    for (chunk, (digest, offset, len)) in header.chunks().zip(&listed) {
        assert_eq!(chunk.digest.to_string(), *digest);
        assert_eq!((chunk.offset, chunk.len), (*offset, *len));
    }
}

#[test]
fn the_c_tools_accept_files_of_all_options() {
    if !have_tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = WriterOptions::default;
    for (name, content) in common::inputs() {
        let dictionary = train_dictionary(
            &common::json(200_000, 2)
                .chunks(200)
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>(),
            4 << 10,
        )
        .unwrap();
        let mut options = vec![
            base(),
            base().with_encoding(Encoding::None),
            base().with_encoding(Encoding::zstd(19)),
            base().with_dictionary(dictionary.clone()),
            base()
                .with_dictionary(dictionary)
                .with_uncompressed_source(),
            base()
                .with_element(20, b"one".to_vec())
                .with_element(1000, Vec::new()),
            base().with_manual_boundaries(),
        ];
        options.extend(HashKind::ALL.map(|kind| base().with_chunk_hash(kind)));
        options.extend(
            [HashKind::Sha1, HashKind::Sha256].map(|hash| WriterOptions { hash, ..base() }),
        );
        for options in options {
            eprintln!("{name} {options:?}");
            let (file, written) = write_to_vec(&content, options).unwrap();
            accepted_by_the_tools(folder.path(), &file, written.header(), &content);
        }
    }
}

#[test]
fn files_of_zck_are_read_and_have_the_same_boundaries() {
    if !have_tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, content) in common::inputs() {
        std::fs::write(folder.join("in"), &content).unwrap();
        for args in [
            &[][..],
            &["-u"],
            &["-h", "sha256"],
            &["-h", "sha512"],
            &["--compression-format", "none"],
            &["-m"],
        ] {
            let _ = std::fs::remove_file(folder.join("in.zck"));
            run(folder, "zck", &[args, &["-o", "in.zck", "in"]].concat());
            let file = std::fs::read(folder.join("in.zck")).unwrap();
            let mut read = Vec::new();
            let mut reader = Reader::new(&file[..], &Limits::default()).unwrap();
            reader.read_to_end(&mut read).unwrap();
            assert!(read == content, "{name} {args:?}");
            if args.contains(&"-m") {
                continue;
            }
            let theirs: Vec<u64> = reader
                .header()
                .chunks()
                .skip(2)
                .map(|chunk| chunk.raw_offset)
                .collect();
            let mut chunker = Chunker::new(Buzhash::default());
            let (mut ours, mut pos) = (Vec::new(), 0);
            while let Some(n) = chunker.next_cut(&content[pos..]) {
                pos += n;
                ours.push(pos as u64);
            }
            assert_eq!(ours, theirs, "{name} {args:?}");
        }
    }
}

/// Two versions of a document with a few changed items.
fn two_versions() -> (Vec<u8>, Vec<u8>) {
    let old = common::json(1_000_000, 7);
    let mut new = old.clone();
    for at in [100_000, 500_000, 500_100, 900_000] {
        new[at..at + 8].copy_from_slice(b"CHANGED!");
    }
    (old, new)
}

#[test]
fn plans_agree_with_zck_delta_size() {
    if !have_tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = two_versions();
    let write = |name: &str, content: &[u8]| -> Written {
        let (file, written) = write_to_vec(content, WriterOptions::default()).unwrap();
        std::fs::write(folder.path().join(name), file).unwrap();
        written
    };
    let (a, b) = (write("a.zck", &old), write("b.zck", &new));
    let mut planner = Planner::new(b.header(), Goal::File);
    planner.add_file(a.header());
    let plan = planner.plan(&CostModel::BYTES_ONLY);
    assert!(plan.missing_chunks() >= 3);
    let text = stdout(&run(folder.path(), "zck_delta_size", &["a.zck", "b.zck"]));
    let said = format!(
        "Would download {} of {} bytes",
        plan.update_bytes(),
        plan.full_bytes()
    );
    assert!(text.contains(&said), "{said}: {text}");
    let count = b.header().chunk_count();
    let said = format!(
        "Matched {} of {count} chunks",
        count - plan.missing_chunks()
    );
    assert!(text.contains(&said), "{said}: {text}");
}

#[test]
fn the_detached_header_is_that_of_unzck() {
    if !have_tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let content = common::json(300_000, 8);
    let lines: Vec<&[u8]> = content.split_inclusive(|&b| b == b'\n').collect();
    let dictionary = train_dictionary(&lines, 4 << 10).unwrap();
    let mut writer =
        Writer::new(WriterOptions::default().with_dictionary(dictionary.clone())).unwrap();
    writer.push(&content).unwrap();
    let mut file = Vec::new();
    let written = writer.finish(&mut file).unwrap();
    std::fs::write(folder.path().join("ours.zck"), &file).unwrap();
    run(folder.path(), "unzck", &["--header", "ours.zck"]);
    assert!(std::fs::read(folder.path().join("ours.zhr")).unwrap() == written.detached());
    let _ = run(folder.path(), "unzck", &["--dict", "ours.zck"]);
    let dumped = std::fs::read(folder.path().join("ours.zdict")).unwrap();
    assert!(dumped == dictionary);
    let archive = Archive::open(Cursor::new(&file), &Limits::default()).unwrap();
    assert!(archive.dictionary() == dumped);
}

#[test]
fn fifty_megabytes_are_compatible_in_both_directions() {
    if !have_tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let content = common::json(50 << 20, 21);
    let options = WriterOptions::default().with_encoding(Encoding::zstd(1));
    let (file, written) = write_to_vec(&content, options).unwrap();
    accepted_by_the_tools(folder, &file, written.header(), &content);
    std::fs::write(folder.join("in"), &content).unwrap();
    run(
        folder,
        "zck",
        &["--compression-format", "none", "-o", "in.zck", "in"],
    );
    let theirs = std::fs::read(folder.join("in.zck")).unwrap();
    let mut read = Vec::new();
    extract(&mut &theirs[..], &mut read, &Limits::default()).unwrap();
    assert!(read == content);
    let theirs = Header::parse(&theirs, &Limits::default()).unwrap();
    let cuts =
        |header: &Header| -> Vec<u64> { header.chunks().map(|chunk| chunk.raw_offset).collect() };
    assert!(cuts(&theirs) == cuts(written.header()));
}

#[test]
fn the_c_tools_read_a_log_as_an_ordinary_file() {
    if !have_tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let frame = Frame::json(b"{\n", b"\n}\n");
    let mut previous: Option<LogFile> = None;
    for version in 0..4u64 {
        let records: Vec<String> = (version * 7..500 + version * 20)
            .map(|n| format!("\"item-{n:04}\":{{\"size\":{}}}", common::Random(n).next()))
            .collect();
        let mut file = Vec::new();
        let written = write_log(
            previous.as_ref(),
            &frame,
            records.iter().map(String::as_bytes),
            &LogOptions::default(),
            &mut file,
        )
        .unwrap();
        let log = LogFile::read(&mut &file[..], &Limits::default()).unwrap();
        accepted_by_the_tools(folder, &file, written.header(), log.content());
        previous = Some(log);
    }
}
