//! The text of each error.

use std::io;

use taipan_transfer::{DeliveryError, FetchError, SinkError};

use crate::{
    BuildError, ChannelError, FilterError, IndexError, RecordProblem, RepodataError, ScanError,
    SyncError, index::RecordError, oci_layout::OciLayoutError,
};

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

fn json() -> serde_json::Error {
    serde_json::from_str::<u8>("x").unwrap_err()
}

#[test]
fn channel_errors() {
    let name = || "a b".to_owned();
    let channels = texts!(ChannelError {
        Name => ChannelError::Name { name: name() },
        Url => ChannelError::Url { name: name(), source: url::ParseError::EmptyHost },
        Scheme => ChannelError::Scheme { name: name(), scheme: "ftp".to_owned() },
    });
    let layout = texts!(OciLayoutError {
        Name => OciLayoutError::Name("a._b".to_owned()),
        Tag => OciLayoutError::Tag("1-x y".to_owned()),
        Archive => OciLayoutError::Archive("a.zip".to_owned()),
    });
    insta::assert_snapshot!(channels + &layout);
}

#[test]
fn index_errors() {
    let file_name = || "a-1-0.conda".to_owned();
    let record = || RecordError::OtherName {
        name: "b".to_owned(),
    };
    let index = texts!(IndexError {
        WebPage => IndexError::WebPage { beginning: "<html>".to_owned() },
        NotText => IndexError::NotText { offset: 1 },
        CutShort => IndexError::CutShort { line: 1, column: 2 },
        Syntax => IndexError::Syntax { line: 1, column: 2, source: json() },
        Shape => IndexError::Shape { line: 1, column: 2, source: json() },
        TooManyRecords => IndexError::TooManyRecords { limit: 9 },
        RecordTooLarge => IndexError::RecordTooLarge {
            file_name: file_name(),
            length: 10,
            limit: 9,
        },
        TooLong => IndexError::TooLong { length: 5_000_000_000 },
        BaseUrl => IndexError::BaseUrl {
            base_url: "file:///".to_owned(),
            reason: "it is not a URL",
        },
        Version => IndexError::Version { version: 4, newest: 3 },
        NoUsableRecord => IndexError::NoUsableRecord {
            name: "a".to_owned(),
            file_name: file_name(),
            source: record(),
        },
    });
    let records = texts!(RecordError {
        FileName => RecordError::FileName { reason: "it has an invalid character" },
        OtherName => record(),
        Fields => RecordError::Fields(json()),
    });
    insta::assert_snapshot!(index + &records);
}

#[test]
fn repodata_errors() {
    let refused = || io::Error::other("the system refused");
    let (channel, subdir) = ("main".to_owned(), "noarch".to_owned());
    let errors = texts!(RepodataError {
        Fetch => RepodataError::Fetch {
            channel: channel.clone(),
            subdir,
            source: FetchError::Sink {
                label: "main/noarch/repodata.json".to_owned(),
                source: SinkError::Failed(Box::new(refused())),
            },
        },
        NoSubdir => RepodataError::NoSubdir {
            channel,
            subdirs: vec!["main/linux-64".to_owned(), "main/noarch".to_owned()],
        },
        Cache => RepodataError::Cache { path: "/cache/a".into(), source: refused() },
    });
    insta::assert_snapshot!(errors);
}

fn delivery() -> DeliveryError {
    DeliveryError {
        action: "upload",
        label: "noarch/a-1-0.conda".to_owned(),
        attempts: Vec::new(),
    }
}

fn fetch() -> FetchError {
    FetchError::Sink {
        label: "main/noarch/repodata.json".to_owned(),
        source: SinkError::Failed(Box::new(io::Error::other("the system refused"))),
    }
}

#[test]
fn sync_errors() {
    let (subdir, place) = (|| "noarch".to_owned(), || "s3://bucket/c".to_owned());
    let refused = || io::Error::other("the system refused");
    let scan = || ScanError::Syntax {
        what: "no object",
        offset: 7,
    };
    let errors = texts!(SyncError {
        Source => SyncError::Source { subdir: subdir(), source: fetch() },
        NoSubdir => SyncError::NoSubdir { subdir: "subdir `noarch`".to_owned() },
        State => SyncError::State { place: place(), source: fetch() },
        Published => SyncError::Published { place: place(), source: fetch() },
        BadState => SyncError::BadState { place: place(), problem: "it has version 9".to_owned() },
        TooManyDropped => SyncError::TooManyDropped {
            subdir: subdir(),
            place: place(),
            dropped: 7,
            published: 70,
            limit: 5.0,
        },
        Destination => SyncError::Destination(delivery()),
        Held => SyncError::Held { subdir: subdir(), place: place(), count: 3 },
        GaveUp => SyncError::GaveUp {
            place: place(),
            count: 20,
            problem: "it responded with 500".to_owned(),
        },
        Contended => SyncError::Contended { place: place() },
        Local => SyncError::Local { path: "/tmp/x".into(), source: refused() },
        Filter => SyncError::Filter(FilterError::Read(refused())),
        Loop => SyncError::Loop { place: place() },
    });
    let scans = texts!(ScanError {
        Read => ScanError::Read(refused()),
        Syntax => scan(),
        Value => ScanError::Value { key: "info".to_owned(), offset: 7, source: json() },
        TooLong => ScanError::TooLong { key: "odd".to_owned(), limit: 9 },
    });
    insta::assert_snapshot!(errors + &scans);
}

#[test]
fn publishing_errors() {
    let place = || "s3://bucket/c/noarch".to_owned();
    let records = texts!(RecordProblem {
        Index => RecordProblem::Index("EOF".to_owned()),
        Missing => RecordProblem::Missing("name"),
        Name => RecordProblem::Name {
            found: "a-2-0.conda".to_owned(),
            expected: "a-1-0.conda".to_owned(),
        },
        Subdir => RecordProblem::Subdir {
            found: "noarch".to_owned(),
            wanted: "linux-64".to_owned(),
        },
        Character => RecordProblem::Character,
    });
    let builds = texts!(BuildError {
        NoListing => BuildError::NoListing { place: place() },
        Destination => BuildError::Destination(delivery()),
        Sync => BuildError::Sync(SyncError::Contended { place: place() }),
        Conflict => BuildError::Conflict { place: place() },
    });
    insta::assert_snapshot!(records + &builds);
}
