//! From a stream of bytes to a directory.

use std::io::{BufRead, Read};
use std::path::Path;

use super::conda::CondaMembers;
use super::error::ArchiveError;
use super::format::ArchiveFormat;
use super::limits::{CancelFlag, ExtractLimits, ExtractSummary};
use super::meter::{Meter, Source};
use super::tar_extractor::TarExtractor;
use super::tree::Tree;
use super::zip_stream::read_zip;

/// Extracts a package archive into `dest`, an existing directory, which should be empty.
///
/// Blocks on the reader and on the disk. When `Ok` is returned, the reader was read to its end, so
/// a hash of the bytes covers the whole archive. Memory is limited to a megabyte and the zstd
/// window.
///
/// After an error `dest` contains part of the package, and the caller must remove it. Nothing
/// outside of `dest` is touched. Files are not synced to disk.
///
/// Files keep their execute bits and times (clamped to 1980 and tomorrow), lose setuid, setgid
/// and sticky, belong to the caller, and respect the umask. Symbolic links are created as they are,
/// and never followed. `info/repodata_record.json` is left out.
pub fn extract(
    reader: impl Read,
    format: ArchiveFormat,
    dest: &Path,
    limits: &ExtractLimits,
    cancel: &CancelFlag,
) -> Result<ExtractSummary, ArchiveError> {
    let meter = Meter::new(limits, cancel);
    let mut source = Source::new(reader, &meter);
    let mut extractor = TarExtractor::new(Tree::open(dest)?, &meter);
    let read_failed = |e| meter.explain(e, |source| ArchiveError::Read { source });

    check_magic(source.fill_buf().map_err(read_failed)?, format)?;
    match format {
        ArchiveFormat::Conda => {
            let mut members = CondaMembers::new(&mut extractor);
            read_zip(&mut source, &mut members)?;
            members.finish()?;
        }
        ArchiveFormat::TarBz2 => {
            // Concatenated bzip2 streams are one stream.
            let decoder = bzip2::bufread::MultiBzDecoder::new(&mut source);
            extractor.tar(decoder, "tar.bz2")?;
        }
    }
    source.drain().map_err(read_failed)?;
    extractor.finish()
}

/// Detects a web page in place of a package. The first read may be short, so only the bytes that
/// are there are compared.
fn check_magic(start: &[u8], format: ArchiveFormat) -> Result<(), ArchiveError> {
    if start.is_empty() {
        return Err(ArchiveError::Truncated {
            within: "its first byte".to_owned(),
        });
    }
    let magic = format.magic();
    let common = magic.len().min(start.len());
    if start[..common] != magic[..common] {
        return Err(ArchiveError::NotAnArchive {
            format,
            start: start[..start.len().min(16)].escape_ascii().to_string(),
        });
    }
    Ok(())
}
