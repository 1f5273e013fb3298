use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use rangemap::RangeSet;

use crate::Selector;
use crate::{Choice, MirrorId, Pick, Request, Time, Tried, Why};

/// The limits of a segment plan.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentConfig {
    /// The minimum length of a segment in bytes, because each costs a time to first byte.
    pub least_bytes: u64,
    /// The intended duration of a segment. Shorter ones cost more requests, longer ones cost more if
    /// their mirror is slow.
    pub length: Duration,
    /// The maximum number of concurrent segments.
    pub most_connections: usize,
    /// After this time without a byte a segment is given to another mirror.
    pub silence: Duration,
    /// After this time without a byte, while other mirrors deliver, a segment that had begun to arrive is
    /// ended, and its mirror gets no other one for a while.
    pub stall: Duration,
    /// The share of the file that may be fetched twice.
    pub extra_share: f64,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            least_bytes: 1 << 20,
            length: Duration::from_secs(4),
            most_connections: 6,
            silence: Duration::from_secs(2),
            stall: Duration::from_secs(1),
            extra_share: 0.05,
        }
    }
}

/// A segment of one [`SegmentPlan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u64);

/// A connection is judged after this time.
const JUDGED_AFTER: Duration = Duration::from_secs(1);

/// While all mirrors are silent for longer than this, none of them is at fault.
const DELIVERY_GAP: Duration = Duration::from_millis(250);

/// How long a mirror gets no segment after its first stall, if others deliver. Doubles with each stall.
const SUSPENSION: Duration = Duration::from_secs(2);

/// The next step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum SegmentStep {
    /// Fetch this range from the mirror of the pick.
    Fetch {
        segment: SegmentId,
        range: Range<u64>,
        pick: Pick,
    },
    /// The segment now ends at `end`, because its tail was given to another one. Read up to there, then
    /// drop the connection and report [`ended`](SegmentPlan::ended).
    Shorten { segment: SegmentId, end: u64 },
    /// Drop the connection of this segment: its bytes are complete, or another segment has them. The
    /// plan has removed it.
    Drop { segment: SegmentId },
    /// The mirror of this segment has stalled, while others delivered. Drop the connection and record a
    /// failure. The plan has removed the segment, and its missing bytes are fetched again.
    Stalled {
        segment: SegmentId,
        /// For how long no byte has arrived.
        silence: Duration,
    },
    /// Nothing to do until this time, or until the next report.
    Wait {
        until: Time,
        /// The reason, if no mirror can be used now.
        why: Option<Why>,
    },
    /// All bytes have arrived.
    Done,
    /// No mirror is left: each mirror, and why it is excluded.
    Exhausted(Vec<(MirrorId, Why)>),
}

/// How one large file is fetched from several mirrors at once.
///
/// The caller calls [`next`](Self::next) until it returns [`SegmentStep::Wait`], and reports
/// [`progress`](Self::progress) and [`ended`](Self::ended). The lowest missing bytes come first, so
/// that a reader of the file can follow. A connection that has finished takes over the tail of the
/// segment that would finish last (work stealing). The last bytes of a slow mirror are fetched a second
/// time from another one, within [`extra_share`](SegmentConfig::extra_share). Connections are added
/// while the last one increased the total throughput.
///
/// The caller reports the requests to the [`Selector`], as any other; the plan itself reports that the
/// job waits.
#[derive(Clone, Debug)]
pub struct SegmentPlan {
    config: SegmentConfig,
    path: String,
    seed: u64,
    size: u64,
    gaps: RangeSet<u64>,
    running: BTreeMap<SegmentId, Segment>,
    tried: Tried,
    failures: u32,
    serial: u64,
    /// Segments to drop that the caller does not know of yet.
    drops: Vec<SegmentId>,
    extra: u64,
    growth: Growth,
    /// The last time at which bytes of any mirror arrived.
    last_delivery: Option<Time>,
    stalled: BTreeMap<MirrorId, Stalls>,
}

/// The stalls of a mirror since it last completed a segment.
#[derive(Clone, Copy, Debug)]
struct Stalls {
    count: u32,
    suspended_until: Time,
}

#[derive(Clone, Debug)]
struct Segment {
    mirror: MirrorId,
    range: Range<u64>,
    got: u64,
    started: Time,
    last_byte: Option<Time>,
    /// Time without a byte in which other mirrors delivered.
    quiet: Duration,
    /// Bytes per second.
    rate: Option<f64>,
    /// The other segment of a race for the same bytes.
    twin: Option<SegmentId>,
}

