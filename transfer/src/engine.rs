//! The engine: carries a job from mirror to mirror until its file is here.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use taipan_mirrors::Kind;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    Attempt, Event, Expected, FetchError, FileSink, JobId, MirrorSet, Observer, Sha256, Sink,
    Target, Validators, run::Run,
};

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How many jobs have a slot at a time; the others wait.
    pub slots: usize,
    /// How long one job waits in sum for mirrors that rest after failures, when no other is left.
    pub patience: Duration,
    /// How long one job waits in sum for mirrors that asked for a pause, when no other is left.
    pub throttled_patience: Duration,
    /// Distinguishes this client from others, so that a herd does not move as one.
    pub seed: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            slots: 16,
            patience: Duration::from_secs(6),
            throttled_patience: Duration::from_mins(3),
            seed: 0,
        }
    }
}

/// One file that is wanted.
#[derive(Debug, Clone)]
pub struct Job {
    /// What to call it in events and errors.
    pub label: String,
    /// Where it lies on every mirror.
    pub target: Target,
    /// What is known of it.
    pub expected: Expected,
    /// Whether it may differ between mirrors that are in order.
    pub kind: Kind,
    /// What mirrors said of the copy that the caller has, by the URL that
    /// [`Fetched::url`] gave at the time.
    pub validators: BTreeMap<String, Validators>,
}

impl Job {
    /// A file whose digest is known.
    pub fn content(label: impl Into<String>, target: Target, expected: Expected) -> Self {
        Self {
            label: label.into(),
            target,
            expected,
            kind: Kind::Content,
            validators: BTreeMap::new(),
        }
    }

    /// A file that changes, and of which nothing is known.
    pub fn metadata(label: impl Into<String>, target: Target) -> Self {
        Self {
            kind: Kind::Metadata,
            ..Self::content(label, target, Expected::default())
        }
    }
}

/// A file that is here.
#[derive(Debug)]
pub struct Fetched {
    /// Its SHA-256 and length in bytes; `None` when it has not changed and nothing was fetched.
    pub file: Option<(Sha256, u64)>,
    /// The printable URL that gave the file, or the last part of it.
    pub url: String,
    /// What that mirror said of this version of the file.
    pub validators: Validators,
    /// What went wrong before.
    pub attempts: Vec<Attempt>,
    /// How many bytes arrived that are not part of the file as it is now.
    pub wasted: u64,
}

/// Fetches files. Cheap to clone; clones share their slots.
#[derive(Clone)]
pub struct Engine {
    pub(crate) options: EngineOptions,
    slots: Arc<Semaphore>,
    pub(crate) observer: Arc<dyn Observer>,
    next: Arc<AtomicU64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that tells `observer` what it does.
    pub fn new(options: EngineOptions, observer: Arc<dyn Observer>) -> Self {
        let slots = Arc::new(Semaphore::new(options.slots.max(1)));
        Self {
            options,
            slots,
            observer,
            next: Arc::default(),
        }
    }

    /// Fetches one file into `sink`. It waits for a slot first. When it returns `Ok`, the sink
    /// has finished. Dropping the future ends all that it began; the sink is the caller's.
    pub async fn fetch(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        sink: &mut dyn Sink,
    ) -> Result<Fetched, FetchError> {
        let _slot = self
            .slots
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let id = JobId(self.next.fetch_add(1, Ordering::Relaxed));
        let started = Instant::now();
        self.observer.event(&Event::Started {
            job: id,
            label: &job.label,
            size: job.expected.size,
        });
        let result = Run::new(self, id, mirrors, job).run(sink).await;
        match &result {
            Ok(fetched) => {
                let bytes = fetched.file.map_or(0, |(_, length)| length);
                let duration = started.elapsed();
                self.observer.event(&Event::Done {
                    job: id,
                    bytes,
                    duration,
                });
            }
            Err(_) => self.observer.event(&Event::Failed { job: id }),
        }
        result
    }

    /// Fetches one file to `path`, whose directory must exist. What has arrived lies beside it
    /// until the file is complete and verified.
    pub async fn fetch_file(
        &self,
        mirrors: &MirrorSet,
        job: &Job,
        path: &Path,
    ) -> Result<Fetched, FetchError> {
        let mut sink = FileSink::new(path);
        self.fetch(mirrors, job, &mut sink).await
    }
}
