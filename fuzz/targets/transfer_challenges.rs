//! `WWW-Authenticate` headers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_transfer::fuzzing::{FuzzChallenge, challenges};

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn canonical(challenge: &FuzzChallenge) -> String {
    let FuzzChallenge::Bearer { realm, service } = challenge else {
        return "Basic".to_owned();
    };
    let service = service.as_ref().map_or(String::new(), |service| {
        format!(", service={}", quoted(service))
    });
    format!("Bearer realm={}{service}", quoted(realm))
}

fuzz_target!(|header: &str| {
    let found = challenges(header);
    let lower = header.to_ascii_lowercase();
    let most = lower.matches("basic").count() + lower.matches("bearer").count();
    assert!(found.len() <= most);
    for challenge in &found {
        if let FuzzChallenge::Bearer { realm, .. } = challenge {
            assert!(realm.starts_with("http://") || realm.starts_with("https://"));
        }
    }
    let text: Vec<String> = found.iter().map(canonical).collect();
    assert_eq!(challenges(&text.join(", ")), found);
    // What precedes a challenge does not change it.
    assert_eq!(
        challenges(&format!("Negotiate, {}", text.join(" ,"))),
        found
    );
});
