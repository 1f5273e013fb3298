//! The bytes of a file that is sent.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use md5::Md5 as Md5Hasher;
use sha2::{Digest as _, Sha256 as Sha256Hasher};

use crate::{BackendError, Md5, Sha256};

/// How many bytes of a file are read at a time.
pub(super) const PIECE: usize = 256 << 10;

/// The bytes of a file. They can be read several times, and in parts: an attempt that failed is repeated, and several
/// destinations read at their own pace.
#[derive(Debug, Clone)]
pub enum Content {
    /// In memory.
    Bytes(Bytes),
    /// A local file, which must not change meanwhile.
    File {
        /// Its path.
        path: PathBuf,
        /// Its length in bytes.
        size: u64,
    },
}

impl Content {
    /// The content of a local file.
    pub async fn file(path: impl Into<PathBuf>) -> Result<Self, BackendError> {
        let path = path.into();
        match tokio::fs::metadata(&path).await {
            Ok(metadata) => Ok(Self::File {
                size: metadata.len(),
                path,
            }),
            Err(source) => Err(BackendError::Read { path, source }),
        }
    }

    /// The length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// The SHA-256 of bytes and their MD5.
    pub async fn digests(&self) -> Result<(Sha256, Md5), BackendError> {
        let hashed = self.hash(0..self.size(), Hashes::with_md5()).await?;
        Ok((hashed.0, hashed.1.unwrap_or(Md5::from_bytes([0; 16]))))
    }

    /// The SHA-256 of all bytes.
    pub async fn sha256(&self) -> Result<Sha256, BackendError> {
        Ok(self.hash(0..self.size(), Hashes::default()).await?.0)
    }

    /// The SHA-256 of some bytes, and their MD5 if it is wanted: it takes three times as long.
    pub(super) async fn digests_of(
        &self,
        range: Range<u64>,
        wants_md5: bool,
    ) -> Result<(Sha256, Option<Md5>), BackendError> {
        let hashes = if wants_md5 {
            Hashes::with_md5()
        } else {
            Hashes::default()
        };
        self.hash(range, hashes).await
    }

    async fn hash(
        &self,
        range: Range<u64>,
        mut hashes: Hashes,
    ) -> Result<(Sha256, Option<Md5>), BackendError> {
        match self {
            Self::Bytes(bytes) => {
                hashes.add(&slice(bytes, range));
                Ok(hashes.finish())
            }
            Self::File { path, .. } => {
                let path = path.clone();
                let read = move || {
                    let digests = hash(&path, range, hashes);
                    digests.map_err(|source| BackendError::Read { path, source })
                };
                match tokio::task::spawn_blocking(read).await {
                    Ok(result) => result,
                    Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
                }
            }
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// A part of bytes in memory.
pub(super) fn slice(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(place(range.start)..place(range.end))
}

/// The digests of a stream of bytes.
#[derive(Default)]
pub(super) struct Hashes {
    sha256: Sha256Hasher,
    md5: Option<Md5Hasher>,
}

impl Hashes {
    pub(super) fn with_md5() -> Self {
        Self {
            md5: Some(Md5Hasher::new()),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    pub(super) fn finish(self) -> (Sha256, Option<Md5>) {
        let md5 = self.md5.map(|md5| Md5::from_bytes(md5.finalize().into()));
        (Sha256::from_bytes(self.sha256.finalize().into()), md5)
    }
}

fn hash(path: &Path, range: Range<u64>, mut hashes: Hashes) -> io::Result<(Sha256, Option<Md5>)> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let mut left = range.end.saturating_sub(range.start);
    let mut buffer = vec![0; PIECE];
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = file.read(&mut buffer[..room])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it became shorter while it was read",
            ));
        }
        hashes.add(&buffer[..read]);
        left -= read as u64;
    }
    Ok(hashes.finish())
}
