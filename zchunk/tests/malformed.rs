//! Invalid files are refused with the reason and without large allocations.

#![allow(clippy::cast_possible_truncation, reason = "tests of small numbers")]

mod common;

use std::io::{Cursor, Read};

use taipan_zchunk::{
    Archive, Encoding, Error, Field, HashKind, Header, Limits, Reader, Result, StreamDecoder,
    WriterOptions, write_to_vec,
};

fn small_file(options: WriterOptions) -> Vec<u8> {
    write_to_vec(&common::json(3_000, 9), options).unwrap().0
}

fn by_read(file: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader::new(file, &Limits::default())?;
    let mut content = Vec::new();
    while let Some((_, bytes)) = reader.next_chunk()? {
        content.extend_from_slice(bytes);
    }
    Ok(content)
}

fn by_push(file: &[u8]) -> Result<Header> {
    let mut decoder = StreamDecoder::new(Limits::default());
    decoder.push(file, |_, _| Ok(()))?;
    decoder.finish()
}

fn kinds() -> Vec<WriterOptions> {
    let dictionary = common::json(500, 1);
    vec![
        WriterOptions::default(),
        WriterOptions::default()
            .with_uncompressed_source()
            .with_dictionary(dictionary),
        WriterOptions::default()
            .with_encoding(Encoding::None)
            .with_element(20, vec![1, 2, 3]),
        WriterOptions {
            hash: HashKind::Sha1,
            chunk_hash: HashKind::Sha1,
            ..Default::default()
        },
    ]
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    for options in kinds() {
        let file = small_file(options);
        by_read(&file).unwrap();
        by_push(&file).unwrap();
        for cut in 0..file.len() {
            assert!(by_read(&file[..cut]).is_err(), "read {cut}");
            assert!(by_push(&file[..cut]).is_err(), "push {cut}");
        }
    }
}

#[test]
fn every_flip_of_one_byte_is_an_error() {
    for options in kinds() {
        let mut file = small_file(options);
        for at in 0..file.len() {
            for bit in 0..8 {
                file[at] ^= 1 << bit;
                assert!(by_read(&file).is_err(), "read {at}.{bit}");
                assert!(by_push(&file).is_err(), "push {at}.{bit}");
                file[at] ^= 1 << bit;
            }
            file[at] ^= 0xff;
            assert!(by_push(&file).is_err(), "push {at}");
            file[at] ^= 0xff;
        }
    }
}

#[test]
fn bytes_after_the_body_are_refused_when_pushed_and_left_alone_when_read() {
    let mut file = small_file(WriterOptions::default());
    let len = file.len() as u64;
    file.extend_from_slice(b"more");
    let refused = by_push(&file);
    assert!(
        matches!(refused, Err(Error::Inconsistent { field: Field::BodyEnd, offset, .. }) if offset == len),
        "{refused:?}"
    );
    let mut cursor = Cursor::new(&file);
    let mut content = Vec::new();
    Reader::new(&mut cursor, &Limits::default())
        .unwrap()
        .read_to_end(&mut content)
        .unwrap();
    assert_eq!(cursor.position(), len);
}

#[test]
fn an_unexpected_header_is_refused_at_the_lead() {
    let file = small_file(WriterOptions::default());
    let header = Header::parse(&file, &Limits::default()).unwrap();
    let mut right = StreamDecoder::new(Limits::default()).with_expected_digest(*header.digest());
    right.push(&file, |_, _| Ok(())).unwrap();
    right.finish().unwrap();
    let other = HashKind::Sha256.digest(b"another");
    let mut wrong = StreamDecoder::new(Limits::default()).with_expected_digest(other);
    let refused = wrong.push(&file, |_, _| panic!("nothing may be handed over"));
    assert!(matches!(
        refused,
        Err(Error::Digest {
            field: Field::HeaderDigest,
            ..
        })
    ));
}

fn int(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8 | 0x80);
    out
}

/// A header with a correct checksum and arbitrary content.
fn sealed(rest: &[u8], body: &[u8]) -> Vec<u8> {
    let mut file = b"\0ZCK1\x81".to_vec();
    file.extend(int(rest.len() as u64));
    let mut hasher = taipan_zchunk::Hasher::new(HashKind::Sha256);
    hasher.update(&file);
    hasher.update(rest);
    file.extend_from_slice(hasher.finish().as_bytes());
    file.extend_from_slice(rest);
    file.extend_from_slice(body);
    file
}

