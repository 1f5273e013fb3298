//! `Content-Range` headers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_transfer::{ByteRange, ContentRange};

fuzz_target!(|input: (u64, Option<u64>, &str)| {
    let (start, end, text) = input;
    let sent: ContentRange = match text.parse() {
        Ok(sent) => sent,
        Err(error) => {
            assert!(error.to_string().len() < 500);
            return;
        }
    };
    assert!(sent.start < sent.end);
    assert!(sent.total.is_none_or(|total| sent.end <= total));
    let total = sent.total.map_or("*".to_owned(), |total| total.to_string());
    let canonical = format!("bytes {}-{}/{total}", sent.start, sent.end - 1);
    assert_eq!(canonical.parse(), Ok(sent));
    let digits = |text: &str| -> Vec<u128> {
        text.split(|c: char| !c.is_ascii_digit())
            .filter(|number| !number.is_empty())
            .map(|number| number.parse().unwrap_or(u128::MAX))
            .collect()
    };
    assert_eq!(digits(text), digits(&canonical));

    let range = match end {
        Some(end) => ByteRange::new(start, end),
        None => Some(ByteRange::from(start)),
    };
    if let Some(range) = range {
        let inside = start == sent.start && end.is_none_or(|end| sent.end <= end);
        assert_eq!(sent.satisfies(range), inside);
    }
});
