use std::time::Duration;

use crate::selector::breaker::Breaker;
use crate::selector::estimate::{Latency, Outcomes, RateModel, halvings};
use crate::selector::hold::Hold;
use crate::selector::path_memory::{PathFault, PathHash, PathMemory};
use crate::selector::report::{ClassCounts, LastOutcome};
use crate::selector::window::{InFlight, Window};
use crate::{Class, Mirror, Observation, Progress, SelectorConfig, Time};

/// The state of one mirror; bounded in size.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) first_byte: Latency,
    pub(crate) rates: RateModel,
    pub(crate) outcomes: Outcomes,
    /// The duration of successful attempts.
    pub(crate) service: Latency,
    /// The time lost by failures.
    pub(crate) failure: Latency,
    pub(crate) breaker: Breaker,
    /// Failures in this period belong to one that was counted.
    burst: Option<Hold>,
    pub(crate) window: Window,
    pub(crate) in_flight: InFlight,
    pub(crate) paths: PathMemory,
    pub(crate) throttled: Option<Hold>,
    /// Throttled responses since the last success.
    throttles: u32,
    pub(crate) behind: Option<Hold>,
    pub(crate) denied: Option<Hold>,
    pub(crate) distrust: Distrust,
    /// Whether it has ever served a verified body, in this run or before.
    pub(crate) has_worked: bool,
    pub(crate) counts: ClassCounts,
    pub(crate) cancelled: u64,
    pub(crate) bytes: u64,
    pub(crate) peak_rate: f64,
    pub(crate) last: Option<LastOutcome>,
    /// When a request was last sent there, in this run or before.
    pub(crate) last_tried: Option<Time>,
}

/// The distrust of a mirror that sent wrong bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Distrust {
    /// The number of corrupt bodies, with decay.
    pub(crate) amount: f64,
    pub(crate) at: Time,
    /// Corrupt bodies in this run; the first one quarantines the mirror until the end of the run.
    this_run: u32,
    /// The path of the only corrupt body of this run.
    only: Option<PathHash>,
    was_lifted: bool,
}

impl Distrust {
    /// Counts a corrupt body.
    fn distrust(&mut self, path: PathHash, at: Time, half_life: Duration) {
        self.amount = self.amount(at, half_life).min(100.0) + 1.0;
        self.at = at;
        self.only = (self.this_run == 0 && !self.was_lifted).then_some(path);
        self.this_run = self.this_run.saturating_add(1);
    }

    /// Lifts a quarantine whose only reason is this path; once per run.
    pub(crate) fn lift_quarantine(&mut self, path: PathHash) {
        if self.only == Some(path) {
            self.amount = (self.amount - 1.0).max(0.0);
            self.this_run = 0;
            self.only = None;
            self.was_lifted = true;
        }
    }

    pub(crate) fn amount(&self, now: Time, half_life: Duration) -> f64 {
        self.amount * halvings(now.since(self.at), half_life)
    }

    pub(crate) fn quarantined(&self, now: Time, half_life: Duration) -> bool {
        // The amount only decays, so for most mirrors no exponential is computed.
        self.this_run > 0 || (self.amount > 0.5 && self.amount(now, half_life) > 0.5)
    }
}

impl Health {
    pub(crate) fn new(mirror: &Mirror, config: &SelectorConfig) -> Self {
        Self {
            first_byte: Latency::default(),
            rates: RateModel::default(),
            outcomes: Outcomes::default(),
            service: Latency::default(),
            failure: Latency::default(),
            breaker: Breaker::default(),
            burst: None,
            window: Window::new(mirror.max_connections.unwrap_or(config.max_connections)),
            in_flight: InFlight::default(),
            paths: PathMemory::default(),
            throttled: None,
            throttles: 0,
            behind: None,
            denied: None,
            distrust: Distrust::default(),
            has_worked: false,
            counts: ClassCounts::default(),
            cancelled: 0,
            bytes: 0,
            peak_rate: 0.0,
            last: None,
            last_tried: None,
        }
    }

    pub(crate) fn start(&mut self, now: Time) {
        self.in_flight.start(now);
        self.last_tried = Some(now);
    }

