//! Destinations in local directories.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Condition, Deletion, Destination, Held, ListedFile, Listing, NewFile, PutOptions, Stored,
    content::{Content, Hashes, PIECE},
    sending::Sending,
};
use crate::{BackendError, Expected, Target, VerifyError};

/// How the name of a file begins that is not complete.
const PARTIAL: &str = ".taipan-new-";

/// The most files of one part of a listing.
const PAGE: usize = 10_000;

/// A local directory, or one on a mounted file system. A file gets its name when it is complete, verified and on the
/// disk.
#[derive(Debug, Clone)]
pub struct FileDestination {
    root: PathBuf,
}

impl FileDestination {
    /// The directory at `root`. It is created with the first file.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, target: &Target) -> Result<PathBuf, BackendError> {
        let mut path = self.root.clone();
        let segments = target.segments().ok_or_else(|| BackendError::BadPath {
            path: target.path.clone(),
            place: self.root.display().to_string(),
        })?;
        path.extend(segments);
        Ok(path)
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

#[async_trait]
impl Destination for FileDestination {
    async fn look(
        &self,
        target: &Target,
        expected: &Expected,
    ) -> Result<Option<Held>, BackendError> {
        let path = self.path(target)?;
        let expected = *expected;
        self.blocking(move || look(&path, &expected)).await
    }

    async fn put(
        &self,
        files: &[NewFile],
        _: PutOptions,
        sending: &Arc<Sending>,
    ) -> Result<Vec<Stored>, BackendError> {
        let mut stored = Vec::with_capacity(files.len());
        for file in files {
            let path = self.path(&file.target)?;
            let (root, file, meter) = (self.root.clone(), file.clone(), Arc::clone(sending));
            let cancelled = CancelOnDrop::default();
            let flag = Arc::clone(&cancelled.0);
            let put = move || put(&root, &path, &file, &meter, &flag);
            stored.push(self.blocking(put).await?);
        }
        Ok(stored)
    }

    async fn delete(&self, targets: &[Target]) -> Result<Vec<Deletion>, BackendError> {
        let paths: Result<Vec<PathBuf>, _> = targets.iter().map(|it| self.path(it)).collect();
        let paths = paths?;
        let delete = move || {
            let delete = |path: PathBuf| match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Deletion::Refused(error.to_string())
                }
                _ => Deletion::Done,
            };
            paths.into_iter().map(delete).collect()
        };
        Ok(self.blocking(delete).await)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Option<Listing>, BackendError> {
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        let after = after.unwrap_or_default().to_owned();
        let listing = move || list(&root, &prefix, &after);
        self.blocking(listing).await.map(Some)
    }

    async fn tags(&self, _: &str) -> Result<Option<Vec<String>>, BackendError> {
        Ok(None)
    }

    /// Conditions are honoured under a lock, which other programs do not take.
    async fn honours_conditions(&self) -> Result<bool, BackendError> {
        Ok(true)
    }

    async fn sweep(&self, older_than: Duration) -> Result<usize, BackendError> {
        let root = self.root.clone();
        let sweep = move || {
            let mut count = 0;
            walk(&root, &mut |path, metadata| {
                let age = (metadata.modified().ok())
                    .and_then(|time| SystemTime::now().duration_since(time).ok());
                if is_partial(path) && age.is_some_and(|age| age >= older_than) {
                    count += usize::from(fs::remove_file(path).is_ok());
                }
            })
            .map(|()| count)
            .map_err(|source| BackendError::Read { path: root, source })
        };
        self.blocking(sweep).await
    }

    fn describe(&self, target: &Target) -> String {
        let path = self.path(target).unwrap_or_else(|_| self.root.clone());
        path.display().to_string()
    }
}

/// Tells a thread that its result is not needed any more.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PARTIAL)
}

/// The entity tag of a file: its length and modification time, as when it is fetched.
fn etag(metadata: &fs::Metadata) -> Option<String> {
    let since = (metadata.modified().ok()?).duration_since(SystemTime::UNIX_EPOCH);
    let nanos = since.ok()?.as_nanos();
    Some(format!("\"{:x}-{nanos:x}\"", metadata.len()))
}

fn look(path: &Path, expected: &Expected) -> Result<Option<Held>, BackendError> {
    let failed = |source| BackendError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut held = Held {
        size: Some(metadata.len()),
        etag: etag(&metadata),
        ..Held::default()
    };
    let wants_digest = expected.sha256.is_some() || expected.md5.is_some();
    if wants_digest && expected.size.is_none_or(|size| size == metadata.len()) {
        let mut file = fs::File::open(path).map_err(failed)?;
        let mut buffer = vec![0; PIECE];
        let mut hashes = Hashes::with_md5();
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => hashes.add(&buffer[..read]),
            }
        }
        let (sha256, md5) = hashes.finish();
        (held.sha256, held.md5) = (Some(sha256), md5);
    }
    Ok(Some(held))
}

