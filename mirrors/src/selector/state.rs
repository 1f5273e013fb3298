use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::selector::estimate::{Latency, Outcomes, RateModel};
use crate::selector::health::Health;
use crate::selector::report::LastOutcome;
use crate::{Class, Time};

/// The version of the format. Other versions are not read.
const VERSION: u32 = 1;
/// The longest state that is read, in bytes.
const MOST_BYTES: usize = 16 << 20;
const MOST_NETWORKS: usize = 16;
/// Per network.
const MOST_MIRRORS: usize = 4096;
/// Older records are dropped.
const OLDEST: Duration = Duration::from_hours(60 * 24);

/// The state of mirrors that is kept between runs. The caller stores its text.
///
/// Estimates are kept per network; distrust is not, since corrupt mirrors are corrupt in each
/// network. Mirrors are identified by their [key](crate::Location::key), which has no secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedState {
    version: u32,
    #[serde(default)]
    networks: BTreeMap<String, BTreeMap<String, Record>>,
    #[serde(default)]
    distrust: BTreeMap<String, SavedDistrust>,
}

/// Why a saved state is not used. This is not an error: the selector starts without history.
#[derive(Debug, Error)]
pub enum StateWarning {
    #[error("the saved state of mirrors is {bytes} bytes long and was dropped")]
    TooLong { bytes: usize },
    #[error("the saved state of mirrors has version {found}, not {VERSION}, and was dropped")]
    UnknownVersion { found: u64 },
    /// Not JSON of the expected form.
    #[error("the saved state of mirrors is damaged and was dropped")]
    Damaged {
        #[source]
        source: serde_json::Error,
    },
}

