//! Writing the next file of a log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;

use rayon::prelude::*;

use crate::codec::{Encoder, Encoding};
use crate::dictionary::train_dictionary;
use crate::digest::{Digest, HashKind};
use crate::error::{Error, Result};
use crate::layout::{
    CONTENT_HASH, Frame, LAYOUT_ELEMENT, Layout, MAX_MARK, Removed, SERIES_LEN, find, tombstone,
};
use crate::log_file::LogFile;
use crate::writer::{Writer, WriterOptions, Written};

/// The origin of the dictionary.
///
/// With a new dictionary every chunk is compressed again. Followers fetch only the dictionary, since they
/// derive contents; clients that do not know the layout fetch everything once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDictionary {
    /// The previous file's, or none.
    None,
    /// Trained on the records, of at most this many bytes and at most 1/32 of the content. It is kept until
    /// a dictionary of four times the size is allowed.
    Trained(usize),
    /// This one, in this and all later files.
    Given(Vec<u8>),
}

/// How a log is written. All numbers may change from one version to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// How chunks are compressed.
    pub encoding: Encoding,
    /// The dictionary of a new series.
    pub dictionary: LogDictionary,
    /// The maximum size of a merged chunk in bytes of content. A single record may be larger.
    pub max_chunk: usize,
    /// Two neighbours are merged if together they are at most this part of all that is newer, in
    /// percent.
    /// A follower that lacks a part of a merged chunk fetches all of it, at most 1 + slack times the part
    /// that it lacks. Smaller means more chunks, and so a longer header.
    pub slack_percent: u32,
    /// Two neighbours are also merged if together they are at most this large, in bytes of content: small
    /// chunks are not worth an entry of the index, which every follower fetches.
    pub min_chunk: usize,
    /// The number of removed records that the header lists, the newest first.
    pub max_removed: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            encoding: Encoding::zstd(19),
            dictionary: LogDictionary::Trained(32 << 10),
            max_chunk: 1 << 20,
            slack_percent: 50,
            min_chunk: 4 << 10,
            max_removed: 256,
        }
    }
}

/// A chunk to be written, with records of earlier versions.
struct Node<'a> {
    records: Vec<&'a [u8]>,
    /// Bytes of the records and their separators.
    size: usize,
    newest: u64,
}

/// Writes the file for a new set of records to `out`.
///
/// With the previous file of the series its chunks are kept, thinned and merged, and only new and
/// changed records are in the last chunk; followers of any earlier file fetch little more than
/// what they lack. Without it, or if separator or key end differ, a new series begins. `records`
/// may come in any order. Deterministic: the same previous file, records and options give the same
/// bytes.
pub fn write_log<'a>(
    previous: Option<&'a LogFile>,
    frame: &Frame,
    records: impl IntoIterator<Item = &'a [u8]>,
    options: &LogOptions,
    out: &mut impl Write,
) -> Result<Written> {
    if frame.separator.is_empty() {
        return Err(Error::Options("a separator of no bytes"));
    }
    if frame.separator.len().max(frame.key_end.len()) > MAX_MARK {
        return Err(Error::Options(
            "a separator or key end of more than 64 bytes",
        ));
    }
    let previous = previous.filter(|previous| {
        let layout = previous.layout();
        layout.separator == frame.separator && layout.key_end == frame.key_end
    });
    let mut fresh = keyed(frame, records)?;
    let mut log = Log {
        frame,
        options,
        separator: frame.separator.len(),
        generation: 1,
    };
    let mut nodes = Vec::new();
    let mut removed = Vec::new();
    if let Some(previous) = previous {
        log.generation = previous.layout().generation.saturating_add(1);
        removed = log.carry_over(previous, &mut fresh, &mut nodes);
    }
    let fresh: Vec<&[u8]> = fresh.into_values().collect();
    let mut fresh = log.cut(fresh);
    // All pieces but the last are settled chunks.
    let last = fresh.pop();
    let newer: usize = fresh
        .iter()
        .chain(&last)
        .map(|records| log.size(records))
        .sum();
    let mut nodes = log.merge(nodes, newer);
    nodes.extend(fresh.into_iter().map(|records| Node {
        size: log.size(&records),
        newest: log.generation,
        records,
    }));
    log.write(previous, &nodes, &last.unwrap_or_default(), removed, out)
}

/// The records by key, each checked.
fn keyed<'a>(
    frame: &Frame,
    records: impl IntoIterator<Item = &'a [u8]>,
) -> Result<BTreeMap<&'a [u8], &'a [u8]>> {
    let mut keyed = BTreeMap::new();
    let mut ended = Vec::new();
    for record in records {
        let key = frame.key(record);
        let wrong = |why| Error::Record {
            key: String::from_utf8_lossy(key).into_owned(),
            why,
        };
        ended.clear();
        ended.extend_from_slice(record);
        ended.extend_from_slice(&frame.separator);
        if record.is_empty() {
            return Err(wrong("a record of no bytes"));
        }
        if find(&ended, &frame.separator) != Some(record.len()) {
            return Err(wrong("the separator stands inside it"));
        }
        if keyed.insert(key, record).is_some() {
            return Err(wrong("another record has the same key"));
        }
    }
    Ok(keyed)
}

