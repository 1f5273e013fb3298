use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use crate::Selector;
use crate::{Circuit, Class, MirrorId, Observation, Time};

/// The limits of a round of probes.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeConfig {
    /// Of the whole round.
    pub time: Duration,
    /// Of one probe.
    pub probe_time: Duration,
    /// Of one probe: enough to measure a throughput, and little enough for two hundred mirrors.
    pub probe_bytes: u64,
    /// Of the whole round.
    pub bytes: u64,
    /// The number of concurrent probes. More would share the client's network and all seem slow.
    pub parallel: usize,
    /// A mirror with a success within this time is not probed.
    pub fresh: Duration,
    /// This number of the best is probed again, one at a time, because the first probes shared the
    /// network and included the connection.
    pub finalists: usize,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(2500),
            probe_time: Duration::from_millis(1500),
            probe_bytes: 128 << 10,
            bytes: 16 << 20,
            parallel: 4,
            fresh: Duration::from_mins(10),
            finalists: 3,
        }
    }
}

/// A file that all mirrors should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSample {
    /// As in a [`Request`](crate::Request).
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Whether the file shows which mirror is behind.
    pub compares_versions: bool,
}

/// The purpose of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Latency and throughput.
    Speed,
    /// The mirror's version of the sample.
    Freshness,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Fetch this range of the sample.
    Speed {
        mirror: MirrorId,
        range: Range<u64>,
        timeout: Duration,
    },
    /// Determine the mirror's version of the sample, and report [`Class::Behind`] if it is old.
    Freshness { mirror: MirrorId, timeout: Duration },
    /// Wait until a probe ends, or until this time.
    Wait { until: Time },
    /// The round is over. Probes in flight may be cancelled.
    Done,
}

/// The result for one mirror, in the order of the ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The probe succeeded.
    Good,
    /// Not probed, because of a recent success.
    Known,
    /// The probe succeeded, but the mirror is behind.
    Behind,
    /// The mirror throttled.
    Throttled,
    /// The mirror does not have the sample.
    NotHere,
    /// The limits of the round were reached before.
    NotProbed,
    /// The body stalled.
    Stalled,
    /// Credentials are missing or wrong.
    Denied,
    /// No response, or an error.
    Dead,
    /// Wrong bytes, now or before.
    Corrupt,
}

/// A row of the ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    pub mirror: MirrorId,
    pub verdict: Verdict,
    /// The shortest time to first byte in this round.
    pub first_byte: Option<Duration>,
    /// The highest throughput in this round, in bytes per second.
    pub rate: Option<f64>,
    /// The expected time of a request of the usual size.
    pub expected: Duration,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    asked: u32,
    running: u32,
    class: Option<Class>,
    got_bytes: bool,
    freshness_asked: bool,
    is_behind: bool,
    first_byte: Option<Duration>,
    rate: Option<f64>,
}

/// One round of probes. The caller calls [`next`](Self::next) until it returns [`ProbeStep::Wait`] and
/// reports the end of each probe by [`finished`](Self::finished), and to the [`Selector`], too.
#[derive(Clone, Debug)]
pub struct ProbePlan {
    config: ProbeConfig,
    sample: ProbeSample,
    end: Time,
    /// The mirrors to probe; the next one is the last.
    waiting: Vec<MirrorId>,
    /// The mirrors to probe once they have responded to a smaller request.
    held: BTreeSet<MirrorId>,
    /// The place of each mirror in the order.
    order: BTreeMap<MirrorId, usize>,
    begun: Time,
    known: Vec<MirrorId>,
    seen: BTreeMap<MirrorId, Seen>,
    bytes_left: u64,
    finalists: Option<Vec<MirrorId>>,
}

impl ProbePlan {
    /// A round that begins now. Mirrors with a recent success and quarantined mirrors are left out; the
    /// others are ordered by tier, new ones first, those with an open circuit breaker last.
    pub fn new(selector: &Selector, sample: ProbeSample, config: ProbeConfig, now: Time) -> Self {
        let mut waiting = Vec::new();
        let mut known = Vec::new();
        for id in selector.ids() {
            let Some(report) = selector.report(id, now) else {
                continue;
            };
            if report.quarantined {
                continue;
            }
            let is_fresh = |last: crate::LastOutcome| {
                last.class == Class::Ok && now.since(last.at) < config.fresh
            };
            if report.rate.is_some() && report.last.is_some_and(is_fresh) {
                known.push(id);
                continue;
            }
            let is_open = report.circuit == Circuit::Open;
            let is_far =
                selector.config().country.is_some() && report.country != selector.config().country;
            waiting.push((is_open, report.priority, report.last.is_some(), is_far, id));
        }
        waiting.sort_by(|a, b| b.cmp(a));
        let waiting: Vec<MirrorId> = waiting.into_iter().map(|(.., id)| id).collect();
        Self {
            order: waiting.iter().copied().zip(0..).collect(),
            held: BTreeSet::new(),
            begun: now,
            end: now + config.time,
            bytes_left: config.bytes,
            sample,
            waiting,
            known,
            seen: BTreeMap::new(),
            finalists: None,
            config,
        }
    }

