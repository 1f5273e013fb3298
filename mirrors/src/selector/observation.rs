use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Time;

/// How an attempt on a mirror ended. It decides what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The body arrived and was verified; also an answer that the caller's copy is still good.
    Ok,
    /// The mirror does not have this path (404, 403, 410): remembered for the path, and no stain on
    /// the mirror.
    NotHere,
    /// The mirror serves an older state than the trusted one: no metadata from it for a while, and
    /// not this path.
    Behind,
    /// The body is not what its digest promises: the mirror is put in quarantine.
    Corrupt,
    /// Refused, reset, timed out, stalled, 5xx, cut short: a few of these open the circuit.
    Unwell,
    /// 429, or 503 with `Retry-After`: the mirror wants fewer requests.
    Throttled,
    /// 401, or 407: credentials are missing or wrong, which is ours to fix.
    Denied,
}

impl Class {
    /// All classes, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::NotHere,
        Self::Behind,
        Self::Corrupt,
        Self::Unwell,
        Self::Throttled,
        Self::Denied,
    ];

    /// Whether the same request on the same mirror may well succeed a little later.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unwell | Self::Throttled)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::NotHere => "not here",
            Self::Behind => "behind",
            Self::Corrupt => "corrupt",
            Self::Unwell => "unwell",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
        })
    }
}

/// What a finished attempt showed. Given when the body is verified or has failed, not when its
/// header arrives: a header proves nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation<'a> {
    /// When the attempt ended.
    pub at: Time,
    /// What was asked for, as in the [`Request`](crate::Request).
    pub path: &'a str,
    /// How it ended.
    pub outcome: Class,
    /// The bytes of body that arrived.
    pub bytes: u64,
    /// From the start of the attempt to the first byte of the body, connecting included; nothing
    /// when none arrived.
    pub first_byte: Option<Duration>,
    /// From the start of the attempt to its end.
    pub duration: Duration,
    /// What the answer asked for in `Retry-After` (RFC 9110 §10.2.3).
    pub retry_after: Option<Duration>,
}

impl<'a> Observation<'a> {
    /// An attempt that ended so, with nothing measured yet.
    pub fn new(at: Time, path: &'a str, outcome: Class) -> Self {
        Self {
            at,
            path,
            outcome,
            bytes: 0,
            first_byte: None,
            duration: Duration::ZERO,
            retry_after: None,
        }
    }

    /// With so many bytes of body.
    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// With the first byte after this time.
    #[must_use]
    pub fn with_first_byte(mut self, first_byte: Duration) -> Self {
        self.first_byte = Some(first_byte);
        self
    }

    /// Having lasted so long.
    #[must_use]
    pub fn with_duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// With this wish in `Retry-After`.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }
}

/// What an attempt showed that the caller ended itself: the slower of two that raced, one that fell
/// below its minimum rate, one whose job was dropped. It teaches speed and says nothing about health.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// When the caller ended it.
    pub at: Time,
    /// The bytes of body that had arrived.
    pub bytes: u64,
    /// How many of these were fetched in vain, because another attempt fetched them too. Charged to
    /// the budget for hedging.
    pub wasted: u64,
    /// From the start of the attempt to the first byte of the body; nothing when none had arrived.
    pub first_byte: Option<Duration>,
    /// From the start of the attempt to its end.
    pub duration: Duration,
}
