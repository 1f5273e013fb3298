//! The zchunk form of an index.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write as _},
    path::Path,
};

use taipan_transfer::{Engine, Job, MirrorSet};
use taipan_zchunk::{Limits, LogFile};

use super::error::SyncError;
use crate::{
    layout::index_file,
    records::{IndexLog, RecordTable},
};

/// The name of the zchunk form.
pub(crate) const ZCK: &str = "repodata.json.zck";

/// What became of a zchunk form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zck {
    /// The earlier file is of this index.
    Same,
    /// A new file was written.
    Written,
    /// The index cannot be a log: both maps are large.
    Impossible,
}

/// Fetches the zchunk form of an index to a file. False if there is none.
pub(crate) async fn fetch_zck(
    engine: &Engine,
    mirrors: &MirrorSet,
    subdir: &str,
    path: &Path,
) -> Result<bool, SyncError> {
    let label = format!("{subdir}/{ZCK}");
    let job = Job::metadata(&label, index_file(subdir, ZCK));
    match engine.fetch_file(mirrors, &job, path).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() || error.has_absence() => Ok(false),
        Err(source) => Err(SyncError::Published {
            place: label,
            source,
        }),
    }
}

/// Writes the zchunk form of an index, which continues the file `previous`. One that cannot be read is not continued. Blocks.
pub(crate) fn make_zck(
    table: &RecordTable,
    text: &Path,
    previous: Option<&Path>,
    output: &Path,
) -> io::Result<Zck> {
    let previous = match previous {
        Some(path) => {
            let mut file = BufReader::new(File::open(path)?);
            LogFile::read(&mut file, &Limits::default()).ok()
        }
        None => None,
    };
    let Some(log) = IndexLog::of(table, text, previous.as_ref())? else {
        return Ok(Zck::Impossible);
    };
    if previous
        .as_ref()
        .is_some_and(|previous| log.is_in(previous))
    {
        return Ok(Zck::Same);
    }
    let mut output = BufWriter::new(File::create(output)?);
    log.write(previous.as_ref(), &mut output)?;
    output.flush()?;
    Ok(Zck::Written)
}
