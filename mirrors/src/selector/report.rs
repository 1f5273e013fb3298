use std::time::Duration;

use serde::Serialize;

use crate::{Class, Time};

/// What is known of a mirror, for tables.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MirrorReport {
    /// The mirror without secrets.
    pub location: String,
    /// Who named it.
    #[serde(rename = "origin")]
    pub provenance: String,
    /// Its tier; lower is asked first.
    pub priority: i32,
    /// Its share of the load among equals.
    pub weight: f64,
    /// Its country.
    pub country: Option<String>,
    /// Attempts of this run by outcome.
    pub counts: ClassCounts,
    /// Attempts of this run that the caller ended itself.
    pub cancelled: u64,
    /// Bytes of body that came from it in this run.
    pub bytes: u64,
    /// The expected rate of one lone request, in bytes per second; nothing without a measurement.
    pub rate: Option<f64>,
    /// The rate that all its connections together are expected to reach, in bytes per second;
    /// nothing without a measurement.
    pub total_rate: Option<f64>,
    /// The highest rate of all its connections together that was seen in this run, in bytes per
    /// second.
    pub peak_rate: f64,
    /// The expected time to the first byte; nothing without a measurement.
    pub first_byte: Option<Duration>,
    /// Of a hundred first bytes, 95 are expected within this time; nothing without a measurement.
    pub first_byte_p95: Option<Duration>,
    /// The expected share of attempts that fail through the mirror's fault.
    pub failure_share: f64,
    /// The state of its circuit.
    pub circuit: Circuit,
    /// Whether it is in quarantine.
    pub quarantined: bool,
    /// Whether it is known to serve an older state than the trusted one.
    pub behind: bool,
    /// Whether it lately wanted other credentials.
    pub denied: bool,
    /// When the pause ends that it asked for.
    #[serde(skip)]
    pub throttled_until: Option<Time>,
    /// Requests in flight.
    pub in_flight: u32,
    /// The most requests in flight at the moment.
    pub window: u32,
    /// How its last attempt ended, in this run or before.
    pub last: Option<LastOutcome>,
}

/// How and when an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LastOutcome {
    /// How.
    pub class: Class,
    /// When.
    #[serde(serialize_with = "as_unix_seconds")]
    pub at: Time,
}

fn as_unix_seconds<S: serde::Serializer>(at: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(at.unix().as_secs())
}

/// Attempts by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClassCounts {
    /// See [`Class::Ok`].
    pub ok: u64,
    /// See [`Class::NotHere`].
    pub not_here: u64,
    /// See [`Class::Behind`].
    pub behind: u64,
    /// See [`Class::Corrupt`].
    pub corrupt: u64,
    /// See [`Class::Unwell`].
    pub unwell: u64,
    /// See [`Class::Throttled`].
    pub throttled: u64,
    /// See [`Class::Denied`].
    pub denied: u64,
}

impl ClassCounts {
    /// The count of one class.
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

    /// The attempts of all classes.
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

/// The state of a mirror's circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Circuit {
    /// Requests flow.
    Closed,
    /// No requests for a while, after failures.
    Open,
    /// One request may try, or is trying, whether it is well again.
    HalfOpen,
}
