//! The mirrors as they truly are.

use crate::draw::{Draw, normal, uniform};
use crate::scenario::{Faults, Scenario};

/// One mirror of the model. Times in seconds, rates in bytes per second.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) first_byte: f64,
    pub(crate) jitter: f64,
    pub(crate) per_connection: f64,
    pub(crate) capacity: f64,
    pub(crate) weight: f64,
    pub(crate) faults: Faults,
    /// Where in its period a flapping mirror is at time 0.
    phase: f64,
    /// The number that its draws begin with.
    salt: u64,
}

/// What befalls one request, apart from the mirror's load and outages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    Served,
    NotHere,
    Error,
    Hang,
    /// Reset after this share of what was asked for.
    Reset(f64),
    /// No byte after this share of what was asked for.
    Stall(f64),
    /// Told to ask less.
    Throttled,
    /// Complete, and wrong.
    Corrupt,
    /// Complete, and old.
    Behind,
}

/// What a fate hangs on: the same file and the same attempt fare alike under every policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) client: u64,
    pub(crate) file: u64,
    pub(crate) attempt: u64,
    pub(crate) metadata: bool,
}

impl Asked {
    fn key(self) -> u64 {
        (self.client << 40) ^ (self.file << 8) ^ self.attempt
    }
}

/// The mirrors of a scenario, in an order drawn from the seed: a list's order means nothing.
pub(crate) fn mirrors(scenario: &Scenario, seed: u64, elsewhere: bool) -> Vec<Model> {
    let mut all = Vec::new();
    for group in &scenario.mirrors {
        for i in 0..group.count {
            #[expect(clippy::cast_precision_loss, reason = "small counts")]
            let part = if group.count > 1 {
                i as f64 / (group.count - 1) as f64
            } else {
                0.0
            };
            let most = group.capacity_to.unwrap_or(group.capacity);
            let capacity = group.capacity * (most / group.capacity).powf(part);
            let there = group.elsewhere.as_ref().filter(|_| elsewhere);
            let salt = seed.wrapping_mul(1_000_003) ^ (all.len() as u64) << 32;
            let period = group.faults.flapping.as_ref().map_or(1.0, |f| f.period);
            all.push(Model {
                name: format!("{}-{i}", group.name),
                first_byte: there.map_or(group.first_byte, |t| t.first_byte),
                jitter: group.jitter,
                per_connection: there.map_or(group.per_connection, |t| t.per_connection),
                capacity,
                weight: if group.weighted {
                    capacity / group.capacity
                } else {
                    1.0
                },
                faults: group.faults.clone(),
                phase: uniform(salt, 1) * period,
                salt,
            });
        }
    }
    let mut draw = Draw::new(seed ^ 0x5eed);
    for i in (1..all.len()).rev() {
        all.swap(i, draw.below(i + 1));
    }
    all
}

impl Model {
    /// Whether it works at this time.
    pub(crate) fn is_up(&self, t: f64) -> bool {
        !self.is_down(t) && !self.is_gone(t)
    }

    /// Whether requests hang.
    pub(crate) fn is_down(&self, t: f64) -> bool {
        self.faults
            .down
            .iter()
            .any(|&(from, to)| (from..to).contains(&t))
    }

    /// Whether requests are refused.
    pub(crate) fn is_gone(&self, t: f64) -> bool {
        let in_period = |period: f64| (t + self.phase).rem_euclid(period) / period;
        self.faults
            .flapping
            .as_ref()
            .is_some_and(|f| in_period(f.period) >= f.up)
    }

    /// The share of its speed that it has at this time.
    fn speed(&self, t: f64) -> f64 {
        let before = self.faults.speed.iter().take_while(|&&(from, _)| from <= t);
        before.last().map_or(1.0, |&(_, share)| share)
    }

    /// The next time after `t` at which it changes by itself.
    pub(crate) fn next_change(&self, t: f64) -> f64 {
        let downs = self.faults.down.iter().flat_map(|&(from, to)| [from, to]);
        let speeds = self.faults.speed.iter().map(|&(from, _)| from);
        let fixed = downs
            .chain(speeds)
            .filter(|&at| at > t)
            .fold(f64::INFINITY, f64::min);
        let flaps = self.faults.flapping.as_ref().map_or(f64::INFINITY, |f| {
            let start = ((t + self.phase) / f.period).floor() * f.period - self.phase;
            let candidates = [
                start + f.up * f.period,
                start + f.period,
                start + (1.0 + f.up) * f.period,
            ];
            candidates
                .into_iter()
                .filter(|&at| at > t + 1e-9)
                .fold(f64::INFINITY, f64::min)
        });
        fixed.min(flaps)
    }

    /// The rate of each of `n` connections.
    pub(crate) fn rate(&self, t: f64, n: f64) -> f64 {
        if !self.is_up(t) {
            return 0.0;
        }
        let collapse = match self.faults.collapses_at {
            Some(most) if n > most => (most / n).powi(2),
            _ => 1.0,
        };
        let speed = self.speed(t);
        (self.per_connection * speed).min(self.capacity * speed * collapse / n.max(1.0))
    }

    /// The time to the first byte of this request.
    pub(crate) fn latency(&self, asked: Asked, distance: f64, t: f64) -> f64 {
        let noise = normal(self.salt ^ asked.key(), 4) * self.jitter - self.jitter.powi(2) / 2.0;
        self.mean_latency(asked, distance, t) * noise.exp()
    }

    /// The mean time to the first byte for this client.
    pub(crate) fn mean_latency(&self, asked: Asked, distance: f64, t: f64) -> f64 {
        let there = (normal(self.salt ^ asked.client.wrapping_mul(77), 3) * distance).exp();
        self.first_byte * there / self.speed(t).sqrt().max(0.05)
    }

    /// Whether it has the file, which does not depend on who asks and how often.
    pub(crate) fn has(&self, asked: Asked) -> bool {
        uniform(self.salt ^ asked.file, 5) >= self.faults.lacks
    }

    /// What befalls this request.
    pub(crate) fn fate(&self, asked: Asked) -> Fate {
        let faults = &self.faults;
        if !self.has(asked) {
            return Fate::NotHere;
        }
        let draw = |stream| uniform(self.salt ^ asked.key(), stream);
        let mut left = draw(6);
        for (share, fate) in [
            (faults.errors, Fate::Error),
            (faults.hangs, Fate::Hang),
            (faults.resets, Fate::Reset(draw(7))),
            (faults.stalls, Fate::Stall(draw(8))),
        ] {
            if left < share {
                return fate;
            }
            left -= share;
        }
        if uniform(self.salt ^ asked.file, 9) < faults.lies {
            Fate::Corrupt
        } else if asked.metadata && faults.behind {
            Fate::Behind
        } else {
            Fate::Served
        }
    }

    /// Whether a request is refused for load, with `n` connections open.
    pub(crate) fn refuses(&self, asked: Asked, n: f64) -> bool {
        let excess = self
            .faults
            .collapses_at
            .map_or(0.0, |most| ((n - most) / n).max(0.0));
        uniform(self.salt ^ asked.key(), 10) < excess.min(0.5)
    }
}
