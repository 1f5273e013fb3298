//! Finding the chunks of a target in an old file that has no index.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use crate::buzhash::{Buzhash, Chunker};
use crate::codec::{Encoder, Encoding};
use crate::digest::HashKind;
use crate::error::{Error, Result};
use crate::header::Header;
use crate::plan::{Key, content_key, key_of, stored_key};
use crate::stream::read_exactly;

/// The chunks of one target that an old plain file contains, and their positions.
///
/// The format has no weak rolling checksum, so chunks cannot be found at arbitrary positions. Three kinds
/// of positions are tried: the boundaries of buzhash in the old file (correct for targets with these
/// boundaries), the position of the chunk in the target, counted from the start and from the end (correct
/// before the first and after the last change), and the end of the preceding chunk that was found.
#[derive(Debug, Clone)]
pub struct PlainIndex {
    found: HashMap<(Key, u64), u64>,
    encoding: Option<Encoding>,
    dictionary: Vec<u8>,
}

impl PlainIndex {
    /// Searches the chunks of a target that has checksums of their content (flag 4, or no compression).
    /// Finds nothing for other targets; see [`Self::recompressed`].
    pub fn new(old: &mut (impl Read + Seek), target: &Header, cuts: Buzhash) -> Result<Self> {
        let mut index = Self {
            found: HashMap::new(),
            encoding: None,
            dictionary: Vec::new(),
        };
        if target
            .chunks()
            .skip(1)
            .any(|chunk| content_key(target, &chunk).is_some())
        {
            index.scan(old, target, cuts)?;
            index.probe(old, target)?;
        }
        Ok(index)
    }

    /// Searches the chunks of a target without flag 4 by compressing the chunks of the old file with the
    /// boundaries of buzhash. This requires the encoding, the dictionary and the version of zstd of the
    /// target, and takes as long as compressing the old file.
    pub fn recompressed(
        old: &mut (impl Read + Seek),
        target: &Header,
        cuts: Buzhash,
        encoding: Encoding,
        dictionary: &[u8],
    ) -> Result<Self> {
        let mut index = Self {
            found: HashMap::new(),
            encoding: Some(encoding),
            dictionary: dictionary.to_vec(),
        };
        index.scan(old, target, cuts)?;
        Ok(index)
    }

    pub(crate) fn is_recompressed(&self) -> bool {
        self.encoding.is_some()
    }

    /// Compresses content to the target's stored form.
    pub(crate) fn encoder(&self) -> Result<Option<Encoder>> {
        self.encoding
            .map(|encoding| Encoder::new(encoding, &self.dictionary))
            .transpose()
    }

    /// The number of different chunks that were found.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether no chunk was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(crate) fn find(&self, key: &Key, raw_len: u64) -> Option<Range<u64>> {
        self.found
            .get(&(*key, raw_len))
            .map(|&start| start..start + raw_len)
    }

    /// Splits the old file and keeps the chunks of the target.
    fn scan(&mut self, old: &mut (impl Read + Seek), target: &Header, cuts: Buzhash) -> Result<()> {
        old.rewind()
            .map_err(|source| Error::Read { offset: 0, source })?;
        let mut encoder = self.encoder()?;
        let wanted: HashSet<(Key, u64)> = target
            .chunks()
            .skip(1)
            .filter_map(|chunk| {
                let key = match encoder {
                    Some(_) => stored_key(&chunk),
                    None => content_key(target, &chunk),
                };
                Some((key?, chunk.raw_len))
            })
            .collect();
        // Only pieces with the length of a chunk of the target are hashed.
        let lengths: HashSet<u64> = wanted.iter().map(|&(_, len)| len).collect();
        let mut chunker = Chunker::new(cuts);
        let mut buffer = vec![0; 64 << 10];
        let (mut piece, mut start) = (Vec::new(), 0u64);
        let mut take = |piece: &mut Vec<u8>, start: &mut u64| -> Result<()> {
            let len = piece.len() as u64;
            if len > 0 && lengths.contains(&len) {
                let key = match &mut encoder {
                    Some(encoder) => {
                        let stored = encoder.encode(piece)?;
                        key_of(target.chunk_hash().digest(stored), stored.len() as u64)
                    }
                    None => key_of(target.chunk_hash().digest(piece), len),
                };
                if wanted.contains(&(key, len)) {
                    self.found.entry((key, len)).or_insert(*start);
                }
            }
            *start += len;
            piece.clear();
            Ok(())
        };
        loop {
            let got = match old.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(Error::Read {
                        offset: start + piece.len() as u64,
                        source,
                    });
                }
            };
            let mut rest = &buffer[..got];
            while let Some(n) = chunker.next_cut(rest) {
                piece.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
                take(&mut piece, &mut start)?;
            }
            piece.extend_from_slice(rest);
        }
        take(&mut piece, &mut start)
    }

    /// Searches the missing chunks at their expected positions.
    fn probe(&mut self, old: &mut (impl Read + Seek), target: &Header) -> Result<()> {
        let len = old
            .seek(SeekFrom::End(0))
            .map_err(|source| Error::Read { offset: 0, source })?;
        let hash: HashKind = target.chunk_hash();
        let from_end = i128::from(len) - i128::from(target.raw_len());
        let mut shift = 0i128;
        let mut buffer = Vec::new();
        for chunk in target.chunks().skip(1).filter(|chunk| chunk.raw_len > 0) {
            let Some(key) = content_key(target, &chunk) else {
                continue;
            };
            let place = i128::from(chunk.raw_offset);
            if let Some(&start) = self.found.get(&(key, chunk.raw_len)) {
                shift = i128::from(start) - place;
                continue;
            }
            let mut tried = Vec::with_capacity(3);
            for candidate in [shift, 0, from_end] {
                if tried.contains(&candidate) {
                    continue;
                }
                tried.push(candidate);
                let Ok(start) = u64::try_from(place + candidate) else {
                    continue;
                };
                if start.checked_add(chunk.raw_len).is_none_or(|end| end > len) {
                    continue;
                }
                old.seek(SeekFrom::Start(start))
                    .map_err(|source| Error::Read {
                        offset: start,
                        source,
                    })?;
                read_exactly(old, &mut buffer, chunk.raw_len, chunk.field(), start)?;
                if key_of(hash.digest(&buffer), chunk.raw_len) == key {
                    self.found.insert((key, chunk.raw_len), start);
                    shift = candidate;
                    break;
                }
            }
        }
        Ok(())
    }
}
