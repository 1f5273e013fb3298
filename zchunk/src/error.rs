//! What can be wrong with a file, and where.

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
    /// The bits that say which optional parts are there.
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

/// Why a file was refused, or could not be written or assembled.
///
/// Offsets count bytes from the beginning of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file begins with something else.
    #[error(
        "{} at offset 0: this is neither a zchunk file nor a detached header",
        Field::Magic
    )]
    Magic,
    /// The bytes end inside a field.
    #[error("{field} at offset {offset}: the data end too early")]
    Truncated {
        /// What was being read.
        field: Field,
        /// Where it begins.
        offset: u64,
    },
    /// An integer does not fit in 64 bits.
    #[error("{field} at offset {offset}: the integer does not fit in 64 bits")]
    Integer {
        /// What was being read.
        field: Field,
        /// Where it begins.
        offset: u64,
    },
    /// A value is legal but larger than the caller allows.
    #[error("{field} at offset {offset}: {value} is over the limit of {limit}")]
    Limit {
        /// What was being read.
        field: Field,
        /// Where it begins.
        offset: u64,
        /// What the file says; `u64::MAX` where a sum overflows.
        value: u64,
        /// What the caller allows.
        limit: u64,
    },
    /// A value that the format does not define.
    #[error("{field} at offset {offset}: unknown value {value}")]
    Unknown {
        /// What was being read.
        field: Field,
        /// Where it begins.
        offset: u64,
        /// What the file says.
        value: u64,
    },
    /// A value that contradicts another one.
    #[error("{field} at offset {offset}: {found} where {expected} is needed")]
    Inconsistent {
        /// What was being read.
        field: Field,
        /// Where it begins.
        offset: u64,
        /// What the rest of the file implies.
        expected: u64,
        /// What this field says.
        found: u64,
    },
    /// A checksum is not that of the bytes it covers.
    #[error("{field} at offset {offset}: the bytes have {found}, not {expected}")]
    Digest {
        /// Which checksum it is.
        field: Field,
        /// Where the bytes that it covers begin.
        offset: u64,
        /// What was wanted.
        expected: Box<Digest>,
        /// What the bytes have.
        found: Box<Digest>,
    },
    /// A chunk has the right checksum but does not decompress.
    #[error("{field} at offset {offset}: the zstd frame cannot be decompressed")]
    Decompress {
        /// Chunk or dictionary.
        field: Field,
        /// Where it begins.
        offset: u64,
        /// What zstd says.
        source: io::Error,
    },
    /// A detached header was given where a whole file is needed.
    #[error("{} at offset 0: a detached header has no chunks", Field::Magic)]
    Detached,
    /// No such chunk.
    #[error("chunk {index} of {count}")]
    NoSuchChunk {
        /// Which was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// zstd refused to compress, or to train a dictionary.
    #[error("zstd cannot {what}")]
    Compress {
        /// What it was asked to do.
        what: &'static str,
        /// What it says.
        source: io::Error,
    },
    /// Options that contradict each other or the format.
    #[error("these options do not go together: {0}")]
    Options(&'static str),
    /// A record that the layout cannot hold.
    #[error("record {key:?}: {why}")]
    Record {
        /// Its key, as text for people.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Bytes could not be read from the caller's reader.
    #[error("reading at offset {offset} failed")]
    Read {
        /// Where.
        offset: u64,
        /// The caller's error.
        source: io::Error,
    },
    /// Bytes could not be written to the caller's writer.
    #[error("writing failed")]
    Write(#[source] io::Error),
    /// Something is missing that has to be supplied first.
    #[error("{count} chunks are still missing, the first of them {first}")]
    Missing {
        /// How many.
        count: usize,
        /// The lowest index among them.
        first: usize,
    },
}

/// The result of everything in this crate.
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
