//! Long random histories: nothing panics, nothing starves, nothing bad is preferred.

use std::time::Duration;

use proptest::prelude::*;
use taipan_mirrors::{
    Choice, Circuit, Class, Kind, Location, Mirror, MirrorId, Observation, Progress, Provenance,
    Request, SavedState, Selector, SelectorConfig, Time, Tried,
};

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap()
    }

    /// Mostly ordinary, sometimes absurd.
    fn duration(&mut self) -> Duration {
        match self.below(40) {
            0 => Duration::ZERO,
            1 => Duration::MAX,
            2 => Duration::from_nanos(self.below(1000)),
            3 => Duration::from_secs(self.next()),
            _ => Duration::from_micros(self.below(5_000_000)),
        }
    }

    fn bytes(&mut self) -> u64 {
        match self.below(40) {
            0 => 0,
            1 => u64::MAX,
            2 => self.next(),
            _ => self.below(20_000_000),
        }
    }

    fn class(&mut self) -> Class {
        if self.one_in(3) {
            Class::ALL[self.index(7)]
        } else {
            Class::Ok
        }
    }
}

fn mirrors(random: &mut Random, n: usize) -> Vec<Mirror> {
    (0..n)
        .map(|i| {
            let location = Location::parse(&format!("https://m{i}.example/x")).unwrap();
            let mut mirror = Mirror::new(location, Provenance::CommandLine);
            mirror.priority = i32::try_from(random.below(3)).unwrap();
            if random.one_in(4) {
                mirror.max_connections = Some(u32::try_from(random.below(4)).unwrap());
            }
            if random.one_in(10) {
                mirror.weight = [0.0, f64::MAX, f64::MIN_POSITIVE, 100.0][random.index(4)];
            }
            mirror
        })
        .collect()
}

const DAY: Duration = Duration::from_hours(24);

fn move_clock(random: &mut Random, now: &mut Time) {
    *now = match random.below(2000) {
        0 => Time::ZERO,
        1 => Time::from_unix(Duration::MAX),
        2 => Time::from_unix(Duration::from_secs(random.next())),
        3 => now.before(DAY * 3650),
        4 => *now + DAY * 3650,
        5 => Time::from_unix(Duration::from_hours(500_000)),
        6..100 => now.before(Duration::from_millis(random.below(2000))),
        _ => *now + Duration::from_micros(random.below(300_000)),
    };
}

/// Whether the mirror has no fault of any kind.
fn lacks_nothing(selector: &Selector, id: MirrorId, now: Time) -> bool {
    let report = selector.report(id, now).unwrap();
    report.circuit == Circuit::Closed
        && !report.quarantined
        && !report.denied
        && !report.behind
        && report.throttled_until.is_none()
        && report.in_flight < report.window
}

fn is_untried(request: &Request<'_>, id: MirrorId) -> bool {
    request.tried.failures(id) == 0 && !request.tried.is_excluded(id)
}

