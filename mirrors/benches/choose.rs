//! The time of a choice among many mirrors with a history.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use taipan_mirrors::{
    Choice, Class, Location, Mirror, MirrorId, Observation, Provenance, Request, Selector,
    SelectorConfig, Time,
};

/// Mirrors with a few requests each, some of which failed.
fn experienced(count: u32, start: Time) -> Selector {
    let mirrors = (0..count)
        .map(|i| {
            let url = format!("https://m{i}.example/pub");
            let location = Location::parse(&url).expect("an address");
            Mirror::new(location, Provenance::CommandLine)
        })
        .collect();
    let mut selector = Selector::new(mirrors, SelectorConfig::default());
    for round in 0..4 {
        for i in 0..count {
            let id = MirrorId::new(i);
            let (path, outcome) = match (i + round) % 17 {
                0 => ("missing", Class::NotHere),
                1 => ("broken", Class::Unwell),
                _ => ("present", Class::Ok),
            };
            let took = Duration::from_millis(u64::from(50 + i * 7 % 900));
            selector.started_unchosen(id, start);
            selector.finished(
                id,
                &Observation::new(start + took, path, outcome)
                    .with_bytes(200_000)
                    .with_first_byte(took / 3)
                    .with_duration(took),
            );
        }
    }
    selector
}

fn choices(c: &mut Criterion) {
    let start = Time::from_unix(Duration::from_hours(500_000));
    let mut group = c.benchmark_group("choose");
    for count in [5, 50, 500] {
        let mut selector = experienced(count, start);
        let mut step = 0_u64;
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                step += 1;
                // A client that asks every 5 ms, so that what is expected of the mirrors is
                // renewed as often as it would be in earnest.
                let now = start + Duration::from_secs(2) + Duration::from_millis(5 * step);
                let request = Request::content("a/path/of/usual-length-1.0-0.conda")
                    .with_bytes(300_000)
                    .with_seed(step);
                let choice = selector.choose(black_box(&request), now);
                if let Choice::Use(pick) = choice {
                    let took = Duration::from_millis(100);
                    selector.started(&pick, now);
                    selector.finished(
                        pick.mirror,
                        &Observation::new(now + took, request.path, Class::Ok)
                            .with_bytes(300_000)
                            .with_first_byte(took / 2)
                            .with_duration(took),
                    );
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, choices);
criterion_main!(benches);
