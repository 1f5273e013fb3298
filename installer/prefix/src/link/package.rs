//! The metadata of an extracted package: its files, and how they are linked.

use std::collections::HashMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use rattler_conda_types::package::{EntryPoint, ParseEntryPointError, PathType as DeclaredType};
use rattler_conda_types::package::{FileMode, PathsJson};
use rattler_conda_types::{PackageRecord, RepoDataRecord};
use serde::Deserialize;

use super::observer::{LinkObserver, LinkWarning};
use crate::error::PrefixError;

/// A package to link: its record and its extracted tree.
#[derive(Debug, Clone)]
pub(crate) struct LinkPackage {
    /// The record for `conda-meta`.
    pub(crate) record: RepoDataRecord,
    /// The extracted package, with its `info/` directory.
    pub(crate) source_dir: PathBuf,
    /// The specs that request this package; empty for a dependency.
    pub(crate) requested_specs: Vec<String>,
    /// The path of the archive, for `conda-meta`.
    pub(crate) package_tarball_full_path: Option<PathBuf>,
    /// More fields for `conda-meta`: those of the repodata that [`RepoDataRecord`] drops.
    pub(crate) extra: serde_json::Map<String, serde_json::Value>,
}

impl LinkPackage {
    /// A dependency, without an archive.
    pub(crate) fn new(record: RepoDataRecord, source_dir: impl Into<PathBuf>) -> Self {
        Self {
            record,
            source_dir: source_dir.into(),
            requested_specs: Vec::new(),
            package_tarball_full_path: None,
            extra: serde_json::Map::new(),
        }
    }

    /// Records the specs by which a person asked for this package.
    #[cfg(test)]
    pub(crate) fn with_requested_specs(mut self, specs: Vec<String>) -> Self {
        self.requested_specs = specs;
        self
    }

    /// `name-version-build`.
    pub(crate) fn dist_name(&self) -> String {
        dist_name(&self.record.package_record)
    }

    /// For `map_err`: the error for a metadata file of this package.
    fn bad_file(&self, file: &'static str) -> impl FnOnce(io::Error) -> PrefixError {
        let package = self.dist_name();
        move |source| PrefixError::BadPackage {
            package,
            file,
            source,
        }
    }
}

/// `name-version-build`: the name of a package in messages and of the file of its record.
pub(crate) fn dist_name(record: &PackageRecord) -> String {
    format!(
        "{}-{}-{}",
        record.name.as_normalized(),
        record.version.as_str(),
        record.build.as_str()
    )
}

/// One path of a package, not yet mapped into a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackageFile {
    /// Relative to the package, normalised, with forward slashes.
    pub(crate) path: String,
    pub(crate) kind: FileKind,
    pub(crate) no_link: bool,
    pub(crate) placeholder: Option<(String, FileMode)>,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    File,
    SoftLink,
    Directory,
}

/// The metadata of an extracted package that linking needs.
#[derive(Debug, Clone)]
pub(crate) struct PackageContents {
    pub(crate) files: Vec<PackageFile>,
    pub(crate) noarch_python: bool,
    pub(crate) entry_points: Vec<EntryPoint>,
}

