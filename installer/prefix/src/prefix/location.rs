//! A prefix on disk, and what can be read from it without a lock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rattler_conda_types::PrefixRecord;
use rayon::prelude::*;
use serde::Deserialize;

use super::history::{HistoryEntry, parse_history};
use super::requested::set_requested_specs;
use crate::error::PrefixError;

/// The journal of a transaction, within `conda-meta`.
pub(crate) const JOURNAL: &str = ".taipan-journal";

/// The path of an environment, which may not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    path: PathBuf,
}

/// The frozen marker of CEP 22: the environment must not be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// The reason, if the marker states one.
    pub message: Option<String>,
}

impl Prefix {
    /// Names a prefix, and creates nothing. A relative path is made absolute. Symbolic links in it
    /// are kept, because the path is written into files.
    ///
    /// # Errors
    /// [`PrefixError::UnusablePrefix`] if the path cannot be written into scripts and records, and
    /// [`PrefixError::Io`] if the current directory is needed and unknown.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PrefixError> {
        let path = path.as_ref();
        let absolute = std::path::absolute(path).map_err(PrefixError::io("locate", path))?;
        // `absolute` keeps `..` on Unix. A prefix with `..` breaks when a parent is moved, so it is
        // resolved as far as the path exists.
        let absolute = if absolute
            .components()
            .any(|part| part == std::path::Component::ParentDir)
        {
            resolve(&absolute)?
        } else {
            // Rebuilding from components removes repeated and trailing slashes.
            absolute.components().collect()
        };
        let usable = absolute
            .to_str()
            .is_some_and(|text| !text.contains(['\n', '\r', '\0']));
        if !usable {
            return Err(PrefixError::UnusablePrefix { path: absolute });
        }
        Ok(Self { path: absolute })
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path as it is written into files.
    pub(crate) fn text(&self) -> &str {
        self.path
            .to_str()
            .expect("open refuses paths that are not UTF-8")
    }

    /// The directory of records and state.
    pub fn conda_meta(&self) -> PathBuf {
        self.path.join("conda-meta")
    }

    /// Whether this is an environment: whether it has a history, as in conda, or the record of a
    /// package that no interrupted transaction left.
    pub fn is_environment(&self) -> bool {
        let has_records = || self.record_files().is_ok_and(|files| !files.is_empty());
        self.conda_meta().join("history").is_file() || (!self.is_interrupted() && has_records())
    }

    /// Whether a transaction was interrupted; [`Self::lock`] repairs the prefix.
    pub fn is_interrupted(&self) -> bool {
        self.conda_meta().join(JOURNAL).exists()
    }

    /// Whether an environment can be created here: the directory does not exist, or has nothing in
    /// it but `conda-meta`.
    pub fn is_vacant(&self) -> bool {
        match fs::read_dir(&self.path) {
            Ok(entries) => entries
                .flatten()
                .all(|entry| entry.file_name() == "conda-meta"),
            Err(error) => error.kind() != io::ErrorKind::NotADirectory,
        }
    }

    /// All records of installed packages, sorted by name; none if there is no environment. Their
    /// requested specs are those that hold, whichever tool wrote them and where.
    ///
    /// # Errors
    /// [`PrefixError::BadRecord`] and [`PrefixError::Io`], which name the file.
    pub fn records(&self) -> Result<Vec<PrefixRecord>, PrefixError> {
        let mut records: Vec<PrefixRecord> = self
            .record_files()?
            .into_par_iter()
            .map(|path| {
                let text = fs::read(&path).map_err(PrefixError::io("read", &path))?;
                taipan_channel::parse_record(&text).map_err(|source| PrefixError::BadRecord {
                    path: path.clone(),
                    source,
                })
            })
            .collect::<Result<_, _>>()?;
        records.sort_by_cached_key(PrefixRecord::file_name);
        set_requested_specs(&mut records, &self.history()?);
        Ok(records)
    }