/// The dictionary to use for these records: the old one, unless it has become far too small.
fn trained(samples: &[&[u8]], most: usize, old: Vec<u8>) -> Vec<u8> {
    let total: usize = samples.iter().map(|sample| sample.len()).sum();
    let size = most.min(total / 32);
    if size < LEAST_DICTIONARY || size / 4 < old.len() {
        return old;
    }
    match train_dictionary(samples, size) {
        // If the trainer uses less than the allowed size, the old dictionary is as good.
        Ok(new) if new.len() / 2 >= old.len() => new,
        _ => old,
    }
}

/// The minimum size of a dictionary that pays, in bytes.
const LEAST_DICTIONARY: usize = 1 << 10;

struct Log<'o> {
    frame: &'o Frame,
    options: &'o LogOptions,
    separator: usize,
    generation: u64,
}

impl Log<'_> {
    fn size(&self, records: &[&[u8]]) -> usize {
        records
            .iter()
            .map(|record| record.len() + self.separator)
            .sum()
    }

    /// Moves unchanged records from `fresh` to `nodes`; returns the removed records.
    fn carry_over<'a>(
        &self,
        previous: &'a LogFile,
        fresh: &mut BTreeMap<&'a [u8], &'a [u8]>,
        nodes: &mut Vec<Node<'a>>,
    ) -> Vec<Removed> {
        let layout = previous.layout();
        let mut gone = Vec::new();
        let newest = layout.newest.iter().copied().chain([layout.generation]);
        for (mut records, newest) in previous.record_chunks().into_iter().zip(newest) {
            records.retain(|&record| {
                let key = self.frame.key(record);
                match fresh.get(key) {
                    Some(&new) if new == record => {
                        fresh.remove(key);
                        true
                    }
                    Some(_) => false,
                    None => {
                        gone.push(key);
                        false
                    }
                }
            });
            if !records.is_empty() {
                let size = self.size(&records);
                nodes.push(Node {
                    records,
                    size,
                    newest,
                });
            }
        }
        self.remember(previous, &gone, fresh, nodes)
    }

    /// The removed records to be listed.
    fn remember(
        &self,
        previous: &LogFile,
        gone: &[&[u8]],
        fresh: &BTreeMap<&[u8], &[u8]>,
        nodes: &[Node<'_>],
    ) -> Vec<Removed> {
        let mut removed = previous.layout().removed.clone();
        let mut marks: Vec<_> = gone.iter().map(|key| tombstone(key)).collect();
        marks.sort_unstable();
        marks.dedup();
        if !marks.is_empty() {
            removed.push(Removed {
                generation: self.generation,
                marks,
            });
        }
        if removed.is_empty() {
            return removed;
        }
        // Followers must not drop a record that was added again, or one with the same mark.
        let kept = nodes
            .iter()
            .flat_map(|node| &node.records)
            .map(|record| self.frame.key(record));
        let live: HashSet<_> = kept.chain(fresh.keys().copied()).map(tombstone).collect();
        let mut left = self.options.max_removed;
        for group in removed.iter_mut().rev() {
            group.marks.retain(|mark| !live.contains(mark));
            group.marks.truncate(left);
            left -= group.marks.len();
        }
        removed.retain(|group| !group.marks.is_empty());
        removed
    }

    /// Splits records into pieces of at most the maximum chunk size.
    fn cut<'a>(&self, records: Vec<&'a [u8]>) -> Vec<Vec<&'a [u8]>> {
        let total = self.size(&records);
        let pieces = total.div_ceil(self.options.max_chunk.max(1)).max(1);
        // Pieces of equal size compress better than full ones and a rest.
        let target = total.div_ceil(pieces);
        let mut cut: Vec<Vec<&[u8]>> = Vec::new();
        let mut size = 0;
        for record in records {
            let len = record.len() + self.separator;
            if cut.is_empty() || size + len > target {
                cut.push(Vec::new());
                size = 0;
            }
            size += len;
            cut.last_mut()
                .expect("one was pushed where there was none")
                .push(record);
        }
        cut
    }

    /// Merges neighbours, from the newest to the oldest. `newer` is what this version adds.
    fn merge<'a>(&self, nodes: Vec<Node<'a>>, mut newer: usize) -> Vec<Node<'a>> {
        let mut merged: Vec<Node<'a>> = Vec::with_capacity(nodes.len());
        // `merged` holds the newest first; its last is the neighbour of the next node.
        for node in nodes.into_iter().rev() {
            if let Some(last) = merged.last_mut() {
                let size = node.size + last.size;
                // If the same version completed both, a follower lacks both or none.
                let free = node.newest == last.newest;
                let allowed =
                    size as u64 * 100 <= u64::from(self.options.slack_percent) * newer as u64;
                if size <= self.options.max_chunk
                    && (free || allowed || size <= self.options.min_chunk)
                {
                    let mut records = node.records;
                    records.append(&mut last.records);
                    records.sort_by_key(|record| self.frame.key(record));
                    *last = Node {
                        records,
                        size,
                        newest: last.newest,
                    };
                    continue;
                }
                newer += last.size;
            }
            merged.push(node);
        }
        merged.reverse();
        merged
    }

    /// The content of a chunk.
    fn text(&self, records: &[&[u8]], is_first: bool) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.size(records));
        for (n, record) in records.iter().enumerate() {
            if n > 0 || !is_first {
                text.extend_from_slice(&self.frame.separator);
            }
            text.extend_from_slice(record);
        }
        text
    }

    fn write(
        &self,
        previous: Option<&LogFile>,
        nodes: &[Node<'_>],
        last: &[&[u8]],
        removed: Vec<Removed>,
        out: &mut impl Write,
    ) -> Result<Written> {
        let mut texts = Vec::new();
        if !self.frame.head.is_empty() {
            texts.push(self.frame.head.clone());
        }
        texts.extend(
            nodes
                .iter()
                .enumerate()
                .map(|(n, node)| self.text(&node.records, n == 0)),
        );
        let mut text = self.text(last, nodes.is_empty());
        text.extend_from_slice(&self.frame.tail);
        if !text.is_empty() {
            texts.push(text);
        }
        let digests: Vec<Digest> = texts
            .par_iter()
            .map(|text| CONTENT_HASH.digest(text))
            .collect();
        let series = previous.map_or_else(
            || {
                let all: Vec<u8> = digests.iter().flat_map(|d| d.as_bytes().to_vec()).collect();
                let mut series = [0; SERIES_LEN];
                series.copy_from_slice(&HashKind::Sha512.digest(&all).as_bytes()[..SERIES_LEN]);
                series
            },
            |previous| previous.layout().series,
        );
        let layout = Layout {
            series,
            generation: self.generation,
            head_len: self.frame.head.len() as u64,
            tail_len: self.frame.tail.len() as u64,
            separator: self.frame.separator.clone(),
            key_end: self.frame.key_end.clone(),
            newest: nodes.iter().map(|node| node.newest).collect(),
            digests,
            removed,
        };
        let old = previous.map(LogFile::dictionary).transpose()?;
        let dictionary = match &self.options.dictionary {
            LogDictionary::None => old.clone().unwrap_or_default(),
            LogDictionary::Given(dictionary) => dictionary.clone(),
            LogDictionary::Trained(most) => {
                let records = nodes.iter().flat_map(|node| &node.records).chain(last);
                trained(
                    &records.copied().collect::<Vec<_>>(),
                    *most,
                    old.clone().unwrap_or_default(),
                )
            }
        };
        // Stored forms can be reused only with the same dictionary.
        let reusable = previous.filter(|_| old.as_ref() == Some(&dictionary));
        let stored = self.compress(reusable, &texts, &layout.digests, &dictionary)?;
        let writer_options = WriterOptions::default()
            .with_manual_boundaries()
            .with_encoding(self.options.encoding)
            .with_dictionary(dictionary)
            .with_element(LAYOUT_ELEMENT, layout.encode());
        let mut writer = Writer::new(writer_options)?;
        for (text, stored) in texts.iter().zip(&stored) {
            writer.push_stored(text, stored)?;
        }
        writer.finish(out)
    }

    /// The stored forms, copied from the previous file if it has them.
    fn compress(
        &self,
        previous: Option<&LogFile>,
        texts: &[Vec<u8>],
        digests: &[Digest],
        dictionary: &[u8],
    ) -> Result<Vec<Vec<u8>>> {
        let mut known: HashMap<Digest, &[u8]> = HashMap::new();
        if let Some(previous) = previous
            && previous.header().compression() == self.options.encoding.compression()
        {
            for chunk in previous.header().chunks().skip(1) {
                let digest = previous.layout().content_digest(chunk.index);
                if let (Some(digest), Some(stored)) = (digest, previous.stored(&chunk)) {
                    known.insert(digest, stored);
                }
            }
        }
        texts
            .par_iter()
            .zip(digests)
            .with_max_len(1)
            .map(|(text, digest)| match known.get(digest) {
                Some(stored) => Ok(stored.to_vec()),
                None => Ok(Encoder::new(self.options.encoding, dictionary)?
                    .encode(text)?
                    .to_vec()),
            })
            .collect()
    }
}
