use std::fmt;
use std::time::Duration;

use crate::{Class, Time};

/// Why a mirror was chosen, or why not. `Display` is one line.
///
/// It has numbers only, so that a choice formats no text.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Why {
    /// It is expected to finish first, or nearly so.
    Soonest {
        /// The expected time of the whole request.
        expected: Duration,
        /// The part of it until the first byte.
        first_byte: Duration,
        /// The expected throughput, in bytes per second.
        rate: f64,
        in_flight: u32,
        /// Whether the mirror was measured, or the prior is used.
        measured: bool,
    },
    /// It is not well measured, and this request is cheap enough to measure it.
    Exploring,
    /// Its circuit breaker is half-open.
    Trial {
        /// Failures since its last success.
        failures: u32,
    },
    /// It failed for this job, and no eligible mirror is left.
    Retry {
        /// Of this job.
        attempts: u32,
    },
    /// No eligible mirror is left: the reason why this one was demoted.
    LastResort(DemotionReason),
    /// Not chosen: it is demoted.
    Demoted(DemotionReason),
    /// Not chosen: it serves the maximum number of requests.
    Busy { in_flight: u32, limit: u32 },
    /// Not chosen: this job has made all its attempts on it.
    Tried {
        attempts: u32,
        /// The class of its last attempt, of any job.
        last: Option<Class>,
    },
    /// Not chosen: it is excluded for this job.
    Excluded,
    /// A busy mirror is expected to finish first nevertheless.
    WaitingForBetter {
        /// The expected time until it can serve the request.
        queue: Duration,
    },
}

/// Why a mirror is demoted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum DemotionReason {
    /// It throttled.
    Throttled { until: Time, left: Duration },
    /// Too many consecutive failures.
    CircuitOpen {
        /// Failures since its last success.
        failures: u32,
        /// Until the next trial.
        left: Duration,
    },
    /// Its circuit breaker is half-open, and the trial is in flight.
    OnTrial,
    /// It did not have this path recently.
    PathNotHere,
    /// It served this path with a digest mismatch.
    PathCorrupt,
    /// Its metadata is older than the upstream's.
    Behind,
    /// It rejected the credentials.
    Denied,
    /// It sent wrong bytes.
    Quarantined,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Soonest {
                expected,
                first_byte,
                rate,
                in_flight,
                measured,
            } => {
                write!(
                    f,
                    "expected to finish in {} ({} to the first byte, then {}; {in_flight} in flight{})",
                    Brief(expected),
                    Brief(first_byte),
                    Rate(rate),
                    if measured { "" } else { "; assumed" },
                )
            }
            Self::Exploring => {
                f.write_str("exploration: not well measured, and this request is small")
            }
            Self::Trial { failures } => {
                write!(f, "trial after {failures} failure{}", plural(failures))
            }
            Self::Retry { attempts } => write!(
                f,
                "no better mirror is left: retry after {attempts} attempt{}",
                plural(attempts)
            ),
            Self::LastResort(reason) => write!(f, "no better mirror is left: {reason}"),
            Self::Demoted(reason) => reason.fmt(f),
            Self::Busy { in_flight, limit } => write!(f, "busy: {in_flight} of {limit} in flight"),
            Self::Tried { attempts, last } => {
                write!(f, "tried {attempts} time{} for this job", plural(attempts))?;
                last.map_or(Ok(()), |last| write!(f, ", last outcome: {last}"))
            }
            Self::Excluded => f.write_str("excluded for this job"),
            Self::WaitingForBetter { queue } => {
                write!(f, "a better mirror is free in about {}", Brief(queue))
            }
        }
    }
}

impl fmt::Display for DemotionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Throttled { left, .. } => {
                write!(f, "throttled for another {}", Brief(left))
            }
            Self::CircuitOpen { failures, left } => write!(
                f,
                "{failures} consecutive failure{}, next trial in {}",
                plural(failures),
                Brief(left)
            ),
            Self::OnTrial => f.write_str("on trial after failures"),
            Self::PathNotHere => f.write_str("it did not have this path recently"),
            Self::PathCorrupt => f.write_str("its copy of this path is corrupt"),
            Self::Behind => f.write_str("it is behind the upstream"),
            Self::Denied => f.write_str("it rejected the credentials"),
            Self::Quarantined => f.write_str("quarantined after a digest mismatch"),
        }
    }
}

fn plural(n: u32) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// A duration in the unit that fits: `35 ms`, `1.2 s`, `4 min`.
struct Brief(Duration);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs_f64() {
            s if s < 1.0 => write!(f, "{:.0} ms", s * 1e3),
            s if s < 100.0 => write!(f, "{s:.1} s"),
            s if s < 6000.0 => write!(f, "{:.0} min", s / 60.0),
            s => write!(f, "{:.0} h", s / 3600.0),
        }
    }
}

/// A rate in the unit that fits: `310 kB/s`, `12 MB/s`.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            r if r < 1e6 => write!(f, "{:.0} kB/s", r / 1e3),
            r if r < 1e8 => write!(f, "{:.1} MB/s", r / 1e6),
            r => write!(f, "{:.0} MB/s", r / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_reads_as_one_line() {
        let soonest = Why::Soonest {
            expected: Duration::from_millis(1234),
            first_byte: Duration::from_millis(35),
            rate: 12_340_000.0,
            in_flight: 2,
            measured: true,
        };
        assert_eq!(
            soonest.to_string(),
            "expected to finish in 1.2 s (35 ms to the first byte, then 12.3 MB/s; 2 in flight)"
        );
        let open = DemotionReason::CircuitOpen {
            failures: 1,
            left: Duration::from_mins(4),
        };
        assert_eq!(
            Why::LastResort(open).to_string(),
            "no better mirror is left: 1 consecutive failure, next trial in 4 min"
        );
        assert_eq!(
            Why::Tried {
                attempts: 2,
                last: Some(Class::NotHere)
            }
            .to_string(),
            "tried 2 times for this job, last outcome: not here"
        );
    }
}