    /// Puts all mirrors off that are to be probed, until each is [released](Self::release) or has failed.
    pub fn hold(&mut self) {
        self.held.extend(self.waiting.drain(..));
    }

    /// Whether a mirror is put off.
    pub fn is_held(&self, mirror: MirrorId) -> bool {
        self.held.contains(&mirror)
    }

    /// A mirror that was put off responds, and may be probed.
    pub fn release(&mut self, mirror: MirrorId) {
        if self.held.remove(&mirror) {
            self.waiting.push(mirror);
            let order = &self.order;
            self.waiting.sort_by_key(|mirror| order.get(mirror));
        }
    }

    /// The next step.
    pub fn next(&mut self, selector: &Selector, now: Time) -> ProbeStep {
        if now >= self.end {
            return ProbeStep::Done;
        }
        let running: u32 = self.seen.values().map(|seen| seen.running).sum();
        let timeout = self.config.probe_time.min(self.end.since(now));
        let has_room = (running as usize) < self.config.parallel.max(1);
        if has_room && let Some(mirror) = self.wants_freshness() {
            let seen = self.seen.entry(mirror).or_default();
            seen.freshness_asked = true;
            seen.running += 1;
            return ProbeStep::Freshness { mirror, timeout };
        }
        if has_room
            && let Some(&mirror) = self.waiting.last()
            && let Some(range) = self.range()
        {
            self.waiting.pop();
            return self.speed(mirror, range, timeout);
        }
        let is_first_round = !self.waiting.is_empty() && self.bytes_left > 0;
        // A dead mirror must not delay the finalists: they begin when only silent probes are left.
        let all_talked = self
            .seen
            .values()
            .all(|seen| seen.running == 0 || seen.class.is_some() || !seen.got_bytes);
        // Those that are put off have a moment to respond.
        let late = self.begun + self.config.probe_time.mul_f64(0.4);
        let is_late = now >= late;
        if !is_first_round && all_talked && (self.held.is_empty() || is_late) {
            if self.finalists.is_none() {
                self.finalists = Some(self.best(selector, now));
            }
            let alone = self
                .seen
                .values()
                .all(|seen| seen.running == 0 || seen.class.is_none());
            if has_room
                && alone
                && let Some(range) = self.range()
                && let Some(mirror) = self.finalists.as_mut().and_then(Vec::pop)
            {
                return self.speed(mirror, range, timeout);
            }
        }
        let is_over = running == 0
            && self.held.is_empty()
            && self
                .finalists
                .as_ref()
                .is_some_and(|left| left.is_empty() || self.bytes_left == 0);
        if is_over {
            ProbeStep::Done
        } else {
            let until = if is_late {
                self.end
            } else {
                self.end.min(late)
            };
            ProbeStep::Wait { until }
        }
    }

    fn speed(&mut self, mirror: MirrorId, range: Range<u64>, timeout: Duration) -> ProbeStep {
        self.bytes_left = self.bytes_left.saturating_sub(range.end - range.start);
        let seen = self.seen.entry(mirror).or_default();
        seen.asked += 1;
        seen.running += 1;
        ProbeStep::Speed {
            mirror,
            range,
            timeout,
        }
    }

    /// The first byte of a probe's body has arrived.
    pub fn answered(&mut self, mirror: MirrorId) {
        self.seen.entry(mirror).or_default().got_bytes = true;
    }

