//! The text of each error.

use std::io;

use taipan_transfer::{FetchError, SinkError};

use crate::{
    ChannelError, IndexError, RepodataError, index::RecordError, oci_layout::OciLayoutError,
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
