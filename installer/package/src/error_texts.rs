//! The text of each error.

use std::io;

use crate::archive::error::{EntryProblem, LimitKind};
use crate::{ArchiveError, ArchiveFormat, InspectError, StoreError, StoreKey};

/// A sample of each variant, as text with its causes. A variant without a sample does not compile.
macro_rules! texts {
    ($error:ident { $($variant:ident => $sample:expr),* $(,)? }) => {{
        #[expect(dead_code, reason = "the compiler checks that all variants are listed")]
        fn exhaustive(error: &$error) {
            match error {
                $($error::$variant { .. } => (),)*
            }
        }
        let mut text = format!("{}\n", stringify!($error));
        $(
            let sample = $sample;
            assert!(matches!(sample, $error::$variant { .. }));
            text.push_str(&chain(stringify!($variant), &sample));
        )*
        text
    }};
}

fn chain(variant: &str, error: &dyn std::error::Error) -> String {
    let mut lines = vec![format!("  {variant}: {error}")];
    let mut cause = error.source();
    while let Some(error) = cause {
        lines.push(format!("    caused by: {error}"));
        cause = error.source();
    }
    lines.join("\n") + "\n"
}

fn refused() -> io::Error {
    io::Error::other("the system refused")
}

fn json() -> serde_json::Error {
    serde_json::from_str::<u8>("x").unwrap_err()
}

#[test]
fn archive_errors() {
    let member = || "info-a-1-0.tar.zst".to_owned();
    insta::assert_snapshot!(texts!(ArchiveError {
        Read => ArchiveError::Read { source: refused() },
        Cancelled => ArchiveError::Cancelled,
        Lost => ArchiveError::Lost,
        NotAnArchive => ArchiveError::NotAnArchive {
            format: ArchiveFormat::Conda,
            start: "<!doctype".to_owned(),
        },
        Truncated => ArchiveError::Truncated { within: "its first byte".to_owned() },
        Zip => ArchiveError::Zip { at: 7, problem: "a size is missing" },
        CentralDirectory => ArchiveError::CentralDirectory {
            source: zip::result::ZipError::FileNotFound,
        },
        CompressedMember => ArchiveError::CompressedMember { member: member(), method: 8 },
        EncryptedMember => ArchiveError::EncryptedMember { member: member() },
        Checksum => ArchiveError::Checksum { member: member() },
        MissingMember => ArchiveError::MissingMember { what: "pkg-*.tar.zst" },
        RepeatedMember => ArchiveError::RepeatedMember { what: "info-*.tar.zst", member: member() },
        Metadata => ArchiveError::Metadata { source: json() },
        FormatVersion => ArchiveError::FormatVersion { found: 3 },
        Decompress => ArchiveError::Decompress { member: member(), source: refused() },
        Tar => ArchiveError::Tar { member: member(), at: 512, problem: "header checksum mismatch" },
        Entry => ArchiveError::Entry {
            member: member(),
            entry: "../x".to_owned(),
            problem: EntryProblem::ParentPath,
        },
        Limit => ArchiveError::Limit { member: member(), what: LimitKind::Entries, limit: 9 },
        NoIndex => ArchiveError::NoIndex,
        Full => ArchiveError::Full { path: "/store/a".into(), source: refused() },
        Write => ArchiveError::Write { path: "/store/a".into(), source: refused() },
    }));
}

#[test]
fn problems_of_entries_and_limits() {
    let problems = texts!(EntryProblem {
        EmptyPath => EntryProblem::EmptyPath,
        AbsolutePath => EntryProblem::AbsolutePath,
        ParentPath => EntryProblem::ParentPath,
        NulPath => EntryProblem::NulPath,
        LongComponent => EntryProblem::LongComponent,
        BelowSymlink => EntryProblem::BelowSymlink("lib".to_owned()),
        BelowFile => EntryProblem::BelowFile("lib".to_owned()),
        ReplacesDirectory => EntryProblem::ReplacesDirectory,
        Kind => EntryProblem::Kind("a named pipe"),
        UnknownKind => EntryProblem::UnknownKind('V'),
        LinkTarget => EntryProblem::LinkTarget,
        HardLinkTarget => EntryProblem::HardLinkTarget("lib/a".to_owned()),
        SparseMap => EntryProblem::SparseMap,
    });
    let limits = texts!(LimitKind {
        ArchiveBytes => LimitKind::ArchiveBytes,
        ExtractedBytes => LimitKind::ExtractedBytes,
        Ratio => LimitKind::Ratio,
        Entries => LimitKind::Entries,
        PathBytes => LimitKind::PathBytes,
        PathDepth => LimitKind::PathDepth,
        HeaderBytes => LimitKind::HeaderBytes,
        SparseParts => LimitKind::SparseParts,
        DeferredLinks => LimitKind::DeferredLinks,
    });
    insta::assert_snapshot!(problems + &limits);
}

#[test]
fn store_errors() {
    let (action, path) = ("create", "/store/v1");
    let errors = texts!(StoreError {
        ReadOnly => StoreError::ReadOnly { action, path: path.into(), source: refused() },
        Permission => StoreError::Permission { action, path: path.into(), source: refused() },
        Full => StoreError::Full { action, path: path.into(), source: refused() },
        Io => StoreError::Io { action, path: path.into(), source: refused() },
        Record => StoreError::Record { source: json() },
        NoKey => StoreError::NoKey,
    });
    let key = "no key".parse::<StoreKey>().unwrap_err();
    insta::assert_snapshot!(errors + &chain("ParseStoreKeyError", &key));
}

#[test]
fn inspection_errors() {
    let path = || std::path::PathBuf::from("/dist/a-1-0.conda");
    let inner = || "lib/x".to_owned();
    let json = || serde_json::from_str::<u8>("x").unwrap_err();
    let errors = texts!(InspectError {
        Name => InspectError::Name { path: "/dist/a.zip".into() },
        Archive => InspectError::Archive { path: path(), source: ArchiveError::NoIndex },
        Read => InspectError::Read { path: path(), inner: inner(), source: refused() },
        Temporary => InspectError::Temporary { path: "/tmp".into(), source: refused() },
        Paths => InspectError::Paths { path: path(), source: json() },
        Differs => InspectError::Differs {
            path: path(),
            inner: inner(),
            problem: "its size is another",
        },
    });
    insta::assert_snapshot!(errors);
}
