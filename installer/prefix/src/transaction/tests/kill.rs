//! A process that dies at any point leaves what the next one repairs.
//!
//! The tests start this test binary once more with only `child` selected; a variable that the
//! child test alone reads says where to work and where to die.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use super::support::{Builder, Place, install, quick};
use crate::failpoint::abort_at;
use crate::link::LinkPackage;
use crate::prefix::Prefix;
use crate::recovery::Recovery;

const JOB: &str = "TAIPAN_TEST_KILL";

/// Points in the order in which they are passed, with how often they are passed at least.
const POINTS: [(&str, usize); 11] = [
    ("journal", 1),
    ("move", 1),
    ("move", 5),
    ("linking", 1),
    ("link", 1),
    ("link", 4),
    ("linked", 1),
    ("record", 2),
    ("history", 1),
    ("committed", 1),
    ("trash-deleted", 1),
];

struct Packages {
    old: Vec<LinkPackage>,
    new: Vec<LinkPackage>,
}

/// The change covers a file that becomes a directory and the reverse, a directory that becomes a link
/// and the reverse with files of a kept package below, a clobber that begins and one that ends, a
/// removed package, a new one, and a changed record.
fn packages(store: &Path) -> Packages {
    let package = |name: &str, version: &str| Builder::new(store, name, version);
    let kept = package("kept", "1")
        .file("share/won", "kept")
        .file("share/lost", "kept")
        .file("goes/through", "kept")
        .file("comes/through", "kept")
        .build();
    let old = vec![
        package("a", "1")
            .file("x", "file")
            .file("d/e/f", "deep")
            .file("only/old", "1")
            .link("goes", "real/goes")
            .file("comes/own", "1")
            .build(),
        package("b", "1")
            .file("share/b", "b")
            .link("share/link", "b")
            .build(),
        kept.clone(),
        package("z-wins", "1").file("share/won", "z").build(),
    ];
    let new = vec![
        package("a", "2")
            .file("x/y", "deep")
            .file("d", "file")
            .file("only/new", "2")
            .file("goes/own", "2")
            .link("comes", "real/comes")
            .build(),
        package("c", "1")
            .file("share/c", "c")
            .depends(&["kept"])
            .build(),
        kept.with_requested_specs(vec!["kept".to_owned()]),
        package("z-other", "1")
            .file("share/lost", "z")
            .file("n/m", "")
            .build(),
    ];
    Packages { old, new }
}

fn change(root: &Path, packages: &[LinkPackage]) {
    let prefix = Prefix::open(root.join("env")).unwrap();
    let packages: Vec<&LinkPackage> = packages.iter().collect();
    install(&prefix, &packages, &quick(), &(), &AtomicBool::new(false)).unwrap();
}

/// Does nothing unless one of the other tests started it.
#[test]
fn child() {
    let Ok(job) = std::env::var(JOB) else {
        return;
    };
    let [root, task, point, nth] = job.split('\n').collect::<Vec<_>>()[..] else {
        panic!("{job:?}");
    };
    let root = Path::new(root);
    let packages = packages(&root.join("store"));
    abort_at(point, nth.parse().unwrap());
    match task {
        "change" => change(root, &packages.new),
        "recover" => {
            let prefix = Prefix::open(root.join("env")).unwrap();
            drop(prefix.lock(&AtomicBool::new(false)).unwrap());
        }
        other => panic!("{other}"),
    }
}

/// Runs a task that dies at the point; false if it did not come by there.
fn die(place: &Place, task: &str, point: &str, nth: usize) -> bool {
    let job = format!("{}\n{task}\n{point}\n{nth}", place.root.path().display());
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "transaction::tests::kill::child",
            "--test-threads=1",
        ])
        .env(JOB, job)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.code().is_none() || output.status.success(),
        "{text}"
    );
    !output.status.success()
}

/// The states before and after, in a place of the same name.
fn states(place: &Place, with_old: bool) -> [BTreeMap<String, String>; 2] {
    let packages = packages(&place.root.path().join("store"));
    if with_old {
        change(place.root.path(), &packages.old);
    }
    let before = place.snapshot();
    change(place.root.path(), &packages.new);
    let after = place.snapshot();
    std::fs::remove_dir_all(place.prefix.path()).unwrap();
    [before, after]
}

#[test]
fn a_killed_change_is_undone_or_finished_by_the_next_lock() {
    let place = Place::new();
    let root = place.root.path();
    let packages = packages(&root.join("store"));
    let [before, after] = states(&place, true);
    assert_eq!(place.prefix.path().exists(), before.is_empty());
    let mut seen = Vec::new();
    for (point, nth) in POINTS {
        change(root, &packages.old);
        assert_eq!(place.snapshot(), before);
        assert!(
            die(&place, "change", point, nth),
            "{point} {nth} was not passed"
        );
        assert!(place.prefix.is_interrupted());
        let recovery = place.lock().recovery();
        let committed = matches!(point, "committed" | "trash-deleted");
        let expected = if committed {
            (Recovery::Finished, &after)
        } else {
            (Recovery::RolledBack, &before)
        };
        assert_eq!(recovery, expected.0, "{point} {nth}");
        assert_eq!(&place.snapshot(), expected.1, "{point} {nth}");
        seen.push(recovery);
        // The second run completes what the first began.
        change(root, &packages.new);
        if !committed {
            assert_eq!(place.snapshot(), after, "{point} {nth}");
        }
        std::fs::remove_dir_all(place.prefix.path()).unwrap();
    }
    assert!(seen.contains(&Recovery::RolledBack) && seen.contains(&Recovery::Finished));
}

#[test]
fn an_undo_that_is_killed_is_taken_up_again() {
    let place = Place::new();
    let root = place.root.path();
    let packages = packages(&root.join("store"));
    let [before, _] = states(&place, true);
    for (point, nth) in [
        ("undo-delete", 1),
        ("undo-delete", 5),
        ("undo-move", 1),
        ("undo-move", 4),
    ] {
        change(root, &packages.old);
        assert!(die(&place, "change", "history", 1));
        assert!(
            die(&place, "recover", point, nth),
            "{point} {nth} was not passed"
        );
        assert_eq!(place.lock().recovery(), Recovery::RolledBack);
        assert_eq!(place.snapshot(), before, "{point} {nth}");
        std::fs::remove_dir_all(place.prefix.path()).unwrap();
    }
}

#[test]
fn a_killed_creation_leaves_nothing() {
    let place = Place::new();
    let [_, after] = states(&place, false);
    for (point, nth) in POINTS {
        // There is nothing to be moved aside in a new prefix.
        if !die(&place, "change", point, nth) {
            assert_eq!(point, "move");
            std::fs::remove_dir_all(place.prefix.path()).unwrap();
            continue;
        }
        let finished = matches!(point, "committed" | "trash-deleted");
        if !finished && nth == 1 {
            // The removal of a half-made prefix may be interrupted, too.
            die(&place, "recover", "undo-remove", 2);
        }
        let locked = place.lock();
        assert_eq!(
            locked.recovery(),
            if finished {
                Recovery::Finished
            } else {
                Recovery::Removed
            },
            "{point} {nth}"
        );
        drop(locked);
        if finished {
            assert_eq!(place.snapshot(), after);
            std::fs::remove_dir_all(place.prefix.path()).unwrap();
        }
        assert!(!place.prefix.path().exists(), "{point} {nth}");
    }
}
