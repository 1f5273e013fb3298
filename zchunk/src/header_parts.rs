//! Writing a header.

use crate::compint;
use crate::digest::{Digest, HashKind, Hasher};
use crate::header::{
    Compression, Element, FLAG_ELEMENTS, FLAG_STREAMS, FLAG_UNCOMPRESSED_SOURCE, MAGIC, Signature,
};

/// An entry of an index to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryParts {
    pub(crate) stream: u64,
    pub(crate) digest: Digest,
    pub(crate) raw_digest: Option<Digest>,
    pub(crate) len: u64,
    pub(crate) raw_len: u64,
}

/// The parts of a header to be written.
#[derive(Debug, Clone)]
pub(crate) struct HeaderParts<'a> {
    pub(crate) hash: HashKind,
    /// `None` with flag 4.
    pub(crate) data_digest: Option<Digest>,
    pub(crate) streams: bool,
    pub(crate) compression: Compression,
    pub(crate) elements: &'a [Element],
    pub(crate) chunk_hash: HashKind,
    pub(crate) entries: &'a [EntryParts],
    pub(crate) signatures: &'a [Signature],
}

impl HeaderParts<'_> {
    /// The bytes of the header.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut index = Vec::new();
        compint::put(&mut index, self.chunk_hash as u64);
        compint::put(&mut index, self.entries.len() as u64);
        for entry in self.entries {
            if self.streams {
                compint::put(&mut index, entry.stream);
            }
            index.extend_from_slice(entry.digest.as_bytes());
            if let Some(digest) = &entry.raw_digest {
                index.extend_from_slice(digest.as_bytes());
            }
            compint::put(&mut index, entry.len);
            compint::put(&mut index, entry.raw_len);
        }

        let mut rest = Vec::with_capacity(index.len() + 128);
        let data_digest = self.data_digest.unwrap_or(Digest::zero(self.hash));
        rest.extend_from_slice(data_digest.as_bytes());
        let mut flags = 0;
        for (flag, set) in [
            (FLAG_STREAMS, self.streams),
            (FLAG_ELEMENTS, !self.elements.is_empty()),
            (FLAG_UNCOMPRESSED_SOURCE, self.data_digest.is_none()),
        ] {
            flags |= if set { flag } else { 0 };
        }
        compint::put(&mut rest, flags);
        compint::put(&mut rest, self.compression.id());
        if !self.elements.is_empty() {
            compint::put(&mut rest, self.elements.len() as u64);
            for element in self.elements {
                compint::put(&mut rest, element.id);
                compint::put(&mut rest, element.data.len() as u64);
                rest.extend_from_slice(&element.data);
            }
        }
        compint::put(&mut rest, index.len() as u64);
        rest.append(&mut index);
        compint::put(&mut rest, self.signatures.len() as u64);
        for signature in self.signatures {
            compint::put(&mut rest, signature.kind);
            compint::put(&mut rest, signature.data.len() as u64);
            rest.extend_from_slice(&signature.data);
        }

        let mut bytes = MAGIC.to_vec();
        compint::put(&mut bytes, self.hash as u64);
        compint::put(&mut bytes, rest.len() as u64);
        let mut hasher = Hasher::new(self.hash);
        hasher.update(&bytes);
        hasher.update(&rest);
        bytes.extend_from_slice(hasher.finish().as_bytes());
        bytes.append(&mut rest);
        bytes
    }
}