/// Preface and index from their parts; `index` begins with the checksum type.
fn rest(flags: u64, compression: u64, elements: &[u8], index: &[u8], signatures: &[u8]) -> Vec<u8> {
    let mut rest = vec![0; 32];
    rest.extend(int(flags));
    rest.extend(int(compression));
    rest.extend_from_slice(elements);
    rest.extend(int(index.len() as u64));
    rest.extend_from_slice(index);
    rest.extend_from_slice(signatures);
    rest
}

fn index(count: u64, entries: &[(u8, u64, u64)]) -> Vec<u8> {
    let mut index = int(3);
    index.extend(int(count));
    for &(digest, len, raw_len) in entries {
        index.extend([digest; 16]);
        index.extend(int(len));
        index.extend(int(raw_len));
    }
    index
}

fn refusal(rest: &[u8]) -> Error {
    match Header::parse(&sealed(rest, &[]), &Limits::default()) {
        Ok(header) => panic!("accepted: {header:?}"),
        Err(error) => error,
    }
}

fn is_limit(error: &Error, field: Field) {
    assert!(
        matches!(error, Error::Limit { field: f, .. } if *f == field),
        "{error}"
    );
}

fn is_inconsistent(error: &Error, field: Field) {
    assert!(
        matches!(error, Error::Inconsistent { field: f, .. } if *f == field),
        "{error}"
    );
}

#[test]
fn lengths_and_counts_are_checked_before_they_are_used() {
    let nothing = [(0, 0, 0)];
    Header::parse(
        &sealed(&rest(0, 2, &[], &index(1, &nothing), &int(0)), &[]),
        &Limits::default(),
    )
    .unwrap();
    let huge = u64::MAX;

    is_limit(
        &refusal(&rest(0, 2, &[], &index(huge, &nothing), &int(0))),
        Field::ChunkCount,
    );
    is_limit(
        &refusal(&rest(0, 2, &[], &index(2, &nothing), &int(0))),
        Field::ChunkCount,
    );
    is_inconsistent(
        &refusal(&rest(0, 2, &[], &index(0, &[]), &int(0))),
        Field::ChunkCount,
    );
    is_limit(
        &refusal(&rest(
            0,
            2,
            &[],
            &index(2, &[(0, 0, 0), (1, huge, 1)]),
            &int(0),
        )),
        Field::ChunkLen,
    );
    is_limit(
        &refusal(&rest(
            0,
            2,
            &[],
            &index(2, &[(0, 0, 0), (1, 1, huge)]),
            &int(0),
        )),
        Field::ChunkRawLen,
    );
    // 16 MB of content in nine bytes is more than zstd allows.
    is_inconsistent(
        &refusal(&rest(
            0,
            2,
            &[],
            &index(2, &[(0, 0, 0), (1, 9, 16 << 20)]),
            &int(0),
        )),
        Field::ChunkRawLen,
    );
    is_inconsistent(
        &refusal(&rest(
            0,
            0,
            &[],
            &index(2, &[(0, 0, 0), (1, 9, 10)]),
            &int(0),
        )),
        Field::ChunkRawLen,
    );
}

#[test]
fn unknown_parts_are_refused() {
    let nothing = [(0, 0, 0)];
    let huge = u64::MAX;
    // The dictionary's checksum is zero exactly where it has no bytes.
    is_inconsistent(
        &refusal(&rest(0, 2, &[], &index(1, &[(1, 0, 0)]), &int(0))),
        Field::ChunkDigest,
    );
    is_inconsistent(
        &refusal(&rest(0, 2, &[], &index(1, &[(0, 9, 9)]), &int(0))),
        Field::ChunkDigest,
    );
    is_limit(
        &refusal(&rest(0, 2, &[], &index(1, &nothing), &int(huge))),
        Field::SignatureCount,
    );
    is_limit(
        &refusal(&rest(2, 2, &int(huge), &index(1, &nothing), &int(0))),
        Field::ElementCount,
    );
    let element = [int(1), int(20), int(huge)].concat();
    assert!(matches!(
        refusal(&rest(2, 2, &element, &index(1, &nothing), &int(0))),
        Error::Truncated {
            field: Field::ElementData,
            ..
        }
    ));
    assert!(matches!(
        refusal(&rest(8, 2, &[], &index(1, &nothing), &int(0))),
        Error::Unknown {
            field: Field::Flags,
            value: 8,
            ..
        }
    ));
    assert!(matches!(
        refusal(&rest(0, 1, &[], &index(1, &nothing), &int(0))),
        Error::Unknown {
            field: Field::Compression,
            value: 1,
            ..
        }
    ));
    is_inconsistent(
        &refusal(&rest(
            0,
            2,
            &[],
            &index(1, &nothing),
            &[int(0), vec![7]].concat(),
        )),
        Field::HeaderEnd,
    );
}

