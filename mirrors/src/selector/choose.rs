use std::time::Duration;

use crate::Selector;
use crate::selector::draw::exponential;
use crate::selector::eligibility::{Eligibility, Query};
use crate::{Choice, Kind, MirrorId, Pick, Request, Time, Why};

/// The exponent of the preference for the fastest mirror. A mirror that takes a tenth longer gets a
/// fifth of its requests, one that takes twice as long gets none. A smaller exponent wastes time; a
/// larger one sends a thousand clients with the same state to one mirror.
const PREFERENCE: i32 = 16;

/// A mirror that could be chosen.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    index: usize,
    cost: f64,
    explorable: bool,
    on_trial: bool,
}

/// The two cheapest eligible mirrors, so that each has an alternative.
#[derive(Clone, Copy, Debug, Default)]
struct Cheapest {
    best: Option<(f64, usize)>,
    second: Option<(f64, usize)>,
}

impl Cheapest {
    fn offer(&mut self, cost: f64, index: usize) {
        if self.best.is_none_or(|(best, _)| cost < best) {
            self.second = self.best;
            self.best = Some((cost, index));
        } else if self.second.is_none_or(|(second, _)| cost < second) {
            self.second = Some((cost, index));
        }
    }

    fn other_than(&self, index: usize) -> Option<usize> {
        self.best
            .filter(|best| best.1 != index)
            .or(self.second)
            .map(|(_, other)| other)
            .filter(|&other| other != index)
    }
}

/// The result of looking at all mirrors, apart from the candidates.
#[derive(Default)]
struct Overview {
    cheapest: Cheapest,
    /// The tier of the candidates.
    tier: Option<i32>,
    /// Whether a measured mirror is eligible or busy.
    settled: bool,
    /// The shortest expected time of a busy mirror, and its queue.
    busy: Option<(f64, f64)>,
    /// The best demoted mirror: total, wait, index, reason.
    back: Option<(f64, f64, usize, Why)>,
}

impl Selector {
    /// Chooses a mirror for a request. Takes less than a microsecond per ten mirrors.
    pub fn choose(&self, request: &Request<'_>, now: Time) -> Choice {
        let query = self.query(request, now);
        let mut candidates = Vec::with_capacity(self.mirrors.len());
        let overview = self.look(&query, &mut candidates);
        self.decide(&query, &overview, &candidates)
    }

    /// Why each mirror would be chosen for this request, or why not. Among equally good mirrors
    /// [`choose`](Self::choose) draws by the seed.
    pub fn explain(&self, request: &Request<'_>, now: Time) -> Vec<(MirrorId, Why)> {
        let query = self.query(request, now);
        self.reasons(&query)
    }

    /// The delay after which this request, just started on the mirror `id`, should be hedged; `None` if
    /// it is too large, there is no other mirror, or the budget is used up. The second mirror is chosen
    /// by [`choose`](Self::choose) with `id` excluded; if that gives a last resort, do not hedge.
    pub fn hedge_after(&self, request: &Request<'_>, id: MirrorId, now: Time) -> Option<Duration> {
        /// The minimum and maximum delay in seconds.
        const RANGE: (f64, f64) = (0.02, 10.0);
        if id.index() >= self.mirrors.len() {
            return None;
        }
        let query = self.query(request, now);
        if !self.is_hedged(&query) {
            return None;
        }
        // The request is in flight and already counted.
        let soonest = (0..self.mirrors.len())
            .filter(|&index| {
                index != id.index()
                    && matches!(
                        self.eligibility(index, &query),
                        Eligibility::Eligible { .. }
                    )
            })
            .map(|index| (self.cost(index, &query), query.forecast(index).known))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let (theirs, known) = soonest?;
        let forecast = query.forecast(id.index());
        let n = f64::from(self.health[id.index()].in_flight.count().max(1));
        let mut seconds =
            forecast.first_byte.p95 + 2.0 * query.bytes * forecast.throughput.seconds_per_byte(n);
        if known {
            // For a new or slow mirror, do not wait for its tail: the other mirror would have finished.
            let ours = forecast.cost(query.bytes, n);
            if ours > 1.3 * theirs || !forecast.known {
                seconds = seconds.min(1.2 * theirs);
            }
        } else if !forecast.known {
            // Nothing is measured yet and all mirrors may be far away: an early second request would only
            // double the load.
            seconds = seconds.max(0.5);
        }
        Some(Duration::from_secs_f64(seconds.clamp(RANGE.0, RANGE.1)))
    }

