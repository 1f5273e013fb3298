//! Events of the engine.

use std::{fmt, time::Duration};

use taipan_mirrors::{Class, MirrorId};

/// Names a job among the others of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub(crate) u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What happened to a job. Every job that starts also ends, in [`Event::Done`] or
/// [`Event::Failed`], unless it is dropped.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A job was given a slot.
    Started {
        /// The job.
        job: JobId,
        /// The name of the job.
        label: &'a str,
        /// The length of the file in bytes, when it is known.
        size: Option<u64>,
    },
    /// A request is sent to a mirror.
    Attempt {
        /// The job.
        job: JobId,
        /// The mirror, in the job's set.
        mirror: MirrorId,
        /// The URL, printable.
        name: &'a str,
        /// The first byte requested.
        offset: u64,
        /// Why this mirror.
        why: &'a str,
    },
    /// Bytes of the file arrived.
    Progress {
        /// The job.
        job: JobId,
        /// How many, since the last such event.
        bytes: u64,
    },
    /// Bytes of the file are here from an earlier run, and are not fetched again.
    Resumed {
        /// The job.
        job: JobId,
        /// How many.
        bytes: u64,
    },
    /// Bytes that had arrived were discarded, and are fetched again.
    Restarted {
        /// The job.
        job: JobId,
        /// How many.
        bytes: u64,
    },
    /// No mirror can be used now, and the job waits for one.
    Waiting {
        /// The job.
        job: JobId,
        /// For how long.
        delay: Duration,
        /// Why.
        why: &'a str,
    },
    /// An attempt failed.
    AttemptFailed {
        /// The job.
        job: JobId,
        /// The mirror, in the job's set.
        mirror: MirrorId,
        /// The URL, printable.
        name: &'a str,
        /// The class of the failure.
        class: Class,
        /// The error and its causes.
        cause: &'a str,
        /// Bytes of the body that arrived before.
        bytes: u64,
    },
    /// The file is complete and verified.
    Done {
        /// The job.
        job: JobId,
        /// The length of the file in bytes; 0 when it has not changed.
        bytes: u64,
        /// The time since the job started.
        duration: Duration,
    },
    /// The job failed.
    Failed {
        /// The job.
        job: JobId,
    },
}

/// Receives the events of an engine. Called from the engine's tasks: it must not block.
pub trait Observer: Send + Sync {
    /// Called for each event.
    fn event(&self, event: &Event<'_>) {
        let _ = event;
    }
}

/// An observer that ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
