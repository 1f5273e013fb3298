//! Estimates with decay: the weight of an observation falls with its age.

use std::time::Duration;

use crate::Time;

/// The half-life of the weight above one observation, so that the last minute outweighs an hour ago.
const HALF_LIFE: Duration = Duration::from_mins(10);
/// The half-life of the last observation's weight: a mirror that was fast yesterday is a better guess
/// than an unknown one.
const LONG_HALF_LIFE: Duration = Duration::from_hours(7 * 24);
/// The maximum weight of the past against one new observation.
const MEMORY: f64 = 12.0;
/// The weight of the prior.
const PRIOR_WEIGHT: f64 = 0.3;

/// The weight after `age`.
pub(crate) fn faded(weight: f64, age: Duration) -> f64 {
    if age.is_zero() {
        return weight;
    }
    quickly_faded(weight, age).max(weight.min(1.0) * halvings(age, LONG_HALF_LIFE))
}

/// The weight after `age` without the long half-life, for failures.
pub(crate) fn quickly_faded(weight: f64, age: Duration) -> f64 {
    weight * halvings(age, HALF_LIFE)
}

/// The remaining share after `age`.
pub(crate) fn halvings(age: Duration, half_life: Duration) -> f64 {
    (-age.as_secs_f64() / half_life.as_secs_f64().max(1e-3)).exp2()
}

/// A log-normally distributed duration; latencies nearly are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Latency {
    /// The weight of the observations at `at`.
    pub(crate) weight: f64,
    /// Mean of the natural logarithm of the seconds.
    pub(crate) mean: f64,
    /// Variance of these logarithms.
    pub(crate) variance: f64,
    pub(crate) at: Time,
}

/// The expectation of a duration, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) mean: f64,
    /// The 95th percentile.
    pub(crate) p95: f64,
}

impl Latency {
    pub(crate) fn observe(&mut self, seconds: f64, at: Time) {
        let x = seconds.clamp(1e-5, 3600.0).ln();
        let weight = faded(self.weight, at.since(self.at)).min(MEMORY);
        let total = weight + 1.0;
        let delta = x - self.mean;
        self.mean += delta / total;
        self.variance = weight * (self.variance + delta * delta / total) / total;
        self.weight = total;
        self.at = at;
    }

    pub(crate) fn weight(&self, now: Time) -> f64 {
        faded(self.weight, now.since(self.at))
    }

    /// The expectation, starting from `prior` seconds.
    pub(crate) fn expected(&self, prior: f64, now: Time) -> Expected {
        /// A factor of about 1.6 either way is usual between two responses of one server.
        const PRIOR_VARIANCE: f64 = 0.25;
        let weight = self.weight(now);
        let total = weight + PRIOR_WEIGHT;
        let mean = (weight * self.mean + PRIOR_WEIGHT * prior.ln()) / total;
        let variance = (weight * self.variance + PRIOR_WEIGHT * PRIOR_VARIANCE) / total;
        Expected {
            // The variance is bounded, because one stall of an hour among milliseconds would make the
            // mean absurdly large.
            mean: (mean + variance.min(2.0) / 2.0).exp(),
            p95: (mean + 1.645 * variance.sqrt()).exp(),
        }
    }
}

/// The time per byte on one connection, linear in the number of connections: a part that each
/// connection has alone, and a part that all share.
///
/// The rate of one of `n` connections is `1 / (alone + shared × n)`, so the sum approaches
/// `1 / shared`. The line is fitted by weighted least squares with a prior for the slope, which
/// matters until the number of connections has varied. Times per byte are averaged instead of rates,
/// because their mean gives the expected duration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RateModel {
    pub(crate) weight: f64,
    pub(crate) n: f64,
    pub(crate) nn: f64,
    pub(crate) y: f64,
    pub(crate) ny: f64,
    pub(crate) at: Time,
}

/// A fitted [`RateModel`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateLine {
    /// Seconds per byte.
    pub(crate) alone: f64,
    /// Seconds per byte and connection.
    pub(crate) shared: f64,
}