    /// The throughput in bytes per second below which this request, in flight on the mirror `id`, should
    /// continue on another mirror; zero if there is no better one. It changes with time: query it about
    /// once a second.
    pub fn min_rate(&self, request: &Request<'_>, id: MirrorId, now: Time) -> f64 {
        if id.index() >= self.mirrors.len() {
            return 0.0;
        }
        let query = self.query(request, now);
        let mut cheapest = Cheapest::default();
        for index in (0..self.mirrors.len()).filter(|&index| index != id.index()) {
            if matches!(
                self.eligibility(index, &query),
                Eligibility::Eligible { .. }
            ) {
                cheapest.offer(self.cost(index, &query), index);
            }
        }
        self.rate_to_beat(id.index(), cheapest.other_than(id.index()), &query)
    }

    /// Looks at every mirror, in the order of the tiers.
    fn look(&self, query: &Query<'_>, candidates: &mut Vec<Candidate>) -> Overview {
        let mut seen = Overview::default();
        let ahead = self.queued_before(query.request.seed);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let turns = (ahead + 1) as f64;
        for &index in &self.order {
            let index = index as usize;
            let eligibility = self.eligibility(index, query);
            let priority = self.mirrors[index].priority;
            let in_tier = seen.tier.is_none_or(|tier| tier == priority);
            let forecast = query.forecast(index);
            match eligibility {
                Eligibility::Eligible { on_trial } => {
                    let cost = self.cost(index, query);
                    if !on_trial {
                        seen.cheapest.offer(cost, index);
                    }
                    if in_tier {
                        let idle = self.health[index].in_flight.count() == 0;
                        let explorable = idle && (on_trial || !forecast.known || forecast.stale);
                        candidates.push(Candidate {
                            index,
                            cost,
                            explorable,
                            on_trial,
                        });
                        seen.settled |= !on_trial && forecast.known;
                        // A mirror on trial alone does not make its tier the one to use.
                        if !on_trial {
                            seen.tier = Some(priority);
                        }
                    }
                }
                Eligibility::Busy { queue } if in_tier => {
                    let queue = queue * turns;
                    let total = self.cost(index, query) + queue;
                    if seen.busy.is_none_or(|(best, _)| total < best) {
                        seen.busy = Some((total, queue));
                    }
                    seen.settled |= forecast.known;
                    seen.tier = Some(priority);
                }
                Eligibility::Demoted { wait, penalty, why } => {
                    let total = wait + penalty + self.cost(index, query);
                    if seen.back.is_none_or(|(best, ..)| total < best) {
                        seen.back = Some((total, wait, index, why));
                    }
                }
                Eligibility::Busy { .. } | Eligibility::Excluded(_) => {}
            }
        }
        seen
    }

