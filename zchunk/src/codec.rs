//! Compression and decompression of chunks.

use std::io;
use std::sync::Arc;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DDict};

use crate::digest::Digest;
use crate::error::{Error, Field, Result};
use crate::header::{Chunk, Compression, Header};

/// How zstd searches for matches, from fast to thorough. The names are zstd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Strategy {
    Fast,
    DFast,
    Greedy,
    Lazy,
    Lazy2,
    BtLazy2,
    BtOpt,
    BtUltra,
    BtUltra2,
}

impl Strategy {
    fn to_zstd(self) -> zstd_safe::Strategy {
        match self {
            Self::Fast => zstd_safe::Strategy::ZSTD_fast,
            Self::DFast => zstd_safe::Strategy::ZSTD_dfast,
            Self::Greedy => zstd_safe::Strategy::ZSTD_greedy,
            Self::Lazy => zstd_safe::Strategy::ZSTD_lazy,
            Self::Lazy2 => zstd_safe::Strategy::ZSTD_lazy2,
            Self::BtLazy2 => zstd_safe::Strategy::ZSTD_btlazy2,
            Self::BtOpt => zstd_safe::Strategy::ZSTD_btopt,
            Self::BtUltra => zstd_safe::Strategy::ZSTD_btultra,
            Self::BtUltra2 => zstd_safe::Strategy::ZSTD_btultra2,
        }
    }
}

/// How chunks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Chunks are stored as they are.
    None,
    /// Chunks are zstd frames.
    Zstd {
        /// 1 to 22, or negative for speed.
        level: i32,
        /// Overrides the strategy that the level implies.
        strategy: Option<Strategy>,
    },
}

impl Encoding {
    /// The default of the C tools and of this crate: level 9 with the strategy `btopt`.
    pub const DEFAULT: Self = Self::Zstd {
        level: 9,
        strategy: Some(Strategy::BtOpt),
    };

    /// zstd at this level, with the level's own strategy.
    pub const fn zstd(level: i32) -> Self {
        Self::Zstd {
            level,
            strategy: None,
        }
    }

    pub(crate) const fn compression(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Zstd { .. } => Compression::Zstd,
        }
    }
}

impl Default for Encoding {
    fn default() -> Self {
        Self::DEFAULT
    }
}

pub(crate) fn zstd_error(code: usize) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}

/// Compresses chunks, one at a time, always to the same bytes for the same content.
pub(crate) struct Encoder {
    context: Option<CCtx<'static>>,
    buffer: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(encoding: Encoding, dictionary: &[u8]) -> Result<Self> {
        let Encoding::Zstd { level, strategy } = encoding else {
            return Ok(Self {
                context: None,
                buffer: Vec::new(),
            });
        };
        let mut context = CCtx::create();
        let mut set = || -> Result<usize, usize> {
            context.set_parameter(CParameter::CompressionLevel(level))?;
            if let Some(strategy) = strategy {
                context.set_parameter(CParameter::Strategy(strategy.to_zstd()))?;
            }
            if !dictionary.is_empty() {
                context.load_dictionary(dictionary)?;
            }
            Ok(0)
        };
        set().map_err(|code| Error::Compress {
            what: "set up its compressor",
            source: zstd_error(code),
        })?;
        Ok(Self {
            context: Some(context),
            buffer: Vec::new(),
        })
    }

    /// The stored form of `content`, in a buffer that the next call reuses.
    pub(crate) fn encode<'a>(&'a mut self, content: &'a [u8]) -> Result<&'a [u8]> {
        let Some(zstd) = &mut self.context else {
            return Ok(content);
        };
        self.buffer.clear();
        self.buffer
            .reserve(zstd_safe::compress_bound(content.len()));
        zstd.compress2(&mut self.buffer, content)
            .map_err(|code| Error::Compress {
                what: "compress a chunk",
                source: zstd_error(code),
            })?;
        Ok(&self.buffer)
    }
}

/// A decompressor's dictionary, shared between threads.
pub(crate) type SharedDictionary = Option<Arc<DDict<'static>>>;

/// Prepares a dictionary. `content` is empty if the file has none.
pub(crate) fn prepare_dictionary(content: &[u8], offset: u64) -> Result<SharedDictionary> {
    if content.is_empty() {
        return Ok(None);
    }
    match DDict::try_create(content) {
        Some(dictionary) => Ok(Some(Arc::new(dictionary))),
        None => Err(Error::Decompress {
            field: Field::Dictionary,
            offset,
            source: io::Error::other("zstd refuses the dictionary"),
        }),
    }
}

