//! zchunk files that are right in every checksum, so that what is behind the checksums is reached.

use taipan_zchunk::{HashKind, Hasher};

use crate::Input;

pub fn int(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8 | 0x80);
}

/// A file whose header has the right checksum, around any preface and index.
pub fn sealed(hash: HashKind, rest: &[u8]) -> Vec<u8> {
    let mut file = b"\0ZCK1".to_vec();
    int(&mut file, hash as u64);
    int(&mut file, rest.len() as u64);
    let mut hasher = Hasher::new(hash);
    hasher.update(&file);
    hasher.update(rest);
    file.extend_from_slice(hasher.finish().as_bytes());
    file.extend_from_slice(rest);
    file
}

/// A file that is right in every checksum, with chunks and elements as the input says: some frames
/// are real, others are whatever the input has.
pub fn file(input: &mut Input<'_>) -> Vec<u8> {
    let shape = input.byte();
    let hash = HashKind::ALL[usize::from(shape & 3)];
    let chunk_hash = HashKind::ALL[usize::from(shape >> 2 & 3)];
    let flag_4 = shape & 16 != 0;
    let none = shape & 32 != 0;
    let with_element = shape & 64 != 0;
    let count = usize::from(input.byte() % 12) + 1;
    let mut index = Vec::new();
    int(&mut index, chunk_hash as u64);
    int(&mut index, count as u64);
    let mut body = Vec::new();
    for n in 0..count {
        let kind = input.byte();
        let len = usize::from(input.byte() % 64);
        let content = input.take(len);
        let stored = match kind & 3 {
            0 if !none => content.to_vec(),
            _ if none || content.is_empty() => content.to_vec(),
            _ => zstd::bulk::compress(content, 1).unwrap_or_default(),
        };
        let zero = vec![0; chunk_hash.len()];
        let raw_zero = flag_4 && kind & 4 != 0;
        if (n == 0 && stored.is_empty()) || raw_zero {
            index.extend_from_slice(&zero);
        } else {
            index.extend_from_slice(chunk_hash.digest(&stored).as_bytes());
        }
        if flag_4 {
            index.extend_from_slice(chunk_hash.digest(content).as_bytes());
        }
        let lie = u64::from(kind >> 6 == 3);
        int(&mut index, stored.len() as u64);
        int(&mut index, content.len() as u64 + lie);
        body.extend_from_slice(&stored);
    }
    let mut rest = Vec::new();
    if flag_4 {
        rest.resize(hash.len(), 0);
    } else {
        rest.extend_from_slice(hash.digest(&body).as_bytes());
    }
    int(
        &mut rest,
        u64::from(flag_4) * 4 + u64::from(with_element) * 2,
    );
    int(&mut rest, if none { 0 } else { 2 });
    if with_element {
        let len = usize::from(input.byte());
        let element = input.take(len);
        int(&mut rest, 1);
        int(&mut rest, taipan_zchunk::LAYOUT_ELEMENT);
        int(&mut rest, element.len() as u64);
        rest.extend_from_slice(element);
    }
    int(&mut rest, index.len() as u64);
    rest.extend_from_slice(&index);
    int(&mut rest, 0);
    let mut file = sealed(hash, &rest);
    file.extend_from_slice(&body);
    file
}
