use std::io::{self, BufRead, BufReader, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::entry_path::lossy;
use super::error::{ArchiveError, EntryProblem, LimitKind};
use super::meter::{Meter, Metered};
use super::mtime::Mtime;
use super::pax::{PaxRecords, decimal, parse_pax};
use super::sparse::SparseMap;

const BLOCK: u64 = 512;
/// Decompressed bytes held at once; also the largest single write.
const TAR_BUFFER: usize = 256 << 10;
/// An extended header is held in memory; real ones have a few hundred bytes.
const EXTENDED_HEADER_BYTES: u64 = 1 << 20;
/// Each part of a sparse file takes 16 bytes of memory.
const SPARSE_PARTS: usize = 1 << 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TarKind {
    File,
    Sparse(SparseMap),
    Directory,
    Symlink,
    HardLink,
}

/// One entry, with its long names and extended headers applied. Paths are unchecked.
#[derive(Debug)]
pub(super) struct TarEntry {
    pub(super) path: Vec<u8>,
    pub(super) kind: TarKind,
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
    /// Bytes of the entry in the archive.
    pub(super) stored: u64,
    /// Target of a link.
    pub(super) link: Vec<u8>,
}

/// Reads a tar once, front to back.
///
/// Of the `tar` crate only the header fields are used: its iterator keeps long names and extended
/// headers of any claimed size in memory, accepts a tar without an end marker, and supports only
/// the oldest sparse format.
pub(super) struct TarStream<'m, R> {
    input: BufReader<Metered<'m, R>>,
    meter: &'m Meter<'m>,
    member: &'m str,
    /// Offset of the next byte.
    position: u64,
    /// Unread bytes of the current entry, and the padding after them.
    remaining: u64,
    padding: u64,
}

/// What the headers before an entry say about it.
#[derive(Default)]
struct Extended {
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    pax: PaxRecords,
}

impl<'m, R: Read> TarStream<'m, R> {
    pub(super) fn new(decoder: R, meter: &'m Meter<'m>, member: &'m str) -> Self {
        Self {
            input: BufReader::with_capacity(TAR_BUFFER, Metered::new(decoder, meter, member)),
            meter,
            member,
            position: 0,
            remaining: 0,
            padding: 0,
        }
    }

    /// The next entry; the rest of the previous one is skipped. After the end marker, the stream is
    /// read to its end, so that the decoder checks its last checksum.
    pub(super) fn next_entry(&mut self) -> Result<Option<TarEntry>, ArchiveError> {
        let mut extended = Extended::default();
        loop {
            self.skip(self.remaining.saturating_add(self.padding))?;
            self.remaining = 0;
            self.padding = 0;
            let mut header = Header::new_old();
            self.read_exact(header.as_mut_bytes(), "a tar, before its end marker")?;
            if header.as_bytes().iter().all(|b| *b == 0) {
                self.skip_rest()?;
                return Ok(None);
            }
            if !checksum_fits(header.as_bytes()) {
                return Err(self.broken("header checksum mismatch"));
            }
            let size = header
                .entry_size()
                .map_err(|_| self.broken("a header has an invalid size"))?;
            match header.entry_type().as_byte() {
                b'L' => extended.gnu_path = Some(self.gnu_name(size)?),
                b'K' => extended.gnu_link = Some(self.gnu_name(size)?),
                b'x' => {
                    let bytes = self.small_body(size, EXTENDED_HEADER_BYTES, |_| {
                        (LimitKind::HeaderBytes, EXTENDED_HEADER_BYTES)
                    })?;
                    extended.pax =
                        parse_pax(&bytes).ok_or_else(|| self.broken("invalid extended header"))?;
                }
                // Global records are comments in practice (git writes the commit there).
                b'g' => self.set_body(size),
                kind => return self.entry(kind, &header, size, extended).map(Some),
            }
        }
    }

