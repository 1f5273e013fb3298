//! Files of the C tools, one per feature, from the directory in `TAIPAN_ZCK_SAMPLES`.

#![allow(clippy::print_stderr, reason = "a test that skips says so")]

use std::io::{Cursor, Read};
use std::path::PathBuf;

use taipan_zchunk::{
    Archive, Compression, HashKind, Header, Limits, Reader, StreamDecoder, extract,
};

/// The directory in `TAIPAN_ZCK_SAMPLES`.
fn samples() -> Option<PathBuf> {
    let folder = std::env::var_os("TAIPAN_ZCK_SAMPLES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TAIPAN_ZCK_SAMPLES does not name a folder of samples");
    }
    folder
}

#[test]
fn every_sample_is_read_and_all_versions_of_the_content_agree() {
    let Some(folder) = samples() else { return };
    let mut contents = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let header = Header::parse(&bytes, &Limits::default()).unwrap();
        files += 1;
        let mut decoder = StreamDecoder::new(Limits::default());
        let mut pushed = Vec::new();
        for piece in bytes.chunks(1000) {
            decoder
                .push(piece, |_, content| {
                    pushed.extend_from_slice(content);
                    Ok(())
                })
                .unwrap();
        }
        decoder.finish().unwrap();
        if path.extension().is_some_and(|end| end == "zhr") {
            assert!(header.is_detached(), "{name}");
            assert_eq!(
                header.len() + header.chunk(0).len,
                bytes.len() as u64,
                "{name}"
            );
            assert!(pushed.is_empty());
            continue;
        }
        let mut content = Vec::new();
        Reader::new(&bytes[..], &Limits::default())
            .unwrap()
            .read_to_end(&mut content)
            .unwrap();
        assert!(content == pushed, "{name}");
        let mut extracted = Vec::new();
        extract(&mut &bytes[..], &mut extracted, &Limits::default()).unwrap();
        assert!(content == extracted, "{name}");
        let mut archive = Archive::open(Cursor::new(&bytes), &Limits::default()).unwrap();
        let by_chunk: Vec<u8> = (1..header.chunk_count())
            .flat_map(|index| archive.chunk(index).unwrap())
            .collect();
        assert!(content == by_chunk, "{name}");
        match name.as_str() {
            "a-normal.zck" => {
                assert_eq!((header.len(), header.chunk_count()), (136, 3));
                assert_eq!(header.hash(), HashKind::Sha256);
                let chunk = header.chunk(1);
                assert_eq!((chunk.offset, chunk.len, chunk.raw_len), (136, 2654, 15246));
                let chunk = header.chunk(2);
                assert_eq!(
                    (chunk.len, chunk.raw_offset, chunk.raw_len),
                    (6280, 15246, 44754)
                );
            }
            "b-dict.zck" => assert!(header.dictionary().is_some()),
            "c-sha512.zck" => assert_eq!(header.chunk_hash(), HashKind::Sha512),
            "d-uncompflag.zck" => assert!(header.has_uncompressed_source()),
            "e-none.zck" => assert_eq!(header.compression(), Compression::None),
            "h-empty.zck" => assert_eq!((bytes.len(), content.len()), (95, 0)),
            _ => {}
        }
        if !content.is_empty() {
            contents.push((name, content));
        }
    }
    assert!(files >= 11, "{files} samples");
    for pair in contents.windows(2) {
        assert!(pair[0].1 == pair[1].1, "{} and {}", pair[0].0, pair[1].0);
    }
}

#[test]
fn a_detached_sample_is_the_beginning_of_its_file() {
    let Some(folder) = samples() else { return };
    let file = std::fs::read(folder.join("a-normal.zck")).unwrap();
    let detached = std::fs::read(folder.join("a-normal.zhr")).unwrap();
    let header = Header::parse(&file, &Limits::default()).unwrap();
    assert_eq!(header.to_detached_bytes(), detached);
}