impl Segment {
    fn left(&self) -> u64 {
        (self.range.end - self.range.start).saturating_sub(self.got)
    }

    fn next_byte(&self) -> u64 {
        self.range.start + self.got
    }

    fn silent_since(&self) -> Time {
        self.last_byte.unwrap_or(self.started)
    }
}

/// Whether another connection increases the total throughput.
#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    /// The highest total with fewer connections.
    before: f64,
    connections: usize,
    since: Time,
    is_settled: bool,
}

impl SegmentPlan {
    /// A plan for the missing ranges of a file of `size` bytes; `0..size` for a whole file. Ranges are
    /// cut to the size. The path is that of the [`Request`]s.
    pub fn new(
        path: &str,
        size: u64,
        missing: impl IntoIterator<Item = Range<u64>>,
        seed: u64,
        config: SegmentConfig,
    ) -> Self {
        let mut plan = Self {
            config,
            path: path.to_owned(),
            seed,
            size,
            gaps: RangeSet::new(),
            running: BTreeMap::new(),
            tried: Tried::new(),
            failures: 0,
            serial: 0,
            drops: Vec::new(),
            extra: 0,
            growth: Growth::default(),
            last_delivery: None,
            stalled: BTreeMap::new(),
        };
        for range in missing {
            plan.give_back(range.start..range.end.min(size));
        }
        plan
    }

    /// The size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number of missing bytes.
    pub fn left(&self) -> u64 {
        let gaps: u64 = self.gaps.iter().map(|gap| gap.end - gap.start).sum();
        let firsts = self
            .running
            .iter()
            .filter(|(id, segment)| segment.twin.is_none_or(|twin| twin < **id));
        // Of two segments in a race the one with fewer bytes left counts.
        gaps + firsts
            .map(|(_, segment)| {
                let other = segment.twin.and_then(|twin| self.running.get(&twin));
                segment.left().min(other.map_or(u64::MAX, Segment::left))
            })
            .sum::<u64>()
    }

    /// The number of bytes fetched twice, including the races in flight.
    pub fn extra(&self) -> u64 {
        self.extra
    }