    /// Some bytes of the current entry; empty at its end.
    pub(super) fn piece(&mut self) -> Result<&[u8], ArchiveError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let (meter, member) = (self.meter, self.member);
        let available = match self.input.fill_buf() {
            Ok(bytes) => bytes,
            Err(e) => return Err(decoder_error(meter, member, e)),
        };
        if available.is_empty() {
            return Err(ArchiveError::Truncated {
                within: format!("{member}, inside an entry of the tar"),
            });
        }
        let n = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(available.len());
        Ok(&available[..n])
    }

    /// Marks bytes of [`piece`](Self::piece) as read.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.position += bytes as u64;
        self.remaining -= bytes as u64;
    }

    fn entry(
        &mut self,
        kind: u8,
        header: &Header,
        size: u64,
        extended: Extended,
    ) -> Result<TarEntry, ArchiveError> {
        let Extended {
            gnu_path,
            gnu_link,
            mut pax,
        } = extended;
        let path = (pax.sparse.name.take())
            .or(pax.path.take())
            .or(gnu_path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = (pax.linkpath.take())
            .or(gnu_link)
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        let bad = |problem| ArchiveError::Entry {
            member: self.member.to_owned(),
            entry: lossy(&path),
            problem,
        };
        let kind = match kind {
            // Before POSIX, a directory was a file whose name ends with a slash.
            0 if path.ends_with(b"/") => TarKind::Directory,
            b'0' | 0 | b'7' | b'S' => TarKind::File,
            b'1' => TarKind::HardLink,
            b'2' => TarKind::Symlink,
            b'5' => TarKind::Directory,
            b'3' => return Err(bad(EntryProblem::Kind("a character device"))),
            b'4' => return Err(bad(EntryProblem::Kind("a block device"))),
            b'6' => return Err(bad(EntryProblem::Kind("a named pipe"))),
            other => return Err(bad(EntryProblem::UnknownKind(char::from(other)))),
        };
        let mut entry = TarEntry {
            mode: header.mode().unwrap_or(0o644),
            mtime: pax.mtime.unwrap_or_else(|| Mtime {
                seconds: (header.mtime().ok())
                    .and_then(|seconds| i64::try_from(seconds).ok())
                    .unwrap_or(0),
                nanoseconds: 0,
            }),
            path,
            link,
            // Links and directories have no body, but some writers state the size of the target.
            stored: if kind == TarKind::File {
                pax.size.unwrap_or(size)
            } else {
                0
            },
            kind,
        };
        if entry.kind == TarKind::File {
            if entry.stored > self.meter.limits.extracted_bytes {
                return Err(
                    self.limit(LimitKind::ExtractedBytes, self.meter.limits.extracted_bytes)
                );
            }
            if header.entry_type().as_byte() == b'S' {
                self.old_sparse(header, &mut entry)?;
            } else {
                self.set_body(entry.stored);
                if pax.sparse.is_sparse() {
                    self.pax_sparse(&pax, &mut entry)?;
                }
            }
        }
        Ok(entry)
    }

    /// The old GNU format: four parts in the header, 21 more in each block after it.
    fn old_sparse(&mut self, header: &Header, entry: &mut TarEntry) -> Result<(), ArchiveError> {
        let Some(gnu) = header.as_gnu() else {
            return Err(self.broken("a sparse file without a GNU header"));
        };
        let real_size = gnu
            .real_size()
            .map_err(|_| self.broken("a sparse file with an invalid size"))?;
        let mut parts = Vec::new();
        self.add_parts(&mut parts, &gnu.sparse)?;
        let mut extended = gnu.is_extended();
        while extended {
            let mut block = GnuExtSparseHeader::new();
            self.read_exact(block.as_mut_bytes(), "a tar, in a sparse map")?;
            self.add_parts(&mut parts, block.sparse())?;
            extended = block.is_extended();
        }
        self.set_body(entry.stored);
        self.set_sparse(entry, parts, real_size)
    }

    fn add_parts(
        &self,
        parts: &mut Vec<(u64, u64)>,
        found: &[GnuSparseHeader],
    ) -> Result<(), ArchiveError> {
        for part in found.iter().filter(|part| !part.is_empty()) {
            let (Ok(offset), Ok(length)) = (part.offset(), part.length()) else {
                return Err(self.broken("invalid number in a sparse map"));
            };
            self.check_parts(parts.len())?;
            parts.push((offset, length));
        }
        Ok(())
    }

    /// GNU's formats 0.0 and 0.1, whose map is in the extended header, and 1.0, whose map comes
    /// before the data.
    fn pax_sparse(&mut self, pax: &PaxRecords, entry: &mut TarEntry) -> Result<(), ArchiveError> {
        let Some(real_size) = pax.sparse.real_size else {
            return Err(self.broken("a sparse file without a size"));
        };
        let mut parts = Vec::new();
        if pax.sparse.major == Some(1) {
            let before = self.remaining;
            let count = self.sparse_number()?;
            for _ in 0..count {
                self.check_parts(parts.len())?;
                parts.push((self.sparse_number()?, self.sparse_number()?));
            }
            let used = before - self.remaining;
            let fill = used.next_multiple_of(BLOCK) - used;
            if fill > self.remaining {
                return Err(self.broken("a sparse map is longer than its file"));
            }
            self.remaining -= fill;
            self.skip(fill)?;
            entry.stored = self.remaining;
        } else {
            let numbers = &pax.sparse.map;
            if !numbers.len().is_multiple_of(2) {
                return Err(self.broken("a sparse map with an offset but no length"));
            }
            self.check_parts(numbers.len() / 2)?;
            parts.extend(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        self.set_sparse(entry, parts, real_size)
    }

    /// A line with a decimal number, from the entry's body.
    fn sparse_number(&mut self) -> Result<u64, ArchiveError> {
        let mut digits = Vec::with_capacity(20);
        loop {
            let Some(byte) = self.piece()?.first().copied() else {
                return Err(self.broken("a sparse map is longer than its file"));
            };
            self.consume(1);
            match byte {
                b'\n' => break,
                byte if digits.len() < 20 => digits.push(byte),
                _ => return Err(self.broken("invalid number in a sparse map")),
            }
        }
        decimal(&digits).ok_or_else(|| self.broken("invalid number in a sparse map"))
    }

    fn check_parts(&self, parts: usize) -> Result<(), ArchiveError> {
        if parts >= SPARSE_PARTS {
            return Err(self.limit(LimitKind::SparseParts, SPARSE_PARTS as u64));
        }
        Ok(())
    }

    fn set_sparse(
        &self,
        entry: &mut TarEntry,
        parts: Vec<(u64, u64)>,
        real_size: u64,
    ) -> Result<(), ArchiveError> {
        let Some(map) = SparseMap::new(parts, real_size, entry.stored) else {
            return Err(ArchiveError::Entry {
                member: self.member.to_owned(),
                entry: lossy(&entry.path),
                problem: EntryProblem::SparseMap,
            });
        };
        self.meter.add_hole(self.member, map.hole_bytes())?;
        entry.kind = TarKind::Sparse(map);
        Ok(())
    }

    fn set_body(&mut self, size: u64) {
        self.remaining = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    /// A GNU long name: the body of an entry of its own, ended by NULs.
    fn gnu_name(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let limit = self.meter.limits.path_bytes as u64;
        let mut name = self.small_body(size, limit.saturating_add(BLOCK), |_| {
            (LimitKind::PathBytes, limit)
        })?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// Reads the whole body of an auxiliary entry.
    fn small_body(
        &mut self,
        size: u64,
        most: u64,
        exceeded: impl FnOnce(u64) -> (LimitKind, u64),
    ) -> Result<Vec<u8>, ArchiveError> {
        if size > most {
            let (what, limit) = exceeded(size);
            return Err(self.limit(what, limit));
        }
        self.set_body(size);
        let mut body = Vec::new();
        loop {
            let piece = self.piece()?;
            if piece.is_empty() {
                return Ok(body);
            }
            body.extend_from_slice(piece);
            let n = piece.len();
            self.consume(n);
        }
    }

    fn read_exact(&mut self, into: &mut [u8], within: &str) -> Result<(), ArchiveError> {
        let (meter, member) = (self.meter, self.member);
        self.input.read_exact(into).map_err(|e| {
            meter.explain(e, |source| match source.kind() {
                io::ErrorKind::UnexpectedEof => ArchiveError::Truncated {
                    within: format!("{member}: {within}"),
                },
                _ => decode_error(member, source),
            })
        })?;
        self.position += into.len() as u64;
        Ok(())
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), ArchiveError> {
        while bytes > 0 {
            let n = self.skim(bytes)?;
            if n == 0 {
                return Err(ArchiveError::Truncated {
                    within: format!("{}, inside an entry of the tar", self.member),
                });
            }
            bytes -= n;
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), ArchiveError> {
        while self.skim(u64::MAX)? > 0 {}
        Ok(())
    }

    /// Skips up to `most` bytes and returns how many; 0 at the end.
    fn skim(&mut self, most: u64) -> Result<u64, ArchiveError> {
        let (meter, member) = (self.meter, self.member);
        let available = match self.input.fill_buf() {
            Ok(bytes) => bytes.len(),
            Err(e) => return Err(decoder_error(meter, member, e)),
        };
        let n = usize::try_from(most).unwrap_or(usize::MAX).min(available);
        self.input.consume(n);
        self.position += n as u64;
        Ok(n as u64)
    }

    fn broken(&self, problem: &'static str) -> ArchiveError {
        ArchiveError::Tar {
            member: self.member.to_owned(),
            at: self.position,
            problem,
        }
    }

    fn limit(&self, what: LimitKind, limit: u64) -> ArchiveError {
        ArchiveError::Limit {
            member: self.member.to_owned(),
            what,
            limit,
        }
    }
}

fn decoder_error(meter: &Meter<'_>, member: &str, error: io::Error) -> ArchiveError {
    meter.explain(error, |source| decode_error(member, source))
}

fn decode_error(member: &str, source: io::Error) -> ArchiveError {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return ArchiveError::Truncated {
            within: format!("{member}, inside its compressed data"),
        };
    }
    ArchiveError::Decompress {
        member: member.to_owned(),
        source,
    }
}

/// The checksum is the sum of all bytes with spaces in its field. Old writers add signed bytes.
fn checksum_fits(block: &[u8; 512]) -> bool {
    let field = &block[148..156];
    let Some(expected) = octal(field) else {
        return false;
    };
    let others = || block[..148].iter().chain(&block[156..]);
    let unsigned = others().map(|b| i64::from(*b)).sum::<i64>() + 8 * 32;
    let signed = others().map(|b| i64::from(b.cast_signed())).sum::<i64>() + 8 * 32;
    expected == unsigned || expected == signed
}

fn octal(field: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(|c| c == ' ' || c == '\0');
    i64::from_str_radix(text, 8).ok()
}
