//! Writing a file.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use crate::buzhash::{Buzhash, Chunker};
use crate::codec::{Encoder, Encoding};
use crate::compressors::{Compressors, Done, EntryOptions, Job};
use crate::digest::{Digest, HashKind, Hasher};
use crate::error::{Error, Result};
use crate::header::{Element, Header};
use crate::header_parts::{EntryParts, HeaderParts};
use crate::limits::Limits;
use crate::pipeline::Pipeline;

/// How chunk boundaries are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundaries {
    /// By buzhash, and by [`Writer::end_chunk`].
    Auto(Buzhash),
    /// Only by [`Writer::end_chunk`], up to a maximum size.
    Manual {
        /// In bytes. The C library uses 10 MiB and readers may refuse more.
        max: usize,
    },
}

impl Boundaries {
    /// Boundaries by the caller, up to the 10 MiB of the C library.
    pub const MANUAL: Self = Self::Manual { max: 10 << 20 };
}

/// Options of a writer. The default is that of `zck`.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The chunk boundaries.
    pub boundaries: Boundaries,
    /// How chunks are compressed.
    pub encoding: Encoding,
    /// The content of the dictionary; empty for none.
    pub dictionary: Vec<u8>,
    /// The checksum of header and body.
    pub hash: HashKind,
    /// The checksum of chunks. Flag 4 requires SHA-256 or SHA-512.
    pub chunk_hash: HashKind,
    /// Flag 4: the index also has the checksums of the chunks' contents, and the body has none. Readers that
    /// store only the content can reuse it.
    pub uncompressed_source: bool,
    /// Optional elements, in order.
    pub elements: Vec<Element>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            boundaries: Boundaries::Auto(Buzhash::default()),
            encoding: Encoding::default(),
            dictionary: Vec::new(),
            hash: HashKind::Sha256,
            chunk_hash: HashKind::Sha512_128,
            uncompressed_source: false,
            elements: Vec::new(),
        }
    }
}

impl WriterOptions {
    /// Boundaries chosen by the caller.
    #[must_use]
    pub fn with_manual_boundaries(mut self) -> Self {
        self.boundaries = Boundaries::MANUAL;
        self
    }

    /// Sets the encoding.
    #[must_use]
    pub fn with_encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Sets the dictionary.
    #[must_use]
    pub fn with_dictionary(mut self, dictionary: Vec<u8>) -> Self {
        self.dictionary = dictionary;
        self
    }

    /// Sets the checksum of chunks.
    #[must_use]
    pub fn with_chunk_hash(mut self, hash: HashKind) -> Self {
        self.chunk_hash = hash;
        self
    }

    /// Sets flag 4, and SHA-256 for chunks unless a checksum that the format allows is set.
    #[must_use]
    pub fn with_uncompressed_source(mut self) -> Self {
        self.uncompressed_source = true;
        if !strong_enough(self.chunk_hash) {
            self.chunk_hash = HashKind::Sha256;
        }
        self
    }

    /// Adds an optional element.
    #[must_use]
    pub fn with_element(mut self, id: u64, data: Vec<u8>) -> Self {
        self.elements.push(Element { id, data });
        self
    }
}

fn strong_enough(hash: HashKind) -> bool {
    matches!(hash, HashKind::Sha256 | HashKind::Sha512)
}

/// A buffer for the compressed body until the index, which precedes it, is complete: a temporary file to
/// save memory, or a `Cursor<Vec<u8>>`. It must be empty.
pub trait Spool: Read + Write + Seek {}

impl<T: Read + Write + Seek> Spool for T {}

/// Small chunks are compressed together up to this many bytes, to amortise the cost of passing them to
/// another thread.
const JOB: usize = 32 << 10;

/// Pushed bytes are copied in pieces of this size.
const PIECE: usize = 256 << 10;

