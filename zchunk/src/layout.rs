//! The element of a log layout, and the records in chunks.

use crate::compint;
use crate::cursor::Cursor;
use crate::digest::{Digest, HashKind};
use crate::error::{Error, Field, Result};
use crate::header::Header;

/// The id of the optional element.
pub const LAYOUT_ELEMENT: u64 = 76;

/// The version of the element; no other version is supported.
const VERSION: u64 = 1;

/// The checksum of contents in the element.
pub(crate) const CONTENT_HASH: HashKind = HashKind::Sha512_128;

/// The length of the name of a series, in bytes.
pub(crate) const SERIES_LEN: usize = 4;

/// The length of the mark of a removed key, in bytes.
pub(crate) const TOMBSTONE_LEN: usize = 4;

/// The maximum length of separator and key end, in bytes: it bounds the time of searching.
pub(crate) const MAX_MARK: usize = 64;

/// The bytes around and between records. The content of a file is `head`, the records joined by
/// `separator`, and `tail`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// Before the first record.
    pub head: Vec<u8>,
    /// Between two records; not empty, at most 64 bytes, and not contained in a record.
    pub separator: Vec<u8>,
    /// After the last record.
    pub tail: Vec<u8>,
    /// The key of a record ends before the first occurrence of these bytes, at most 64; without an
    /// occurrence the key is the record.
    pub key_end: Vec<u8>,
}

impl Frame {
    /// For a JSON object with one member per line. Head and tail complete the document; at least `{` and
    /// `}`.
    pub fn json(head: &[u8], tail: &[u8]) -> Self {
        Self {
            head: head.to_vec(),
            separator: b",\n".to_vec(),
            tail: tail.to_vec(),
            key_end: b"\":".to_vec(),
        }
    }

    /// The key of a record.
    pub fn key<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        key(record, &self.key_end)
    }
}

pub(crate) fn key<'a>(record: &'a [u8], key_end: &[u8]) -> &'a [u8] {
    find(record, key_end).map_or(record, |at| &record[..at])
}

/// The position of the first `needle`; `None` for an empty one.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, rest) = needle.split_first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
        let at = from + at;
        if bytes[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// The records of a text with separators between them.
pub(crate) fn split<'a>(mut text: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut records = Vec::new();
    if text.is_empty() {
        return records;
    }
    while let Some(at) = find(text, separator) {
        records.push(&text[..at]);
        text = &text[at + separator.len()..];
    }
    records.push(text);
    records
}

/// The mark of a removed record.
pub(crate) fn tombstone(key: &[u8]) -> [u8; TOMBSTONE_LEN] {
    let mut mark = [0; TOMBSTONE_LEN];
    mark.copy_from_slice(&HashKind::Sha512.digest(key).as_bytes()[..TOMBSTONE_LEN]);
    mark
}

/// The records that one version removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) generation: u64,
    pub(crate) marks: Vec<[u8; TOMBSTONE_LEN]>,
}

#[doc = include_str!("../LAYOUT.md")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub(crate) series: [u8; SERIES_LEN],
    pub(crate) generation: u64,
    pub(crate) head_len: u64,
    pub(crate) tail_len: u64,
    pub(crate) separator: Vec<u8>,
    pub(crate) key_end: Vec<u8>,
    /// For each settled chunk, the newest generation of its records; ascending.
    pub(crate) newest: Vec<u64>,
    /// For every chunk but the dictionary.
    pub(crate) digests: Vec<Digest>,
    /// Oldest first.
    pub(crate) removed: Vec<Removed>,
}

impl Layout {
    /// Which version of its series this is, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The number of chunks with records of earlier versions only.
    pub fn settled_chunks(&self) -> usize {
        self.newest.len()
    }

    pub(crate) fn content_digest(&self, index: usize) -> Option<Digest> {
        self.digests.get(index.checked_sub(1)?).copied()
    }

    /// The index of the first settled chunk.
    pub(crate) fn first_settled(&self) -> usize {
        1 + usize::from(self.head_len > 0)
    }

    /// The index of the chunk with the newest records and the tail, also if it does not exist.
    pub(crate) fn last(&self) -> usize {
        self.first_settled() + self.newest.len()
    }

