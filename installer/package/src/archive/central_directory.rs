use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::rc::Rc;

use zip::read::{ArchiveOffset, Config, ZipArchive};

use super::conda::{CondaMembers, Role, check_stored};
use super::error::ArchiveError;
use super::meter::Source;

/// The central directory is held in memory, and a `.conda` has three members in it.
const DIRECTORY_BYTES: u64 = 4 << 20;
const MEMBER_BUFFER: usize = 128 << 10;

/// Copies the rest of a zip to an anonymous temporary file and reads it by the central directory.
///
/// `header` is the part that was read of the member that begins at `at`. The file begins with a
/// hole of `at` bytes, so that the offsets in the directory are right; earlier members are done.
pub(super) fn read_rest<R: Read>(
    source: &mut Source<'_, R>,
    header: &[u8],
    at: u64,
    members: &mut CondaMembers<'_, '_>,
) -> Result<(), ArchiveError> {
    let directory = members.extractor.tree.root_path().to_owned();
    let file = spool(source, header, at, members, &directory)?;

    let allowance = Rc::new(Cell::new(DIRECTORY_BYTES));
    let file = Capped {
        file: BufReader::new(file),
        allowance: Rc::clone(&allowance),
    };
    let unusable = |source| ArchiveError::CentralDirectory { source };
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let mut archive = ZipArchive::with_config(config, file).map_err(unusable)?;
    allowance.set(u64::MAX);

    for index in 0..archive.len() {
        // The directory comes first: opening a member reads its local header, which is in the hole
        // for members that are done, and refuses members whose problem is reported below.
        let member = archive.by_index_data(index).map_err(unusable)?;
        let name = String::from_utf8_lossy(member.name_raw()).into_owned();
        let role = Role::of(&name);
        if member.header_start() < at || role == Role::Unknown {
            continue;
        }
        let method = member.compression();
        #[expect(
            deprecated,
            reason = "the only way to the number of an unsupported method"
        )]
        let method = method.to_u16();
        check_stored(&name, member.encrypted(), method)?;
        let member = archive.by_index(index).map_err(unusable)?;
        let mut body = BufReader::with_capacity(MEMBER_BUFFER, member);
        members.member(role, &name, &mut body)?;
        // Reading to the end compares the checksum.
        io::copy(&mut body, &mut io::sink()).map_err(|source| ArchiveError::Decompress {
            member: name.clone(),
            source,
        })?;
    }
    Ok(())
}

fn spool<R: Read>(
    source: &mut Source<'_, R>,
    header: &[u8],
    at: u64,
    members: &CondaMembers<'_, '_>,
    directory: &Path,
) -> Result<File, ArchiveError> {
    let failed = |e| ArchiveError::write(directory.join("(temporary file)"), e);
    let mut file = tempfile::tempfile_in(directory).map_err(failed)?;
    file.seek(SeekFrom::Start(at)).map_err(failed)?;
    file.write_all(header).map_err(failed)?;
    loop {
        let piece = source.fill_buf().map_err(|e| {
            (members.extractor.meter).explain(e, |source| ArchiveError::Read { source })
        })?;
        if piece.is_empty() {
            return Ok(file);
        }
        file.write_all(piece).map_err(failed)?;
        let n = piece.len();
        source.consume(n);
    }
}

/// A file of which a limited number of bytes can be read, so that the claims of a central directory
/// do not decide how much memory it gets.
struct Capped {
    file: BufReader<File>,
    allowance: Rc<Cell<u64>>,
}

impl Read for Capped {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(into)?;
        let left = self.allowance.get().checked_sub(n as u64);
        self.allowance.set(left.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the central directory is too large",
            )
        })?);
        Ok(n)
    }
}

impl Seek for Capped {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
