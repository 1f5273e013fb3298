//! The origin of each chunk, so that as little as possible is fetched.

use std::collections::HashMap;
use std::ops::Range;

use crate::cost::CostModel;
use crate::digest::{Digest, HashKind};
use crate::header::{Chunk, Compression, Header};
use crate::plain::PlainIndex;

/// The goal of an assembly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The file itself, byte by byte. Only chunks in their stored form help.
    File,
    /// The content of the file. Chunks help in either form, and the dictionary is fetched only if a chunk
    /// has to be decompressed with it.
    Content,
}

/// The form of a chunk in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// As the target stores it; verified by the chunk's checksum.
    Stored,
    /// Decompressed; verified by the checksum of the content (flag 4, or no compression).
    Content,
}

/// Where a chunk of the target comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkOrigin {
    /// Not needed: it has no bytes, or is a dictionary that is not used.
    Nowhere,
    /// To be fetched.
    Fetch,
    /// Equal to this earlier chunk of the target.
    Twin(usize),
    /// A chunk of an old file.
    File {
        /// The source's number.
        source: usize,
        /// The chunk in the old file.
        chunk: usize,
        /// Stored: the stored forms are equal. Content: only the contents are equal.
        form: Form,
    },
    /// Bytes of an old plain file.
    Plain {
        /// The source's number.
        source: usize,
        /// The offset of the bytes.
        range: Range<u64>,
        /// Content: the bytes. Stored: the compressed bytes.
        form: Form,
    },
    /// A chunk of a store.
    Store {
        /// The source's number.
        source: usize,
        /// In this form.
        form: Form,
    },
}

impl ChunkOrigin {
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

/// The identity of bytes: kind and value of a checksum, and the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(Digest, u64);

/// The identity of a chunk's content, if the header has a checksum of it.
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

/// Collects the chunks of the sources and makes a plan.
#[derive(Debug, Clone)]
pub struct Planner<'a> {
    target: &'a Header,
    goal: Goal,
    origins: Vec<ChunkOrigin>,
    sources: usize,
}

