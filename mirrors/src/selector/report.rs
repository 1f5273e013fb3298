use std::time::Duration;

use serde::Serialize;

use crate::{Class, Time};

/// The state of a mirror, for display.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MirrorReport {
    /// Without secrets.
    pub location: String,
    /// Where it was named.
    #[serde(rename = "origin")]
    pub provenance: String,
    /// The tier; lower is used first.
    pub priority: i32,
    /// The share of the load among equal mirrors.
    pub weight: f64,
    pub country: Option<String>,
    /// Attempts of this run.
    pub counts: ClassCounts,
    /// Attempts of this run that the caller cancelled.
    pub cancelled: u64,
    /// Bytes of bodies in this run.
    pub bytes: u64,
    /// The expected throughput of a single request, in bytes per second; `None` if not measured.
    pub rate: Option<f64>,
    /// The expected throughput of all connections together, in bytes per second; `None` if not
    /// measured.
    pub total_rate: Option<f64>,
    /// The highest throughput of all connections together in this run, in bytes per second.
    pub peak_rate: f64,
    /// The expected time to first byte; `None` if not measured.
    pub first_byte: Option<Duration>,
    /// The 95th percentile of the time to first byte; `None` if not measured.
    pub first_byte_p95: Option<Duration>,
    /// The expected share of attempts that fail because of the mirror.
    pub failure_share: f64,
    pub circuit: Circuit,
    pub quarantined: bool,
    /// Whether its metadata is known to be older than the upstream's.
    pub behind: bool,
    /// Whether it recently rejected the credentials.
    pub denied: bool,
    /// The end of the delay that it requested.
    #[serde(skip)]
    pub throttled_until: Option<Time>,
    pub in_flight: u32,
    /// The maximum number of requests in flight at the moment.
    pub window: u32,
    /// The last attempt, in this run or before.
    pub last: Option<LastOutcome>,
}

/// The outcome of an attempt, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LastOutcome {
    pub class: Class,
    #[serde(serialize_with = "as_unix_seconds")]
    pub at: Time,
}

fn as_unix_seconds<S: serde::Serializer>(at: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(at.unix().as_secs())
}

/// The number of attempts per class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClassCounts {
    pub ok: u64,
    pub not_here: u64,
    pub behind: u64,
    pub corrupt: u64,
    pub unwell: u64,
    pub throttled: u64,
    pub denied: u64,
}

impl ClassCounts {
    pub fn get(&self, class: Class) -> u64 {
        match class {
            Class::Ok => self.ok,
            Class::NotHere => self.not_here,
            Class::Behind => self.behind,
            Class::Corrupt => self.corrupt,
            Class::Unwell => self.unwell,
            Class::Throttled => self.throttled,
            Class::Denied => self.denied,
        }
    }

    /// The sum over all classes.
    pub fn total(&self) -> u64 {
        Class::ALL
            .iter()
            .fold(0, |sum, &class| sum.saturating_add(self.get(class)))
    }

    pub(crate) fn add(&mut self, class: Class) {
        let count = match class {
            Class::Ok => &mut self.ok,
            Class::NotHere => &mut self.not_here,
            Class::Behind => &mut self.behind,
            Class::Corrupt => &mut self.corrupt,
            Class::Unwell => &mut self.unwell,
            Class::Throttled => &mut self.throttled,
            Class::Denied => &mut self.denied,
        };
        *count = count.saturating_add(1);
    }
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Circuit {
    /// Normal.
    Closed,
    /// In backoff after failures.
    Open,
    /// One trial is allowed or in flight.
    HalfOpen,
}
