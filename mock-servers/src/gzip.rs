//! gzip with stored blocks only, and the CRC-32 it needs.
//!
//! It is for responses with an unrequested `Content-Encoding`, and for the info layer of a registry. Neither
//! needs compression, so no deflate library is needed.

/// CRC-32 (IEEE 802.3, reflected), bit by bit: 6 MB take tens of milliseconds.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut table = [0_u32; 256];
    for (index, slot) in (0_u32..).zip(table.iter_mut()) {
        *slot = (0..8).fold(index, |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)));
    }
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (crc >> 8) ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)]
    })
}

/// A gzip member (RFC 1952) around stored deflate blocks (RFC 1951 §3.2.4).
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 65_535 * 5 + 32);
    // Magic, deflate, no flags, no time, no extra flags, unknown system: deterministic.
    out.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    let mut blocks = bytes.chunks(65_535).peekable();
    if blocks.peek().is_none() {
        out.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).expect("chunks are of 65 535 bytes at most");
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(block);
    }
    out.extend(crc32(bytes).to_le_bytes());
    let len = bytes.len() as u64 & u64::from(u32::MAX);
    out.extend(u32::try_from(len).expect("masked to 32 bits").to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_has_its_check_value() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn stored_blocks_frame_the_input() {
        let input = vec![7; 70_000];
        let out = gzip(&input);
        assert_eq!(out.len(), 10 + 5 + 65_535 + 5 + (70_000 - 65_535) + 8);
        assert_eq!(out[10], 0);
        assert_eq!(out[10 + 5 + 65_535], 1);
        assert_eq!(gzip(b"")[10], 1);
    }
}
