//! Mirrors in the files of other programs: a table of TOML, a section of YAML.

#![no_main]

mod checks;

use checks::{channels, refused};
use libfuzzer_sys::fuzz_target;
use taipan_mirrors::MirrorsFile;

fuzz_target!(|text: &str| {
    for parsed in [
        MirrorsFile::parse_prefixes(text, "f"),
        MirrorsFile::parse_yaml(text, "f"),
    ] {
        match parsed {
            Ok(file) => channels(&file),
            Err(error) => refused(&error.to_string()),
        }
    }
});
