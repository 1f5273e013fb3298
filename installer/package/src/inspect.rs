//! What an archive says of itself, and whether that is true.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{ArchiveError, ArchiveFormat, CancelFlag, ExtractLimits, extract};

/// The largest file in `info/` that is read, in bytes.
const MAX_INFO: u64 = 64 << 20;

/// What an archive says of itself.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// The text of `info/index.json`.
    pub index: Vec<u8>,
    /// The text of `info/run_exports.json`, if it has one.
    pub run_exports: Option<Vec<u8>>,
    /// How many files it contains.
    pub files: u64,
}

/// Why an archive is not a sound package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// Its name ends in neither `.conda` nor `.tar.bz2`.
    #[error("{} is no conda package: its name ends in neither .conda nor .tar.bz2", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be extracted.
    #[error("{} is not a sound package", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ArchiveError,
    },
    /// A file in it cannot be read.
    #[error("cannot read {inner} of {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// The file in it.
        inner: String,
        /// The cause.
        source: io::Error,
    },
    /// It cannot be extracted for the inspection.
    #[error("cannot use the temporary directory {}", path.display())]
    Temporary {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Its list of files is not JSON of the right form.
    #[error("info/paths.json of {} cannot be read", path.display())]
    Paths {
        /// The archive.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A file is not as `info/paths.json` describes it.
    #[error("{inner} of {} is not as its info/paths.json says: {problem}", path.display())]
    Differs {
        /// The archive.
        path: PathBuf,
        /// The file in it.
        inner: String,
        /// What is different.
        problem: &'static str,
    },
}

#[derive(Deserialize)]
struct Paths {
    #[serde(default)]
    paths: Vec<PathEntry>,
}

#[derive(Deserialize)]
struct PathEntry {
    #[serde(rename = "_path")]
    path: String,
    #[serde(default)]
    path_type: String,
    sha256: Option<String>,
    size_in_bytes: Option<u64>,
}

/// Extracts an archive into a temporary directory in `work`, and compares its files with `info/paths.json`. Blocks.
pub fn inspect(path: &Path, work: &Path, cancel: &CancelFlag) -> Result<Inspected, InspectError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let format = ArchiveFormat::from_file_name(&name).ok_or_else(|| InspectError::Name {
        path: path.to_owned(),
    })?;
    let temporary = tempfile::Builder::new().prefix("inspect-").tempdir_in(work);
    let temporary = temporary.map_err(|source| InspectError::Temporary {
        path: work.to_owned(),
        source,
    })?;
    let root = temporary.path();
    let read = |inner: &str, source| InspectError::Read {
        path: path.to_owned(),
        inner: inner.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|source| read("the archive", source))?;
    let limits = ExtractLimits::default();
    let extracted = extract(BufReader::new(file), format, root, &limits, cancel);
    let summary = extracted.map_err(|source| InspectError::Archive {
        path: path.to_owned(),
        source,
    })?;
    let info = |inner: &str| match read_limited(&root.join(inner)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(read(inner, source)),
    };
    // The extraction proves that there is one.
    let index = info("info/index.json")?.unwrap_or_default();
    if let Some(text) = info("info/paths.json")? {
        let paths: Paths = serde_json::from_slice(&text).map_err(|source| InspectError::Paths {
            path: path.to_owned(),
            source,
        })?;
        for entry in &paths.paths {
            if let Err(problem) = compare(root, entry) {
                return Err(InspectError::Differs {
                    path: path.to_owned(),
                    inner: entry.path.clone(),
                    problem,
                });
            }
        }
    }
    Ok(Inspected {
        index,
        run_exports: info("info/run_exports.json")?,
        files: summary.files,
    })
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    // A link could lead out of the archive.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_INFO + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INFO {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Compares a file with its entry.
fn compare(root: &Path, entry: &PathEntry) -> Result<(), &'static str> {
    let is_sound = |part: &str| !matches!(part, "" | "." | "..");
    if !entry.path.split('/').all(is_sound) {
        return Err("its path leads elsewhere");
    }
    let path = root.join(&entry.path);
    let metadata = fs::symlink_metadata(&path).map_err(|_| "it is not in the archive")?;
    if entry.path_type == "softlink" || metadata.is_symlink() {
        // Some writers note the size and digest of the target.
        return Ok(());
    }
    if !metadata.is_file() {
        return Ok(());
    }
    if entry
        .size_in_bytes
        .is_some_and(|size| size != metadata.len())
    {
        return Err("its size is another");
    }
    if let Some(expected) = &entry.sha256 {
        let mut hasher = Sha256::new();
        let mut file = File::open(&path).map_err(|_| "it cannot be read")?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer).map_err(|_| "it cannot be read")? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        if !hex::encode(hasher.finalize()).eq_ignore_ascii_case(expected) {
            return Err("its digest is another");
        }
    }
    Ok(())
}
