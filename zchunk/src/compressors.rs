//! Compression of whole chunks on several threads.

use std::sync::Mutex;

use crate::codec::{Encoder, Encoding};
use crate::digest::HashKind;
use crate::error::Result;
use crate::header_parts::EntryParts;

/// Whole chunks that are compressed together.
#[derive(Debug, Default)]
pub(crate) struct Job {
    pub(crate) content: Vec<u8>,
    /// The end of each chunk in `content`; the last one is the end of `content`.
    pub(crate) ends: Vec<usize>,
}

/// The result of a job.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) entries: Vec<EntryParts>,
    /// The concatenated stored forms.
    pub(crate) stored: Vec<u8>,
    /// The emptied buffers of the job, for reuse.
    pub(crate) job: Job,
}

/// How the entries of the index are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryOptions {
    pub(crate) hash: HashKind,
    pub(crate) uncompressed_source: bool,
}

impl EntryOptions {
    pub(crate) fn entry(self, content: &[u8], stored: &[u8]) -> EntryParts {
        EntryParts {
            stream: 1,
            digest: self.hash.digest(stored),
            raw_digest: self.uncompressed_source.then(|| self.hash.digest(content)),
            len: stored.len() as u64,
            raw_len: content.len() as u64,
        }
    }
}

/// The size in bytes from which more jobs are likely to follow.
const MANY: usize = 16 << 10;

/// Larger chunks are too rare to prepare for.
const MOST: usize = 256 << 10;

/// A pool of compressors. A thread takes one and puts it back, so there are at most as many as
/// threads.
pub(crate) struct Compressors {
    encoding: Encoding,
    dictionary: Vec<u8>,
    options: EntryOptions,
    largest: usize,
    idle: Mutex<Vec<Encoder>>,
}

impl Compressors {
    /// `largest` is the length of the largest chunk, if that is known, or a larger number.
    pub(crate) fn new(
        encoding: Encoding,
        dictionary: Vec<u8>,
        options: EntryOptions,
        largest: usize,
    ) -> Self {
        Self {
            encoding,
            dictionary,
            options,
            largest,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// zstd reallocates its tables for each new largest chunk, and the process keeps the freed memory. So
    /// a compressor for many chunks starts with the size of the largest.
    fn new_encoder(&self, len: usize) -> Result<Encoder> {
        let mut encoder = Encoder::new(self.encoding, &self.dictionary)?;
        if len >= MANY && self.largest <= MOST {
            encoder.encode(&vec![0; self.largest])?;
        }
        Ok(encoder)
    }

    pub(crate) fn run(&self, mut job: Job) -> Result<Done> {
        let idle = self
            .idle
            .lock()
            .expect("nothing panics while it holds the lock")
            .pop();
        let mut encoder = match idle {
            Some(encoder) => encoder,
            None => self.new_encoder(job.content.len())?,
        };
        let mut stored = Vec::new();
        let mut entries = Vec::with_capacity(job.ends.len());
        let mut start = 0;
        for &end in &job.ends {
            let content = &job.content[start..end];
            let frame = encoder.encode(content)?;
            entries.push(self.options.entry(content, frame));
            stored.extend_from_slice(frame);
            start = end;
        }
        self.idle
            .lock()
            .expect("nothing panics while it holds the lock")
            .push(encoder);
        job.content.clear();
        job.ends.clear();
        Ok(Done {
            entries,
            stored,
            job,
        })
    }
}
