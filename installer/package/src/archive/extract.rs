use std::fmt;
use std::io::{BufRead, Read};
use std::path::Path;

use super::conda::CondaMembers;
use super::error::ArchiveError;
use super::limits::{CancelFlag, ExtractLimits, ExtractSummary};
use super::meter::{Meter, Source};
use super::tree::Tree;
use super::unpack::Unpacker;
use super::zip_stream::read_zip;

/// The two kinds of package archive (CEP 35).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveFormat {
    Conda,
    TarBz2,
}

impl ArchiveFormat {
    /// By the end of a file name or URL path.
    pub fn from_file_name(name: &str) -> Option<Self> {
        [Self::Conda, Self::TarBz2]
            .into_iter()
            .find(|format| name.ends_with(format.extension()))
    }

    /// With its dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Conda => ".conda",
            Self::TarBz2 => ".tar.bz2",
        }
    }

    fn magic(self) -> &'static [u8] {
        match self {
            Self::Conda => b"PK",
            Self::TarBz2 => b"BZh",
        }
    }
}

impl fmt::Display for ArchiveFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

/// Unpacks a package archive into `dest`, an existing directory, which should be empty.
///
/// Blocks, on the reader and on the disk; call it where that is allowed. The reader is read to
/// its end whenever `Ok` is returned, so a hash taken on the way covers the whole archive. Memory
/// stays within a megabyte and the zstd window, whatever the archive says.
///
/// After an error `dest` holds part of the package and is to be thrown away. In no case was
/// anything outside of `dest` touched. Files are not synced to disk.
///
/// Files keep their execute bits and times (clamped to 1980 and tomorrow), lose setuid, setgid
/// and sticky, belong to the caller, and get the umask. Symbolic links are made as they are, and
/// never followed. `info/repodata_record.json` is left out.
pub fn extract(
    reader: impl Read,
    format: ArchiveFormat,
    dest: &Path,
    limits: &ExtractLimits,
    cancel: &CancelFlag,
) -> Result<ExtractSummary, ArchiveError> {
    let meter = Meter::new(limits, cancel);
    let mut source = Source::new(reader, &meter);
    let mut unpacker = Unpacker::new(Tree::open(dest)?, &meter);
    let read_failed = |e| meter.explain(e, |source| ArchiveError::Read { source });

    check_magic(source.fill_buf().map_err(read_failed)?, format)?;
    match format {
        ArchiveFormat::Conda => {
            let mut members = CondaMembers::new(&mut unpacker);
            read_zip(&mut source, &mut members)?;
            members.finish()?;
        }
        ArchiveFormat::TarBz2 => {
            // Several bzip2 streams, one after the other, are one.
            let decoder = bzip2::bufread::MultiBzDecoder::new(&mut source);
            unpacker.tar(decoder, "tar.bz2")?;
        }
    }
    source.drain().map_err(read_failed)?;
    unpacker.finish()
}

/// Names the usual accident, a web page in place of a package, for what it is. A first read may
/// be short, so this looks at what is there only.
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
