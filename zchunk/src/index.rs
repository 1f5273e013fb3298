//! The index: length, checksums and stream of each chunk.

use crate::cursor::Cursor;
use crate::digest::HashKind;
use crate::error::{Error, Field, Result};
use crate::header::{Compression, FLAG_STREAMS, FLAG_UNCOMPRESSED_SOURCE};
use crate::limits::Limits;

/// The end of a chunk, and the position of its digests in the header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) end: u64,
    pub(crate) raw_end: u64,
    pub(crate) digest_at: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: Vec<Entry>,
    pub(crate) streams: Vec<u64>,
}

impl Index {
    pub(crate) fn parse(
        &mut self,
        at: &mut Cursor<'_>,
        flags: u64,
        compression: Compression,
        header_len: u64,
        limits: &Limits,
    ) -> Result<HashKind> {
        let size = at.int(Field::IndexSize)?;
        let start = at.offset();
        let offset = at.offset();
        let hash = HashKind::from_id(at.int(Field::ChunkHashKind)?, Field::ChunkHashKind, offset)?;
        let digests = if flags & FLAG_UNCOMPRESSED_SOURCE != 0 {
            2
        } else {
            1
        };
        let stream = usize::from(flags & FLAG_STREAMS != 0);

        let offset = at.offset();
        let count = at.count(Field::ChunkCount, digests * hash.len() + 2 + stream)?;
        if count as u64 > limits.chunks {
            return Err(Error::Limit {
                field: Field::ChunkCount,
                offset,
                value: count as u64,
                limit: limits.chunks,
            });
        }
        if count == 0 {
            // The dictionary's entry is always there.
            return Err(Error::Inconsistent {
                field: Field::ChunkCount,
                offset,
                expected: 1,
                found: 0,
            });
        }
        self.entries.reserve_exact(count);
        for index in 0..count {
            self.entry(
                at,
                index,
                (digests * hash.len()) as u64,
                flags,
                compression,
                limits,
            )?;
        }
        if at.offset() - start != size {
            return Err(Error::Inconsistent {
                field: Field::IndexSize,
                offset: start,
                expected: at.offset() - start,
                found: size,
            });
        }
        // Then offsets in the file cannot overflow later.
        let body = self.entries.last().map_or(0, |entry| entry.end);
        sum(body, header_len, Field::BodyLen, at.offset(), u64::MAX)?;
        Ok(hash)
    }

    fn entry(
        &mut self,
        at: &mut Cursor<'_>,
        index: usize,
        digests_len: u64,
        flags: u64,
        compression: Compression,
        limits: &Limits,
    ) -> Result<()> {
        if flags & FLAG_STREAMS != 0 {
            let offset = at.offset();
            let stream = at.int(Field::ChunkStream)?;
            if index == 0 && stream != 0 {
                return Err(Error::Inconsistent {
                    field: Field::ChunkStream,
                    offset,
                    expected: 0,
                    found: stream,
                });
            }
            self.streams.push(stream);
        }
        let digest_at = at.offset() as usize;
        let digests = at.take(digests_len, Field::ChunkDigest)?;
        let offset = at.offset();
        let len = at.int(Field::ChunkLen)?;
        let raw_offset = at.offset();
        let raw_len = at.int(Field::ChunkRawLen)?;
        for (field, offset, value) in [
            (Field::ChunkLen, offset, len),
            (Field::ChunkRawLen, raw_offset, raw_len),
        ] {
            // No chunk can be larger than the address space either.
            let limit = limits.chunk.min(isize::MAX as u64);
            if value > limit {
                return Err(Error::Limit {
                    field,
                    offset,
                    value,
                    limit,
                });
            }
        }
        let inconsistent = Error::Inconsistent {
            field: Field::ChunkRawLen,
            offset: raw_offset,
            expected: len,
            found: raw_len,
        };
        let uncompressed_source = flags & FLAG_UNCOMPRESSED_SOURCE != 0;
        let digest = if uncompressed_source {
            &digests[..digests.len() / 2]
        } else {
            digests
        };
        let zero_digest = digest.iter().all(|&byte| byte == 0);
        let stored_raw = uncompressed_source && zero_digest;
        if (compression == Compression::None || stored_raw || len == 0) && len != raw_len {
            return Err(inconsistent);
        }
        if index == 0 && (len == 0) != zero_digest && !stored_raw {
            // A dictionary has a checksum of zeros if and only if it is empty.
            return Err(Error::Inconsistent {
                field: Field::ChunkDigest,
                offset: digest_at as u64,
                expected: u64::from(len != 0),
                found: u64::from(!zero_digest),
            });
        }
        if compression == Compression::Zstd && !stored_raw && raw_len > most_content(len) {
            return Err(inconsistent);
        }
        let last = self.entries.last().map_or(0, |entry| entry.end);
        let raw_last = if index > 1 {
            self.entries.last().map_or(0, |entry| entry.raw_end)
        } else {
            0
        };
        let end = sum(last, len, Field::BodyLen, offset, limits.total)?;
        let raw_end = sum(raw_last, raw_len, Field::TotalLen, raw_offset, limits.total)?;
        self.entries.push(Entry {
            end,
            raw_end,
            digest_at,
        });
        Ok(())
    }
}

/// The maximum content of zstd frames of `len` bytes (RFC 8878 §3.1.1.2): a block has at most 128 KiB of
/// content, and the smallest block with content has four bytes. So a length of gigabytes for a few bytes
/// is refused before it determines an allocation.
fn most_content(len: u64) -> u64 {
    (len / 4 + 1).saturating_mul(128 << 10)
}

fn sum(a: u64, b: u64, field: Field, offset: u64, limit: u64) -> Result<u64> {
    match a.checked_add(b) {
        Some(sum) if sum <= limit => Ok(sum),
        sum => Err(Error::Limit {
            field,
            offset,
            value: sum.unwrap_or(u64::MAX),
            limit,
        }),
    }
}
