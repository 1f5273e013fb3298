//! Ways to choose a mirror.

use std::time::Duration;

use taipan_mirrors::{
    Choice, Class, Kind, Location, Mirror, MirrorId, Observation, Pick, Progress, Provenance,
    Request, SavedState, Selector, SelectorConfig, Time, Tried, Why,
};

use crate::draw::{Draw, uniform};
use crate::world::Model;

/// The policies, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Clairvoyant,
    Ours,
    First,
    Ratio,
    Connect,
    Random,
    RoundRobin,
}

impl Name {
    pub(crate) const ALL: [Self; 7] = [
        Self::Clairvoyant,
        Self::Ours,
        Self::First,
        Self::Ratio,
        Self::Connect,
        Self::Random,
        Self::RoundRobin,
    ];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Clairvoyant => "clairvoyant",
            Self::Ours => "taipan",
            Self::First => "first",
            Self::Ratio => "ratio",
            Self::Connect => "connect",
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
        }
    }
}

/// What is asked of a policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) path: &'a str,
    pub(crate) bytes: u64,
    pub(crate) metadata: bool,
    /// What was tried for this file, attempts under way included.
    pub(crate) tried: &'a Tried,
    pub(crate) failures: u32,
    pub(crate) seed: u64,
    pub(crate) now: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Use(Go),
    /// Until this time, or until an attempt ends.
    Wait(f64),
    Never,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Go {
    pub(crate) mirror: usize,
    /// Timeouts in seconds.
    pub(crate) first_byte: f64,
    pub(crate) stall: f64,
    /// Whether it is a good choice, not a last resort.
    pub(crate) is_good: bool,
    /// The choice, when it was that of this library.
    pub(crate) pick: Option<Pick>,
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) mirror: usize,
    pub(crate) path: &'a str,
    /// Nothing when the client ended it.
    pub(crate) class: Option<Class>,
    pub(crate) bytes: u64,
    pub(crate) wasted: u64,
    pub(crate) first_byte: Option<f64>,
    pub(crate) duration: f64,
    pub(crate) retry_after: Option<f64>,
    pub(crate) now: f64,
}

pub(crate) trait Policy {
    fn choose(&mut self, ask: &Ask<'_>) -> Answer;
    /// The job waits, as it was told to.
    fn queued(&mut self, _ask: &Ask<'_>) {}

    fn started(&mut self, go: &Go, now: f64);
    fn ended(&mut self, ended: &Ended<'_>);

    fn hedge_after(&mut self, _ask: &Ask<'_>, _mirror: usize) -> Option<f64> {
        None
    }

    /// In bytes per second; zero when a slow body is never left.
    fn min_rate(&mut self, _ask: &Ask<'_>, _mirror: usize) -> f64 {
        0.0
    }

    /// What it knows, when it keeps a state.
    fn save(&self, _now: f64) -> Option<SavedState> {
        None
    }
}

/// The time of the model as that of the library.
pub(crate) fn time(t: f64) -> Time {
    Time::from_unix(Duration::from_secs_f64(1_800_000_000.0 + t))
}

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s.clamp(0.0, 1e9))
}

/// This library.
pub(crate) struct Ours {
    selector: Selector,
}

impl Ours {
    pub(crate) fn new(
        models: &[Model],
        seed: u64,
        network: &str,
        state: Option<&SavedState>,
        now: f64,
    ) -> Self {
        let mirrors = models
            .iter()
            .map(|model| {
                let url = format!("https://{}.example/pub", model.name);
                let location = Location::parse(&url).expect("names are fit for a host");
                Mirror::new(location, Provenance::CommandLine).with_weight(model.weight)
            })
            .collect();
        let config = SelectorConfig {
            seed,
            network: network.to_owned(),
            ..SelectorConfig::default()
        };
        let mut selector = Selector::new(mirrors, config);
        if let Some(state) = state {
            selector.load(state, time(now));
        }
        Self { selector }
    }

