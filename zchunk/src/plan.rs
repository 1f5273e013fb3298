//! What to take from where, so that as little as possible has to be fetched.

use std::collections::HashMap;
use std::ops::Range;

use crate::cost::CostModel;
use crate::digest::{Digest, HashKind};
use crate::header::{Chunk, Compression, Header};
use crate::plain::PlainIndex;

/// What is to be assembled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The file itself, byte by byte. Only chunks in their stored form help.
    File,
    /// The content of the file. Chunks help in either form, and the dictionary is fetched only
    /// where something has to be decompressed with it.
    Content,
}

/// In which form a source has a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// As the target stores it; verified by the chunk's checksum.
    Stored,
    /// Decompressed; verified by the checksum of the content (flag 4, or no compression).
    Content,
}

/// Where a chunk of the target is to come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It has no bytes, or (a dictionary) nobody needs it.
    Nowhere,
    /// It has to be fetched.
    Fetch,
    /// It is the same as this earlier chunk of the target.
    Twin(usize),
    /// A chunk of an old file.
    File {
        /// The source's number.
        source: usize,
        /// The chunk in the old file.
        chunk: usize,
        /// Stored: the stored bytes are the same. Content: only what they decompress to is.
        form: Form,
    },
    /// Bytes of an old plain file.
    Plain {
        /// The source's number.
        source: usize,
        /// Where they lie.
        range: Range<u64>,
        /// Content: as they are. Stored: what they compress to.
        form: Form,
    },
    /// A store of chunks has it.
    Store {
        /// The source's number.
        source: usize,
        /// In this form.
        form: Form,
    },
}

impl Origin {
    /// Whether the chunk comes as the target stores it.
    pub(crate) fn is_stored_form(&self) -> bool {
        match self {
            Self::Fetch => true,
            Self::Nowhere | Self::Twin(_) => false,
            Self::File { form, .. } | Self::Plain { form, .. } | Self::Store { form, .. } => {
                *form == Form::Stored
            }
        }
    }
}

/// What identifies bytes: kind and value of a checksum, and the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(Digest, u64);

/// The key of a chunk's content, if the header gives a checksum of it.
pub(crate) fn content_key(header: &Header, chunk: &Chunk) -> Option<Key> {
    header
        .content_digest(chunk.index)
        .map(|digest| Key(digest, chunk.raw_len))
}

pub(crate) fn stored_key(chunk: &Chunk) -> Option<Key> {
    // A checksum of zeros identifies nothing.
    (!chunk.digest.is_zero()).then_some(Key(chunk.digest, chunk.len))
}

pub(crate) fn key_of(digest: Digest, len: u64) -> Key {
    Key(digest, len)
}

/// Gathers what the sources have, and makes a plan of it.
#[derive(Debug, Clone)]
pub struct Planner<'a> {
    target: &'a Header,
    goal: Goal,
    origins: Vec<Origin>,
    sources: usize,
}