/// The state of one mirror in one network. Estimates are in single precision, which is enough and
/// survives the conversion to decimal digits unchanged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The time of the last observation, in seconds since the epoch.
    seen: u64,
    first_byte: SavedLatency,
    service: SavedLatency,
    rate: SavedRate,
    outcomes: SavedOutcomes,
    has_worked: bool,
    last: Class,
    last_at: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedLatency {
    #[serde(deserialize_with = "finite")]
    weight: f32,
    #[serde(deserialize_with = "finite")]
    mean: f32,
    #[serde(deserialize_with = "finite")]
    variance: f32,
    at: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedRate {
    #[serde(deserialize_with = "finite")]
    weight: f32,
    #[serde(deserialize_with = "finite")]
    n: f32,
    #[serde(deserialize_with = "finite")]
    nn: f32,
    #[serde(deserialize_with = "finite")]
    y: f32,
    #[serde(deserialize_with = "finite")]
    ny: f32,
    at: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedOutcomes {
    #[serde(deserialize_with = "finite")]
    good: f32,
    #[serde(deserialize_with = "finite")]
    bad: f32,
    #[serde(deserialize_with = "finite")]
    missing: f32,
    at: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedDistrust {
    #[serde(deserialize_with = "finite")]
    amount: f32,
    at: u64,
}

/// A number that can be written as JSON again: not infinite.
fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    let number = f32::deserialize(deserializer)?;
    if number.is_finite() {
        Ok(number)
    } else {
        Err(D::Error::custom("a number is out of range"))
    }
}

impl SavedState {
    /// An empty state.
    pub fn new() -> Self {
        Self {
            version: VERSION,
            ..Self::default()
        }
    }

    /// Reads the text of [`to_json`](Self::to_json). A damaged text or another version gives an empty
    /// state and a warning.
    pub fn parse(text: &str) -> (Self, Option<StateWarning>) {
        match Self::try_parse(text) {
            Ok(state) => (state, None),
            Err(warning) => (Self::new(), Some(warning)),
        }
    }

    fn try_parse(text: &str) -> Result<Self, StateWarning> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        if text.len() > MOST_BYTES {
            return Err(StateWarning::TooLong { bytes: text.len() });
        }
        let damaged = |source| StateWarning::Damaged { source };
        // The version is read first, since the rest may have another form.
        let Version { version } = serde_json::from_str(text).map_err(damaged)?;
        if version != u64::from(VERSION) {
            return Err(StateWarning::UnknownVersion { found: version });
        }
        serde_json::from_str(text).map_err(damaged)
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers are finite and keys are text")
    }

    pub(crate) fn put(&mut self, network: &str, key: String, record: Record) {
        self.networks
            .entry(network.to_owned())
            .or_default()
            .insert(key, record);
    }

    pub(crate) fn get(&self, network: &str, key: &str) -> Option<&Record> {
        self.networks.get(network)?.get(key)
    }

    pub(crate) fn set_distrust(&mut self, key: String, amount: f64, at: Time) {
        /// A smaller amount cannot cause a quarantine.
        const NEGLIGIBLE: f64 = 0.05;
        if amount > NEGLIGIBLE {
            self.distrust.insert(
                key,
                SavedDistrust {
                    amount: single(amount),
                    at: seconds(at),
                },
            );
        } else {
            self.distrust.remove(&key);
        }
    }

    pub(crate) fn distrust(&self, key: &str) -> Option<(f64, Time)> {
        let saved = self.distrust.get(key)?;
        Some((sane(saved.amount, 0.0, 100.0), time(saved.at)))
    }

    /// Drops old records, and the oldest beyond the limits.
    pub(crate) fn prune(&mut self, now: Time) {
        let (oldest, newest) = (seconds(now.before(OLDEST)), seconds(now));
        // Records from a clock that was ahead must not be kept longest.
        for record in self.networks.values_mut().flat_map(BTreeMap::values_mut) {
            record.seen = record.seen.min(newest);
        }
        for distrust in self.distrust.values_mut() {
            distrust.at = distrust.at.min(newest);
        }
        for records in self.networks.values_mut() {
            records.retain(|_, record| record.seen >= oldest);
            drop_oldest(records, MOST_MIRRORS, |record| record.seen);
        }
        self.networks.retain(|_, records| !records.is_empty());
        drop_oldest(&mut self.networks, MOST_NETWORKS, |records| {
            records
                .values()
                .map(|record| record.seen)
                .max()
                .unwrap_or(0)
        });
        self.distrust.retain(|_, distrust| distrust.at >= oldest);
        drop_oldest(&mut self.distrust, MOST_MIRRORS, |distrust| distrust.at);
    }
}

fn drop_oldest<V>(map: &mut BTreeMap<String, V>, most: usize, age: impl Fn(&V) -> u64) {
    if map.len() <= most {
        return;
    }
    let mut ages: Vec<u64> = map.values().map(&age).collect();
    ages.sort_unstable_by(|a, b| b.cmp(a));
    let limit = ages[most];
    map.retain(|_, value| age(value) > limit);
}

impl Record {
    /// The record of a mirror, if anything was observed.
    pub(crate) fn of(health: &Health) -> Option<Self> {
        let last = health.last?;
        Some(Self {
            seen: seconds(last.at),
            first_byte: SavedLatency::of(&health.first_byte),
            service: SavedLatency::of(&health.service),
            rate: SavedRate {
                weight: single(health.rates.weight),
                n: single(health.rates.n),
                nn: single(health.rates.nn),
                y: single(health.rates.y),
                ny: single(health.rates.ny),
                at: seconds(health.rates.at),
            },
            outcomes: SavedOutcomes {
                good: single(health.outcomes.good),
                bad: single(health.outcomes.bad),
                missing: single(health.outcomes.missing),
                at: seconds(health.outcomes.at),
            },
            has_worked: health.has_worked,
            last: last.class,
            last_at: seconds(last.at),
        })
    }

    /// Restores the state. All numbers are clamped to their range and all times to the past.
    pub(crate) fn apply(&self, health: &mut Health, now: Time) {
        health.first_byte = self.first_byte.restored(now);
        health.service = self.service.restored(now);
        health.rates = self.rate.restored(now);
        health.outcomes = Outcomes {
            good: sane(self.outcomes.good, 0.0, 1e3),
            bad: sane(self.outcomes.bad, 0.0, 1e3),
            missing: sane(self.outcomes.missing, 0.0, 1e3),
            at: time(self.outcomes.at).min(now),
        };
        health.has_worked = self.has_worked;
        let at = time(self.last_at).min(now);
        health.last = Some(LastOutcome {
            class: self.last,
            at,
        });
        health.last_tried = Some(at);
    }
}

impl SavedLatency {
    fn of(latency: &Latency) -> Self {
        let Latency {
            weight,
            mean,
            variance,
            at,
        } = *latency;
        Self {
            weight: single(weight),
            mean: single(mean),
            variance: single(variance),
            at: seconds(at),
        }
    }

    fn restored(&self, now: Time) -> Latency {
        Latency {
            weight: sane(self.weight, 0.0, 1e3),
            mean: sane(self.mean, -12.0, 9.0),
            variance: sane(self.variance, 0.0, 100.0),
            at: time(self.at).min(now),
        }
    }
}

impl SavedRate {
    fn restored(&self, now: Time) -> RateModel {
        let weight = sane(self.weight, 0.0, 1e3);
        if weight <= 0.0 {
            return RateModel::default();
        }
        // The sums must be possible for some set of observations (means in range, the Cauchy-Schwarz
        // inequality holds), or the fitted line would be meaningless.
        let n = sane(self.n, weight, 4096.0 * weight);
        let nn = sane(self.nn, n * n / weight, 4096.0 * n);
        let y = sane(self.y, 1e-11 * weight, weight);
        let ny = sane(self.ny, y, 4096.0 * y);
        RateModel {
            weight,
            n,
            nn,
            y,
            ny,
            at: time(self.at).min(now),
        }
    }
}

fn sane(value: f32, least: f64, most: f64) -> f64 {
    let value = f64::from(value);
    if value.is_nan() {
        least
    } else {
        value.clamp(least, most)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the range is that of the smaller type"
)]
fn single(value: f64) -> f32 {
    value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

fn seconds(at: Time) -> u64 {
    at.unix().as_secs()
}

fn time(seconds: u64) -> Time {
    Time::from_unix(Duration::from_secs(seconds))
}