    /// The files of the records, sorted.
    pub(crate) fn record_files(&self) -> Result<Vec<PathBuf>, PrefixError> {
        let directory = self.conda_meta();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(PrefixError::Io {
                    action: "list",
                    path: directory,
                    source,
                });
            }
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(PrefixError::io("list", &directory))?.path();
            let hidden = path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden
                && path
                    .extension()
                    .is_some_and(|extension| extension == "json")
            {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// The history, oldest block first.
    pub fn history(&self) -> Result<Vec<HistoryEntry>, PrefixError> {
        Ok(self
            .read_optional("history")?
            .map_or_else(Vec::new, |text| parse_history(&text)))
    }

    /// The file with the pins, a list of specs that hold in addition to what is requested.
    pub fn pinned_file(&self) -> PathBuf {
        self.conda_meta().join("pinned")
    }

    /// The text of [`pinned_file`](Self::pinned_file); empty if there is none.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn pinned(&self) -> Result<String, PrefixError> {
        Ok(self.read_optional("pinned")?.unwrap_or_default())
    }

    /// The frozen marker of CEP 22, if there is one. It counts even if it is not JSON.
    pub fn frozen(&self) -> Result<Option<Frozen>, PrefixError> {
        #[derive(Deserialize)]
        struct Marker {
            message: Option<String>,
        }
        Ok(self.read_optional("frozen")?.map(|text| Frozen {
            message: serde_json::from_str::<Marker>(&text)
                .ok()
                .and_then(|marker| marker.message),
        }))
    }

    fn read_optional(&self, name: &str) -> Result<Option<String>, PrefixError> {
        let path = self.conda_meta().join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PrefixError::Io {
                action: "read",
                path,
                source,
            }),
        }
    }
}

/// Resolves the longest part of the path that exists, and appends the rest.
fn resolve(path: &Path) -> Result<PathBuf, PrefixError> {
    let mut known = path.to_path_buf();
    let mut rest = Vec::new();
    loop {
        match fs::canonicalize(&known) {
            Ok(mut resolved) => {
                for part in rest.iter().rev() {
                    if part == ".." {
                        resolved.pop();
                    } else {
                        resolved.push(part);
                    }
                }
                return Ok(resolved);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Some(part) = known.components().next_back() else {
                    return Err(PrefixError::Io {
                        action: "locate",
                        path: path.into(),
                        source: error,
                    });
                };
                rest.push(part.as_os_str().to_owned());
                known.pop();
                // `pop` does nothing at a `..`, which is a component like any other here.
                if known.as_os_str().is_empty() {
                    return Err(PrefixError::Io {
                        action: "locate",
                        path: path.into(),
                        source: error,
                    });
                }
            }
            Err(source) => {
                return Err(PrefixError::Io {
                    action: "locate",
                    path: path.into(),
                    source,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_and_clean() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(root.join("a")).unwrap();
        let path = |text: &str| Prefix::open(root.join(text)).unwrap().path().to_path_buf();
        assert_eq!(path("a//env/"), root.join("a/env"));
        assert_eq!(path("a/../env"), root.join("env"));
        assert_eq!(path("a/missing/../env"), root.join("a/env"));
        assert!(matches!(
            Prefix::open(root.join("a\nb")),
            Err(PrefixError::UnusablePrefix { .. })
        ));
    }

    #[test]
    fn a_broken_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = Prefix::open(dir.path()).unwrap();
        assert!(prefix.records().unwrap().is_empty());
        fs::create_dir(prefix.conda_meta()).unwrap();
        fs::write(prefix.conda_meta().join("x-1-0.json"), "{").unwrap();
        let error = prefix.records().unwrap_err();
        assert!(error.to_string().contains("x-1-0.json"), "{error}");
    }

    #[test]
    fn pinned_and_frozen_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = Prefix::open(dir.path()).unwrap();
        let meta = prefix.conda_meta();
        fs::create_dir(&meta).unwrap();
        assert_eq!(prefix.pinned().unwrap(), "");
        assert_eq!(prefix.frozen().unwrap(), None);
        fs::write(prefix.pinned_file(), "numpy 1.*\n").unwrap();
        assert_eq!(prefix.pinned().unwrap(), "numpy 1.*\n");
        fs::write(meta.join("frozen"), "").unwrap();
        assert_eq!(prefix.frozen().unwrap(), Some(Frozen { message: None }));
        fs::write(meta.join("frozen"), r#"{"message": "managed by IT"}"#).unwrap();
        assert_eq!(
            prefix.frozen().unwrap().unwrap().message.as_deref(),
            Some("managed by IT")
        );
    }
}