fn check(selector: &Selector, request: &Request<'_>, choice: &Choice, now: Time) {
    match choice {
        Choice::Use(pick) => {
            for timeout in [pick.first_byte_timeout, pick.stall_timeout] {
                assert!(timeout > Duration::ZERO && timeout < DAY * 90, "{pick:?}");
            }
            assert!(!pick.why.to_string().is_empty());
            let failures = request.tried.failures(pick.mirror);
            assert!(failures < 3, "{pick:?}");
            assert!(!request.tried.is_excluded(pick.mirror), "{pick:?}");
            let report = selector.report(pick.mirror, now).unwrap();
            if report.quarantined || report.circuit == Circuit::Open || failures > 0 {
                let better = selector
                    .ids()
                    .find(|&id| is_untried(request, id) && lacks_nothing(selector, id, now));
                assert_eq!(better, None, "{pick:?}");
            }
        }
        Choice::Wait { until, .. } => {
            assert!(
                *until > now || now.unix() > Duration::MAX / 2,
                "{until:?} {now:?}"
            );
        }
        Choice::Exhausted(reasons) => {
            assert_eq!(reasons.len(), selector.mirrors().len());
            for (id, why) in reasons {
                assert!(!is_untried(request, *id), "{id} {why}");
            }
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one arm per kind of step")]
fn history(config: &SelectorConfig, n: usize, steps: u32) {
    let seed = config.seed;
    let mut random = Random(seed);
    let set = mirrors(&mut random, n);
    let mut selector = Selector::new(set.clone(), config.clone());
    let mut now = Time::from_unix(Duration::from_hours(500_000));
    let paths: Vec<String> = (0..50).map(|i| format!("p{i}")).collect();
    let mut running: Vec<MirrorId> = Vec::new();
    for step in 0..steps {
        move_clock(&mut random, &mut now);
        let path = &paths[random.index(paths.len())];
        let any = MirrorId::new(u32::try_from(random.index(n)).unwrap());
        match random.below(10) {
            0..4 => {
                let fresh = format!("fresh{step}");
                let mut tried = Tried::new();
                for _ in 0..random.index(2 * n.min(4)) {
                    let id = MirrorId::new(u32::try_from(random.index(n)).unwrap());
                    if random.one_in(3) {
                        tried.exclude(id);
                    } else {
                        tried.record_failure(id);
                    }
                }
                let request = Request {
                    path: if random.one_in(2) { path } else { &fresh },
                    bytes: (!random.one_in(5)).then(|| random.bytes()),
                    kind: if random.one_in(4) {
                        Kind::Metadata
                    } else {
                        Kind::Content
                    },
                    tried: &tried,
                    attempt: u32::try_from(random.below(6)).unwrap(),
                    seed: random.next(),
                };
                let choice = selector.choose(&request, now);
                if request.path == fresh {
                    check(&selector, &request, &choice, now);
                }
                match choice {
                    Choice::Use(pick) => {
                        selector.started(&pick, now);
                        running.push(pick.mirror);
                    }
                    Choice::Wait { .. } => selector.queued(&request),
                    Choice::Exhausted(_) => {}
                }
                let _ = selector.hedge_after(&request, any, now);
                let rate = selector.min_rate(&request, any, now);
                assert!(rate.is_finite() && rate >= 0.0);
            }
            4..8 if !running.is_empty() => {
                let id = running.swap_remove(random.index(running.len()));
                let shown = Observation {
                    at: if random.one_in(20) {
                        now.before(random.duration())
                    } else {
                        now
                    },
                    path,
                    outcome: random.class(),
                    bytes: random.bytes(),
                    first_byte: (!random.one_in(3)).then(|| random.duration()),
                    duration: random.duration(),
                    retry_after: random.one_in(3).then(|| random.duration()),
                };
                selector.finished(id, &shown);
            }
            8 if !running.is_empty() => {
                let id = running.swap_remove(random.index(running.len()));
                let shown = Progress {
                    at: now,
                    bytes: random.bytes(),
                    wasted: random.bytes(),
                    first_byte: random.one_in(2).then(|| random.duration()),
                    duration: random.duration(),
                };
                selector.cancelled(id, &shown);
            }
            // A report without a request.
            9 if random.one_in(50) => {
                selector.finished(any, &Observation::new(now, path, random.class()));
            }
            9 if random.one_in(500) => {
                let mut state = SavedState::new();
                selector.save(&mut state, now);
                let (again, warning) = SavedState::parse(&state.to_json());
                assert!(warning.is_none(), "{warning:?}");
                assert_eq!(again, state);
                selector = Selector::new(set.clone(), config.clone());
                selector.load(&again, now);
                running.clear();
            }
            _ => {
                let report = selector.report(any, now).unwrap();
                assert!(report.window >= 1 && (0.0..=1.0).contains(&report.failure_share));
                for rate in [report.rate, report.total_rate].into_iter().flatten() {
                    assert!(rate.is_finite() && rate > 0.0, "{report:?}");
                }
            }
        }
    }
}

/// `STEPS=10` in the environment makes ten million of them.
#[test]
fn a_million_random_steps_break_nothing() {
    let factor = std::env::var("STEPS").map_or(1, |text| text.parse().unwrap());
    for (seed, n, steps) in [
        (1, 1, 100_000),
        (2, 2, 200_000),
        (3, 3, 300_000),
        (4, 6, 300_000),
        (5, 30, 100_000),
    ] {
        let config = SelectorConfig {
            seed,
            ..SelectorConfig::default()
        };
        history(&config, n, steps * factor);
    }
}

#[test]
fn absurd_settings_break_nothing() {
    let longest = SelectorConfig {
        seed: 8,
        patience: Duration::MAX,
        max_retry_after: Duration::MAX,
        backoff: Duration::MAX,
        max_backoff: Duration::MAX,
        memory: Duration::MAX,
        quarantine: Duration::MAX,
        exploration: f64::NAN,
        hedge_share: f64::INFINITY,
        idle_timeout: Duration::MAX,
        ..SelectorConfig::default()
    };
    let shortest = SelectorConfig {
        seed: 9,
        max_connections: 0,
        patience: Duration::ZERO,
        max_retry_after: Duration::ZERO,
        failures_to_open: 0,
        backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
        memory: Duration::ZERO,
        quarantine: Duration::ZERO,
        exploration: -1.0,
        hedge_share: -1.0,
        idle_timeout: Duration::ZERO,
        ..SelectorConfig::default()
    };
    for config in [longest, shortest] {
        history(&config, 4, 20_000);
    }
}

/// One job on mirrors of which only the last always serves, after any history. Returns the number of
/// attempts.
fn run_job(random: &mut Random, selector: &mut Selector, path: &str, now: &mut Time) -> u32 {
    let n = selector.mirrors().len();
    let mut tried = Tried::new();
    let mut attempts = 0;
    let begin = *now;
    loop {
        let request = Request::content(path)
            .with_bytes(random.below(5_000_000))
            .with_tried(&tried)
            .with_attempt(attempts)
            .with_seed(random.next());
        match selector.choose(&request, *now) {
            Choice::Use(pick) => {
                selector.started(&pick, *now);
                *now = *now + Duration::from_millis(random.below(300));
                let good = pick.mirror.index() == n - 1;
                let class = if good {
                    Class::Ok
                } else {
                    Class::ALL[random.index(7)]
                };
                let shown = Observation::new(*now, path, class)
                    .with_duration(Duration::from_millis(random.below(300)))
                    .with_bytes(random.below(100_000));
                selector.finished(pick.mirror, &shown);
                tried.record_failure(pick.mirror);
                attempts += 1;
                if class == Class::Ok {
                    return attempts;
                }
            }
            Choice::Wait { until, .. } => *now = until,
            Choice::Exhausted(reasons) => panic!("{path} after {tried:?}: {reasons:?}"),
        }
        assert!(now.since(begin) < Duration::from_mins(10), "{tried:?}");
    }
}

#[test]
fn a_job_ends_whenever_one_mirror_can_serve_it() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let n = 1 + random.index(8);
        let mut set = mirrors(&mut random, n);
        for mirror in &mut set {
            mirror.weight = 1.0;
        }
        let mut selector = Selector::new(
            set,
            SelectorConfig {
                seed,
                ..SelectorConfig::default()
            },
        );
        let mut now = Time::from_unix(Duration::from_hours(500_000));
        for job in 0..100 {
            // With any history the good mirror must be used in the end.
            let last = MirrorId::new(u32::try_from(n - 1).unwrap());
            selector.started_unchosen(last, now);
            let shown = Observation::new(now, "elsewhere", Class::ALL[random.index(7)]);
            selector.finished(last, &shown);
            let attempts = run_job(&mut random, &mut selector, &format!("job{job}"), &mut now);
            assert!(attempts as usize <= 3 * n, "{attempts}");
        }
    }
}

/// Two equal selectors go through the same history; one of them is polled. Both must decide alike.
fn polled_and_not(seed: u64, polls: &[usize]) {
    let mut random = Random(seed);
    let n = 1 + random.index(6);
    let set = mirrors(&mut random, n);
    let mut polled = Selector::new(set, SelectorConfig::default());
    let mut quiet = polled.clone();
    let mut now = Time::from_unix(Duration::from_hours(500_000));
    let mut running: Vec<MirrorId> = Vec::new();
    for (step, &polls) in polls.iter().enumerate() {
        now = now + Duration::from_micros(random.below(600_000));
        let path = format!("p{}", step % 7);
        for _ in 0..polls {
            let request = Request::content(&path)
                .with_bytes(random.below(3_000_000))
                .with_seed(random.next());
            let any = MirrorId::new(u32::try_from(random.index(n)).unwrap());
            polled.choose(&request, now);
            polled.explain(&request, now);
            polled.hedge_after(&request, any, now);
            polled.min_rate(&request, any, now);
        }
        let request = Request::content(&path)
            .with_bytes(random.below(3_000_000))
            .with_seed(random.next());
        let choice = quiet.choose(&request, now);
        assert_eq!(polled.choose(&request, now), choice);
        let ends = !running.is_empty() && random.one_in(2);
        let ended = ends.then(|| running.swap_remove(random.index(running.len())));
        let shown = Observation::new(now, &path, random.class())
            .with_bytes(random.below(3_000_000))
            .with_first_byte(Duration::from_micros(random.below(400_000)))
            .with_duration(Duration::from_micros(random.below(5_000_000)));
        for selector in [&mut polled, &mut quiet] {
            match &choice {
                Choice::Use(pick) => selector.started(pick, now),
                Choice::Wait { .. } => selector.queued(&request),
                Choice::Exhausted(_) => {}
            }
            if let Some(id) = ended {
                selector.finished(id, &shown);
            }
        }
        if let Choice::Use(pick) = choice {
            running.push(pick.mirror);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn polling_changes_no_later_decision(
        seed in any::<u64>(),
        polls in prop::collection::vec(0_usize..50, 1..150),
    ) {
        polled_and_not(seed, &polls);
    }
}
