//! A file to fetch, and its outcome.

use std::{path::PathBuf, time::Duration};

use taipan_transfer::{Attempt, Fetched, FetchedZchunk, Job, MirrorSet, Sha256};

use crate::error::AppError;

/// A file to fetch.
pub(super) struct RequestedFile {
    pub(super) job: Job,
    pub(super) source: Source,
    /// `None` is stdout.
    pub(super) output: Option<PathBuf>,
}

/// The mirrors of a file.
pub(super) enum Source {
    /// Those of these channels of the context; a channel is used when the ones before it do not have
    /// the file.
    Channels(Vec<usize>),
    Mirrors(MirrorSet),
}

pub(super) enum Outcome {
    Downloaded {
        download: Download,
        duration: Duration,
    },
    /// The output file was there and has the expected digest; its size in bytes.
    Present(u64),
    Failed(AppError),
}

/// A completed download.
pub(super) struct Download {
    pub(super) sha256: Option<Sha256>,
    /// In bytes.
    pub(super) size: u64,
    /// The printable URL of the mirror that sent the end of the file; `None` for a zchunk file.
    pub(super) url: Option<String>,
    /// The failed attempts.
    pub(super) attempts: Vec<Attempt>,
    pub(super) wasted_bytes: u64,
}

impl From<Fetched> for Download {
    fn from(fetched: Fetched) -> Self {
        Self {
            sha256: fetched.file.map(|(sha256, _)| sha256),
            size: fetched.file.map_or(0, |(_, size)| size),
            url: Some(fetched.url),
            attempts: fetched.attempts,
            wasted_bytes: fetched.wasted,
        }
    }
}

impl From<FetchedZchunk> for Download {
    fn from(fetched: FetchedZchunk) -> Self {
        Self {
            sha256: Some(fetched.sha256),
            size: fetched.size,
            url: None,
            attempts: fetched.attempts,
            wasted_bytes: fetched.wasted,
        }
    }
}