    /// The segments in flight, with the missing range of each.
    pub fn running(&self) -> impl Iterator<Item = (SegmentId, MirrorId, Range<u64>)> + '_ {
        (self.running.iter())
            .map(|(&id, segment)| (id, segment.mirror, segment.next_byte()..segment.range.end))
    }

    /// Bytes of a segment have arrived. Returns how many of them are new: the end of a shortened segment
    /// is fetched by another.
    pub fn progress(&mut self, id: SegmentId, bytes: u64, now: Time) -> u64 {
        let Some(segment) = self.running.get_mut(&id) else {
            return 0;
        };
        let bytes = bytes.min(segment.left());
        let passed = now.since(segment.silent_since()).as_secs_f64();
        if bytes > 0 {
            if segment.last_byte.is_some() && passed > 0.0 {
                // An exponential mean over about a second.
                let rate = approximately(bytes) / passed;
                let keep = (-passed).exp();
                segment.rate = Some(
                    segment
                        .rate
                        .map_or(rate, |old| old * keep + rate * (1.0 - keep)),
                );
            }
            segment.got += bytes;
            segment.last_byte = Some(now);
            segment.quiet = Duration::ZERO;
            let mirror = segment.mirror;
            self.delivered(mirror, now);
        }
        bytes
    }

    /// This mirror has delivered bytes. For the others, the time since the last delivery counts as quiet.
    fn delivered(&mut self, mirror: MirrorId, now: Time) {
        let last = self.last_delivery.replace(now);
        let gap = last.map_or(Duration::ZERO, |last| now.since(last).min(DELIVERY_GAP));
        for segment in self.running.values_mut().filter(|it| it.mirror != mirror) {
            segment.quiet += gap.min(now.since(segment.silent_since()));
        }
    }

    /// The connection of a segment has ended. Its missing bytes become a gap again.
    pub fn ended(&mut self, id: SegmentId, is_failure: bool) {
        let Some(segment) = self.running.remove(&id) else {
            return;
        };
        if is_failure {
            self.tried.record_failure(segment.mirror);
            self.failures = self.failures.saturating_add(1);
        } else if segment.left() == 0 {
            self.stalled.remove(&segment.mirror);
        }
        let twin = segment.twin.filter(|twin| self.running.contains_key(twin));
        if let Some(twin) = twin {
            let other = self.running.get_mut(&twin).expect("looked at just now");
            other.twin = None;
            if segment.left() == 0 {
                self.running.remove(&twin);
                self.drops.push(twin);
            }
            return;
        }
        self.give_back(segment.next_byte()..segment.range.end);
    }

    /// What to do next.
    pub fn next(&mut self, selector: &mut Selector, now: Time) -> SegmentStep {
        selector.tick(now);
        if let Some(segment) = self.drops.pop() {
            return SegmentStep::Drop { segment };
        }
        if let Some(step) = self.finish_complete() {
            return step;
        }
        if let Some(step) = self.end_stalled(now) {
            return step;
        }
        if self.gaps.is_empty() && self.running.is_empty() {
            return SegmentStep::Done;
        }
        let fresh = self.fresh_mirror(selector, now);
        if fresh.is_some()
            && let Some(step) = self.next_segment(fresh, selector, now)
        {
            return step;
        }
        let may_add = self.may_add_connection(now);
        if (may_add || self.has_silent_segment(now))
            && let Some(step) = self.next_segment(None, selector, now)
        {
            return step;
        }
        SegmentStep::Wait {
            until: now + Duration::from_millis(250),
            why: None,
        }
    }

    /// A segment from the first gap or, without gaps, from the slowest segment; for the fresh mirror or
    /// else for the best one.
    fn next_segment(
        &mut self,
        fresh: Option<Pick>,
        selector: &mut Selector,
        now: Time,
    ) -> Option<SegmentStep> {
        match (self.gaps.first().cloned(), fresh) {
            (Some(gap), Some(pick)) => Some(self.cut(gap, pick, selector, now)),
            (Some(gap), None) => Some(self.fetch(gap, selector, now)),
            (None, fresh) => self.steal(fresh, selector, now),
        }
    }

    /// Excludes this mirror from further segments.
    pub fn exclude(&mut self, mirror: MirrorId) {
        self.tried.exclude(mirror);
    }

    /// Drops a shortened segment that has reached its new end.
    fn finish_complete(&mut self) -> Option<SegmentStep> {
        let id = (self.running.iter())
            .find(|(_, segment)| segment.left() == 0)
            .map(|(&id, _)| id)?;
        self.ended(id, false);
        Some(SegmentStep::Drop { segment: id })
    }

    /// Ends a segment that has stalled, and suspends its mirror.
    fn end_stalled(&mut self, now: Time) -> Option<SegmentStep> {
        let (id, mirror, silence) = self.running.iter().find_map(|(&id, segment)| {
            let has_stalled = segment.last_byte.is_some() && segment.quiet >= self.config.stall;
            let silence = now.since(segment.silent_since());
            has_stalled.then_some((id, segment.mirror, silence))
        })?;
        let stalls = self.stalled.get(&mirror);
        if stalls.is_none_or(|stalls| stalls.suspended_until <= now) {
            let count = stalls.map_or(0, |stalls| stalls.count);
            let suspended_until = now + SUSPENSION * (1 << count.min(6));
            let count = count.saturating_add(1);
            let stalls = Stalls {
                count,
                suspended_until,
            };
            self.stalled.insert(mirror, stalls);
        }
        self.ended(id, false);
        let segment = id;
        Some(SegmentStep::Stalled { segment, silence })
    }

    /// What is known of the mirrors, with the suspended ones excluded while others deliver.
    fn usable(&self, now: Time) -> Tried {
        let suspended = self.stalled.iter();
        let suspended = suspended.filter(|(_, stalls)| stalls.suspended_until > now);
        let suspended = suspended.map(|(mirror, _)| *mirror);
        self.tried
            .excluding(suspended.filter(|_| !self.running.is_empty()))
    }

    /// Whether a silent segment needs help, which is given even if another connection is not worth it.
    fn has_silent_segment(&self, now: Time) -> bool {
        self.running.len() <= self.config.most_connections
            && self
                .running
                .values()
                .any(|segment| self.is_silent(segment, now))
    }

    fn is_silent(&self, segment: &Segment, now: Time) -> bool {
        now.since(segment.silent_since()) >= self.config.silence
    }

    /// Whether another connection is worth it: the last one increased the total throughput, or it is
    /// one of the first two. Judges the last connection once, after a while.
    fn may_add_connection(&mut self, now: Time) -> bool {
        /// The last connection must have increased the total by this factor.
        const WORTH_IT: f64 = 1.1;
        let count = self.running.len();
        if count >= self.config.most_connections.max(1) {
            return false;
        }
        let sum: f64 = self
            .running
            .values()
            .filter_map(|segment| segment.rate)
            .sum();
        if count < self.growth.connections {
            // A connection has ended and is replaced.
            return true;
        }
        if count > self.growth.connections {
            self.growth.connections = count;
            self.growth.since = now;
            self.growth.is_settled = false;
        }
        // A second connection is always tried, because its mirror may be faster.
        if count < 2 {
            return true;
        }
        if !self.growth.is_settled && now.since(self.growth.since) >= JUDGED_AFTER {
            self.growth.is_settled = true;
            if sum < self.growth.before * WORTH_IT {
                return false;
            }
            self.growth.before = sum;
            return true;
        }
        false
    }

    fn request<'a>(&'a self, bytes: u64, tried: &'a Tried) -> Request<'a> {
        Request::content(&self.path)
            .with_bytes(bytes)
            .with_tried(tried)
            .with_attempt(self.failures)
            .with_seed(self.seed ^ self.serial.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A mirror that does not serve this file yet. It is expected to increase the total throughput,
    /// unlike a second connection to the same mirror.
    fn fresh_mirror(&self, selector: &Selector, now: Time) -> Option<Pick> {
        /// The minimum throughput, as a share of that of the fastest connection.
        const WORTH_IT: f64 = 0.05;
        if self.running.is_empty() || self.running.len() >= self.config.most_connections {
            return None;
        }
        let used = self.running.values().map(|segment| segment.mirror);
        let tried = self.usable(now).excluding(used);
        let bytes = 4 * self.config.least_bytes.max(1);
        let Choice::Use(pick) = selector.choose(&self.request(bytes, &tried), now) else {
            return None;
        };
        if tried.failures(pick.mirror) > 0 || matches!(pick.why, Why::LastResort(_)) {
            return None;
        }
        let rates = self.running.values().filter_map(|segment| segment.rate);
        let fastest = rates.fold(0.0, f64::max);
        match pick.why {
            Why::Soonest {
                measured: true,
                rate,
                ..
            } if rate < fastest * WORTH_IT => None,
            _ => Some(pick),
        }
    }

    /// Cuts a segment off the beginning of a gap, for the best mirror.
    fn fetch(&mut self, gap: Range<u64>, selector: &mut Selector, now: Time) -> SegmentStep {
        let least = self.config.least_bytes.max(1);
        let usable = self.usable(now);
        let request = self.request((gap.end - gap.start).min(4 * least), &usable);
        match selector.choose(&request, now) {
            Choice::Use(pick) => self.cut(gap, pick, selector, now),
            Choice::Wait { until, why } => {
                if self.running.is_empty() {
                    selector.queued(&request);
                }
                SegmentStep::Wait {
                    until,
                    why: Some(why),
                }
            }
            Choice::Exhausted(_) if !self.running.is_empty() => SegmentStep::Wait {
                until: now + Duration::from_millis(250),
                why: None,
            },
            Choice::Exhausted(reasons) => SegmentStep::Exhausted(reasons),
        }
    }

    /// Cuts a segment for this mirror off the beginning of a gap.
    fn cut(&mut self, gap: Range<u64>, pick: Pick, selector: &Selector, now: Time) -> SegmentStep {
        let least = self.config.least_bytes.max(1);
        let (_, rate) = selector.outlook(pick.mirror, now);
        let mut bytes = whole(rate * self.config.length.as_secs_f64()).max(least);
        if !matches!(pick.why, Why::Soonest { measured: true, .. }) {
            // The throughput is not measured yet.
            bytes = bytes.min(4 * least);
        }
        // The rest of the gap must be long enough for a segment.
        let end = gap.start.saturating_add(bytes);
        let end = if end.saturating_add(least) >= gap.end {
            gap.end
        } else {
            end
        };
        self.gaps.remove(gap.start..end);
        self.start(gap.start..end, pick, now)
    }

    fn start(&mut self, range: Range<u64>, pick: Pick, now: Time) -> SegmentStep {
        let segment = SegmentId(self.serial);
        self.serial += 1;
        let running = Segment {
            mirror: pick.mirror,
            range: range.clone(),
            got: 0,
            started: now,
            last_byte: None,
            quiet: Duration::ZERO,
            rate: None,
            twin: None,
        };
        self.running.insert(segment, running);
        SegmentStep::Fetch {
            segment,
            range,
            pick,
        }
    }

    /// Gives another mirror the tail of the segment that would finish last, or a copy of it.
    fn steal(
        &mut self,
        fresh: Option<Pick>,
        selector: &Selector,
        now: Time,
    ) -> Option<SegmentStep> {
        let (seconds, victim) = self.slowest(selector, now)?;
        let segment = &self.running[&victim];
        let is_silent = self.is_silent(segment, now);
        let pick = if let Some(pick) = fresh {
            pick
        } else {
            let tried = self
                .usable(now)
                .excluding(is_silent.then_some(segment.mirror));
            let Choice::Use(pick) = selector.choose(&self.request(segment.left(), &tried), now)
            else {
                return None;
            };
            pick
        };
        let outlook = selector.outlook(pick.mirror, now);
        if !is_silent && let Some(tail) = self.tail_for(segment, seconds, outlook) {
            let end = tail.start;
            self.running.get_mut(&victim)?.range.end = end;
            self.give_back(tail);
            return Some(SegmentStep::Shorten {
                segment: victim,
                end,
            });
        }
        self.race(victim, seconds, &pick, outlook, now)
    }

    /// The segment that would finish last, and in how many seconds. Those in a race do not count.
    fn slowest(&self, selector: &Selector, now: Time) -> Option<(f64, SegmentId)> {
        let mut slowest: Option<(f64, SegmentId)> = None;
        for (&id, segment) in self.running.iter().filter(|(_, it)| it.twin.is_none()) {
            let seconds = expected_left(segment, selector, now);
            if slowest.is_none_or(|(most, _)| seconds > most) {
                slowest = Some((seconds, id));
            }
        }
        slowest
    }

    /// The tail of a segment that another mirror would fetch in the time in which this one fetches the
    /// rest, if that is worth a connection.
    fn tail_for(
        &self,
        segment: &Segment,
        seconds: f64,
        (first_byte, rate): (f64, f64),
    ) -> Option<Range<u64>> {
        /// The minimum gain in seconds, because a connection has a cost.
        const LEAST_GAIN: f64 = 0.2;
        let left = segment.left();
        let pace = approximately(left) / seconds.max(1e-3);
        let share = (seconds - first_byte) / (pace.recip() + rate.recip());
        let stolen = whole(share).min(left);
        let gain = seconds - (first_byte + approximately(stolen) / rate);
        let is_worth_it = stolen >= self.config.least_bytes && stolen < left && gain > LEAST_GAIN;
        is_worth_it.then(|| segment.range.end - stolen..segment.range.end)
    }

    /// At the end of the file, or for a silent mirror: fetches the rest of a segment a second time.
    /// Without a budget for that, a slow segment is dropped after it has been measured.
    fn race(
        &mut self,
        victim: SegmentId,
        seconds: f64,
        pick: &Pick,
        (first_byte, rate): (f64, f64),
        now: Time,
    ) -> Option<SegmentStep> {
        let segment = &self.running[&victim];
        let left = segment.left();
        let alone = first_byte + approximately(left) / rate;
        if alone * 2.0 > seconds || pick.mirror == segment.mirror {
            return None;
        }
        let budget = whole(approximately(self.size) * self.config.extra_share);
        if self.extra.saturating_add(left) <= budget {
            let rest = segment.next_byte()..segment.range.end;
            self.extra += left;
            let copy = SegmentId(self.serial);
            let step = self.start(rest, *pick, now);
            self.running.get_mut(&copy)?.twin = Some(victim);
            self.running.get_mut(&victim)?.twin = Some(copy);
            return Some(step);
        }
        let is_silent = self.is_silent(segment, now);
        let is_measured = segment.rate.is_some() && now.since(segment.started) >= JUDGED_AFTER;
        if is_silent || is_measured {
            self.ended(victim, is_silent);
            return Some(SegmentStep::Drop { segment: victim });
        }
        None
    }

    /// Adds a range to the gaps.
    fn give_back(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.gaps.insert(range);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn approximately(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate; the cast saturates"
)]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

/// The expected seconds until a segment is complete.
fn expected_left(segment: &Segment, selector: &Selector, now: Time) -> f64 {
    let silence = now.since(segment.silent_since()).as_secs_f64();
    let (first_byte, usual) = selector.outlook(segment.mirror, now);
    let left = approximately(segment.left());
    match segment.rate {
        // Silence is expected to last as long again.
        Some(rate) => left / rate.max(1.0) + if silence > 0.5 { silence * 2.0 } else { 0.0 },
        None => left / usual.max(1.0) + (first_byte - silence).max(silence),
    }
}
