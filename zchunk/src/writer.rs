//! Writing a file.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::sync::Mutex;

use rayon::prelude::*;

use crate::buzhash::{Buzhash, Chunker};
use crate::codec::{Encoder, Encoding};
use crate::digest::{Digest, HashKind, Hasher};
use crate::error::{Error, Result};
use crate::header::{Element, EntryParts, Header, HeaderParts};
use crate::limits::Limits;

/// Who decides where chunks end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundaries {
    /// buzhash, and the caller where [`Writer::end_chunk`] is called.
    Auto(Buzhash),
    /// The caller alone; but a chunk of so many bytes is ended all the same.
    Manual {
        /// In bytes. The C library uses 10 MiB and readers may refuse more.
        max: usize,
    },
}

impl Boundaries {
    /// The caller decides, up to the C library's 10 MiB.
    pub const MANUAL: Self = Self::Manual { max: 10 << 20 };
}

/// How to write a file. The default is what `zck` does without options.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Where chunks end.
    pub boundaries: Boundaries,
    /// How chunks are compressed.
    pub encoding: Encoding,
    /// The content of the dictionary; empty for none.
    pub dictionary: Vec<u8>,
    /// The checksum of header and body.
    pub hash: HashKind,
    /// The checksum of chunks. With flag 4 the format demands SHA-256 or SHA-512.
    pub chunk_hash: HashKind,
    /// Flag 4: the index has the checksums of the chunks' contents as well, and the body as a
    /// whole has none. Readers that keep only the content can then reuse it.
    pub uncompressed_source: bool,
    /// Optional elements, in the order in which they are to stand.
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

    /// Another encoding.
    #[must_use]
    pub fn with_encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// A dictionary.
    #[must_use]
    pub fn with_dictionary(mut self, dictionary: Vec<u8>) -> Self {
        self.dictionary = dictionary;
        self
    }

    /// Another checksum for chunks.
    #[must_use]
    pub fn with_chunk_hash(mut self, hash: HashKind) -> Self {
        self.chunk_hash = hash;
        self
    }

    /// Flag 4, and SHA-256 for chunks unless a checksum that the format allows has been chosen.
    #[must_use]
    pub fn with_uncompressed_source(mut self) -> Self {
        self.uncompressed_source = true;
        if !strong_enough(self.chunk_hash) {
            self.chunk_hash = HashKind::Sha256;
        }
        self
    }

    /// One more optional element.
    #[must_use]
    pub fn with_element(mut self, id: u64, data: Vec<u8>) -> Self {
        self.elements.push(Element { id, data });
        self
    }
}

fn strong_enough(hash: HashKind) -> bool {
    matches!(hash, HashKind::Sha256 | HashKind::Sha512)
}

/// Where the compressed body waits until the index, which stands before it, is complete.
///
/// Anything that can be written and then read from its beginning: a temporary file, so that memory
/// stays small, or a `Cursor<Vec<u8>>`. It must be empty.
pub trait Spool: Read + Write + Seek {}

impl<T: Read + Write + Seek> Spool for T {}

/// Content is gathered up to this many bytes, in whole chunks, and then compressed on all threads
/// of the current rayon pool.
const BATCH: usize = 2 << 20;

/// Writes a file; content goes in through [`Write`].
///
/// The bytes that come out depend on the content, the options and the version of zstd, and not on
/// the number of threads or on how the content was cut into writes.
pub struct Writer<S = Cursor<Vec<u8>>> {
    options: WriterOptions,
    spool: S,
    hasher: Hasher,
    chunker: Option<Chunker>,
    max: usize,
    /// Content that has not been compressed: whole chunks up to the last of `ends`, then the
    /// beginning of the next.
    batch: Vec<u8>,
    ends: Vec<usize>,
    entries: Vec<EntryParts>,
    encoders: Encoders,
    stored_dictionary: Vec<u8>,
}

impl<S> std::fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Compressors that are not at work. A thread takes one and puts it back.
struct Encoders {
    encoding: Encoding,
    dictionary: Vec<u8>,
    idle: Mutex<Vec<Encoder>>,
}

