//! Mirrors files of our own.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::checks::{channels, refused};
use taipan_mirrors::MirrorsFile;

fuzz_target!(|text: &str| {
    match MirrorsFile::parse(text, "f") {
        Ok(file) => channels(&file),
        Err(error) => refused(&error.to_string()),
    }
});
