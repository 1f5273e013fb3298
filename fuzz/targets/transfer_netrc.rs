//! `.netrc` files.

#![no_main]

use std::fmt::Write as _;

use libfuzzer_sys::fuzz_target;
use taipan_transfer::{Netrc, fuzzing::netrc_machines};

fn quoted(value: &str) -> String {
    let mut text = "\"".to_owned();
    for character in value.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '"' | '\\' => text.extend(['\\', character]),
            other => text.push(other),
        }
    }
    text + "\""
}

fuzz_target!(|text: &str| {
    let netrc = match Netrc::parse(text) {
        Ok(netrc) => netrc,
        Err(error) => {
            // A message of fixed length has no password in it.
            assert!(error.to_string().len() < 200);
            return;
        }
    };
    let machines = netrc_machines(&netrc);
    assert!(machines.len() <= text.len());
    let mut canonical = String::new();
    for (host, login, password) in &machines {
        match host {
            Some(host) => write!(canonical, "machine {}", quoted(host)).unwrap(),
            None => canonical.push_str("default"),
        }
        writeln!(
            canonical,
            " login {} password {}",
            quoted(login),
            quoted(password)
        )
        .unwrap();
    }
    let again = Netrc::parse(&canonical).unwrap_or_else(|error| panic!("{error}: {canonical:?}"));
    assert_eq!(netrc_machines(&again), machines);
});
