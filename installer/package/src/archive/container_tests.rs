//! What an archive may be around its tars, and how much of it.

use std::fs;
use std::io::{self, Read};

use super::error::LimitKind;
use super::samples::{
    METADATA, Tar, bzip2, error, sample, stored, tree_of, unpack, unpack_limited, zip, zip_with,
    zip_with_descriptors, zstd,
};
use super::*;

const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::Conda, ArchiveFormat::TarBz2];

fn members() -> (Vec<u8>, Vec<u8>) {
    let info = zstd(&Tar::info().bytes());
    let pkg = zstd(&Tar::new().file("a", b"a").bytes());
    (info, pkg)
}

#[test]
fn both_formats_give_the_same_tree() {
    let trees = FORMATS.map(|format| {
        let dir = tempfile::tempdir().unwrap();
        let archive = sample(format);
        let summary = unpack(&archive, format, dir.path()).unwrap();
        assert_eq!(
            (summary.files, summary.symlinks, summary.hard_links),
            (3, 1, 1)
        );
        assert_eq!(summary.archive_bytes, archive.len() as u64);
        tree_of(dir.path())
    });
    assert_eq!(trees[0], trees[1]);
    assert_eq!(trees[0].len(), 8);
}

#[test]
fn members_come_in_any_order_and_unknown_ones_are_skipped() {
    let (info, pkg) = members();
    for order in [
        [METADATA, ("info-x.tar.zst", &info), ("pkg-x.tar.zst", &pkg)],
        [("pkg-x.tar.zst", &pkg), ("info-x.tar.zst", &info), METADATA],
        [
            ("info-x.tar.zst", &info),
            ("../../note", b"?"),
            ("pkg-x.tar.zst", &pkg),
        ],
    ] {
        for archive in [zip(&order), zip_with_descriptors(&order)] {
            let dir = tempfile::tempdir().unwrap();
            let summary = unpack(&archive, ArchiveFormat::Conda, dir.path()).unwrap();
            assert_eq!(summary.archive_bytes, archive.len() as u64);
            assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"a");
            assert_eq!(tree_of(dir.path()).len(), 3);
        }
    }
}

#[test]
fn zip64_sizes_are_read() {
    let (info, pkg) = members();
    let archive = zip_with(
        &[METADATA, ("info-x.tar.zst", &info), ("pkg-x.tar.zst", &pkg)],
        stored().large_file(true),
    );
    let dir = tempfile::tempdir().unwrap();
    unpack(&archive, ArchiveFormat::Conda, dir.path()).unwrap();
}

#[test]
fn a_descriptor_in_the_middle_does_not_repeat_what_was_done() {
    // Two members with sizes in front, then one without: made from both kinds of zip.
    let (info, pkg) = members();
    let plain = zip(&[METADATA, ("info-x.tar.zst", &info), ("pkg-x.tar.zst", &pkg)]);
    let at = plain.windows(4).rposition(|w| w == b"PK\x03\x04").unwrap();
    let mut archive = plain.clone();
    // Flags of the last local header: a size after the data is promised, though it is in front.
    archive[at + 6] |= 8;
    let dir = tempfile::tempdir().unwrap();
    unpack(&archive, ArchiveFormat::Conda, dir.path()).unwrap();
    assert_eq!(tree_of(dir.path()).len(), 3);
}

#[test]
fn several_frames_and_streams_are_one() {
    let tar = Tar::info().file("a", &[7; 3000]).bytes();
    let (head, tail) = tar.split_at(700);
    let info = [zstd(head), zstd(tail)].concat();
    let (_, pkg) = members();
    let archive = zip(&[("info-x.tar.zst", &info), ("pkg-x.tar.zst", &pkg)]);
    let dir = tempfile::tempdir().unwrap();
    unpack(&archive, ArchiveFormat::Conda, dir.path()).unwrap();

    let archive = [bzip2(head), bzip2(tail)].concat();
    let dir = tempfile::tempdir().unwrap();
    unpack(&archive, ArchiveFormat::TarBz2, dir.path()).unwrap();
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), [7; 3000]);
    // Cut between the streams, each of which is whole.
    let archive = bzip2(head);
    let error = error(&archive, ArchiveFormat::TarBz2);
    assert!(matches!(error, ArchiveError::Truncated { .. }), "{error:?}");
}

