//! Tars that are right in every checksum, and archives around them.

use std::io::Write as _;

use taipan_package::ArchiveFormat;

const BLOCK: usize = 512;

/// A package archive.
pub type Archive = (ArchiveFormat, Vec<u8>);

/// Sets the checksum of every header, where a reader finds headers.
pub fn seal(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        at += BLOCK;
        // Links and directories have no body, whatever size they state.
        if !matches!(block[156], b'1'..=b'6') {
            let size = header.entry_size().unwrap_or(0);
            let Ok(size) = usize::try_from(size) else {
                return;
            };
            let Some(next) = size
                .checked_next_multiple_of(BLOCK)
                .and_then(|size| size.checked_add(at))
            else {
                return;
            };
            at = next;
        }
    }
}

/// The bytes as a tar of whole blocks with an end marker.
pub fn end(tar: &mut Vec<u8>) {
    let length = tar.len().next_multiple_of(BLOCK) + 2 * BLOCK;
    tar.resize(length, 0);
}

/// One entry with its header.
pub fn append(tar: &mut Vec<u8>, kind: u8, path: &[u8], body: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_size(body.len() as u64);
    let path = &path[..path.len().min(100)];
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(body);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// A tar with what every package must have, without an end marker.
pub fn info() -> Vec<u8> {
    let mut tar = Vec::new();
    append(&mut tar, b'0', b"info/index.json", b"{}");
    tar
}

/// A package in which this tar is the content. In one of the forms it follows [`info`].
pub fn package(tar: &[u8], form: u8) -> Archive {
    if form % 3 == 0 {
        let whole = [&info(), tar].concat();
        return (ArchiveFormat::TarBz2, bzip2(&whole));
    }
    let mut info = info();
    end(&mut info);
    let members: [(&str, &[u8]); 3] = [
        ("metadata.json", b"{\"conda_pkg_format_version\": 2}"),
        ("info-x-1-0.tar.zst", &zstd(&info)),
        ("pkg-x-1-0.tar.zst", &zstd(tar)),
    ];
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut bytes = Vec::new();
    if form % 3 == 1 {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(&mut bytes));
        for (name, data) in members {
            zip.start_file(name, options).unwrap();
            zip.write_all(data).unwrap();
        }
        zip.finish().unwrap();
    } else {
        let mut zip = zip::ZipWriter::new_stream(&mut bytes);
        for (name, data) in members {
            zip.start_file(name, options).unwrap();
            zip.write_all(data).unwrap();
        }
        zip.finish().unwrap();
    }
    (ArchiveFormat::Conda, bytes)
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(data, 1).unwrap()
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}
