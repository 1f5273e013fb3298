//! A file to fetch, and its outcome.

use std::{path::PathBuf, time::Duration};

use crate::{error::AppError, file_url::FileUrl};
use taipan_transfer::{Fetched, Job, MirrorSet};

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
    /// A metalink lists the file without a URL that can be used.
    Nowhere {
        metalink: String,
    },
    /// The server of a URL that is not below a channel. It may name other mirrors.
    Server {
        url: FileUrl,
        mirror: MirrorSet,
    },
}

pub(super) enum Outcome {
    Downloaded {
        fetched: Fetched,
        duration: Duration,
    },
    /// The output file was there and has the expected digest; its size in bytes.
    Present(u64),
    Failed(AppError),
}
