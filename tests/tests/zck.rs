//! The `taipan zck` commands.

use std::fmt::Write as _;

use taipan_tests::Sandbox;

/// Two versions of a text of many lines. One line differs.
fn versions() -> (String, String) {
    let mut old = String::new();
    for number in 0..40_000_u32 {
        writeln!(old, "line {number}: {}", number.wrapping_mul(2_654_435_761)).unwrap();
    }
    let new = old.replacen("line 20000:", "line twenty thousand:", 1);
    (old, new)
}

#[test]
fn extracting_restores_the_content_for_all_options() {
    let (old, _) = versions();
    let sandbox = Sandbox::new();
    sandbox.write("text", &old);
    let options: [&[&str]; 7] = [
        &[],
        &["--store"],
        &["--level", "3"],
        &["--uncompressed-source"],
        &["--chunk-hash", "sha512"],
        &["--split", "line 1"],
        &["--train-dictionary", "4096", "--split", "line 77"],
    ];
    for option in options {
        sandbox
            .run(&[&["zck", "create", "text"], option].concat())
            .expect(0);
        std::fs::remove_file(sandbox.path("text")).unwrap();
        sandbox.run(&["zck", "extract", "text.zck"]).expect(0);
        assert_eq!(
            std::fs::read_to_string(sandbox.path("text")).unwrap(),
            old,
            "{option:?}"
        );
        let piped = sandbox
            .run(&["zck", "extract", "text.zck", "-o", "-"])
            .expect(0);
        assert!(piped.stdout == old, "{option:?}");
    }
}

#[test]
fn a_delta_is_much_smaller_than_the_file() {
    let (old, new) = versions();
    let sandbox = Sandbox::new();
    sandbox.write("old", &old);
    sandbox.write("new", &new);
    sandbox.run(&["zck", "create", "old", "-u"]).expect(0);
    sandbox
        .run(&["zck", "create", "new", "-u", "--detached-header", "new.zhr"])
        .expect(0);
    // From a zchunk file or a plain file, to a zchunk file or a detached header.
    for (from, to) in [
        ("old.zck", "new.zck"),
        ("old", "new.zck"),
        ("old.zck", "new.zhr"),
    ] {
        let finished = sandbox.run(&["zck", "delta", "--json", from, to]).expect(0);
        let delta = &finished.objects()[0];
        assert_eq!(delta["missing_chunks"], 1, "{from} {to}: {delta}");
        assert_eq!(delta["ranges"], 1);
        let bytes = |key: &str| delta[key].as_u64().unwrap();
        assert_eq!(
            bytes("update_bytes"),
            bytes("header_bytes") + bytes("fetch_bytes")
        );
        assert_eq!(
            bytes("full_bytes"),
            std::fs::metadata(sandbox.path("new.zck")).unwrap().len()
        );
        assert!(bytes("update_bytes") * 4 < bytes("full_bytes"), "{delta}");
    }
    let none = sandbox
        .run(&["zck", "delta", "--json", "new.zck", "new.zck"])
        .expect(0);
    assert_eq!(none.objects()[0]["fetch_bytes"], 0);
}

#[test]
fn a_corrupt_file_is_refused_and_leaves_no_output() {
    let (old, _) = versions();
    let sandbox = Sandbox::new();
    sandbox.write("text", &old);
    sandbox.run(&["zck", "create", "text"]).expect(0);
    std::fs::remove_file(sandbox.path("text")).unwrap();
    let good = std::fs::read(sandbox.path("text.zck")).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (name, bytes) in [
        ("cut", &good[..good.len() / 2]),
        ("flipped", &flipped),
        ("empty", &[]),
    ] {
        std::fs::write(sandbox.path("text.zck"), bytes).unwrap();
        let finished = sandbox.run(&["zck", "extract", "text.zck"]).expect(2);
        assert!(
            finished.stderr.contains("cannot process text.zck"),
            "{name}: {}",
            finished.stderr
        );
        let left: Vec<_> = std::fs::read_dir(sandbox.path(""))
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, ["text.zck"], "{name}");
    }
    sandbox.run(&["zck", "info", "text.zck"]).expect(2);
    sandbox.run(&["zck", "extract", "missing.zck"]).expect(1);
    sandbox
        .run(&["zck", "create", "text.zck", "--level", "99"])
        .expect(2);
}
