//! Assembling a file, or its content, from local and fetched chunks.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use crate::archive::Archive;
use crate::codec::{Decoder, decode_dictionary, prepare_dictionary, verify_content, verify_stored};
use crate::cost::CostModel;
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::header::{Chunk, Compression, Header};
use crate::pieces::Pieces;
use crate::plain::PlainIndex;
use crate::plan::{ChunkOrigin, Form, Goal, Plan};
use crate::stream::{check_body, read_exactly};
use crate::writer::Spool;

/// The chunks that supplied bytes have completed, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Verified and written.
    pub good: Vec<usize>,
    /// Checksum mismatch. These chunks are still missing: fetch them from another mirror.
    pub bad: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    /// Verified, but not decompressed yet: the dictionary is missing.
    Waiting,
    Done,
}

/// Assembles a target in `sink`.
///
/// Chunks arrive in any order: from sources, or as bodies of ranges in pieces of any size. Each is
/// verified when it is complete, and then written to its place and to those of all equal chunks. Memory
/// holds the pieces of incomplete chunks, and if content is the goal the chunks that arrived before the
/// dictionary.
pub struct Assembler<S> {
    target: Header,
    goal: Goal,
    sink: S,
    origins: Vec<ChunkOrigin>,
    twins: HashMap<usize, Vec<usize>>,
    states: Vec<State>,
    partial: BTreeMap<usize, Partial>,
    waiting: Vec<(usize, Vec<u8>)>,
    /// The stored form, if content is the goal.
    stored_dictionary: Vec<u8>,
    decoder: Decoder,
    content: Vec<u8>,
}

impl<S> std::fmt::Debug for Assembler<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembler")
            .field("target", &self.target)
            .field("missing", &self.missing().count())
            .finish_non_exhaustive()
    }
}

impl<S> Assembler<S> {
    /// The missing chunks. Of several equal ones only the first is listed, and the dictionary only if a
    /// chunk is to be decompressed with it.
    pub fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        let dictionary = self.lacks_dictionary()
            && (self.goal == Goal::File
                || !self.waiting.is_empty()
                || self
                    .missing_chunks()
                    .any(|index| self.origins[index].is_stored_form()));
        dictionary
            .then_some(0)
            .into_iter()
            .chain(self.missing_chunks())
    }

    fn missing_chunks(&self) -> impl Iterator<Item = usize> + '_ {
        (1..self.states.len()).filter(|&index| {
            self.states[index] == State::Missing
                && !matches!(self.origins[index], ChunkOrigin::Twin(_))
        })
    }

    fn lacks_dictionary(&self) -> bool {
        self.states[0] == State::Missing
    }

    /// The header of the target.
    pub fn target(&self) -> &Header {
        &self.target
    }

    /// A plan that fetches all missing chunks, whatever their origin was. It is valid only with this
    /// assembler.
    pub fn replan(&self, model: &CostModel) -> Plan {
        self.replan_without(&(0..0), model)
    }

    /// As [`Self::replan`], without chunks that are expected from elsewhere.
    pub(crate) fn replan_without(&self, expected: &Range<usize>, model: &CostModel) -> Plan {
        let mut origins = vec![ChunkOrigin::Nowhere; self.states.len()];
        let mut any = self.goal == Goal::File || !self.waiting.is_empty();
        for index in self
            .missing_chunks()
            .filter(|index| !expected.contains(index))
        {
            origins[index] = ChunkOrigin::Fetch;
            // Fetched chunks will have to be decompressed.
            any = true;
        }
        if self.lacks_dictionary() && any {
            origins[0] = ChunkOrigin::Fetch;
        }
        Plan::new(&self.target, self.goal, origins, *model)
    }
}

impl Assembler<Pieces> {
    /// The content of a chunk that has arrived.
    pub(crate) fn content_of(&self, index: usize) -> Option<&[u8]> {
        if self.states[index] != State::Done || index == 0 {
            return None;
        }
        let chunk = self.target.chunk(index);
        if chunk.raw_len == 0 {
            Some(&[])
        } else {
            self.sink.get(chunk.raw_offset)
        }
    }

