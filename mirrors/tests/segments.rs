//! A large file from several mirrors, driven as a transfer engine would.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;
use taipan_mirrors::{
    Class, Location, Mirror, MirrorId, Observation, Progress, Provenance, SegmentConfig, SegmentId,
    SegmentPlan, SegmentStep, Selector, SelectorConfig, Time,
};

const STEP: f64 = 0.05;

/// One mirror of the model.
#[derive(Clone, Copy, Debug)]
struct Server {
    /// Bytes per second and connection.
    rate: f64,
    first_byte: f64,
    /// Every n-th request is refused (0: none).
    refuses: u64,
    /// Every n-th body is truncated (0: none).
    stalls: u64,
    /// From this time on it sends nothing, and does not say so.
    freezes_at: f64,
}

struct Flow {
    mirror: MirrorId,
    range: Range<u64>,
    got: u64,
    age: f64,
    silent: f64,
    patience: f64,
    is_refused: bool,
    stops_at: u64,
}

#[derive(Debug, PartialEq)]
struct Run {
    seconds: f64,
    delivered: Vec<Range<u64>>,
}

fn fetch(servers: &[Server], size: u64, line: f64, seed: u64) -> Run {
    fetch_polling(servers, size, line, seed, 0)
}

/// Before each step copies of the plan are polled, and their steps are not carried out.
#[expect(clippy::too_many_lines, reason = "one loop, as an engine has it")]
fn fetch_polling(servers: &[Server], size: u64, line: f64, seed: u64, polls: u32) -> Run {
    let mirrors = (0..servers.len())
        .map(|i| {
            let location = Location::parse(&format!("https://m{i}.example/x")).unwrap();
            Mirror::new(location, Provenance::CommandLine)
        })
        .collect();
    let mut selector = Selector::new(mirrors, SelectorConfig::default());
    let config = SegmentConfig::default();
    let mut plan = SegmentPlan::new("large", size, std::iter::once(0..size), seed, config);
    let mut flows: BTreeMap<SegmentId, Flow> = BTreeMap::new();
    let mut delivered: Vec<Range<u64>> = Vec::new();
    let mut requests = vec![0_u64; servers.len()];
    let mut t = 0.0;
    loop {
        let now = Time::from_unix(Duration::from_secs_f64(1_800_000_000.0 + t));
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 1000, "the plan goes round in circles");
            for _ in 0..polls {
                plan.clone().next(&mut selector, now);
            }
            match plan.next(&mut selector, now) {
                SegmentStep::Fetch {
                    segment,
                    range,
                    pick,
                } => {
                    assert!(range.start < range.end && range.end <= size);
                    selector.started(&pick, now);
                    let index = pick.mirror.index();
                    requests[index] += 1;
                    let nth = |n: u64| n > 0 && requests[index].is_multiple_of(n);
                    let half = range.start.midpoint(range.end) - range.start;
                    let flow = Flow {
                        mirror: pick.mirror,
                        got: 0,
                        age: 0.0,
                        silent: 0.0,
                        patience: pick.stall_timeout.as_secs_f64(),
                        is_refused: nth(servers[index].refuses),
                        stops_at: if nth(servers[index].stalls) {
                            half
                        } else {
                            u64::MAX
                        },
                        range,
                    };
                    flows.insert(segment, flow);
                }
                SegmentStep::Shorten { segment, end } => {
                    let flow = flows.get_mut(&segment).unwrap();
                    assert!(flow.range.start + flow.got <= end && end < flow.range.end);
                    flow.range.end = end;
                }
                SegmentStep::Stalled { segment, .. } => {
                    let flow = flows.remove(&segment).unwrap();
                    let shown = Observation::new(now, "large", Class::Unwell)
                        .with_bytes(flow.got)
                        .with_first_byte(Duration::from_secs_f64(
                            servers[flow.mirror.index()].first_byte,
                        ))
                        .with_duration(Duration::from_secs_f64(flow.age));
                    selector.finished(flow.mirror, &shown);
                }
                SegmentStep::Drop { segment } => {
                    if let Some(flow) = flows.remove(&segment) {
                        let shown = Progress {
                            at: now,
                            bytes: flow.got,
                            wasted: 0,
                            first_byte: None,
                            duration: Duration::from_secs_f64(flow.age),
                        };
                        selector.cancelled(flow.mirror, &shown);
                    }
                }
                SegmentStep::Wait { until, .. } => {
                    assert!(until > now);
                    break;
                }
                SegmentStep::Done => {
                    assert_eq!(plan.left(), 0);
                    assert!(flows.is_empty());
                    return Run {
                        seconds: t,
                        delivered,
                    };
                }
                SegmentStep::Exhausted(reasons) => panic!("{reasons:?}"),
            }
        }
        t += STEP;
        assert!(t < 600.0, "not done");
        let now = Time::from_unix(Duration::from_secs_f64(1_800_000_000.0 + t));
        let share = line / f64::from(u32::try_from(flows.len().max(1)).unwrap());
        for id in flows.keys().copied().collect::<Vec<_>>() {
            let flow = flows.get_mut(&id).unwrap();
            let server = servers[flow.mirror.index()];
            flow.age += STEP;
            let mut class = None;
            if t >= server.freezes_at {
                flow.silent += STEP;
                if flow.silent > flow.patience {
                    class = Some(Class::Unwell);
                }
            } else if flow.age > server.first_byte {
                let whole = flow.range.end - flow.range.start;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a test"
                )]
                let most = (server.rate.min(share) * STEP) as u64;
                let more = most
                    .min(whole - flow.got)
                    .min(flow.stops_at.saturating_sub(flow.got));
                if flow.is_refused {
                    class = Some(Class::Unwell);
                } else if more > 0 {
                    let start = flow.range.start + flow.got;
                    delivered.push(start..start + more);
                    flow.got += more;
                    flow.silent = 0.0;
                    plan.progress(id, more, now);
                } else {
                    flow.silent += STEP;
                }
                if flow.got == whole {
                    class = Some(Class::Ok);
                } else if flow.silent > flow.patience {
                    class = Some(Class::Unwell);
                }
            }
            if let Some(class) = class {
                let flow = flows.remove(&id).unwrap();
                let mut shown = Observation::new(now, "large", class)
                    .with_bytes(flow.got)
                    .with_duration(Duration::from_secs_f64(flow.age));
                if flow.got > 0 {
                    shown = shown.with_first_byte(Duration::from_secs_f64(server.first_byte));
                }
                selector.finished(flow.mirror, &shown);
                plan.ended(id, class != Class::Ok);
            }
        }
    }
}

