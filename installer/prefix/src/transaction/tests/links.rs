//! Packages that link directories, and others that have files below the links.

use std::collections::BTreeMap;
use std::fs;

use super::support::{Diary, Place, quick};
use crate::link::{LinkPackage, LinkWarning};

/// A directory in version 1, a link to one in version 2.
fn xkb(place: &Place, version: &str) -> LinkPackage {
    let package = place.package("xkb", version);
    if version == "1" {
        return package.file("share/X11/xkb/rules/base", "old").build();
    }
    let package = package.link("share/X11/xkb", "../xkb-2/data");
    package.file("share/xkb-2/data/rules/base", "new").build()
}

fn user(place: &Place) -> LinkPackage {
    let package = place.package("user", "1");
    package.file("share/X11/xkb/rules/mine", "mine").build()
}

/// The recorded and the declared path of each file of a package.
fn paths(place: &Place, name: &str) -> Vec<(String, Option<String>)> {
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let paths = place.record(name).paths_data.paths;
    let paths = paths.iter();
    paths
        .map(|entry| {
            (
                text(&entry.relative_path),
                entry.original_path.as_deref().map(text),
            )
        })
        .collect()
}

/// The environment without what depends on the way to it.
fn state(place: &Place) -> BTreeMap<String, String> {
    let mut state = place.snapshot();
    state.retain(|path, _| !path.starts_with("conda-meta"));
    state
}

#[test]
fn the_order_of_link_and_files_does_not_matter() {
    let place = Place::new();
    let (old, new, user) = (xkb(&place, "1"), xkb(&place, "2"), user(&place));
    let ways: [&[&[&LinkPackage]]; 6] = [
        &[&[&new, &user]],
        &[&[&new], &[&new, &user]],
        &[&[&user], &[&new, &user]],
        &[&[&old, &user], &[&new, &user]],
        &[&[&new, &user], &[&old, &user], &[&new, &user]],
        &[&[&old], &[&old, &user], &[&user], &[&user, &new]],
    ];
    let mut states = Vec::new();
    for way in ways {
        for packages in way {
            place.install(packages).unwrap();
        }
        assert_eq!(place.read("share/X11/xkb/rules/mine"), "mine");
        assert_eq!(place.read("share/xkb-2/data/rules/mine"), "mine");
        assert_eq!(place.read("share/X11/xkb/rules/base"), "new");
        let expected = (
            "share/xkb-2/data/rules/mine".to_owned(),
            Some("share/X11/xkb/rules/mine".to_owned()),
        );
        assert_eq!(paths(&place, "user"), [expected]);
        states.push(state(&place));
        // An unchanged environment is not touched.
        let before = place.snapshot();
        place.install(&[&new, &user]).unwrap();
        assert_eq!(place.snapshot(), before);
        place.install(&[]).unwrap();
        assert!(!place.path("share").exists());
    }
    assert!(states.iter().all(|state| *state == states[0]));
}

#[test]
fn files_go_back_to_their_declared_paths_when_the_link_goes() {
    let place = Place::new();
    let (old, new, user) = (xkb(&place, "1"), xkb(&place, "2"), user(&place));
    for without in [&[&old, &user][..], &[&user]] {
        place.install(&[&new, &user]).unwrap();
        place.install(without).unwrap();
        assert!(!place.path("share/X11/xkb").is_symlink());
        assert_eq!(place.read("share/X11/xkb/rules/mine"), "mine");
        let expected = ("share/X11/xkb/rules/mine".to_owned(), None);
        assert_eq!(paths(&place, "user"), [expected]);
        assert!(!place.path("share/xkb-2").exists());
        place.install(&[]).unwrap();
    }
}

#[test]
fn links_may_lie_below_links() {
    let place = Place::new();
    let sysroot = place
        .package("sysroot", "1")
        .file("sr/usr/lib/libc.so", "c")
        .link("sr/usr/lib64", "lib")
        .link("sr/lib64", "usr/lib64")
        .build();
    let cdt = place
        .package("cdt", "1")
        .file("sr/usr/lib64/pkgconfig/x11.pc", "x")
        .file("sr/lib64/security/pam.so", "p")
        .build();
    for way in [
        &[&[&sysroot, &cdt][..]][..],
        &[&[&sysroot], &[&sysroot, &cdt]],
        &[&[&cdt], &[&sysroot, &cdt]],
    ] {
        for packages in way {
            place.install(packages).unwrap();
        }
        assert_eq!(place.read("sr/usr/lib/pkgconfig/x11.pc"), "x");
        assert_eq!(place.read("sr/lib64/security/pam.so"), "p");
        assert_eq!(place.read("sr/lib64/libc.so"), "c");
        place.install(&[]).unwrap();
        assert!(!place.path("sr").exists());
    }
}

#[test]
fn one_file_by_two_names_is_a_path_that_two_packages_claim() {
    let place = Place::new();
    let door = place
        .package("door", "1")
        .file("real/sub/x", "door")
        .link("lnk", "real")
        .build();
    let clash = place
        .package("clash", "1")
        .file("lnk/sub/x", "clash")
        .build();
    let warning = LinkWarning::Clobber {
        path: "real/sub/x".into(),
        winner: "door-1-0".to_owned(),
        losers: vec!["clash-1-0".to_owned()],
    };
    for first in [None, Some(&door), Some(&clash)] {
        if let Some(first) = first {
            place.install(&[first]).unwrap();
        }
        let diary = Diary::default();
        place
            .install_with(&[&door, &clash], &quick(), &diary)
            .unwrap();
        assert_eq!(diary.warnings(), std::slice::from_ref(&warning));
        assert_eq!(place.read("lnk/sub/x"), "door");
        // The bytes of the loser come back.
        place.install(&[&clash]).unwrap();
        assert!(!place.path("lnk").is_symlink() && !place.path("real").exists());
        assert_eq!(place.read("lnk/sub/x"), "clash");
        assert_eq!(paths(&place, "clash"), [("lnk/sub/x".to_owned(), None)]);
        place.install(&[]).unwrap();
    }
}

