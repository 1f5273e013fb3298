//! What a sync does beside copying.

use std::{path::PathBuf, time::Duration};

/// One of several processes that share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Its number, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

/// How files are removed that no index names.
#[derive(Debug, Clone)]
pub struct Prune {
    /// How long they are kept after the last index that names them.
    pub grace: Duration,
    /// Whether files are removed, too, that the source lists as removed: lock files may name them.
    pub removed: bool,
}

/// The options of a sync.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the flags of its callers"
)]
#[derive(Debug, Clone)]
pub struct SyncOptions {
    /// Removing files; `None` keeps all.
    pub prune: Option<Prune>,
    /// The largest share of the packages that an index may lose, in percent.
    pub max_delete: f64,
    /// Whether a package that cannot be copied stops the publication.
    pub strict: bool,
    /// Whether packages that failed are tried again before their time.
    pub retry_failed: bool,
    /// Whether nothing is changed.
    pub dry_run: bool,
    /// Whether a part of what is there is verified.
    pub verify: bool,
    /// The share of this process; `None` for all.
    pub worker: Option<Worker>,
    /// No package is begun after this number of bytes was sent.
    pub max_bytes: Option<u64>,
    /// No package is begun after this time.
    pub max_time: Option<Duration>,
    /// How many packages are copied at a time.
    pub jobs: usize,
    /// A directory for temporary files: the index, and large packages while they are copied.
    pub work: PathBuf,
    /// The level of compression of `repodata.json.zst`.
    pub level: i32,
    /// Whether `repodata.json.zck` is published, where it is not yet.
    pub zck: bool,
}

impl SyncOptions {
    /// The defaults, with this directory for temporary files.
    pub fn new(work: impl Into<PathBuf>) -> Self {
        Self {
            prune: None,
            max_delete: 5.0,
            strict: false,
            retry_failed: false,
            dry_run: false,
            verify: false,
            worker: None,
            max_bytes: None,
            max_time: None,
            jobs: 64,
            work: work.into(),
            level: 12,
            zck: false,
        }
    }
}