/// Writes a file; content goes in through [`Write`].
///
/// The output depends on the content, the options and the version of zstd, but not on the number of
/// threads or the sizes of the writes.
pub struct Writer<S = Cursor<Vec<u8>>> {
    options: WriterOptions,
    spool: S,
    hasher: Hasher,
    chunker: Option<Chunker>,
    max: usize,
    /// Content that is not sent to compression yet: whole chunks up to the last of its ends, then the
    /// beginning of the next.
    batch: Job,
    /// Buffers for reuse.
    spare: Vec<Job>,
    entries: Vec<EntryParts>,
    entry_options: EntryOptions,
    pipeline: Pipeline<Job, Done>,
    stored_dictionary: Vec<u8>,
}

impl<S> std::fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// A writer that keeps the compressed body in memory until the end.
    pub fn new(options: WriterOptions) -> Result<Self> {
        Self::with_spool(options, Cursor::new(Vec::new()))
    }
}

impl<S: Spool> Writer<S> {
    /// A writer that keeps the compressed body in `spool`.
    pub fn with_spool(options: WriterOptions, spool: S) -> Result<Self> {
        if options.uncompressed_source && !strong_enough(options.chunk_hash) {
            return Err(Error::Options("flag 4 needs SHA-256 or SHA-512 for chunks"));
        }
        let (chunker, max) = match options.boundaries {
            Boundaries::Auto(parameters) => (Some(Chunker::new(parameters)), parameters.max),
            Boundaries::Manual { max } => (None, max),
        };
        if max == 0 {
            return Err(Error::Options("chunks of at most no bytes"));
        }
        let entry_options = EntryOptions {
            hash: options.chunk_hash,
            uncompressed_source: options.uncompressed_source,
        };
        let compressors = Compressors::new(
            options.encoding,
            options.dictionary.clone(),
            entry_options,
            max,
        );
        let mut writer = Self {
            hasher: Hasher::new(options.hash),
            pipeline: Pipeline::new(move |job| compressors.run(job)),
            entry_options,
            spool,
            chunker,
            max,
            batch: Job::default(),
            spare: Vec::new(),
            entries: Vec::new(),
            stored_dictionary: Vec::new(),
            options,
        };
        writer.write_dictionary()?;
        Ok(writer)
    }

