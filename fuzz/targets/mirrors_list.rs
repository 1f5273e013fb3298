//! Plain lists.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::checks::{mirror, refused};
use taipan_mirrors::{Location, MirrorList, Provenance};

fuzz_target!(|text: &str| {
    let origin = |line| Provenance::Discovered {
        from: format!("l:{line}").into(),
    };
    match MirrorList::parse(text, "f", &[("arch", "x/../$arch")], origin) {
        Ok(list) => {
            assert!(!list.mirrors.is_empty() && list.mirrors.len() <= 4096);
            list.mirrors.iter().for_each(mirror);
            assert!(
                list.mirrors
                    .iter()
                    .all(|mirror| !matches!(mirror.location, Location::File(_)))
            );
        }
        Err(error) => refused(&error.to_string()),
    }
});