#[test]
fn a_conda_needs_each_tar_exactly_once() {
    let (info, pkg) = members();
    let without_pkg = zip(&[METADATA, ("info-x.tar.zst", &info)]);
    assert!(matches!(
        error(&without_pkg, ArchiveFormat::Conda),
        ArchiveError::MissingMember {
            what: "pkg-*.tar.zst"
        }
    ));
    let twice = zip(&[
        ("info-x.tar.zst", &info),
        ("info-y.tar.zst", &info),
        ("pkg-x.tar.zst", &pkg),
    ]);
    for archive in [
        twice,
        zip(&[
            METADATA,
            ("info-x.tar.zst", &info),
            ("info-y.tar.zst", &info),
        ]),
    ] {
        assert!(matches!(
            error(&archive, ArchiveFormat::Conda),
            ArchiveError::RepeatedMember {
                what: "info-*.tar.zst",
                ..
            }
        ));
    }
    assert!(matches!(
        error(&zip(&[]), ArchiveFormat::Conda),
        ArchiveError::MissingMember { .. }
    ));
}

#[test]
fn metadata_may_be_empty_or_missing() {
    let (info, pkg) = members();
    let tars = [("info-x.tar.zst", &info[..]), ("pkg-x.tar.zst", &pkg)];
    for metadata in [&[][..], &[("metadata.json", &b""[..])]] {
        let archive = zip(&[metadata, &tars].concat());
        let dir = tempfile::tempdir().unwrap();
        unpack(&archive, ArchiveFormat::Conda, dir.path()).unwrap();
    }
}