    /// Records the outcome of an attempt. `prior_rate` is the prior throughput in bytes per second;
    /// `jitter` is in `0..1`.
    pub(crate) fn finish(
        &mut self,
        seen: &Observation<'_>,
        config: &SelectorConfig,
        prior_rate: f64,
        jitter: f64,
    ) {
        let path = PathHash::of(seen.path);
        let at = seen.at;
        let in_flight = self.in_flight.count().max(1);
        self.counts.add(seen.outcome);
        self.last = Some(LastOutcome {
            class: seen.outcome,
            at,
        });
        self.bytes = self.bytes.saturating_add(seen.bytes);
        match seen.outcome {
            Class::Ok => {
                self.learn_speed(at, seen.bytes, seen.first_byte, seen.duration);
                self.service.observe(seen.duration.as_secs_f64(), at);
                self.outcomes.good(at);
                self.breaker.succeed();
                self.paths.remove(path);
                self.has_worked = true;
                self.throttles = 0;
                self.denied = None;
                self.window
                    .grow(in_flight, &self.rates.fit(prior_rate, at), at);
            }
            Class::NotHere => {
                self.outcomes.missing(at);
                self.breaker.succeed();
                self.paths
                    .insert(path, PathFault::NotHere, at, config.memory);
            }
            Class::Behind => {
                self.breaker.succeed();
                self.behind = Some(Hold::new(at, config.memory));
                self.paths
                    .insert(path, PathFault::NotHere, at, config.memory);
            }
            Class::Corrupt => {
                self.breaker.succeed();
                self.outcomes.bad(at, true);
                self.distrust.distrust(path, at, config.quarantine);
                self.paths
                    .insert(path, PathFault::Corrupt, at, config.memory);
            }
            Class::Unwell => {
                let is_news = !self.burst.is_some_and(|hold| hold.active(at));
                if is_news {
                    self.burst = Some(Hold::new(at, Window::BURST));
                }
                self.outcomes.bad(at, is_news);
                self.failure.observe(self.lost(seen, prior_rate), at);
                let to_open = if self.has_worked {
                    config.failures_to_open
                } else {
                    1
                };
                let (backoff, most) = (config.backoff, config.max_backoff);
                self.breaker.fail(at, to_open, backoff, most, jitter);
                // A single request cannot have overloaded the mirror.
                if in_flight > 1 {
                    self.window.shrink(in_flight, 0.7, at);
                }
            }
            Class::Throttled => {
                self.throttles = self.throttles.saturating_add(1);
                let hold = Hold::new(at, self.pause(seen.retry_after, config, jitter));
                self.throttled = Some(self.throttled.map_or(hold, |held| held.later(hold)));
                self.window.throttled(in_flight, at);
            }
            Class::Denied => self.denied = Some(Hold::new(at, config.memory)),
        }
        self.in_flight.end(at);
    }

    /// The seconds lost by a failed attempt, without those for the bytes that arrived and are kept.
    fn lost(&self, seen: &Observation<'_>, prior_rate: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bytes = seen.bytes as f64;
        let connections = f64::from(self.in_flight.count().max(1));
        let throughput = self.rates.fit(prior_rate, seen.at);
        let useful = bytes * throughput.seconds_per_byte(connections);
        (seen.duration.as_secs_f64() - useful).max(0.0)
    }

    /// The backoff of a mirror that throttles.
    fn pause(&self, requested: Option<Duration>, config: &SelectorConfig, jitter: f64) -> Duration {
        const LEAST: Duration = Duration::from_millis(100);
        // A thousand clients that were told the same delay must not return at the same time, and none
        // before it; so the jitter only adds.
        let (pause, stretch) = if let Some(requested) = requested {
            (requested, 1.0 + 0.1 * jitter)
        } else {
            let doublings = self.throttles.saturating_sub(1).min(16);
            (config.backoff.saturating_mul(1 << doublings), 0.5 + jitter)
        };
        pause
            .clamp(LEAST, config.max_retry_after.max(LEAST))
            .mul_f64(stretch)
    }

    /// Records an attempt that the caller cancelled.
    pub(crate) fn cancel(&mut self, seen: &Progress) {
        self.cancelled = self.cancelled.saturating_add(1);
        self.bytes = self.bytes.saturating_add(seen.bytes);
        if seen.first_byte.is_some() {
            self.learn_speed(seen.at, seen.bytes, seen.first_byte, seen.duration);
        } else if seen.duration.as_secs_f64() > self.first_byte.expected(0.2, seen.at).mean {
            // A lower bound of the time to first byte.
            self.first_byte
                .observe(seen.duration.as_secs_f64(), seen.at);
        }
        self.in_flight.end(seen.at);
    }

    fn learn_speed(
        &mut self,
        at: Time,
        bytes: u64,
        first_byte: Option<Duration>,
        duration: Duration,
    ) {
        if let Some(first_byte) = first_byte {
            self.first_byte.observe(first_byte.as_secs_f64(), at);
        }
        let body = duration
            .saturating_sub(first_byte.unwrap_or_default())
            .as_secs_f64();
        if bytes >= RateModel::LEAST_BYTES && body > 1e-6 {
            let connections = self.in_flight.mean(at, duration);
            self.rates.observe(connections, bytes, body, at);
            #[expect(clippy::cast_precision_loss, reason = "for tables")]
            let sum = bytes as f64 / body * connections;
            self.peak_rate = self.peak_rate.max(sum);
        }
    }
}