    fn request<'a>(ask: &Ask<'a>) -> Request<'a> {
        Request {
            path: ask.path,
            bytes: Some(ask.bytes),
            kind: if ask.metadata {
                Kind::Metadata
            } else {
                Kind::Content
            },
            tried: ask.tried,
            attempt: ask.failures,
            seed: ask.seed,
        }
    }
}

pub(crate) fn id(mirror: usize) -> MirrorId {
    MirrorId::new(u32::try_from(mirror).expect("few mirrors"))
}

impl Policy for Ours {
    fn choose(&mut self, ask: &Ask<'_>) -> Answer {
        match self.selector.choose(&Self::request(ask), time(ask.now)) {
            Choice::Use(pick) => Answer::Use(Go {
                mirror: pick.mirror.index(),
                first_byte: pick.first_byte_timeout.as_secs_f64(),
                stall: pick.stall_timeout.as_secs_f64(),
                is_good: matches!(pick.why, Why::Soonest { .. } | Why::Exploring),
                pick: Some(pick),
            }),
            Choice::Wait { until, .. } => {
                Answer::Wait(ask.now + until.since(time(ask.now)).as_secs_f64())
            }
            Choice::Exhausted(_) => Answer::Never,
        }
    }

    fn queued(&mut self, ask: &Ask<'_>) {
        self.selector.queued(&Self::request(ask));
    }

    fn started(&mut self, go: &Go, now: f64) {
        if let Some(pick) = &go.pick {
            self.selector.started(pick, time(now));
        }
    }

    fn ended(&mut self, ended: &Ended<'_>) {
        let first_byte = ended.first_byte.map(seconds);
        let (at, duration) = (time(ended.now), seconds(ended.duration));
        if let Some(outcome) = ended.class {
            let seen = Observation {
                at,
                path: ended.path,
                outcome,
                bytes: ended.bytes,
                first_byte,
                duration,
                retry_after: ended.retry_after.map(seconds),
            };
            self.selector.finished(id(ended.mirror), &seen);
        } else {
            let seen = Progress {
                at,
                bytes: ended.bytes,
                wasted: ended.wasted,
                first_byte,
                duration,
            };
            self.selector.cancelled(id(ended.mirror), &seen);
        }
    }

    fn hedge_after(&mut self, ask: &Ask<'_>, mirror: usize) -> Option<f64> {
        let after = self
            .selector
            .hedge_after(&Self::request(ask), id(mirror), time(ask.now))?;
        Some(after.as_secs_f64())
    }

    fn min_rate(&mut self, ask: &Ask<'_>, mirror: usize) -> f64 {
        self.selector
            .min_rate(&Self::request(ask), id(mirror), time(ask.now))
    }

    fn save(&self, now: f64) -> Option<SavedState> {
        let mut state = SavedState::new();
        self.selector.save(&mut state, time(now));
        Some(state)
    }
}

/// What other clients do. They have the same engine as ours (resume elsewhere, verification), so
/// that what is compared is the choice alone.
pub(crate) struct Plain {
    name: Name,
    /// Mirrors, the preferred one first.
    order: Vec<usize>,
    in_flight: Vec<u32>,
    good: Vec<u32>,
    bad: Vec<u32>,
    cursor: usize,
}

/// How long connecting takes: a third of the time to a first byte over TLS.
fn connect_time(model: &Model) -> f64 {
    if model.faults.hangs >= 1.0 {
        f64::MAX
    } else {
        model.first_byte / 3.0
    }
}

/// How long librepo times connections before it begins, when it has not lately: until all are
/// there, but not longer than two seconds.
pub(crate) fn probe_time(models: &[Model]) -> f64 {
    models.iter().map(connect_time).fold(0.0, f64::max).min(2.0)
}

impl Plain {
    /// How often librepo uses one mirror at a time.
    const PER_MIRROR: u32 = 3;
    /// The attempts per mirror and file.
    const PASSES: u32 = 4;

