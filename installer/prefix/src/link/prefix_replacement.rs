//! Writes the prefix of an environment over the placeholder in a file.
//!
//! A package states for each such file the prefix that it was built with, the *placeholder*, and
//! whether the file is text or binary. In text every occurrence is replaced. In a binary the
//! occurrence is in a NUL-terminated string of fixed length: where the prefix is shorter than the
//! placeholder, the string is padded with NULs, so that nothing else moves.
//!
//! As in conda, the placeholder is searched as UTF-8, UTF-16 and UTF-32 of both byte orders.
//! A binary string that runs to the end of the file without a NUL is treated as if the NUL came
//! right after. conda does not change such a string, but a placeholder that remains never works,
//! and C code reads the padded string as intended.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;

/// The prefix is longer than the placeholder of a binary string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// The encodings in which a placeholder is searched, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
    Utf32Le,
    Utf32Be,
}

impl Encoding {
    const ALL: [Self; 5] = [
        Self::Utf8,
        Self::Utf16Le,
        Self::Utf16Be,
        Self::Utf32Le,
        Self::Utf32Be,
    ];

    /// Bytes of a code unit, and of the NUL that ends a string.
    fn unit(self) -> usize {
        match self {
            Self::Utf8 => 1,
            Self::Utf16Le | Self::Utf16Be => 2,
            Self::Utf32Le | Self::Utf32Be => 4,
        }
    }

    fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Self::Utf8 => text.as_bytes().to_vec(),
            Self::Utf16Le => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Self::Utf16Be => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            Self::Utf32Le => text
                .chars()
                .flat_map(|c| u32::from(c).to_le_bytes())
                .collect(),
            Self::Utf32Be => text
                .chars()
                .flat_map(|c| u32::from(c).to_be_bytes())
                .collect(),
        }
    }
}

/// A placeholder and the prefix that replaces it, in every encoding.
///
/// Created once per package and placeholder, because building the search tables is expensive.
#[derive(Debug)]
pub(crate) struct Replacement {
    placeholder: String,
    prefix: String,
    encodings: Vec<Encoded>,
}

#[derive(Debug)]
struct Encoded {
    encoding: Encoding,
    finder: memmem::Finder<'static>,
    replacement: Vec<u8>,
}

struct Match {
    start: usize,
    encoded: usize,
}

impl Replacement {
    pub(crate) fn new(placeholder: &str, prefix: &str) -> Self {
        // An empty placeholder would match everywhere.
        let wanted: &[Encoding] = if placeholder.is_empty() {
            &[]
        } else {
            &Encoding::ALL
        };
        let encodings = wanted
            .iter()
            .map(|&encoding| Encoded {
                encoding,
                finder: memmem::Finder::new(&encoding.encode(placeholder)).into_owned(),
                replacement: encoding.encode(prefix),
            })
            .collect();
        Self {
            placeholder: placeholder.to_owned(),
            prefix: prefix.to_owned(),
            encodings,
        }
    }

    pub(crate) fn placeholder(&self) -> &str {
        &self.placeholder
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Replaces every occurrence; borrowed when there is none.
    pub(crate) fn text<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        let matches = self.matches(data);
        if matches.is_empty() {
            return Cow::Borrowed(data);
        }
        let mut out = Vec::with_capacity(data.len() + matches.len() * 64);
        let mut copied = 0;
        for found in matches {
            let encoded = &self.encodings[found.encoded];
            out.extend_from_slice(&data[copied..found.start]);
            out.extend_from_slice(&encoded.replacement);
            copied = found.start + encoded.finder.needle().len();
        }
        out.extend_from_slice(&data[copied..]);
        Cow::Owned(out)
    }