impl Encoders {
    fn encode(&self, content: &[u8]) -> Result<Vec<u8>> {
        let idle = self
            .idle
            .lock()
            .expect("nothing panics while it holds the lock")
            .pop();
        let mut encoder = match idle {
            Some(encoder) => encoder,
            None => Encoder::new(self.encoding, &self.dictionary)?,
        };
        let stored = encoder.encode(content);
        self.idle
            .lock()
            .expect("nothing panics while it holds the lock")
            .push(encoder);
        stored
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
        let mut writer = Self {
            hasher: Hasher::new(options.hash),
            encoders: Encoders {
                encoding: options.encoding,
                dictionary: options.dictionary.clone(),
                idle: Mutex::new(Vec::new()),
            },
            spool,
            chunker,
            max,
            batch: Vec::new(),
            ends: Vec::new(),
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
            let stored = Encoder::new(self.options.encoding, &[])?.encode(dictionary)?;
            entry = entry_of(&self.options, dictionary, &stored);
            entry.stream = 0;
            self.hasher.update(&stored);
            self.spool.write_all(&stored).map_err(Error::Write)?;
            self.stored_dictionary = stored;
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Ends the present chunk here. Does nothing where it has no bytes.
    pub fn end_chunk(&mut self) -> Result<()> {
        if let Some(chunker) = &mut self.chunker {
            chunker.reset();
        }
        if self.batch.len() > self.ends.last().copied().unwrap_or(0) {
            self.ends.push(self.batch.len());
            if self.batch.len() >= BATCH {
                self.flush_batch()?;
            }
        }
        Ok(())
    }

    /// Adds content.
    pub fn push(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let start = self.ends.last().copied().unwrap_or(0);
            // However much comes at once, no more than a batch is copied before it is compressed.
            let piece = &data[..data.len().min(BATCH)];
            let cut = if let Some(chunker) = &mut self.chunker {
                chunker.next_cut(piece)
            } else {
                let room = self.max - (self.batch.len() - start);
                (piece.len() > room).then_some(room)
            };
            let take = cut.unwrap_or(piece.len());
            self.batch.extend_from_slice(&piece[..take]);
            data = &data[take..];
            if cut.is_some() && self.batch.len() > start {
                self.ends.push(self.batch.len());
                if self.batch.len() >= BATCH {
                    self.flush_batch()?;
                }
            }
        }
        Ok(())
    }

    /// Adds one whole chunk whose stored form is known, from another file made with the same
    /// dictionary and compression, without compressing it again. Neither form is checked here.
    pub fn push_stored(&mut self, content: &[u8], stored: &[u8]) -> Result<()> {
        self.end_chunk()?;
        self.flush_batch()?;
        self.append(entry_of(&self.options, content, stored), stored)
    }

    /// Compresses all whole chunks of the batch and keeps what is left of it.
    fn flush_batch(&mut self) -> Result<()> {
        let Some(&whole) = self.ends.last() else {
            return Ok(());
        };
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ranges: Vec<_> = starts.zip(self.ends.iter().copied()).collect();
        let (batch, encoders, options) = (&self.batch, &self.encoders, &self.options);
        let done: Vec<Result<(EntryParts, Vec<u8>)>> = ranges
            .into_par_iter()
            .with_max_len(1)
            .map(|(start, end)| {
                let content = &batch[start..end];
                let stored = encoders.encode(content)?;
                Ok((entry_of(options, content, &stored), stored))
            })
            .collect();
        for result in done {
            let (entry, stored) = result?;
            self.append(entry, &stored)?;
        }
        self.batch.drain(..whole);
        self.ends.clear();
        Ok(())
    }

    fn append(&mut self, entry: EntryParts, stored: &[u8]) -> Result<()> {
        // With flag 4 there is no checksum of the body.
        if !self.options.uncompressed_source {
            self.hasher.update(stored);
        }
        self.spool.write_all(stored).map_err(Error::Write)?;
        self.entries.push(entry);
        Ok(())
    }

    /// Ends the last chunk and writes header and body to `out`.
    pub fn finish(mut self, out: &mut impl Write) -> Result<Written> {
        self.end_chunk()?;
        self.flush_batch()?;
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

fn entry_of(options: &WriterOptions, content: &[u8], stored: &[u8]) -> EntryParts {
    EntryParts {
        stream: 1,
        digest: options.chunk_hash.digest(stored),
        raw_digest: options
            .uncompressed_source
            .then(|| options.chunk_hash.digest(content)),
        len: stored.len() as u64,
        raw_len: content.len() as u64,
    }
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    header: Header,
    stored_dictionary: Vec<u8>,
}

impl Written {
    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The detached header: what `unzck --header` writes, dictionary included.
    pub fn detached(&self) -> Vec<u8> {
        let mut bytes = self.header.to_detached_bytes();
        bytes.extend_from_slice(&self.stored_dictionary);
        bytes
    }
}

/// A whole file in memory from content in memory.
pub fn write_to_vec(content: &[u8], options: WriterOptions) -> Result<(Vec<u8>, Written)> {
    let mut writer = Writer::new(options)?;
    writer.push(content)?;
    let mut out = Vec::new();
    let written = writer.finish(&mut out)?;
    Ok((out, written))
}
