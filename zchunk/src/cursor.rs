//! A bounds-checked walk over the bytes of a header.

use crate::compint;
use crate::error::{Error, Field, Result};

/// A position in `bytes`, whose first byte is at `base` in the file.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
    base: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], base: u64) -> Self {
        Self {
            bytes,
            pos: 0,
            base,
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.base + self.pos as u64
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.pos
    }

    pub(crate) fn int(&mut self, field: Field) -> Result<u64> {
        let offset = self.offset();
        match compint::get(&self.bytes[self.pos..], field, offset)? {
            Some((value, len)) => {
                self.pos += len;
                Ok(value)
            }
            None => Err(Error::Truncated { field, offset }),
        }
    }

    pub(crate) fn take(&mut self, len: u64, field: Field) -> Result<&'a [u8]> {
        let offset = self.offset();
        if len > self.remaining() as u64 {
            return Err(Error::Truncated { field, offset });
        }
        // No larger than `remaining`, so it fits.
        let len = len as usize;
        let taken = &self.bytes[self.pos..self.pos + len];
        self.pos += len;
        Ok(taken)
    }

    /// A count of items of at least `least` bytes each. A count that exceeds the remaining bytes is
    /// refused, so an unverified count never determines an allocation.
    pub(crate) fn count(&mut self, field: Field, least: usize) -> Result<usize> {
        let offset = self.offset();
        let value = self.int(field)?;
        let limit = (self.remaining() / least) as u64;
        if value > limit {
            return Err(Error::Limit {
                field,
                offset,
                value,
                limit,
            });
        }
        Ok(value as usize)
    }
}
