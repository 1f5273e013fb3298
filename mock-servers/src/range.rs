//! The `Range` header of a request (RFC 9110 §14).

use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// No range, several, another unit, or one that does not parse: RFC 9110 §14.2 lets a server
    /// answer these with the whole representation.
    Whole,
    /// Half-open, never empty, within the representation.
    Part(Range<u64>),
    Unsatisfiable,
}

/// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n` against a representation of `len` bytes.
pub(crate) fn wanted(header: Option<&str>, len: u64) -> Wanted {
    let Some(spec) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Wanted::Whole,
            Some(0) => Wanted::Unsatisfiable,
            Some(_) if len == 0 => Wanted::Unsatisfiable,
            Some(count) => Wanted::Part(len.saturating_sub(count)..len),
        },
        (first, last) => {
            let (Some(start), Some(end)) = (
                number(first),
                if last.is_empty() {
                    Some(u64::MAX)
                } else {
                    number(last)
                },
            ) else {
                return Wanted::Whole;
            };
            if end < start {
                Wanted::Whole
            } else if start >= len {
                Wanted::Unsatisfiable
            } else {
                Wanted::Part(start..end.saturating_add(1).min(len))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_parsed_by_rfc_9110() {
        let cases = [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=5-9", Wanted::Part(5..10)),
            ("bytes=5-", Wanted::Part(5..10)),
            ("bytes=5-99", Wanted::Part(5..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=6-5", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(wanted(Some(header), 10), expected, "{header}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Unsatisfiable);
    }

    proptest! {
        /// The oracle checks every byte.
        #[test]
        fn parts_hold_exactly_the_bytes_asked_for(
            len in 0_u64..40,
            first in proptest::option::of(0_u64..50),
            last in proptest::option::of(0_u64..50),
        ) {
            let shown = |number: Option<u64>| number.map_or(String::new(), |n| n.to_string());
            let header = format!("bytes={}-{}", shown(first), shown(last));
            let expected: Vec<u64> = (0..len)
                .filter(|at| match (first, last) {
                    (Some(first), last) => *at >= first && last.is_none_or(|last| *at <= last),
                    (None, Some(suffix)) => len - at <= suffix,
                    (None, None) => true,
                })
                .collect();
            match wanted(Some(&header), len) {
                Wanted::Part(part) => prop_assert_eq!(part.collect::<Vec<_>>(), expected),
                Wanted::Unsatisfiable => prop_assert!(expected.is_empty()),
                Wanted::Whole => {
                    let backwards = first.zip(last).is_some_and(|(first, last)| last < first);
                    prop_assert!(backwards || (first, last) == (None, None));
                }
            }
        }

        #[test]
        fn any_text_is_survived(text in ".{0,40}", len: u64) {
            for header in [text.clone(), format!("bytes={text}")] {
                if let Wanted::Part(part) = wanted(Some(&header), len) {
                    prop_assert!(part.start < part.end && part.end <= len);
                }
            }
        }
    }
}
