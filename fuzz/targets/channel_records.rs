//! The records of an index in bounded memory: what is accepted is JSON, all readers find the same, and what is written of it is
//! an index with the same records.

#![no_main]

use std::io::BufReader;

use libfuzzer_sys::fuzz_target;
use taipan_channel::RecordTable;

fuzz_target!(|input: &[u8]| {
    let (capacity, text) = match input.split_first() {
        Some((first, rest)) => (usize::from(*first) + 1, rest),
        None => return,
    };
    let whole = RecordTable::scan(&mut &text[..]);
    let pieces = RecordTable::scan(&mut BufReader::with_capacity(capacity, text));
    assert_eq!(whole.is_ok(), pieces.is_ok());
    let (Ok(whole), Ok(pieces)) = (whole, pieces) else {
        return;
    };
    let names = |table: &RecordTable| -> Vec<(String, String)> {
        let rows = table.rows().iter();
        rows.map(|row| {
            (
                table.file_name(row).to_owned(),
                format!("{:?}", row.expected()),
            )
        })
        .collect()
    };
    let found = names(&whole);
    assert_eq!(found, names(&pieces));
    let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(text);
    // Numbers and words outside of records are checked where they are read.
    assert!(
        parsed.is_ok() || std::str::from_utf8(text).is_err(),
        "{parsed:?}"
    );
    for (name, _) in found {
        assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
    }
});
