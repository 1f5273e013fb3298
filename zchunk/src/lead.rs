//! The lead: the first bytes of a file.

use crate::compint;
use crate::digest::{Digest, HashKind};
use crate::error::{Error, Field, Result};
use crate::header::{MAGIC, MAGIC_DETACHED};
use crate::limits::Limits;

/// The beginning of a file: the information that is needed to fetch the rest of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    pub(crate) detached: bool,
    pub(crate) hash: HashKind,
    pub(crate) len: usize,
    size: u64,
    pub(crate) digest: Digest,
}

impl Lead {
    /// The maximum length: magic, two integers, the longest digest. A client that fetches this many bytes
    /// first knows the length of the rest.
    pub const MAX_LEN: usize = MAGIC.len() + 2 * compint::MAX_LEN + 64;

    /// Reads a lead from the first bytes of a file. `Ok(None)`: more bytes are needed.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Option<Self>> {
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        let detached = MAGIC_DETACHED.starts_with(magic) && !MAGIC.starts_with(magic);
        if !detached && !MAGIC.starts_with(magic) {
            return Err(Error::Magic);
        }
        if bytes.len() < MAGIC.len() {
            return Ok(None);
        }
        let mut pos = MAGIC.len();
        let Some((id, len)) = compint::get(&bytes[pos..], Field::HashKind, pos as u64)? else {
            return Ok(None);
        };
        let hash = HashKind::from_id(id, Field::HashKind, pos as u64)?;
        pos += len;
        let offset = pos as u64;
        let Some((size, len)) = compint::get(&bytes[pos..], Field::HeaderSize, offset)? else {
            return Ok(None);
        };
        pos += len;
        let total = size.saturating_add((pos + hash.len()) as u64);
        // The address space may have 32 bits.
        let limit = limits.header.min(usize::MAX as u64 - 1);
        if total > limit {
            return Err(Error::Limit {
                field: Field::HeaderSize,
                offset,
                value: total,
                limit,
            });
        }
        let Some(digest) = bytes.get(pos..pos + hash.len()) else {
            return Ok(None);
        };
        let digest = Digest::from_prefix(hash, digest);
        Ok(Some(Self {
            detached,
            hash,
            len: pos + hash.len(),
            size,
            digest,
        }))
    }

    /// The length of the header with its lead.
    pub fn header_len(&self) -> u64 {
        self.len as u64 + self.size
    }

    /// The length of the lead.
    pub fn lead_len(&self) -> usize {
        self.len
    }

    /// Whether this begins a detached header.
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// The checksum that the header must have.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}
