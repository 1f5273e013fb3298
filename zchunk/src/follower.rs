//! Updating a file of a log: derives chunks from the older file and fetches the rest.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::assemble::{Assembler, Outcome};
use crate::codec::verify_stored;
use crate::cost::CostModel;
use crate::digest::Digest;
use crate::error::{Error, Field, Result};
use crate::header::{Chunk, Header};
use crate::layout::{CONTENT_HASH, Layout, key, tombstone};
use crate::log_file::{LogFile, records_of};
use crate::pieces::Pieces;
use crate::plan::{ChunkOrigin, Form, Goal, Plan};

/// Turns an older file of a series into a newer one.
///
/// ```text
/// loop: plan → fetch its ranges → push_range … → derive → until nothing is missing → finish
/// ```
///
/// One round suffices, unless the header no longer lists a removal or the two files are not of one
/// series: then the chunks that cannot be derived are fetched in a second round. The old file is not
/// trusted: each derived chunk is verified by its checksum.
#[derive(Debug)]
pub struct Follower<'a> {
    old: &'a LogFile,
    layout: Layout,
    assembler: Assembler<Pieces>,
    /// Settled chunks that are still to be derived, by index.
    derivable: Range<usize>,
}

impl<'a> Follower<'a> {
    /// Compares `target`, the newer header, with an older file.
    pub fn new(old: &'a LogFile, target: Header) -> Result<Self> {
        let Some(layout) = target.layout().cloned() else {
            let field = Field::Layout;
            return Err(Error::Inconsistent {
                field,
                offset: 0,
                expected: 1,
                found: 0,
            });
        };
        let (ours, theirs) = (old.layout(), &layout);
        let related = ours.series == theirs.series
            && ours.separator == theirs.separator
            && ours.key_end == theirs.key_end;
        // A settled chunk without records newer than the old file has nothing new.
        let known = theirs
            .newest
            .partition_point(|&newest| related && newest <= ours.generation);
        let first = theirs.first_settled();
        let derivable = first..first + known;

        let mut origins: Vec<ChunkOrigin> = target
            .chunks()
            .map(|chunk| {
                if chunk.len == 0 {
                    ChunkOrigin::Nowhere
                } else {
                    ChunkOrigin::Fetch
                }
            })
            .collect();
        let store = ChunkOrigin::Store {
            source: 0,
            form: Form::Content,
        };
        for index in derivable.clone() {
            origins[index] = store.clone();
        }
        // The chunks with head and tail may be the same, too.
        let same = same_chunks(old, &target, &layout, &derivable);
        for (index, _) in &same {
            origins[*index] = store.clone();
        }
        let plan = Plan::new(&target, Goal::Content, origins, CostModel::BYTES_ONLY);
        let mut assembler = Assembler::new(target, &plan, Pieces::default())?;
        let dictionary = assembler.target().chunk(0);
        if dictionary.len > 0 && verify_stored(&dictionary, old.stored_dictionary()).is_ok() {
            assembler.put_chunk(0, Form::Stored, old.stored_dictionary())?;
        }
        for (index, text) in same {
            assembler.put_chunk(index, Form::Content, text)?;
        }
        Ok(Self {
            old,
            layout,
            assembler,
            derivable,
        })
    }

    /// The ranges to fetch now.
    pub fn plan(&self, model: &CostModel) -> Plan {
        self.assembler.replan_without(&self.derivable, model)
    }

    /// Takes fetched bytes of the newer file, as [`Assembler::push_range`] does.
    pub fn push_range(&mut self, offset: u64, bytes: &[u8]) -> Result<Outcome> {
        self.assembler.push_range(offset, bytes)
    }

    /// Takes one whole chunk from elsewhere, as [`Assembler::put_chunk`] does.
    pub fn put_chunk(&mut self, index: usize, form: Form, bytes: &[u8]) -> Result<Outcome> {
        self.assembler.put_chunk(index, form, bytes)
    }

    /// Derives all chunks that can be derived, after everything of the plan has arrived. The others are in
    /// the next plan.
    pub fn derive(&mut self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let derivable = std::mem::take(&mut self.derivable);
        let derived = self.derived(derivable.clone());
        for (index, text) in derivable.into_iter().zip(derived) {
            match text {
                Some(text) => {
                    let put = self.assembler.put_chunk(index, Form::Content, &text)?;
                    outcome.good.extend(put.good);
                    outcome.bad.extend(put.bad);
                }
                None => outcome.bad.push(index),
            }
        }
        Ok(outcome)
    }