impl RateLine {
    /// Seconds per byte on one of `n` connections.
    pub(crate) fn seconds_per_byte(&self, n: f64) -> f64 {
        self.alone + self.shared * n
    }

    /// Bytes per second on one of `n` connections.
    pub(crate) fn rate(&self, n: f64) -> f64 {
        self.seconds_per_byte(n).recip()
    }

    /// The throughput that connection `n + 1` adds to the sum, as a share of that of one of `n`.
    pub(crate) fn marginal_gain(&self, n: f64) -> f64 {
        let sum = |n: f64| n / self.seconds_per_byte(n);
        (sum(n + 1.0) - sum(n)) * self.seconds_per_byte(n)
    }
}

impl RateModel {
    /// Shorter bodies are dominated by the time to first byte.
    pub(crate) const LEAST_BYTES: u64 = 16 << 10;
    /// The prior: at this number of connections half of the capacity is used.
    const HALF_CAPACITY: f64 = 8.0;

    /// `connections` were open on average while `bytes` of body took `seconds`.
    pub(crate) fn observe(&mut self, connections: f64, bytes: u64, seconds: f64, at: Time) {
        /// A body of this size has half the weight of an infinite one.
        const HALF_WEIGHT: f64 = 131_072.0;
        if bytes < Self::LEAST_BYTES {
            return;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "an estimate needs no more precision"
        )]
        let bytes = bytes as f64;
        let mut y = (seconds / bytes).clamp(1e-11, 1.0);
        let keep = faded(self.weight, at.since(self.at)).min(MEMORY) / self.weight.max(1e-9);
        if self.weight * keep > 1.0 {
            // One very slow body must not outweigh a dozen good ones.
            y = y.min(self.y / self.weight * 20.0);
        }
        let n = connections.clamp(1.0, 4096.0);
        let w = bytes / (bytes + HALF_WEIGHT);
        self.weight = self.weight * keep + w;
        self.n = self.n * keep + w * n;
        self.nn = self.nn * keep + w * n * n;
        self.y = self.y * keep + w * y;
        self.ny = self.ny * keep + w * n * y;
        self.at = at;
    }

    pub(crate) fn weight(&self, now: Time) -> f64 {
        faded(self.weight, now.since(self.at))
    }

    /// The fitted line, starting from `prior` bytes per second for a single connection.
    pub(crate) fn fit(&self, prior: f64, now: Time) -> RateLine {
        /// The weight of the prior slope, as a variance of the number of connections.
        const PULL: f64 = 2.0;
        let keep = self.weight(now) / self.weight.max(1e-9);
        let weight = self.weight * keep + PRIOR_WEIGHT;
        let n = (self.n * keep + PRIOR_WEIGHT) / weight;
        let y = (self.y * keep + PRIOR_WEIGHT / prior) / weight;
        let assumed = y / (n + Self::HALF_CAPACITY);
        let (variance, covariance) = if self.weight > 0.0 {
            (
                (self.nn - self.n * self.n / self.weight).max(0.0) * keep,
                (self.ny - self.n * self.y / self.weight) * keep,
            )
        } else {
            (0.0, 0.0)
        };
        let slope = (covariance + PULL * assumed) / (variance + PULL);
        let shared = slope.clamp(y / n * 0.01, y / n);
        RateLine {
            alone: (y - shared * n).max(0.0),
            shared,
        }
    }
}

/// Shares of outcomes, with decay. Failures decay faster than successes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcomes {
    pub(crate) good: f64,
    pub(crate) bad: f64,
    pub(crate) missing: f64,
    pub(crate) at: Time,
}

impl Outcomes {
    fn fade_to(&mut self, at: Time) {
        let age = at.since(self.at);
        self.good = faded(self.good, age);
        self.bad = quickly_faded(self.bad, age);
        self.missing = quickly_faded(self.missing, age);
        let sum = self.good + self.bad + self.missing;
        if sum > 2.0 * MEMORY {
            let keep = 2.0 * MEMORY / sum;
            self.good *= keep;
            self.bad *= keep;
            self.missing *= keep;
        }
        self.at = at;
    }

    pub(crate) fn good(&mut self, at: Time) {
        self.fade_to(at);
        self.good += 1.0;
    }

