//! The header: lead, preface, index and signatures.
//!
//! Preface and index are parsed after the header's digest is verified.

use std::fmt;

use crate::cursor::Cursor;
use crate::digest::{Digest, HashKind, Hasher};
use crate::error::{Error, Field, Result};
use crate::index::{Entry, Index};
use crate::layout::Layout;
use crate::lead::Lead;
use crate::limits::Limits;

/// The first bytes of a zchunk file.
pub const MAGIC: [u8; 5] = *b"\0ZCK1";
/// The first bytes of a detached header.
pub const MAGIC_DETACHED: [u8; 5] = *b"\0ZHR1";

pub(crate) const FLAG_STREAMS: u64 = 1;
pub(crate) const FLAG_ELEMENTS: u64 = 2;
pub(crate) const FLAG_UNCOMPRESSED_SOURCE: u64 = 4;

/// How chunks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Uncompressed.
    None,
    /// One zstd frame each, with the file's dictionary if it has one.
    Zstd,
}

impl Compression {
    pub(crate) const fn id(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Zstd => 2,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        })
    }
}

/// An optional element of the preface. Readers skip those whose id they do not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub id: u64,
    pub data: Vec<u8>,
}

/// A signature at the end of the header. This crate does not verify signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub kind: u64,
    pub data: Vec<u8>,
}

/// One entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The position in the index. 0 is the dictionary.
    pub index: usize,
    /// The stream it belongs to: 0 for the dictionary, 1 unless the file has streams.
    pub stream: u64,
    /// The checksum of the chunk as stored.
    pub digest: Digest,
    /// The checksum of its content, where the file has flag 4.
    pub raw_digest: Option<Digest>,
    /// The offset in the file.
    pub offset: u64,
    /// The length of the stored form.
    pub len: u64,
    /// The offset in the content; 0 for the dictionary, which is not part of the content.
    pub raw_offset: u64,
    /// The length of the content.
    pub raw_len: u64,
}

impl Chunk {
    /// The range in the file.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset + self.len
    }

    /// With flag 4, an incompressible chunk may be stored uncompressed with a checksum of zeros; then only
    /// the checksum of its content is verified.
    pub fn is_stored_raw(&self) -> bool {
        self.raw_digest.is_some() && self.len > 0 && self.digest.is_zero()
    }

    pub(crate) fn field(&self) -> Field {
        if self.index == 0 {
            Field::Dictionary
        } else {
            Field::Chunk
        }
    }
}