    /// Whether everything has been fetched or derived.
    pub fn is_complete(&self) -> bool {
        self.assembler.missing().next().is_none()
    }

    /// The newer file's content, with what the next follower needs.
    pub fn finish(self) -> Result<LogFile> {
        let target = self.assembler.target().clone();
        let dictionary = self.assembler.stored_dictionary().to_vec();
        let content = self.assembler.finish()?.into_vec();
        LogFile::new(target, dictionary, content, None)
    }

    /// The contents of the requested chunks, if they can be derived.
    fn derived(&self, wanted: Range<usize>) -> Vec<Option<Vec<u8>>> {
        let thinned = self.thinned();
        // The end of each chunk in the joined text, separators included.
        let separator = self.layout.separator.len();
        let mut ends = vec![0];
        for records in &thinned {
            let size: usize = records.iter().map(|record| record.len() + separator).sum();
            ends.push(ends[ends.len() - 1] + size);
        }
        let mut next = 0;
        wanted
            .map(|index| {
                let chunk = self.assembler.target().chunk(index);
                let is_first = index == self.layout.first_settled();
                let size = chunk.raw_len as usize + if is_first { separator } else { 0 };
                // The runs of the right length. The correct one starts where the last chunk ended, unless
                // a chunk before could not be derived; then it starts a little later.
                let starts = next..thinned.len().min(next + MAX_AHEAD);
                let runs = starts.filter_map(|start| {
                    let end = ends.binary_search(&(ends.get(start)? + size)).ok()?;
                    (end > start).then_some(start..end)
                });
                for run in runs.take(MAX_TRIES) {
                    let text = self.join(&thinned[run.clone()], is_first);
                    let digest = CONTENT_HASH.digest(&text);
                    if self.layout.content_digest(index) == Some(digest) {
                        next = run.end;
                        return Some(text);
                    }
                }
                None
            })
            .collect()
    }

    /// The old chunks without removed and changed records; chunks without remaining records are left out.
    fn thinned(&self) -> Vec<Vec<&'a [u8]>> {
        let mut newer: HashSet<&[u8]> = HashSet::new();
        for index in self.layout.first_settled()..self.assembler.target().chunk_count() {
            if let Some(text) = self.assembler.content_of(index) {
                let records = records_of(&self.layout, index, text).into_iter();
                newer.extend(records.map(|record| key(record, &self.layout.key_end)));
            }
        }
        let removed: HashSet<_> = self
            .layout
            .removed
            .iter()
            .flat_map(|removed| &removed.marks)
            .collect();
        let mut thinned = self.old.record_chunks();
        for records in &mut thinned {
            records.retain(|record| {
                let key = self.old.key(record);
                !newer.contains(key) && (removed.is_empty() || !removed.contains(&tombstone(key)))
            });
        }
        thinned.retain(|records| !records.is_empty());
        thinned
    }

    /// The content of a chunk made of these.
    fn join(&self, chunks: &[Vec<&[u8]>], is_first: bool) -> Vec<u8> {
        let mut records: Vec<&[u8]> = chunks.concat();
        if chunks.len() > 1 {
            records.sort_by_key(|record| self.old.key(record));
        }
        let mut text = Vec::new();
        for (n, record) in records.iter().enumerate() {
            if n > 0 || !is_first {
                text.extend_from_slice(&self.layout.separator);
            }
            text.extend_from_slice(record);
        }
        text
    }
}

/// The number of old chunks that are searched for the start of a run.
const MAX_AHEAD: usize = 64;

/// The number of runs of the right length that are tried per chunk. Each costs a checksum.
const MAX_TRIES: usize = 8;

/// Chunks, other than the derivable ones, whose content the old file has as a chunk: the head, or
/// everything if it is the same version.
fn same_chunks<'a>(
    old: &'a LogFile,
    target: &Header,
    layout: &Layout,
    derivable: &Range<usize>,
) -> Vec<(usize, &'a [u8])> {
    let ours: HashMap<Digest, Chunk> = old
        .header()
        .chunks()
        .skip(1)
        .filter_map(|chunk| Some((old.layout().content_digest(chunk.index)?, chunk)))
        .collect();
    target
        .chunks()
        .skip(1)
        .filter(|chunk| !derivable.contains(&chunk.index))
        .filter_map(|chunk| {
            let same = ours.get(&layout.content_digest(chunk.index)?)?;
            (same.raw_len == chunk.raw_len).then(|| (chunk.index, old.text(same)))
        })
        .collect()
}