    /// Reads the element of a header, if it has one.
    pub(crate) fn parse(header: &Header) -> Result<Option<Self>> {
        let Some(data) = header.element(LAYOUT_ELEMENT) else {
            return Ok(None);
        };
        let mut at = Cursor::new(data, 0);
        let version = at.int(Field::Layout)?;
        if version != VERSION {
            return Err(Error::Unknown {
                field: Field::Layout,
                offset: 0,
                value: version,
            });
        }
        let mut series = [0; SERIES_LEN];
        series.copy_from_slice(at.take(SERIES_LEN as u64, Field::Layout)?);
        let generation = at.int(Field::Layout)?;
        let head_len = at.int(Field::Layout)?;
        let tail_len = at.int(Field::Layout)?;
        let mut bytes = || -> Result<Vec<u8>> {
            let len = at.int(Field::Layout)?;
            Ok(at.take(len, Field::Layout)?.to_vec())
        };
        let separator = bytes()?;
        let key_end = bytes()?;
        let settled = at.count(Field::Layout, 1)?;
        let mut newest = Vec::with_capacity(settled);
        for _ in 0..settled {
            let offset = at.offset();
            let age = at.int(Field::Layout)?;
            let of = generation.checked_sub(age);
            match of.filter(|of| newest.last().is_none_or(|last| last <= of)) {
                Some(of) => newest.push(of),
                None => {
                    return Err(Error::Unknown {
                        field: Field::Layout,
                        offset,
                        value: age,
                    });
                }
            }
        }
        let mut digests = Vec::with_capacity(header.chunk_count() - 1);
        for _ in 1..header.chunk_count() {
            let digest = at.take(CONTENT_HASH.len() as u64, Field::Layout)?;
            digests.push(Digest::from_prefix(CONTENT_HASH, digest));
        }
        let mut removed = Vec::new();
        for _ in 0..at.count(Field::Layout, 2)? {
            let offset = at.offset();
            let age = at.int(Field::Layout)?;
            let Some(generation) = generation.checked_sub(age) else {
                return Err(Error::Unknown {
                    field: Field::Layout,
                    offset,
                    value: age,
                });
            };
            let count = at.count(Field::Layout, TOMBSTONE_LEN)?;
            let marks = at.take((count * TOMBSTONE_LEN) as u64, Field::Layout)?;
            let marks = marks
                .chunks_exact(TOMBSTONE_LEN)
                .map(|mark| mark.try_into().expect("chunks of exactly this length"))
                .collect();
            removed.push(Removed { generation, marks });
        }
        let layout = Self {
            series,
            generation,
            head_len,
            tail_len,
            separator,
            key_end,
            newest,
            digests,
            removed,
        };
        layout.check(header, at.remaining())?;
        Ok(Some(layout))
    }

    /// Whether the chunks agree with the element.
    fn check(&self, header: &Header, left: usize) -> Result<()> {
        let wrong = |expected: u64, found: u64| {
            Err(Error::Inconsistent {
                field: Field::Layout,
                offset: 0,
                expected,
                found,
            })
        };
        if left > 0 {
            return wrong(0, left as u64);
        }
        if self.separator.is_empty() {
            return wrong(1, 0);
        }
        let longest = self.separator.len().max(self.key_end.len());
        if longest > MAX_MARK {
            return wrong(MAX_MARK as u64, longest as u64);
        }
        let count = header.chunk_count();
        if count != self.last() && count != self.last() + 1 {
            return wrong(self.last() as u64, count as u64);
        }
        if self.head_len > 0 && header.chunk(1).raw_len != self.head_len {
            return wrong(header.chunk(1).raw_len, self.head_len);
        }
        let last_len = if count > self.last() {
            header.chunk(self.last()).raw_len
        } else {
            0
        };
        if last_len < self.tail_len {
            return wrong(self.tail_len, last_len);
        }
        Ok(())
    }

    /// The element's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        compint::put(&mut out, VERSION);
        out.extend_from_slice(&self.series);
        compint::put(&mut out, self.generation);
        compint::put(&mut out, self.head_len);
        compint::put(&mut out, self.tail_len);
        for bytes in [&self.separator, &self.key_end] {
            compint::put(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        compint::put(&mut out, self.newest.len() as u64);
        for newest in &self.newest {
            compint::put(&mut out, self.generation - newest);
        }
        for digest in &self.digests {
            out.extend_from_slice(digest.as_bytes());
        }
        compint::put(&mut out, self.removed.len() as u64);
        for removed in &self.removed {
            compint::put(&mut out, self.generation - removed.generation);
            compint::put(&mut out, removed.marks.len() as u64);
            removed
                .marks
                .iter()
                .for_each(|mark| out.extend_from_slice(mark));
        }
        out
    }
}
