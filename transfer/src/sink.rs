//! Sinks: where the bytes of a job go.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use crate::Sha256;

/// Why a sink failed.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The content is not in the format that the sink expects, such as HTML instead of an archive.
    /// Another mirror may have the right bytes.
    #[error("the content was rejected")]
    Rejected(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The sink itself failed, and would with the bytes of any mirror.
    #[error("cannot store the content")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file could not be written, for example because the disk is full.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Takes the bytes of a file in order, while they arrive.
#[async_trait]
pub trait Sink: Send {
    /// Takes the next bytes. May wait: a slow sink slows the download down.
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError>;

    /// Discards all bytes so far: the next byte is the first of the file again.
    async fn restart(&mut self) -> Result<(), SinkError>;

    /// Completes the file: all bytes have been written, and their digest is right if one is known.
    /// The last chance to reject the content. Nothing is final before.
    async fn finish(&mut self) -> Result<(), SinkError>;
}

/// Keeps a small file in memory.
#[derive(Debug)]
pub struct MemorySink {
    bytes: Vec<u8>,
    limit: usize,
}

impl MemorySink {
    /// A sink that rejects files longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
        }
    }

    /// The bytes so far.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[async_trait]
impl Sink for MemorySink {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError> {
        if self.bytes.len() + bytes.len() > self.limit {
            let limit = self.limit;
            return Err(SinkError::Rejected(
                format!("it is longer than the limit of {limit} bytes").into(),
            ));
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.bytes.clear();
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Writes a file beside its final name, and renames it when it is complete.
#[derive(Debug)]
pub struct FileSink {
    target: PathBuf,
    partial: PathBuf,
    file: Option<tokio::fs::File>,
    /// The bytes so far, if they are kept in memory until the end.
    memory: Option<Vec<u8>>,
}

impl FileSink {
    /// A sink that writes the file `target`; its directory must exist.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let target = target.into();
        // Two jobs may write the same file at the same time, in this process or in another, which
        // may be on another machine and have the same process id.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = since.map_or(0, |since| since.subsec_nanos());
        let id = format!(".{}-{count}-{nanos:x}.part", std::process::id());
        let partial = beside(&target, &id);
        Self {
            target,
            partial,
            file: None,
            memory: None,
        }
    }

    /// Keeps the bytes in memory until they are complete: less work for a small file.
    pub(crate) fn in_memory(mut self) -> Self {
        self.memory = Some(Vec::new());
        self
    }

    fn failed(&self, source: io::Error) -> SinkError {
        SinkError::Write {
            path: self.partial.clone(),
            source,
        }
    }

    async fn file(&mut self) -> Result<&mut tokio::fs::File, SinkError> {
        if self.file.is_none() {
            let partial = self.partial.clone();
            let create = move || {
                remove_leftovers(partial.parent().unwrap_or(Path::new("")));
                create_locked(&partial)
            };
            let created = tokio::task::spawn_blocking(create).await;
            let created = created.unwrap_or_else(|error| Err(io::Error::other(error)));
            let file = created.map_err(|source| self.failed(source))?;
            self.file = Some(tokio::fs::File::from_std(file));
        }
        Ok(self.file.as_mut().expect("it was just put there"))
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError> {
        if let Some(memory) = &mut self.memory {
            memory.extend_from_slice(&bytes);
            return Ok(());
        }
        match self.file().await?.write_all(&bytes).await {
            Ok(()) => Ok(()),
            Err(source) => Err(self.failed(source)),
        }
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        if let Some(memory) = &mut self.memory {
            memory.clear();
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        // The last write may still be under way in the background, and must not reach the file
        // after it was truncated.
        let emptied = async {
            file.flush().await?;
            file.rewind().await?;
            file.set_len(0).await
        };
        emptied.await.map_err(|source| self.failed(source))
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        if let Some(memory) = &mut self.memory {
            let bytes = std::mem::take(memory);
            let (partial, target) = (self.partial.clone(), self.target.clone());
            let write = move || write_at_once(&bytes, &partial, &target);
            let written = tokio::task::spawn_blocking(write).await;
            let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
            return written.map_err(|source| self.failed(source));
        }
        let result = match self.file().await?.flush().await {
            Ok(()) => tokio::fs::rename(&self.partial, &self.target).await,
            Err(source) => Err(source),
        };
        result.map_err(|source| self.failed(source))?;
        self.file = None;
        Ok(())
    }
}

/// The path of a file beside `path`, whose name ends with `suffix`. A long name is replaced by its digest: most file
/// systems allow 255 bytes.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    const MAX_NAME: usize = 255;
    let name = path.file_name().unwrap_or_default();
    let mut new = name.to_os_string();
    if name.len() + suffix.len() > MAX_NAME {
        let digest = Sha256::of(name.as_encoded_bytes()).to_string();
        new = format!(".{}", &digest[..32]).into();
    }
    new.push(suffix);
    path.with_file_name(new)
}

/// Creates a file, never that of another job, and locks it while it is open. The lock shows other runs that it is in use;
/// on a file system without locks it is not.
fn create_locked(path: &Path) -> io::Result<std::fs::File> {
    loop {
        let file = std::fs::File::create_new(path)?;
        let _ = file.lock();
        // Another run may have taken it for a leftover before it was locked.
        if path.exists() {
            return Ok(file);
        }
    }
}

/// Removes what killed runs have left in a directory, once per directory and process: files with the name of a partial
/// that is not locked. Errors are ignored: a leftover is never taken for the file.
fn remove_leftovers(directory: &Path) {
    static DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !done.insert(directory.to_owned()) {
        return;
    }
    drop(done);
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !is_partial_name(&entry.file_name().to_string_lossy()) {
            continue;
        }
        if let Ok(file) = std::fs::File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether a name ends as that of a [`FileSink`]'s partial: `.PID-COUNT-NANOS.part`.
fn is_partial_name(name: &str) -> bool {
    let Some((_, id)) = name
        .strip_suffix(".part")
        .and_then(|it| it.rsplit_once('.'))
    else {
        return false;
    };
    let parts: Vec<&str> = id.split('-').collect();
    let is_made_of = |part: &str, is_digit: fn(u8) -> bool| {
        !part.is_empty() && part.len() <= 10 && part.bytes().all(is_digit)
    };
    let [pid, count, nanos] = parts[..] else {
        return false;
    };
    is_made_of(pid, |b| b.is_ascii_digit())
        && is_made_of(count, |b| b.is_ascii_digit())
        && is_made_of(nanos, |b| b.is_ascii_hexdigit())
}

/// Writes a whole file beside its final name, and renames it.
fn write_at_once(bytes: &[u8], partial: &Path, target: &Path) -> io::Result<()> {
    let write = || {
        let mut file = create_locked(partial)?;
        file.write_all(bytes)?;
        std::fs::rename(partial, target)
    };
    write().inspect_err(|error| {
        if error.kind() != io::ErrorKind::AlreadyExists {
            // An error here is ignored: a leftover is never taken for the file.
            let _ = std::fs::remove_file(partial);
        }
    })
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // An error here is ignored: a leftover is never taken for the file.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &std::path::Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_names_of_partials_are_recognised_and_fit() {
        for name in ["k.4778-0-109faf99.part", ".0a0b.1-2-3.part"] {
            assert!(is_partial_name(name), "{name}");
        }
        for name in [
            "k.part",
            "a.1-2.part",
            "a.1-2-x.part",
            "a.1-2-3",
            "1-2-3.part",
        ] {
            assert!(!is_partial_name(name), "{name}");
        }
        let long = "n".repeat(255);
        for suffix in [".taipan-part", ".4778-0-109faf99.part"] {
            let path = beside(Path::new(&long), suffix);
            assert!(path.as_os_str().len() <= 255, "{path:?}");
            assert_ne!(path, beside(Path::new(&long[1..]), suffix));
        }
    }

    #[tokio::test]
    async fn leftovers_of_killed_runs_are_removed_and_partials_in_use_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let used = create_locked(&path("a.1-0-1.part")).unwrap();
        std::fs::write(path("b.2-0-2.part"), "left").unwrap();
        std::fs::write(path("mine.part"), "mine").unwrap();
        let mut sink = FileSink::new(path("file"));
        sink.write(Bytes::from_static(b"x")).await.unwrap();
        sink.finish().await.unwrap();
        assert_eq!(names(dir.path()), ["a.1-0-1.part", "file", "mine.part"]);
        drop(used);
    }

    #[tokio::test]
    async fn a_restarted_sink_keeps_no_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for round in 0..50 {
            let mut sink = FileSink::new(&path);
            for _ in 0..3 {
                sink.write(vec![b'x'; 1 << 20].into()).await.unwrap();
                sink.restart().await.unwrap();
            }
            sink.write(Bytes::from_static(b"right")).await.unwrap();
            sink.finish().await.unwrap();
            drop(sink);
            assert_eq!(std::fs::read(&path).unwrap(), b"right", "round {round}");
        }
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[tokio::test]
    async fn an_empty_file_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        FileSink::new(&path).finish().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[tokio::test]
    async fn a_sink_that_cannot_write_names_the_path_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = FileSink::new(dir.path().join("no/such/file"));
        let error = sink.write(Bytes::from_static(b"x")).await.unwrap_err();
        assert!(error.to_string().contains("no/such/file"), "{error}");
        // The final name is that of a directory.
        std::fs::create_dir_all(dir.path().join("taken/x")).unwrap();
        let mut sink = FileSink::new(dir.path().join("taken"));
        sink.write(Bytes::from_static(b"x")).await.unwrap();
        sink.finish().await.unwrap_err();
        drop(sink);
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[tokio::test]
    async fn a_memory_sink_rejects_a_file_beyond_its_limit() {
        let mut sink = MemorySink::new(4);
        sink.write(Bytes::from_static(b"1234")).await.unwrap();
        let error = sink.write(Bytes::from_static(b"5")).await.unwrap_err();
        assert!(matches!(error, SinkError::Rejected(_)));
        sink.restart().await.unwrap();
        sink.write(Bytes::from_static(b"56")).await.unwrap();
        assert_eq!(sink.into_bytes(), b"56");
    }
}