/// The number of bytes covered, and of those delivered twice.
fn coverage(mut ranges: Vec<Range<u64>>) -> (u64, u64) {
    ranges.sort_by_key(|range| range.start);
    let (mut end, mut covered, mut all) = (0, 0, 0);
    for range in ranges {
        all += range.end - range.start;
        covered += range.end.max(end) - range.start.max(end);
        end = end.max(range.end);
    }
    (covered, all - covered)
}

fn steady(rate: f64) -> Server {
    Server {
        rate,
        first_byte: 0.1,
        refuses: 0,
        stalls: 0,
        freezes_at: f64::INFINITY,
    }
}

const SIZE: u64 = 80_000_000;

#[test]
fn two_mirrors_together_are_nearly_twice_as_fast() {
    let run = fetch(&[steady(4e6), steady(4e6)], SIZE, 9e6, 1);
    assert!(run.seconds < 1.25 * 80.0 / 8.0, "{}", run.seconds);
}

#[test]
fn a_slow_mirror_does_not_hold_up_the_end() {
    for seed in 0..20 {
        let run = fetch(&[steady(10e6), steady(2e5)], SIZE, 1e9, seed);
        assert!(run.seconds < 8.0, "seed {seed}: {}", run.seconds);
    }
}

#[test]
fn a_mirror_that_stops_in_the_middle_costs_seconds_only() {
    for seed in 0..20 {
        let stalling = Server {
            stalls: 2,
            ..steady(5e6)
        };
        let run = fetch(&[stalling, steady(5e6), steady(5e6)], SIZE, 20e6, seed);
        assert!(run.seconds < 14.0, "seed {seed}: {}", run.seconds);
    }
}

/// The seconds that mirrors of these rates need at least, if one of them freezes.
fn ideal(rates: &[f64], frozen: usize, at: f64, size: f64) -> f64 {
    let all: f64 = rates.iter().sum();
    let before = (all * at).min(size);
    let after = (size - before) / (all - rates[frozen]);
    if before < size {
        at + after
    } else {
        size / all
    }
}

#[test]
fn whichever_mirror_freezes_when_it_costs_a_tenth_at_most() {
    // 150, 25 and 8 Mbit/s.
    let rates = [18.75e6, 3.125e6, 1e6];
    let size = 200e6;
    for frozen in 0..rates.len() {
        for at in [0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 7.5, 8.5] {
            for seed in 0..5 {
                let mut servers = rates.map(steady);
                servers[frozen].freezes_at = at;
                let run = fetch(&servers, 200_000_000, 1e9, seed);
                let least = ideal(&rates, frozen, at, size);
                assert!(
                    run.seconds <= 1.1 * least + 0.5,
                    "mirror {frozen} freezes after {at} s, seed {seed}: {:.1} s, ideal {least:.1} s",
                    run.seconds
                );
            }
        }
    }
}

#[test]
fn polling_a_plan_more_often_changes_nothing() {
    let servers = [
        steady(4e6),
        steady(2e6),
        Server {
            stalls: 3,
            ..steady(5e6)
        },
    ];
    for seed in 0..5 {
        let once = fetch_polling(&servers, SIZE, 20e6, seed, 0);
        assert_eq!(fetch_polling(&servers, SIZE, 20e6, seed, 20), once);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_and_few_arrive_twice(
        servers in prop::collection::vec(
            (1e5_f64..2e7, 0.01_f64..0.8, 0_u64..4, 0_u64..4).prop_map(|(rate, first_byte, refuses, stalls)| {
                Server { rate, first_byte, refuses, stalls, freezes_at: f64::INFINITY }
            }),
            0..5,
        ),
        size in 1_u64..60_000_000,
        seed in any::<u64>(),
    ) {
        // One at least can serve all.
        let mut servers = servers;
        servers.push(steady(3e6));
        let run = fetch(&servers, size, 3e7, seed);
        let (covered, twice) = coverage(run.delivered);
        prop_assert_eq!(covered, size);
        prop_assert!(twice * 20 <= size, "{} of {}", twice, size);
    }
}
