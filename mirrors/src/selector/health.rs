use std::time::Duration;

use crate::selector::breaker::Breaker;
use crate::selector::estimate::{Latency, Outcomes, RateModel, halvings};
use crate::selector::hold::Hold;
use crate::selector::path_memory::{PathFault, PathHash, PathMemory};
use crate::selector::report::{ClassCounts, LastOutcome};
use crate::selector::window::{InFlight, Window};
use crate::{Class, Mirror, Observation, Progress, SelectorConfig, Time};

/// What is known of one mirror. Bounded in size whatever is observed.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) first_byte: Latency,
    pub(crate) rates: RateModel,
    pub(crate) outcomes: Outcomes,
    /// How long good attempts take.
    pub(crate) service: Latency,
    /// Seconds that failures have cost.
    pub(crate) failure: Latency,
    pub(crate) breaker: Breaker,
    /// Failures in this time belong to one that was counted.
    burst: Option<Hold>,
    pub(crate) window: Window,
    pub(crate) in_flight: InFlight,
    pub(crate) paths: PathMemory,
    pub(crate) throttled: Option<Hold>,
    /// Throttled answers since the last success.
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

/// How little a mirror is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Distrust {
    /// Corrupt bodies, fading.
    pub(crate) amount: f64,
    pub(crate) at: Time,
    /// Corrupt bodies in this run; from the first that counts on, the quarantine lasts as long as
    /// the run.
    this_run: u32,
    /// The path of the only corrupt body of this run.
    only: Option<PathHash>,
    was_lifted: bool,
}

impl Distrust {
    /// The mirror served a corrupt body.
    fn lied(&mut self, path: PathHash, at: Time, half_life: Duration) {
        self.amount = self.amount(at, half_life).min(100.0) + 1.0;
        self.at = at;
        self.only = (self.this_run == 0 && !self.was_lifted).then_some(path);
        self.this_run = self.this_run.saturating_add(1);
    }

    /// Takes a quarantine back that rests on this one path alone; once per run.
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
        // It only ever fades, so most mirrors need no exponential.
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

    /// Takes in how an attempt ended. `prior_rate` is what is assumed of an unknown mirror, in bytes
    /// per second, and `jitter` lies in `0..1`.
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
                self.distrust.lied(path, at, config.quarantine);
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
                // Alone in flight it cannot have been too much for the mirror.
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

    /// Seconds that a failed attempt has cost: what arrived before is kept, and was not in vain.
    fn lost(&self, seen: &Observation<'_>, prior_rate: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bytes = seen.bytes as f64;
        let connections = f64::from(self.in_flight.count().max(1));
        let line = self.rates.fit(prior_rate, seen.at);
        let useful = bytes * line.seconds_per_byte(connections);
        (seen.duration.as_secs_f64() - useful).max(0.0)
    }

    /// How long to leave a mirror alone that throttles.
    fn pause(&self, asked: Option<Duration>, config: &SelectorConfig, jitter: f64) -> Duration {
        const LEAST: Duration = Duration::from_millis(100);
        // A thousand clients that were told the same second must not all come back in it, and never
        // before it: so the jitter only adds.
        let (pause, stretch) = if let Some(asked) = asked {
            (asked, 1.0 + 0.1 * jitter)
        } else {
            let doublings = self.throttles.saturating_sub(1).min(16);
            (config.backoff.saturating_mul(1 << doublings), 0.5 + jitter)
        };
        pause
            .clamp(LEAST, config.max_retry_after.max(LEAST))
            .mul_f64(stretch)
    }

    /// Takes in an attempt that the caller ended.
    pub(crate) fn cancel(&mut self, seen: &Progress) {
        self.cancelled = self.cancelled.saturating_add(1);
        self.bytes = self.bytes.saturating_add(seen.bytes);
        if seen.first_byte.is_some() {
            self.learn_speed(seen.at, seen.bytes, seen.first_byte, seen.duration);
        } else if seen.duration.as_secs_f64() > self.first_byte.expected(0.2, seen.at).mean {
            // The first byte takes at least so long.
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
