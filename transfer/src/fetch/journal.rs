//! The journal of a partial: which ranges of the file are on disk.
//!
//! A header names the file by its key; a record follows for each range that was written. A record covers at most
//! a megabyte or 1/4096 of the file, so that a killed process loses no more.

use std::ops::Range;

use crate::{Expected, Sha256, fetch::range_map::RangeMap};

/// The first bytes of a journal.
const MAGIC: [u8; 8] = *b"taipan\x01\n";

/// Magic, length of the file and key, in bytes.
pub(crate) const HEADER: usize = 48;

/// The first byte of a range, the one after its last, and a check over both, in bytes.
const RECORD: usize = 24;

/// The longest journal that is read, in bytes.
pub(crate) const MAX_JOURNAL: u64 = 64 << 20;

/// At least this many bytes may be on disk without a record.
const MIN_UNRECORDED: u64 = 1 << 20;

/// However large the file, a connection writes no more records than this.
const MAX_RECORDS: u64 = 4096;

/// Identifies a file: a partial is resumed only for a file with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(Sha256);

impl Key {
    /// The key of a file that is named by its digest.
    pub(crate) fn of(expected: &Expected) -> Self {
        let digest = |text: Option<String>| text.unwrap_or_default();
        let sha256 = digest(expected.sha256.map(|digest| digest.to_string()));
        let md5 = digest(expected.md5.map(|digest| digest.to_string()));
        let sha512 = expected.sha512.map(|digest| format!(" {digest}"));
        let sha1 = expected.sha1.map(|digest| format!(" {digest}"));
        let others = digest(sha512) + &digest(sha1);
        Self::named(&format!("{sha256} {md5}{others}"))
    }

    /// The key of a file with another name that changes with its content.
    pub(crate) fn named(name: &str) -> Self {
        Self(Sha256::of(name.as_bytes()))
    }
}

/// How many bytes of a file of this length may be on disk without a record.
pub(crate) fn max_unrecorded(size: u64) -> u64 {
    MIN_UNRECORDED.max(size / MAX_RECORDS)
}

/// The header of the journal of a file.
pub(crate) fn header(size: u64, key: Key) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&size.to_le_bytes());
    header[16..].copy_from_slice(key.0.as_bytes());
    header
}

/// The records of these ranges.
pub(crate) fn records(ranges: &RangeMap<()>) -> Vec<u8> {
    let mut records = Vec::new();
    for (range, ()) in ranges.iter() {
        records.extend_from_slice(&range.start.to_le_bytes());
        records.extend_from_slice(&range.end.to_le_bytes());
        records.extend_from_slice(&check(range.start, range.end).to_le_bytes());
    }
    records
}

/// The ranges that a journal lists, all within `size`; `None` when it is not of this file.
pub(crate) fn parse(journal: &[u8], size: u64, key: Key) -> Option<RangeMap<()>> {
    let records = journal.strip_prefix(&header(size, key))?;
    let mut ranges = RangeMap::default();
    for record in records.chunks_exact(RECORD) {
        let number = |at: usize| {
            let bytes: [u8; 8] = record[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let range: Range<u64> = number(0)..number(8);
        // A record that was cut short, or never written, ends the journal.
        if number(16) != check(range.start, range.end) || range.is_empty() || range.end > size {
            break;
        }
        ranges.insert(range, ());
    }
    Some(ranges)
}

/// The check of a record, which detects zeros and incomplete writes.
fn check(start: u64, end: u64) -> u64 {
    (start ^ end.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7461_6970_616e_2121
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_lists_the_ranges_that_were_recorded() {
        let key = Key::named("x");
        let mut ranges = RangeMap::default();
        ranges.insert(10..20, ());
        ranges.insert(50..90, ());
        let mut journal = header(100, key).to_vec();
        journal.extend(records(&ranges));
        assert_eq!(parse(&journal, 100, key), Some(ranges.clone()));
        assert_eq!(parse(&journal, 101, key), None, "of another length");
        assert_eq!(
            parse(&journal, 100, Key::named("y")),
            None,
            "of another file"
        );
        ranges.remove(50..90);
        let cut = journal.len() - 1;
        assert_eq!(parse(&journal[..cut], 100, key), Some(ranges));
    }
}
