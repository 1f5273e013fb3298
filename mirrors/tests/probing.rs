//! A round of probes, against mirrors of known character.

use std::time::Duration;

use taipan_mirrors::{
    Class, Location, Mirror, MirrorId, Observation, ProbeConfig, ProbeKind, ProbePlan, ProbeResult,
    ProbeSample, ProbeStep, Provenance, Selector, SelectorConfig, Time, Verdict,
};

#[derive(Clone, Copy)]
enum Character {
    /// Milliseconds to the first byte, bytes per millisecond.
    Serves(u64, u64),
    Behind(u64, u64),
    Dead,
    Stalls(u64),
    Lacks,
}

fn start() -> Time {
    Time::from_unix(Duration::from_hours(500_000))
}

fn selector(n: usize) -> Selector {
    let mirrors = (0..n)
        .map(|i| {
            let location = Location::parse(&format!("https://m{i}.example/x")).unwrap();
            Mirror::new(location, Provenance::CommandLine)
        })
        .collect();
    Selector::new(mirrors, SelectorConfig::default())
}

fn sample() -> ProbeSample {
    ProbeSample {
        path: "big".to_owned(),
        size: 10_000_000,
        compares_versions: true,
    }
}

struct Probe {
    mirror: MirrorId,
    ends: Time,
    class: Class,
    first_byte: Option<Duration>,
    bytes: u64,
    kind: ProbeKind,
    began: Time,
}

/// Drives a round; returns its duration, the requested bytes and the ranking.
fn round(
    selector: &mut Selector,
    characters: &[Character],
    config: ProbeConfig,
) -> (Duration, u64, Vec<(usize, Verdict)>) {
    let mut now = start();
    let mut plan = ProbePlan::new(selector, sample(), config, now);
    let mut running: Vec<Probe> = Vec::new();
    let mut asked = 0;
    loop {
        let (mirror, bytes, timeout) = match plan.next(selector, now) {
            ProbeStep::Speed {
                mirror,
                range,
                timeout,
            } => (mirror, range.end - range.start, timeout),
            ProbeStep::Freshness { mirror, timeout } => (mirror, 0, timeout),
            ProbeStep::Wait { until } => {
                running.sort_by_key(|probe| std::cmp::Reverse(probe.ends));
                let Some(probe) = running.pop_if(|probe| probe.ends <= until) else {
                    now = until;
                    continue;
                };
                now = probe.ends;
                let mut seen = Observation::new(now, "big", probe.class)
                    .with_bytes(probe.bytes)
                    .with_duration(now.since(probe.began));
                seen.first_byte = probe.first_byte;
                selector.finished(probe.mirror, &seen);
                plan.finished(probe.mirror, probe.kind, &seen);
                continue;
            }
            ProbeStep::Done => break,
        };
        let kind = if bytes == 0 {
            ProbeKind::Freshness
        } else {
            ProbeKind::Speed
        };
        asked += bytes;
        selector.started_unchosen(mirror, now);
        let ms = Duration::from_millis;
        let served = |first: u64, rate: u64| (ms(first + bytes / rate), Some(ms(first)), bytes);
        let character = characters[mirror.index()];
        let ((length, first_byte, bytes), class) = match character {
            Character::Behind(first, rate) if bytes == 0 => (served(first, rate), Class::Behind),
            Character::Behind(first, rate) | Character::Serves(first, rate) => {
                (served(first, rate), Class::Ok)
            }
            Character::Dead => ((timeout, None, 0), Class::Unwell),
            Character::Stalls(first) => ((timeout, Some(ms(first)), bytes / 2), Class::Unwell),
            Character::Lacks => ((ms(40), None, 0), Class::NotHere),
        };
        assert!(length <= timeout || class == Class::Ok);
        running.push(Probe {
            mirror,
            ends: now + length,
            class,
            first_byte,
            bytes,
            kind,
            began: now,
        });
    }
    let ranking = plan.ranking(selector, now);
    let verdicts = ranking
        .iter()
        .map(|row| (row.mirror.index(), row.verdict))
        .collect();
    (now.since(start()), asked, verdicts)
}

