use std::borrow::Cow;

use crate::Selector;
use crate::selector::breaker::BreakerState;
use crate::selector::forecast::{Forecast, Forecasts};
use crate::selector::health::Health;
use crate::selector::hold::Hold;
use crate::selector::path_memory::{PathFault, PathHash};
use crate::selector::why::Standing;
use crate::{Kind, MirrorId, Request, Time, Why};

/// A request, prepared for looking at many mirrors.
pub(crate) struct Query<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) path: PathHash,
    pub(crate) bytes: f64,
    pub(crate) now: Time,
    forecasts: Cow<'a, Forecasts>,
}

impl Query<'_> {
    pub(crate) fn forecast(&self, index: usize) -> &Forecast {
        &self.forecasts.each[index]
    }
}

/// How a mirror stands to a request.
pub(crate) enum Stance {
    /// It may be used. On trial it has yet to show that it is well again.
    Fit { on_trial: bool },
    /// It may be used when one of its requests has ended, in so many seconds.
    Busy { queue: f64 },
    /// It should be used only when all others cannot, in so many seconds at the earliest. The
    /// penalty is how many seconds of waiting for a better one it is worth not to use it.
    Back { wait: f64, penalty: f64, why: Why },
    /// It must not be used for this job.
    Out(Why),
}

