//! Which directories are created, and what is in the way of new files.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use super::draft::{DraftFile, DraftPackage, Source};
use super::removal::MovedFiles;
use crate::error::PrefixError;
use crate::link::{FileKind, LinkObserver, LinkWarning};
use crate::prefix::Prefix;

/// Collects the new files of all packages and compares them with what is in the prefix.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    prefix: &'a Prefix,
    pub(super) moved: MovedFiles,
    /// Files of kept packages that do not move, with the package.
    kept_at: HashMap<&'a str, String>,
    observer: Reporter<'a>,
    planned: HashMap<String, PlannedFile>,
    known: HashMap<String, State>,
    /// Those to create, outermost first.
    pub(super) directories: Vec<String>,
    pub(super) emptied: Vec<String>,
}

struct Reporter<'a>(&'a dyn LinkObserver);

impl std::fmt::Debug for Reporter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reporter")
    }
}

/// A new file.
#[derive(Debug, Clone)]
struct PlannedFile {
    package: String,
    is_link: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Will be created, so it is empty.
    New,
    /// Exists.
    There,
}

impl<'a> Layout<'a> {
    pub(super) fn new(
        prefix: &'a Prefix,
        moved: MovedFiles,
        kept_at: HashMap<&'a str, String>,
        observer: &'a dyn LinkObserver,
    ) -> Self {
        Self {
            prefix,
            moved,
            kept_at,
            observer: Reporter(observer),
            planned: HashMap::new(),
            known: HashMap::new(),
            directories: Vec::new(),
            emptied: Vec::new(),
        }
    }