#[test]
fn five_mirrors_of_known_character_are_ranked_within_three_seconds() {
    let characters = [
        Character::Dead,
        Character::Serves(150, 1000),
        Character::Stalls(30),
        Character::Serves(20, 20_000),
        Character::Serves(60, 5000),
    ];
    let (time, bytes, ranking) = round(&mut selector(5), &characters, ProbeConfig::default());
    assert_eq!(
        ranking,
        [
            (3, Verdict::Good),
            (4, Verdict::Good),
            (1, Verdict::Good),
            (2, Verdict::Stalled),
            (0, Verdict::Dead)
        ]
    );
    assert!(time < Duration::from_secs(3), "{time:?}");
    assert!(bytes <= 8 * (128 << 10), "{bytes}");
}

#[test]
fn behind_and_missing_samples_have_their_own_verdicts() {
    let characters = [
        Character::Lacks,
        Character::Behind(20, 20_000),
        Character::Serves(50, 5000),
    ];
    let (_, _, ranking) = round(&mut selector(3), &characters, ProbeConfig::default());
    let expected = [
        (2, Verdict::Good),
        (1, Verdict::Behind),
        (0, Verdict::NotHere),
    ];
    assert_eq!(ranking, expected);
}

#[test]
fn a_mirror_with_a_recent_success_is_not_probed() {
    let mut selector = selector(2);
    let characters = [Character::Serves(20, 20_000), Character::Serves(80, 2000)];
    round(&mut selector, &characters, ProbeConfig::default());
    let (time, bytes, ranking) = round(&mut selector, &characters, ProbeConfig::default());
    assert_eq!((time, bytes), (Duration::ZERO, 0));
    assert_eq!(ranking, [(0, Verdict::Known), (1, Verdict::Known)]);
}

#[test]
fn a_mirror_with_a_recent_success_can_be_found_to_be_behind() {
    let mut selector = selector(2);
    let characters = [Character::Serves(20, 20_000), Character::Serves(80, 2000)];
    round(&mut selector, &characters, ProbeConfig::default());
    let mut plan = ProbePlan::new(&selector, sample(), ProbeConfig::default(), start());
    let seen = |path, class| Observation::new(start(), path, class);
    plan.finished(
        MirrorId::new(0),
        ProbeKind::Freshness,
        &seen("big", Class::Behind),
    );
    plan.finished(
        MirrorId::new(1),
        ProbeKind::Freshness,
        &seen("big", Class::Ok),
    );
    let verdicts = |plan: &ProbePlan, selector: &mut Selector| {
        let ranking = plan.ranking(selector, start());
        let row = |row: &ProbeResult| (row.mirror.index(), row.verdict);
        ranking.iter().map(row).collect::<Vec<_>>()
    };
    let expected = [(1, Verdict::Known), (0, Verdict::Behind)];
    assert_eq!(verdicts(&plan, &mut selector), expected);
    // And to serve no longer.
    plan.finished(
        MirrorId::new(1),
        ProbeKind::Speed,
        &seen("big", Class::Unwell),
    );
    let expected = [(0, Verdict::Behind), (1, Verdict::Dead)];
    assert_eq!(verdicts(&plan, &mut selector), expected);
}

#[test]
fn two_hundred_mirrors_stay_within_time_and_bytes() {
    let characters: Vec<Character> = (0..200)
        .map(|i| match i % 5 {
            0 => Character::Dead,
            1 => Character::Stalls(50),
            _ => Character::Serves(50 + i, 1000),
        })
        .collect();
    let config = ProbeConfig {
        bytes: 2 << 20,
        ..ProbeConfig::default()
    };
    let (time, bytes, ranking) = round(&mut selector(200), &characters, config.clone());
    assert!(time <= config.time, "{time:?}");
    assert!(bytes <= config.bytes, "{bytes}");
    assert_eq!(ranking.len(), 200);
    assert_eq!(ranking[0].1, Verdict::Good);
}
