//! All readers, which must agree: raw input, and files that are right in every checksum.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::{Input, sealed};
use taipan_zchunk::{Archive, Limits, Reader, Result, StreamDecoder, extract};

const LIMITS: Limits = Limits {
    header: 1 << 16,
    chunks: 1 << 10,
    chunk: 1 << 18,
    total: 1 << 20,
};

fn by_read(file: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader::new(file, &LIMITS)?;
    let mut content = Vec::new();
    while let Some((_, bytes)) = reader.next_chunk()? {
        content.extend_from_slice(bytes);
    }
    Ok(content)
}

fn by_push(file: &[u8], step: usize) -> Result<Vec<u8>> {
    let mut decoder = StreamDecoder::new(LIMITS);
    let mut content = Vec::new();
    for piece in file.chunks(step) {
        decoder.push(piece, |_, bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
    }
    decoder.finish()?;
    Ok(content)
}

fn by_chunk(file: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::open(Cursor::new(file), &LIMITS)?;
    let mut content = Vec::new();
    for index in 1..archive.header().chunk_count() {
        content.extend(archive.chunk(index)?);
    }
    Ok(content)
}

fn check(file: &[u8], step: usize) {
    let whole = by_push(file, file.len().max(1)).ok();
    assert_eq!(whole, by_push(file, step).ok());
    let read = by_read(file).ok();
    let mut extracted = Vec::new();
    let extract = extract(&mut &file[..], &mut extracted, &LIMITS)
        .is_ok()
        .then_some(extracted);
    if read.is_none() || extract.is_none() {
        // Of a file with streams `read` gives one, so they need not be equal.
        assert_eq!(read.is_none(), extract.is_none());
    }
    if let Some(read) = read {
        let chunks = by_chunk(file).unwrap();
        assert_eq!(chunks, extract.unwrap());
        assert!(read.len() <= chunks.len());
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let step = usize::from(input.byte()) + 1;
    check(input.0, step);
    let mut file = sealed::file(&mut input);
    check(&file, step);
    // And damaged, as the rest of the input says.
    while input.0.len() >= 3 {
        let at = usize::from(input.byte()) << 8 | usize::from(input.byte());
        let len = file.len();
        file[at % len] ^= input.byte();
    }
    check(&file, step);
});
