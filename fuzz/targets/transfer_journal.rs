//! Partials with any journal: the format of the journal is written here once more.

#![no_main]

use std::{fs, ops::Range};

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::Input;
use taipan_transfer::{Sha256, fuzzing::partial_ranges};

fn record(start: u64, end: u64) -> [u8; 24] {
    let check =
        (start ^ end.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7461_6970_616e_2121;
    let mut record = [0; 24];
    record[..8].copy_from_slice(&start.to_le_bytes());
    record[8..16].copy_from_slice(&end.to_le_bytes());
    record[16..].copy_from_slice(&check.to_le_bytes());
    record
}

/// The ranges that a list of records amounts to, byte by byte.
fn merged(records: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut bytes = vec![false; usize::try_from(size).unwrap() + 1];
    for range in records {
        bytes[range.start as usize..range.end as usize].fill(true);
    }
    let mut ranges = Vec::new();
    let mut start = None;
    for (at, here) in bytes.iter().enumerate() {
        match (here, start) {
            (true, None) => start = Some(at as u64),
            (false, Some(from)) => {
                ranges.push(from..at as u64);
                start = None;
            }
            _ => {}
        }
    }
    ranges
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let size = u64::from(input.byte()) * 4;
    let damage = input.byte();
    let mut file = vec![7; size as usize];
    file.extend_from_slice(b"taipan\x01\n");
    file.extend_from_slice(&size.to_le_bytes());
    file.extend_from_slice(Sha256::of(b"name").as_bytes());
    let mut records = Vec::new();
    let mut is_sound = true;
    for _ in 0..input.byte() % 16 {
        let (start, length, kind) = (input.byte(), input.byte(), input.byte());
        let (start, end) = (
            u64::from(start) * 4,
            u64::from(start) * 4 + u64::from(length),
        );
        let mut bytes = record(start, end);
        if kind > 240 {
            bytes[usize::from(kind) % 24] ^= 1;
        }
        file.extend_from_slice(&bytes);
        // The first record that is not sound ends the journal.
        is_sound &= kind <= 240 && start < end && end <= size;
        if is_sound {
            records.push(start..end);
        }
    }
    let is_intact = damage < 128 && size > 0;
    if damage & 1 == 1 {
        // A record that was cut short.
        file.extend_from_slice(input.take(23));
    }
    if !is_intact {
        while input.0.len() >= 3 {
            let at = usize::from(input.byte()) << 8 | usize::from(input.byte());
            let length = file.len();
            file[at % length] = input.byte();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.part");
    fs::write(&path, &file).unwrap();
    let found = partial_ranges(&path, size, "name").unwrap();
    assert_eq!(
        found,
        merged(&found, size),
        "in order, apart and within the size"
    );
    if is_intact {
        assert_eq!(found, merged(&records, size));
    }
    // What was opened is opened again with the same ranges, and not as another file.
    let again = partial_ranges(&path, size, "name").unwrap();
    assert_eq!(again, found);
    if found != merged(&[0..size], size) {
        assert_eq!(partial_ranges(&path, size, "other").unwrap(), []);
    }
});
