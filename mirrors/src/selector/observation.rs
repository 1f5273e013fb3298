use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Time;

/// The class of an attempt's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The body was verified, or the response said that the caller's copy is current (304).
    Ok,
    /// The mirror does not have this path (404, 403, 410). This is remembered for the path and does not
    /// affect the health of the mirror.
    NotHere,
    /// The mirror's metadata is older than the upstream's: the mirror is demoted for metadata and for
    /// this path.
    Behind,
    /// A digest mismatch: the mirror is quarantined.
    Corrupt,
    /// Refused, reset, timed out, stalled, 5xx or truncated: a few of these open the circuit breaker.
    Unwell,
    /// 429, or 503 with `Retry-After`: the mirror asks for fewer requests.
    Throttled,
    /// 401 or 407: the credentials are missing or wrong.
    Denied,
}

impl Class {
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::NotHere,
        Self::Behind,
        Self::Corrupt,
        Self::Unwell,
        Self::Throttled,
        Self::Denied,
    ];

    /// Whether a retry on the same mirror may succeed.
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

/// The outcome of an attempt. Reported when the body is verified or has failed, not when the header
/// arrives: a header proves nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation<'a> {
    /// The end of the attempt.
    pub at: Time,
    /// As in the [`Request`](crate::Request).
    pub path: &'a str,
    pub outcome: Class,
    /// The bytes of the body that arrived.
    pub bytes: u64,
    /// From the start of the attempt to the first byte of the body, including the
    /// connection; `None` if none arrived.
    pub first_byte: Option<Duration>,
    /// From the start to the end of the attempt.
    pub duration: Duration,
    /// The delay requested by `Retry-After` (RFC 9110 §10.2.3).
    pub retry_after: Option<Duration>,
}

impl<'a> Observation<'a> {
    /// An observation without measurements.
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

    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    #[must_use]
    pub fn with_first_byte(mut self, first_byte: Duration) -> Self {
        self.first_byte = Some(first_byte);
        self
    }

    #[must_use]
    pub fn with_duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }
}

/// The measurements of an attempt that the caller cancelled: the slower of two hedged requests, one
/// below its minimum rate, one whose job was dropped. They count for the estimates of speed and not
/// for the health.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The time of the cancellation.
    pub at: Time,
    /// The bytes of the body that had arrived.
    pub bytes: u64,
    /// How many of these another attempt fetched too. They are charged to the hedging budget.
    pub wasted: u64,
    /// From the start of the attempt to the first byte of the body; `None` if none had arrived.
    pub first_byte: Option<Duration>,
    /// From the start to the end of the attempt.
    pub duration: Duration,
}