    /// `timed` is what the mirrors were like when connecting was timed.
    pub(crate) fn new(name: Name, timed: &[Model], seed: u64) -> Self {
        let n = timed.len();
        let mut order: Vec<usize> = (0..n).collect();
        if name == Name::Connect {
            // What takes less than twice as long as the shortest is shuffled, as librepo does since
            // 2024.
            let score = |i: usize| connect_time(&timed[i]) * (0.9 + 0.2 * uniform(seed, i as u64));
            order.sort_by(|&a, &b| score(a).total_cmp(&score(b)));
            let near = order
                .iter()
                .take_while(|&&i| score(i) < 2.0 * score(order[0]))
                .count();
            let mut draw = Draw::new(seed);
            for i in (1..near).rev() {
                order.swap(i, draw.below(i + 1));
            }
        }
        Self {
            name,
            order,
            in_flight: vec![0; n],
            good: vec![0; n],
            bad: vec![0; n],
            cursor: usize::try_from(seed % n.max(1) as u64).unwrap_or(0),
        }
    }

    /// The share of successes, from three attempts on.
    fn ratio(&self, mirror: usize) -> f64 {
        let (good, bad) = (f64::from(self.good[mirror]), f64::from(self.bad[mirror]));
        if good + bad < 3.0 {
            -1.0
        } else {
            good / (good + bad)
        }
    }

    /// Moves a mirror by at most one place.
    fn step(&mut self, mirror: usize) {
        let Some(place) = self.order.iter().position(|&m| m == mirror) else {
            return;
        };
        let ratio = self.ratio(mirror);
        if ratio < 0.0 {
            return;
        }
        if place > 0 && ratio > self.ratio(self.order[place - 1]) {
            self.order.swap(place, place - 1);
        } else if place + 1 < self.order.len() && ratio < self.ratio(self.order[place + 1]).abs() {
            self.order.swap(place, place + 1);
        }
    }
}

impl Policy for Plain {
    fn choose(&mut self, ask: &Ask<'_>) -> Answer {
        let n = self.order.len();
        let tries = |m: usize| ask.tried.failures(id(m));
        let least = (0..n).map(tries).min().unwrap_or(0);
        if least >= Self::PASSES {
            return Answer::Never;
        }
        let capped = matches!(self.name, Name::Ratio | Name::Connect);
        let free = |m: usize| !capped || self.in_flight[m] < Self::PER_MIRROR;
        let open = |m: usize| tries(m) == least;
        let mirror = match self.name {
            Name::First => (0..n).filter(|&m| open(m)).min_by_key(|&m| self.bad[m]),
            Name::Random => {
                let mut draw = Draw::new(ask.seed);
                let left: Vec<usize> = (0..n).filter(|&m| open(m)).collect();
                left.get(draw.below(left.len())).copied()
            }
            Name::RoundRobin => {
                let next = (0..n).map(|i| (self.cursor + i) % n).find(|&m| open(m));
                self.cursor = next.map_or(0, |m| m + 1);
                next
            }
            _ => self.order.iter().copied().find(|&m| open(m) && free(m)),
        };
        match mirror {
            Some(mirror) => Answer::Use(Go {
                mirror,
                first_byte: 30.0,
                stall: 30.0,
                is_good: true,
                pick: None,
            }),
            None => Answer::Wait(ask.now + 1.0),
        }
    }

    fn started(&mut self, go: &Go, _now: f64) {
        self.in_flight[go.mirror] += 1;
    }

    fn ended(&mut self, ended: &Ended<'_>) {
        let m = ended.mirror;
        self.in_flight[m] -= 1;
        match ended.class {
            Some(Class::Ok) => self.good[m] += 1,
            // rattler looks at headers only.
            Some(_) if self.name != Name::First || ended.first_byte.is_none() => self.bad[m] += 1,
            _ => {}
        }
        if matches!(self.name, Name::Ratio | Name::Connect) {
            self.step(m);
        }
    }
}
