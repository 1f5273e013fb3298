//! Responses with several ranges.

#![no_main]

use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::Input;
use taipan_transfer::fuzzing::{boundary, parts};

fn render(boundary: &str, parts: &[(u64, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (start, bytes) in parts {
        let last = start + bytes.len() as u64 - 1;
        let head = format!("\r\n--{boundary}\r\nContent-Range: bytes {start}-{last}/*\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    body
}

/// Parts lie within the body and within what was requested, one behind the other.
fn check(body: &[u8], separator: &str, wanted: &[Range<u64>]) {
    let Some(found) = parts(body, separator, wanted) else {
        return;
    };
    let mut end = 0;
    let mut again = Vec::new();
    for (start, place) in &found {
        assert!(end < place.start && place.start < place.end && place.end <= body.len());
        end = place.end;
        let bytes = &body[place.clone()];
        let range = *start..start + bytes.len() as u64;
        assert!(
            wanted
                .iter()
                .any(|wanted| wanted.start <= range.start && range.end <= wanted.end)
        );
        again.push((*start, bytes));
    }
    let rendered = render(separator, &again);
    let reread = parts(&rendered, separator, wanted).unwrap();
    let reread: Vec<(u64, &[u8])> = reread
        .into_iter()
        .map(|(start, place)| (start, &rendered[place]))
        .collect();
    assert_eq!(reread, again);
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let length = usize::from(input.byte()) % 100;
    let content_type = String::from_utf8_lossy(input.take(length)).into_owned();
    let wanted: Vec<Range<u64>> = (0..input.byte() % 4)
        .map(|_| {
            let start = u64::from(input.byte());
            start..start + u64::from(input.byte())
        })
        .collect();
    if let Some(boundary) = boundary(&content_type) {
        assert!((1..=70).contains(&boundary.len()));
        check(input.0, boundary, &wanted);
    }
    check(input.0, "b", &wanted);
    // A right body, damaged as the rest of the input says.
    let file: Vec<u8> = (0..=255).cycle().take(512).collect();
    let right: Vec<(u64, &[u8])> = wanted
        .iter()
        .filter(|range| !range.is_empty())
        .map(|range| (range.start, &file[range.start as usize..range.end as usize]))
        .collect();
    let mut body = render("b", &right);
    assert_eq!(parts(&body, "b", &wanted).unwrap().len(), right.len());
    while input.0.len() >= 3 {
        let at = usize::from(input.byte()) << 8 | usize::from(input.byte());
        let length = body.len();
        body[at % length] = input.byte();
    }
    check(&body, "b", &wanted);
});