#[test]
fn sizes_and_sums_must_agree() {
    let nothing = [(0, 0, 0)];
    // An index with a wrong size.
    let mut lying = vec![0; 32];
    lying.extend([int(0), int(2), int(5), index(1, &nothing), int(0)].concat());
    is_inconsistent(&refusal(&lying), Field::IndexSize);
    // A stream for the dictionary.
    let mut streams = [int(3), int(1), int(1)].concat();
    streams.extend([0; 16]);
    streams.extend([int(0), int(0)].concat());
    is_inconsistent(
        &refusal(&rest(1, 2, &[], &streams, &int(0))),
        Field::ChunkStream,
    );
    // More than an address space has, and lengths whose sum overflows, for a reader without limits of its own.
    let most = i64::MAX as u64;
    let sums = index(4, &[(0, 0, 0), (1, most, 1), (1, most, 1), (1, most, 1)]);
    let overflow = Header::parse(
        &sealed(&rest(0, 2, &[], &sums, &int(0)), &[]),
        &Limits::NONE,
    );
    is_limit(&overflow.unwrap_err(), Field::BodyLen);
}

#[test]
fn a_lead_that_claims_a_huge_header_is_refused_before_it_is_read() {
    for size in [17 << 20, 1 << 40, u64::MAX] {
        let mut file = b"\0ZCK1\x81".to_vec();
        file.extend(int(size));
        file.extend([0; 40]);
        let refused = by_push(&file);
        assert!(
            matches!(
                refused,
                Err(Error::Limit {
                    field: Field::HeaderSize,
                    offset: 6,
                    ..
                })
            ),
            "{refused:?}"
        );
        assert!(by_read(&file).is_err());
    }
    assert!(matches!(by_push(b"\x7fELF"), Err(Error::Magic)));
    assert!(matches!(
        by_push(b"\0ZCK1\x87"),
        Err(Error::Unknown {
            field: Field::HashKind,
            offset: 5,
            value: 7
        })
    ));
}

#[test]
fn a_chunk_must_have_the_length_it_declares_and_be_a_zstd_frame() {
    let content = common::json(2000, 1);
    let frame = zstd::bulk::compress(&content, 3).unwrap();
    let digest = |bytes: &[u8]| HashKind::Sha512_128.digest(bytes).as_bytes().to_vec();
    let file = |stored: &[u8], raw_len: u64| {
        let mut index = [int(3), int(2)].concat();
        index.extend([0; 16]);
        index.extend(
            [
                int(0),
                int(0),
                digest(stored),
                int(stored.len() as u64),
                int(raw_len),
            ]
            .concat(),
        );
        sealed(&rest(0, 2, &[], &index, &int(0)), stored)
    };
    let open = |file: &[u8]| {
        let mut archive = Archive::open(Cursor::new(file), &Limits::default()).unwrap();
        archive.chunk(1)
    };
    assert_eq!(open(&file(&frame, content.len() as u64)).unwrap(), content);
    assert!(matches!(
        open(&file(&frame, content.len() as u64 + 1)),
        Err(Error::Inconsistent {
            field: Field::ChunkRawLen,
            ..
        })
    ));
    assert!(matches!(
        open(&file(&frame, content.len() as u64 - 1)),
        Err(Error::Decompress {
            field: Field::Chunk,
            ..
        })
    ));
    assert!(matches!(
        open(&file(b"not a frame", 11)),
        Err(Error::Decompress { .. })
    ));
}

