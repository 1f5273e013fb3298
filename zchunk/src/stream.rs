//! Reading a file as its bytes arrive.

use std::io::{self, Read};

use crate::codec::{Decoder, SharedDictionary, decode_dictionary, prepare_dictionary};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Field, Result};
use crate::header::{Chunk, Header};
use crate::lead::Lead;
use crate::limits::Limits;

/// Decodes a file from pieces of any size.
///
/// Each chunk is verified before it is decompressed and passed on; the checksum of the body is verified
/// at the end. So each chunk agrees with the index, but only [`StreamDecoder::finish`] tells whether the
/// file is complete. Memory is bounded by the header and the largest chunk, and grows with the bytes that
/// arrive.
///
/// A detached header is followed only by the dictionary, and no chunk is passed on.
pub struct StreamDecoder {
    limits: Limits,
    expected: Option<Digest>,
    /// The bytes of the incomplete header, and then of the incomplete chunk.
    pending: Vec<u8>,
    body: Option<Body>,
    content: Vec<u8>,
}

struct Body {
    header: Header,
    decoder: Decoder,
    hasher: Hasher,
    /// The next chunk.
    next: usize,
    /// Where it begins in the file.
    offset: u64,
}

impl std::fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamDecoder")
            .field("header", &self.header())
            .finish_non_exhaustive()
    }
}

impl StreamDecoder {
    /// A decoder at the start of a file.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            expected: None,
            pending: Vec::new(),
            body: None,
            content: Vec::new(),
        }
    }

    /// Refuses headers with another checksum.
    #[must_use]
    pub fn with_expected_digest(mut self, digest: Digest) -> Self {
        self.expected = Some(digest);
        self
    }

    /// The header, once it has arrived and been verified.
    pub fn header(&self) -> Option<&Header> {
        self.body.as_ref().map(|body| &body.header)
    }

    /// Takes the next bytes and passes each completed chunk with its content to `on_chunk`, in the order of
    /// the file and without the dictionary. An error of `on_chunk` is returned as [`Error::Write`]. After an
    /// error the decoder must not be used.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut on_chunk: impl FnMut(&Chunk, &[u8]) -> io::Result<()>,
    ) -> Result<()> {
        while self.body.is_none() {
            // The header is collected in one piece; take only bytes that are known to belong to it.
            let lead = Lead::parse(&self.pending, &self.limits)?;
            if let (Some(lead), Some(expected)) = (&lead, &self.expected) {
                check_digest(lead, expected)?;
            }
            let want = lead
                .as_ref()
                .map_or(self.pending.len() + 1, |l| l.header_len() as usize);
            if self.pending.len() < want {
                if bytes.is_empty() {
                    return Ok(());
                }
                let take = bytes.len().min(want - self.pending.len());
                self.pending.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                continue;
            }
            let header = Header::parse(&self.pending, &self.limits)?;
            self.pending.clear();
            self.body = Some(Body {
                decoder: Decoder::new(header.compression()),
                hasher: Hasher::new(header.hash()),
                next: 0,
                offset: header.len(),
                header,
            });
        }
        let Some(body) = &mut self.body else {
            return Ok(());
        };
        loop {
            if body.next >= body.stored_chunks() {
                if bytes.is_empty() {
                    return Ok(());
                }
                return Err(Error::Inconsistent {
                    field: Field::BodyEnd,
                    offset: body.offset,
                    expected: body.offset,
                    found: body.offset + bytes.len() as u64,
                });
            }
            let chunk = body.header.chunk(body.next);
            // The parser has checked the length against the limits.
            let len = chunk.len as usize;
            if self.pending.is_empty() && bytes.len() >= len {
                let (stored, rest) = bytes.split_at(len);
                body.chunk(&chunk, stored, &mut self.content, &mut on_chunk)?;
                bytes = rest;
                continue;
            }
            let take = bytes.len().min(len - self.pending.len());
            self.pending.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.pending.len() < len {
                return Ok(());
            }
            body.chunk(&chunk, &self.pending, &mut self.content, &mut on_chunk)?;
            self.pending.clear();
        }
    }

    /// Checks that the file is complete, verifies the checksum of the body and returns the header.
    pub fn finish(self) -> Result<Header> {
        let Some(mut body) = self.body else {
            return Err(Error::Truncated {
                field: Field::HeaderEnd,
                offset: self.pending.len() as u64,
            });
        };
        // Chunks without bytes at the end are completed here.
        let mut content = Vec::new();
        while body.next < body.stored_chunks() && body.header.chunk(body.next).len == 0 {
            let chunk = body.header.chunk(body.next);
            body.chunk(&chunk, &[], &mut content, &mut |_, _| Ok(()))?;
        }
        if body.next < body.stored_chunks() {
            let chunk = body.header.chunk(body.next);
            return Err(Error::Truncated {
                field: chunk.field(),
                offset: chunk.offset,
            });
        }
        if !body.header.is_detached() {
            check_body(&body.header, body.hasher)?;
        }
        Ok(body.header)
    }
}

