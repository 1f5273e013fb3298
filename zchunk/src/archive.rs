//! Random access to chunks, and extraction of all of them.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Mutex;

use crate::codec::{Decoder, verify_stored};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::header::{Chunk, Header};
use crate::limits::Limits;
use crate::pipeline::Pipeline;
use crate::stream::{check_body, read_dictionary, read_header, read_stored};

/// A zchunk file with random access.
pub struct Archive<R> {
    inner: R,
    header: Header,
    dictionary: Vec<u8>,
    decoder: Decoder,
    stored: Vec<u8>,
}

impl<R> std::fmt::Debug for Archive<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Reads and verifies header and dictionary. The file begins where `inner` begins.
    pub fn open(mut inner: R, limits: &Limits) -> Result<Self> {
        inner
            .rewind()
            .map_err(|source| Error::Read { offset: 0, source })?;
        let header = read_header(&mut inner, limits)?;
        let mut stored = Vec::new();
        let (dictionary, prepared) = read_dictionary(&mut inner, &mut stored, &header)?;
        let decoder = Decoder::with_dictionary(header.compression(), prepared);
        Ok(Self {
            inner,
            header,
            dictionary,
            decoder,
            stored,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The content of the dictionary; empty where the file has none.
    pub fn dictionary(&self) -> &[u8] {
        &self.dictionary
    }

    /// The underlying reader.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The stored form of one chunk, verified.
    pub fn stored_chunk(&mut self, index: usize) -> Result<Vec<u8>> {
        self.fetch(index)?;
        Ok(std::mem::take(&mut self.stored))
    }

    /// The content of one chunk, verified. Chunk 0 is the dictionary.
    pub fn chunk(&mut self, index: usize) -> Result<Vec<u8>> {
        let chunk = self.fetch(index)?;
        let mut content = Vec::new();
        self.decoder
            .decode_verified(&chunk, &self.stored, &mut content)?;
        Ok(content)
    }

    fn fetch(&mut self, index: usize) -> Result<Chunk> {
        let count = self.header.chunk_count();
        if index >= count {
            return Err(Error::NoSuchChunk { index, count });
        }
        let chunk = self.header.chunk(index);
        if self.header.is_detached() && index > 0 {
            return Err(Error::Detached);
        }
        self.inner
            .seek(SeekFrom::Start(chunk.offset))
            .map_err(|source| Error::Read {
                offset: chunk.offset,
                source,
            })?;
        read_stored(&mut self.inner, &mut self.stored, &chunk)?;
        verify_stored(&chunk, &self.stored)?;
        Ok(chunk)
    }
}

/// One chunk in [`extract`], with buffers that are reused for the next one.
struct Job {
    chunk: Chunk,
    stored: Vec<u8>,
    content: Vec<u8>,
}

/// Writes the content of a whole file to `out`, decompressing on all threads of the current rayon
/// pool, and returns the header.
///
/// Every chunk is verified as by [`crate::Reader`], and the checksum of the body at the end: discard
/// the output after an error. All streams are written. Memory holds two chunks more than there are
/// threads.
pub fn extract(reader: &mut impl Read, out: &mut impl Write, limits: &Limits) -> Result<Header> {
    let header = read_header(reader, limits)?;
    if header.is_detached() {
        return Err(Error::Detached);
    }
    let mut hasher = Hasher::new(header.hash());
    let mut stored = Vec::new();
    let (_, dictionary) = read_dictionary(reader, &mut stored, &header)?;
    hasher.update(&stored);

    // Idle decompressors: a thread takes one and puts it back.
    let idle: Mutex<Vec<Decoder>> = Mutex::new(Vec::new());
    let compression = header.compression();
    let mut pipeline = Pipeline::new(move |mut job: Job| {
        let taken = idle
            .lock()
            .expect("nothing panics while it holds the lock")
            .pop();
        let mut decoder =
            taken.unwrap_or_else(|| Decoder::with_dictionary(compression, dictionary.clone()));
        let outcome = decoder.decode(&job.chunk, &job.stored, &mut job.content);
        idle.lock()
            .expect("nothing panics while it holds the lock")
            .push(decoder);
        outcome.map(|()| job)
    });
    let hash = header.data_digest().is_some();
    let mut spare = Vec::new();
    for index in 1..header.chunk_count() {
        let chunk = header.chunk(index);
        if pipeline.is_full()
            && let Some(job) = pipeline.next()?
        {
            out.write_all(&job.content).map_err(Error::Write)?;
            spare.push(job);
        }
        let mut job = spare.pop().unwrap_or_else(|| Job {
            chunk,
            stored: Vec::new(),
            content: Vec::new(),
        });
        job.chunk = chunk;
        read_stored(reader, &mut job.stored, &chunk)?;
        // The checksum of the body is sequential, so it is computed in parallel with the decompression.
        if hash {
            hasher.update(&job.stored);
        }
        pipeline.send(job);
    }
    while let Some(job) = pipeline.next()? {
        out.write_all(&job.content).map_err(Error::Write)?;
    }
    check_body(&header, hasher)?;
    Ok(header)
}
