//! The destination directory: the only part of the extraction that touches the file system.
//!
//! Everything goes through directory descriptors that were opened one component at a time with
//! `O_NOFOLLOW`, so that no path and no link of an archive leads out of the destination. Unix only;
//! another platform needs its own version of this file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::entry_path::{EntryPath, lossy};
use super::error::{ArchiveError, EntryProblem, LimitKind};
use super::mtime::Mtime;

/// 1980-01-01: the zip format, e.g. of a wheel made from the files, has no earlier time.
const EARLIEST: i64 = 315_532_800;
/// Clocks of builders may be ahead, but not by more than a day.
const LATEST_AHEAD: i64 = 86_400;
/// Hard links to later entries are held in memory until the end. Real archives have hardly any.
const DEFERRED_BYTES: usize = 16 << 20;

/// A destination directory that is being filled.
pub(super) struct Tree {
    root: OwnedFd,
    root_path: PathBuf,
    /// Open directories from below the root down to the parent of the last entry. Archives list
    /// neighbours together, so most entries find their parent here.
    open: Vec<(Vec<u8>, OwnedFd)>,
    deferred: HashMap<EntryPath, Deferred>,
    deferred_bytes: usize,
    latest: i64,
}

struct Deferred {
    target: EntryPath,
    member: String,
}

