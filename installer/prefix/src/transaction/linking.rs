//! Links the files of one package.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use rattler_conda_types::package::FileMode;
use rattler_conda_types::prefix_record::{PathType, PathsEntry};
use sha2::{Digest as _, Sha256};

use super::draft::{Draft, DraftFile, DraftPackage, Source};
use super::record;
use crate::error::PrefixError;
use crate::link::{
    FileKind, LinkMethod, Linker, Methods, PackageFile, Replacement, copy, replace_text,
};
use crate::platform::{create_executable, create_like};
use crate::prefix::Prefix;

/// A package while it is being linked.
pub(super) struct Linking<'a> {
    pub(super) package: &'a DraftPackage<'a>,
    draft: &'a Draft<'a>,
    prefix: &'a Prefix,
    linker: &'a Linker,
    /// `None` when the package has no file to link.
    methods: Option<Arc<Methods>>,
    /// One per placeholder; packages have one, or very few.
    replacements: Vec<Replacement>,
    /// For the observer: whether the first file was begun, and how many are done.
    pub(super) started: AtomicBool,
    pub(super) done: AtomicUsize,
}

impl<'a> Linking<'a> {
    pub(super) fn new(
        package: &'a DraftPackage<'a>,
        draft: &'a Draft<'a>,
        linker: &'a Linker,
        prefix: &'a Prefix,
    ) -> Result<Self, PrefixError> {
        let mut replacements: Vec<Replacement> = Vec::new();
        for (placeholder, _) in package
            .contents
            .files
            .iter()
            .filter_map(|file| file.placeholder.as_ref())
        {
            if !replacements
                .iter()
                .any(|known| known.placeholder() == placeholder)
            {
                replacements.push(Replacement::new(placeholder, prefix.text()));
            }
        }
        let sample = package
            .contents
            .files
            .iter()
            .find(|file| file.kind == FileKind::File)
            .map(|file| package.package.source_dir.join(&file.path));
        let methods = match &sample {
            Some(sample) => match linker.methods(sample) {
                Ok(methods) => Some(methods),
                // Linking that file reports the error.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(PrefixError::io("stat", sample)(error)),
            },
            None => None,
        };
        Ok(Self {
            package,
            draft,
            prefix,
            linker,
            methods,
            replacements,
            started: AtomicBool::new(false),
            done: AtomicUsize::new(0),
        })
    }

    pub(super) fn best(&self) -> LinkMethod {
        self.methods.as_ref().map_or(LinkMethod::Copy, |methods| {
            methods.best(self.linker.order())
        })
    }

    /// Links one file, and returns its entry for the record.
    pub(super) fn file(&self, file: &DraftFile) -> Result<PathsEntry, PrefixError> {
        let target = self.prefix.path().join(&file.location);
        let mut entry = match file.source {
            Source::File(index) => {
                self.package_file(&self.package.contents.files[index], &file.location, &target)?
            }
            Source::EntryPoint(index) => self.entry_point(index, &file.location, &target)?,
        };
        entry.original_path = file.original.as_ref().map(PathBuf::from);
        Ok(entry)
    }

    fn package_file(
        &self,
        source: &PackageFile,
        location: &str,
        target: &Path,
    ) -> Result<PathsEntry, PrefixError> {
        let mut entry = record::entry(location, PathType::HardLink);
        entry.no_link = source.no_link;
        entry.sha256 = source.sha256.map(Into::into);
        entry.size_in_bytes = source.size;
        let path = self.package.package.source_dir.join(&source.path);
        match (source.kind, &source.placeholder) {
            (FileKind::Directory, _) => {
                // All directories exist already.
                entry.path_type = PathType::Directory;
            }
            (FileKind::SoftLink, _) => {
                copy(&path, target).map_err(|error| self.failed("link", source, target, error))?;
                entry.path_type = PathType::SoftLink;
            }
            (FileKind::File, Some((placeholder, mode))) => {
                self.patched(source, &path, target, (placeholder, *mode), &mut entry)?;
            }
            (FileKind::File, None) => {
                let method = self
                    .plain(source.no_link, &path, target)
                    .map_err(|error| self.failed("link", source, target, error))?;
                if method == LinkMethod::SoftLink {
                    entry.path_type = PathType::SoftLink;
                }
                entry.sha256_in_prefix = entry.sha256;
            }
        }
        Ok(entry)
    }

