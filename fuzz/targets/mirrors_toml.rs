//! Mirrors files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::checks::{collections, refused};
use taipan_mirrors::MirrorsFile;

fuzz_target!(|text: &str| {
    match MirrorsFile::parse(text, "f") {
        Ok(file) => collections(&file),
        Err(error) => refused(&error.to_string()),
    }
});