    /// Lays out the new files of all packages.
    pub(super) fn packages(&mut self, packages: &[DraftPackage<'_>]) -> Result<(), PrefixError> {
        for package in packages {
            for file in &package.files {
                self.announce(file, package);
            }
        }
        for package in packages {
            for file in &package.files {
                if package.is_directory(file) {
                    self.directory(&file.location, &package.name)?;
                } else {
                    self.file(&file.location, &package.name)?;
                }
            }
            for module in &package.modules {
                self.byte_code(&module.byte_code, &package.name)?;
            }
            self.file(&package.record_path(), &package.name)?;
        }
        Ok(())
    }

    /// Registers a new file, which cannot be a directory.
    fn announce(&mut self, file: &DraftFile, package: &DraftPackage<'_>) {
        let kind = match file.source {
            Source::File(index) => package.contents.files[index].kind,
            Source::EntryPoint(_) => FileKind::File,
        };
        if kind != FileKind::Directory {
            let planned = PlannedFile {
                package: package.name.clone(),
                is_link: kind == FileKind::SoftLink,
            };
            self.planned.insert(file.location.clone(), planned);
        }
    }

    /// A new file at `path`.
    pub(super) fn file(&mut self, path: &str, package: &str) -> Result<(), PrefixError> {
        let parent = parent(path);
        if self.directory(parent, package)? == Made::New || self.moved.set.contains(path) {
            return Ok(());
        }
        let full = self.prefix.path().join(path);
        let metadata = match fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(PrefixError::Io {
                    action: "stat",
                    path: full,
                    source,
                });
            }
        };
        if metadata.is_dir() {
            return self.empty_directory(path, &full, package);
        }
        self.moved.add(path);
        self.observer.0.warning(&LinkWarning::UnownedReplaced {
            path: path.into(),
            package: package.to_owned(),
        });
        Ok(())
    }

    /// New byte code at `path`. Byte code that python made by itself is replaced without a warning.
    fn byte_code(&mut self, path: &str, package: &str) -> Result<(), PrefixError> {
        if self.directory(parent(path), package)? == Made::There
            && !self.moved.set.contains(path)
            && fs::symlink_metadata(self.prefix.path().join(path)).is_ok()
        {
            self.moved.add(path);
        }
        Ok(())
    }

    /// A directory at `path`, with its parents.
    fn directory(&mut self, path: &str, package: &str) -> Result<Made, PrefixError> {
        let state = self.resolve(path, package)?;
        Ok(if state == State::New {
            Made::New
        } else {
            Made::There
        })
    }

    fn resolve(&mut self, path: &str, package: &str) -> Result<State, PrefixError> {
        if path.is_empty() {
            return Ok(State::There);
        }
        if let Some(&state) = self.known.get(path) {
            return Ok(state);
        }
        let above = self.resolve(parent(path), package)?;
        if let Some(file) = self.planned.get(path) {
            // Links inside the prefix have been followed.
            return Err(if file.is_link {
                PrefixError::PathEscape {
                    package: package.to_owned(),
                    path: path.to_owned(),
                }
            } else {
                PrefixError::FileDirectoryConflict {
                    path: path.into(),
                    file_owner: file.package.clone(),
                    directory_owner: package.to_owned(),
                }
            });
        }
        let state = self.plain_directory(path, above, package)?;
        self.known.insert(path.to_owned(), state);
        Ok(state)
    }

    fn plain_directory(
        &mut self,
        path: &str,
        above: State,
        package: &str,
    ) -> Result<State, PrefixError> {
        let full = self.prefix.path().join(path);
        if above == State::There && !self.moved.set.contains(path) {
            match fs::symlink_metadata(&full) {
                Ok(metadata) if metadata.is_dir() => return Ok(State::There),
                Ok(metadata) => {
                    if self.leads_inside(&full, metadata.is_symlink()) {
                        return Ok(State::There);
                    }
                    self.clear_for_directory(path, package, metadata.is_symlink())?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(PrefixError::Io {
                        action: "stat",
                        path: full,
                        source,
                    });
                }
            }
        }
        self.directories.push(path.to_owned());
        Ok(State::New)
    }

    fn leads_inside(&self, full: &Path, is_symlink: bool) -> bool {
        is_symlink
            && full.is_dir()
            && match (fs::canonicalize(full), fs::canonicalize(self.prefix.path())) {
                (Ok(target), Ok(prefix)) => target.starts_with(prefix),
                _ => false,
            }
    }

    /// Moves a file, or a link that leads out of the prefix, away for a directory.
    fn clear_for_directory(
        &mut self,
        path: &str,
        package: &str,
        is_symlink: bool,
    ) -> Result<(), PrefixError> {
        if let Some(owner) = self.kept_at.get(path) {
            return Err(PrefixError::FileDirectoryConflict {
                path: path.into(),
                file_owner: owner.clone(),
                directory_owner: package.to_owned(),
            });
        }
        // A user's own link to a directory elsewhere is neither followed nor removed.
        if is_symlink && self.prefix.path().join(path).is_dir() {
            return Err(PrefixError::ForeignLink {
                path: path.into(),
                package: package.to_owned(),
            });
        }
        self.moved.add(path);
        self.observer.0.warning(&LinkWarning::UnownedReplaced {
            path: path.into(),
            package: package.to_owned(),
        });
        Ok(())
    }

    /// Removes a directory in the place of a file, if it contains nothing but removed files.
    fn empty_directory(
        &mut self,
        path: &str,
        full: &Path,
        package: &str,
    ) -> Result<(), PrefixError> {
        let mut below = Vec::new();
        let mut byte_code = Vec::new();
        if !self.only_moved(path, full, &mut below, &mut byte_code)? {
            return Err(PrefixError::DirectoryInTheWay {
                path: path.into(),
                package: package.to_owned(),
            });
        }
        for path in byte_code {
            self.moved.add(&path);
        }
        below.push(path.to_owned());
        self.emptied.extend(below);
        Ok(())
    }

    fn only_moved(
        &self,
        path: &str,
        full: &Path,
        directories: &mut Vec<String>,
        byte_code: &mut Vec<String>,
    ) -> Result<bool, PrefixError> {
        for entry in fs::read_dir(full).map_err(PrefixError::io("list", full))? {
            let entry = entry.map_err(PrefixError::io("list", full))?;
            let Ok(name) = entry.file_name().into_string() else {
                return Ok(false);
            };
            let inner = format!("{path}/{name}");
            let kind = entry
                .file_type()
                .map_err(PrefixError::io("stat", &entry.path()))?;
            if kind.is_dir() {
                if !self.only_moved(&inner, &entry.path(), directories, byte_code)? {
                    return Ok(false);
                }
                directories.push(inner);
            } else if path.ends_with("__pycache__")
                && entry.path().extension().is_some_and(|e| e == "pyc")
            {
                byte_code.push(inner);
            } else if !self.moved.set.contains(&inner) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a directory is created or exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    New,
    There,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