    /// Entry 0 is always there; without a dictionary it has no bytes and checksums of zeros.
    fn write_dictionary(&mut self) -> Result<()> {
        let zero = Digest::zero(self.options.chunk_hash);
        let mut entry = EntryParts {
            stream: 0,
            digest: zero,
            raw_digest: self.options.uncompressed_source.then_some(zero),
            len: 0,
            raw_len: 0,
        };
        let dictionary = &self.options.dictionary;
        if !dictionary.is_empty() {
            let stored = Encoder::new(self.options.encoding, &[])?
                .encode(dictionary)?
                .to_vec();
            entry = self.entry_options.entry(dictionary, &stored);
            entry.stream = 0;
            self.hasher.update(&stored);
            self.spool.write_all(&stored).map_err(Error::Write)?;
            self.stored_dictionary = stored;
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Ends the current chunk. Does nothing if it has no bytes.
    pub fn end_chunk(&mut self) -> Result<()> {
        if let Some(chunker) = &mut self.chunker {
            chunker.reset();
        }
        self.cut()
    }

    /// The bytes of the current chunk.
    fn present(&self) -> usize {
        self.batch.content.len() - self.batch.ends.last().copied().unwrap_or(0)
    }

    fn cut(&mut self) -> Result<()> {
        if self.present() > 0 {
            self.batch.ends.push(self.batch.content.len());
            if self.batch.content.len() >= JOB {
                self.send_batch()?;
            }
        }
        Ok(())
    }

    /// Adds content.
    pub fn push(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let piece = &data[..data.len().min(PIECE)];
            let cut = if let Some(chunker) = &mut self.chunker {
                chunker.next_cut(piece)
            } else {
                let room = self.max - self.present();
                (piece.len() > room).then_some(room)
            };
            let take = cut.unwrap_or(piece.len());
            self.batch.content.extend_from_slice(&piece[..take]);
            data = &data[take..];
            if cut.is_some() {
                self.cut()?;
            }
        }
        Ok(())
    }

    /// Adds a whole chunk with its stored form, from another file with the same dictionary and compression,
    /// without compressing it again. Neither form is verified.
    pub fn push_stored(&mut self, content: &[u8], stored: &[u8]) -> Result<()> {
        self.end_chunk()?;
        self.drain()?;
        self.append(content, stored)
    }

    fn append(&mut self, content: &[u8], stored: &[u8]) -> Result<()> {
        self.store(stored)?;
        self.entries.push(self.entry_options.entry(content, stored));
        Ok(())
    }

    fn store(&mut self, stored: &[u8]) -> Result<()> {
        // Flag 4 has no checksum of the body.
        if !self.options.uncompressed_source {
            self.hasher.update(stored);
        }
        self.spool.write_all(stored).map_err(Error::Write)
    }

    /// Sends all whole chunks to compression. There must be no incomplete chunk.
    fn send_batch(&mut self) -> Result<()> {
        while self.pipeline.is_full() {
            self.take_back()?;
        }
        let next = self.spare.pop().unwrap_or_default();
        self.pipeline.send(std::mem::replace(&mut self.batch, next));
        Ok(())
    }

    /// Receives the next compressed chunks; returns whether there were any.
    fn take_back(&mut self) -> Result<bool> {
        let Some(mut done) = self.pipeline.next()? else {
            return Ok(false);
        };
        self.store(&done.stored)?;
        self.entries.append(&mut done.entries);
        self.spare.push(done.job);
        Ok(true)
    }

    /// Compresses the remaining chunks.
    fn drain(&mut self) -> Result<()> {
        if !self.batch.ends.is_empty() {
            self.send_batch()?;
        }
        while self.take_back()? {}
        Ok(())
    }

    /// Ends the last chunk and writes header and body to `out`.
    pub fn finish(mut self, out: &mut impl Write) -> Result<Written> {
        self.end_chunk()?;
        self.drain()?;
        let Self {
            options,
            mut spool,
            hasher,
            entries,
            stored_dictionary,
            ..
        } = self;
        let bytes = HeaderParts {
            hash: options.hash,
            data_digest: (!options.uncompressed_source).then(|| hasher.finish()),
            streams: false,
            compression: options.encoding.compression(),
            elements: &options.elements,
            chunk_hash: options.chunk_hash,
            entries: &entries,
            signatures: &[],
        }
        .encode();
        let header = Header::parse(&bytes, &Limits::NONE)?;
        out.write_all(&bytes).map_err(Error::Write)?;
        spool.seek(SeekFrom::Start(0)).map_err(Error::Write)?;
        let copied = io::copy(&mut spool, out).map_err(Error::Write)?;
        if copied != header.body_len() {
            return Err(Error::Write(io::Error::other(
                "the spool was not empty, or lost bytes",
            )));
        }
        Ok(Written {
            header,
            stored_dictionary,
        })
    }
}

impl<S: Spool> Write for Writer<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.push(data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The written file.
#[derive(Debug, Clone)]
pub struct Written {
    header: Header,
    stored_dictionary: Vec<u8>,
}

impl Written {
    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The detached header with the dictionary, as `unzck --header` writes it.
    pub fn detached(&self) -> Vec<u8> {
        let mut bytes = self.header.to_detached_bytes();
        bytes.extend_from_slice(&self.stored_dictionary);
        bytes
    }
}

/// Writes a file in memory.
pub fn write_to_vec(content: &[u8], options: WriterOptions) -> Result<(Vec<u8>, Written)> {
    let mut writer = Writer::new(options)?;
    writer.push(content)?;
    let mut out = Vec::new();
    let written = writer.finish(&mut out)?;
    Ok((out, written))
}
