//! The text of each error and warning.

use std::io;

use taipan_package::StoreError;
use taipan_transfer::{FetchError, SinkError};

use crate::{LinkWarning, PrefixError, PrepareError};

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
        if error.is::<FetchError>() {
            lines.push("    caused by: (the error of the transfer)".to_owned());
            break;
        }
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

fn package() -> String {
    "a-1-0".to_owned()
}

#[test]
fn prefix_errors() {
    insta::assert_snapshot!(texts!(PrefixError {
        Io => PrefixError::Io { action: "create directory", path: "/env".into(), source: refused() },
        BadRecord => PrefixError::BadRecord { path: "/env/a.json".into(), source: json() },
        UnsafeRecord => PrefixError::UnsafeRecord {
            package: package(),
            recorded: "../x".to_owned(),
        },
        BadPackage => PrefixError::BadPackage {
            package: package(),
            file: "info/paths.json",
            source: refused(),
        },
        ForeignLink => PrefixError::ForeignLink { path: "share".into(), package: package() },
        PathEscape => PrefixError::PathEscape { package: package(), path: "../x".to_owned() },
        MissingFile => PrefixError::MissingFile { package: package(), path: "lib/x".into() },
        FileDirectoryConflict => PrefixError::FileDirectoryConflict {
            path: "lib/x".into(),
            file_owner: package(),
            directory_owner: "b-1-0".to_owned(),
        },
        DirectoryInTheWay => PrefixError::DirectoryInTheWay {
            path: "lib/x".into(),
            package: package(),
        },
        PrefixTooLong => PrefixError::PrefixTooLong {
            package: package(),
            path: "lib/x".into(),
            available: 80,
            needed: 90,
        },
        UnusablePrefix => PrefixError::UnusablePrefix { path: "/env".into() },
        NoPython => PrefixError::NoPython { package: package() },
        SitePackagesEscape => PrefixError::SitePackagesEscape {
            package: "python-3.12.1-0".to_owned(),
            path: "../x".to_owned(),
        },
        ScriptFailed => PrefixError::ScriptFailed {
            package: package(),
            kind: "post-link",
            status: "exit status: 1".to_owned(),
            output: "no such command\n\n".to_owned(),
        },
        PrefixChanged => PrefixError::PrefixChanged { path: "/env".into() },
        Frozen => PrefixError::Frozen {
            path: "/env".into(),
            message: Some("managed by the administrator".to_owned()),
        },
        BadJournal => PrefixError::BadJournal { path: "/env/journal".into(), source: json() },
        Threads => PrefixError::Threads {
            source: rayon::ThreadPoolBuilder::new()
                .spawn_handler(|_| Err(refused()))
                .build()
                .unwrap_err(),
        },
        RollbackFailed => PrefixError::RollbackFailed {
            prefix: "/env".into(),
            cause: Box::new(PrefixError::Cancelled),
            source: Box::new(PrefixError::Io {
                action: "restore",
                path: "/env/lib/x".into(),
                source: refused(),
            }),
        },
        Cancelled => PrefixError::Cancelled,
    }));
}

#[test]
fn prepare_errors() {
    let file = || "a-1-0.conda".to_owned();
    let url = || "https://host.example/noarch/a.zip".parse().unwrap();
    insta::assert_snapshot!(texts!(PrepareError {
        Fetch => PrepareError::Fetch {
            file: file(),
            source: FetchError::Sink {
                label: file(),
                source: SinkError::Failed(Box::new(refused())),
            },
        },
        Store => PrepareError::Store { file: file(), source: StoreError::NoKey },
        Archive => PrepareError::Archive { url: url() },
        Url => PrepareError::Url { url: url() },
        NoDigest => PrepareError::NoDigest { url: url() },
    }));
}

#[test]
fn warnings() {
    let (path, reason) = (|| "lib/x".into(), || "the system refused".to_owned());
    let warnings = [
        LinkWarning::Clobber {
            path: path(),
            winner: package(),
            losers: vec!["b-1-0".to_owned(), "c-1-0".to_owned()],
        },
        LinkWarning::UnownedReplaced {
            path: path(),
            package: package(),
        },
        LinkWarning::ReservedPath {
            path: path(),
            package: package(),
        },
        LinkWarning::ScriptFailed {
            package: package(),
            kind: "pre-unlink",
            status: "exit status: 1".to_owned(),
        },
        LinkWarning::NotCompiled {
            reason: reason(),
            files: 3,
        },
        LinkWarning::LeftBehind {
            path: path(),
            reason: reason(),
        },
    ];
    // A new warning needs a sample, too.
    for warning in &warnings {
        match warning {
            LinkWarning::Clobber { .. }
            | LinkWarning::UnownedReplaced { .. }
            | LinkWarning::ReservedPath { .. }
            | LinkWarning::ScriptFailed { .. }
            | LinkWarning::NotCompiled { .. }
            | LinkWarning::LeftBehind { .. } => {}
        }
    }
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