impl<'a> Planner<'a> {
    /// A planner without sources.
    pub fn new(target: &'a Header, goal: Goal) -> Self {
        let mut seen: HashMap<(Key, u64), usize> = HashMap::with_capacity(target.chunk_count());
        let origins = target
            .chunks()
            .map(|chunk| {
                if chunk.len == 0 {
                    return ChunkOrigin::Nowhere;
                }
                let key = if chunk.is_stored_raw() {
                    content_key(target, &chunk)
                } else {
                    stored_key(&chunk)
                };
                // The dictionary is compressed without a dictionary, so no other chunk is equal.
                let Some(key) = key.filter(|_| chunk.index > 0) else {
                    return ChunkOrigin::Fetch;
                };
                match seen.entry((key, chunk.raw_len)) {
                    std::collections::hash_map::Entry::Occupied(first) => {
                        ChunkOrigin::Twin(*first.get())
                    }
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(chunk.index);
                        ChunkOrigin::Fetch
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

    /// Whether content without the stored form is sufficient for this chunk.
    fn takes_content(&self, chunk: &Chunk) -> bool {
        chunk.index > 0
            && (self.goal == Goal::Content
                || self.target.compression() == Compression::None
                || chunk.is_stored_raw())
    }

    fn add(&mut self, mut find: impl FnMut(&Chunk, bool) -> Option<ChunkOrigin>) {
        for index in 0..self.origins.len() {
            if self.origins[index] != ChunkOrigin::Fetch {
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

    /// Adds an old file by its header. Returns its number in the plan. A chunk of several sources comes from
    /// the one that was added first.
    pub fn add_file(&mut self, old: &Header) -> usize {
        let source = self.next_source();
        let mut stored: HashMap<(Key, u64), usize> = HashMap::with_capacity(old.chunk_count());
        let mut contents: HashMap<Key, usize> = HashMap::new();
        // SHA-512/128 is a prefix of SHA-512, so files with these two kinds share chunks. A layout always
        // uses the shorter kind.
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
            // A dictionary is not content.
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
                .map(|&chunk| ChunkOrigin::File {
                    source,
                    chunk,
                    form: Form::Content,
                });
            by_content.or_else(|| {
                let key = stored_key(chunk).filter(|_| same_compression)?;
                let &chunk = stored.get(&(key, chunk.raw_len))?;
                Some(ChunkOrigin::File {
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
            Some(ChunkOrigin::Plain {
                source,
                range: old.find(&key, chunk.raw_len)?,
                form,
            })
        });
        source
    }

    /// Adds a store of chunks, which is called for each missing chunk. [`Form::Content`] is valid only for
    /// chunks whose content has a checksum; otherwise the result is ignored.
    pub fn add_store(&mut self, mut has: impl FnMut(&Chunk) -> Option<Form>) -> usize {
        let source = self.next_source();
        let target = self.target;
        self.add(|chunk, content_helps| {
            let form = has(chunk)?;
            let usable = match form {
                Form::Stored => !chunk.is_stored_raw(),
                Form::Content => content_helps && content_key(target, chunk).is_some(),
            };
            usable.then_some(ChunkOrigin::Store { source, form })
        });
        source
    }

    /// The plan.
    pub fn plan(mut self, model: &CostModel) -> Plan {
        let decompresses = self.origins.iter().skip(1).any(ChunkOrigin::is_stored_form);
        if self.goal == Goal::Content && !decompresses {
            self.origins[0] = ChunkOrigin::Nowhere;
        }
        Plan::new(self.target, self.goal, self.origins, *model)
    }
}

/// The origin of each chunk, and the ranges of the target to fetch.
#[derive(Debug, Clone)]
pub struct Plan {
    goal: Goal,
    model: CostModel,
    origins: Vec<ChunkOrigin>,
    ranges: Vec<Range<u64>>,
    missing_bytes: u64,
    missing_chunks: usize,
    header_len: u64,
    file_len: u64,
}

impl Plan {
    pub(crate) fn new(
        target: &Header,
        goal: Goal,
        origins: Vec<ChunkOrigin>,
        model: CostModel,
    ) -> Self {
        let missing: Vec<Range<u64>> = origins
            .iter()
            .enumerate()
            .filter(|(_, origin)| **origin == ChunkOrigin::Fetch)
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

    /// The origin of each chunk, the dictionary first.
    pub fn origins(&self) -> &[ChunkOrigin] {
        &self.origins
    }

    /// The ranges of the target file to fetch, sorted and disjoint.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// The ranges as requests, each with as many as the cost model allows.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = &[Range<u64>]> {
        self.ranges.chunks(self.model.max_ranges.max(1))
    }

    /// The number of chunks to fetch; equal chunks count once.
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

    /// Bytes of gaps that are cheaper to fetch than another request.
    pub fn gap_bytes(&self) -> u64 {
        self.fetch_bytes() - self.missing_bytes
    }

    /// All bytes of an update: the header, which has already been fetched, and the ranges.
    pub fn update_bytes(&self) -> u64 {
        self.header_len + self.fetch_bytes()
    }

    /// Bytes of the whole target file.
    pub fn full_bytes(&self) -> u64 {
        self.file_len
    }

    /// The cost of fetching the ranges.
    pub fn cost(&self) -> u64 {
        if self.ranges.is_empty() {
            return 0;
        }
        self.model.cost(self.fetch_bytes(), self.ranges.len())
    }

    /// The cost of fetching the whole target file in one request.
    pub fn full_cost(&self) -> u64 {
        self.model.cost(self.file_len, 1)
    }

    /// Whether the ranges are cheaper than the whole file.
    pub fn is_worthwhile(&self) -> bool {
        self.cost() < self.full_cost()
    }
}
