//! Tars of every kind, in all forms of package archives.

#![no_main]

use std::{collections::BTreeMap, io::Read as _};

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::{
    Input, tars,
    yard::{Node, Tree, Yard, same},
};

/// A reader that gives little at a time.
struct Trickle<'a>(&'a [u8], usize);

impl std::io::Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = into.len().min(self.1);
        self.0.read(&mut into[..most])
    }
}

fn clean(path: &[u8]) -> Vec<u8> {
    let components: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .collect();
    components.join(&b'/')
}

/// What another reader of tars finds in the files that no other entry touches.
fn agrees_with_the_tar_crate(tar: &[u8], tree: &Tree) {
    let mut archive = tar::Archive::new(tar);
    let mut found: BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>> = BTreeMap::new();
    let Ok(entries) = archive.entries() else {
        return;
    };
    for entry in entries {
        let Ok(mut entry) = entry else { return };
        let kind = entry.header().entry_type();
        // The two differ in what they make of these.
        if kind.is_hard_link() || kind.is_gnu_sparse() || kind.is_pax_global_extensions() {
            return;
        }
        if entry.pax_extensions().is_ok_and(|pax| pax.is_some()) {
            return;
        }
        let path = entry.path_bytes().into_owned();
        let is_file = kind.is_file() || kind.is_contiguous();
        let mut bytes = Vec::new();
        if is_file && entry.read_to_end(&mut bytes).is_err() {
            return;
        }
        let content = (is_file && !path.ends_with(b"/")).then_some(bytes);
        found.entry(clean(&path)).or_default().push(content);
    }
    for (path, contents) in &found {
        let [Some(content)] = &contents[..] else {
            continue;
        };
        let alone = found
            .keys()
            .filter(|other| *other != path && other.starts_with(path))
            .count()
            == 0;
        if alone && path != b"info/repodata_record.json" && !path.starts_with(b"info/index.json") {
            let there = tree.get(path);
            let expected = matches!(there, Some(Node::File { bytes, .. }) if bytes == content);
            assert!(expected, "{:?}: {there:?}", String::from_utf8_lossy(path));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let (form, step) = (input.byte(), usize::from(input.byte()) + 1);
    let mut tar = input.0.to_vec();
    if form & 64 == 0 {
        tars::end(&mut tar);
    }
    if form & 128 == 0 {
        tars::seal(&mut tar);
    }
    let (format, archive) = tars::package(&tar, form);
    let whole = Yard::new().extract(&archive[..], format);
    if let Ok((tree, summary)) = &whole {
        assert_eq!(summary.archive_bytes, archive.len() as u64);
        agrees_with_the_tar_crate(&tar, tree);
    }
    // The form and the pieces in which it arrives make no difference.
    let (format, archive) = tars::package(&tar, form.wrapping_add(1));
    let other = Yard::new().extract(Trickle(&archive, step), format);
    match (whole, other) {
        (Ok((one, _)), Ok((other, _))) => assert!(same(&one, &other)),
        (Err(_), Err(_)) => {}
        (one, other) => panic!("{:?} {:?}", one.err(), other.err()),
    }
});
