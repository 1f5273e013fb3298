//! The text of each error.

use std::{io, time::Duration};

use taipan_mirrors::{Class, SafeUrl};
use url::Url;

use crate::{
    Attempt, BackendError, ByteRange, CredentialsError, FetchError, HttpClientError, NetrcError,
    SinkError, TimeoutPhase, VerifyError, error::chain,
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
            text.push_str(&format!("  {}: {}\n", stringify!($variant), chain(&sample)));
        )*
        text
    }};
}

const SECOND: Duration = Duration::from_secs(1);

fn url() -> String {
    "https://a.example/f".to_owned()
}

fn safe_url() -> SafeUrl {
    let url: Url = "https://user:hunter2@a.example/f?token=hunter2"
        .parse()
        .unwrap();
    url.into()
}

fn cause() -> Box<dyn std::error::Error + Send + Sync> {
    io::Error::other("the cause").into()
}

fn denied() -> io::Error {
    io::ErrorKind::PermissionDenied.into()
}

fn range() -> ByteRange {
    ByteRange::new(10, 20).unwrap()
}

fn digest() -> VerifyError {
    VerifyError::Digest {
        name: "sha256",
        expected: "aaa".to_owned(),
        got: "bbb".to_owned(),
    }
}

#[test]
fn errors_of_requests() {
    let text = texts!(BackendError {
        Status => BackendError::Status { url: safe_url(), status: 503, retry_after: Some(SECOND) },
        NotFound => BackendError::NotFound { url: url() },
        Connect => BackendError::Connect { url: safe_url(), source: cause() },
        Request => BackendError::Request { url: safe_url(), source: cause() },
        Redirect => BackendError::Redirect {
            url: url(),
            to: "https://b.example/f".to_owned(),
            why: "too many redirects from",
        },
        Certificate => BackendError::Certificate {
            url: safe_url(),
            problem: "it expired on Sat, 01 Feb 2020 00:00:00 GMT".to_owned(),
        },
        Body => BackendError::Body { url: url(), source: cause() },
        Short => BackendError::Short { url: url(), expected: 100, got: 40 },
        Long => BackendError::Long { url: url(), expected: 100 },
        Changed => BackendError::Changed { url: url() },
        Timeout => BackendError::Timeout { url: url(), phase: TimeoutPhase::Body, after: SECOND },
        Slow => BackendError::Slow { url: url(), rate: 12_345.6 },
        WrongRange => BackendError::WrongRange {
            url: url(),
            wanted: range(),
            got: "bytes 11-20/100".to_owned(),
        },
        BeyondEnd => BackendError::BeyondEnd { url: url(), wanted: range() },
        NoMultiRange => BackendError::NoMultiRange { url: url() },
        Offline => BackendError::Offline { url: url() },
        Encoded => BackendError::Encoded { url: safe_url(), encoding: "gzip".to_owned() },
        UnexpectedNotModified => BackendError::UnexpectedNotModified { url: url() },
        Denied => BackendError::Denied { place: "oci://r.example/a".to_owned(), source: None },
        NoLayer => BackendError::NoLayer {
            image: "oci://r.example/a:1".to_owned(),
            media_type: "application/x".to_owned(),
        },
        Service => BackendError::Service {
            place: "s3://bucket/f".to_owned(),
            class: Class::Unwell,
            retry_after: None,
            source: cause(),
        },
        Read => BackendError::Read { path: "/f".into(), source: denied() },
        Write => BackendError::Write { path: "/f".into(), source: denied() },
        Conflict => BackendError::Conflict { url: url() },
        BadPath => BackendError::BadPath { path: "../f".to_owned(), place: url() },
        Corrupt => BackendError::Corrupt { url: url(), source: digest() },
        Unusable => BackendError::Unusable { url: url(), source: cause() },
    });
    assert!(!text.contains("hunter2"), "{text}");
    let phases = [
        TimeoutPhase::Header,
        TimeoutPhase::FirstByte,
        TimeoutPhase::Body,
        TimeoutPhase::WholeBody,
        TimeoutPhase::Upload,
    ];
    let phases = phases.map(|phase| format!("  {phase:?}: {phase}"));
    let phases = phases.join("\n");
    insta::assert_snapshot!(format!("{text}TimeoutPhase\n{phases}"));
}

#[test]
fn errors_of_jobs() {
    let label = || "the file".to_owned();
    let attempt = Attempt {
        mirror: taipan_mirrors::MirrorId::new(0),
        name: url(),
        class: Class::NotHere,
        error: BackendError::NotFound { url: url() },
        bytes: 0,
    };
    let exhausted = || FetchError::Exhausted {
        label: label(),
        attempts: Vec::new(),
        skipped: Vec::new(),
    };
    let jobs = texts!(FetchError {
        Exhausted => exhausted(),
        Sink => FetchError::Sink { label: label(), source: SinkError::Failed(cause()) },
        Zchunk => FetchError::Zchunk {
            label: label(),
            source: Box::new(taipan_zchunk::Error::Options("a plan made for another file")),
        },
        Wrong => FetchError::Wrong { label: label(), source: Box::new(digest()) },
    });
    let details = FetchError::Exhausted {
        label: label(),
        attempts: vec![attempt],
        skipped: vec![("https://b.example/f".to_owned(), "circuit open".to_owned())],
    };
    let details = details.details().join("\n  ");
    let sinks = texts!(SinkError {
        Rejected => SinkError::Rejected(cause()),
        Failed => SinkError::Failed(cause()),
        Write => SinkError::Write { path: "/f".into(), source: denied() },
    });
    let verifiers = texts!(VerifyError {
        Size => VerifyError::Size { expected: 100, got: 40 },
        Digest => digest(),
    });
    insta::assert_snapshot!(format!("{jobs}details\n  {details}\n{sinks}{verifiers}"));
}

#[test]
fn errors_of_clients() {
    let clients = texts!(HttpClientError {
        Read => HttpClientError::Read { path: "/ca.pem".into(), source: denied() },
        Root => HttpClientError::Root { path: "/ca.pem".into(), source: None },
        Identity => HttpClientError::Identity {
            certificate: "/me.pem".into(),
            key: "/me.key".into(),
            source: reqwest::Client::new().get("http://").build().unwrap_err(),
        },
        Proxy => HttpClientError::Proxy { url: "ftp://proxy.example".to_owned() },
        Build => HttpClientError::Build {
            source: reqwest::Client::new().get("http://").build().unwrap_err(),
        },
    });
    let credentials = texts!(CredentialsError {
        Host => CredentialsError::Host { host: "a b".to_owned() },
        Token => CredentialsError::Token { host: "a.example".to_owned() },
    });
    insta::assert_snapshot!(clients + &credentials);
}

#[test]
fn errors_of_netrc() {
    insta::assert_snapshot!(texts!(NetrcError {
        Read => NetrcError::Read { path: "/.netrc".into(), source: denied() },
        TooMuch => NetrcError::TooMuch { what: "bytes", most: 1000 },
        Syntax => NetrcError::Syntax { line: 3, what: "`login` without a value" },
    }));
}
