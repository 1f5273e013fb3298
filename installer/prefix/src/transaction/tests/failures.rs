use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::support::{Diary, Place, install, quick};
use crate::error::PrefixError;
use crate::link::{LinkObserver, LinkWarning};
use crate::transaction::plan::DesiredPackage;
use crate::transaction::{Plan, Transaction};

#[test]
fn paths_that_leave_the_prefix_are_refused() {
    let place = Place::new();
    for path in ["../outside", "/etc/passwd", "lib/../../x"] {
        let package = place
            .package("a", "1")
            .listed(json!({"_path": path}))
            .build();
        let error = place.install(&[&package]).unwrap_err();
        assert!(
            matches!(error, PrefixError::PathEscape { .. }),
            "{path}: {error}"
        );
        assert!(!place.prefix.path().exists());
    }
}

#[test]
fn links_out_of_the_prefix_are_not_written_through() {
    let place = Place::new();
    let outside = place.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for (name, target) in [
        ("a", outside.to_str().unwrap()),
        ("b", "../outside"),
        ("c", "door"),
    ] {
        let package = place
            .package(name, "1")
            .link("door", target)
            .unlisted("x", "x")
            .build();
        let evil = place.package("evil", "1").file("door/x", "x").build();
        let error = place.install(&[&package, &evil]).unwrap_err();
        assert!(
            matches!(error, PrefixError::PathEscape { .. }),
            "{target}: {error}"
        );
    }
    // A link that the person made is not followed either.
    fs::create_dir(place.prefix.path()).unwrap();
    symlink(&outside, place.path("door")).unwrap();
    let evil = place.package("evil", "1").file("door/x", "x").build();
    let error = place.install(&[&evil]).unwrap_err();
    assert!(matches!(error, PrefixError::ForeignLink { .. }), "{error}");
    assert!(error.to_string().contains("remove the link"), "{error}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn packages_may_not_write_records() {
    let place = Place::new();
    let package = place
        .package("a", "1")
        .file("conda-meta/other-1-0.json", "{}")
        .file("x", "x")
        .build();
    let diary = Diary::default();
    place.install_with(&[&package], &quick(), &diary).unwrap();
    assert!(matches!(
        &diary.warnings()[..],
        [LinkWarning::ReservedPath { .. }]
    ));
    assert_eq!(place.prefix.records().unwrap().len(), 1);
}

#[test]
fn a_failure_restores_an_old_prefix_and_removes_a_new_one() {
    let place = Place::named("deep/er/env");
    let good = place
        .package("a", "1")
        .file("share/x", "1")
        .file("share/y", "1")
        .build();
    let broken = place
        .package("a", "2")
        .file("share/x", "2")
        .file("new/z", "2")
        .listed(json!({"_path": "share/gone"}))
        .build();
    assert!(matches!(
        place.install(&[&broken]).unwrap_err(),
        PrefixError::MissingFile { .. }
    ));
    assert!(!place.root.path().join("deep").exists());
    place.install(&[&good]).unwrap();
    let before = place.snapshot();
    assert!(matches!(
        place.install(&[&broken]).unwrap_err(),
        PrefixError::MissingFile { .. }
    ));
    assert_eq!(place.snapshot(), before);
}

#[test]
fn a_wish_to_stop_is_obeyed_and_undone() {
    struct StopAt<'a>(&'a str, &'a AtomicBool);
    impl LinkObserver for StopAt<'_> {
        fn started(&self, _unlink: usize, _link: usize, _files: usize) {
            self.hit("started");
        }
        fn package_unlinked(&self, _package: &str) {
            self.hit("unlinked");
        }
        fn files_linked(&self, _package: &str, _files: usize) {
            self.hit("linked");
        }
    }
    impl StopAt<'_> {
        fn hit(&self, name: &str) {
            if name == self.0 {
                self.1.store(true, Ordering::Relaxed);
            }
        }
    }
    let place = Place::new();
    let one = place.package("a", "1").file("x", "1").build();
    let two = place.package("a", "2").file("x", "2").build();
    place.install(&[&one]).unwrap();
    let before = place.snapshot();
    for at in ["started", "unlinked", "linked"] {
        let cancel = AtomicBool::new(false);
        let error = install(
            &place.prefix,
            &[&two],
            &quick(),
            &StopAt(at, &cancel),
            &cancel,
        )
        .unwrap_err();
        assert!(error.is_cancelled(), "{at}: {error}");
        assert_eq!(place.snapshot(), before, "{at}");
    }
}