#[test]
fn metadata_of_another_version_is_refused() {
    for (text, wrong_version) in [
        (&b"{\"conda_pkg_format_version\": 3}"[..], true),
        (b"{}", false),
        (b"<html>", false),
    ] {
        let (info, pkg) = members();
        let archive = zip(&[
            ("metadata.json", text),
            ("info-x.tar.zst", &info),
            ("pkg-x.tar.zst", &pkg),
        ]);
        match error(&archive, ArchiveFormat::Conda) {
            ArchiveError::FormatVersion { found: 3 } => assert!(wrong_version),
            ArchiveError::Metadata { .. } => assert!(!wrong_version),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn compressed_and_encrypted_members_are_named() {
    let (info, pkg) = members();
    for make in [zip, zip_with_descriptors] {
        let mut archive = make(&[METADATA, ("info-x.tar.zst", &info), ("pkg-x.tar.zst", &pkg)]);
        let with = |archive: &mut Vec<u8>, local: usize, central: usize, value: u8| {
            for (magic, at) in [(b"PK\x03\x04", local), (b"PK\x01\x02", central)] {
                let start = archive.windows(4).rposition(|w| w == magic).unwrap();
                archive[start + at] |= value;
            }
        };
        let mut deflated = archive.clone();
        with(&mut deflated, 8, 10, 8);
        match error(&deflated, ArchiveFormat::Conda) {
            ArchiveError::CompressedMember { member, method: 8 } => {
                assert_eq!(member, "pkg-x.tar.zst");
            }
            other => panic!("{other:?}"),
        }
        with(&mut archive, 6, 8, 1);
        let error = error(&archive, ArchiveFormat::Conda);
        assert!(
            matches!(error, ArchiveError::EncryptedMember { .. }),
            "{error:?}"
        );
    }
}

#[test]
fn a_wrong_checksum_is_found_even_in_a_skipped_member() {
    let (info, pkg) = members();
    let mut archive = zip(&[
        ("note", b"some text"),
        ("info-x.tar.zst", &info),
        ("pkg-x.tar.zst", &pkg),
    ]);
    let at = archive.windows(4).position(|w| w == b"some").unwrap();
    archive[at] ^= 1;
    assert!(matches!(
        error(&archive, ArchiveFormat::Conda),
        ArchiveError::Checksum { member } if member == "note"
    ));
}

#[test]
fn a_web_page_is_named_for_what_it_is() {
    for format in FORMATS {
        let error = error(b"<!DOCTYPE html>\n<html>", format);
        let text = error.to_string();
        assert!(
            matches!(error, ArchiveError::NotAnArchive { .. }),
            "{error:?}"
        );
        assert!(
            text.ends_with("it starts with \"<!DOCTYPE html>\\n\""),
            "{text}"
        );
    }
    assert!(matches!(
        error(b"", ArchiveFormat::Conda),
        ArchiveError::Truncated { .. }
    ));
}

#[test]
fn limits_hold() {
    let archive = sample(ArchiveFormat::Conda);
    let defaults = ExtractLimits::default;
    for (limits, expected) in [
        (
            ExtractLimits {
                archive_bytes: 100,
                ..defaults()
            },
            LimitKind::ArchiveBytes,
        ),
        (
            ExtractLimits {
                extracted_bytes: 50_000,
                ..defaults()
            },
            LimitKind::ExtractedBytes,
        ),
        (
            ExtractLimits {
                entries: 3,
                ..defaults()
            },
            LimitKind::Entries,
        ),
        (
            ExtractLimits {
                path_bytes: 5,
                ..defaults()
            },
            LimitKind::PathBytes,
        ),
        (
            ExtractLimits {
                path_depth: 1,
                ..defaults()
            },
            LimitKind::PathDepth,
        ),
        (
            ExtractLimits {
                ratio: 10,
                ratio_allowance: 0,
                ..defaults()
            },
            LimitKind::Ratio,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        match unpack_limited(&archive, ArchiveFormat::Conda, dir.path(), &limits) {
            Err(ArchiveError::Limit { what, .. }) => assert_eq!(what, expected),
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    // A bomb is stopped long before its end.
    let bomb = bzip2(&Tar::info().file("zeros", &vec![0; 40 << 20]).bytes());
    let limits = ExtractLimits {
        ratio_allowance: 1 << 20,
        ..defaults()
    };
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        unpack_limited(&bomb, ArchiveFormat::TarBz2, dir.path(), &limits),
        Err(ArchiveError::Limit {
            what: LimitKind::Ratio,
            ..
        })
    ));
    assert!(fs::metadata(dir.path().join("zeros")).unwrap().len() < 30 << 20);
}

#[test]
fn a_zstd_window_beyond_the_limit_is_refused() {
    let tar = Tar::info().file("a", &vec![1; 3 << 20]).bytes();
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(24).unwrap();
    io::copy(&mut &tar[..], &mut encoder).unwrap();
    let info = encoder.finish().unwrap();
    let (_, pkg) = members();
    let archive = zip(&[("info-x.tar.zst", &info), ("pkg-x.tar.zst", &pkg)]);
    let limits = ExtractLimits {
        zstd_window_log: 20,
        ..ExtractLimits::default()
    };
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        unpack_limited(&archive, ArchiveFormat::Conda, dir.path(), &limits),
        Err(ArchiveError::Decompress { .. })
    ));
}

#[test]
fn a_failing_or_cancelled_read_is_told_as_such() {
    struct Failing<'a>(&'a [u8]);
    impl Read for Failing<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match self.0.read(into)? {
                0 => Err(io::ErrorKind::ConnectionReset.into()),
                n => Ok(n),
            }
        }
    }
    for format in FORMATS {
        let archive = sample(format);
        // Anywhere: in a header, in a member, in the central directory.
        for cut in [3, 40, archive.len() / 2, archive.len() - 10, archive.len()] {
            let dir = tempfile::tempdir().unwrap();
            let reader = Failing(&archive[..cut]);
            let limits = ExtractLimits::default();
            let result = extract(reader, format, dir.path(), &limits, &CancelFlag::new());
            match result {
                Err(ArchiveError::Read { source }) => {
                    assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
                }
                other => panic!("{format} cut at {cut}: {other:?}"),
            }
        }
        let cancel = CancelFlag::new();
        cancel.cancel();
        let dir = tempfile::tempdir().unwrap();
        let result = extract(
            &archive[..],
            format,
            dir.path(),
            &ExtractLimits::default(),
            &cancel,
        );
        assert!(matches!(result, Err(ArchiveError::Cancelled)));
    }
}

#[test]
fn a_destination_behind_a_link_is_not_entered() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    let format = ArchiveFormat::TarBz2;
    let error = unpack(&sample(format), format, &link).unwrap_err();
    assert!(matches!(error, ArchiveError::Write { .. }), "{error:?}");
}
