use std::time::Duration;

use crate::breaker::BreakerState;
use crate::choose::Candidate;
use crate::draw::uniform;
use crate::health::Health;
use crate::path_memory::{PathFault, PathHash};
use crate::report::{Circuit, MirrorReport};
use crate::stance::View;
use crate::state::{Record, SavedState};
use crate::{Class, Location, Mirror, MirrorId, Observation, Progress, SelectorConfig, Time};

/// The state of one set of mirrors, and the judgement over them.
///
/// The caller asks with [`choose`](Self::choose), says [`started`](Self::started) when the request
/// goes out, and then exactly once either [`finished`](Self::finished) or
/// [`cancelled`](Self::cancelled).
#[derive(Clone, Debug)]
pub struct Selector {
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) health: Vec<Health>,
    pub(crate) config: SelectorConfig,
    /// The mirrors by tier, otherwise in the order of the list.
    pub(crate) order: Vec<u32>,
    pub(crate) views: Vec<View>,
    views_at: Option<Time>,
    prior: Prior,
    /// What may be spent on learning, in requests to the best mirror.
    pub(crate) exploration_credit: f64,
    /// The usual size of a request, in bytes.
    pub(crate) usual_bytes: f64,
    in_flight: u32,
    /// How many requests were told to wait for a busy mirror since one of its requests ended.
    pub(crate) waiting: u32,
    most_in_flight: u32,
    /// The highest rate of all connections together that was seen, in bytes per second.
    peak_rate: f64,
    bytes: u64,
    wasted: u64,
    pub(crate) scratch: Vec<Candidate>,
}

/// What is assumed of a mirror that was not measured: to be like those that were.
#[derive(Clone, Copy, Debug)]
struct Prior {
    first_byte: f64,
    rate: f64,
}

impl Default for Prior {
    fn default() -> Self {
        Self {
            first_byte: 0.2,
            rate: 4e6,
        }
    }
}

impl Selector {
    /// Exploring may begin with so much.
    const FIRST_CREDIT: f64 = 1.0;
    /// No more than this is saved up for exploring.
    pub(crate) const MOST_CREDIT: f64 = 3.0;
    /// A mirror not asked for so long is worth another look.
    const STALE: Duration = Duration::from_mins(10);
    /// Expectations are renewed at least so often.
    const RENEWAL: Duration = Duration::from_secs(1);

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
            views: Vec::new(),
            views_at: None,
            prior: Prior::default(),
            exploration_credit: Self::FIRST_CREDIT,
            usual_bytes: 262_144.0,
            in_flight: 0,
            waiting: 0,
            most_in_flight: 0,
            peak_rate: 0.0,
            bytes: 0,
            wasted: 0,
            scratch: Vec::new(),
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

    /// A request goes out to the mirror.
    pub fn started(&mut self, id: MirrorId, now: Time) {
        let Some(health) = self.health.get_mut(id.index()) else {
            return;
        };
        health.start(now);
        self.in_flight = self.in_flight.saturating_add(1);
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
    }

    /// A request has ended by itself: its body was verified, or it failed.
    pub fn finished(&mut self, id: MirrorId, seen: &Observation<'_>) {
        let Some(health) = self.health.get_mut(id.index()) else {
            return;
        };
        let moment = u64::try_from(seen.at.unix().as_nanos()).unwrap_or(u64::MAX);
        let jitter = uniform(self.config.seed ^ moment, id.index() as u64);
        health.finish(seen, &self.config, self.prior.rate, jitter);
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
                health.distrust.pardon(path);
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
        self.waiting = 0;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.views.len() == self.mirrors.len() {
            let was_known = self.views[id.index()].known;
            self.views[id.index()] = self.view(id.index(), at);
            if was_known != self.views[id.index()].known {
                self.views_at = None;
            }
        }
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

    pub(crate) fn earn_exploration(&mut self) {
        self.exploration_credit =
            (self.exploration_credit + self.config.exploration).min(Self::MOST_CREDIT);
    }

    /// Renews expectations that are out of date.
    pub(crate) fn refresh(&mut self, now: Time) {
        let fresh = self
            .views_at
            .is_some_and(|at| at <= now && now.since(at) < Self::RENEWAL);
        if fresh {
            return;
        }
        self.prior = self.measured_prior(now);
        self.views = (0..self.mirrors.len())
            .map(|index| self.view(index, now))
            .collect();
        self.views_at = Some(now);
    }

    /// The geometric means over the mirrors that were measured.
    fn measured_prior(&self, now: Time) -> Prior {
        let assumed = Prior::default();
        let mean = |assumed: f64, measured: &dyn Fn(&Health) -> Option<f64>| {
            // The assumption keeps the weight of one mirror.
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

    /// The weight of observations from which on a mirror counts as known.
    const KNOWN: f64 = 0.25;

    /// The expected time to the first byte of another request there, in seconds, and its rate in
    /// bytes per second.
    pub(crate) fn outlook(&mut self, id: MirrorId, now: Time) -> (f64, f64) {
        self.refresh(now);
        let (Some(view), Some(health)) = (self.views.get(id.index()), self.health.get(id.index()))
        else {
            return (1.0, 1.0);
        };
        let n = f64::from(health.in_flight.count()) + 1.0;
        (view.first_byte.mean, view.line.rate(n).clamp(1.0, 1e12))
    }

    fn view(&self, index: usize, now: Time) -> View {
        let health = &self.health[index];
        let prior = self.prior_of(&self.mirrors[index]);
        let first_byte = health.first_byte.expected(prior.first_byte, now);
        let (bad, missing) = health.outcomes.shares(now);
        let failure = health.failure.expected(2.0, now).mean.clamp(0.05, 60.0);
        // Of attempts that fail with the share p, p / (1 - p) come before each success.
        let odds = |share: f64| share / (1.0 - share.min(0.95));
        View {
            first_byte,
            line: health.rates.fit(prior.rate, now),
            mishaps: odds(bad) * failure + odds(missing) * first_byte.mean,
            known: health.first_byte.weight(now) > Self::KNOWN,
            stale: health
                .last_tried
                .is_none_or(|at| now.since(at) > Self::STALE),
        }
    }

    /// What is assumed of one mirror before it is measured.
    fn prior_of(&self, mirror: &Mirror) -> Prior {
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
            first_byte: self.prior.first_byte * distance,
            rate: self.prior.rate / distance,
        }
    }

    /// What is known of a mirror.
    pub fn report(&self, id: MirrorId, now: Time) -> Option<MirrorReport> {
        let (health, mirror) = (self.health.get(id.index())?, self.mirror(id)?);
        let first_byte = (health.first_byte.weight(now) > 0.0)
            .then(|| health.first_byte.expected(self.prior.first_byte, now));
        let line = (health.rates.weight(now) > 0.0).then(|| health.rates.fit(self.prior.rate, now));
        let seconds = |s: f64| Duration::from_secs_f64(s.clamp(0.0, 1e9));
        let limit = self.limit(health);
        Some(MirrorReport {
            location: mirror.location.to_string(),
            origin: mirror.origin.to_string(),
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
        self.views_at = None;
    }
}