    /// Replaces every occurrence in place and pads each string with NULs; the length stays.
    ///
    /// Returns the number of occurrences. On error `data` is unchanged.
    pub(crate) fn binary(&self, data: &mut [u8]) -> Result<usize, TooLong> {
        let matches = self.matches(data);
        if matches.iter().any(|found| {
            let encoded = &self.encodings[found.encoded];
            encoded.replacement.len() > encoded.finder.needle().len()
        }) {
            return Err(TooLong);
        }
        let mut scratch = Vec::new();
        let mut rest = matches.as_slice();
        while let Some(first) = rest.first() {
            let encoded = &self.encodings[first.encoded];
            let needle = encoded.finder.needle().len();
            let string = first.start..end_of_string(data, first.start + needle, encoded.encoding);
            // Matches are sorted, so those inside this string follow directly. One in another
            // encoding is a coincidence of bytes: rewriting this string has moved it.
            let inside = rest
                .iter()
                .take_while(|found| found.start < string.end)
                .count();
            rebuild(
                data,
                string,
                &rest[..inside],
                first.encoded,
                encoded,
                &mut scratch,
            );
            rest = &rest[inside..];
        }
        Ok(matches.len())
    }

    /// All occurrences, sorted by position, none overlapping.
    fn matches(&self, data: &[u8]) -> Vec<Match> {
        let mut found: Vec<Match> = Vec::new();
        // The wide encodings of a placeholder contain NULs, so most text needs one search only.
        let has_nul = memchr::memchr(0, data).is_some();
        for (index, encoded) in self.encodings.iter().enumerate() {
            if encoded.encoding != Encoding::Utf8 && !has_nul {
                break;
            }
            found.extend(encoded.finder.find_iter(data).map(|start| Match {
                start,
                encoded: index,
            }));
        }
        found.sort_unstable_by_key(|found| (found.start, found.encoded));

        // The bytes of an ASCII placeholder in UTF-16LE, read one byte earlier, are often also
        // the placeholder in UTF-16BE (and likewise for UTF-32). Wide strings are aligned in
        // practice, so the aligned reading is correct, or else the earlier encoding.
        let mut settled: Vec<Match> = Vec::with_capacity(found.len());
        for candidate in found {
            let Some(last) = settled.last() else {
                settled.push(candidate);
                continue;
            };
            let taken = &self.encodings[last.encoded];
            if candidate.start >= last.start + taken.finder.needle().len() {
                settled.push(candidate);
                continue;
            }
            let merit = |found: &Match| {
                let encoding = self.encodings[found.encoded].encoding;
                (!found.start.is_multiple_of(encoding.unit()), encoding)
            };
            if candidate.encoded != last.encoded && merit(&candidate) < merit(last) {
                settled.pop();
                settled.push(candidate);
            }
        }
        settled
    }
}

/// The end of the string that continues at `from`: its NUL, or the end of `data`.
fn end_of_string(data: &[u8], from: usize, encoding: Encoding) -> usize {
    if encoding.unit() == 1 {
        return memchr::memchr(0, &data[from..]).map_or(data.len(), |nul| from + nul);
    }
    let unit = encoding.unit();
    data[from..]
        .chunks_exact(unit)
        .position(|chunk| chunk.iter().all(|&byte| byte == 0))
        .map_or(data.len(), |index| from + index * unit)
}

