//! Which directories have to be made, and what stands in the way of new files.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use super::draft::{DraftFile, DraftPackage, Source};
use super::removal::MovedFiles;
use crate::link::{FileKind, LinkError, LinkObserver, LinkWarning, normalise};
use crate::prefix::Prefix;

/// One step before files are linked, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Make this directory.
    Directory(String),
    /// Make this symbolic link, which other files are reached through.
    Door { package: usize, file: usize },
}

/// Collects the wishes of all packages and looks at the prefix where they meet what is there.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    prefix: &'a Prefix,
    pub(super) moved: MovedFiles,
    /// Files of packages that stay where they are, with the package.
    kept_at: HashMap<&'a str, String>,
    observer: Reporter<'a>,
    wanted: HashMap<String, Wish>,
    known: HashMap<String, State>,
    pub(super) steps: Vec<Step>,
    pub(super) doors: Vec<(usize, usize)>,
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
struct Wish {
    package: usize,
    file: usize,
    name: String,
    /// The target of a symbolic link.
    link: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Will be made, so nothing is in it.
    New,
    /// Is there.
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
            wanted: HashMap::new(),
            known: HashMap::new(),
            steps: Vec::new(),
            doors: Vec::new(),
            emptied: Vec::new(),
        }
    }

    /// Makes a wish known, so that others can be judged by it.
    pub(super) fn wants(
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
        self.wanted.insert(
            file.location.clone(),
            Wish {
                package: package_index,
                file: file_index,
                name: package.name.clone(),
                link,
            },
        );
    }

    /// A new file at `path`.
    pub(super) fn file(&mut self, path: &str, package: &str) -> Result<(), LinkError> {
        let parent = parent(path);
        if self.directory(parent, package)? == Made::New || self.moved.set.contains(path) {
            return Ok(());
        }
        let full = self.prefix.path().join(path);
        let metadata = match fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(LinkError::Io {
                    action: "look at",
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

    /// New byte code at `path`. What python left there on its own is replaced without a word.
    pub(super) fn byte_code(&mut self, path: &str, package: &str) -> Result<(), LinkError> {
        if self.directory(parent(path), package)? == Made::There
            && !self.moved.set.contains(path)
            && fs::symlink_metadata(self.prefix.path().join(path)).is_ok()
        {
            self.moved.add(path);
        }
        Ok(())
    }

    /// A directory at `path`, with its parents.
    pub(super) fn directory(&mut self, path: &str, package: &str) -> Result<Made, LinkError> {
        let state = self.resolve(path, package, 0)?;
        Ok(if state == State::New {
            Made::New
        } else {
            Made::There
        })
    }

    pub(super) fn done(self) -> Self {
        self
    }

    fn resolve(&mut self, path: &str, package: &str, depth: usize) -> Result<State, LinkError> {
        if path.is_empty() {
            return Ok(State::There);
        }
        if let Some(&state) = self.known.get(path) {
            return Ok(state);
        }
        let above = self.resolve(parent(path), package, depth)?;
        let state = match self.wanted.get(path).cloned() {
            Some(wish) => self.door(path, &wish, package, depth)?,
            None => self.plain_directory(path, above, package)?,
        };
        self.known.insert(path.to_owned(), state);
        Ok(state)
    }

    /// A new file stands where a directory is needed. A link to a directory inside the prefix
    /// can be gone through; anything else is a conflict, or an attempt to leave the prefix.
    fn door(
        &mut self,
        path: &str,
        wish: &Wish,
        package: &str,
        depth: usize,
    ) -> Result<State, LinkError> {
        let Some(link) = &wish.link else {
            return Err(LinkError::FileDirectoryConflict {
                path: path.into(),
                file_owner: wish.name.clone(),
                directory_owner: package.to_owned(),
            });
        };
        let escape = || LinkError::PathEscape {
            package: package.to_owned(),
            path: path.to_owned(),
        };
        // Links to links are followed as far as a sane package would go; a circle never ends.
        if depth > 8 {
            return Err(escape());
        }
        let target = join_lexically(parent(path), link).ok_or_else(escape)?;
        let state = self.resolve(&target, package, depth + 1)?;
        self.doors.push((wish.package, wish.file));
        self.steps.push(Step::Door {
            package: wish.package,
            file: wish.file,
        });
        Ok(state)
    }

    fn plain_directory(
        &mut self,
        path: &str,
        above: State,
        package: &str,
    ) -> Result<State, LinkError> {
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
                    return Err(LinkError::Io {
                        action: "look at",
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

    /// A file, or a link that leads nowhere good, where a directory is needed.
    fn clear_for_directory(
        &mut self,
        path: &str,
        package: &str,
        is_symlink: bool,
    ) -> Result<(), LinkError> {
        if let Some(owner) = self.kept_at.get(path) {
            return Err(LinkError::FileDirectoryConflict {
                path: path.into(),
                file_owner: owner.clone(),
                directory_owner: package.to_owned(),
            });
        }
        // A person's own link to a directory elsewhere is neither followed nor thrown away.
        if is_symlink && self.prefix.path().join(path).is_dir() {
            return Err(LinkError::PathEscape {
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

    /// A directory where a file is wanted gives way if nothing but removed files is in it.
    fn empty_directory(&mut self, path: &str, full: &Path, package: &str) -> Result<(), LinkError> {
        let mut below = Vec::new();
        let mut byte_code = Vec::new();
        if !self.only_moved(path, full, &mut below, &mut byte_code)? {
            return Err(LinkError::DirectoryInTheWay {
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
    ) -> Result<bool, LinkError> {
        for entry in fs::read_dir(full).map_err(LinkError::io("list", full))? {
            let entry = entry.map_err(LinkError::io("list", full))?;
            let Ok(name) = entry.file_name().into_string() else {
                return Ok(false);
            };
            let inner = format!("{path}/{name}");
            let kind = entry
                .file_type()
                .map_err(LinkError::io("look at", &entry.path()))?;
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

/// Whether a directory will be new or is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    New,
    There,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Where a link in `directory` leads, if it stays inside the prefix.
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
