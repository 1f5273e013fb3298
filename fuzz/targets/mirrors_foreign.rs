//! Mirrors in the files of other programs: a table of TOML, a section of YAML.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::checks::{channels, refused};
use taipan_mirrors::MirrorsFile;

fuzz_target!(|text: &str| {
    for parsed in [
        MirrorsFile::parse_table(text, "f"),
        MirrorsFile::parse_mirrored_channels(text, "f"),
    ] {
        match parsed {
            Ok(file) => channels(&file),
            Err(error) => refused(&error.to_string()),
        }
    }
});
