//! Mirrors in local directories.

use std::{io, path::PathBuf};

use async_trait::async_trait;
use bytes::BytesMut;
use futures_util::{StreamExt as _, stream};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};

use crate::{
    BackendError, Target,
    backend::{Backend, GetRequest, GetResponse, Validators},
};

/// How many bytes are read at a time.
const PIECE: usize = 256 * 1024;

/// A local directory, or one on a mounted file system.
#[derive(Debug, Clone)]
pub struct FileBackend {
    root: PathBuf,
}

impl FileBackend {
    /// The backend for the directory at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, target: &Target) -> Result<PathBuf, BackendError> {
        let mut path = self.root.clone();
        let bad = || BackendError::BadPath {
            path: target.path.clone(),
            place: self.root.display().to_string(),
        };
        for segment in target.segments().ok_or_else(bad)? {
            // On Windows a segment with these could be a path of its own.
            if cfg!(windows) && segment.contains(['\\', ':']) {
                return Err(bad());
            }
            path.push(segment);
        }
        Ok(path)
    }

    /// Like [`get`](Backend::get), from this path, wherever it is.
    pub(crate) async fn get_path(
        &self,
        path: PathBuf,
        request: GetRequest<'_>,
    ) -> Result<GetResponse, BackendError> {
        let mut range = request.ranges.one(|| path.display().to_string())?;
        let error = |source: io::Error| BackendError::Read {
            path: path.clone(),
            source,
        };
        // Checked before opening, because to open a pipe would wait for its other end.
        let metadata = tokio::fs::metadata(&path).await.map_err(error)?;
        if !metadata.is_file() {
            return Err(error(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let mut file = File::open(&path).await.map_err(error)?;
        let metadata = file.metadata().await.map_err(error)?;
        // The ETag consists of length and modification time, as in most web servers.
        let modified = metadata.modified().ok().and_then(|time| {
            time.duration_since(std::time::UNIX_EPOCH)
                .ok()
                .map(|since| since.as_nanos())
        });
        let etag = modified.map(|nanos| format!("\"{:x}-{nanos:x}\"", metadata.len()));
        let validators = Validators {
            etag,
            last_modified: None,
        };
        if request
            .validators
            .is_some_and(|v| v.etag.is_some() && v.etag == validators.etag)
        {
            return Ok(GetResponse::NotModified);
        }
        if request
            .if_range
            .is_some_and(|etag| Some(etag) != validators.etag.as_deref())
        {
            range = None;
        }
        if let Some(wanted) = range.filter(|r| r.start() >= metadata.len()) {
            let url = path.display().to_string();
            return Err(BackendError::BeyondEnd { url, wanted });
        }
        let start = range.map_or(0, |range| range.start());
        let end = range
            .and_then(|range| range.end())
            .unwrap_or(u64::MAX)
            .min(metadata.len());
        file.seek(io::SeekFrom::Start(start)).await.map_err(error)?;
        let left = end.saturating_sub(start);
        let body = stream::try_unfold((file, left, path), |(mut file, left, path)| async move {
            if left == 0 {
                return Ok(None);
            }
            let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let mut piece = BytesMut::with_capacity(room);
            match (&mut file).take(left).read_buf(&mut piece).await {
                Ok(0) => Ok(None),
                Ok(read) => Ok(Some((piece.freeze(), (file, left - read as u64, path)))),
                Err(source) => Err(BackendError::Read { path, source }),
            }
        });
        let total = Some(metadata.len());
        Ok(GetResponse::Body {
            start,
            end: range.map(|_| end),
            total,
            validators,
            duplicates: None,
            body: body.boxed(),
        })
    }
}

#[async_trait]
impl Backend for FileBackend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let path = self.path(request.target)?;
        self.get_path(path, request).await
    }

    fn has_multi_range(&self) -> bool {
        false
    }

    fn describe(&self, target: &Target) -> String {
        self.path(target)
            .unwrap_or_else(|_| self.root.clone())
            .display()
            .to_string()
    }
}
