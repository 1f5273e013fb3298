//! Mirrors in the configuration files of other programs: a TOML table, a YAML section.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::checks::{collections, refused};
use taipan_mirrors::MirrorsFile;

fuzz_target!(|text: &str| {
    for parsed in [
        MirrorsFile::parse_prefixes(text, "f"),
        MirrorsFile::parse_yaml(text, "f"),
    ] {
        match parsed {
            Ok(file) => collections(&file),
            Err(error) => refused(&error.to_string()),
        }
    }
});
