//! Metalinks of both versions.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::checks::{mirror, refused};
use taipan_mirrors::{Metalink, Provenance, decode_text};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = decode_text(bytes) else {
        return;
    };
    match Metalink::parse(&text, "f", |_| Provenance::CommandLine) {
        Ok(metalink) => {
            for file in &metalink.files {
                let parts = || file.name.split('/');
                assert!(
                    parts().all(|part| !matches!(part, "" | "." | "..")),
                    "{}",
                    file.name
                );
                file.mirrors.iter().for_each(mirror);
                for base in file.base_mirrors(&file.name) {
                    mirror(&base);
                    // What was taken off can be put back.
                    let Some(again) = base.location.below(&file.name) else {
                        continue;
                    };
                    assert!(
                        file.mirrors
                            .iter()
                            .any(|whole| whole.location.same_place(&again))
                    );
                }
            }
        }
        Err(error) => refused(&error.to_string()),
    }
});