/// Rewrites one string in place: replaces occurrences, moves the rest up, and pads with NULs.
fn rebuild(
    data: &mut [u8],
    string: Range<usize>,
    matches: &[Match],
    index: usize,
    encoded: &Encoded,
    scratch: &mut Vec<u8>,
) {
    scratch.clear();
    let mut copied = string.start;
    // A match between two code units of this string is a coincidence as well.
    let unit = encoded.encoding.unit();
    let real = matches.iter().filter(|found| {
        found.encoded == index
            && (found.start - string.start).is_multiple_of(unit)
            && found.start + encoded.finder.needle().len() <= string.end
    });
    for found in real {
        scratch.extend_from_slice(&data[copied..found.start]);
        scratch.extend_from_slice(&encoded.replacement);
        copied = found.start + encoded.finder.needle().len();
    }
    scratch.extend_from_slice(&data[copied..string.end]);
    let (text, padding) = data[string].split_at_mut(scratch.len());
    text.copy_from_slice(scratch);
    padding.fill(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(placeholder: &str, prefix: &str, data: &[u8]) -> Vec<u8> {
        Replacement::new(placeholder, prefix)
            .text(data)
            .into_owned()
    }

    fn binary(placeholder: &str, prefix: &str, data: &[u8]) -> Result<Vec<u8>, TooLong> {
        let mut data = data.to_vec();
        Replacement::new(placeholder, prefix)
            .binary(&mut data)
            .map(|_| data)
    }

    #[test]
    fn text_replaces_every_occurrence() {
        assert_eq!(
            text("/old", "/brand/new", b"a=/old/x:/old\n/old"),
            b"a=/brand/new/x:/brand/new\n/brand/new"
        );
        assert_eq!(text("/old", "/n", b"nothing here"), b"nothing here");
        assert_eq!(text("", "/n", b"nothing here"), b"nothing here");
    }

    #[test]
    fn binary_pads_behind_the_string_and_keeps_the_length() {
        assert_eq!(
            binary("/placeholder", "/new", b"\x01/placeholder/lib\0tail").unwrap(),
            b"\x01/new/lib\0\0\0\0\0\0\0\0\0tail"
        );
    }

    #[test]
    fn binary_replaces_several_in_one_string() {
        let data = b"-L/longer/lib -I/longer/inc\0/longer\0rest";
        assert_eq!(
            binary("/longer", "/abc", data).unwrap(),
            b"-L/abc/lib -I/abc/inc\0\0\0\0\0\0\0/abc\0\0\0\0rest"
        );
    }

    #[test]
    fn binary_refuses_a_prefix_that_is_too_long() {
        assert_eq!(binary("/old", "/older", b"/old\0\0\0\0\0"), Err(TooLong));
        assert_eq!(binary("/old", "/older", b"nothing").unwrap(), b"nothing");
    }

    #[test]
    fn binary_string_without_nul_at_the_end_of_the_file_is_padded() {
        assert_eq!(
            binary("/longer", "/abc", b"x/longer/y").unwrap(),
            b"x/abc/y\0\0\0"
        );
    }

    #[test]
    fn wide_encodings_are_replaced_in_text_and_binary() {
        for encoding in Encoding::ALL {
            let old = encoding.encode("é /placeholder/bin Ā\0after");
            let new = encoding.encode("é /new/bin Ā\0\0\0\0\0\0\0\0\0after");
            assert_eq!(
                binary("/placeholder", "/new", &old).unwrap(),
                new,
                "{encoding:?}"
            );
            let old = encoding.encode("a/placeholder/bin:/placeholder\n");
            let new = encoding.encode("a/näw/bin:/näw\n");
            assert_eq!(text("/placeholder", "/näw", &old), new, "{encoding:?}");
        }
    }

    /// conda's rule, word for word and slowly: cut at NULs, replace in each piece, pad.
    fn oracle(data: &[u8], placeholder: &[u8], prefix: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in data.split(|&byte| byte == 0) {
            let mut replaced = Vec::new();
            let mut rest = piece;
            while !rest.is_empty() {
                if rest.starts_with(placeholder) {
                    replaced.extend_from_slice(prefix);
                    rest = &rest[placeholder.len()..];
                } else {
                    replaced.push(rest[0]);
                    rest = &rest[1..];
                }
            }
            replaced.resize(piece.len(), 0);
            out.extend_from_slice(&replaced);
            out.push(0);
        }
        out.pop();
        out
    }

    proptest! {
        #[test]
        fn binary_agrees_with_the_naive_oracle(
            pieces in prop::collection::vec(
                prop_oneof![
                    Just(b"/ph/ph".to_vec()),
                    Just(b"/ph".to_vec()),
                    Just(vec![0]),
                    Just(vec![0, 0]),
                    prop::collection::vec(1_u8.., 0..4),
                ],
                0..24,
            ),
            prefix in "[/a-z]{1,6}",
        ) {
            let data = pieces.concat();
            let out = binary("/ph/ph", &prefix, &data).unwrap();
            prop_assert_eq!(out.len(), data.len());
            prop_assert_eq!(out, oracle(&data, b"/ph/ph", prefix.as_bytes()));
        }

        #[test]
        fn text_agrees_with_str_replace(data in "[/ph\n a]{0,60}", prefix in "[/a-zä]{0,12}") {
            prop_assert_eq!(
                text("/ph", &prefix, data.as_bytes()),
                data.replace("/ph", &prefix).into_bytes()
            );
        }

        #[test]
        fn binary_never_panics_and_never_changes_the_length(
            data in prop::collection::vec(prop_oneof![Just(0_u8), Just(b'/'), Just(b'a'), any::<u8>()], 0..200),
        ) {
            prop_assert_eq!(binary("/a", "/", &data).unwrap().len(), data.len());
        }
    }
}
