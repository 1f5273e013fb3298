//! What holds of anything that a parser of mirrors accepts or says.

use taipan_mirrors::{Location, Mirror, MirrorsFile};

/// A mirror is within its limits, and its printable form is the same place.
pub fn mirror(mirror: &Mirror) {
    assert!((0.001..=1000.0).contains(&mirror.weight), "{mirror:?}");
    assert!(
        mirror
            .max_connections
            .is_none_or(|n| (1..=1024).contains(&n)),
        "{mirror:?}"
    );
    assert!(
        mirror.country.as_ref().is_none_or(|c| c.len() == 2),
        "{mirror:?}"
    );
    let shown = mirror.location.to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    // What is masked is another text, and paths need not be text at all.
    if !shown.contains("***") && !matches!(mirror.location, Location::File(_)) {
        let again = Location::parse(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(again.to_string(), shown);
    }
}

/// No collection is without mirrors, and each is found by its own name.
pub fn collections(file: &MirrorsFile) {
    for entry in &file.collections {
        assert!(!entry.mirrors.is_empty() && entry.line >= 1);
        assert!(file.mirrors_for(&entry.url).is_some(), "{}", entry.url);
        entry.mirrors.iter().for_each(mirror);
        for below in file.mirrors_below(&entry.url).unwrap() {
            mirror(&below);
        }
    }
}

/// An error says where, in one line of bearable length.
pub fn refused(message: &str) {
    assert!(message.starts_with("f:"), "{message}");
    assert!(message.len() < 20_000, "{} bytes", message.len());
    assert!(!message.contains('\n'), "{message}");
}
