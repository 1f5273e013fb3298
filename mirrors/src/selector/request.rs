use std::time::Duration;

use crate::{MirrorId, Time, Tried, Why};

/// What kind of thing is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Something that changes under its name, such as an index. A mirror that is behind must not
    /// serve it.
    Metadata,
    /// Something that never changes under its name. A mirror that is behind may serve it.
    Content,
}

/// One request, for which a mirror is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    /// What is asked for, relative to the mirrors' root. What is remembered about paths goes by it.
    pub path: &'a str,
    /// The bytes still to be fetched, if known.
    pub bytes: Option<u64>,
    /// Whether it changes under its name.
    pub kind: Kind,
    /// What was tried for this job.
    pub tried: &'a Tried,
    /// The attempts that failed for this job so far. Each makes the timeouts longer.
    pub attempt: u32,
    /// Any number that differs from job to job and from client to client. The same seed and the
    /// same history give the same choice.
    pub seed: u64,
}

impl<'a> Request<'a> {
    /// A first request for something that never changes under its name.
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

    /// A first request for something that changes under its name.
    pub fn metadata(path: &'a str) -> Self {
        Self {
            kind: Kind::Metadata,
            ..Self::content(path)
        }
    }

    /// With so many bytes to fetch.
    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// After these attempts.
    #[must_use]
    pub fn with_tried(mut self, tried: &'a Tried) -> Self {
        self.tried = tried;
        self
    }

    /// After so many failures.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// With this seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// Send the request to this mirror now.
    Use(Pick),
    /// Choose again at this time, or as soon as any request on these mirrors ends. A job that does
    /// so says [`Selector::queued`](crate::Selector::queued).
    Wait {
        /// When at the latest to choose again; always later than the time of the request.
        until: Time,
        /// What is waited for.
        why: Why,
    },
    /// No mirror is left for this job: each one, and why not.
    Exhausted(Vec<(MirrorId, Why)>),
}

/// The chosen mirror, with the timeouts for this request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// The mirror.
    pub mirror: MirrorId,
    /// Why this one, in one line.
    pub why: Why,
    /// The longest time from the start of the attempt to the first byte of the body.
    pub first_byte_timeout: Duration,
    /// The longest time without a byte, once the body flows.
    pub stall_timeout: Duration,
    /// What this request costs more than one to the best mirror, in requests to that one; zero
    /// unless it explores.
    pub(crate) exploration: f64,
}
