//! Several ranges in one response (`multipart/byteranges`, RFC 9110 §14.6).

use std::ops::Range;

use crate::ContentRange;

/// The longest header of a part that is read, in bytes.
const MAX_PART_HEADER: usize = 2048;

/// The value of a `Range` header for these ranges.
pub(crate) fn header(ranges: &[Range<u64>]) -> String {
    let list: Vec<String> = ranges
        .iter()
        .map(|range| format!("{}-{}", range.start, range.end.saturating_sub(1)))
        .collect();
    format!("bytes={}", list.join(","))
}

/// The boundary in a `Content-Type`, if that is `multipart/byteranges`.
pub(crate) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/byteranges") {
        return None;
    }
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_it = name.trim().eq_ignore_ascii_case("boundary");
        is_it.then(|| value.trim().trim_matches('"'))
    })?;
    // RFC 2046 §5.1.1.
    (1..=70).contains(&value.len()).then_some(value)
}

/// The parts of a body: for each its offset in the file and its bytes in the body. `None` if the
/// body is malformed, or has a part that lies in none of the `wanted` ranges.
pub(crate) fn parts(
    body: &[u8],
    boundary: &str,
    wanted: &[Range<u64>],
) -> Option<Vec<(u64, Range<usize>)>> {
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut at = 0;
    loop {
        let rest = body.get(at..)?;
        // A preamble is not accepted; the line break that belongs to a delimiter is.
        let line = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        let line = line.strip_prefix(delimiter.as_bytes())?;
        if line.starts_with(b"--") {
            return Some(parts);
        }
        let header = line.strip_prefix(b"\r\n")?;
        let window = &header[..header.len().min(MAX_PART_HEADER)];
        let end = window.windows(4).position(|four| four == b"\r\n\r\n")?;
        let text = std::str::from_utf8(&header[..end]).ok()?;
        let sent: ContentRange = text.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_it = name.trim().eq_ignore_ascii_case("content-range");
            is_it.then(|| value.trim().parse().ok())?
        })?;
        let is_wanted = |range: &Range<u64>| range.start <= sent.start && sent.end <= range.end;
        if !wanted.iter().any(is_wanted) {
            return None;
        }
        let start = body.len() - header.len() + end + 4;
        let length = usize::try_from(sent.end.checked_sub(sent.start)?).ok()?;
        let stop = start.checked_add(length)?;
        body.get(start..stop)?;
        parts.push((sent.start, start..stop));
        at = stop;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(file: &[u8], ranges: &[Range<u64>], boundary: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for range in ranges {
            let (start, end) = (range.start, range.end);
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain\r\ncontent-range: bytes {start}-{}/{}\r\n\r\n",
                end - 1,
                file.len()
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(
                &file[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()],
            );
        }
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        body
    }

    #[test]
    fn boundaries_are_parsed() {
        let cases = [
            ("multipart/byteranges; boundary=abc", Some("abc")),
            ("Multipart/ByteRanges; x=y; BOUNDARY=\"a b\"", Some("a b")),
            ("multipart/byteranges; boundary=", None),
            ("multipart/form-data; boundary=abc", None),
            ("text/html", None),
        ];
        for (text, expected) in cases {
            assert_eq!(boundary(text), expected, "{text}");
        }
    }

    #[test]
    fn a_part_that_was_not_requested_is_refused() {
        let file = vec![7; 100];
        let ranges = [0..10, 50..60];
        let body = body(&file, &ranges, "b");
        assert!(parts(&body, "b", &ranges).is_some());
        assert!(parts(&body, "b", &ranges[..1]).is_none());
        assert!(parts(&body, "c", &ranges).is_none());
    }

    proptest! {
        #[test]
        fn written_parts_are_parsed_back(
            file in prop::collection::vec(any::<u8>(), 50..300),
            cuts in prop::collection::btree_set(0_u64..50, 2..12),
        ) {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let ranges: Vec<Range<u64>> = cuts.chunks_exact(2).map(|two| two[0]..two[1]).collect();
            let body = body(&file, &ranges, "THE_BOUNDARY");
            let found = parts(&body, "THE_BOUNDARY", &ranges).unwrap();
            prop_assert_eq!(found.len(), ranges.len());
            for ((offset, part), range) in found.into_iter().zip(&ranges) {
                prop_assert_eq!(offset, range.start);
                let there = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                prop_assert_eq!(&body[part], &file[there]);
            }
        }

        /// A damaged body is refused, or its parts lie within the body and the requested ranges.
        #[test]
        fn a_damaged_body_yields_no_other_ranges(
            flips in prop::collection::vec((0_usize..400, any::<u8>()), 0..8), cut in 0_usize..400,
        ) {
            let file = vec![9; 100];
            let ranges = [0..10, 20..40, 80..100];
            let mut body = body(&file, &ranges, "b");
            for (at, value) in flips {
                if let Some(byte) = body.get_mut(at) {
                    *byte = value;
                }
            }
            body.truncate(body.len().saturating_sub(cut));
            for (offset, part) in parts(&body, "b", &ranges).unwrap_or_default() {
                prop_assert!(part.end <= body.len());
                let end = offset + part.len() as u64;
                prop_assert!(ranges.iter().any(|range| range.start <= offset && end <= range.end));
            }
        }
    }
}
