//! Errors, with field and offset.

use std::fmt;
use std::io;

use crate::digest::Digest;

/// A part of the format, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The five bytes at the very beginning.
    Magic,
    /// The id of the checksum over header and body.
    HashKind,
    /// The declared length of preface, index and signatures.
    HeaderSize,
    /// The checksum of the header.
    HeaderDigest,
    /// The checksum of the body.
    DataDigest,
    /// The flags of optional parts.
    Flags,
    /// The id of the compression.
    Compression,
    /// How many optional elements follow.
    ElementCount,
    /// The id of an optional element.
    ElementId,
    /// The declared length of an optional element.
    ElementSize,
    /// The bytes of an optional element.
    ElementData,
    /// The declared length of the index.
    IndexSize,
    /// The id of the checksum over chunks.
    ChunkHashKind,
    /// How many entries the index has, the dictionary's included.
    ChunkCount,
    /// The stream that a chunk belongs to.
    ChunkStream,
    /// The checksum of a chunk as stored.
    ChunkDigest,
    /// The checksum of a chunk's content.
    ChunkRawDigest,
    /// The length of a chunk as stored.
    ChunkLen,
    /// The length of a chunk's content.
    ChunkRawLen,
    /// The sum of the lengths of all chunks as stored.
    BodyLen,
    /// The sum of the lengths of all chunks' contents.
    TotalLen,
    /// How many signatures follow.
    SignatureCount,
    /// The type of a signature.
    SignatureKind,
    /// The declared length of a signature.
    SignatureSize,
    /// The bytes of a signature.
    SignatureData,
    /// The end of the header.
    HeaderEnd,
    /// The bytes of a chunk.
    Chunk,
    /// The bytes of the dictionary.
    Dictionary,
    /// The end of the body.
    BodyEnd,
    /// The element that describes a derivable layout.
    Layout,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "magic",
            Self::HashKind => "checksum type",
            Self::HeaderSize => "header size",
            Self::HeaderDigest => "header checksum",
            Self::DataDigest => "data checksum",
            Self::Flags => "flags",
            Self::Compression => "compression type",
            Self::ElementCount => "optional element count",
            Self::ElementId => "optional element id",
            Self::ElementSize => "optional element size",
            Self::ElementData => "optional element",
            Self::IndexSize => "index size",
            Self::ChunkHashKind => "chunk checksum type",
            Self::ChunkCount => "chunk count",
            Self::ChunkStream => "chunk stream",
            Self::ChunkDigest => "chunk checksum",
            Self::ChunkRawDigest => "uncompressed chunk checksum",
            Self::ChunkLen => "chunk length",
            Self::ChunkRawLen => "uncompressed chunk length",
            Self::BodyLen => "body length",
            Self::TotalLen => "total length",
            Self::SignatureCount => "signature count",
            Self::SignatureKind => "signature type",
            Self::SignatureSize => "signature size",
            Self::SignatureData => "signature",
            Self::HeaderEnd => "end of the header",
            Self::Chunk => "chunk",
            Self::Dictionary => "dictionary",
            Self::BodyEnd => "end of the body",
            Self::Layout => "layout element",
        })
    }
}

/// A file that is refused, or cannot be written or assembled.
///
/// Offsets count bytes from the beginning of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a zchunk file.
    #[error(
        "{} at offset 0: this is neither a zchunk file nor a detached header",
        Field::Magic
    )]
    Magic,
    /// The bytes end inside a field.
    #[error("{field} at offset {offset}: unexpected end of data")]
    Truncated { field: Field, offset: u64 },
    /// An integer does not fit in 64 bits.
    #[error("{field} at offset {offset}: the integer does not fit in 64 bits")]
    Integer { field: Field, offset: u64 },
    /// A valid value exceeds the caller's limit.
    #[error("{field} at offset {offset}: {value} exceeds the limit of {limit}")]
    Limit {
        field: Field,
        offset: u64,
        /// `u64::MAX` if a sum overflows.
        value: u64,
        limit: u64,
    },
    /// A value that the format does not define.
    #[error("{field} at offset {offset}: unknown value {value}")]
    Unknown {
        field: Field,
        offset: u64,
        value: u64,
    },
    /// A value that contradicts another one.
    #[error("{field} at offset {offset}: {found} instead of {expected}")]
    Inconsistent {
        field: Field,
        offset: u64,
        /// By the rest of the file.
        expected: u64,
        found: u64,
    },
    /// A checksum is not that of the bytes it covers.
    #[error("{field} at offset {offset}: checksum mismatch: {found} instead of {expected}")]
    Digest {
        field: Field,
        /// The start of the covered bytes.
        offset: u64,
        expected: Box<Digest>,
        found: Box<Digest>,
    },
    /// A chunk has the right checksum but does not decompress.
    #[error("{field} at offset {offset}: cannot decompress the zstd frame")]
    Decompress {
        /// Chunk or dictionary.
        field: Field,
        offset: u64,
        source: io::Error,
    },
    /// A detached header was given where a whole file is needed.
    #[error("{} at offset 0: a detached header has no chunks", Field::Magic)]
    Detached,
    /// No such chunk.
    #[error("there is no chunk {index}: the file has {count}")]
    NoSuchChunk { index: usize, count: usize },
    /// zstd refused to compress, or to train a dictionary.
    #[error("zstd cannot {what}")]
    Compress {
        what: &'static str,
        source: io::Error,
    },
    /// Options that contradict each other or the format.
    #[error("conflicting options: {0}")]
    Options(&'static str),
    /// A record that the layout does not allow.
    #[error("record {key:?}: {why}")]
    Record {
        /// The key as printable text.
        key: String,
        why: &'static str,
    },
    /// Bytes could not be read from the caller's reader.
    #[error("cannot read at offset {offset}")]
    Read {
        offset: u64,
        /// The caller's error.
        source: io::Error,
    },
    /// Bytes could not be written to the caller's writer.
    #[error("cannot write")]
    Write(#[source] io::Error),
    /// Chunks have not been supplied.
    #[error("{count} chunks are missing, the first is chunk {first}")]
    Missing {
        count: usize,
        /// The lowest index among them.
        first: usize,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Read { source, .. } | Error::Write(source) => source,
            Error::Truncated { .. } => Self::new(io::ErrorKind::UnexpectedEof, error),
            _ => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
