use std::borrow::Cow;
use std::time::Duration;

use crate::Selector;
use crate::selector::estimate::{Expected, RateLine};
use crate::selector::health::Health;
use crate::{Location, Mirror, Time};

/// The expected behaviour of a mirror.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forecast {
    pub(crate) first_byte: Expected,
    pub(crate) throughput: RateLine,
    /// The seconds lost by failures per success.
    pub(crate) failure_cost: f64,
    /// Whether it was measured.
    pub(crate) known: bool,
    /// Whether the last measurement is old.
    pub(crate) stale: bool,
}

impl Forecast {
    /// The expected seconds of a request of `bytes`, one of `n` in flight.
    pub(crate) fn cost(&self, bytes: f64, n: f64) -> f64 {
        self.first_byte.mean + bytes * self.throughput.seconds_per_byte(n) + self.failure_cost
    }
}

/// The assumption for a mirror that was not measured: the mean of the measured ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prior {
    pub(crate) first_byte: f64,
    pub(crate) rate: f64,
}

impl Default for Prior {
    fn default() -> Self {
        Self {
            first_byte: 0.2,
            rate: 4e6,
        }
    }
}

/// The forecasts of all mirrors. They are cached, because choices are more frequent than observations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forecasts {
    at: Option<Time>,
    pub(crate) prior: Prior,
    pub(crate) each: Vec<Forecast>,
}

impl Forecasts {
    /// Older forecasts are computed again.
    const RENEWAL: Duration = Duration::from_secs(1);

    fn are_recent(&self, now: Time) -> bool {
        // Reports may be out of order, so `now` may be a little before `at`.
        self.at
            .is_some_and(|at| now.since(at).max(at.since(now)) < Self::RENEWAL)
    }
}

impl Selector {
    /// After this time without a request a mirror should be measured again.
    const STALE: Duration = Duration::from_mins(10);
    /// The minimum weight of observations of a known mirror.
    const KNOWN: f64 = 0.25;

    /// The cached forecasts if they are recent, otherwise new ones.
    pub(crate) fn forecasts(&self, now: Time) -> Cow<'_, Forecasts> {
        if self.forecasts.are_recent(now) {
            Cow::Borrowed(&self.forecasts)
        } else {
            Cow::Owned(self.new_forecasts(now))
        }
    }

    /// Renews the forecasts if they are older than a second, as the other methods with `&mut self` do.
    /// Queries work without it; but while nothing is reported, each of them computes its own forecasts.
    pub fn tick(&mut self, now: Time) {
        if !self.forecasts.are_recent(now) {
            self.renew_forecasts(now);
        }
    }

    pub(crate) fn renew_forecasts(&mut self, now: Time) {
        self.forecasts = self.new_forecasts(now);
    }

    /// Renews the forecast of one mirror after an observation.
    pub(crate) fn renew_forecast(&mut self, index: usize, at: Time) {
        if self.forecasts.are_recent(at) {
            let new = self.forecast(index, &self.forecasts.prior, at);
            let old = std::mem::replace(&mut self.forecasts.each[index], new);
            if old.known == new.known {
                return;
            }
            // The prior of the others depends on the set of known mirrors.
        }
        self.renew_forecasts(at);
    }

    fn new_forecasts(&self, now: Time) -> Forecasts {
        let prior = self.measured_prior(now);
        Forecasts {
            at: Some(now),
            each: (0..self.mirrors.len())
                .map(|index| self.forecast(index, &prior, now))
                .collect(),
            prior,
        }
    }

    fn forecast(&self, index: usize, prior: &Prior, now: Time) -> Forecast {
        let health = &self.health[index];
        let prior = self.prior_of(&self.mirrors[index], prior);
        let first_byte = health.first_byte.expected(prior.first_byte, now);
        let (bad, missing) = health.outcomes.shares(now);
        let failure = health.failure.expected(2.0, now).mean.clamp(0.05, 60.0);
        // With a failure share of p, p / (1 - p) failures precede each success.
        let odds = |share: f64| share / (1.0 - share.min(0.95));
        Forecast {
            first_byte,
            throughput: health.rates.fit(prior.rate, now),
            failure_cost: odds(bad) * failure + odds(missing) * first_byte.mean,
            known: health.first_byte.weight(now) > Self::KNOWN,
            stale: health
                .last_tried
                .is_none_or(|at| now.since(at) > Self::STALE),
        }
    }

    /// The geometric means over the measured mirrors.
    fn measured_prior(&self, now: Time) -> Prior {
        let assumed = Prior::default();
        let mean = |assumed: f64, measured: &dyn Fn(&Health) -> Option<f64>| {
            // The default prior has the weight of one mirror.
            let (sum, count) = self
                .health
                .iter()
                .zip(&self.mirrors)
                .filter(|(_, mirror)| !matches!(mirror.location, Location::File(_)))
                .filter_map(|(health, _)| measured(health))
                .fold((assumed.ln(), 1.0), |(sum, count), value| {
                    (sum + value.ln(), count + 1.0)
                });
            (sum / count).exp()
        };
        Prior {
            first_byte: mean(assumed.first_byte, &|health| {
                (health.first_byte.weight(now) > Self::KNOWN)
                    .then(|| health.first_byte.expected(assumed.first_byte, now).mean)
            }),
            rate: mean(assumed.rate, &|health| {
                (health.rates.weight(now) > Self::KNOWN)
                    .then(|| health.rates.fit(assumed.rate, now).rate(1.0))
            }),
        }
    }

    /// The prior of one mirror, by its location and country.
    fn prior_of(&self, mirror: &Mirror, prior: &Prior) -> Prior {
        if matches!(mirror.location, Location::File(_)) {
            return Prior {
                first_byte: 0.001,
                rate: 5e8,
            };
        }
        let distance = match (&self.config.country, &mirror.country) {
            (Some(ours), Some(theirs)) if ours == theirs => 0.5,
            (Some(_), Some(_)) => 1.5,
            _ => 1.0,
        };
        Prior {
            first_byte: prior.first_byte * distance,
            rate: prior.rate / distance,
        }
    }
}
