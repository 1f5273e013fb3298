//! The content of served files: in memory, or on disk until it is requested.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Memory(Bytes),
    /// The length is that of the look-up; a file that shrinks meanwhile truncates the body, as with any other
    /// server.
    File {
        path: PathBuf,
        len: u64,
    },
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// The whole content at once, for the few uses that need it (digests, indexes, `gzip`).
    pub(crate) fn read_all(&self) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.clone()),
            Self::File { path, .. } => std::fs::read(path).map(Bytes::from),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

/// Reads a half-open range of a content piece by piece.
#[derive(Debug)]
pub(crate) struct Reader {
    content: Content,
    range: Range<u64>,
    file: Option<tokio::fs::File>,
}

impl Reader {
    pub(crate) fn new(content: Content, range: Range<u64>) -> Self {
        Self {
            content,
            range,
            file: None,
        }
    }

    /// Offset in the file of the next byte to be read.
    pub(crate) fn position(&self) -> u64 {
        self.range.start
    }

    /// The next piece, of at most `max` bytes; `None` at the end of the range.
    pub(crate) async fn next(&mut self, max: usize) -> io::Result<Option<Bytes>> {
        let left = usize::try_from(self.range.end.saturating_sub(self.range.start))
            .unwrap_or(usize::MAX)
            .min(max);
        if left == 0 {
            return Ok(None);
        }
        let piece = match &self.content {
            Content::Memory(bytes) => {
                let start = usize::try_from(self.range.start).unwrap_or(usize::MAX);
                let end = start.saturating_add(left).min(bytes.len());
                if start >= end {
                    return Ok(None);
                }
                bytes.slice(start..end)
            }
            Content::File { path, .. } => {
                let file = match &mut self.file {
                    Some(file) => file,
                    unopened => {
                        let mut file = tokio::fs::File::open(path).await?;
                        file.seek(io::SeekFrom::Start(self.range.start)).await?;
                        // The default of 2 MiB would read far ahead of a slow client.
                        file.set_max_buf_size(256 * 1024);
                        unopened.insert(file)
                    }
                };
                let mut piece = vec![0; left];
                let read = file.read(&mut piece).await?;
                if read == 0 {
                    return Ok(None);
                }
                piece.truncate(read);
                Bytes::from(piece)
            }
        };
        self.range.start += piece.len() as u64;
        Ok(Some(piece))
    }
}
