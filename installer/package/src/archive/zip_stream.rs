use std::io::{self, BufRead, Read};

use super::central_directory::read_rest;
use super::conda::{CondaMembers, Role, STORED, check_stored};
use super::error::ArchiveError;
use super::meter::{Meter, Source};

// APPNOTE 4.3.
const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const EXTRA_DATA: u32 = 0x0806_4b50;
const ZIP64_END: u32 = 0x0606_4b50;
const END: u32 = 0x0605_4b50;
/// Length of a local header without its name and extra field.
const LOCAL_BYTES: usize = 30;
/// Flag bits of APPNOTE 4.4.4.
const ENCRYPTED: u16 = 1;
const DATA_DESCRIPTOR: u16 = 1 << 3;
/// In a 32-bit size: the size is in the zip64 extra field.
const IN_ZIP64: u32 = u32::MAX;

/// Reads a zip front to back by its local headers, each member as it arrives.
///
/// This works for stored members whose size precedes the data, as `.conda` writers make them. From
/// the first member whose size follows the data (a data descriptor), the rest goes to a temporary
/// file and is read by the central directory.
pub(super) fn read_zip<R: Read>(
    source: &mut Source<'_, R>,
    members: &mut CondaMembers<'_, '_>,
) -> Result<(), ArchiveError> {
    loop {
        let at = source.position();
        let mut raw = Vec::with_capacity(LOCAL_BYTES + 128);
        read_more(source, members, &mut raw, 4)?;
        match u32_at(&raw, 0) {
            LOCAL_HEADER => {}
            CENTRAL_HEADER | EXTRA_DATA | ZIP64_END | END => return Ok(()),
            _ => {
                return Err(ArchiveError::Zip {
                    at,
                    problem: "neither a member nor the central directory begins here",
                });
            }
        }
        read_more(source, members, &mut raw, LOCAL_BYTES - 4)?;
        let name_bytes = usize::from(u16_at(&raw, 26));
        let extra_bytes = usize::from(u16_at(&raw, 28));
        read_more(source, members, &mut raw, name_bytes + extra_bytes)?;

        if u16_at(&raw, 6) & DATA_DESCRIPTOR != 0 {
            return read_rest(source, &raw, at, members);
        }
        let header = LocalHeader::parse(&raw, name_bytes, at)?;
        read_member(source, &header, members)?;
    }
}

struct LocalHeader {
    name: String,
    flags: u16,
    method: u16,
    crc: u32,
    size: u64,
}

impl LocalHeader {
    /// `raw` is the header with its name and extra field.
    fn parse(raw: &[u8], name_bytes: usize, at: u64) -> Result<Self, ArchiveError> {
        let broken = |problem| ArchiveError::Zip { at, problem };
        let (name, extra) = raw[LOCAL_BYTES..].split_at(name_bytes);
        let flags = u16_at(raw, 6);
        let method = u16_at(raw, 8);
        let (compressed, plain) = (u32_at(raw, 18), u32_at(raw, 22));
        let (mut compressed_size, mut size) = (u64::from(compressed), u64::from(plain));
        if compressed == IN_ZIP64 || plain == IN_ZIP64 {
            let mut zip64 = zip64_field(extra).ok_or_else(|| broken("a size is missing"))?;
            // APPNOTE 4.5.3: only the saturated ones are there, in this order.
            for (saturated, into) in [
                (plain == IN_ZIP64, &mut size),
                (compressed == IN_ZIP64, &mut compressed_size),
            ] {
                if saturated {
                    let (number, rest) = (zip64.split_first_chunk::<8>())
                        .ok_or_else(|| broken("a size is missing"))?;
                    *into = u64::from_le_bytes(*number);
                    zip64 = rest;
                }
            }
        }
        if method == STORED && compressed_size != size {
            return Err(broken("a stored member has two sizes"));
        }
        Ok(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            flags,
            method,
            crc: u32_at(raw, 14),
            size: compressed_size,
        })
    }
}

fn read_member<R: Read>(
    source: &mut Source<'_, R>,
    header: &LocalHeader,
    members: &mut CondaMembers<'_, '_>,
) -> Result<(), ArchiveError> {
    let role = Role::of(&header.name);
    if role != Role::Unknown {
        check_stored(&header.name, header.flags & ENCRYPTED != 0, header.method)?;
    }
    let meter = members.extractor.meter;
    let mut body = Body {
        source,
        meter,
        name: &header.name,
        left: header.size,
        crc: crc32fast::Hasher::new(),
    };
    members.member(role, &header.name, &mut body)?;
    // Bytes that the decoder did not need count for the checksum.
    loop {
        let rest = body
            .fill_buf()
            .map_err(|e| meter.explain(e, |source| ArchiveError::Read { source }))?
            .len();
        if rest == 0 {
            break;
        }
        body.consume(rest);
    }
    // The checksum of a compressed member is that of its content, which is not read if skipped.
    if header.method == STORED && header.flags & ENCRYPTED == 0 && body.crc.finalize() != header.crc
    {
        return Err(ArchiveError::Checksum {
            member: header.name.clone(),
        });
    }
    Ok(())
}

/// The bytes of one stored member.
struct Body<'b, 's, R> {
    source: &'b mut Source<'s, R>,
    meter: &'b Meter<'b>,
    name: &'b str,
    left: u64,
    crc: crc32fast::Hasher,
}

impl<R: Read> Read for Body<'_, '_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(into.len());
        into[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: Read> BufRead for Body<'_, '_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let available = self.source.fill_buf()?;
        if available.is_empty() {
            return Err(self.meter.fault(ArchiveError::Truncated {
                within: format!("member {:?}", self.name),
            }));
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(&available[..available.len().min(most)])
    }

    fn consume(&mut self, amount: usize) {
        // What is consumed was filled before, so this does not read.
        if let Ok(available) = self.source.fill_buf() {
            let amount = amount.min(available.len());
            self.crc.update(&available[..amount]);
            self.source.consume(amount);
            self.left = self.left.saturating_sub(amount as u64);
        }
    }
}

/// Appends exactly `bytes` from the source.
fn read_more<R: Read>(
    source: &mut Source<'_, R>,
    members: &CondaMembers<'_, '_>,
    into: &mut Vec<u8>,
    bytes: usize,
) -> Result<(), ArchiveError> {
    let start = into.len();
    into.resize(start + bytes, 0);
    source.read_exact(&mut into[start..]).map_err(|e| {
        let within = "the zip, before its central directory".to_owned();
        (members.extractor.meter).explain(e, |_| ArchiveError::Truncated { within })
    })
}

/// The zip64 field among the extra fields.
fn zip64_field(mut extra: &[u8]) -> Option<&[u8]> {
    const ZIP64: u16 = 1;
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let field = extra.get(4..4 + length)?;
        if id == ZIP64 {
            return Some(field);
        }
        extra = &extra[4 + length..];
    }
    None
}

/// Callers have read enough bytes.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