#[test]
fn a_package_may_have_a_file_by_two_names() {
    let place = Place::new();
    let both = place
        .package("both", "1")
        .file("lib/x", "one")
        .link("lib64", "lib")
        .listed(serde_json::json!({"_path": "lib64/x"}))
        .build();
    let diary = Diary::default();
    place.install_with(&[&both], &quick(), &diary).unwrap();
    assert_eq!(diary.warnings(), []);
    assert_eq!(place.read("lib/x"), "one");
    assert_eq!(paths(&place, "both").len(), 2);
}

#[test]
fn records_of_other_tools_that_name_the_path_through_a_link_stay() {
    let place = Place::new();
    let (new, user) = (xkb(&place, "2"), user(&place));
    place.install(&[&new, &user]).unwrap();
    // conda records the declared path, whatever it leads through.
    let record = "conda-meta/user-1-0.json";
    let text = place.read(record);
    let mut record_of_conda: serde_json::Value = serde_json::from_str(&text).unwrap();
    record_of_conda["files"] = serde_json::json!(["share/X11/xkb/rules/mine"]);
    record_of_conda["paths_data"]["paths"] =
        serde_json::json!([{"_path": "share/X11/xkb/rules/mine", "path_type": "hardlink"}]);
    fs::write(place.path(record), record_of_conda.to_string()).unwrap();
    let other = place.package("other", "1").file("o", "o").build();
    let before = place.read(record);
    place.install(&[&new, &user, &other]).unwrap();
    assert_eq!(place.read(record), before);
    assert_eq!(place.read("share/X11/xkb/rules/mine"), "mine");
    // The file moves when the link goes, and goes with its package.
    place.install(&[&user, &other]).unwrap();
    assert_eq!(place.read("share/X11/xkb/rules/mine"), "mine");
    place.install(&[&other]).unwrap();
    assert!(!place.path("share").exists());
}

#[test]
fn a_link_that_another_package_has_won_is_not_followed() {
    let place = Place::new();
    let loser = place
        .package("a", "1")
        .link("lib", "elsewhere")
        .file("elsewhere/a", "a")
        .build();
    let winner = place.package("b", "1").link("lib", "here").build();
    let user = place.package("c", "1").file("lib/x", "x").build();
    for way in [
        &[&[&loser, &winner, &user][..]][..],
        &[&[&user, &loser], &[&loser, &winner, &user]],
    ] {
        for packages in way {
            place.install(packages).unwrap();
        }
        assert_eq!(place.read("here/x"), "x");
        assert!(!place.path("elsewhere/x").exists());
        place.install(&[&loser, &user]).unwrap();
        assert_eq!(place.read("elsewhere/x"), "x");
        place.install(&[]).unwrap();
    }
}

/// What a package of the random test has.
fn random_package(place: &Place, index: usize, seed: &mut u64) -> LinkPackage {
    let mut next = |below: usize| {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*seed >> 33).unwrap() % below
    };
    let directories = ["d", "e", "d/s", "f"];
    let mut package = place.package(["p", "q", "r", "s"][index], &format!("1.{}", next(1000)));
    let mut taken = Vec::new();
    for _ in 0..=next(3) {
        let directory = directories[next(directories.len())];
        let path = format!("{directory}/{}", ["x", "y"][next(2)]);
        if !taken.contains(&path) {
            package = package.file(&path, format!("{index} has {path}"));
            taken.push(path);
        }
    }
    let link = directories[next(directories.len())];
    let target = [".", "../e", "f", "e"][next(4)];
    let is_free = taken
        .iter()
        .all(|path| !path.starts_with(&format!("{link}/")));
    if next(2) == 0 && is_free {
        package = package.link(link, target);
    }
    package.build()
}

#[test]
fn any_way_to_an_environment_leads_to_the_same_one() {
    let mut seed = 17;
    let mut compared = 0;
    for _ in 0..150 {
        let place = Place::new();
        let packages: Vec<LinkPackage> = (0..4)
            .map(|index| random_package(&place, index, &mut seed))
            .collect();
        let all: Vec<&LinkPackage> = packages.iter().collect();
        // Some do not go together.
        if place.install(&all).is_err() {
            assert!(!place.prefix.path().exists());
            continue;
        }
        let direct = state(&place);
        place.install(&[]).unwrap();
        assert_eq!(state(&place), BTreeMap::new());
        for way in [&all[..1], &all[1..3], &all[2..], &all[..3]] {
            if place.install(way).is_err() {
                continue;
            }
            let before = place.snapshot();
            match place.install(&all) {
                Ok(_) => {
                    assert_eq!(state(&place), direct);
                    compared += 1;
                }
                Err(_) => assert_eq!(place.snapshot(), before),
            }
            place.install(&[]).unwrap();
            assert_eq!(state(&place), BTreeMap::new());
        }
    }
    assert!(compared > 100, "{compared}");
}
