use std::fs;

use super::support::{Diary, PLACEHOLDER, Place, quick};
use crate::error::PrefixError;
use crate::link::LinkWarning;

const ASIDE: &str = "conda-meta/.taipan-clobbered";

#[test]
fn the_later_package_wins_whatever_the_order_of_installation() {
    let place = Place::new();
    let a = place.package("a", "1").file("f", "of a").build();
    let b = place.package("b", "1").file("f", "of b").build();
    let c = place.package("c", "1").file("f", "of c").build();
    // `a` depends on both, so it comes last in spite of its name.
    let last = place
        .package("a", "2")
        .file("f", "of a2")
        .depends(&["b", "c"])
        .build();
    let orders: [&[&[&crate::link::LinkPackage]]; 4] = [
        &[&[&a, &b, &c]],
        &[&[&c], &[&c, &b], &[&c, &b, &a]],
        &[&[&a], &[&a, &b, &c]],
        &[&[&last, &b, &c], &[&a, &b, &c]],
    ];
    let mut states = Vec::new();
    for order in orders {
        for packages in order {
            place.install(packages).unwrap();
        }
        assert_eq!(place.read("f"), "of c");
        assert_eq!(place.read(&format!("{ASIDE}/a-1-0/f")), "of a");
        assert_eq!(place.read(&format!("{ASIDE}/b-1-0/f")), "of b");
        let mut state = place.snapshot();
        state.remove("conda-meta/history");
        states.push(state);
        place.install(&[]).unwrap();
        assert!(!place.path(ASIDE).exists() && !place.path("f").exists());
    }
    // Records written at once and records edited later differ in layout only.
    for state in &states[1..] {
        assert_eq!(
            state.keys().collect::<Vec<_>>(),
            states[0].keys().collect::<Vec<_>>()
        );
    }
    place.install(&[&last, &b, &c]).unwrap();
    assert_eq!(place.read("f"), "of a2");
}

#[test]
fn the_files_of_losers_come_back_without_their_packages() {
    let place = Place::new();
    let prefix = place.prefix.path().to_str().unwrap().to_owned();
    let a = place
        .package("a", "1")
        .with_placeholder("etc/f", "text", format!("a in {PLACEHOLDER}"))
        .link("l", "a-target")
        .build();
    let b = place
        .package("b", "1")
        .file("etc/f", "of b")
        .file("l", "of b")
        .build();
    let diary = Diary::default();
    place.install_with(&[&a, &b], &quick(), &diary).unwrap();
    let expected = |path: &str| LinkWarning::Clobber {
        path: path.into(),
        winner: "b-1-0".to_owned(),
        losers: vec!["a-1-0".to_owned()],
    };
    assert_eq!(diary.warnings(), [expected("etc/f"), expected("l")]);
    let record = place.record("a");
    let entry = &record.paths_data.paths[0];
    assert_eq!(
        entry.relative_path.to_str().unwrap(),
        format!("{ASIDE}/a-1-0/etc/f")
    );
    assert_eq!(
        entry.original_path.as_deref().unwrap().to_str(),
        Some("etc/f")
    );

    fs::remove_dir_all(&a.source_dir).unwrap();
    let diary = Diary::default();
    place.install_with(&[&a], &quick(), &diary).unwrap();
    assert_eq!(diary.warnings(), []);
    assert_eq!(place.read("etc/f"), format!("a in {prefix}"));
    assert_eq!(
        fs::read_link(place.path("l")).unwrap().to_str(),
        Some("a-target")
    );
    let record = place.record("a");
    let paths: Vec<_> = record
        .paths_data
        .paths
        .iter()
        .map(|p| p.relative_path.to_str())
        .collect();
    assert_eq!(paths, [Some("etc/f"), Some("l")]);
    assert!(
        record
            .paths_data
            .paths
            .iter()
            .all(|path| path.original_path.is_none())
    );
    assert!(record.files.iter().all(|path| !path.starts_with(ASIDE)));
    assert!(!place.path(ASIDE).exists());
}

#[test]
fn removing_a_loser_leaves_the_winner() {
    let place = Place::new();
    let a = place.package("a", "1").file("f", "of a").build();
    let b = place.package("b", "1").file("f", "of b").build();
    place.install(&[&a, &b]).unwrap();
    place.install(&[&b]).unwrap();
    assert_eq!(place.read("f"), "of b");
    assert!(!place.path(ASIDE).exists());
}

#[test]
fn a_path_that_two_records_share_stays_until_the_last_is_gone() {
    // This is what conda leaves behind when packages clobber each other.
    let place = Place::new();
    let a = place.package("a", "1").file("f", "x").build();
    let b = place.package("b", "1").file("g", "x").build();
    place.install(&[&a, &b]).unwrap();
    let path = place.path("conda-meta/b-1-0.json");
    fs::write(
        &path,
        place
            .read("conda-meta/b-1-0.json")
            .replace("\"g\"", "\"f\""),
    )
    .unwrap();
    place.install(&[&a]).unwrap();
    assert_eq!(place.read("f"), "x");
    place.install(&[]).unwrap();
    assert!(!place.path("f").exists());
}

#[test]
fn a_file_of_nobody_is_replaced_with_a_warning_and_restored_on_failure() {
    let place = Place::new();
    fs::create_dir_all(place.path("etc")).unwrap();
    fs::write(place.path("etc/f"), "mine").unwrap();
    fs::write(place.path("lib"), "mine").unwrap();
    let before = place.snapshot();
    let broken = place
        .package("a", "1")
        .file("etc/f", "of a")
        .file("lib/x", "x")
        .listed(serde_json::json!({"_path": "missing"}))
        .build();
    let error = place.install(&[&broken]).unwrap_err();
    assert!(matches!(error, PrefixError::MissingFile { .. }), "{error}");
    assert_eq!(place.snapshot(), before);

    let a = place
        .package("a", "2")
        .file("etc/f", "of a")
        .file("lib/x", "x")
        .build();
    let diary = Diary::default();
    place.install_with(&[&a], &quick(), &diary).unwrap();
    assert_eq!(
        (place.read("etc/f"), place.read("lib/x")),
        ("of a".to_owned(), "x".to_owned())
    );
    let replaced: Vec<_> = diary
        .warnings()
        .iter()
        .map(|warning| match warning {
            LinkWarning::UnownedReplaced { path, .. } => path.to_str().unwrap().to_owned(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(replaced, ["etc/f", "lib"]);
}

#[test]
fn a_file_and_a_directory_of_one_name_do_not_go_together() {
    let place = Place::new();
    let a = place.package("a", "1").file("x", "file").build();
    let b = place.package("b", "1").file("x/y", "below").build();
    let error = place.install(&[&a, &b]).unwrap_err();
    assert!(
        matches!(error, PrefixError::FileDirectoryConflict { .. }),
        "{error}"
    );
    assert!(!place.prefix.path().exists());
    place.install(&[&a]).unwrap();
    let error = place.install(&[&a, &b]).unwrap_err();
    assert!(
        matches!(error, PrefixError::FileDirectoryConflict { .. }),
        "{error}"
    );
    assert_eq!(place.read("x"), "file");
    place.install(&[&b]).unwrap();
    assert_eq!(place.read("x/y"), "below");
}
