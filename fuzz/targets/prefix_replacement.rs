//! Prefix replacement in texts, scripts and binaries, against conda's rule word for word.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::Input;
use taipan_installer::fuzzing::{replace_in_binary, replace_in_script, replace_in_text};

const PLACEHOLDER: &str = "/ph/ph";
const PREFIXES: [&str; 6] = ["/", "/n", "/ph", "/é", "/ph/ph", "/my env/ph"];

type Encode = fn(&str) -> Vec<u8>;

/// The encodings, and the bytes of a code unit.
const ENCODINGS: [(Encode, usize); 5] = [
    (|text| text.as_bytes().to_vec(), 1),
    (
        |text| text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        2,
    ),
    (
        |text| text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        2,
    ),
    (
        |text| {
            text.chars()
                .flat_map(|c| u32::from(c).to_le_bytes())
                .collect()
        },
        4,
    ),
    (
        |text| {
            text.chars()
                .flat_map(|c| u32::from(c).to_be_bytes())
                .collect()
        },
        4,
    ),
];

fn count(data: &[u8], needle: &[u8]) -> usize {
    data.windows(needle.len())
        .filter(|window| *window == needle)
        .count()
}

/// Replaces in bytes, from left to right.
fn replaced(data: &[u8], old: &[u8], new: &[u8], unit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        if rest.starts_with(old) {
            out.extend_from_slice(new);
            rest = &rest[old.len()..];
        } else {
            let step = unit.min(rest.len());
            out.extend_from_slice(&rest[..step]);
            rest = &rest[step..];
        }
    }
    out
}

/// Cuts at NULs, replaces in each piece, and pads.
fn padded(data: &[u8], old: &[u8], new: &[u8], unit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let units: Vec<&[u8]> = data.chunks(unit).collect();
    for piece in units.split_inclusive(|one| one.iter().all(|byte| *byte == 0)) {
        let ends = piece
            .last()
            .is_some_and(|one| one.iter().all(|byte| *byte == 0));
        let string = piece[..piece.len() - usize::from(ends)].concat();
        let mut string_out = replaced(&string, old, new, unit);
        string_out.resize(string.len(), 0);
        out.extend_from_slice(&string_out);
        out.resize(out.len() + usize::from(ends) * unit, 0);
    }
    out
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let (which, encoding) = (usize::from(input.byte()), usize::from(input.byte()));
    let prefix = PREFIXES[which % PREFIXES.len()];
    let data = input.0;

    let script = replace_in_script(PLACEHOLDER, prefix, data);
    if data.starts_with(b"#!") {
        let end = data
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(data.len());
        let rest = replace_in_text(PLACEHOLDER, prefix, &data[end..]);
        let whole = replace_in_text(PLACEHOLDER, prefix, data);
        // A match in a wide encoding may go on in the second line, or begin elsewhere without the first.
        let is_wide = ENCODINGS[1..]
            .iter()
            .any(|(encode, _)| count(data, &encode(PLACEHOLDER)) > 0);
        assert!(is_wide || script.ends_with(&rest) || script == whole);
    } else {
        assert_eq!(script, replace_in_text(PLACEHOLDER, prefix, data));
    }

    let fits = prefix.chars().count() <= PLACEHOLDER.len() && prefix.len() <= PLACEHOLDER.len();
    let found = ENCODINGS.map(|(encode, _)| count(data, &encode(PLACEHOLDER)));
    let text = replace_in_text(PLACEHOLDER, prefix, data);
    match replace_in_binary(PLACEHOLDER, prefix, data) {
        Some(binary) => {
            assert_eq!(binary.len(), data.len());
            if found == [0; 5] {
                assert!(binary == data && text == data);
            } else if found[1..] == [0; 4] {
                let (old, new) = (PLACEHOLDER.as_bytes(), prefix.as_bytes());
                assert_eq!(text, replaced(data, old, new, 1));
                assert_eq!(binary, padded(data, old, new, 1));
            }
        }
        None => assert!(!fits && found != [0; 5]),
    }

    // Text in one of the encodings, from its first byte on.
    let (encode, unit) = ENCODINGS[encoding % ENCODINGS.len()];
    let wide = encode(&String::from_utf8_lossy(data));
    let (old, new) = (encode(PLACEHOLDER), encode(prefix));
    let only = ENCODINGS.iter().enumerate().all(|(at, (other, _))| {
        at == encoding % ENCODINGS.len() || count(&wide, &other(PLACEHOLDER)) == 0
    });
    if only && fits {
        assert_eq!(
            replace_in_text(PLACEHOLDER, prefix, &wide),
            replaced(&wide, &old, &new, unit)
        );
        let binary = replace_in_binary(PLACEHOLDER, prefix, &wide).unwrap();
        assert_eq!(binary, padded(&wide, &old, &new, unit));
    }
});
