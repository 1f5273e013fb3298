//! What a caller may rely on, observed from outside.

use std::time::Duration;

use taipan_mirrors::{
    Choice, Circuit, Class, DemotionReason, Location, Mirror, MirrorId, Observation, Pick,
    Progress, Provenance, Request, SavedState, Selector, SelectorConfig, StateWarning, Time, Tried,
    Why,
};

fn at(millis: u64) -> Time {
    Time::from_unix(Duration::from_hours(500_000) + Duration::from_millis(millis))
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn mirror(name: &str) -> Mirror {
    let url = format!("https://{name}.example/pub");
    Mirror::new(Location::parse(&url).unwrap(), Provenance::CommandLine)
}

fn selector(mirrors: Vec<Mirror>) -> Selector {
    Selector::new(mirrors, SelectorConfig::default())
}

fn id(index: u32) -> MirrorId {
    MirrorId::new(index)
}

/// After one failed attempt on a mirror.
fn failed_on(mirror: MirrorId) -> Tried {
    let mut tried = Tried::new();
    tried.record_failure(mirror);
    tried
}

fn used(choice: &Choice) -> Pick {
    let Choice::Use(pick) = choice else {
        panic!("expected a mirror, got {choice:?}")
    };
    *pick
}

/// One finished attempt of 100 kB.
fn attempt(selector: &mut Selector, mirror: u32, path: &str, start: u64, took: u64, class: Class) {
    selector.started_unchosen(id(mirror), at(start));
    finish(selector, id(mirror), path, start, took, class);
}

/// The same on a chosen mirror.
fn follow(selector: &mut Selector, pick: &Pick, path: &str, start: u64, took: u64) {
    selector.started(pick, at(start));
    finish(selector, pick.mirror, path, start, took, Class::Ok);
}

fn finish(
    selector: &mut Selector,
    mirror: MirrorId,
    path: &str,
    start: u64,
    took: u64,
    class: Class,
) {
    let bytes = if class == Class::Ok { 100_000 } else { 0 };
    let mut seen = Observation::new(at(start + took), path, class)
        .with_bytes(bytes)
        .with_duration(ms(took));
    if class == Class::Ok {
        seen = seen.with_first_byte(ms(took / 2));
    }
    selector.finished(mirror, &seen);
}

/// A history in which every mirror has worked, with these times for 100 kB.
fn known(mirrors: Vec<Mirror>, times: &[u64]) -> Selector {
    let mut selector = selector(mirrors);
    for round in 0..10 {
        for (index, &took) in (0..).zip(times) {
            attempt(
                &mut selector,
                index,
                "warm-up",
                round * 100,
                took,
                Class::Ok,
            );
        }
    }
    selector
}

/// The report of a request that was cancelled at once.
fn nothing_yet(now: u64) -> Progress {
    Progress {
        at: at(now),
        bytes: 0,
        wasted: 0,
        first_byte: None,
        duration: Duration::ZERO,
    }
}

/// How often each of `n` mirrors is chosen over many seeds.
fn shares(selector: &Selector, n: usize, request: &Request<'_>, now: Time) -> Vec<u32> {
    let mut counts = vec![0; n];
    for seed in 0..1000 {
        let request = request.clone().with_seed(seed);
        if let Choice::Use(pick) = selector.choose(&request, now) {
            counts[pick.mirror.index()] += 1;
        }
    }
    counts
}

#[test]
fn unknown_mirrors_share_the_first_requests() {
    let selector = selector(vec![mirror("a"), mirror("b"), mirror("c")]);
    let counts = shares(&selector, 3, &Request::content("x"), at(0));
    assert!(
        counts.iter().all(|&count| (250..420).contains(&count)),
        "{counts:?}"
    );
}

#[test]
fn the_faster_of_two_mirrors_gets_nearly_everything() {
    let selector = known(vec![mirror("slow"), mirror("fast")], &[800, 100]);
    let counts = shares(
        &selector,
        2,
        &Request::content("x").with_bytes(100_000),
        at(2000),
    );
    assert!(counts[1] > 950, "{counts:?}");
}

#[test]
fn equal_mirrors_share_the_load_by_weight() {
    let heavy = mirror("b").with_weight(3.0);
    let selector = known(vec![mirror("a"), heavy], &[100, 100]);
    let counts = shares(
        &selector,
        2,
        &Request::content("x").with_bytes(100_000),
        at(2000),
    );
    assert!((200..300).contains(&counts[0]), "{counts:?}");
}

#[test]
fn requests_in_flight_drive_the_next_ones_to_other_mirrors() {
    let mut selector = known(vec![mirror("a"), mirror("b")], &[100, 130]);
    let mut counts = [0, 0];
    for seed in 0..12 {
        let request = Request::content("x").with_bytes(50_000_000).with_seed(seed);
        if let Choice::Use(pick) = selector.choose(&request, at(2000)) {
            selector.started(&pick, at(2000));
            counts[pick.mirror.index()] += 1;
        }
    }
    assert!(counts[0] >= 3 && counts[1] >= 3, "{counts:?}");
}

#[test]
fn a_lower_priority_number_comes_first_even_when_slower() {
    let selector = known(
        vec![
            mirror("fast").with_priority(1),
            mirror("slow").with_priority(0),
        ],
        &[50, 300],
    );
    let counts = shares(
        &selector,
        2,
        &Request::content("x").with_bytes(1 << 22),
        at(2000),
    );
    assert_eq!(counts[1], 1000, "{counts:?}");
}

#[test]
fn the_next_tier_serves_when_the_first_fails_and_not_when_it_is_busy() {
    let first = mirror("first").with_max_connections(1);
    let mut selector = known(vec![first, mirror("second").with_priority(5)], &[100, 100]);
    let request = Request::content("x").with_bytes(1 << 22);
    selector.started_unchosen(id(0), at(2000));
    assert!(matches!(
        selector.choose(&request, at(2000)),
        Choice::Wait { .. }
    ));
    selector.finished(id(0), &Observation::new(at(2100), "y", Class::Unwell));
    for _ in 0..3 {
        attempt(&mut selector, 0, "y", 2100, 10, Class::Unwell);
    }
    assert_eq!(used(&selector.choose(&request, at(2200))).mirror, id(1));
}

#[test]
fn a_missing_path_causes_failover_and_does_not_change_the_health() {
    let mut selector = known(vec![mirror("a"), mirror("b")], &[50, 400]);
    attempt(&mut selector, 0, "new", 2000, 20, Class::NotHere);
    let request = Request::content("new").with_bytes(1 << 22);
    assert_eq!(used(&selector.choose(&request, at(2100))).mirror, id(1));
    let other = Request::content("old").with_bytes(1 << 22);
    assert_eq!(used(&selector.choose(&other, at(2100))).mirror, id(0));
    let report = selector.report(id(0), at(2100)).unwrap();
    assert_eq!(
        (report.circuit, report.counts.not_here),
        (Circuit::Closed, 1)
    );
    assert!(report.failure_share < 0.01);
}

#[test]
fn a_path_that_was_missing_everywhere_is_requested_again() {
    let mut selector = known(vec![mirror("a")], &[50]);
    attempt(&mut selector, 0, "new", 2000, 20, Class::NotHere);
    let pick = used(&selector.choose(&Request::content("new"), at(2100)));
    assert_eq!(pick.why, Why::LastResort(DemotionReason::PathNotHere));
    let tried = failed_on(id(0));
    let again = Request::content("new").with_tried(&tried);
    let Choice::Exhausted(reasons) = selector.choose(&again, at(2100)) else {
        panic!()
    };
    assert_eq!(
        reasons,
        [(id(0), Why::Demoted(DemotionReason::PathNotHere))]
    );
}

#[test]
fn one_failure_opens_the_circuit_of_a_mirror_that_never_worked() {
    let mut selector = selector(vec![mirror("dead"), mirror("alive")]);
    attempt(&mut selector, 0, "x", 0, 100, Class::Unwell);
    let counts = shares(&selector, 2, &Request::content("y"), at(200));
    assert_eq!(counts[0], 0, "{counts:?}");
    assert_eq!(
        selector.report(id(0), at(200)).unwrap().circuit,
        Circuit::Open
    );
    assert_eq!(
        selector.report(id(0), at(1200)).unwrap().circuit,
        Circuit::HalfOpen
    );
}

#[test]
fn one_failure_of_a_mirror_that_works_does_not_open_its_circuit() {
    let mut selector = known(vec![mirror("a")], &[50]);
    attempt(&mut selector, 0, "x", 2000, 100, Class::Unwell);
    assert_eq!(
        selector.report(id(0), at(2100)).unwrap().circuit,
        Circuit::Closed
    );
    for _ in 0..2 {
        attempt(&mut selector, 0, "x", 2100, 100, Class::Unwell);
    }
    assert_eq!(
        selector.report(id(0), at(2200)).unwrap().circuit,
        Circuit::Open
    );
}

#[test]
fn a_half_open_circuit_gets_one_trial_at_a_time_and_closes_on_success() {
    let mut selector = selector(vec![mirror("a")]);
    attempt(&mut selector, 0, "x", 0, 100, Class::Unwell);
    let request = Request::content("y");
    let pick = used(&selector.choose(&request, at(2000)));
    assert_eq!(pick.why, Why::Trial { failures: 1 });
    selector.started(&pick, at(2000));
    assert!(matches!(
        selector.choose(&request, at(2010)),
        Choice::Wait { .. }
    ));
    selector.finished(
        id(0),
        &Observation::new(at(2100), "y", Class::Ok).with_bytes(1000),
    );
    assert_eq!(
        selector.report(id(0), at(2100)).unwrap().circuit,
        Circuit::Closed
    );
    assert!(matches!(
        used(&selector.choose(&request, at(2100))).why,
        Why::Soonest { .. }
    ));
}

#[test]
fn when_all_circuits_are_open_a_job_waits_for_the_backoff() {
    let mut selector = selector(vec![mirror("a"), mirror("b")]);
    attempt(&mut selector, 0, "x", 0, 10, Class::Unwell);
    attempt(&mut selector, 1, "x", 0, 10, Class::Unwell);
    let Choice::Wait { until, .. } = selector.choose(&Request::content("y"), at(20)) else {
        panic!()
    };
    assert!(until > at(20) && until <= at(1100), "{until:?}");
    used(&selector.choose(&Request::content("y"), until));
}

#[test]
fn retry_after_is_obeyed_and_other_mirrors_serve_meanwhile() {
    let mut selector = known(vec![mirror("a"), mirror("b")], &[50, 200]);
    selector.started_unchosen(id(0), at(2000));
    let seen = Observation::new(at(2010), "x", Class::Throttled)
        .with_duration(ms(10))
        .with_retry_after(Duration::from_secs(7));
    selector.finished(id(0), &seen);
    let request = Request::content("y").with_bytes(1 << 22);
    for moment in [2020, 5000, 9000] {
        assert_eq!(
            used(&selector.choose(&request, at(moment))).mirror,
            id(1),
            "{moment}"
        );
    }
    assert_eq!(used(&selector.choose(&request, at(10_000))).mirror, id(0));
}

#[test]
fn a_job_waits_for_the_full_retry_after_of_its_only_mirror() {
    let mut selector = known(vec![mirror("a")], &[50]);
    selector.started_unchosen(id(0), at(2000));
    let seen =
        Observation::new(at(2000), "x", Class::Throttled).with_retry_after(Duration::from_secs(30));
    selector.finished(id(0), &seen);
    let Choice::Wait { until, why } = selector.choose(&Request::content("y"), at(2000)) else {
        panic!()
    };
    assert!(until >= at(32_000) && until <= at(35_000), "{until:?}");
    assert!(matches!(
        why,
        Why::Demoted(DemotionReason::Throttled { .. })
    ));
}

#[test]
fn throttling_shrinks_the_window_and_success_opens_it_again() {
    let mut selector = known(vec![mirror("a")], &[50]);
    let before = selector.report(id(0), at(2000)).unwrap().window;
    for _ in 0..4 {
        selector.started_unchosen(id(0), at(2000));
    }
    for _ in 0..4 {
        selector.finished(id(0), &Observation::new(at(2010), "x", Class::Throttled));
    }
    let after = selector.report(id(0), at(2010)).unwrap().window;
    assert!(
        after <= before.div_ceil(2) && after >= 1,
        "{before} {after}"
    );
    for round in 0..30 {
        // The limit is kept for half a minute.
        let start = 40_000 + round * 100;
        for _ in 0..after {
            selector.started_unchosen(id(0), at(start));
        }
        for _ in 0..after {
            let seen = Observation::new(at(start + 50), "x", Class::Ok).with_bytes(100_000);
            selector.finished(id(0), &seen.with_first_byte(ms(10)).with_duration(ms(50)));
        }
    }
    assert!(selector.report(id(0), at(44_000)).unwrap().window > after);
}

#[test]
fn a_corrupt_mirror_is_quarantined_for_the_run_and_used_as_last_resort() {
    let mut selector = known(vec![mirror("liar"), mirror("b")], &[50, 400]);
    attempt(&mut selector, 0, "x", 2000, 50, Class::Corrupt);
    let request = Request::content("y").with_bytes(1 << 22);
    let day = 86_400_000;
    for moment in [2100, 600_000, 3 * day] {
        assert_eq!(
            used(&selector.choose(&request, at(moment))).mirror,
            id(1),
            "{moment}"
        );
    }
    let tried = Tried::new().excluding([id(1)]);
    let pick = used(&selector.choose(&request.with_tried(&tried), at(2100)));
    assert_eq!(pick.mirror, id(0));
    assert_eq!(pick.why, Why::LastResort(DemotionReason::Quarantined));
}

#[test]
fn a_quarantine_fades_over_days_across_runs() {
    let mut first = known(vec![mirror("liar"), mirror("b")], &[50, 400]);
    attempt(&mut first, 0, "x", 2000, 50, Class::Corrupt);
    let mut state = SavedState::new();
    first.save(&mut state, at(3000));
    let hour = 3_600_000;
    for (later, quarantined) in [(hour, true), (20 * hour, true), (30 * hour, false)] {
        let mut next = selector(vec![mirror("liar"), mirror("b")]);
        next.load(&state, at(later));
        let report = next.report(id(0), at(later)).unwrap();
        assert_eq!(report.quarantined, quarantined, "{later}");
    }
}

#[test]
fn a_mirror_that_is_behind_serves_content_but_no_metadata() {
    let mut selector = known(vec![mirror("stale"), mirror("b")], &[50, 400]);
    attempt(&mut selector, 0, "index", 2000, 50, Class::Behind);
    let index = Request::metadata("index").with_bytes(1 << 22);
    assert_eq!(used(&selector.choose(&index, at(2100))).mirror, id(1));
    let content = Request::content("x").with_bytes(1 << 22);
    assert_eq!(used(&selector.choose(&content, at(2100))).mirror, id(0));
}

#[test]
fn denied_demotes_a_mirror_and_does_not_change_its_health() {
    let mut selector = known(vec![mirror("a"), mirror("b")], &[50, 400]);
    attempt(&mut selector, 0, "x", 2000, 50, Class::Denied);
    let request = Request::content("y").with_bytes(1 << 22);
    assert_eq!(used(&selector.choose(&request, at(2100))).mirror, id(1));
    assert!(selector.report(id(0), at(2100)).unwrap().failure_share < 0.01);
}

#[test]
fn a_job_retries_a_transient_failure_with_growing_pauses_and_then_gives_up() {
    let mut selector = selector(vec![mirror("a")]);
    let mut tried = Tried::new();
    let mut now = 0;
    let mut pauses = Vec::new();
    loop {
        let request = Request::content("x")
            .with_tried(&tried)
            .with_attempt(tried.failures(id(0)));
        match selector.choose(&request, at(now)) {
            Choice::Use(pick) => {
                tried.record_failure(pick.mirror);
                attempt(&mut selector, 0, "x", now, 10, Class::Unwell);
                now += 10;
            }
            Choice::Wait { until, .. } => {
                let millis = until.since(at(now)).as_micros().div_ceil(1000);
                pauses.push(millis);
                now += u64::try_from(millis).unwrap();
            }
            Choice::Exhausted(reasons) => {
                let why = Why::Tried {
                    attempts: 3,
                    last: Some(Class::Unwell),
                };
                assert_eq!(reasons, [(id(0), why)]);
                break;
            }
        }
    }
    assert_eq!(tried.failures(id(0)), 3);
    assert!(pauses.len() == 2 && pauses[1] > pauses[0], "{pauses:?}");
    assert!(now < 5000);
}

#[test]
fn a_mirror_with_a_lasting_fault_is_not_retried_for_the_same_job() {
    for class in [Class::NotHere, Class::Corrupt, Class::Denied] {
        let mut selector = known(vec![mirror("a")], &[50]);
        attempt(&mut selector, 0, "x", 2000, 50, class);
        let tried = failed_on(id(0));
        let request = Request::content("x").with_tried(&tried);
        assert!(
            matches!(selector.choose(&request, at(10_000)), Choice::Exhausted(_)),
            "{class}"
        );
    }
}

#[test]
fn without_mirrors_a_choice_is_exhausted() {
    let choice = selector(Vec::new()).choose(&Request::content("x"), at(0));
    assert_eq!(choice, Choice::Exhausted(Vec::new()));
}

#[test]
fn waiting_for_a_fast_busy_mirror_beats_using_a_hopeless_one() {
    let fast = mirror("fast").with_max_connections(1);
    let mut selector = known(vec![fast, mirror("slow")], &[20, 9000]);
    selector.started_unchosen(id(0), at(92_000));
    let request = Request::content("x").with_bytes(1 << 24);
    let choice = selector.choose(&request, at(92_000));
    assert!(
        matches!(choice, Choice::Wait { until, .. } if until < at(93_000)),
        "{choice:?}"
    );
}

#[test]
fn exploration_reaches_every_mirror_and_stays_within_its_share() {
    let mirrors: Vec<Mirror> = (0..20).map(|i| mirror(&format!("m{i}"))).collect();
    let mut selector = selector(mirrors);
    // The first is much faster than the others, once they are known.
    let mut others = 0;
    let mut now = 0;
    for seed in 0..1000 {
        let request = Request::content("x").with_bytes(100_000).with_seed(seed);
        let pick = used(&selector.choose(&request, at(now)));
        let index = u32::try_from(pick.mirror.index()).unwrap();
        let took = if index == 0 { 20 } else { 2000 };
        others += u32::from(index != 0);
        follow(&mut selector, &pick, "x", now, took);
        now += took;
    }
    let unseen = selector
        .ids()
        .filter(|&id| selector.report(id, at(now)).unwrap().counts.total() == 0)
        .count();
    assert_eq!(unseen, 0);
    assert!(others < 150, "{others}");
}

#[test]
fn an_unmeasured_mirror_of_the_preferred_country_is_chosen_first() {
    let config = SelectorConfig {
        country: Some("DE".into()),
        ..SelectorConfig::default()
    };
    let mirrors = || {
        vec![
            mirror("us").with_country("US"),
            mirror("anywhere"),
            mirror("de").with_country("DE"),
        ]
    };
    let choices = |selector: &Selector| -> Vec<u32> {
        let chosen = |seed| {
            let request = Request::content("a").with_bytes(100_000).with_seed(seed);
            used(&selector.choose(&request, at(0))).mirror
        };
        let index = |id: MirrorId| u32::try_from(id.index()).unwrap();
        (0..500).map(|seed| index(chosen(seed))).collect()
    };
    let preferred = choices(&Selector::new(mirrors(), config));
    assert!(preferred.iter().all(|&mirror| mirror == 2), "{preferred:?}");
    // Without a preference all three are used.
    let any = choices(&selector(mirrors()));
    assert!((0..3).all(|mirror| any.contains(&mirror)), "{any:?}");
}

#[test]
fn mirrors_of_the_same_country_are_explored_first() {
    let config = SelectorConfig {
        country: Some("DE".into()),
        ..SelectorConfig::default()
    };
    let mirrors = vec![
        mirror("us").with_country("US"),
        mirror("de").with_country("DE"),
        mirror("jp").with_country("JP"),
    ];
    let selector = Selector::new(mirrors, config);
    let counts = shares(&selector, 3, &Request::content("x"), at(0));
    assert!(counts[1] > 900, "{counts:?}");
}

#[test]
fn timeouts_are_short_with_alternatives_and_long_without() {
    let alone = known(vec![mirror("a")], &[50]);
    let pair = known(vec![mirror("a"), mirror("b")], &[50, 50]);
    let request = Request::content("x").with_bytes(1 << 22);
    let (lone, one_of_two) = (
        used(&alone.choose(&request, at(2000))),
        used(&pair.choose(&request, at(2000))),
    );
    assert!(one_of_two.first_byte_timeout < lone.first_byte_timeout);
    assert!(one_of_two.stall_timeout < lone.stall_timeout);
    assert!(alone.min_rate(&request, id(0), at(2000)).abs() < 1e-9);
    assert!(pair.min_rate(&request, id(0), at(2000)) > 0.0);
    let later = used(&pair.choose(&request.with_attempt(2), at(2000)));
    assert!(later.first_byte_timeout > one_of_two.first_byte_timeout);
}

#[test]
fn the_minimum_rate_is_bounded_by_the_network_of_the_client() {
    // Twenty connections share 10 MB/s, though one alone reached all of it.
    let mut selector = known(vec![mirror("a"), mirror("b")], &[20, 20]);
    for n in 0..20 {
        selector.started_unchosen(id(n % 2), at(2000));
    }
    let request = Request::content("x").with_bytes(1 << 24);
    assert!(selector.min_rate(&request, id(0), at(2000)) < 500_000.0);
}

#[test]
fn small_requests_are_hedged_after_the_usual_tail_and_large_ones_are_not() {
    let selector = known(vec![mirror("a"), mirror("b")], &[50, 60]);
    let small = Request::content("x").with_bytes(10_000);
    let after = selector.hedge_after(&small, id(0), at(2000)).unwrap();
    assert!(after >= ms(20) && after <= ms(500), "{after:?}");
    let large = Request::content("x").with_bytes(1 << 30);
    assert_eq!(selector.hedge_after(&large, id(0), at(2000)), None);
    let alone = known(vec![mirror("a")], &[50]);
    assert_eq!(alone.hedge_after(&small, id(0), at(2000)), None);
}

#[test]
fn hedging_stops_when_its_budget_of_wasted_bytes_is_spent() {
    let mut selector = known(vec![mirror("a"), mirror("b")], &[50, 60]);
    let request = Request::content("x").with_bytes(500_000);
    let mut hedged = 0;
    for _ in 0..100 {
        if selector.hedge_after(&request, id(0), at(2000)).is_none() {
            break;
        }
        hedged += 1;
        selector.started_unchosen(id(1), at(2000));
        let seen = Progress {
            at: at(2010),
            bytes: 400_000,
            wasted: 400_000,
            first_byte: Some(ms(5)),
            duration: ms(10),
        };
        selector.cancelled(id(1), &seen);
    }
    assert!((1..5).contains(&hedged), "{hedged}");
}

#[test]
fn a_cancelled_request_updates_the_speed_and_is_not_a_failure() {
    let mut selector = known(vec![mirror("a"), mirror("b")], &[100, 100]);
    let request = Request::content("x").with_bytes(1 << 22);
    for _ in 0..3 {
        selector.started_unchosen(id(0), at(2000));
        let seen = Progress {
            at: at(7000),
            bytes: 50_000,
            wasted: 0,
            first_byte: Some(ms(50)),
            duration: ms(5000),
        };
        selector.cancelled(id(0), &seen);
    }
    let report = selector.report(id(0), at(7000)).unwrap();
    assert_eq!((report.circuit, report.cancelled), (Circuit::Closed, 3));
    let counts = shares(&selector, 2, &request, at(7000));
    assert!(counts[1] > 950, "{counts:?}");
}

#[test]
fn the_same_seed_and_history_give_the_same_choice() {
    let selector = known(
        vec![mirror("a"), mirror("b"), mirror("c")],
        &[100, 100, 100],
    );
    for seed in 0..100 {
        let request = Request::content("x").with_seed(seed);
        let once = selector.choose(&request, at(2000));
        assert_eq!(once, selector.clone().choose(&request, at(2000)));
    }
}

#[test]
fn saved_health_serves_the_next_run() {
    let first = known(vec![mirror("slow"), mirror("fast")], &[2000, 100]);
    let mut state = SavedState::new();
    first.save(&mut state, at(3000));
    let (state, warning) = SavedState::parse(&state.to_json());
    assert!(warning.is_none());
    // The list has changed its order since.
    let mut next = selector(vec![mirror("fast"), mirror("new"), mirror("slow")]);
    next.load(&state, at(3_600_000));
    let counts = shares(
        &next,
        3,
        &Request::content("x").with_bytes(50_000_000),
        at(3_600_000),
    );
    assert!(counts[0] > 900 && counts[2] < 50, "{counts:?}");
}

#[test]
fn estimates_of_another_network_are_not_used() {
    let home = SelectorConfig {
        network: "home".into(),
        ..SelectorConfig::default()
    };
    let office = SelectorConfig {
        network: "office".into(),
        ..SelectorConfig::default()
    };
    let mut at_home = Selector::new(vec![mirror("a"), mirror("b")], home.clone());
    for round in 0..5 {
        attempt(&mut at_home, 0, "x", round * 3000, 2500, Class::Ok);
        attempt(&mut at_home, 1, "x", round * 3000, 50, Class::Ok);
    }
    let mut state = SavedState::new();
    at_home.save(&mut state, at(20_000));
    let mut elsewhere = Selector::new(vec![mirror("a"), mirror("b")], office);
    elsewhere.load(&state, at(20_000));
    assert!(
        elsewhere
            .report(id(0), at(20_000))
            .unwrap()
            .first_byte
            .is_none()
    );
    let mut back = Selector::new(vec![mirror("a"), mirror("b")], home);
    back.load(&state, at(20_000));
    assert!(back.report(id(0), at(20_000)).unwrap().first_byte.is_some());
}

#[test]
fn a_damaged_or_unknown_state_is_dropped_with_one_warning() {
    for (text, damaged) in [
        ("", true),
        ("{\"version\":1,\"networks\":{", true),
        ("{\"version\":1,\"networks\":{\"\":{\"k\":3}}}", true),
        ("[]", true),
        // Numbers out of range could not be written again.
        (
            "{\"version\":1,\"distrust\":{\"k\":{\"amount\":1e99,\"at\":1}}}",
            true,
        ),
        ("{\"version\":2,\"whatever\":[]}", false),
    ] {
        let (state, warning) = SavedState::parse(text);
        assert_eq!(state, SavedState::new());
        match warning.unwrap() {
            StateWarning::Damaged { .. } => assert!(damaged, "{text}"),
            StateWarning::UnknownVersion { found } => assert!(!damaged && found == 2),
            StateWarning::TooLong { bytes } => panic!("{bytes}"),
        }
    }
}

#[test]
fn saved_state_holds_no_secret() {
    let location = Location::parse("https://me:hush@h.example/pub?token=hush").unwrap();
    let mut selector = selector(vec![Mirror::new(location, Provenance::CommandLine)]);
    attempt(&mut selector, 0, "x", 0, 50, Class::Corrupt);
    let mut state = SavedState::new();
    selector.save(&mut state, at(100));
    assert!(!state.to_json().contains("hush"));
    assert!(!format!("{:?}", selector.report(id(0), at(100))).contains("hush"));
}

#[test]
fn explain_lists_every_mirror_and_changes_nothing() {
    let mut selector = known(vec![mirror("a"), mirror("b")], &[50, 80]);
    attempt(&mut selector, 1, "x", 2000, 50, Class::Corrupt);
    let request = Request::content("y").with_bytes(100_000);
    let reasons = selector.explain(&request, at(2100));
    assert!(matches!(
        reasons[..],
        [
            (_, Why::Soonest { measured: true, .. }),
            (_, Why::Demoted(DemotionReason::Quarantined)),
        ]
    ));
}

#[test]
fn reports_and_notices_about_unknown_mirrors_are_ignored() {
    let mut selector = selector(vec![mirror("a")]);
    selector.started_unchosen(id(7), at(0));
    selector.finished(id(7), &Observation::new(at(1), "x", Class::Ok));
    assert!(selector.report(id(7), at(1)).is_none());
    assert_eq!(
        selector.hedge_after(&Request::metadata("x"), id(7), at(1)),
        None
    );
    assert!(
        selector
            .min_rate(&Request::metadata("x"), id(7), at(1))
            .abs()
            < 1e-9
    );
}

#[test]
fn a_digest_mismatch_on_two_mirrors_lifts_their_quarantine() {
    let mut selector = known(vec![mirror("a"), mirror("b"), mirror("c")], &[50, 50, 50]);
    attempt(&mut selector, 0, "x", 2000, 50, Class::Corrupt);
    assert!(selector.report(id(0), at(2100)).unwrap().quarantined);
    attempt(&mut selector, 1, "x", 2100, 50, Class::Corrupt);
    for index in 0..3 {
        assert!(
            !selector.report(id(index), at(2200)).unwrap().quarantined,
            "{index}"
        );
    }
    let request = Request::content("x").with_bytes(1 << 22);
    assert_eq!(used(&selector.choose(&request, at(2200))).mirror, id(2));
    // A second wrong path quarantines again.
    attempt(&mut selector, 0, "y", 2200, 50, Class::Corrupt);
    attempt(&mut selector, 1, "y", 2200, 50, Class::Corrupt);
    assert!(selector.report(id(0), at(2300)).unwrap().quarantined);
    assert!(selector.report(id(1), at(2300)).unwrap().quarantined);
}

#[test]
fn a_long_queue_for_the_fast_mirror_makes_the_slow_one_worth_using() {
    let fast = mirror("fast").with_max_connections(1);
    let mut selector = known(vec![fast, mirror("slow")], &[200, 1000]);
    selector.started_unchosen(id(0), at(12_000));
    let mut waits = 0;
    for job in 0..50 {
        let path = format!("x{job}");
        let request = Request::content(&path).with_bytes(2_000_000).with_seed(job);
        match selector.choose(&request, at(12_000)) {
            Choice::Wait { .. } => {
                selector.queued(&request);
                waits += 1;
            }
            Choice::Use(pick) => {
                assert_eq!(pick.mirror, id(1));
                break;
            }
            Choice::Exhausted(_) => panic!(),
        }
    }
    assert!((1..49).contains(&waits), "{waits}");
}

#[test]
fn a_large_request_leaves_a_mirror_that_proves_to_be_slow() {
    let mut selector = known(vec![mirror("slow"), mirror("fast")], &[4000, 20]);
    let request = Request::content("x").with_bytes(50_000_000);
    let slow = selector.report(id(0), at(5000)).unwrap().rate.unwrap();
    let fast = selector.report(id(1), at(5000)).unwrap().rate.unwrap();
    selector.started_unchosen(id(0), at(5000));
    let least = selector.min_rate(&request, id(0), at(5000));
    assert!(least > slow && least < fast, "{slow} {least} {fast}");
    // On the fast mirror there is no better alternative.
    assert!(selector.min_rate(&request, id(1), at(5000)) < fast / 3.0);
}

#[test]
fn unproven_mirrors_get_at_most_two_concurrent_requests() {
    let mut selector = selector(vec![mirror("a"), mirror("b")]);
    let mut started = 0;
    for seed in 0..20 {
        match selector.choose(&Request::content("x").with_seed(seed), at(0)) {
            Choice::Use(pick) => {
                selector.started(&pick, at(0));
                started += 1;
            }
            Choice::Wait { .. } => {}
            Choice::Exhausted(reasons) => panic!("{reasons:?}"),
        }
    }
    assert_eq!(started, 4);
}

#[test]
fn a_failed_mirror_of_the_first_tier_gets_trials_while_the_next_tier_serves() {
    let mut selector = known(
        vec![mirror("first"), mirror("second").with_priority(1)],
        &[50, 50],
    );
    for _ in 0..3 {
        attempt(&mut selector, 0, "x", 2000, 10, Class::Unwell);
    }
    let mut trials = 0;
    for job in 0..100 {
        let now = 2100 + job * 100;
        let request = Request::content("y").with_bytes(50_000).with_seed(job);
        let pick = used(&selector.choose(&request, at(now)));
        if matches!(pick.why, Why::Trial { .. }) {
            trials += 1;
        }
        follow(&mut selector, &pick, "y", now, 50);
    }
    assert_eq!(trials, 1);
    let counts = selector.report(id(0), at(20_000)).unwrap().counts;
    assert!(counts.ok > 80, "{counts:?}");
}

#[test]
fn polling_earns_no_exploration_credit() {
    // The slow one was not measured for a long time and would be explored with enough credit.
    let mut selector = known(vec![mirror("fast"), mirror("slow")], &[100, 250]);
    let request = |seed| Request::content("x").with_bytes(100_000).with_seed(seed);
    let hour = 3_600_000;
    for round in 0..10 {
        attempt(&mut selector, 0, "x", hour + round * 100, 100, Class::Ok);
    }
    let now = hour + 2000;
    let explores = |selector: &Selector, now| {
        (0..100).any(|seed| used(&selector.choose(&request(seed), at(now))).why == Why::Exploring)
    };
    // Each started pick that explores spends.
    let mut now = now;
    while let Some(pick) = (0..100)
        .map(|seed| used(&selector.choose(&request(seed), at(now))))
        .find(|pick| pick.why == Why::Exploring)
    {
        follow(&mut selector, &pick, "x", now, 250);
        // Later it is not known well again.
        now += hour;
        for round in 0..10 {
            attempt(&mut selector, 0, "x", now + round * 100, 100, Class::Ok);
        }
        now += 2000;
    }
    for seed in 0..50 {
        selector.choose(&request(seed), at(now));
    }
    assert!(!explores(&selector, now));
    // Started requests earn it.
    for round in 0..50 {
        let pick = used(&selector.choose(&request(round), at(now)));
        follow(&mut selector, &pick, "x", now, 100);
        if explores(&selector, now) {
            return;
        }
    }
    panic!("never again");
}

#[test]
fn a_waiting_job_counts_once() {
    let fast = mirror("fast").with_max_connections(1);
    let mut selector = known(vec![fast, mirror("slow")], &[200, 1000]);
    selector.started_unchosen(id(0), at(12_000));
    let request = |job| Request::content("x").with_bytes(2_000_000).with_seed(job);
    let until = |selector: &Selector, job| match selector.choose(&request(job), at(12_000)) {
        Choice::Wait { until, .. } => until,
        other => panic!("{other:?}"),
    };
    let (first, alone) = (until(&selector, 1), until(&selector, 2));
    assert_eq!(first, alone, "to ask is not to wait");
    for _ in 0..50 {
        assert_eq!(until(&selector, 1), first, "it waits for others only");
        selector.queued(&request(1));
    }
    let second = until(&selector, 2);
    assert!(second > alone, "the first one comes before it");
    // When a request has ended, all of them choose again.
    selector.cancelled(id(0), &nothing_yet(12_000));
    selector.started_unchosen(id(0), at(12_000));
    assert_eq!(until(&selector, 2), alone);
}
