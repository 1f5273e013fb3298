//! The containers of conda packages: tar, `.conda` and `.tar.bz2`.

use std::fmt;
use std::io::{self, Cursor, Read, Write};

use bzip2::Compression;
use bzip2::read::MultiBzDecoder;
use bzip2::write::BzEncoder;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// One member of a tar, written without validation: the `tar` crate refuses names that a malformed archive
/// needs.
#[derive(Debug, Clone)]
pub(crate) struct Member<'a> {
    pub(crate) name: &'a [u8],
    /// The type flag: `0` file, `1` hard link, `2` symbolic link, `5` directory.
    pub(crate) kind: u8,
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) data: &'a [u8],
}

/// Appends a member in GNU form; names over 100 bytes get the GNU `L` and `K` members.
pub(crate) fn append(out: &mut Vec<u8>, member: &Member<'_>, mtime: u64) {
    for (kind, long) in [(b'K', member.link), (b'L', member.name)] {
        if long.len() > 100 {
            let mut data = long.to_vec();
            data.push(0);
            header(
                out,
                b"././@LongLink",
                kind,
                b"",
                0o644,
                data.len() as u64,
                0,
            );
            padded(out, &data);
        }
    }
    let size = if member.kind == b'0' {
        member.data.len() as u64
    } else {
        0
    };
    header(
        out,
        member.name,
        member.kind,
        member.link,
        member.mode,
        size,
        mtime,
    );
    if size > 0 {
        padded(out, member.data);
    }
}

/// The two empty blocks that end a tar.
pub(crate) fn finish(out: &mut Vec<u8>) {
    out.resize(out.len() + 1024, 0);
}

fn padded(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn header(out: &mut Vec<u8>, name: &[u8], kind: u8, link: &[u8], mode: u32, size: u64, mtime: u64) {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(100)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(
        124,
        format!("{:011o}", size.min(0o77_777_777_777)).as_bytes(),
    );
    put(
        136,
        format!("{:011o}", mtime.min(0o77_777_777_777)).as_bytes(),
    );
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar  \0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
}

const IN_MEMORY: &str = "compressing into memory has no cause to fail";

/// A `.conda` (CEP 35) of these two tars. `stem` is the file name without extension.
pub(crate) fn conda(stem: &str, info: &[u8], pkg: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    // No clock: builds are deterministic.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    let mut member = |name: String, data: &[u8]| {
        zip.start_file(name, options).expect(IN_MEMORY);
        zip.write_all(data).expect(IN_MEMORY);
    };
    member(
        "metadata.json".to_owned(),
        b"{\"conda_pkg_format_version\": 2}",
    );
    member(
        format!("pkg-{stem}.tar.zst"),
        &zstd::encode_all(pkg, 3).expect(IN_MEMORY),
    );
    member(
        format!("info-{stem}.tar.zst"),
        &zstd::encode_all(info, 3).expect(IN_MEMORY),
    );
    zip.finish().expect(IN_MEMORY).into_inner()
}

/// A `.tar.bz2` of one tar.
pub(crate) fn tar_bz2(tar: &[u8]) -> Vec<u8> {
    let mut encoder = BzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).expect(IN_MEMORY);
    encoder.finish().expect(IN_MEMORY)
}

/// A package that cannot be read.
#[derive(Debug)]
pub struct ArchiveError {
    what: &'static str,
    source: Option<io::Error>,
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the package archive is not readable: {}", self.what)
    }
}

impl std::error::Error for ArchiveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

/// The maximum size of an info directory, which is kept in memory.
const MAX_INFO: u64 = 64 << 20;

/// The files below `info/` of a package, by name.
pub(crate) fn info_files(
    file_name: &str,
    bytes: &[u8],
) -> Result<Vec<(String, Vec<u8>)>, ArchiveError> {
    let failed = |what| {
        move |source: io::Error| ArchiveError {
            what,
            source: Some(source),
        }
    };
    let reader: Box<dyn Read + '_> = if file_name.rsplit('.').next() == Some("conda") {
        let broken = |source: zip::result::ZipError| ArchiveError {
            what: "no zip",
            source: Some(io::Error::other(source)),
        };
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
        let name = zip
            .file_names()
            .filter_map(Result::ok)
            .find(|name| name.starts_with("info-") && name.ends_with(".tar.zst"))
            .map(std::borrow::Cow::into_owned)
            .ok_or(ArchiveError {
                what: "no info member",
                source: None,
            })?;
        let mut compressed = Vec::new();
        let member = zip.by_name(&name).map_err(broken)?;
        member
            .take(MAX_INFO)
            .read_to_end(&mut compressed)
            .map_err(failed("info member"))?;
        let decoder = zstd::Decoder::new(Cursor::new(compressed)).map_err(failed("zstd"))?;
        Box::new(decoder)
    } else {
        Box::new(MultiBzDecoder::new(bytes))
    };
    let mut files = Vec::new();
    let mut left = MAX_INFO;
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(failed("tar"))? {
        let entry = entry.map_err(failed("tar"))?;
        let path = entry
            .path()
            .map_err(failed("tar name"))?
            .to_string_lossy()
            .into_owned();
        if !path.starts_with("info/") || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut data = Vec::new();
        entry
            .take(left)
            .read_to_end(&mut data)
            .map_err(failed("tar member"))?;
        left -= data.len() as u64;
        files.push((path, data));
    }
    Ok(files)
}
