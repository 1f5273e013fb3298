use std::fmt;
use std::time::Duration;

use crate::{Class, Time};

/// Why a mirror was chosen, or why not. Its `Display` is one line.
///
/// It holds numbers only, so that a choice costs no text unless somebody reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Why {
    /// It is expected to finish soonest, or nearly so.
    Soonest {
        /// The expected time of the whole request.
        expected: Duration,
        /// Of this, the time to the first byte.
        first_byte: Duration,
        /// The rate expected for this request, in bytes per second.
        rate: f64,
        /// The requests that it serves at the moment.
        in_flight: u32,
        /// Whether this rests on measurements of this mirror, or only on an assumption.
        measured: bool,
    },
    /// Little is known of it, and this request is cheap enough to learn more.
    Exploring,
    /// Its circuit was open for long enough to try it once.
    Trial {
        /// Failures since its last success.
        failures: u32,
    },
    /// It failed for this job before, and nothing better is left.
    Retry {
        /// The attempts made on it for this job.
        attempts: u32,
    },
    /// No eligible mirror is left: the reason why this one was demoted.
    LastResort(DemotionReason),
    /// Not chosen: it is demoted.
    Demoted(DemotionReason),
    /// Not chosen: it serves as many requests as it should.
    Busy {
        /// The requests that it serves at the moment.
        in_flight: u32,
        /// The most that it should serve.
        limit: u32,
    },
    /// Not chosen: it was tried for this job.
    Tried {
        /// How often.
        attempts: u32,
        /// How its last attempt of any job ended.
        last: Option<Class>,
    },
    /// Not chosen: it is excluded for this job.
    Excluded,
    /// A better mirror is about to be free.
    WaitingForBetter {
        /// The expected time until it is.
        queue: Duration,
    },
}

/// Why a mirror is demoted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum DemotionReason {
    /// It asked for a pause.
    Throttled {
        /// When the pause ends.
        until: Time,
        /// From now until then.
        left: Duration,
    },
    /// Too many failures in a row.
    CircuitOpen {
        /// Failures since its last success.
        failures: u32,
        /// From now until it is tried again.
        left: Duration,
    },
    /// Its circuit is half open, and the trial is still under way.
    OnTrial,
    /// It did not have this path a while ago.
    PathNotHere,
    /// It served a wrong body for this path.
    PathCorrupt,
    /// It serves an older state than the trusted one.
    Behind,
    /// It wants other credentials.
    Denied,
    /// It has served a wrong body.
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
            Self::Exploring => f.write_str("little is known of it, and this request is small"),
            Self::Trial { failures } => {
                write!(f, "trial after {failures} failure{}", plural(failures))
            }
            Self::Retry { attempts } => write!(
                f,
                "nothing better is left: retry after {attempts} attempt{}",
                plural(attempts)
            ),
            Self::LastResort(reason) => write!(f, "nothing better is left: {reason}"),
            Self::Demoted(reason) => reason.fmt(f),
            Self::Busy { in_flight, limit } => write!(f, "busy: {in_flight} of {limit} in flight"),
            Self::Tried { attempts, last } => {
                write!(f, "tried {attempts} time{} for this", plural(attempts))?;
                last.map_or(Ok(()), |last| write!(f, ", its last answer was: {last}"))
            }
            Self::Excluded => f.write_str("excluded for this job"),
            Self::WaitingForBetter { queue } => {
                write!(f, "a better one is free in about {}", Brief(queue))
            }
        }
    }
}

impl fmt::Display for DemotionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Throttled { left, .. } => {
                write!(f, "it asked for a pause of {} more", Brief(left))
            }
            Self::CircuitOpen { failures, left } => write!(
                f,
                "{failures} failure{} in a row, no trial for {}",
                plural(failures),
                Brief(left)
            ),
            Self::OnTrial => f.write_str("on trial after failures"),
            Self::PathNotHere => f.write_str("it did not have this path lately"),
            Self::PathCorrupt => f.write_str("its copy of this path is corrupt"),
            Self::Behind => f.write_str("it is behind the trusted state"),
            Self::Denied => f.write_str("it wants other credentials"),
            Self::Quarantined => f.write_str("in quarantine after a corrupt body"),
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
            "nothing better is left: 1 failure in a row, no trial for 4 min"
        );
        assert_eq!(
            Why::Tried {
                attempts: 2,
                last: Some(Class::NotHere)
            }
            .to_string(),
            "tried 2 times for this, its last answer was: not here"
        );
    }
}
