//! A file of a log in memory: the base of the next version and of a follower.

use std::io::{Read, Write};

use crate::codec::{decode_dictionary, verify_stored};
use crate::error::{Error, Field, Result};
use crate::header::{Chunk, Header};
use crate::layout::{CONTENT_HASH, Layout, key, split};
use crate::limits::Limits;
use crate::stream::{Reader, read_exactly, read_header};

/// A file with the log layout, and its content.
#[derive(Debug, Clone)]
pub struct LogFile {
    header: Header,
    layout: Layout,
    content: Vec<u8>,
    stored_dictionary: Vec<u8>,
    /// The body, if it is known.
    body: Option<Vec<u8>>,
}

impl LogFile {
    /// Reads a whole file. [`Error::Inconsistent`] with [`Field::Layout`] if it has no log layout.
    pub fn read(reader: &mut impl Read, limits: &Limits) -> Result<Self> {
        let header = read_header(reader, limits)?;
        if header.is_detached() {
            return Err(Error::Detached);
        }
        let mut body = Vec::new();
        read_exactly(
            reader,
            &mut body,
            header.body_len(),
            Field::Chunk,
            header.len(),
        )?;
        let mut content = Vec::new();
        let mut chunks = Reader::new(header.as_bytes().chain(&body[..]), limits)?;
        while let Some((_, bytes)) = chunks.next_chunk()? {
            content.extend_from_slice(bytes);
        }
        let stored_dictionary = body[..header.chunk(0).len as usize].to_vec();
        Self::new(header, stored_dictionary, content, Some(body))
    }

    /// From the files that a follower stores: the detached header of a file, and its content.
    ///
    /// All of the content is verified by the layout's checksums.
    pub fn from_content(detached: &[u8], content: Vec<u8>, limits: &Limits) -> Result<Self> {
        let header = Header::parse(detached, limits)?;
        let chunk = header.chunk(0);
        let Some(stored) = detached.get(header.len() as usize..) else {
            return Err(Error::Truncated {
                field: Field::Dictionary,
                offset: chunk.offset,
            });
        };
        verify_stored(&chunk, stored)?;
        let stored = stored.to_vec();
        Self::new(header, stored, content, None)
    }

    pub(crate) fn new(
        header: Header,
        stored_dictionary: Vec<u8>,
        content: Vec<u8>,
        body: Option<Vec<u8>>,
    ) -> Result<Self> {
        let Some(layout) = header.layout().cloned() else {
            return Err(Error::Inconsistent {
                field: Field::Layout,
                offset: 0,
                expected: 1,
                found: 0,
            });
        };
        if content.len() as u64 != header.raw_len() {
            return Err(Error::Inconsistent {
                field: Field::TotalLen,
                offset: 0,
                expected: header.raw_len(),
                found: content.len() as u64,
            });
        }
        let file = Self {
            header,
            layout,
            content,
            stored_dictionary,
            body,
        };
        for chunk in file.header.chunks().skip(1) {
            let found = CONTENT_HASH.digest(file.text(&chunk));
            match file.layout.content_digest(chunk.index) {
                Some(expected) if expected != found => {
                    return Err(Error::Digest {
                        field: Field::ChunkRawDigest,
                        offset: chunk.offset,
                        expected: Box::new(expected),
                        found: Box::new(found),
                    });
                }
                _ => {}
            }
        }
        Ok(file)
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The content: head, records with separators, tail.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// The detached header, which a follower stores with the content.
    pub fn detached(&self) -> Vec<u8> {
        let mut bytes = self.header.to_detached_bytes();
        bytes.extend_from_slice(&self.stored_dictionary);
        bytes
    }

    /// Writes the zchunk file, if it was read as such; a follower has only the content.
    pub fn write_file(&self, out: &mut impl Write) -> Result<()> {
        let Some(body) = &self.body else {
            return Err(Error::Missing {
                count: self.header.chunk_count(),
                first: 0,
            });
        };
        out.write_all(self.header.as_bytes())
            .map_err(Error::Write)?;
        out.write_all(body).map_err(Error::Write)
    }

    /// All records, in the order of the file: the oldest chunk first, by key within a chunk.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.record_chunks().into_iter().flatten()
    }

    /// The key of one of its records.
    pub fn key<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        key(record, &self.layout.key_end)
    }

    pub(crate) fn stored_dictionary(&self) -> &[u8] {
        &self.stored_dictionary
    }

    pub(crate) fn dictionary(&self) -> Result<Vec<u8>> {
        decode_dictionary(&self.header, &self.stored_dictionary)
    }

    /// A chunk's content.
    pub(crate) fn text(&self, chunk: &Chunk) -> &[u8] {
        let start = chunk.raw_offset as usize;
        &self.content[start..start + chunk.raw_len as usize]
    }

    /// A chunk's stored form, if it is known.
    pub(crate) fn stored(&self, chunk: &Chunk) -> Option<&[u8]> {
        let start = (chunk.offset - self.header.len()) as usize;
        self.body
            .as_ref()
            .map(|body| &body[start..start + chunk.len as usize])
    }

    /// The records of each chunk that has any: the settled ones in order, then the last.
    pub(crate) fn record_chunks(&self) -> Vec<Vec<&[u8]>> {
        let layout = &self.layout;
        (layout.first_settled()..self.header.chunk_count())
            .map(|index| {
                let text = self.text(&self.header.chunk(index));
                records_of(layout, index, text)
            })
            .collect()
    }
}

/// The records in the content of chunk `index`.
pub(crate) fn records_of<'a>(layout: &Layout, index: usize, mut text: &'a [u8]) -> Vec<&'a [u8]> {
    if index == layout.last() {
        text = &text[..text.len().saturating_sub(layout.tail_len as usize)];
    }
    // All but the first begin with a separator.
    if index > layout.first_settled() {
        text = text.strip_prefix(&layout.separator[..]).unwrap_or(text);
    }
    split(text, &layout.separator)
}