/// A parsed and verified header.
#[derive(Clone)]
pub struct Header {
    /// With the magic of a whole file, also for a detached header.
    bytes: Vec<u8>,
    lead: Lead,
    data_digest: Digest,
    flags: u64,
    compression: Compression,
    elements: Vec<Element>,
    chunk_hash: HashKind,
    entries: Vec<Entry>,
    streams: Vec<u64>,
    signatures: Vec<Signature>,
    layout: Option<Layout>,
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("lead", &self.lead)
            .field("flags", &self.flags)
            .field("compression", &self.compression)
            .field("chunk_hash", &self.chunk_hash)
            .field("chunks", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Header {
    /// Equal bytes make equal headers.
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Header {}

impl Header {
    /// Reads a header from the first bytes of a file or of a detached header. Bytes after it are
    /// ignored; to know how many are needed, see [`Lead::parse`].
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self> {
        let Some(lead) = Lead::parse(bytes, limits)? else {
            return Err(Error::Truncated {
                field: Field::HeaderSize,
                offset: bytes.len() as u64,
            });
        };
        let Some(bytes) = bytes.get(..lead.header_len() as usize) else {
            return Err(Error::Truncated {
                field: Field::HeaderEnd,
                offset: bytes.len() as u64,
            });
        };
        let mut bytes = bytes.to_vec();
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        let found = digest_of(&bytes, &lead);
        if found != lead.digest {
            return Err(Error::Digest {
                field: Field::HeaderDigest,
                offset: 0,
                expected: Box::new(lead.digest),
                found: Box::new(found),
            });
        }
        Self::parse_verified(bytes, lead, limits)
    }

    fn parse_verified(bytes: Vec<u8>, lead: Lead, limits: &Limits) -> Result<Self> {
        let mut at = Cursor::new(&bytes[lead.len..], lead.len as u64);
        let data_digest = at.take(lead.hash.len() as u64, Field::DataDigest)?;
        let data_digest = Digest::from_prefix(lead.hash, data_digest);

        let offset = at.offset();
        let flags = at.int(Field::Flags)?;
        if flags & !(FLAG_STREAMS | FLAG_ELEMENTS | FLAG_UNCOMPRESSED_SOURCE) != 0 {
            return Err(Error::Unknown {
                field: Field::Flags,
                offset,
                value: flags,
            });
        }
        let offset = at.offset();
        let compression = match at.int(Field::Compression)? {
            0 => Compression::None,
            2 => Compression::Zstd,
            value => {
                return Err(Error::Unknown {
                    field: Field::Compression,
                    offset,
                    value,
                });
            }
        };
        let mut elements = Vec::new();
        if flags & FLAG_ELEMENTS != 0 {
            for _ in 0..at.count(Field::ElementCount, 2)? {
                let id = at.int(Field::ElementId)?;
                let len = at.int(Field::ElementSize)?;
                elements.push(Element {
                    id,
                    data: at.take(len, Field::ElementData)?.to_vec(),
                });
            }
        }

        let mut index = Index::default();
        let chunk_hash = index.parse(&mut at, flags, compression, lead.header_len(), limits)?;

        let mut signatures = Vec::new();
        for _ in 0..at.count(Field::SignatureCount, 2)? {
            let kind = at.int(Field::SignatureKind)?;
            let len = at.int(Field::SignatureSize)?;
            signatures.push(Signature {
                kind,
                data: at.take(len, Field::SignatureData)?.to_vec(),
            });
        }
        if at.remaining() > 0 {
            return Err(Error::Inconsistent {
                field: Field::HeaderEnd,
                offset: at.offset(),
                expected: at.offset(),
                found: bytes.len() as u64,
            });
        }
        let Index { entries, streams } = index;
        let mut header = Self {
            bytes,
            lead,
            data_digest,
            flags,
            compression,
            elements,
            chunk_hash,
            entries,
            streams,
            signatures,
            layout: None,
        };
        // Elements are not required for reading a file, so an invalid one is ignored.
        header.layout = Layout::parse(&header).ok().flatten();
        Ok(header)
    }

    /// The header's bytes, with the magic of a whole file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The header's bytes with the magic of a detached header. The stored bytes of the dictionary
    /// have to follow.
    pub fn to_detached_bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC_DETACHED);
        bytes
    }

    /// Whether it was read from a detached header.
    pub fn is_detached(&self) -> bool {
        self.lead.detached
    }

    /// Bytes of the header; the body begins there.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Always false: a header has at least its lead.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The checksum of the header. It detects modification only if it comes from a trusted source.
    pub fn digest(&self) -> &Digest {
        &self.lead.digest
    }

    /// The checksum of the body; `None` with flag 4.
    pub fn data_digest(&self) -> Option<&Digest> {
        (!self.has_uncompressed_source()).then_some(&self.data_digest)
    }

    /// The checksum that header and body use.
    pub fn hash(&self) -> HashKind {
        self.lead.hash
    }

    /// The checksum that chunks use.
    pub fn chunk_hash(&self) -> HashKind {
        self.chunk_hash
    }

    /// How chunks are stored.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Whether chunks name the stream they belong to (flag 1).
    pub fn has_streams(&self) -> bool {
        self.flags & FLAG_STREAMS != 0
    }

    /// Whether the index has the checksums of the chunks' contents, too (flag 4).
    pub fn has_uncompressed_source(&self) -> bool {
        self.flags & FLAG_UNCOMPRESSED_SOURCE != 0
    }

    /// The optional elements.
    pub fn elements(&self) -> &[Element] {
        &self.elements
    }

    /// The data of the first optional element with this id.
    pub fn element(&self, id: u64) -> Option<&[u8]> {
        self.elements
            .iter()
            .find(|element| element.id == id)
            .map(|element| &element.data[..])
    }

    /// The log layout, if the file has a valid one.
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// A checksum of a chunk's content, if the file has one: in the index with flag 4, in the element of the
    /// layout, or of the stored form if that is the content.
    pub fn content_digest(&self, index: usize) -> Option<Digest> {
        let chunk = self.chunk(index);
        let stored = self.compression == Compression::None;
        chunk
            .raw_digest
            .or_else(|| stored.then_some(chunk.digest))
            .filter(|digest| !digest.is_zero())
            .or_else(|| self.layout.as_ref()?.content_digest(index))
            .filter(|digest| !digest.is_zero())
    }

    /// The signatures, unchecked.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Entries of the index, the dictionary's included; at least 1.
    pub fn chunk_count(&self) -> usize {
        self.entries.len()
    }

    /// One entry of the index.
    ///
    /// # Panics
    /// If `index` is not below [`Self::chunk_count`].
    pub fn chunk(&self, index: usize) -> Chunk {
        let entry = self.entries[index];
        let (start, raw_start) = match index {
            0 => (0, 0),
            // The dictionary is not part of the content.
            1 => (self.entries[0].end, 0),
            _ => (self.entries[index - 1].end, self.entries[index - 1].raw_end),
        };
        let hash = self.chunk_hash;
        let digest_at = |at: usize| Digest::from_prefix(hash, &self.bytes[at..]);
        Chunk {
            index,
            stream: self
                .streams
                .get(index)
                .copied()
                .unwrap_or(u64::from(index > 0)),
            digest: digest_at(entry.digest_at),
            raw_digest: self
                .has_uncompressed_source()
                .then(|| digest_at(entry.digest_at + hash.len())),
            offset: self.len() + start,
            len: entry.end - start,
            raw_offset: raw_start,
            raw_len: entry.raw_end - raw_start,
        }
    }

    /// The first chunk that ends after `offset` of the file.
    pub fn first_chunk_after(&self, offset: u64) -> usize {
        let offset = offset.saturating_sub(self.len());
        self.entries.partition_point(|entry| entry.end <= offset)
    }

    /// All entries of the index, the dictionary's first.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = Chunk> + DoubleEndedIterator + '_ {
        (0..self.entries.len()).map(|index| self.chunk(index))
    }

    /// The dictionary's entry, if the file has one.
    pub fn dictionary(&self) -> Option<Chunk> {
        let chunk = self.chunk(0);
        (chunk.len > 0).then_some(chunk)
    }

    /// Bytes of the body: the dictionary and all chunks as stored.
    pub fn body_len(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.end)
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        self.len() + self.body_len()
    }

    /// Bytes of the content.
    pub fn raw_len(&self) -> u64 {
        if self.entries.len() > 1 {
            self.entries[self.entries.len() - 1].raw_end
        } else {
            0
        }
    }
}

/// The checksum over everything else of the header, always with the magic of a whole file.
fn digest_of(bytes: &[u8], lead: &Lead) -> Digest {
    let mut hasher = Hasher::new(lead.hash);
    hasher.update(&bytes[..lead.len - lead.hash.len()]);
    hasher.update(&bytes[lead.len..]);
    hasher.finish()
}
