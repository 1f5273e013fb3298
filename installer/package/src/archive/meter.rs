use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Read};

use super::error::{ArchiveError, LimitKind};
use super::limits::{CancelFlag, ExtractLimits};

/// Bytes read from the caller at once.
const SOURCE_BUFFER: usize = 128 << 10;

/// Counts the bytes of the archive and of its content, and keeps the first error.
///
/// Decoders pass only `io::Error`s on, and some wrap or reword them. So the layer that fails stores
/// the real error here, and [`Meter::explain`] prefers it to the one that the decoder returned.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    pub(super) limits: &'a ExtractLimits,
    cancel: &'a CancelFlag,
    read: Cell<u64>,
    extracted: Cell<u64>,
    fault: RefCell<Option<ArchiveError>>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(limits: &'a ExtractLimits, cancel: &'a CancelFlag) -> Self {
        Self {
            limits,
            cancel,
            read: Cell::new(0),
            extracted: Cell::new(0),
            fault: RefCell::new(None),
        }
    }

    /// Bytes of the archive read so far.
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    /// Stores the error, and returns one that decoders can pass on.
    pub(super) fn fault(&self, error: ArchiveError) -> io::Error {
        self.fault.borrow_mut().get_or_insert(error);
        io::Error::other("the extraction failed")
    }

    /// The stored error, or `otherwise` of the given one.
    pub(super) fn explain(
        &self,
        error: io::Error,
        otherwise: impl FnOnce(io::Error) -> ArchiveError,
    ) -> ArchiveError {
        match self.fault.borrow_mut().take() {
            Some(fault) => fault,
            None => otherwise(error),
        }
    }

    pub(super) fn check_cancelled(&self) -> Result<(), ArchiveError> {
        if self.cancel.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        Ok(())
    }

    fn add_read(&self, bytes: usize) -> Result<(), ArchiveError> {
        let total = self.read.get().saturating_add(bytes as u64);
        self.read.set(total);
        if total > self.limits.archive_bytes {
            return Err(ArchiveError::Limit {
                member: "archive".to_owned(),
                what: LimitKind::ArchiveBytes,
                limit: self.limits.archive_bytes,
            });
        }
        Ok(())
    }

    /// Counts the holes of a file, which need no archive bytes, before they are made.
    pub(super) fn add_hole(&self, member: &str, bytes: u64) -> Result<(), ArchiveError> {
        let total = self.extracted.get().saturating_add(bytes);
        self.extracted.set(total);
        if total > self.limits.extracted_bytes {
            return Err(ArchiveError::Limit {
                member: member.to_owned(),
                what: LimitKind::ExtractedBytes,
                limit: self.limits.extracted_bytes,
            });
        }
        Ok(())
    }

    fn add_extracted(&self, member: &str, bytes: usize) -> Result<(), ArchiveError> {
        self.add_hole(member, bytes as u64)?;
        let allowed = (self.read.get().saturating_mul(self.limits.ratio))
            .saturating_add(self.limits.ratio_allowance);
        if self.extracted.get() > allowed {
            return Err(ArchiveError::Limit {
                member: member.to_owned(),
                what: LimitKind::Ratio,
                limit: self.limits.ratio,
            });
        }
        Ok(())
    }
}

/// The archive's bytes, buffered, counted and cancellable.
pub(super) struct Source<'m, R> {
    inner: R,
    meter: &'m Meter<'m>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<'m, R: Read> Source<'m, R> {
    pub(super) fn new(inner: R, meter: &'m Meter<'m>) -> Self {
        Self {
            inner,
            meter,
            buffer: vec![0; SOURCE_BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Offset of the next byte in the archive.
    pub(super) fn position(&self) -> u64 {
        self.meter.read() - (self.end - self.start) as u64
    }

    /// Reads to the end, so that a hash of the bytes covers all of them.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        loop {
            let seen = self.fill_buf()?.len();
            if seen == 0 {
                return Ok(());
            }
            self.consume(seen);
        }
    }
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(into.len());
        into[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: Read> BufRead for Source<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.meter
                .check_cancelled()
                .map_err(|e| self.meter.fault(e))?;
            self.start = 0;
            self.end = 0;
            self.end = loop {
                match self.inner.read(&mut self.buffer) {
                    // A reader that returns too large a number must not cause a panic.
                    Ok(n) => break n.min(self.buffer.len()),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(self.meter.fault(ArchiveError::Read { source })),
                }
            };
            self.meter
                .add_read(self.end)
                .map_err(|e| self.meter.fault(e))?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.end);
    }
}

/// A decoder whose output is counted against the limits.
pub(super) struct Metered<'m, R> {
    inner: R,
    meter: &'m Meter<'m>,
    member: &'m str,
}

impl<'m, R> Metered<'m, R> {
    pub(super) fn new(inner: R, meter: &'m Meter<'m>, member: &'m str) -> Self {
        Self {
            inner,
            meter,
            member,
        }
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.meter
            .check_cancelled()
            .map_err(|e| self.meter.fault(e))?;
        let n = self.inner.read(into)?;
        self.meter
            .add_extracted(self.member, n)
            .map_err(|e| self.meter.fault(e))?;
        Ok(n)
    }
}