#[test]
fn with_flag_4_a_chunk_may_be_stored_as_it_is_under_a_checksum_of_zeros() {
    let content = b"stored as it is";
    let file = |content: &[u8], stored: &[u8]| {
        let mut index = [int(1), int(2)].concat();
        index.extend([0; 64]);
        index.extend([int(0), int(0)].concat());
        index.extend([0; 32]);
        index.extend_from_slice(HashKind::Sha256.digest(content).as_bytes());
        index.extend([int(stored.len() as u64), int(content.len() as u64)].concat());
        sealed(&rest(4, 2, &[], &index, &int(0)), stored)
    };
    assert_eq!(by_read(&file(content, content)).unwrap(), content);
    let refused = by_read(&file(content, b"stored as it IS"));
    assert!(matches!(
        refused,
        Err(Error::Digest {
            field: Field::ChunkRawDigest,
            ..
        })
    ));
    // A checksum of zeros does not allow decompressing unverified bytes.
    assert!(by_read(&file(content, b"shorter")).is_err());
}

#[test]
fn streams_are_separate_and_the_first_is_the_default() {
    let parts: [(&[u8], u64); 3] = [(b"data ", 1), (b"metadata", 2), (b"more data", 1)];
    let mut index = [int(3), int(4), int(0)].concat();
    index.extend([0; 16]);
    index.extend([int(0), int(0)].concat());
    let mut body = Vec::new();
    for (content, stream) in parts {
        let len = int(content.len() as u64);
        index.extend(
            [
                int(stream),
                HashKind::Sha512_128.digest(content).as_bytes().to_vec(),
            ]
            .concat(),
        );
        index.extend([len.clone(), len].concat());
        body.extend_from_slice(content);
    }
    let mut preface = rest(1, 0, &[], &index, &int(0));
    preface[..32].copy_from_slice(HashKind::Sha256.digest(&body).as_bytes());
    let file = sealed(&preface, &body);
    assert_eq!(by_read(&file).unwrap(), b"data more data");
    let mut second = Vec::new();
    let reader = Reader::new(&file[..], &Limits::default()).unwrap();
    reader.with_stream(2).read_to_end(&mut second).unwrap();
    assert_eq!(second, b"metadata");
}

#[test]
fn errors_name_field_and_offset() {
    let shown = |error: Error| error.to_string();
    assert_eq!(
        shown(by_push(b"\0ZCK1\x87").unwrap_err()),
        "checksum type at offset 5: unknown value 7"
    );
    let mut file = small_file(WriterOptions::default());
    let at = file.len() - 1;
    file[at] ^= 1;
    let error = shown(by_push(&file).unwrap_err());
    assert!(
        error.starts_with("chunk checksum at offset 115: checksum mismatch: "),
        "{error}"
    );
}

/// The peak memory of this process in KiB, if the system reports it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn the_largest_allowed_lengths_without_content_cost_no_memory() {
    // Each chunk has a declared content of 16 MiB, and the header as many chunks as fit.
    let len = 600;
    let entry = |raw_len: u64| [vec![1; 16], int(len), int(raw_len)].concat();
    let mut index = [int(3), int(1000)].concat();
    index.extend([vec![0; 16], int(0), int(0)].concat());
    (1..1000).for_each(|_| index.extend(entry(16 << 20)));
    let header = sealed(&rest(0, 2, &[], &index, &int(0)), &[]);
    let parsed = Header::parse(&header, &Limits::default()).unwrap();
    assert_eq!(parsed.raw_len(), 999 * (16 << 20));
    assert!(matches!(by_read(&header), Err(Error::Truncated { .. })));
    let mut with_body = header;
    with_body.extend([0; 700]);
    assert!(matches!(by_read(&with_body), Err(Error::Digest { .. })));
    assert!(matches!(by_push(&with_body), Err(Error::Digest { .. })));

    // A correct checksum over a frame that declares 16 MiB and has a few bytes.
    let mut stored = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    stored.extend((16u32 << 20).to_le_bytes());
    stored.extend([0x55; 591]);
    let mut index = [int(3), int(2)].concat();
    index.extend([vec![0; 16], int(0), int(0)].concat());
    index.extend_from_slice(HashKind::Sha512_128.digest(&stored).as_bytes());
    index.extend([int(stored.len() as u64), int(16 << 20)].concat());
    let file = sealed(&rest(0, 2, &[], &index, &int(0)), &stored);
    assert!(matches!(by_read(&file), Err(Error::Decompress { .. })));
    if let Some(peak) = peak_memory() {
        assert!(peak < 64 << 10, "{peak} KiB");
    }
}
