//! Which mirror serves a request: the health of each, and the choice among them.

pub(crate) mod breaker;
pub(crate) mod choose;
pub(crate) mod config;
pub(crate) mod draw;
pub(crate) mod eligibility;
pub(crate) mod estimate;
pub(crate) mod forecast;
pub(crate) mod health;
pub(crate) mod hold;
pub(crate) mod observation;
pub(crate) mod path_memory;
pub(crate) mod report;
pub(crate) mod request;
pub(crate) mod state;
pub(crate) mod tried;
pub(crate) mod why;
pub(crate) mod window;

use std::time::Duration;

use crate::selector::breaker::BreakerState;
use crate::selector::draw::uniform;
use crate::selector::forecast::Forecasts;
use crate::selector::health::Health;
use crate::selector::path_memory::{PathFault, PathHash};
use crate::selector::report::{Circuit, MirrorReport};
use crate::selector::state::{Record, SavedState};
use crate::{Class, Mirror, MirrorId, Observation, Pick, Progress, Request, SelectorConfig, Time};

/// The state of a mirror set, and the choice among its mirrors.
///
/// Methods with `&self` are queries and change nothing, however often they are called:
/// [`choose`](Self::choose), [`explain`](Self::explain), [`hedge_after`](Self::hedge_after),
/// [`min_rate`](Self::min_rate), [`report`](Self::report).
///
/// With `&mut self` the caller reports: [`started`](Self::started) when the request of a pick is sent,
/// or [`started_unchosen`](Self::started_unchosen) for any other request, and then exactly once either
/// [`finished`](Self::finished) or [`cancelled`](Self::cancelled); [`queued`](Self::queued) when a job
/// waits.
#[derive(Clone, Debug)]
pub struct Selector {
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) health: Vec<Health>,
    pub(crate) config: SelectorConfig,
    /// Indices of the mirrors, by tier.
    pub(crate) order: Vec<u32>,
    pub(crate) forecasts: Forecasts,
    /// The budget for exploration, in requests to the best mirror.
    pub(crate) exploration_credit: f64,
    /// The mean size of a request, in bytes.
    pub(crate) usual_bytes: f64,
    in_flight: u32,
    /// The seeds of the waiting jobs, in order of arrival.
    queue: Vec<u64>,
    most_in_flight: u32,
    /// The highest throughput of all connections together, in bytes per second.
    peak_rate: f64,
    bytes: u64,
    wasted: u64,
}

impl Selector {
    const MOST_CREDIT: f64 = 3.0;
    /// Further waiting jobs are not distinguished.
    const LONGEST_QUEUE: usize = 1024;

    /// A selector without history.
    pub fn new(mirrors: Vec<Mirror>, config: SelectorConfig) -> Self {
        let config = config.bounded();
        let health = mirrors
            .iter()
            .map(|mirror| Health::new(mirror, &config))
            .collect();
        let mut order: Vec<u32> = (0..=u32::MAX).take(mirrors.len()).collect();
        order.sort_by_key(|&index| mirrors[index as usize].priority);
        Self {
            health,
            order,
            mirrors,
            config,
            forecasts: Forecasts::default(),
            exploration_credit: Self::MOST_CREDIT,
            usual_bytes: 262_144.0,
            in_flight: 0,
            queue: Vec::new(),
            most_in_flight: 0,
            peak_rate: 0.0,
            bytes: 0,
            wasted: 0,
        }
    }

    /// The mirrors, each at the index of its id.
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    pub fn mirror(&self, id: MirrorId) -> Option<&Mirror> {
        self.mirrors.get(id.index())
    }

    pub fn ids(&self) -> impl Iterator<Item = MirrorId> + use<> {
        (0..=u32::MAX).take(self.mirrors.len()).map(MirrorId::new)
    }

    pub fn config(&self) -> &SelectorConfig {
        &self.config
    }

    /// The request of this pick is sent. It earns a little exploration credit, and spends some if it
    /// explores.
    pub fn started(&mut self, pick: &Pick, now: Time) {
        let credit = self.exploration_credit - pick.exploration + self.config.exploration;
        // Picks made at the same time may all have used the same credit: the debt is paid back.
        self.exploration_credit = credit.clamp(-Self::MOST_CREDIT, Self::MOST_CREDIT);
        self.started_unchosen(pick.mirror, now);
    }

