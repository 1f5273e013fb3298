//! Lists of any kind, from the user and from a server.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::checks::{collections, mirror, refused};
use taipan_mirrors::{Location, MirrorSource, Provenance};

fuzz_target!(|text: &str| {
    for is_local in [true, false] {
        let origin = |line: u32| {
            let from = format!("l:{line}").into();
            if is_local {
                Provenance::CommandLine
            } else {
                Provenance::Discovered { from }
            }
        };
        let found = match MirrorSource::parse(text, "f", &[("channel", "c")], origin) {
            Ok(MirrorSource::Collections(file) | MirrorSource::Table(file)) => {
                collections(&file);
                file.collections
                    .into_iter()
                    .flat_map(|entry| entry.mirrors)
                    .collect()
            }
            Ok(MirrorSource::List(list)) => list.mirrors,
            Ok(MirrorSource::Metalink(metalink)) => metalink
                .files
                .into_iter()
                .flat_map(|file| file.mirrors)
                .collect(),
            Err(error) => {
                refused(&error.to_string());
                Vec::new()
            }
        };
        found.iter().for_each(mirror);
        let local = |mirror: &taipan_mirrors::Mirror| matches!(mirror.location, Location::File(_));
        assert!(is_local || !found.iter().any(local));
    }
});
