//! Followers of logs: any two versions, and any header that claims to continue one.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::{Input, sealed};
use taipan_zchunk::{
    CostModel, Encoding, Follower, Frame, Header, LAYOUT_ELEMENT, Limits, LogDictionary, LogFile,
    LogOptions, write_log,
};

const LIMITS: Limits = Limits {
    header: 1 << 16,
    chunks: 1 << 10,
    chunk: 1 << 18,
    total: 1 << 20,
};

fn write(previous: Option<&LogFile>, records: &BTreeMap<u8, u8>, slack_percent: u32) -> Vec<u8> {
    let frame = Frame {
        head: b"<".to_vec(),
        tail: b">".to_vec(),
        separator: b",".to_vec(),
        key_end: b":".to_vec(),
    };
    let options = LogOptions {
        encoding: Encoding::zstd(1),
        dictionary: LogDictionary::None,
        max_chunk: 60,
        slack_percent,
        min_chunk: 30,
        max_removed: 4,
    };
    let texts: Vec<String> = records
        .iter()
        .map(|(key, value)| format!("{key}:{value}"))
        .collect();
    let mut file = Vec::new();
    write_log(
        previous,
        &frame,
        texts.iter().map(|text| text.as_bytes()),
        &options,
        &mut file,
    )
    .unwrap();
    file
}

/// Whatever the target claims, the follower ends with what the target's reader would read, or
/// with an error.
fn follow(old: &LogFile, file: &[u8]) {
    let Ok(target) = Header::parse(file, &LIMITS) else {
        return;
    };
    let Ok(mut follower) = Follower::new(old, target) else {
        return;
    };
    for _ in 0..200 {
        if follower.is_complete() {
            break;
        }
        for range in follower.plan(&CostModel::default()).ranges() {
            let bytes = &file[range.start as usize..range.end as usize];
            if follower.push_range(range.start, bytes).is_err() {
                return;
            }
        }
        if follower.derive().is_err() {
            return;
        }
    }
    let Ok(new) = follower.finish() else { return };
    let expected = LogFile::read(&mut &file[..], &LIMITS);
    assert!(expected.is_ok_and(|expected| expected.content() == new.content()));
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let slack = u32::from(input.byte());
    let mut records = BTreeMap::new();
    let mut files: Vec<Vec<u8>> = Vec::new();
    for _ in 0..input.byte() % 6 + 1 {
        for _ in 0..input.byte() % 20 {
            let (key, value) = (input.byte(), input.byte());
            if value < 40 {
                records.remove(&key);
            } else {
                records.insert(key, value);
            }
        }
        let previous = files
            .last()
            .map(|file| LogFile::read(&mut &file[..], &LIMITS).unwrap());
        files.push(write(previous.as_ref(), &records, slack));
    }
    let last = &files[files.len() - 1];
    for file in &files {
        let old = LogFile::read(&mut &file[..], &LIMITS).unwrap();
        follow(&old, last);
        // The last file under an element that the input has damaged.
        let header = Header::parse(last, &LIMITS).unwrap();
        let mut element = header.element(LAYOUT_ELEMENT).unwrap().to_vec();
        let (at, by) = (usize::from(input.byte()), input.byte());
        let len = element.len();
        element[at % len] ^= by;
        let bytes = header.as_bytes();
        let plain = header.element(LAYOUT_ELEMENT).unwrap();
        let start = bytes
            .windows(len)
            .position(|window| window == plain)
            .unwrap();
        let lead = header.len() as usize - rest_len(bytes);
        let mut rest = bytes[lead..].to_vec();
        rest[start - lead..start - lead + len].copy_from_slice(&element);
        let mut damaged = sealed::sealed(header.hash(), &rest);
        damaged.extend_from_slice(&last[header.len() as usize..]);
        follow(&old, &damaged);
    }
    let any = sealed::file(&mut input);
    let old = LogFile::read(&mut &last[..], &LIMITS).unwrap();
    follow(&old, &any);
});

fn rest_len(bytes: &[u8]) -> usize {
    let lead = taipan_zchunk::Lead::parse(bytes, &LIMITS).unwrap().unwrap();
    lead.header_len() as usize - lead.lead_len()
}
