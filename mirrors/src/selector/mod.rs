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

/// The state of one set of mirrors, and the judgement over them.
///
/// What takes `&self` is a query and changes nothing, however often it is asked:
/// [`choose`](Self::choose), [`explain`](Self::explain), [`hedge_after`](Self::hedge_after),
/// [`min_rate`](Self::min_rate), [`report`](Self::report).
///
/// What takes `&mut self` is told by the caller: [`started`](Self::started) when the request of a
/// pick goes out, or [`started_unchosen`](Self::started_unchosen) for any other, and then exactly
/// once either [`finished`](Self::finished) or [`cancelled`](Self::cancelled);
/// [`queued`](Self::queued) when a job waits.
#[derive(Clone, Debug)]
pub struct Selector {
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) health: Vec<Health>,
    pub(crate) config: SelectorConfig,
    /// The mirrors by tier, otherwise in the order of the list.
    pub(crate) order: Vec<u32>,
    pub(crate) forecasts: Forecasts,
    /// What may be spent on learning, in requests to the best mirror.
    pub(crate) exploration_credit: f64,
    /// The usual size of a request, in bytes.
    pub(crate) usual_bytes: f64,
    in_flight: u32,
    /// The seeds of the jobs that wait, in the order in which they began to.
    queue: Vec<u64>,
    most_in_flight: u32,
    /// The highest rate of all connections together that was seen, in bytes per second.
    peak_rate: f64,
    bytes: u64,
    wasted: u64,
}

impl Selector {
    /// The exploration credit at the beginning.
    const FIRST_CREDIT: f64 = 1.0;
    /// No more than this is saved up for exploring.
    const MOST_CREDIT: f64 = 3.0;
    /// More jobs that wait need not be told apart.
    const LONGEST_QUEUE: usize = 1024;

    /// Mirrors of which nothing is known yet.
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
            exploration_credit: Self::FIRST_CREDIT,
            usual_bytes: 262_144.0,
            in_flight: 0,
            queue: Vec::new(),
            most_in_flight: 0,
            peak_rate: 0.0,
            bytes: 0,
            wasted: 0,
        }
    }

    /// The mirrors, each at the place that its id names.
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    /// One of the mirrors.
    pub fn mirror(&self, id: MirrorId) -> Option<&Mirror> {
        self.mirrors.get(id.index())
    }

    /// The ids of all mirrors.
    pub fn ids(&self) -> impl Iterator<Item = MirrorId> + use<> {
        (0..=u32::MAX).take(self.mirrors.len()).map(MirrorId::new)
    }

    /// How it was told to behave.
    pub fn config(&self) -> &SelectorConfig {
        &self.config
    }

    /// The request of this pick goes out. It earns a little of the credit for exploration, and
    /// spends of it when it explores.
    pub fn started(&mut self, pick: &Pick, now: Time) {
        let credit = self.exploration_credit - pick.exploration + self.config.exploration;
        // Of picks made at the same time each may have counted on the same credit: the debt is paid
        // back.
        self.exploration_credit = credit.clamp(-Self::MOST_CREDIT, Self::MOST_CREDIT);
        self.started_unchosen(pick.mirror, now);
    }

    /// A request goes out to a mirror that [`choose`](Self::choose) was not asked for: a probe, a
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

    /// The job of this request waits, as [`Choice::Wait`](crate::Choice::Wait) told it to. Jobs that
    /// wait already are served before others, which makes waiting less attractive to these.
    ///
    /// A job is known by the seed of its request and counts once, however often it asks and says so,
    /// until any request ends: then all of them choose again. Only the caller knows whether it
    /// waits, or has asked for another reason, as for a second request of a job that is served.
    pub fn queued(&mut self, request: &Request<'_>) {
        if self.queue.len() < Self::LONGEST_QUEUE && !self.queue.contains(&request.seed) {
            self.queue.push(request.seed);
        }
    }

    /// How many jobs wait that are served before the job with this seed.
    pub(crate) fn queued_before(&self, seed: u64) -> usize {
        let place = self.queue.iter().position(|&other| other == seed);
        place.unwrap_or(self.queue.len())
    }

    /// A request has ended by itself: its body was verified, or it failed.
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

    /// When two mirrors have the same path wrong, it is more likely that the digest asked for is not
    /// the right one than that both are liars. That path stays barred on both, and their other paths
    /// are believed.
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

    /// The caller has ended a request itself. It need not have been a failure of the mirror: the
    /// slower of two hedged requests, a job that was dropped, a body that fell below its minimum
    /// rate.
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

    /// What all connections together have reached, divided by the most that were open: a rate that
    /// each of them can hope for when the client's own line is what limits them.
    pub(crate) fn fair_share(&self) -> f64 {
        if self.peak_rate > 0.0 {
            self.peak_rate / f64::from(self.most_in_flight.max(4))
        } else {
            f64::INFINITY
        }
    }

    /// Whether the budget for bytes fetched in vain has room.
    pub(crate) fn may_waste(&self) -> bool {
        /// So much is free, so that a first small request can be hedged.
        const FREE: f64 = 524_288.0;
        #[expect(clippy::cast_precision_loss, reason = "a budget")]
        let (bytes, wasted) = (self.bytes as f64, self.wasted as f64);
        wasted < FREE + bytes * self.config.hedge_share
    }

    /// The expected time to the first byte of another request there, in seconds, and its rate in
    /// bytes per second.
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

    /// What is known of a mirror.
    pub fn report(&self, id: MirrorId, now: Time) -> Option<MirrorReport> {
        let (health, mirror) = (self.health.get(id.index())?, self.mirror(id)?);
        let prior = &self.forecasts.prior;
        let first_byte = (health.first_byte.weight(now) > 0.0)
            .then(|| health.first_byte.expected(prior.first_byte, now));
        let line = (health.rates.weight(now) > 0.0).then(|| health.rates.fit(prior.rate, now));
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
            rate: line.map(|line| line.rate(1.0)),
            total_rate: line.map(|line| line.rate(f64::from(limit)) * f64::from(limit)),
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

    /// Writes what is worth keeping for the next run into a state, which may hold that of other
    /// sets of mirrors, too.
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

    /// Takes over what an earlier run has learnt about these mirrors. For the beginning: what was
    /// observed before is overwritten.
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
