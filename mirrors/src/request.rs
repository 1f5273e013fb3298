use std::time::Duration;

use crate::{MirrorId, Time, Why};

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
    /// The mirrors that were tried for this job, one entry per attempt, so that a mirror tried twice
    /// stands here twice. A mirror whose failure was transient may be chosen again when nothing else
    /// is left, until it stands here
    /// [`attempts_per_mirror`](crate::SelectorConfig::attempts_per_mirror) times. To rule a mirror
    /// out, let it stand so often. Mirrors that are serving this job at the moment belong here too.
    pub exclude: &'a [MirrorId],
    /// The attempts that failed for this job so far. Each makes the timeouts longer.
    pub attempt: u32,
    /// Any number that differs from job to job and from client to client. The same seed and the
    /// same history give the same choice.
    pub seed: u64,
}

impl<'a> Request<'a> {
    /// A first request for something that never changes under its name.
    pub fn content(path: &'a str) -> Self {
        Self {
            path,
            bytes: None,
            kind: Kind::Content,
            exclude: &[],
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
    pub fn with_exclude(mut self, exclude: &'a [MirrorId]) -> Self {
        self.exclude = exclude;
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
    /// Ask this mirror now.
    Use(Pick),
    /// Ask again at this time, or as soon as any attempt on these mirrors ends.
    Wait {
        /// When at the latest it is worth asking again; always later than the time of the request.
        until: Time,
        /// What is waited for.
        why: Why,
    },
    /// No mirror is left for this job: each one, and why not.
    Exhausted(Vec<(MirrorId, Why)>),
}

/// A mirror to ask, and how much patience to have with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// The mirror.
    pub mirror: MirrorId,
    /// Why this one, in one line.
    pub why: Why,
    /// The longest time that connecting may take.
    pub connect_timeout: Duration,
    /// The longest time from the start of the attempt to the first byte of the body.
    pub first_byte_timeout: Duration,
    /// The longest time without a byte, once the body flows.
    pub stall_timeout: Duration,
    /// In bytes per second: when the body flows slower for some seconds, another mirror would
    /// finish sooner, and the caller should go on there. Zero when there is no better one. What is
    /// known when a request begins may be little, so ask
    /// [`Selector::min_rate`](crate::Selector::min_rate) again every second or so.
    pub min_rate: f64,
}