    fn decide(&self, query: &Query<'_>, seen: &Overview, candidates: &[Candidate]) -> Choice {
        if let Some((price, index)) = self.explore(query, seen, candidates) {
            let on_trial = candidates.iter().any(|c| c.index == index && c.on_trial);
            let why = if on_trial {
                self.trial(index)
            } else {
                Why::Exploring
            };
            return Choice::Use(Pick {
                exploration: price,
                ..self.pick(index, why, query, seen)
            });
        }
        let settled = candidates.iter().any(|candidate| !candidate.on_trial);
        if settled || seen.busy.is_some() {
            let sound = || candidates.iter().filter(|candidate| !candidate.on_trial);
            let soonest = sound()
                .map(|candidate| candidate.cost)
                .fold(f64::INFINITY, f64::min);
            if let Some((total, queue)) = seen.busy {
                // The queue is a rough estimate, so the gain must be clear.
                if total < 0.8 * soonest {
                    let queue = Duration::from_secs_f64(queue.min(5.0));
                    let why = Why::WaitingForBetter { queue };
                    return Choice::Wait {
                        until: query.now + queue,
                        why,
                    };
                }
            }
            // `soonest` is finite here: without an eligible mirror the busy one was taken.
            if let Some(index) = self.race(query, sound(), soonest) {
                let why = self.soonest(index, query);
                return Choice::Use(self.pick(index, why, query, seen));
            }
        }
        let trial = candidates
            .iter()
            .min_by(|a, b| {
                let tier = |c: &Candidate| self.mirrors[c.index].priority;
                tier(a).cmp(&tier(b)).then(a.cost.total_cmp(&b.cost))
            })
            .map(|candidate| candidate.index);
        if let Some(index) = trial {
            return Choice::Use(self.pick(index, self.trial(index), query, seen));
        }
        match seen.back {
            Some((_, wait, _, why)) if wait > 0.0 => {
                let wait = Duration::from_secs_f64(wait.clamp(0.001, 86_400.0));
                Choice::Wait {
                    until: query.now + wait,
                    why,
                }
            }
            Some((_, _, index, why)) => {
                let why = match why {
                    Why::Demoted(reason) => Why::LastResort(reason),
                    other => other,
                };
                Choice::Use(self.pick(index, why, query, seen))
            }
            None => Choice::Exhausted(self.reasons(query)),
        }
    }

    fn reasons(&self, query: &Query<'_>) -> Vec<(MirrorId, Why)> {
        let reason = |index| match self.eligibility(index, query) {
            Eligibility::Excluded(why) | Eligibility::Demoted { why, .. } => why,
            Eligibility::Eligible { .. } | Eligibility::Busy { .. } => self.soonest(index, query),
        };
        (0..self.mirrors.len())
            .map(|index| (MirrorId::at(index), reason(index)))
            .collect()
    }

    /// The price and the index of a mirror to explore with this request, if the credit suffices.
    fn explore(
        &self,
        query: &Query<'_>,
        seen: &Overview,
        candidates: &[Candidate],
    ) -> Option<(f64, usize)> {
        /// The minimum price, as a share of the request's time, because the request may fail.
        const LEAST: f64 = 0.25;
        /// The maximum price of a hedged request: it is hedged when the best mirror would have finished.
        const HEDGED: f64 = 1.5;
        // As long as nothing is measured, every choice explores anyway.
        if !seen.settled {
            return None;
        }
        let small = match query.request.bytes {
            Some(bytes) => bytes <= self.config.exploration_bytes,
            None => query.request.kind == Kind::Metadata,
        };
        if !small || self.exploration_credit < LEAST {
            return None;
        }
        let (_, best) = seen.cheapest.best?;
        let soonest = self.cost(best, query);
        let most = if self.is_hedged(query) {
            HEDGED
        } else {
            f64::INFINITY
        };
        let price = |candidate: &Candidate| {
            let price = (candidate.cost / soonest - 1.0).max(LEAST);
            // A mirror on trial may not respond at all.
            let price = if candidate.on_trial {
                price + 1.0
            } else {
                price
            };
            price.min(most)
        };
        let chance = |candidate: &Candidate| {
            let mirror = &self.mirrors[candidate.index];
            let near = self.config.country.is_some() && mirror.country == self.config.country;
            let new = self.health[candidate.index].last_tried.is_none();
            // Mirrors that were slow are explored less often.
            let promise = (soonest / candidate.cost).min(1.0).powi(2);
            mirror.weight * promise * if near { 4.0 } else { 1.0 } * if new { 4.0 } else { 1.0 }
        };
        let (_, chosen) = candidates
            .iter()
            .filter(|candidate| candidate.explorable && price(candidate) <= self.exploration_credit)
            .map(|candidate| {
                let draw = exponential(query.request.seed, candidate.index);
                (draw / chance(candidate), candidate)
            })
            .min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((price(chosen), chosen.index))
    }

