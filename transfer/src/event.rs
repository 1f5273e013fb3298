//! What happens while files are fetched.

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
        /// Which job.
        job: JobId,
        /// What to call it.
        label: &'a str,
        /// Its length in bytes, when it is known.
        size: Option<u64>,
    },
    /// A mirror was asked.
    Attempt {
        /// Which job.
        job: JobId,
        /// Which mirror of the job's set.
        mirror: MirrorId,
        /// The mirror, printable.
        name: &'a str,
        /// The first byte asked for.
        offset: u64,
        /// Why this mirror.
        why: &'a str,
    },
    /// Bytes of the body arrived and went to the sink.
    Progress {
        /// Which job.
        job: JobId,
        /// How many, since the last event of this kind.
        bytes: u64,
    },
    /// An earlier run has left bytes of the file, which are not fetched again.
    Resumed {
        /// Which job.
        job: JobId,
        /// How many.
        bytes: u64,
    },
    /// Bytes that had arrived were thrown away, and are fetched again.
    Restarted {
        /// Which job.
        job: JobId,
        /// How many bytes are lost.
        bytes: u64,
    },
    /// An attempt ended in something other than the rest of the file.
    AttemptFailed {
        /// Which job.
        job: JobId,
        /// Which mirror of the job's set.
        mirror: MirrorId,
        /// The mirror, printable.
        name: &'a str,
        /// What kind of failure.
        class: Class,
        /// What was wrong, with its causes.
        cause: &'a str,
        /// How many bytes it had given before.
        bytes: u64,
    },
    /// The file is complete and verified.
    Done {
        /// Which job.
        job: JobId,
        /// Its length in bytes; 0 when the mirror said that it had not changed.
        bytes: u64,
        /// The time since the job started.
        duration: Duration,
    },
    /// The job has failed for good.
    Failed {
        /// Which job.
        job: JobId,
    },
}

/// Is told what happens. Called from the engine's tasks, so it must not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>) {
        let _ = event;
    }
}

/// An observer that does not look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