/// Why a file-system call for an entry failed: because of the entry, or of the system.
enum Failure {
    Entry(EntryProblem),
    System(Errno),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl Tree {
    /// Opens `dest`, which must exist and be a directory, not a link to one.
    pub(super) fn open(dest: &Path) -> Result<Self, ArchiveError> {
        let root = rustix::fs::open(dest, directory_flags(), Mode::empty())
            .map_err(|e| ArchiveError::write(dest.to_owned(), e.into()))?;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            });
        Ok(Self {
            root,
            root_path: dest.to_owned(),
            open: Vec::new(),
            deferred: HashMap::new(),
            deferred_bytes: 0,
            latest: now.saturating_add(LATEST_AHEAD).max(EARLIEST),
        })
    }

    pub(super) fn root_path(&self) -> &Path {
        &self.root_path
    }

    /// Creates an empty file, and replaces an earlier entry of the same path. The umask of the
    /// process applies.
    pub(super) fn file(
        &mut self,
        member: &str,
        path: &EntryPath,
        mode: u32,
    ) -> Result<File, ArchiveError> {
        // No setuid, setgid or sticky bit; the owner can always read and write.
        let mode = Mode::from_raw_mode((mode & 0o777) | 0o600);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.place(path, |parent, name| {
            rustix::fs::openat(parent, name, flags, mode)
        })
        .map(File::from)
        .map_err(|failure| self.error(member, path, failure))
    }

    /// Sets the modification time of a finished file.
    pub(super) fn finish_file(
        &self,
        path: &EntryPath,
        file: &File,
        mtime: Mtime,
    ) -> Result<(), ArchiveError> {
        rustix::fs::futimens(file, &self.timestamps(mtime))
            .map_err(|e| self.write_error(path, e.into()))
    }

    /// Creates a directory and its parents. Archived modes and times of directories are
    /// dropped: in an environment, many packages share a directory.
    pub(super) fn directory(&mut self, member: &str, path: &EntryPath) -> Result<(), ArchiveError> {
        let made = self.enter(path).and_then(|()| {
            let (_, name) = path.split();
            let parent = self.parent();
            match rustix::fs::mkdirat(parent, name, directory_mode()) {
                Err(Errno::EXIST) if kind_of(parent, name)? != Some(FileType::Directory) => {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(parent, name, directory_mode())?;
                }
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            Ok(())
        });
        made.map_err(|failure| self.error(member, path, failure))
    }

    /// Creates a symbolic link with any target, which is never followed here.
    pub(super) fn symlink(
        &mut self,
        member: &str,
        path: &EntryPath,
        target: &[u8],
        mtime: Mtime,
    ) -> Result<(), ArchiveError> {
        let times = self.timestamps(mtime);
        self.place(path, |parent, name| {
            rustix::fs::symlinkat(target, parent, name)?;
            rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        })
        .map_err(|failure| self.error(member, path, failure))
    }

    /// Creates a hard link to `target`, at the end if there is no such file yet.
    pub(super) fn hard_link(
        &mut self,
        member: &str,
        path: &EntryPath,
        target: &EntryPath,
    ) -> Result<(), ArchiveError> {
        if self.link(member, path, target)? {
            return Ok(());
        }
        self.deferred_bytes += path.as_bytes().len() + target.as_bytes().len() + member.len();
        if self.deferred_bytes > DEFERRED_BYTES {
            return Err(ArchiveError::Limit {
                member: member.to_owned(),
                what: LimitKind::DeferredLinks,
                limit: DEFERRED_BYTES as u64,
            });
        }
        // This entry replaces an earlier one of the same path.
        self.remove(path)
            .map_err(|failure| self.error(member, path, failure))?;
        self.deferred.insert(
            path.clone(),
            Deferred {
                target: target.clone(),
                member: member.to_owned(),
            },
        );
        Ok(())
    }

    /// Creates the hard links whose target came later.
    pub(super) fn finish(&mut self) -> Result<(), ArchiveError> {
        let mut deferred = std::mem::take(&mut self.deferred);
        let mut chain = Vec::new();
        while let Some(start) = deferred.keys().next().cloned() {
            // A chain of deferred links is created from its far end. Each is removed from the map
            // when it is reached, so this is linear and ends on a circle.
            let mut next = start;
            while let Some(link) = deferred.remove(&next) {
                let target = link.target.clone();
                chain.push((next, link));
                next = target;
            }
            while let Some((path, link)) = chain.pop() {
                // An entry after the deferred one replaces it.
                if self
                    .exists(&path)
                    .map_err(|failure| self.error(&link.member, &path, failure))?
                {
                    continue;
                }
                if !self.link(&link.member, &path, &link.target)? {
                    let problem = EntryProblem::HardLinkTarget(link.target.lossy());
                    return Err(self.error(&link.member, &path, Failure::Entry(problem)));
                }
            }
        }
        Ok(())
    }

    /// Whether `path` is a regular file, reached without following links.
    pub(super) fn is_file(&self, path: &[&[u8]]) -> bool {
        let Some((name, parents)) = path.split_last() else {
            return false;
        };
        let mut directory = None;
        for component in parents {
            let at = directory.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            match rustix::fs::openat(at, *component, directory_flags(), Mode::empty()) {
                Ok(opened) => directory = Some(opened),
                Err(_) => return false,
            }
        }
        let at = directory.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
        matches!(kind_of(at, name), Ok(Some(FileType::RegularFile)))
    }

    /// Returns `false` when there is no target.
    fn link(
        &mut self,
        member: &str,
        path: &EntryPath,
        target: &EntryPath,
    ) -> Result<bool, ArchiveError> {
        let (source, source_name) = match self.find_parent(target) {
            Ok(Some(found)) => (found, target.split().1.to_owned()),
            Ok(None) => return Ok(false),
            Err(failure) => return Err(self.error(member, target, failure)),
        };
        let kind = match kind_of(source.as_fd(), &source_name) {
            Ok(Some(kind)) => kind,
            Ok(None) => return Ok(false),
            Err(errno) => return Err(self.error(member, target, errno.into())),
        };
        if kind == FileType::Directory {
            let problem = EntryProblem::HardLinkTarget(target.lossy());
            return Err(self.error(member, path, Failure::Entry(problem)));
        }
        if path == target {
            return Ok(true);
        }
        self.place(path, |parent, name| {
            // Without AT_SYMLINK_FOLLOW: the link is to the symbolic link, not to its target.
            rustix::fs::linkat(&source, &source_name[..], parent, name, AtFlags::empty())
        })
        .map_err(|failure| self.error(member, path, failure))?;
        Ok(true)
    }

    /// Runs `make`, which creates `name` in `parent`, after removing an earlier entry of the name.
    fn place<T>(
        &mut self,
        path: &EntryPath,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Failure> {
        self.enter(path)?;
        let (_, name) = path.split();
        match make(self.parent(), name) {
            Err(Errno::EXIST) => {
                remove_at(self.parent(), name)?;
                Ok(make(self.parent(), name)?)
            }
            other => Ok(other?),
        }
    }

    fn remove(&mut self, path: &EntryPath) -> Result<(), Failure> {
        self.enter(path)?;
        remove_at(self.parent(), path.split().1)
    }

    fn exists(&mut self, path: &EntryPath) -> Result<bool, Failure> {
        self.enter(path)?;
        Ok(kind_of(self.parent(), path.split().1)?.is_some())
    }

    /// Creates and opens the parent of `path`, as the last of `self.open`.
    fn enter(&mut self, path: &EntryPath) -> Result<(), Failure> {
        let (components, _) = path.split();
        let mut depth = 0;
        for component in components {
            if self
                .open
                .get(depth)
                .is_some_and(|(name, _)| name == component)
            {
                depth += 1;
                continue;
            }
            self.open.truncate(depth);
            let directory = open_directory(self.parent(), component, true)
                .and_then(|opened| opened.ok_or(Failure::System(Errno::NOENT)))
                .map_err(|failure| self.blocked(component, failure))?;
            self.open.push((component.to_owned(), directory));
            depth += 1;
        }
        self.open.truncate(depth);
        Ok(())
    }

    fn parent(&self) -> BorrowedFd<'_> {
        (self.open.last()).map_or(self.root.as_fd(), |(_, directory)| directory.as_fd())
    }

    /// Opens the parent of the target of a hard link, if it exists.
    fn find_parent(&self, target: &EntryPath) -> Result<Option<OwnedFd>, Failure> {
        let mut directory = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for component in target.split().0 {
            match open_directory(directory.as_fd(), component, false)? {
                Some(opened) => directory = opened,
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    /// Replaces the component in an error by its whole path.
    fn blocked(&self, component: &[u8], failure: Failure) -> Failure {
        let whole = || {
            let mut path = String::new();
            for (name, _) in &self.open {
                path.push_str(&lossy(name));
                path.push('/');
            }
            path + &lossy(component)
        };
        match failure {
            Failure::Entry(EntryProblem::BelowSymlink(_)) => {
                Failure::Entry(EntryProblem::BelowSymlink(whole()))
            }
            Failure::Entry(EntryProblem::BelowFile(_)) => {
                Failure::Entry(EntryProblem::BelowFile(whole()))
            }
            other => other,
        }
    }

    fn timestamps(&self, mtime: Mtime) -> Timestamps {
        let seconds = mtime.seconds.clamp(EARLIEST, self.latest);
        let nanoseconds = if seconds == mtime.seconds {
            mtime.nanoseconds.into()
        } else {
            0
        };
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: seconds,
                tv_nsec: nanoseconds,
            },
        }
    }

    fn error(&self, member: &str, path: &EntryPath, failure: Failure) -> ArchiveError {
        match failure {
            Failure::Entry(problem) => ArchiveError::Entry {
                member: member.to_owned(),
                entry: path.lossy(),
                problem,
            },
            Failure::System(errno) => self.write_error(path, errno.into()),
        }
    }

    pub(super) fn write_error(&self, path: &EntryPath, source: io::Error) -> ArchiveError {
        ArchiveError::write(self.root_path.join(path.lossy()), source)
    }
}

/// Writes a file below `root` without following links, and replaces an earlier one. For files that
/// are added to the tree of an archive.
pub(crate) fn replace_file_nofollow(
    root: &Path,
    directory: &str,
    name: &str,
    contents: &[u8],
) -> io::Result<()> {
    let root = rustix::fs::open(root, directory_flags(), Mode::empty())?;
    let parent = match open_directory(root.as_fd(), directory.as_bytes(), true) {
        Ok(Some(parent)) => parent,
        Ok(None) => return Err(io::ErrorKind::NotFound.into()),
        Err(Failure::System(errno)) => return Err(errno.into()),
        Err(Failure::Entry(_)) => return Err(io::ErrorKind::NotADirectory.into()),
    };
    match remove_at(parent.as_fd(), name.as_bytes()) {
        Ok(()) => {}
        Err(Failure::System(errno)) => return Err(errno.into()),
        Err(Failure::Entry(_)) => return Err(io::ErrorKind::IsADirectory.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
    io::Write::write_all(&mut File::from(file), contents)
}

/// Writes at an offset of a file.
pub(super) fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn directory_mode() -> Mode {
    Mode::from_raw_mode(0o777)
}

/// Opens a directory below another, and creates it if `make` is set. `None` when there is none.
fn open_directory(
    parent: BorrowedFd<'_>,
    name: &[u8],
    make: bool,
) -> Result<Option<OwnedFd>, Failure> {
    match rustix::fs::openat(parent, name, directory_flags(), Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) if !make => Ok(None),
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(parent, name, directory_mode())?;
            let directory = rustix::fs::openat(parent, name, directory_flags(), Mode::empty())?;
            Ok(Some(directory))
        }
        // Which of the two a symbolic link causes depends on the platform.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let problem = match kind_of(parent, name)? {
                Some(FileType::Symlink) => EntryProblem::BelowSymlink(lossy(name)),
                _ => EntryProblem::BelowFile(lossy(name)),
            };
            Err(Failure::Entry(problem))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a file, a link or an empty directory, if there is one.
fn remove_at(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Failure> {
    match kind_of(parent, name)? {
        None => Ok(()),
        Some(FileType::Directory) => match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                Err(Failure::Entry(EntryProblem::ReplacesDirectory))
            }
            other => Ok(other?),
        },
        Some(_) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
    }
}

/// The type of what is there, without following links.
fn kind_of(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