fn put(
    root: &Path,
    path: &Path,
    file: &NewFile,
    sending: &Sending,
    cancelled: &AtomicBool,
) -> Result<Stored, BackendError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let written = |source| BackendError::Write {
        path: path.to_owned(),
        source,
    };
    let directory = path.parent().unwrap_or(root);
    fs::create_dir_all(directory).map_err(written)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = nanos.map_or(0, |since| since.subsec_nanos());
    let name = format!("{PARTIAL}{}-{count}-{nanos:x}", std::process::id());
    let partial = directory.join(name);
    let result = write(&partial, file, sending, cancelled).map_err(|error| match error {
        WriteError::Write(source) => written(source),
        WriteError::Read(path, source) => BackendError::Read { path, source },
        WriteError::Digest(source) => BackendError::Corrupt {
            url: path.display().to_string(),
            source,
        },
    });
    let result = result.and_then(|()| {
        let _lock = match &file.condition {
            Condition::None => None,
            _ => Some(lock(directory).map_err(written)?),
        };
        let current = fs::metadata(path).ok();
        let holds = match &file.condition {
            Condition::None => true,
            Condition::Absent => current.is_none(),
            Condition::Unchanged(tag) => {
                current.and_then(|it| etag(&it)).as_deref() == Some(tag.as_str())
            }
        };
        if !holds {
            let url = path.display().to_string();
            return Err(BackendError::Conflict { url });
        }
        fs::rename(&partial, path).map_err(written)?;
        // The name is on the disk, too.
        let synced = fs::File::open(directory).and_then(|it| it.sync_all());
        synced.map_err(written)?;
        let etag = fs::metadata(path).ok().and_then(|it| etag(&it));
        Ok(Stored { etag })
    });
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result
}

/// The lock of a directory for conditional writes.
fn lock(directory: &Path) -> io::Result<fs::File> {
    let path = directory.join(".taipan-lock");
    let file = (fs::OpenOptions::new().create(true).append(true)).open(path)?;
    file.lock()?;
    Ok(file)
}

enum WriteError {
    Write(io::Error),
    Read(PathBuf, io::Error),
    Digest(VerifyError),
}

fn write(
    partial: &Path,
    file: &NewFile,
    sending: &Sending,
    cancelled: &AtomicBool,
) -> Result<(), WriteError> {
    let mut output = (fs::OpenOptions::new().write(true).create_new(true))
        .open(partial)
        .map_err(WriteError::Write)?;
    let mut hashes = Hashes::default();
    let mut pass = |bytes: &[u8]| {
        hashes.add(bytes);
        output.write_all(bytes).map_err(WriteError::Write)?;
        let until = sending.count(bytes.len() as u64);
        while let Some(left) = until.map(|it| it.saturating_duration_since(Instant::now()))
            && !left.is_zero()
            && !cancelled.load(Ordering::Relaxed)
        {
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        if cancelled.load(Ordering::Relaxed) {
            return Err(WriteError::Write(io::ErrorKind::Interrupted.into()));
        }
        sending.touch();
        Ok(())
    };
    match &file.content {
        Content::Bytes(bytes) => bytes.chunks(PIECE).try_for_each(&mut pass)?,
        Content::File { path, .. } => {
            let failed = |source| WriteError::Read(path.clone(), source);
            let mut input = fs::File::open(path).map_err(failed)?;
            let mut buffer = vec![0; PIECE];
            loop {
                match input.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    read => pass(&buffer[..read])?,
                }
            }
        }
    }
    let (got, _) = hashes.finish();
    if got != file.sha256 {
        let (expected, got) = (file.sha256.to_string(), got.to_string());
        return Err(WriteError::Digest(VerifyError::Digest {
            name: "sha256",
            expected,
            got,
        }));
    }
    output.sync_all().map_err(WriteError::Write)
}

/// Calls `visit` with each file below a directory. One that is missing is empty.
fn walk(directory: &Path, visit: &mut impl FnMut(&Path, &fs::Metadata)) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        // Not followed if it is a link: a loop would have no end.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            walk(&entry.path(), visit)?;
        } else if metadata.is_file() {
            visit(&entry.path(), &metadata);
        }
    }
    Ok(())
}

fn list(root: &Path, prefix: &str, after: &str) -> Result<Listing, BackendError> {
    // A prefix may end within a name.
    let start = match prefix.rsplit_once('/') {
        Some((directory, _)) => root.join(directory),
        None => root.to_owned(),
    };
    let mut files = Vec::new();
    let walked = walk(&start, &mut |path, metadata| {
        let Some(path) = path.strip_prefix(root).ok().and_then(Path::to_str) else {
            return;
        };
        if path.starts_with(prefix) && path > after && !is_partial(Path::new(path)) {
            files.push(ListedFile {
                path: path.to_owned(),
                held: Held {
                    size: Some(metadata.len()),
                    etag: etag(metadata),
                    ..Held::default()
                },
            });
        }
    });
    walked.map_err(|source| BackendError::Read {
        path: start,
        source,
    })?;
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let next = (files.len() > PAGE).then(|| files[PAGE - 1].path.clone());
    files.truncate(PAGE);
    Ok(Listing { files, next })
}