/// Verifies the checksum of the body.
pub(crate) fn check_body(header: &Header, hasher: Hasher) -> Result<()> {
    let Some(expected) = header.data_digest() else {
        return Ok(());
    };
    let found = hasher.finish();
    if found == *expected {
        return Ok(());
    }
    Err(Error::Digest {
        field: Field::DataDigest,
        offset: header.len(),
        expected: Box::new(*expected),
        found: Box::new(found),
    })
}

pub(crate) fn check_digest(lead: &Lead, expected: &Digest) -> Result<()> {
    if lead.digest() == expected {
        return Ok(());
    }
    Err(Error::Digest {
        field: Field::HeaderDigest,
        offset: 0,
        expected: Box::new(*expected),
        found: Box::new(*lead.digest()),
    })
}

impl Body {
    /// The number of chunks with bytes.
    fn stored_chunks(&self) -> usize {
        if self.header.is_detached() {
            1
        } else {
            self.header.chunk_count()
        }
    }

    fn chunk(
        &mut self,
        chunk: &Chunk,
        stored: &[u8],
        content: &mut Vec<u8>,
        on_chunk: &mut impl FnMut(&Chunk, &[u8]) -> io::Result<()>,
    ) -> Result<()> {
        self.hasher.update(stored);
        if chunk.index == 0 {
            let dictionary = decode_dictionary(&self.header, stored)?;
            self.decoder
                .set_dictionary(prepare_dictionary(&dictionary, chunk.offset)?);
        } else {
            self.decoder.decode(chunk, stored, content)?;
            on_chunk(chunk, content).map_err(Error::Write)?;
        }
        self.next += 1;
        self.offset += chunk.len;
        Ok(())
    }
}

/// The content of a file, read from another reader.
///
/// For a file with streams it is the content of stream 1, as the format recommends, unless
/// [`Reader::with_stream`] sets another. Bytes after the body are not read.
pub struct Reader<R> {
    inner: R,
    decoder: Decoder,
    header: Header,
    hasher: Option<Hasher>,
    stream: u64,
    next: usize,
    stored: Vec<u8>,
    content: Vec<u8>,
    pos: usize,
}

impl<R> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Reader<R> {
    /// Reads and verifies header and dictionary.
    pub fn new(mut inner: R, limits: &Limits) -> Result<Self> {
        let header = read_header(&mut inner, limits)?;
        if header.is_detached() {
            return Err(Error::Detached);
        }
        let mut hasher = Hasher::new(header.hash());
        let mut stored = Vec::new();
        let (_, dictionary) = read_dictionary(&mut inner, &mut stored, &header)?;
        hasher.update(&stored);
        let decoder = Decoder::with_dictionary(header.compression(), dictionary);
        Ok(Self {
            inner,
            decoder,
            header,
            hasher: Some(hasher),
            stream: 1,
            next: 1,
            stored,
            content: Vec::new(),
            pos: 0,
        })
    }