/// Verifies and decompresses chunks, one at a time.
pub(crate) struct Decoder {
    compression: Compression,
    context: DCtx<'static>,
    dictionary: SharedDictionary,
}

impl Decoder {
    pub(crate) fn new(compression: Compression) -> Self {
        Self {
            compression,
            context: DCtx::create(),
            dictionary: None,
        }
    }

    pub(crate) fn with_dictionary(compression: Compression, dictionary: SharedDictionary) -> Self {
        Self {
            compression,
            context: DCtx::create(),
            dictionary,
        }
    }

    pub(crate) fn set_dictionary(&mut self, dictionary: SharedDictionary) {
        self.dictionary = dictionary;
    }

    /// Replaces what is in `content` by the content of a chunk whose stored form is `stored`.
    ///
    /// The checksum is verified before zstd sees a byte, and the content's length (and with flag 4
    /// its checksum) afterwards.
    pub(crate) fn decode(
        &mut self,
        chunk: &Chunk,
        stored: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<()> {
        verify_stored(chunk, stored)?;
        self.decode_verified(chunk, stored, content)
    }

    /// As [`Self::decode`], for a verified stored form.
    pub(crate) fn decode_verified(
        &mut self,
        chunk: &Chunk,
        stored: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<()> {
        content.clear();
        if stored.is_empty() || self.compression == Compression::None || chunk.is_stored_raw() {
            content.extend_from_slice(stored);
        } else {
            // The parser of the header bounds this by the caller's limit and by the maximum content of
            // this many bytes; pages that zstd does not write to are never touched.
            content.reserve_exact(chunk.raw_len as usize);
            let done = match (&self.dictionary, chunk.index) {
                // The dictionary itself is compressed without one.
                (Some(dictionary), 1..) => self
                    .context
                    .decompress_using_ddict(content, stored, dictionary),
                _ => self.context.decompress(content, stored),
            };
            done.map_err(|code| Error::Decompress {
                field: chunk.field(),
                offset: chunk.offset,
                source: zstd_error(code),
            })?;
        }
        if content.len() as u64 != chunk.raw_len {
            return Err(Error::Inconsistent {
                field: Field::ChunkRawLen,
                offset: chunk.offset,
                expected: content.len() as u64,
                found: chunk.raw_len,
            });
        }
        verify_content(chunk, content)
    }
}

/// Verifies the stored form of a chunk.
pub(crate) fn verify_stored(chunk: &Chunk, stored: &[u8]) -> Result<()> {
    if stored.len() as u64 != chunk.len {
        return Err(Error::Inconsistent {
            field: Field::ChunkLen,
            offset: chunk.offset,
            expected: chunk.len,
            found: stored.len() as u64,
        });
    }
    // Without stored bytes or without a checksum of them, the content has a checksum.
    if chunk.is_stored_raw() || (chunk.index == 0 && stored.is_empty()) {
        return Ok(());
    }
    // A chunk without bytes may carry zeros like the dictionary's entry.
    if stored.is_empty() && chunk.digest.is_zero() {
        return Ok(());
    }
    verify(chunk, &chunk.digest, stored, Field::ChunkDigest)
}

/// Verifies the content of a chunk, if the file has a checksum of it.
pub(crate) fn verify_content(chunk: &Chunk, content: &[u8]) -> Result<()> {
    match &chunk.raw_digest {
        // Writers store zeros for an empty dictionary, and some for any dictionary.
        Some(digest) if !(chunk.index == 0 && digest.is_zero()) => {
            verify(chunk, digest, content, Field::ChunkRawDigest)
        }
        _ => Ok(()),
    }
}

fn verify(chunk: &Chunk, expected: &Digest, bytes: &[u8], field: Field) -> Result<()> {
    let found = expected.kind().digest(bytes);
    if found == *expected {
        return Ok(());
    }
    Err(Error::Digest {
        field,
        offset: chunk.offset,
        expected: Box::new(*expected),
        found: Box::new(found),
    })
}

/// Decompresses the dictionary of `header` from its stored form.
pub(crate) fn decode_dictionary(header: &Header, stored: &[u8]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    Decoder::new(header.compression()).decode(&header.chunk(0), stored, &mut content)?;
    Ok(content)
}
