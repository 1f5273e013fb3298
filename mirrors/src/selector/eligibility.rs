use std::borrow::Cow;

use crate::Selector;
use crate::selector::breaker::BreakerState;
use crate::selector::forecast::{Forecast, Forecasts};
use crate::selector::health::Health;
use crate::selector::hold::Hold;
use crate::selector::path_memory::{PathFault, PathHash};
use crate::selector::why::DemotionReason;
use crate::{Kind, MirrorId, Request, Time, Why};

/// A request with the data that all mirrors are judged by.
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

/// The penalties of demoted mirrors, as shares of [`SelectorConfig::patience`]. Their order is that
/// in which demoted mirrors are used when no other is left.
mod penalty {
    pub(super) const PATH_CORRUPT: f64 = 0.9;
    pub(super) const QUARANTINED: f64 = 0.8;
    pub(super) const DENIED: f64 = 0.6;
    pub(super) const BEHIND: f64 = 0.4;
    pub(super) const PATH_NOT_HERE: f64 = 0.2;
    /// The circuit breaker is not closed; added to the others.
    pub(super) const CIRCUIT: f64 = 0.1;
    /// For each failure of this job; added to the others.
    pub(super) const FAILURE: f64 = 0.02;
}

/// Whether and when a mirror can serve a request.
pub(crate) enum Eligibility {
    /// Usable now. `on_trial` means that its circuit breaker is half-open.
    Eligible { on_trial: bool },
    /// Usable when one of its requests ends, which takes about `queue` seconds.
    Busy { queue: f64 },
    /// Used only when no eligible mirror is left, and not before `wait` seconds have passed. To
    /// avoid it, waiting `penalty` seconds longer for another mirror is acceptable.
    Demoted { wait: f64, penalty: f64, why: Why },
    /// Not used for this job.
    Excluded(Why),
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

    /// The expected seconds of the request if it is sent to this mirror now.
    pub(crate) fn cost(&self, index: usize, query: &Query<'_>) -> f64 {
        let n = f64::from(self.health[index].in_flight.count()) + 1.0;
        query.forecast(index).cost(query.bytes, n)
    }

    /// The maximum number of requests in flight on a mirror at the moment.
    pub(crate) fn limit(&self, health: &Health) -> u32 {
        /// The maximum before a mirror has worked, if there are others.
        const UNPROVEN: u32 = 2;
        let limit = health.window.limit();
        if health.has_worked || self.mirrors.len() == 1 {
            limit
        } else {
            limit.min(UNPROVEN)
        }
    }

    /// The expected seconds until one of the mirror's requests ends.
    pub(crate) fn queue(&self, index: usize, query: &Query<'_>) -> f64 {
        let health = &self.health[index];
        let usual = query
            .forecast(index)
            .cost(query.bytes, 1.0)
            .clamp(1e-3, 60.0);
        let service = health.service.expected(usual, query.now).mean;
        (service / f64::from(health.window.limit().max(1))).clamp(0.005, 5.0)
    }

    pub(crate) fn eligibility(&self, index: usize, query: &Query<'_>) -> Eligibility {
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
        let reason = if fault == Some(PathFault::Corrupt) {
            Some((penalty::PATH_CORRUPT, DemotionReason::PathCorrupt))
        } else if health.distrust.quarantined(now, self.config.quarantine) {
            Some((penalty::QUARANTINED, DemotionReason::Quarantined))
        } else if denied {
            Some((penalty::DENIED, DemotionReason::Denied))
        } else if behind {
            Some((penalty::BEHIND, DemotionReason::Behind))
        } else if fault == Some(PathFault::NotHere) {
            Some((penalty::PATH_NOT_HERE, DemotionReason::PathNotHere))
        } else {
            None
        };
        if attempts > 0 || is_excluded {
            if let Some((_, reason)) = reason.filter(|_| fault.is_some() || denied || behind) {
                return Eligibility::Excluded(Why::Demoted(reason));
            }
            if attempts >= self.config.attempts_per_mirror {
                let last = health.last.map(|last| last.class);
                return Eligibility::Excluded(Why::Tried { attempts, last });
            }
            if is_excluded {
                return Eligibility::Excluded(Why::Excluded);
            }
        }
        let circuit = health.breaker.state(now);
        let in_flight = health.in_flight.count();
        let busy = in_flight >= self.limit(health);
        let throttled = health.throttled.and_then(|hold| hold.until(now));
        if reason.is_none() && attempts == 0 && throttled.is_none() {
            match circuit {
                BreakerState::Closed if busy => {
                    return Eligibility::Busy {
                        queue: self.queue(index, query),
                    };
                }
                BreakerState::Closed => return Eligibility::Eligible { on_trial: false },
                BreakerState::HalfOpen if in_flight == 0 => {
                    return Eligibility::Eligible { on_trial: true };
                }
                BreakerState::HalfOpen | BreakerState::Open(_) => {}
            }
        }
        self.demoted(index, query, attempts, reason, circuit, throttled)
    }

    /// The wait, the penalty and the reason of a mirror that is neither eligible nor busy.
    fn demoted(
        &self,
        index: usize,
        query: &Query<'_>,
        attempts: u32,
        reason: Option<(f64, DemotionReason)>,
        circuit: BreakerState,
        throttled: Option<Time>,
    ) -> Eligibility {
        let health = &self.health[index];
        let now = query.now;
        let patience = self.config.patience.as_secs_f64();
        let mut wait: f64 = 0.0;
        let mut penalty = reason.map_or(0.0, |(share, _)| share * patience);
        let mut why = reason.map(|(_, reason)| Why::Demoted(reason));
        match circuit {
            BreakerState::Closed => {
                if health.in_flight.count() >= self.limit(health) {
                    wait = wait.max(self.queue(index, query));
                }
            }
            BreakerState::HalfOpen | BreakerState::Open(_) if health.in_flight.count() > 0 => {
                wait = wait.max(self.queue(index, query));
                penalty += penalty::CIRCUIT * patience;
                why = why.or(Some(Why::Demoted(DemotionReason::OnTrial)));
            }
            BreakerState::HalfOpen => penalty += penalty::CIRCUIT * patience,
            BreakerState::Open(hold) => {
                // If no other mirror is left, the backoff is cut to the patience of the caller.
                let end = (hold.since + hold.length).min(hold.since + self.config.patience);
                let left = end.since(now);
                wait = wait.max(left.as_secs_f64());
                penalty += penalty::CIRCUIT * patience;
                let failures = health.breaker.failures();
                why = why.or(Some(Why::Demoted(DemotionReason::CircuitOpen {
                    failures,
                    left,
                })));
            }
        }
        if let Some(until) = throttled {
            let left = until.since(now);
            wait = wait.max(left.as_secs_f64());
            why = why.or(Some(Why::Demoted(DemotionReason::Throttled {
                until,
                left,
            })));
        }
        if attempts > 0 {
            wait = wait.max(self.retry_wait(health, attempts, now));
            penalty += penalty::FAILURE * patience * f64::from(attempts);
        }
        let why = why.unwrap_or(Why::Retry { attempts });
        Eligibility::Demoted { wait, penalty, why }
    }

    /// Seconds until this job may retry on a mirror that failed.
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
