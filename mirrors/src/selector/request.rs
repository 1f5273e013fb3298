use std::time::Duration;

use crate::{MirrorId, Time, Tried, Why};

/// The kind of file that is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A file that changes under its name, such as an index. Mirrors that are behind are demoted.
    Metadata,
    /// A file that never changes under its name.
    Content,
}

/// A request for which a mirror is to be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    /// The path below the mirror. Faults of paths are remembered by it.
    pub path: &'a str,
    /// The number of missing bytes, if known.
    pub bytes: Option<u64>,
    pub kind: Kind,
    pub tried: &'a Tried,
    /// The failed attempts of this job so far. Each doubles the timeouts.
    pub attempt: u32,
    /// A number that differs between jobs and between clients. The same seed and the same history
    /// give the same choice.
    pub seed: u64,
}

impl<'a> Request<'a> {
    /// A first request for a file that never changes under its name.
    pub fn content(path: &'a str) -> Self {
        static NOTHING: Tried = Tried::new();
        Self {
            path,
            bytes: None,
            kind: Kind::Content,
            tried: &NOTHING,
            attempt: 0,
            seed: 0,
        }
    }

    /// A first request for a file that changes under its name.
    pub fn metadata(path: &'a str) -> Self {
        Self {
            kind: Kind::Metadata,
            ..Self::content(path)
        }
    }

    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    #[must_use]
    pub fn with_tried(mut self, tried: &'a Tried) -> Self {
        self.tried = tried;
        self
    }

    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

/// The decision for a [`Request`].
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// Send the request to this mirror.
    Use(Pick),
    /// Choose again at this time, or as soon as a request on these mirrors ends. The caller reports a
    /// job that waits by [`Selector::queued`](crate::Selector::queued).
    Wait {
        /// Always later than the time of the request.
        until: Time,
        why: Why,
    },
    /// No mirror is left for this job: each mirror, and why it is excluded.
    Exhausted(Vec<(MirrorId, Why)>),
}

/// The chosen mirror, with the timeouts for this request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    pub mirror: MirrorId,
    pub why: Why,
    /// From the start of the attempt to the first byte of the body.
    pub first_byte_timeout: Duration,
    /// Between two pieces of the body.
    pub stall_timeout: Duration,
    /// The expected extra time compared with the best mirror, in units of a request to that mirror;
    /// zero unless the request explores.
    pub(crate) exploration: f64,
}