    /// A probe has ended, or reached its timeout, which is [`Class::Unwell`]. Of a freshness probe only
    /// the class counts.
    pub fn finished(&mut self, mirror: MirrorId, kind: ProbeKind, seen: &Observation<'_>) {
        self.held.remove(&mirror);
        let of_it = self.seen.entry(mirror).or_default();
        of_it.running = of_it.running.saturating_sub(1);
        if seen.outcome == Class::Behind {
            of_it.is_behind = true;
        }
        if kind == ProbeKind::Freshness {
            if seen.outcome == Class::Corrupt {
                of_it.class = Some(Class::Corrupt);
            }
            return;
        }
        of_it.got_bytes |= seen.bytes > 0;
        // One success outweighs a failure of the other probe, except wrong bytes.
        if of_it.class != Some(Class::Ok) || seen.outcome == Class::Corrupt {
            of_it.class = Some(seen.outcome);
        }
        if let Some(first_byte) = seen.first_byte {
            of_it.first_byte = Some(
                of_it
                    .first_byte
                    .map_or(first_byte, |old| old.min(first_byte)),
            );
            let body = seen.duration.saturating_sub(first_byte).as_secs_f64();
            if seen.outcome == Class::Ok && seen.bytes > 0 {
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let rate = seen.bytes as f64 / body.max(1e-4);
                of_it.rate = Some(of_it.rate.map_or(rate, |old| old.max(rate)));
            }
        }
    }

    /// All mirrors, the best first.
    pub fn ranking(&self, selector: &Selector, now: Time) -> Vec<ProbeResult> {
        let mut results: Vec<ProbeResult> = selector
            .ids()
            .map(|mirror| {
                let seen = self.seen.get(&mirror);
                ProbeResult {
                    mirror,
                    verdict: self.verdict(mirror, selector, now),
                    first_byte: seen.and_then(|seen| seen.first_byte),
                    rate: seen.and_then(|seen| seen.rate),
                    expected: expected(mirror, selector, now),
                }
            })
            .collect();
        // Known and probed mirrors are ranked together; the others follow by their verdict.
        let serves = |verdict: Verdict| {
            if verdict == Verdict::Known {
                Verdict::Good
            } else {
                verdict
            }
        };
        results.sort_by(|a, b| {
            serves(a.verdict)
                .cmp(&serves(b.verdict))
                .then(a.expected.cmp(&b.expected))
        });
        results
    }

    fn verdict(&self, mirror: MirrorId, selector: &Selector, now: Time) -> Verdict {
        if selector
            .report(mirror, now)
            .is_some_and(|report| report.quarantined)
        {
            return Verdict::Corrupt;
        }
        let Some(seen) = self.seen.get(&mirror) else {
            return if self.known.contains(&mirror) {
                Verdict::Known
            } else {
                Verdict::NotProbed
            };
        };
        match seen.class {
            // This plan did not probe it; another request may have shown that it is behind.
            None if self.known.contains(&mirror) && seen.is_behind => Verdict::Behind,
            None if self.known.contains(&mirror) => Verdict::Known,
            Some(Class::Ok) if seen.is_behind => Verdict::Behind,
            Some(Class::Ok) => Verdict::Good,
            Some(Class::Behind) => Verdict::Behind,
            Some(Class::Throttled) => Verdict::Throttled,
            Some(Class::NotHere) => Verdict::NotHere,
            Some(Class::Denied) => Verdict::Denied,
            Some(Class::Corrupt) => Verdict::Corrupt,
            Some(Class::Unwell) | None if seen.got_bytes => Verdict::Stalled,
            Some(Class::Unwell) | None => Verdict::Dead,
        }
    }

    /// The finalists, the best last.
    fn best(&self, selector: &Selector, now: Time) -> Vec<MirrorId> {
        let mut good: Vec<(Duration, MirrorId)> = (self.seen.iter())
            .filter(|(_, seen)| seen.class == Some(Class::Ok))
            .map(|(&mirror, _)| mirror)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|mirror| (expected(mirror, selector, now), mirror))
            .collect();
        good.sort_unstable();
        good.truncate(self.config.finalists);
        good.reverse();
        good.into_iter().map(|(_, mirror)| mirror).collect()
    }

    /// The next mirror that serves and whose freshness is unknown.
    fn wants_freshness(&self) -> Option<MirrorId> {
        (self.seen.iter())
            .filter(|_| self.sample.compares_versions)
            .find(|(_, seen)| seen.class == Some(Class::Ok) && !seen.freshness_asked)
            .map(|(&mirror, _)| mirror)
    }

    /// The range to fetch, while bytes are left.
    fn range(&self) -> Option<Range<u64>> {
        let bytes = self.config.probe_bytes.min(self.sample.size).max(1);
        (bytes <= self.bytes_left).then_some(0..bytes)
    }
}

/// The expected time of a request of the usual size.
fn expected(mirror: MirrorId, selector: &Selector, now: Time) -> Duration {
    let usual = selector.usual_bytes;
    let (first_byte, rate) = selector.outlook(mirror, now);
    Duration::from_secs_f64((first_byte + usual / rate).clamp(0.0, 1e6))
}
