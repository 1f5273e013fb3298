//! Which directories are created, and what is in the way of new files.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use super::draft::{DraftFile, DraftPackage, Source};
use super::removal::MovedFiles;
use crate::error::PrefixError;
use crate::link::{FileKind, LinkObserver, LinkWarning, normalise};
use crate::prefix::Prefix;

/// One step before files are linked, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Create this directory.
    Directory(String),
    /// Create this symbolic link, through which other files are reached.
    DirSymlink { package: usize, file: usize },
}

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
    pub(super) steps: Vec<Step>,
    pub(super) dir_symlinks: Vec<(usize, usize)>,
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
    package: usize,
    file: usize,
    name: String,
    /// The target of a symbolic link.
    link: Option<String>,
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
            steps: Vec::new(),
            dir_symlinks: Vec::new(),
            emptied: Vec::new(),
        }
    }

    /// Lays out the new files of all packages.
    pub(super) fn packages(&mut self, packages: &[DraftPackage<'_>]) -> Result<(), PrefixError> {
        for (index, package) in packages.iter().enumerate() {
            for (file_index, file) in package.files.iter().enumerate() {
                self.announce(file, index, file_index, package);
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

    /// Registers a new file, so that paths below it are resolved through it.
    fn announce(
        &mut self,
        file: &DraftFile,
        package_index: usize,
        file_index: usize,
        package: &DraftPackage<'_>,
    ) {
        let mut link = None;
        if let Source::File(index) = file.source {
            let source = &package.contents.files[index];
            match source.kind {
                FileKind::Directory => return,
                FileKind::SoftLink => {
                    let target = fs::read_link(package.package.source_dir.join(&source.path));
                    link = target
                        .ok()
                        .and_then(|target| target.to_str().map(ToOwned::to_owned));
                }
                FileKind::File => {}
            }
        }
        self.planned.insert(
            file.location.clone(),
            PlannedFile {
                package: package_index,
                file: file_index,
                name: package.name.clone(),
                link,
            },
        );
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
        let state = self.resolve(path, package, 0)?;
        Ok(if state == State::New {
            Made::New
        } else {
            Made::There
        })
    }

    /// The directories that will be made, outermost first.
    pub(super) fn directories(&self) -> Vec<String> {
        let directory = |step: &Step| match step {
            Step::Directory(path) => Some(path.clone()),
            Step::DirSymlink { .. } => None,
        };
        self.steps.iter().filter_map(directory).collect()
    }

    fn resolve(&mut self, path: &str, package: &str, depth: usize) -> Result<State, PrefixError> {
        if path.is_empty() {
            return Ok(State::There);
        }
        if let Some(&state) = self.known.get(path) {
            return Ok(state);
        }
        let above = self.resolve(parent(path), package, depth)?;
        let state = match self.planned.get(path).cloned() {
            Some(file) => self.dir_symlink(path, &file, package, depth)?,
            None => self.plain_directory(path, above, package)?,
        };
        self.known.insert(path.to_owned(), state);
        Ok(state)
    }

    /// A new file where a directory is needed. A link to a directory inside the prefix can be
    /// followed; anything else is a conflict, or an attempt to leave the prefix.
    fn dir_symlink(
        &mut self,
        path: &str,
        file: &PlannedFile,
        package: &str,
        depth: usize,
    ) -> Result<State, PrefixError> {
        let Some(link) = &file.link else {
            return Err(PrefixError::FileDirectoryConflict {
                path: path.into(),
                file_owner: file.name.clone(),
                directory_owner: package.to_owned(),
            });
        };
        let escape = || PrefixError::PathEscape {
            package: package.to_owned(),
            path: path.to_owned(),
        };
        // The depth is limited, because links can form a circle.
        if depth > 8 {
            return Err(escape());
        }
        let target = join_lexically(parent(path), link).ok_or_else(escape)?;
        let state = self.resolve(&target, package, depth + 1)?;
        self.dir_symlinks.push((file.package, file.file));
        self.steps.push(Step::DirSymlink {
            package: file.package,
            file: file.file,
        });
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
        self.steps.push(Step::Directory(path.to_owned()));
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
            return Err(PrefixError::PathEscape {
                package: package.to_owned(),
                path: path.to_owned(),
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

/// The target of a link in `directory`, if it is inside the prefix.
fn join_lexically(directory: &str, link: &str) -> Option<String> {
    if link.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    normalise(&parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_only_inside() {
        assert_eq!(join_lexically("usr", "lib").as_deref(), Some("usr/lib"));
        assert_eq!(join_lexically("a/b", "../../lib").as_deref(), Some("lib"));
        assert_eq!(join_lexically("a", "../.."), None);
        assert_eq!(join_lexically("a", "/etc"), None);
        assert_eq!(join_lexically("", "."), None);
    }
}