impl<'a> Planner<'a> {
    /// A planner that knows of no source.
    pub fn new(target: &'a Header, goal: Goal) -> Self {
        let mut seen: HashMap<(Key, u64), usize> = HashMap::with_capacity(target.chunk_count());
        let origins = target
            .chunks()
            .map(|chunk| {
                if chunk.len == 0 {
                    return Origin::Nowhere;
                }
                let key = if chunk.is_stored_raw() {
                    content_key(target, &chunk)
                } else {
                    stored_key(&chunk)
                };
                // The dictionary is compressed without itself, so it has no twins.
                let Some(key) = key.filter(|_| chunk.index > 0) else {
                    return Origin::Fetch;
                };
                match seen.entry((key, chunk.raw_len)) {
                    std::collections::hash_map::Entry::Occupied(first) => {
                        Origin::Twin(*first.get())
                    }
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(chunk.index);
                        Origin::Fetch
                    }
                }
            })
            .collect();
        Self {
            target,
            goal,
            origins,
            sources: 0,
        }
    }

    /// Whether content alone, without the stored form, is of use for this chunk.
    fn takes_content(&self, chunk: &Chunk) -> bool {
        chunk.index > 0
            && (self.goal == Goal::Content
                || self.target.compression() == Compression::None
                || chunk.is_stored_raw())
    }

    fn add(&mut self, mut find: impl FnMut(&Chunk, bool) -> Option<Origin>) {
        for index in 0..self.origins.len() {
            if self.origins[index] != Origin::Fetch {
                continue;
            }
            let chunk = self.target.chunk(index);
            if let Some(origin) = find(&chunk, self.takes_content(&chunk)) {
                self.origins[index] = origin;
            }
        }
    }

    fn next_source(&mut self) -> usize {
        self.sources += 1;
        self.sources - 1
    }

    /// Adds an old file by its header. Returns the number under which the plan will name it. What
    /// several sources have comes from the one that was added first.
    pub fn add_file(&mut self, old: &Header) -> usize {
        let source = self.next_source();
        let mut stored: HashMap<(Key, u64), usize> = HashMap::with_capacity(old.chunk_count());
        let mut contents: HashMap<Key, usize> = HashMap::new();
        // SHA-512/128 is the beginning of SHA-512, so files that differ in this alone still share
        // their chunks. A layout's checksums are always of the shorter kind.
        let kind = self.target.chunk_hash();
        let kinds = if kind == HashKind::Sha512_128 {
            &[HashKind::Sha512_128][..]
        } else {
            &[kind, HashKind::Sha512_128]
        };
        for chunk in old.chunks().rev().filter(|chunk| chunk.len > 0) {
            if let Some(digest) = chunk.digest.truncated(kind).filter(|d| !d.is_zero()) {
                stored.insert((Key(digest, chunk.len), chunk.raw_len), chunk.index);
            }
            // A dictionary is nobody's content.
            let Some(content) = content_key(old, &chunk).filter(|_| chunk.index > 0) else {
                continue;
            };
            for digest in kinds.iter().filter_map(|&kind| content.0.truncated(kind)) {
                contents.insert(Key(digest, content.1), chunk.index);
            }
        }
        let same_compression = old.compression() == self.target.compression();
        let target = self.target;
        self.add(|chunk, content_helps| {
            let by_content = content_key(target, chunk)
                .filter(|_| content_helps)
                .and_then(|key| contents.get(&key))
                .map(|&chunk| Origin::File {
                    source,
                    chunk,
                    form: Form::Content,
                });
            by_content.or_else(|| {
                let key = stored_key(chunk).filter(|_| same_compression)?;
                let &chunk = stored.get(&(key, chunk.raw_len))?;
                Some(Origin::File {
                    source,
                    chunk,
                    form: Form::Stored,
                })
            })
        });
        source
    }

    /// Adds a plain old file. The index must have been made for this target.
    pub fn add_plain(&mut self, old: &PlainIndex) -> usize {
        let source = self.next_source();
        let target = self.target;
        self.add(|chunk, content_helps| {
            let (key, form) = if old.is_recompressed() {
                (stored_key(chunk).filter(|_| chunk.index > 0)?, Form::Stored)
            } else {
                (
                    content_key(target, chunk).filter(|_| content_helps)?,
                    Form::Content,
                )
            };
            Some(Origin::Plain {
                source,
                range: old.find(&key, chunk.raw_len)?,
                form,
            })
        });
        source
    }

    /// Adds a store of chunks, which is asked for each chunk that is still lacking. To answer with
    /// [`Form::Content`] makes sense only for chunks whose content has a checksum; where it makes
    /// none, the answer is not used.
    pub fn add_store(&mut self, mut has: impl FnMut(&Chunk) -> Option<Form>) -> usize {
        let source = self.next_source();
        let target = self.target;
        self.add(|chunk, content_helps| {
            let form = has(chunk)?;
            let usable = match form {
                Form::Stored => !chunk.is_stored_raw(),
                Form::Content => content_helps && content_key(target, chunk).is_some(),
            };
            usable.then_some(Origin::Store { source, form })
        });
        source
    }

    /// The plan.
    pub fn plan(mut self, model: &CostModel) -> Plan {
        let decompresses = self.origins.iter().skip(1).any(Origin::is_stored_form);
        if self.goal == Goal::Content && !decompresses {
            self.origins[0] = Origin::Nowhere;
        }
        Plan::new(self.target, self.goal, self.origins, *model)
    }
}

/// Where every chunk comes from, and which ranges of the target are to be fetched.
#[derive(Debug, Clone)]
pub struct Plan {
    goal: Goal,
    model: CostModel,
    origins: Vec<Origin>,
    ranges: Vec<Range<u64>>,
    missing_bytes: u64,
    missing_chunks: usize,
    header_len: u64,
    file_len: u64,
}

impl Plan {
    pub(crate) fn new(target: &Header, goal: Goal, origins: Vec<Origin>, model: CostModel) -> Self {
        let missing: Vec<Range<u64>> = origins
            .iter()
            .enumerate()
            .filter(|(_, origin)| **origin == Origin::Fetch)
            .map(|(index, _)| target.chunk(index).range())
            .collect();
        Self {
            goal,
            missing_bytes: missing.iter().map(|range| range.end - range.start).sum(),
            missing_chunks: missing.len(),
            ranges: model.merge(&missing),
            header_len: target.len(),
            file_len: target.file_len(),
            model,
            origins,
        }
    }

    /// What is to be assembled.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Where each chunk comes from, the dictionary's first.
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// The ranges to fetch, counted from the beginning of the target file, sorted and apart.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// The ranges as requests, each with as many as the cost model allows.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = &[Range<u64>]> {
        self.ranges.chunks(self.model.max_ranges.max(1))
    }

    /// Chunks to fetch; each of several equal ones counts once.
    pub fn missing_chunks(&self) -> usize {
        self.missing_chunks
    }

    /// Bytes of the chunks to fetch.
    pub fn missing_bytes(&self) -> u64 {
        self.missing_bytes
    }

    /// Bytes of all ranges: the missing ones, and those of filled gaps.
    pub fn fetch_bytes(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// Bytes that are fetched only because a gap was cheaper than another request.
    pub fn gap_bytes(&self) -> u64 {
        self.fetch_bytes() - self.missing_bytes
    }

    /// Everything that an update costs in bytes: the header, which has been fetched already, and
    /// the ranges.
    pub fn update_bytes(&self) -> u64 {
        self.header_len + self.fetch_bytes()
    }

    /// Bytes of the whole target file.
    pub fn full_bytes(&self) -> u64 {
        self.file_len
    }

    /// What it costs to fetch the ranges, by the cost model.
    pub fn cost(&self) -> u64 {
        if self.ranges.is_empty() {
            return 0;
        }
        self.model.cost(self.fetch_bytes(), self.ranges.len())
    }

    /// What it costs to fetch the whole target file instead, in one request.
    pub fn full_cost(&self) -> u64 {
        self.model.cost(self.file_len, 1)
    }

    /// Whether the ranges are cheaper than the whole file.
    pub fn is_worthwhile(&self) -> bool {
        self.cost() < self.full_cost()
    }
}