#[test]
fn a_frozen_environment_is_left_alone_unless_told_otherwise() {
    let place = Place::new();
    let a = place.package("a", "1").file("x", "1").build();
    place.install(&[]).unwrap();
    fs::write(
        place.path("conda-meta/frozen"),
        r#"{"message": "by decree"}"#,
    )
    .unwrap();
    let error = place.install(&[&a]).unwrap_err();
    assert!(
        error.to_string().ends_with("is frozen: by decree"),
        "{error}"
    );
    let options = quick().with_override_frozen(true);
    place.install_with(&[&a], &options, &()).unwrap();
    assert!(place.path("conda-meta/frozen").exists());
}

#[test]
fn a_plan_made_before_somebody_else_changed_the_prefix_is_refused() {
    let place = Place::new();
    let a = place.package("a", "1").file("x", "1").build();
    let b = place.package("b", "1").file("y", "1").build();
    let plan = Plan::between(&[], &[DesiredPackage::new(a.record.clone())]).unwrap();
    let transaction = Transaction::with_packages(plan, |_| a.clone());
    place.install(&[&b]).unwrap();
    let cancel = AtomicBool::new(false);
    let error = transaction
        .execute(&place.lock(), &quick(), &(), &cancel)
        .unwrap_err();
    assert!(
        matches!(error, PrefixError::PrefixChanged { .. }),
        "{error}"
    );
}

#[test]
fn an_unreadable_package_is_named() {
    let place = Place::new();
    let package = place
        .package("a", "1")
        .info("paths.json", "{")
        .build_without_paths();
    let error = place.install(&[&package]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid info/paths.json in the package a-1-0"
    );
    let package = place.package("b", "1").build_without_paths();
    let error = place.install(&[&package]).unwrap_err();
    assert_eq!(error.to_string(), "invalid info/files in the package b-1-0");
}

#[test]
fn a_file_that_a_person_deleted_or_replaced_does_not_stop_its_package_from_going() {
    let place = Place::new();
    let a = place
        .package("a", "1")
        .file("d/x", "1")
        .file("d/y", "1")
        .build();
    place.install(&[&a]).unwrap();
    fs::remove_file(place.path("d/x")).unwrap();
    fs::remove_file(place.path("d/y")).unwrap();
    fs::create_dir(place.path("d/y")).unwrap();
    fs::write(place.path("d/y/mine"), "").unwrap();
    place.install(&[]).unwrap();
    assert!(place.path("d/y/mine").exists());
}

#[test]
fn files_behind_a_link_are_restored_with_it() {
    let place = Place::new();
    let a = place
        .package("a", "1")
        .file("usr/lib64/real", "r")
        .link("usr/lib", "lib64")
        .build();
    let l = place
        .package("l", "1")
        .link("usr/lib/deeper", "../lib64")
        .build();
    let mut b = place.package("b", "1");
    for index in 0..50 {
        b = b.file(&format!("usr/lib/deeper/{index}"), "t");
    }
    let b = b.build();
    place.install(&[&a, &b, &l]).unwrap();
    assert_eq!(place.read("usr/lib64/7"), "t");
    let before = place.snapshot();
    let broken = place
        .package("c", "1")
        .listed(json!({"_path": "gone"}))
        .build();
    assert!(matches!(
        place.install(&[&broken]),
        Err(PrefixError::MissingFile { .. })
    ));
    assert_eq!(place.snapshot(), before);
    place.install(&[]).unwrap();
    assert!(!place.path("usr").exists());
}