    pub(crate) fn stored_dictionary(&self) -> &[u8] {
        &self.stored_dictionary
    }
}

impl<S: Spool> Assembler<S> {
    /// Starts the assembly of `target` by `plan`, which must be a plan for it. The sink must be empty.
    pub fn new(target: Header, plan: &Plan, sink: S) -> Result<Self> {
        let count = target.chunk_count();
        if plan.origins().len() != count {
            return Err(Error::Options("a plan made for another file"));
        }
        let mut twins: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, origin) in plan.origins().iter().enumerate() {
            if let ChunkOrigin::Twin(first) = origin {
                twins.entry(*first).or_default().push(index);
            }
        }
        let mut states: Vec<State> = plan
            .origins()
            .iter()
            .map(|origin| {
                if *origin == ChunkOrigin::Nowhere {
                    State::Done
                } else {
                    State::Missing
                }
            })
            .collect();
        // Not needed by the plan, but a source may fail.
        if target.dictionary().is_some() {
            states[0] = State::Missing;
        }
        let mut assembler = Self {
            decoder: Decoder::new(target.compression()),
            goal: plan.goal(),
            sink,
            origins: plan.origins().to_vec(),
            twins,
            states,
            partial: BTreeMap::new(),
            waiting: Vec::new(),
            stored_dictionary: Vec::new(),
            content: Vec::new(),
            target,
        };
        if assembler.goal == Goal::File {
            let header = assembler.target.as_bytes().to_vec();
            assembler.write(0, &header)?;
        }
        assembler.empty_chunks()?;
        Ok(assembler)
    }

    /// Verifies chunks without stored bytes, which are complete from the start.
    fn empty_chunks(&mut self) -> Result<()> {
        for chunk in self.target.chunks().skip(1).filter(|chunk| chunk.len == 0) {
            verify_stored(&chunk, &[])?;
            verify_content(&chunk, &[])?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.sink
            .seek(SeekFrom::Start(offset))
            .map_err(Error::Write)?;
        self.sink.write_all(bytes).map_err(Error::Write)
    }

    /// Copies the chunks that the plan takes from an old file, number `source` of the plan. Chunks that the
    /// file does not have are reported as bad.
    pub fn take_file<R: Read + Seek>(
        &mut self,
        source: usize,
        old: &mut Archive<R>,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for index in 0..self.origins.len() {
            let ChunkOrigin::File {
                source: from,
                chunk,
                form,
            } = self.origins[index]
            else {
                continue;
            };
            if from != source || self.states[index] != State::Missing {
                continue;
            }
            let bytes = match form {
                Form::Stored => old.stored_chunk(chunk),
                Form::Content => old.chunk(chunk),
            };
            match bytes {
                Ok(bytes) => self.put(index, form, &bytes, &mut outcome)?,
                Err(_) => self.reject(index, &mut outcome),
            }
        }
        Ok(outcome)
    }

    /// Marks a chunk that its source does not have as to be fetched.
    fn reject(&mut self, index: usize, outcome: &mut Outcome) {
        self.origins[index] = ChunkOrigin::Fetch;
        outcome.bad.push(index);
    }

    /// Copies the chunks that the plan takes from a plain old file, number `source` of the plan.
    pub fn take_plain(
        &mut self,
        source: usize,
        index_of_old: &PlainIndex,
        old: &mut (impl Read + Seek),
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut encoder = index_of_old.encoder()?;
        let mut content = Vec::new();
        for index in 0..self.origins.len() {
            let ChunkOrigin::Plain {
                source: from,
                range,
                ..
            } = self.origins[index].clone()
            else {
                continue;
            };
            if from != source || self.states[index] != State::Missing {
                continue;
            }
            let chunk = self.target.chunk(index);
            let len = range.end - range.start;
            let read = old
                .seek(SeekFrom::Start(range.start))
                .map_err(|source| Error::Read {
                    offset: range.start,
                    source,
                })
                .and_then(|_| read_exactly(old, &mut content, len, chunk.field(), range.start));
            match (read, &mut encoder) {
                (Err(_), _) => self.reject(index, &mut outcome),
                (Ok(()), None) => self.put(index, Form::Content, &content, &mut outcome)?,
                (Ok(()), Some(encoder)) => {
                    let stored = encoder.encode(&content)?;
                    self.put(index, Form::Stored, stored, &mut outcome)?;
                }
            }
        }
        Ok(outcome)
    }

    /// Takes one whole chunk, for example from a store of chunks.
    pub fn put_chunk(&mut self, index: usize, form: Form, bytes: &[u8]) -> Result<Outcome> {
        let count = self.states.len();
        if index >= count {
            return Err(Error::NoSuchChunk { index, count });
        }
        let mut outcome = Outcome::default();
        self.put(index, form, bytes, &mut outcome)?;
        Ok(outcome)
    }

    /// Takes bytes of the target file that were fetched, from `offset` on. The pieces of a range
    /// may come in any order and overlap; bytes of complete chunks are ignored.
    pub fn push_range(&mut self, offset: u64, bytes: &[u8]) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let end = offset.saturating_add(bytes.len() as u64);
        for index in self.target.first_chunk_after(offset)..self.states.len() {
            let chunk = self.target.chunk(index);
            if chunk.offset >= end {
                break;
            }
            if self.states[index] != State::Missing || chunk.len == 0 {
                continue;
            }
            let from = chunk.offset.max(offset);
            let to = (chunk.offset + chunk.len).min(end);
            let piece = &bytes[(from - offset) as usize..(to - offset) as usize];
            if piece.len() as u64 == chunk.len {
                self.partial.remove(&index);
                self.put(index, Form::Stored, piece, &mut outcome)?;
                continue;
            }
            let partial = self.partial.entry(index).or_default();
            partial.add((from - chunk.offset) as usize, piece);
            if partial.is_complete(chunk.len as usize)
                && let Some(partial) = self.partial.remove(&index)
            {
                self.put(index, Form::Stored, &partial.bytes, &mut outcome)?;
            }
        }
        Ok(outcome)
    }

    /// Discards the incomplete chunks within a range, after fetching it failed.
    pub fn forget(&mut self, range: Range<u64>) {
        let target = &self.target;
        self.partial.retain(|&index, _| {
            let chunk = target.chunk(index).range();
            chunk.end <= range.start || range.end <= chunk.start
        });
    }

    /// Verifies one chunk and writes it, if the dictionary is there or not needed.
    fn put(&mut self, index: usize, form: Form, bytes: &[u8], outcome: &mut Outcome) -> Result<()> {
        // Equal chunks are one chunk.
        let index = match self.origins[index] {
            ChunkOrigin::Twin(first) => first,
            _ => index,
        };
        if self.states[index] != State::Missing {
            return Ok(());
        }
        let chunk = self.target.chunk(index);
        if !self.is_genuine(&chunk, form, bytes) {
            self.reject(index, outcome);
            return Ok(());
        }
        let as_it_is = form == Form::Content || self.goal == Goal::File;
        if !as_it_is && self.waits(index) {
            self.states[index] = State::Waiting;
            self.waiting.push((index, bytes.to_vec()));
            return Ok(());
        }
        if as_it_is && index > 0 {
            self.place(index, bytes)?;
        } else if index == 0 {
            self.take_dictionary(bytes, outcome)?;
        } else {
            let mut content = std::mem::take(&mut self.content);
            let decoded = self.decoder.decode_verified(&chunk, bytes, &mut content);
            if decoded.is_ok() {
                self.place(index, &content)?;
            }
            self.content = content;
            // The stored form has the right checksum, so another mirror would send the same.
            decoded?;
        }
        self.partial.remove(&index);
        outcome.good.push(index);
        Ok(())
    }

    fn is_genuine(&self, chunk: &Chunk, form: Form, bytes: &[u8]) -> bool {
        match form {
            Form::Stored if chunk.is_stored_raw() => {
                bytes.len() as u64 == chunk.len && verify_content(chunk, bytes).is_ok()
            }
            Form::Stored => verify_stored(chunk, bytes).is_ok(),
            Form::Content => {
                let usable = self.goal == Goal::Content
                    || self.target.compression() == Compression::None
                    || chunk.is_stored_raw();
                usable
                    && chunk.index > 0
                    && bytes.len() as u64 == chunk.raw_len
                    && self
                        .target
                        .content_digest(chunk.index)
                        .is_some_and(|digest| digest.kind().digest(bytes) == digest)
            }
        }
    }

    /// Whether a stored chunk cannot be decompressed yet.
    fn waits(&self, index: usize) -> bool {
        index > 0 && self.lacks_dictionary()
    }

    fn take_dictionary(&mut self, stored: &[u8], outcome: &mut Outcome) -> Result<()> {
        let chunk = self.target.chunk(0);
        if self.goal == Goal::File {
            return self.place(0, stored);
        }
        let content = decode_dictionary(&self.target, stored)?;
        self.stored_dictionary = stored.to_vec();
        self.decoder
            .set_dictionary(prepare_dictionary(&content, chunk.offset)?);
        self.states[0] = State::Done;
        for (index, stored) in std::mem::take(&mut self.waiting) {
            self.states[index] = State::Missing;
            self.put(index, Form::Stored, &stored, outcome)?;
        }
        Ok(())
    }

    /// Writes the stored form or the content, by the goal, to the places of a chunk and its equals.
    fn place(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let twins = self.twins.get(&index).cloned().unwrap_or_default();
        for place in std::iter::once(index).chain(twins) {
            let chunk = self.target.chunk(place);
            let offset = match self.goal {
                Goal::File => chunk.offset,
                Goal::Content => chunk.raw_offset,
            };
            self.write(offset, bytes)?;
            self.states[place] = State::Done;
        }
        Ok(())
    }

    /// Checks that all chunks are there, verifies the checksum of the body if the goal is the file, and
    /// returns the sink.
    ///
    /// [`Error::Missing`] consumes the assembler; check [`Assembler::missing`] first.
    pub fn finish(mut self) -> Result<S> {
        let count = self.missing().count() + self.waiting.len();
        if count > 0 {
            let waiting = self.waiting.first().map(|&(index, _)| index);
            let first = self.missing().next().or(waiting).unwrap_or(0);
            return Err(Error::Missing { count, first });
        }
        if self.goal == Goal::File && self.target.data_digest().is_some() {
            let start = self.target.len();
            let read = |source| Error::Read {
                offset: start,
                source,
            };
            self.sink.seek(SeekFrom::Start(start)).map_err(read)?;
            let mut hasher = Hasher::new(self.target.hash());
            let mut buffer = vec![0; 64 << 10];
            loop {
                match self.sink.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(got) => hasher.update(&buffer[..got]),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(read(source)),
                }
            }
            check_body(&self.target, hasher)?;
        }
        Ok(self.sink)
    }
}

/// The pieces of an incomplete chunk.
#[derive(Debug, Default)]
struct Partial {
    /// Up to the end of the last piece.
    bytes: Vec<u8>,
    /// The ranges that have arrived, sorted and disjoint.
    covered: Vec<Range<usize>>,
}

impl Partial {
    fn add(&mut self, at: usize, piece: &[u8]) {
        let end = at + piece.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(piece);
        let mut new = at..end;
        self.covered.retain(|old| {
            let apart = old.end < new.start || new.end < old.start;
            if !apart {
                new = new.start.min(old.start)..new.end.max(old.end);
            }
            apart
        });
        let place = self.covered.partition_point(|old| old.end < new.start);
        self.covered.insert(place, new);
    }

    fn is_complete(&self, len: usize) -> bool {
        self.covered.len() == 1 && self.covered[0] == (0..len)
    }
}