    fn plain(&self, no_link: bool, path: &Path, target: &Path) -> io::Result<LinkMethod> {
        match &self.methods {
            Some(methods) if !no_link => methods.link(self.linker.order(), path, target),
            _ => copy(path, target).map(|()| LinkMethod::Copy),
        }
    }

    /// Writes a file with the prefix in it. It is always a new inode: the store is not changed.
    fn patched(
        &self,
        source: &PackageFile,
        path: &Path,
        target: &Path,
        (placeholder, mode): (&str, FileMode),
        entry: &mut PathsEntry,
    ) -> Result<(), PrefixError> {
        let failed = |error| self.failed("read", source, path, error);
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        if metadata.is_symlink() {
            // A link has no content to replace.
            copy(path, target).map_err(|error| self.failed("link", source, target, error))?;
            entry.path_type = PathType::SoftLink;
            return Ok(());
        }
        let mut data = fs::read(path).map_err(failed)?;
        let replacement = self
            .replacements
            .iter()
            .find(|replacement| replacement.placeholder() == placeholder)
            .expect("there is a replacement for every placeholder of the package");
        match mode {
            FileMode::Text => {
                if let Cow::Owned(changed) = replace_text(&data, replacement) {
                    data = changed;
                }
            }
            FileMode::Binary => {
                replacement
                    .binary(&mut data)
                    .map_err(|_| PrefixError::PrefixTooLong {
                        package: self.package.name.clone(),
                        path: PathBuf::from(&source.path),
                        available: placeholder.len(),
                        needed: self.prefix.text().len(),
                    })?;
            }
        }
        create_like(target, &metadata)
            .and_then(|mut file| file.write_all(&data))
            .map_err(PrefixError::io("write", target))?;
        entry.sha256_in_prefix = Some(Sha256::digest(&data));
        entry.size_in_bytes = Some(data.len() as u64);
        entry.file_mode = Some(mode);
        entry.prefix_placeholder = Some(placeholder.to_owned());
        Ok(())
    }

    fn entry_point(
        &self,
        index: usize,
        location: &str,
        target: &Path,
    ) -> Result<PathsEntry, PrefixError> {
        let entry_point = &self.package.contents.entry_points[index];
        let Some(python) = &self.draft.python else {
            return Err(PrefixError::NoPython {
                package: self.package.name.clone(),
            });
        };
        let script = python.entry_point_script(self.prefix.text(), entry_point);
        create_executable(target)
            .and_then(|mut file| file.write_all(script.as_bytes()))
            .map_err(PrefixError::io("write", target))?;
        let mut entry = record::entry(location, PathType::UnixPythonEntryPoint);
        entry.sha256_in_prefix = Some(Sha256::digest(script.as_bytes()));
        entry.size_in_bytes = Some(script.len() as u64);
        Ok(entry)
    }

    /// The error for a file, which names the package if it lists a file that it does not have.
    fn failed(
        &self,
        action: &'static str,
        source: &PackageFile,
        path: &Path,
        error: io::Error,
    ) -> PrefixError {
        let missing = error.kind() == io::ErrorKind::NotFound
            && fs::symlink_metadata(self.package.package.source_dir.join(&source.path)).is_err();
        if missing {
            return PrefixError::MissingFile {
                package: self.package.name.clone(),
                path: PathBuf::from(&source.path),
            };
        }
        PrefixError::Io {
            action,
            path: path.to_path_buf(),
            source: error,
        }
    }
}
