//! Extended headers of tars.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_package::fuzzing::{FuzzPax, parse_pax};

fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn render(pax: &FuzzPax) -> Vec<u8> {
    let mut out = Vec::new();
    let texts = [
        ("path", &pax.path),
        ("linkpath", &pax.linkpath),
        ("GNU.sparse.name", &pax.sparse_name),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            record(&mut out, key, value);
        }
    }
    let numbers = [
        ("size", pax.size),
        ("GNU.sparse.major", pax.sparse_major),
        ("GNU.sparse.realsize", pax.sparse_real_size),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            record(&mut out, key, value.to_string().as_bytes());
        }
    }
    if let Some((seconds, nanoseconds)) = pax.mtime {
        record(
            &mut out,
            "mtime",
            format!("{seconds}.{nanoseconds:09}").as_bytes(),
        );
    }
    for number in &pax.sparse_map {
        record(&mut out, "GNU.sparse.offset", number.to_string().as_bytes());
    }
    out
}

/// The last value of a key, as another reader finds it.
fn last<'a>(data: &'a [u8], key: &str) -> Option<&'a [u8]> {
    tar::PaxExtensions::new(data)
        .filter_map(Result::ok)
        .filter(|extension| extension.key_bytes() == key.as_bytes())
        .map(|extension| extension.value_bytes())
        .last()
}

fuzz_target!(|data: &[u8]| {
    let Some(pax) = parse_pax(data) else { return };
    assert!(
        pax.mtime
            .is_none_or(|(_, nanoseconds)| nanoseconds < 1_000_000_000)
    );
    assert!(pax.sparse_map.len() <= data.len());
    assert_eq!(parse_pax(&render(&pax)), Some(pax.clone()));
    // The other reader cuts at line ends and not by length.
    let lines = data.split(|byte| *byte == b'\n').count() - 1;
    let records = tar::PaxExtensions::new(data).filter(Result::is_ok).count();
    if lines == records && !data.contains(&0) {
        assert_eq!(pax.path.as_deref(), last(data, "path"));
        assert_eq!(pax.linkpath.as_deref(), last(data, "linkpath"));
    }
});