    /// Whether a request like this may be sent to a second mirror.
    fn is_hedged(&self, query: &Query<'_>) -> bool {
        let small = match (query.request.bytes, query.request.kind) {
            (Some(bytes), _) => bytes <= self.config.hedge_bytes,
            (None, Kind::Metadata) => true,
            (None, Kind::Content) => false,
        };
        small && self.may_waste()
    }

    /// Draws a candidate with a probability that falls steeply with its cost, as the smallest of
    /// exponential variables, which needs no sum over all of them.
    fn race<'c>(
        &self,
        query: &Query<'_>,
        candidates: impl Iterator<Item = &'c Candidate>,
        soonest: f64,
    ) -> Option<usize> {
        /// A mirror this many times slower is never drawn.
        const HOPELESS: f64 = 2.0;
        candidates
            .filter(|candidate| candidate.cost <= soonest * HOPELESS)
            .map(|candidate| {
                let chance = self.mirrors[candidate.index].weight
                    * (soonest / candidate.cost).powi(PREFERENCE);
                (
                    exponential(query.request.seed, candidate.index) / chance,
                    candidate.index,
                )
            })
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, index)| index)
    }

    fn soonest(&self, index: usize, query: &Query<'_>) -> Why {
        let forecast = query.forecast(index);
        let in_flight = self.health[index].in_flight.count();
        Why::Soonest {
            expected: Duration::from_secs_f64(self.cost(index, query).clamp(0.0, 1e9)),
            first_byte: Duration::from_secs_f64(forecast.first_byte.mean.clamp(0.0, 1e9)),
            rate: forecast.throughput.rate(f64::from(in_flight) + 1.0),
            in_flight,
            measured: forecast.known,
        }
    }

    fn trial(&self, index: usize) -> Why {
        Why::Trial {
            failures: self.health[index].breaker.failures(),
        }
    }

    fn pick(&self, index: usize, why: Why, query: &Query<'_>, seen: &Overview) -> Pick {
        let forecast = query.forecast(index);
        // A busy mirror is an alternative as well: one of its requests ends soon.
        let has_alternative = seen.cheapest.other_than(index).is_some() || seen.busy.is_some();
        let (first_byte, stall) = if has_alternative {
            // With an alternative, a mirror gets a few times its usual time, an unknown one less than a
            // user would notice as a hang. A failover costs only one first byte.
            let tail = if forecast.known {
                forecast.first_byte.p95
            } else {
                0.6
            };
            ((tail * 5.0).clamp(1.5, 15.0), (tail * 5.0).clamp(0.7, 8.0))
        } else {
            let idle = self.config.idle_timeout.as_secs_f64();
            (idle, idle)
        };
        // Timeouts double with each failed attempt: if the network of the client stalls, all mirrors
        // seem to.
        let stretch = f64::from(1_u32 << query.request.attempt.min(6));
        let most = self.config.idle_timeout.as_secs_f64() * if stretch > 1.0 { 2.0 } else { 1.0 };
        let timeout = |seconds: f64| Duration::from_secs_f64((seconds * stretch).min(most));
        Pick {
            mirror: MirrorId::at(index),
            why,
            first_byte_timeout: timeout(first_byte),
            stall_timeout: timeout(stall),
            exploration: 0.0,
        }
    }

    /// The throughput below which a request on `index` should continue on `alternative`.
    fn rate_to_beat(&self, index: usize, alternative: Option<usize>, query: &Query<'_>) -> f64 {
        /// A switch must pay for another first byte.
        const CLEARLY: f64 = 0.3;
        let Some(alternative) = alternative else {
            return 0.0;
        };
        let rate = |index: usize| {
            let n = f64::from(self.health[index].in_flight.count()) + 1.0;
            query.forecast(index).throughput.rate(n)
        };
        let theirs = CLEARLY * rate(alternative);
        let worth_it = if query.forecast(alternative).known {
            theirs
        } else if query.forecast(index).known {
            // To switch to an unknown mirror, this one must be slower than usual.
            (0.5 * theirs).min(0.5 * rate(index))
        } else {
            0.5 * theirs
        };
        worth_it.min(CLEARLY * self.fair_share())
    }
}
