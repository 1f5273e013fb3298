//! Byte ranges, and the `Content-Range` header.

use std::{fmt, str::FromStr};

/// A half-open range of bytes: `start..end`, or `start..` to the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    end: Option<u64>,
}

impl ByteRange {
    /// The bytes from `start` to the end of the file.
    pub fn from(start: u64) -> Self {
        Self { start, end: None }
    }

    /// The bytes `start..end`; `None` if that is empty.
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start < end).then_some(Self {
            start,
            end: Some(end),
        })
    }

    /// The first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// One past the last byte; `None` if the range has no end.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// The value of a `Range` header (RFC 9110 §14.2); its end is inclusive.
    pub fn header(&self) -> String {
        match self.end {
            Some(end) => format!("bytes={}-{}", self.start, end - 1),
            None => format!("bytes={}-", self.start),
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => write!(f, "{}..{end}", self.start),
            None => write!(f, "{}..", self.start),
        }
    }
}

/// The value of a `Content-Range` header (RFC 9110 §14.4): `bytes 0-9/100` or `bytes 0-9/*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// The first byte sent.
    pub start: u64,
    /// One past the last byte sent.
    pub end: u64,
    /// The length of the whole file, if the server sent it.
    pub total: Option<u64>,
}

/// A `Content-Range` header that is not of the form `bytes A-B/N`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid Content-Range `{0}`: expected the form `bytes A-B/N`")]
pub struct ParseContentRangeError(String);

impl FromStr for ContentRange {
    type Err = ParseContentRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseContentRangeError(text.chars().take(80).collect());
        let rest = text
            .trim()
            .strip_prefix("bytes")
            .ok_or_else(error)?
            .trim_start();
        let (range, total) = rest.split_once('/').ok_or_else(error)?;
        let (first, last) = range.split_once('-').ok_or_else(error)?;
        // `u64::from_str` would accept a leading `+`, which the grammar does not.
        let number = |text: &str| -> Result<u64, ParseContentRangeError> {
            let text = text.trim();
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(error());
            }
            text.parse().map_err(|_| error())
        };
        let start = number(first)?;
        let end = number(last)?.checked_add(1).ok_or_else(error)?;
        let total = match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        };
        if start >= end || total.is_some_and(|total| end > total) {
            return Err(error());
        }
        Ok(Self { start, end, total })
    }
}

impl ContentRange {
    /// Whether this range may be the response to a request for `wanted`: it has the same start and
    /// does not end later. A server may send less than was requested.
    pub fn satisfies(&self, wanted: ByteRange) -> bool {
        self.start == wanted.start && wanted.end.is_none_or(|end| self.end <= end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_end_of_a_range_header_is_inclusive() {
        assert_eq!(ByteRange::new(0, 10).unwrap().header(), "bytes=0-9");
        assert_eq!(ByteRange::from(7).header(), "bytes=7-");
        assert_eq!(ByteRange::new(3, 3), None);
    }

    #[test]
    fn valid_content_ranges_are_parsed() {
        let read = |text: &str| text.parse::<ContentRange>();
        assert_eq!(
            read("bytes 2-9/10"),
            Ok(ContentRange {
                start: 2,
                end: 10,
                total: Some(10)
            })
        );
        assert_eq!(
            read("bytes 2-9/*"),
            Ok(ContentRange {
                start: 2,
                end: 10,
                total: None
            })
        );
        for bad in [
            "",
            "bytes",
            "bytes */10",
            "bytes 9-2/10",
            "bytes 2-10/10",
            "bytes +2-9/10",
            "2-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes -9/10",
            "items 1-2/3",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_response_must_start_at_the_requested_byte() {
        let sent: ContentRange = "bytes 5-9/20".parse().unwrap();
        assert!(sent.satisfies(ByteRange::from(5)));
        assert!(sent.satisfies(ByteRange::new(5, 10).unwrap()));
        assert!(!sent.satisfies(ByteRange::new(5, 9).unwrap()));
        assert!(!sent.satisfies(ByteRange::from(4)));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,60}") {
            let _ = text.parse::<ContentRange>();
        }

        #[test]
        fn a_written_range_is_parsed_back(start in 0..u64::MAX / 2, length in 1..1_000_000u64) {
            let text = format!("bytes {start}-{}/{}", start + length - 1, start + length);
            let read: ContentRange = text.parse().unwrap();
            prop_assert_eq!((read.start, read.end), (start, start + length));
        }
    }
}