    /// A request is sent to a mirror that was not chosen by [`choose`](Self::choose): a probe or a
    /// sample.
    pub fn started_unchosen(&mut self, id: MirrorId, now: Time) {
        let Some(health) = self.health.get_mut(id.index()) else {
            return;
        };
        health.start(now);
        self.in_flight = self.in_flight.saturating_add(1);
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        self.tick(now);
    }

    /// The job of this request waits after [`Choice::Wait`](crate::Choice::Wait). Jobs that wait longer
    /// are served first, which makes waiting less attractive for later ones.
    ///
    /// A job is identified by the seed of its request and counts once, until any request ends: then all
    /// of them choose again. The caller reports it, because a choice may have another purpose than
    /// waiting, such as a hedged request.
    pub fn queued(&mut self, request: &Request<'_>) {
        if self.queue.len() < Self::LONGEST_QUEUE && !self.queue.contains(&request.seed) {
            self.queue.push(request.seed);
        }
    }

    /// The number of waiting jobs that are served before the job with this seed.
    pub(crate) fn queued_before(&self, seed: u64) -> usize {
        let place = self.queue.iter().position(|&other| other == seed);
        place.unwrap_or(self.queue.len())
    }

    /// A request has ended: its body was verified, or it failed.
    pub fn finished(&mut self, id: MirrorId, seen: &Observation<'_>) {
        let Some(health) = self.health.get_mut(id.index()) else {
            return;
        };
        let moment = u64::try_from(seen.at.unix().as_nanos()).unwrap_or(u64::MAX);
        let jitter = uniform(self.config.seed ^ moment, id.index() as u64);
        health.finish(seen, &self.config, self.forecasts.prior.rate, jitter);
        if seen.outcome == Class::Corrupt {
            self.doubt_path(PathHash::of(seen.path), seen.at);
        }
        if seen.outcome == Class::Ok && seen.bytes > 0 {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let bytes = seen.bytes as f64;
            self.usual_bytes += 0.1 * (bytes.min(1e12) - self.usual_bytes);
        }
        self.ended(id, seen.bytes, seen.duration, seen.at);
    }

    /// If two mirrors have a digest mismatch for the same path, the expected digest is more likely wrong
    /// than both mirrors. Both stay demoted for the path, and their quarantine is lifted.
    fn doubt_path(&mut self, path: PathHash, now: Time) {
        let wrong = |health: &Health| health.paths.get(path, now) == Some(PathFault::Corrupt);
        if self
            .health
            .iter()
            .filter(|health| wrong(health))
            .nth(1)
            .is_some()
        {
            for health in &mut self.health {
                health.distrust.lift_quarantine(path);
            }
        }
    }

    /// The caller has cancelled a request, which is not a failure of the mirror: the slower of two
    /// hedged requests, a job that was dropped, a body below its minimum rate.
    pub fn cancelled(&mut self, id: MirrorId, seen: &Progress) {
        let Some(health) = self.health.get_mut(id.index()) else {
            return;
        };
        health.cancel(seen);
        self.wasted = self.wasted.saturating_add(seen.wasted);
        self.ended(id, seen.bytes, seen.duration, seen.at);
    }

    fn ended(&mut self, id: MirrorId, bytes: u64, duration: Duration, at: Time) {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rate = bytes as f64 / duration.as_secs_f64().max(1e-3);
        self.peak_rate = self.peak_rate.max(rate * f64::from(self.in_flight.max(1)));
        self.in_flight = self.in_flight.saturating_sub(1);
        self.queue.clear();
        self.bytes = self.bytes.saturating_add(bytes);
        self.renew_forecast(id.index(), at);
    }

    /// The peak throughput divided by the maximum number of connections: the share of each when the
    /// network of the client is the bottleneck.
    pub(crate) fn fair_share(&self) -> f64 {
        if self.peak_rate > 0.0 {
            self.peak_rate / f64::from(self.most_in_flight.max(4))
        } else {
            f64::INFINITY
        }
    }