    /// `is_news` is false for further failures of one burst.
    pub(crate) fn bad(&mut self, at: Time, is_news: bool) {
        /// When a server goes down, all its requests fail. They count as one failure: otherwise the
        /// busier of two equal mirrors would seem worse.
        const IN_A_BURST: f64 = 0.2;
        self.fade_to(at);
        self.bad += if is_news { 1.0 } else { IN_A_BURST };
    }

    pub(crate) fn missing(&mut self, at: Time) {
        self.fade_to(at);
        self.missing += 1.0;
    }

    /// The expected shares of failures of the mirror, and of missing paths; both below one.
    pub(crate) fn shares(&self, now: Time) -> (f64, f64) {
        let mut at_now = *self;
        at_now.fade_to(now);
        let sum = at_now.good + at_now.bad + at_now.missing + 0.5;
        ((at_now.bad + 0.01) / sum, at_now.missing / sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_unix(Duration::from_secs(1_000_000 + seconds))
    }

    #[test]
    fn the_fit_recovers_a_shared_capacity() {
        // 10 MB/s alone, 20 MB/s together.
        let mut model = RateModel::default();
        for i in 0..200_u32 {
            let n = f64::from(i % 8 + 1);
            let rate = f64::min(10e6, 20e6 / n);
            model.observe(n, 10_000_000, 10e6 / rate, at(u64::from(i)));
        }
        let line = model.fit(1e6, at(200));
        let sum_at_8 = line.rate(8.0) * 8.0;
        assert!((15e6..25e6).contains(&sum_at_8), "{sum_at_8}");
        assert!((6e6..16e6).contains(&line.rate(1.0)), "{}", line.rate(1.0));
        assert!(line.marginal_gain(8.0) < 0.3, "{}", line.marginal_gain(8.0));
    }

    #[test]
    fn independent_connections_keep_their_rate() {
        let mut model = RateModel::default();
        for i in 0..100_u32 {
            model.observe(f64::from(i % 8 + 1), 10_000_000, 10.0, at(u64::from(i)));
        }
        let line = model.fit(1e6, at(100));
        assert!(line.rate(8.0) > 0.8e6, "{}", line.rate(8.0));
        assert!(line.marginal_gain(8.0) > 0.7, "{}", line.marginal_gain(8.0));
    }

    #[test]
    fn the_last_minute_outvotes_the_last_hour_but_not_at_once() {
        let mut latency = Latency::default();
        for i in 0..50 {
            latency.observe(0.1, at(i));
        }
        latency.observe(10.0, at(51));
        assert!(latency.expected(0.2, at(51)).mean < 0.5);
        for i in 0..10 {
            latency.observe(10.0, at(3600 + i));
        }
        assert!(latency.expected(0.2, at(3610)).mean > 5.0);
    }

    #[test]
    fn without_observations_the_prior_is_expected() {
        let expected = Latency::default().expected(0.2, at(0));
        assert!((0.2..0.25).contains(&expected.mean));
        let rate = RateModel::default().fit(3e6, at(0)).rate(1.0);
        assert!((2.9e6..3.1e6).contains(&rate), "{rate}");
    }

    #[test]
    fn failures_are_forgiven_within_hours() {
        let mut outcomes = Outcomes::default();
        for i in 0..10 {
            outcomes.bad(at(i), true);
        }
        assert!(outcomes.shares(at(10)).0 > 0.9);
        assert!(outcomes.shares(at(10 + 4 * 3600)).0 < 0.05);
    }

    #[test]
    fn estimates_survive_absurd_input() {
        let mut model = RateModel::default();
        let mut latency = Latency::default();
        for (seconds, bytes) in [(0.0, u64::MAX), (f64::MAX, 1 << 20), (1e-300, 1 << 14)] {
            model.observe(0.0, bytes, seconds, Time::from_unix(Duration::MAX));
            latency.observe(seconds, Time::ZERO);
        }
        let line = model.fit(1e6, at(0));
        assert!(line.rate(1.0).is_finite() && line.rate(1.0) > 0.0);
        assert!(latency.expected(0.1, at(0)).mean.is_finite());
    }
}
