use std::sync::atomic::{AtomicBool, Ordering};

use super::support::{Diary, Place, install, quick};
use crate::error::PrefixError;
use crate::link::{LinkObserver, LinkPackage, LinkWarning};

const TELL: &str = "echo \"$PKG_NAME $PKG_VERSION $PKG_BUILDNUM\" >> \"$PREFIX/log\"\n";

fn with_script(place: &Place, name: &str, kind: &str, body: &str) -> LinkPackage {
    place
        .package(name, "1")
        .file(&format!("bin/.{name}-{kind}.sh"), body)
        .build()
}

#[test]
fn scripts_run_in_order_with_their_environment() {
    let place = Place::new();
    let first = with_script(&place, "z-first", "post-link", TELL);
    let second = place
        .package("second", "2")
        .depends(&["z-first"])
        .record(|record| record.build_number = 7)
        .file("bin/.second-post-link.sh", TELL)
        .file(
            "bin/.second-pre-link.sh",
            "echo \"pre in $SOURCE_DIR\"; test ! -e \"$PREFIX/bin/.second-pre-link.sh\"\n",
        )
        .file(
            "bin/.second-pre-unlink.sh",
            "echo bye > \"$PREFIX/.messages.txt\"; helper\n",
        )
        .file(
            "bin/helper",
            "#!/bin/sh\necho found by PATH in $CONDA_PREFIX\n",
        )
        .mode("bin/helper", 0o755)
        .build();
    let diary = Diary::default();
    let options = quick().with_root_prefix("/root-prefix");
    place
        .install_with(&[&second, &first], &options, &diary)
        .unwrap();
    assert_eq!(place.read("log"), "z-first 1 0\nsecond 2 7\n");
    let lines = diary.lines();
    let at = |line: &str| {
        lines
            .iter()
            .position(|l| l == line)
            .unwrap_or_else(|| panic!("{line} in {lines:?}"))
    };
    let source = second.source_dir.display();
    assert!(at(&format!("pre-link second-2-0 says pre in {source}")) < at("linking second-2-0 4"));
    assert!(at("linked second-2-0") < at("post-link z-first-1-0"));

    let diary = Diary::default();
    place.install_with(&[&first], &quick(), &diary).unwrap();
    let prefix = place.prefix.path().display().to_string();
    assert_eq!(
        diary.lines(),
        [
            "started -1 +0 0",
            "pre-unlink second-2-0",
            &format!("pre-unlink second-2-0 says found by PATH in {prefix}"),
            "message second-2-0: bye",
            "unlinked second-2-0",
        ]
    );
    assert!(!place.path(".messages.txt").exists());
}

#[test]
fn a_failing_post_link_undoes_everything() {
    let place = Place::new();
    let good = place.package("a", "1").file("x", "x").build();
    let bad = with_script(&place, "bad", "post-link", "echo because; exit 3\n");
    let error = place.install(&[&good, &bad]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("post-link") && text.contains('3') && text.contains("because"),
        "{text}"
    );
    assert!(!place.prefix.path().exists());
    place.install(&[&good]).unwrap();
    let before = place.snapshot();
    assert!(matches!(
        place.install(&[&good, &bad]),
        Err(PrefixError::ScriptFailed { .. })
    ));
    assert_eq!(place.snapshot(), before);
}

#[test]
fn a_failing_pre_unlink_is_a_warning() {
    let place = Place::new();
    let bad = with_script(&place, "bad", "pre-unlink", "exit 1\n");
    place.install(&[&bad]).unwrap();
    let diary = Diary::default();
    place.install_with(&[], &quick(), &diary).unwrap();
    assert!(matches!(
        &diary.warnings()[..],
        [LinkWarning::ScriptFailed {
            kind: "pre-unlink",
            ..
        }]
    ));
    assert!(place.prefix.records().unwrap().is_empty());
}

#[test]
fn scripts_can_be_switched_off() {
    let place = Place::new();
    let bad = with_script(&place, "bad", "post-link", "exit 1\n");
    place
        .install_with(&[&bad], &quick().with_run_scripts(false), &())
        .unwrap();
    assert!(place.path("bin/.bad-post-link.sh").exists());
}

#[test]
fn a_script_that_hangs_ends_with_its_children_when_told_to() {
    struct StopWhenStarted<'a>(&'a AtomicBool);
    impl LinkObserver for StopWhenStarted<'_> {
        fn script_started(&self, _package: &str, _kind: &'static str) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let place = Place::new();
    let slow = with_script(&place, "slow", "post-link", "sleep 1000 & sleep 1000\n");
    let cancel = AtomicBool::new(false);
    let observer = StopWhenStarted(&cancel);
    let error = install(&place.prefix, &[&slow], &quick(), &observer, &cancel).unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert!(!place.prefix.path().exists());
}