impl PackageContents {
    /// Reads `info/paths.json`, or what older packages have instead, and `info/link.json`.
    pub(crate) fn read(
        package: &LinkPackage,
        observer: &dyn LinkObserver,
    ) -> Result<Self, PrefixError> {
        let files = normalise_paths(package, declared_files(package)?, observer)?;
        let bad = || package.bad_file("info/link.json");
        let links = match std::fs::read(package.source_dir.join("info/link.json")) {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| bad()(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => RawLinks::default(),
            Err(source) => return Err(bad()(source)),
        };
        let noarch = links.noarch.unwrap_or_default();
        let noarch_python = match noarch.kind.as_deref() {
            Some(kind) => kind == "python",
            None => package.record.package_record.noarch.is_python(),
        };
        let entry_points = noarch.entry_points.unwrap_or_default();
        let entry_points = entry_points
            .iter()
            .filter(|_| noarch_python)
            .map(|text| parse_entry_point(text))
            .collect::<Result<_, _>>()
            .map_err(|error| bad()(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        Ok(Self {
            files,
            noarch_python,
            entry_points,
        })
    }
}

/// `info/link.json`, as it is found: any field may be missing or null.
#[derive(Default, Deserialize)]
struct RawLinks {
    noarch: Option<RawNoarch>,
}

#[derive(Default, Deserialize)]
struct RawNoarch {
    #[serde(rename = "type")]
    kind: Option<String>,
    entry_points: Option<Vec<String>>,
}

/// Reads `COMMAND = MODULE:FUNCTION`. Quotes around the object are dropped, and extras behind it (entry points
/// specification of Python packaging, "Data model").
fn parse_entry_point(text: &str) -> Result<EntryPoint, ParseEntryPointError> {
    let Some((command, object)) = text.split_once('=') else {
        return text.parse();
    };
    let object = object.trim().trim_matches(['"', '\'']);
    let object = object.split('[').next().unwrap_or_default();
    format!("{command}={object}").parse()
}

/// The paths as the package lists them.
fn declared_files(package: &LinkPackage) -> Result<Vec<PackageFile>, PrefixError> {
    match std::fs::read(package.source_dir.join("info/paths.json")) {
        Ok(json) => parse_paths(&json).map_err(package.bad_file("info/paths.json")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            deprecated_paths(&package.source_dir).map_err(package.bad_file("info/files"))
        }
        Err(error) => Err(package.bad_file("info/paths.json")(error)),
    }
}

/// The files to link, each path once and normalised.
fn normalise_paths(
    package: &LinkPackage,
    declared: Vec<PackageFile>,
    observer: &dyn LinkObserver,
) -> Result<Vec<PackageFile>, PrefixError> {
    let mut files = Vec::with_capacity(declared.len());
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(declared.len());
    for mut file in declared {
        let Some(path) = normalise(&file.path) else {
            return Err(PrefixError::PathEscape {
                package: package.dist_name(),
                path: file.path,
            });
        };
        match path.split('/').next() {
            // CEP 34: files in `info/` describe the package.
            Some("info") => continue,
            Some("conda-meta") => {
                observer.warning(&LinkWarning::ReservedPath {
                    path: PathBuf::from(path),
                    package: package.dist_name(),
                });
                continue;
            }
            _ => {}
        }
        file.path = path;
        // Of a path that is listed twice, the last entry counts.
        if let Some(&index) = seen.get(&file.path) {
            files[index] = file;
        } else {
            seen.insert(file.path.clone(), files.len());
            files.push(file);
        }
    }
    Ok(files)
}

/// The path without `.` components, or `None` if it is empty, absolute, or has `..` in it.
pub(crate) fn normalise(path: &str) -> Option<String> {
    if path.contains('\0') {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => {
                if !out.is_empty() {
                    out.push('/');
                }
                out.push_str(part.to_str()?);
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!out.is_empty()).then_some(out)
}

/// A `paths.json`. Unlike in the type of `rattler_conda_types`, `path_type` and `file_mode` may be
/// absent (CEP 34 states defaults).
#[derive(Deserialize)]
struct RawPaths {
    paths: Vec<RawPath>,
}

#[derive(Deserialize)]
struct RawPath {
    #[serde(rename = "_path")]
    path: String,
    #[serde(default)]
    path_type: Option<DeclaredType>,
    #[serde(default)]
    no_link: Option<bool>,
    #[serde(default)]
    prefix_placeholder: Option<String>,
    #[serde(default)]
    file_mode: Option<FileMode>,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    size_in_bytes: Option<u64>,
}

fn parse_paths(json: &[u8]) -> io::Result<Vec<PackageFile>> {
    let raw: RawPaths = serde_json::from_slice(json)?;
    raw.paths
        .into_iter()
        .map(|raw| {
            let sha256 = raw.sha256.map(|digest| parse_sha256(&digest)).transpose()?;
            let mode = raw.file_mode.unwrap_or(FileMode::Text);
            Ok(PackageFile {
                path: raw.path,
                kind: kind(raw.path_type.unwrap_or(DeclaredType::HardLink)),
                no_link: raw.no_link.unwrap_or(false),
                placeholder: raw
                    .prefix_placeholder
                    .filter(|placeholder| !placeholder.is_empty())
                    .map(|placeholder| (placeholder, mode)),
                sha256,
                size: raw.size_in_bytes,
            })
        })
        .collect()
}

fn parse_sha256(digest: &str) -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest, &mut bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(bytes)
}

fn kind(declared: DeclaredType) -> FileKind {
    match declared {
        DeclaredType::HardLink => FileKind::File,
        DeclaredType::SoftLink => FileKind::SoftLink,
        DeclaredType::Directory => FileKind::Directory,
    }
}

/// `files`, `has_prefix`, `no_link` and `no_softlink` of packages older than `paths.json`.
fn deprecated_paths(source_dir: &Path) -> io::Result<Vec<PackageFile>> {
    let paths = PathsJson::from_deprecated_package_directory(source_dir)?;
    paths
        .paths
        .into_iter()
        .map(|entry| {
            let path = entry
                .relative_path
                .into_os_string()
                .into_string()
                .map_err(|_| {
                    io::Error::new(io::ErrorKind::InvalidData, "a path is not valid UTF-8")
                })?;
            Ok(PackageFile {
                path,
                kind: kind(entry.path_type),
                no_link: entry.no_link,
                placeholder: entry
                    .prefix_placeholder
                    .map(|placeholder| (placeholder.placeholder, placeholder.file_mode)),
                sha256: None,
                size: None,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_points_are_read_as_packages_write_them() {
        for text in [
            "x = a.m:main",
            "x=a.m:main",
            "x = \"a.m:main\"",
            "x = 'a.m:main'",
            "x = a.m:main [cli]",
            "x = a.m:main[cli,y]",
        ] {
            let found = parse_entry_point(text).unwrap();
            let found = (found.command, found.module, found.function);
            let expected = ["x", "a.m", "main"].map(str::to_owned);
            assert_eq!(found, expected.into(), "{text}");
        }
        assert!(parse_entry_point("../x = a.m:main").is_err());
        for json in [
            "{}",
            r#"{"noarch":null}"#,
            r#"{"noarch":{"type":"python","entry_points":null}}"#,
        ] {
            serde_json::from_str::<RawLinks>(json).unwrap();
        }
    }

    #[test]
    fn paths_that_leave_the_prefix_are_not_normal() {
        assert_eq!(normalise("./lib//x.so").as_deref(), Some("lib/x.so"));
        assert_eq!(normalise("a b/ü").as_deref(), Some("a b/ü"));
        for path in ["", ".", "/etc/passwd", "../x", "lib/../../x", "a\0b"] {
            assert_eq!(normalise(path), None, "{path:?}");
        }
    }

    #[test]
    fn paths_json_has_defaults() {
        let files = parse_paths(
            br#"{"paths": [{"_path": "a"},
                {"_path": "b", "path_type": "softlink", "no_link": true},
                {"_path": "c", "prefix_placeholder": "/ph", "size_in_bytes": 3}],
                "paths_version": 1}"#,
        )
        .unwrap();
        assert_eq!(files[0].kind, FileKind::File);
        assert_eq!(
            (files[1].kind, files[1].no_link),
            (FileKind::SoftLink, true)
        );
        assert_eq!(
            files[2].placeholder,
            Some(("/ph".to_owned(), FileMode::Text))
        );
        assert!(parse_paths(br#"{"paths": [{"_path": "a", "sha256": "xyz"}]}"#).is_err());
    }
}
