//! The saved state: whatever stands in it, choices are made with numbers in their range.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_mirrors::{
    Choice, Location, Mirror, Provenance, Request, SavedState, Selector, SelectorConfig, Time,
};

fuzz_target!(|text: &str| {
    let (state, warning) = SavedState::parse(text);
    assert!(warning.is_none() || state == SavedState::new());
    let now = Time::from_unix(std::time::Duration::from_secs(1_800_000_000));
    let mirrors = ["https://a.example/", "https://b.example/x"]
        .map(|url| Mirror::new(Location::parse(url).unwrap(), Provenance::CommandLine));
    let mut selector = Selector::new(mirrors.to_vec(), SelectorConfig::default());
    selector.load(&state, now);
    let request = Request::content("p")
        .with_bytes(1 << 20)
        .with_seed(text.len() as u64);
    for in_flight in 0..3 {
        match selector.choose(&request, now) {
            Choice::Use(pick) => {
                assert!(!pick.first_byte_timeout.is_zero() && !pick.stall_timeout.is_zero());
                selector.started(&pick, now);
            }
            // One that serves is waited for rather than one that is not believed.
            Choice::Wait { until, .. } => assert!(in_flight > 0 && until > now),
            Choice::Exhausted(_) => panic!("none was tried"),
        }
    }
    for id in selector.ids() {
        let report = selector.report(id, now).unwrap();
        assert!((0.0..=1.0).contains(&report.failure_share));
        assert!(
            report
                .rate
                .is_none_or(|rate| rate.is_finite() && rate > 0.0)
        );
    }
    // What is written can be read.
    let mut again = state.clone();
    selector.save(&mut again, now);
    let (read, warning) = SavedState::parse(&again.to_json());
    assert!(warning.is_none() && read == again, "{}", again.to_json());
});