    /// Whether the budget for wasted bytes is not used up.
    pub(crate) fn may_waste(&self) -> bool {
        /// An initial allowance, so that a first small request can be hedged.
        const FREE: f64 = 524_288.0;
        #[expect(clippy::cast_precision_loss, reason = "a budget")]
        let (bytes, wasted) = (self.bytes as f64, self.wasted as f64);
        wasted < FREE + bytes * self.config.hedge_share
    }

    /// The expected time to first byte of another request, in seconds, and its throughput in bytes per
    /// second.
    pub(crate) fn outlook(&self, id: MirrorId, now: Time) -> (f64, f64) {
        let forecasts = self.forecasts(now);
        let (Some(forecast), Some(health)) =
            (forecasts.each.get(id.index()), self.health.get(id.index()))
        else {
            return (1.0, 1.0);
        };
        let n = f64::from(health.in_flight.count()) + 1.0;
        let rate = forecast.throughput.rate(n).clamp(1.0, 1e12);
        (forecast.first_byte.mean, rate)
    }

    /// The state of a mirror.
    pub fn report(&self, id: MirrorId, now: Time) -> Option<MirrorReport> {
        let (health, mirror) = (self.health.get(id.index())?, self.mirror(id)?);
        let prior = &self.forecasts.prior;
        let first_byte = (health.first_byte.weight(now) > 0.0)
            .then(|| health.first_byte.expected(prior.first_byte, now));
        let throughput =
            (health.rates.weight(now) > 0.0).then(|| health.rates.fit(prior.rate, now));
        let seconds = |s: f64| Duration::from_secs_f64(s.clamp(0.0, 1e9));
        let limit = self.limit(health);
        Some(MirrorReport {
            location: mirror.location.to_string(),
            provenance: mirror.provenance.to_string(),
            priority: mirror.priority,
            weight: mirror.weight,
            country: mirror.country.clone(),
            counts: health.counts,
            cancelled: health.cancelled,
            bytes: health.bytes,
            rate: throughput.map(|throughput| throughput.rate(1.0)),
            total_rate: throughput
                .map(|throughput| throughput.rate(f64::from(limit)) * f64::from(limit)),
            peak_rate: health.peak_rate,
            first_byte: first_byte.map(|expected| seconds(expected.mean)),
            first_byte_p95: first_byte.map(|expected| seconds(expected.p95)),
            failure_share: health.outcomes.shares(now).0,
            circuit: match health.breaker.state(now) {
                BreakerState::Closed => Circuit::Closed,
                BreakerState::Open(_) => Circuit::Open,
                BreakerState::HalfOpen => Circuit::HalfOpen,
            },
            quarantined: health.distrust.quarantined(now, self.config.quarantine),
            behind: health.behind.is_some_and(|hold| hold.active(now)),
            denied: health.denied.is_some_and(|hold| hold.active(now)),
            throttled_until: health.throttled.and_then(|hold| hold.until(now)),
            in_flight: health.in_flight.count(),
            window: limit,
            last: health.last,
        })
    }

    /// Saves the state for the next run into `state`, which can hold other mirror sets, too.
    pub fn save(&self, state: &mut SavedState, now: Time) {
        for (health, mirror) in self.health.iter().zip(&self.mirrors) {
            let key = mirror.location.key();
            if let Some(record) = Record::of(health) {
                state.put(&self.config.network, key.clone(), record);
            }
            let distrust = health.distrust.amount(now, self.config.quarantine);
            state.set_distrust(key, distrust, now);
        }
        state.prune(now);
    }

    /// Loads the state of an earlier run. Call it first: it overwrites earlier observations.
    pub fn load(&mut self, state: &SavedState, now: Time) {
        for (health, mirror) in self.health.iter_mut().zip(&self.mirrors) {
            let key = mirror.location.key();
            if let Some(record) = state.get(&self.config.network, &key) {
                record.apply(health, now);
            }
            if let Some((amount, at)) = state.distrust(&key) {
                health.distrust.amount = amount;
                health.distrust.at = at.min(now);
            }
        }
        self.renew_forecasts(now);
    }
}