impl Selector {
    pub(crate) fn query<'a>(&'a self, request: &'a Request<'a>, now: Time) -> Query<'a> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "an estimate needs no more precision"
        )]
        let bytes = request.bytes.map_or(self.usual_bytes, |bytes| bytes as f64);
        Query {
            request,
            path: PathHash::of(request.path),
            bytes,
            now,
            forecasts: self.forecasts(now),
        }
    }

    /// Seconds until the request would be done if it were sent to this mirror now.
    pub(crate) fn cost(&self, index: usize, query: &Query<'_>) -> f64 {
        let n = f64::from(self.health[index].in_flight.count()) + 1.0;
        query.forecast(index).cost(query.bytes, n)
    }

    /// The most requests that a mirror should serve at the moment.
    pub(crate) fn limit(&self, health: &Health) -> u32 {
        /// Of several mirrors each gets so many before it has shown that it is alive at all.
        const UNPROVEN: u32 = 2;
        let limit = health.window.limit();
        if health.has_worked || self.mirrors.len() == 1 {
            limit
        } else {
            limit.min(UNPROVEN)
        }
    }

    /// Seconds until one of the requests of a mirror has ended.
    pub(crate) fn queue(&self, index: usize, query: &Query<'_>) -> f64 {
        let health = &self.health[index];
        let usual = query
            .forecast(index)
            .cost(query.bytes, 1.0)
            .clamp(1e-3, 60.0);
        let service = health.service.expected(usual, query.now).mean;
        (service / f64::from(health.window.limit().max(1))).clamp(0.005, 5.0)
    }

    pub(crate) fn stance(&self, index: usize, query: &Query<'_>) -> Stance {
        let health = &self.health[index];
        let now = query.now;
        let id = MirrorId::at(index);
        let (attempts, is_excluded) = (
            query.request.tried.failures(id),
            query.request.tried.is_excluded(id),
        );
        let fault = health.paths.get(query.path, now);
        let denied = health.denied.is_some_and(|hold| hold.active(now));
        let behind = query.request.kind == Kind::Metadata
            && health.behind.is_some_and(|hold| hold.active(now));
        let standing = if fault == Some(PathFault::Corrupt) {
            Some((0.9, Standing::PathCorrupt))
        } else if health.distrust.quarantined(now, self.config.quarantine) {
            Some((0.8, Standing::Quarantined))
        } else if denied {
            Some((0.6, Standing::Denied))
        } else if behind {
            Some((0.4, Standing::Behind))
        } else if fault == Some(PathFault::NotHere) {
            Some((0.2, Standing::PathNotHere))
        } else {
            None
        };
        if attempts > 0 || is_excluded {
            if let Some((_, standing)) = standing.filter(|_| fault.is_some() || denied || behind) {
                return Stance::Out(Why::StandsBack(standing));
            }
            if attempts >= self.config.attempts_per_mirror {
                let last = health.last.map(|last| last.class);
                return Stance::Out(Why::Tried { attempts, last });
            }
            if is_excluded {
                return Stance::Out(Why::Excluded);
            }
        }
        let circuit = health.breaker.state(now);
        let in_flight = health.in_flight.count();
        let busy = in_flight >= self.limit(health);
        let throttled = health.throttled.and_then(|hold| hold.until(now));
        if standing.is_none() && attempts == 0 && throttled.is_none() {
            match circuit {
                BreakerState::Closed if busy => {
                    return Stance::Busy {
                        queue: self.queue(index, query),
                    };
                }
                BreakerState::Closed => return Stance::Fit { on_trial: false },
                BreakerState::HalfOpen if in_flight == 0 => return Stance::Fit { on_trial: true },
                BreakerState::HalfOpen | BreakerState::Open(_) => {}
            }
        }
        self.stands_back(index, query, attempts, standing, circuit, throttled)
    }

    /// The stance of a mirror that is not simply fit.
    fn stands_back(
        &self,
        index: usize,
        query: &Query<'_>,
        attempts: u32,
        standing: Option<(f64, Standing)>,
        circuit: BreakerState,
        throttled: Option<Time>,
    ) -> Stance {
        let health = &self.health[index];
        let now = query.now;
        let patience = self.config.patience.as_secs_f64();
        let mut wait: f64 = 0.0;
        let mut penalty = standing.map_or(0.0, |(share, _)| share * patience);
        let mut why = standing.map(|(_, standing)| Why::StandsBack(standing));
        match circuit {
            BreakerState::Closed => {
                if health.in_flight.count() >= self.limit(health) {
                    wait = wait.max(self.queue(index, query));
                }
            }
            BreakerState::HalfOpen | BreakerState::Open(_) if health.in_flight.count() > 0 => {
                wait = wait.max(self.queue(index, query));
                penalty += 0.1 * patience;
                why = why.or(Some(Why::StandsBack(Standing::OnTrial)));
            }
            BreakerState::HalfOpen => penalty += 0.1 * patience,
            BreakerState::Open(hold) => {
                // When nothing else is left, the pause is cut to what a caller can bear.
                let end = (hold.since + hold.length).min(hold.since + self.config.patience);
                let left = end.since(now);
                wait = wait.max(left.as_secs_f64());
                penalty += 0.1 * patience;
                let failures = health.breaker.failures();
                why = why.or(Some(Why::StandsBack(Standing::CircuitOpen {
                    failures,
                    left,
                })));
            }
        }
        if let Some(until) = throttled {
            let left = until.since(now);
            wait = wait.max(left.as_secs_f64());
            why = why.or(Some(Why::StandsBack(Standing::Throttled { until, left })));
        }
        if attempts > 0 {
            wait = wait.max(self.retry_wait(health, attempts, now));
            penalty += 0.02 * patience * f64::from(attempts);
        }
        let why = why.unwrap_or(Why::Retry { attempts });
        Stance::Back { wait, penalty, why }
    }

    /// Seconds before a mirror that failed for this job is asked again for it.
    fn retry_wait(&self, health: &Health, attempts: u32, now: Time) -> f64 {
        let Some(last) = health.last.filter(|last| last.class.is_transient()) else {
            return 0.0;
        };
        let doublings = (attempts - 1).min(10);
        let pause = self
            .config
            .backoff
            .mul_f64(0.5)
            .saturating_mul(1 << doublings);
        let hold = Hold::new(last.at, pause.min(self.config.patience));
        hold.until(now)
            .map_or(0.0, |until| until.since(now).as_secs_f64())
    }
}
