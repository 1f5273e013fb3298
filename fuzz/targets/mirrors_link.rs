//! `Link` and `Digest` headers, as many as there are lines.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::checks::mirror;
use taipan_mirrors::{Duplicates, Location, digests_of_header};
use url::Url;

fuzz_target!(|text: &str| {
    let base = Url::parse("https://origin.example/a/b").unwrap();
    let found = Duplicates::parse(text.lines(), &base);
    found.mirrors.iter().for_each(mirror);
    assert!(
        found
            .mirrors
            .iter()
            .all(|mirror| !matches!(mirror.location, Location::File(_)))
    );
    for digest in digests_of_header(text) {
        assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
    }
});
