//! The content of a server: paths and bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use md5::{Digest as _, Md5};

use crate::content::Content;

/// A shared, mutable map from path to bytes; clones see the same map.
///
/// Paths have no leading slash (one that is given is dropped) and are not percent-encoded.
#[derive(Debug, Clone, Default)]
pub struct Site {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Object>,
    /// The directory of files that are not in `objects`.
    root: Option<PathBuf>,
    /// Files of `root` that have been removed from the site. The directory itself is never
    /// written to.
    removed: BTreeSet<String>,
}

/// One file of a site, with the validators and headers it is served with.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) content: Content,
    /// With its quotes, always strong.
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Object {
    /// The entity tag is the MD5 of the content, as for a plain upload to S3.
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self {
            etag: format!("\"{}\"", hex::encode(Md5::digest(&bytes))),
            content: Content::Memory(bytes),
            modified: SystemTime::now(),
            headers: Vec::new(),
        }
    }

    /// The tag of a file on disk is made of size and time: hashing gigabytes before the first response would
    /// distort measurements.
    fn from_file(path: PathBuf, metadata: &fs::Metadata) -> Self {
        let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
        let nanos = modified
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let len = metadata.len();
        Self {
            content: Content::File { path, len },
            etag: format!("\"{len:x}-{nanos:x}\""),
            modified,
            headers: Vec::new(),
        }
    }
}

impl Site {
    pub fn new() -> Self {
        Self::default()
    }

    /// A site over a directory. Files are looked up and read when they are requested, so files
    /// that appear or change later are seen. Symbolic links are followed.
    pub fn from_dir(dir: impl Into<PathBuf>) -> Self {
        let inner = Inner {
            root: Some(dir.into()),
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Adds or replaces a file; its modification time is now.
    pub fn insert(&self, path: &str, bytes: impl Into<Bytes>) {
        self.put(path, Object::new(bytes.into()));
    }

    /// Like [`Site::insert`], with a modification time of the caller's choice.
    pub fn insert_at(&self, path: &str, bytes: impl Into<Bytes>, modified: SystemTime) {
        self.put(
            path,
            Object {
                modified,
                ..Object::new(bytes.into())
            },
        );
    }

    /// Like [`Site::insert`], with headers that every response with the file has.
    ///
    /// # Panics
    ///
    /// When a name or value is not valid in a header.
    pub fn insert_with_headers(
        &self,
        path: &str,
        bytes: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) {
        let header = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().expect("a name of a header");
            let value: HeaderValue = value.parse().expect("a value of a header");
            (name, value)
        };
        let mut object = Object::new(bytes.into());
        object.headers = headers.iter().map(header).collect();
        self.put(path, object);
    }

    /// Removes a file from the site (never from disk); returns whether it was there.
    pub fn remove(&self, path: &str) -> bool {
        let path = plain(path);
        let mut inner = self.lock();
        let on_disk = inner.on_disk(path).is_some();
        if on_disk {
            inner.removed.insert(path.to_owned());
        }
        inner.objects.remove(path).is_some() || on_disk
    }

    /// The bytes of a file, read from disk if need be; `None` if it is not there or not readable.
    pub fn get(&self, path: &str) -> Option<Bytes> {
        self.object(path)?.content.read_all().ok()
    }

    pub fn contains(&self, path: &str) -> bool {
        self.object(path).is_some()
    }

    /// All paths in order of their bytes. A directory that cannot be read counts as empty.
    pub fn paths(&self) -> Vec<String> {
        self.objects().into_keys().collect()
    }

    /// An independent copy with the files for which `keep` holds, such as a partly synchronised mirror. Bytes are
    /// shared, not copied.
    #[must_use]
    pub fn half(&self, keep: impl Fn(&str) -> bool) -> Self {
        let mut objects = self.objects();
        objects.retain(|path, _| keep(path));
        let inner = Inner {
            objects,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    pub(crate) fn put(&self, path: &str, object: Object) {
        self.lock().objects.insert(plain(path).to_owned(), object);
    }

    /// Puts an object if `allowed` accepts the current one, both under one lock, as a conditional PUT requires.
    /// Returns whether it was put.
    pub(crate) fn put_if(
        &self,
        path: &str,
        object: Object,
        allowed: impl FnOnce(Option<&Object>) -> bool,
    ) -> bool {
        let path = plain(path);
        let mut inner = self.lock();
        let current = inner.find(path);
        let allowed = allowed(current.as_ref());
        if allowed {
            inner.objects.insert(path.to_owned(), object);
        }
        allowed
    }

    pub(crate) fn object(&self, path: &str) -> Option<Object> {
        self.lock().find(plain(path))
    }

    pub(crate) fn objects(&self) -> BTreeMap<String, Object> {
        let inner = self.lock();
        let mut objects = inner.objects.clone();
        if let Some(root) = &inner.root {
            let mut found = Vec::new();
            // An unreadable directory has no files: requests get 404.
            let _ = walk(root, "", 0, &mut found);
            for (path, object) in found {
                if !inner.removed.contains(&path) {
                    objects.entry(path).or_insert(object);
                }
            }
        }
        objects
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn find(&self, path: &str) -> Option<Object> {
        self.objects
            .get(path)
            .cloned()
            .or_else(|| self.on_disk(path))
    }

    fn on_disk(&self, path: &str) -> Option<Object> {
        let root = self.root.as_ref()?;
        let relative = Path::new(path);
        let inside = relative
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || path.contains('\0') || !inside || self.removed.contains(path) {
            return None;
        }
        let file = root.join(relative);
        let metadata = fs::metadata(&file).ok()?;
        metadata
            .is_file()
            .then(|| Object::from_file(file, &metadata))
    }
}

fn plain(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn walk(dir: &Path, below: &str, depth: u32, into: &mut Vec<(String, Object)>) -> io::Result<()> {
    // Links may form a loop; no channel is this deep.
    if depth > 64 {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        if metadata.is_dir() {
            walk(&entry.path(), &path, depth + 1, into)?;
        } else if metadata.is_file() {
            into.push((path, Object::from_file(entry.path(), &metadata)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_content_and_clones_share_it() {
        let site = Site::new();
        let clone = site.clone();
        site.insert("/a/b", "one");
        let first = clone.object("a/b").unwrap().etag;
        site.insert("a/b", "two");
        let second = clone.object("a/b").unwrap().etag;
        site.insert("a/b", "one");
        assert_ne!(first, second);
        assert_eq!(clone.object("a/b").unwrap().etag, first);
        assert!(clone.remove("a/b"));
        assert!(!site.contains("a/b"));
    }

    #[test]
    fn a_directory_is_served_lazily_and_never_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("secret"), "no").unwrap();
        let site = Site::from_dir(dir.path().join("sub"));
        assert_eq!(site.get("late"), None);
        fs::write(dir.path().join("sub/late"), "here").unwrap();
        assert_eq!(site.get("late").unwrap(), "here");
        assert_eq!(site.paths(), ["late"]);
        assert_eq!(site.get("../secret"), None);
        assert_eq!(site.get("x/../late"), None);
        assert!(site.remove("late"));
        assert_eq!(site.get("late"), None);
        assert!(site.paths().is_empty());
        assert!(dir.path().join("sub/late").exists());
    }

    #[test]
    fn a_half_synced_copy_is_independent() {
        let site = Site::new();
        site.insert("keep", "1");
        site.insert("drop", "2");
        let half = site.half(|path| path != "drop");
        site.insert("later", "3");
        assert_eq!(half.paths(), ["keep"]);
    }
}
