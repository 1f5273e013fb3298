//! Links one unchanged file of the store into a prefix.

use std::collections::HashMap;
use std::fs::{self, File, FileTimes, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::options::LinkMethod;
use crate::platform;

/// Which methods work between the store and the prefix. One probe per source file system.
#[derive(Debug)]
pub(crate) struct Linker {
    wanted: Vec<LinkMethod>,
    /// A directory for probes, on the file system of the prefix.
    scratch: PathBuf,
    by_device: Mutex<HashMap<u64, Arc<Methods>>>,
}

/// The methods that work for one source file system. A method is removed when it is impossible
/// there, not when it fails for one file.
#[derive(Debug)]
pub(crate) struct Methods {
    hard_link: AtomicBool,
    reflink: AtomicBool,
    soft_link: AtomicBool,
}

impl Linker {
    /// `scratch` must exist and be on the file system of the prefix.
    pub(crate) fn new(wanted: &[LinkMethod], scratch: PathBuf) -> Self {
        Self {
            wanted: wanted.to_vec(),
            scratch,
            by_device: Mutex::default(),
        }
    }

    /// The methods for the files of a package, of which `sample` is one.
    pub(crate) fn methods(&self, sample: &Path) -> io::Result<Arc<Methods>> {
        let metadata = fs::symlink_metadata(sample)?;
        let device = platform::device(&metadata);
        let mut known = self
            .by_device
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(methods) = known.get(&device) {
            return Ok(Arc::clone(methods));
        }
        let has = |method| self.wanted.contains(&method);
        let methods = Methods {
            hard_link: AtomicBool::new(
                has(LinkMethod::HardLink) && self.hard_links_work(sample, &metadata),
            ),
            reflink: AtomicBool::new(has(LinkMethod::Reflink)),
            soft_link: AtomicBool::new(has(LinkMethod::SoftLink)),
        };
        let methods = Arc::new(methods);
        known.insert(device, Arc::clone(&methods));
        Ok(methods)
    }

    /// The methods to try, best first; copying is the last resort.
    pub(crate) fn order(&self) -> &[LinkMethod] {
        &self.wanted
    }

    /// Some file systems (`BeeGFS`) create a symbolic link instead, so the result is checked.
    fn hard_links_work(&self, sample: &Path, source: &Metadata) -> bool {
        let probe = self.scratch.join("probe");
        if fs::hard_link(sample, &probe).is_err() {
            return false;
        }
        let works = fs::symlink_metadata(&probe)
            .is_ok_and(|metadata| platform::same_file(&metadata, source));
        let _ = fs::remove_file(&probe);
        works
    }
}

impl Methods {
    /// The best method that works, for the record of the package.
    pub(crate) fn best(&self, order: &[LinkMethod]) -> LinkMethod {
        order
            .iter()
            .copied()
            .find(|&method| self.allows(method))
            .unwrap_or(LinkMethod::Copy)
    }

    /// Links `source` to `target`, which must not exist, and returns the method.
    pub(crate) fn link(
        &self,
        order: &[LinkMethod],
        source: &Path,
        target: &Path,
    ) -> io::Result<LinkMethod> {
        for &method in order {
            if !self.allows(method) {
                continue;
            }
            let result = match method {
                LinkMethod::HardLink => fs::hard_link(source, target),
                LinkMethod::SoftLink => {
                    // A missing source would make a dangling link instead of an error.
                    fs::symlink_metadata(source)?;
                    platform::symlink(source, target)
                }
                LinkMethod::Reflink => reflink(source, target),
                LinkMethod::Copy => break,
            };
            match result {
                Ok(()) => return Ok(method),
                Err(error) if platform::try_another_method(&error) => {
                    // Too many links to one inode, or a refusal, concern one file; a reflink that
                    // fails here fails for every file.
                    if method == LinkMethod::Reflink {
                        self.reflink.store(false, Ordering::Relaxed);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        copy(source, target)?;
        Ok(LinkMethod::Copy)
    }

    fn allows(&self, method: LinkMethod) -> bool {
        match method {
            LinkMethod::HardLink => self.hard_link.load(Ordering::Relaxed),
            LinkMethod::Reflink => self.reflink.load(Ordering::Relaxed),
            LinkMethod::SoftLink => self.soft_link.load(Ordering::Relaxed),
            LinkMethod::Copy => true,
        }
    }
}

/// Copies bytes, permission bits and modification time. A symbolic link is recreated.
///
/// The time matters, because byte code contains the time of its source.
pub(crate) fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    if metadata.is_symlink() {
        return copy_symlink(source, target);
    }
    let mut from = File::open(source)?;
    let mut to = platform::create_like(target, &metadata)?;
    io::copy(&mut from, &mut to)?;
    set_times(&to, &metadata)
}

/// Recreates a symbolic link with the same target text, dangling or not.
pub(crate) fn copy_symlink(source: &Path, target: &Path) -> io::Result<()> {
    platform::symlink(&fs::read_link(source)?, target)
}

fn reflink(source: &Path, target: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    if metadata.is_symlink() {
        return copy_symlink(source, target);
    }
    let from = File::open(source)?;
    let to = platform::create_like(target, &metadata)?;
    let done = reflink_copy::reflink_file(&from, &to).and_then(|()| set_times(&to, &metadata));
    if done.is_err() {
        // The next method needs the name.
        let _ = fs::remove_file(target);
    }
    done
}

fn set_times(file: &File, like: &Metadata) -> io::Result<()> {
    file.set_times(FileTimes::new().set_modified(like.modified()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn file(path: &Path, mode: u32) {
        fs::write(path, "content").unwrap();
        let file = File::open(path).unwrap();
        file.set_times(
            FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)),
        )
        .unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn hard_links_share_the_inode_and_copies_keep_mode_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        file(&source, 0o444);
        let linker = Linker::new(&[LinkMethod::HardLink], dir.path().to_path_buf());
        let methods = linker.methods(&source).unwrap();
        let target = dir.path().join("linked");
        assert_eq!(
            methods.link(linker.order(), &source, &target).unwrap(),
            LinkMethod::HardLink
        );
        assert_eq!(
            fs::metadata(&target).unwrap().ino(),
            fs::metadata(&source).unwrap().ino()
        );

        for order in [&[][..], &[LinkMethod::Reflink]] {
            let linker = Linker::new(order, dir.path().to_path_buf());
            let target = dir.path().join(format!("copy{}", order.len()));
            linker
                .methods(&source)
                .unwrap()
                .link(order, &source, &target)
                .unwrap();
            let (copy, original) = (
                fs::metadata(&target).unwrap(),
                fs::metadata(&source).unwrap(),
            );
            assert_ne!(copy.ino(), original.ino());
            assert_eq!(copy.permissions().mode() & 0o777, 0o444);
            assert_eq!(copy.modified().unwrap(), original.modified().unwrap());
            assert_eq!(fs::read(&target).unwrap(), b"content");
        }
    }

    #[test]
    fn a_missing_source_is_an_error_for_every_method() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        file(&source, 0o644);
        for method in [
            LinkMethod::HardLink,
            LinkMethod::Reflink,
            LinkMethod::SoftLink,
            LinkMethod::Copy,
        ] {
            let linker = Linker::new(&[method], dir.path().to_path_buf());
            let methods = linker.methods(&source).unwrap();
            let missing = dir.path().join("missing");
            let error = methods
                .link(&[method], &missing, &dir.path().join("t"))
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{method:?}");
        }
    }

    #[test]
    fn an_existing_target_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        file(&source, 0o644);
        fs::write(&target, "mine").unwrap();
        for order in [&[LinkMethod::HardLink][..], &[LinkMethod::Reflink], &[]] {
            let linker = Linker::new(order, dir.path().to_path_buf());
            let error = linker
                .methods(&source)
                .unwrap()
                .link(order, &source, &target)
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&target).unwrap(), b"mine");
        }
    }

    #[test]
    fn symbolic_links_are_recreated_even_when_dangling() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        platform::symlink(Path::new("../nowhere"), &source).unwrap();
        copy(&source, &dir.path().join("copy")).unwrap();
        assert_eq!(
            fs::read_link(dir.path().join("copy")).unwrap(),
            Path::new("../nowhere")
        );
    }
}