    /// Reads this stream instead of stream 1.
    #[must_use]
    pub fn with_stream(mut self, stream: u64) -> Self {
        self.stream = stream;
        self
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The underlying reader, positioned after the last chunk that was read.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next chunk of the stream and its content; `None` after the last one, when the checksum
    /// of the body has been verified.
    pub fn next_chunk(&mut self) -> Result<Option<(Chunk, &[u8])>> {
        while self.next < self.header.chunk_count() {
            let chunk = self.header.chunk(self.next);
            read_stored(&mut self.inner, &mut self.stored, &chunk)?;
            self.next += 1;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.stored);
            }
            self.decoder
                .decode(&chunk, &self.stored, &mut self.content)?;
            if !self.header.has_streams() || chunk.stream == self.stream {
                self.pos = self.content.len();
                return Ok(Some((chunk, &self.content)));
            }
        }
        self.content.clear();
        self.pos = 0;
        if let Some(hasher) = self.hasher.take() {
            check_body(&self.header, hasher)?;
        }
        Ok(None)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.pos == self.content.len() && !buf.is_empty() {
            if self.next_chunk()?.is_none() {
                return Ok(0);
            }
            self.pos = 0;
        }
        let take = buf.len().min(self.content.len() - self.pos);
        buf[..take].copy_from_slice(&self.content[self.pos..self.pos + take]);
        self.pos += take;
        Ok(take)
    }
}

/// Reads a header, and no byte after it, from any reader.
pub fn read_header(reader: &mut impl Read, limits: &Limits) -> Result<Header> {
    let mut bytes = Vec::new();
    let lead = loop {
        if let Some(lead) = Lead::parse(&bytes, limits)? {
            break lead;
        }
        let offset = bytes.len() as u64;
        let mut byte = [0];
        reader
            .read_exact(&mut byte)
            .map_err(|source| read_error(source, Field::Magic, offset))?;
        bytes.push(byte[0]);
    };
    let rest = lead.header_len() - bytes.len() as u64;
    let offset = bytes.len() as u64;
    let mut body = Vec::new();
    read_exactly(reader, &mut body, rest, Field::HeaderEnd, offset)?;
    bytes.append(&mut body);
    Header::parse(&bytes, limits)
}

/// Reads the dictionary that follows the header: its stored form into `stored`, and its content,
/// also prepared for decompressors.
pub(crate) fn read_dictionary(
    reader: &mut impl Read,
    stored: &mut Vec<u8>,
    header: &Header,
) -> Result<(Vec<u8>, SharedDictionary)> {
    let chunk = header.chunk(0);
    read_stored(reader, stored, &chunk)?;
    let content = decode_dictionary(header, stored)?;
    let prepared = prepare_dictionary(&content, chunk.offset)?;
    Ok((content, prepared))
}

/// Reads the stored form of the chunk at the reader's position.
pub(crate) fn read_stored(
    reader: &mut impl Read,
    stored: &mut Vec<u8>,
    chunk: &Chunk,
) -> Result<()> {
    read_exactly(reader, stored, chunk.len, chunk.field(), chunk.offset)
}

/// Replaces the content of `buffer` by the next `len` bytes. The buffer grows with the bytes that arrive.
pub(crate) fn read_exactly(
    reader: &mut impl Read,
    buffer: &mut Vec<u8>,
    len: u64,
    field: Field,
    offset: u64,
) -> Result<()> {
    buffer.clear();
    // A small length is allocated at once.
    buffer.reserve(len.min(256 << 10) as usize);
    let got = reader
        .take(len)
        .read_to_end(buffer)
        .map_err(|source| Error::Read { offset, source })?;
    if (got as u64) < len {
        return Err(Error::Truncated { field, offset });
    }
    Ok(())
}

fn read_error(source: io::Error, field: Field, offset: u64) -> Error {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        Error::Truncated { field, offset }
    } else {
        Error::Read { offset, source }
    }
}
