//! Compressing whole chunks, on any thread.

use std::sync::Mutex;

use crate::codec::{Encoder, Encoding};
use crate::digest::HashKind;
use crate::error::Result;
use crate::header_parts::EntryParts;

/// Whole chunks that are compressed together.
#[derive(Debug, Default)]
pub(crate) struct Job {
    pub(crate) content: Vec<u8>,
    /// Where each chunk ends in `content`; the last ends where `content` does.
    pub(crate) ends: Vec<usize>,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) entries: Vec<EntryParts>,
    /// The stored forms, one after the other.
    pub(crate) stored: Vec<u8>,
    /// The job's buffers, emptied, to be used again.
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

/// Compressors, and those of them that are not at work. A thread takes one and puts it back, so
/// there are no more than threads.
pub(crate) struct Compressors {
    encoding: Encoding,
    dictionary: Vec<u8>,
    options: EntryOptions,
    idle: Mutex<Vec<Encoder>>,
}

impl Compressors {
    pub(crate) fn new(encoding: Encoding, dictionary: Vec<u8>, options: EntryOptions) -> Self {
        Self {
            encoding,
            dictionary,
            options,
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn run(&self, mut job: Job) -> Result<Done> {
        let idle = self
            .idle
            .lock()
            .expect("nothing panics while it holds the lock")
            .pop();
        let mut encoder = match idle {
            Some(encoder) => encoder,
            None => Encoder::new(self.encoding, &self.dictionary)?,
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
