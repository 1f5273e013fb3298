use std::{fmt::Write as _, io};
#[cfg(feature = "demo")]
use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use taipan_channel::{ChannelError, RecordProblem};
use taipan_mirrors::{
    Class, Location, LocationError, Metalink, MirrorId, MirrorSource, Provenance, SafeUrl,
};
use taipan_solver::{SolveError, parse_spec};
use taipan_transfer::{BackendError, Netrc, Sha256, VerifyError};

use super::*;
use crate::{
    auth::{AuthError, Place},
    destinations::DestinationError,
    environment::Environment,
    fetch_argument::{FetchArgument, FetchArgumentError},
    file_url::{FileUrl, FileUrlError},
    http::HttpSettingsError,
    list_location::ListLocation,
    mirror_lists::{FetchListError, MirrorListError},
    settings::SettingsError,
};

fn io_error(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

fn not_found() -> io::Error {
    io_error(io::ErrorKind::NotFound)
}

fn safe_url(text: &str) -> SafeUrl {
    text.parse().unwrap()
}

/// The texts of errors with their exit codes.
fn render(errors: impl IntoIterator<Item = impl Into<AppError>>) -> String {
    let mut text = String::new();
    for error in errors {
        let error = error.into();
        writeln!(text, "[{}] error: {}", error.exit() as u8, error.report()).unwrap();
    }
    text
}

fn attempt(mirror: u32, error: BackendError) -> Attempt {
    Attempt {
        mirror: MirrorId::new(mirror),
        name: format!("https://{mirror}.example/"),
        class: error.class(),
        error,
        bytes: 0,
    }
}

fn status(status: u16) -> BackendError {
    BackendError::Status {
        url: safe_url("https://a.example/f?token=hunter2"),
        status,
        retry_after: None,
    }
}

fn corrupt() -> BackendError {
    BackendError::Corrupt {
        url: "https://b.example/f".to_owned(),
        source: VerifyError::Size {
            expected: 3,
            got: 2,
        },
    }
}

fn exhausted(errors: Vec<BackendError>) -> FetchError {
    FetchError::Exhausted {
        label: "noarch/f.conda".to_owned(),
        attempts: (0..).zip(errors).map(|(n, e)| attempt(n, e)).collect(),
        skipped: vec![("https://c.example/".to_owned(), "offline".to_owned())],
    }
}

fn sink(source: SinkError) -> FetchError {
    FetchError::Sink {
        label: "noarch/f.conda".to_owned(),
        source,
    }
}

#[test]
fn errors_of_credentials() {
    let helper = || "docker-credential-pass".to_owned();
    let path = || "/home/me/.docker/config.json".into();
    insta::assert_snapshot!(render([
        Place::parse("ghcr.io").unwrap_err(),
        Place::parse("https://me:hunter2@a.example/").unwrap_err(),
        AuthError::Bucket,
        AuthError::NoUser,
        AuthError::Secret {
            what: "the password"
        },
        AuthError::NoTerminal,
        AuthError::Read(io_error(io::ErrorKind::BrokenPipe)),
        AuthError::ReadFile {
            path: path(),
            source: io_error(io::ErrorKind::PermissionDenied),
        },
        AuthError::WriteFile {
            path: path(),
            source: io_error(io::ErrorKind::ReadOnlyFilesystem),
        },
        AuthError::NoHome {
            variable: "DOCKER_CONFIG",
        },
        AuthError::Helper {
            name: helper(),
            source: not_found(),
        },
        AuthError::HelperFailed {
            name: helper(),
            status: "1".to_owned(),
        },
    ]));
}

#[test]
fn errors_of_settings() {
    let parse = toml::from_str::<toml::Table>("jobs = \n").unwrap_err();
    let environment: Environment = [("TAIPAN_JOBS", "many")].into_iter().collect();
    let netrc = Netrc::read("/nonexistent/dir/netrc".as_ref());
    assert!(netrc.is_ok(), "a missing netrc file is not an error");
    let settings = [
        SettingsError::Read {
            path: "/c/config.toml".into(),
            source: not_found(),
        },
        SettingsError::Parse {
            path: "/c/config.toml".into(),
            source: Box::new(parse),
        },
        environment
            .number::<usize>("TAIPAN_JOBS")
            .unwrap_err()
            .into(),
        SettingsError::Alias {
            text: "here".to_owned(),
        },
        SettingsError::Country {
            text: "Germany".to_owned(),
        },
        SettingsError::Platform {
            text: "amiga".to_owned(),
        },
        SettingsError::NoHome {
            what: "cache",
            option: "--cache-dir or TAIPAN_CACHE_DIR",
        },
        SettingsError::NoPlatform,
        SettingsError::Jobs,
        ListLocation::parse("s3://me:pw@bucket/list")
            .unwrap_err()
            .into(),
    ];
    let http = [
        HttpSettingsError::Proxy,
        HttpSettingsError::KeyAlone,
        HttpSettingsError::Netrc {
            path: "/home/me/.netrc".into(),
            source: taipan_transfer::NetrcError::Read {
                path: "/home/me/.netrc".into(),
                source: io_error(io::ErrorKind::PermissionDenied),
            },
        },
        HttpSettingsError::Credentials(AuthError::Invalid {
            path: "/home/me/.config/taipan/credentials.json".into(),
            source: serde_json::from_str::<u8>("{").unwrap_err(),
        }),
        HttpSettingsError::Client(taipan_transfer::HttpClientError::Read {
            path: "/c/ca.pem".into(),
            source: not_found(),
        }),
    ];
    insta::assert_snapshot!(render(settings) + &render(http));
}

#[test]
fn errors_of_channels_and_mirror_lists() {
    let channels = [
        AppError::Channel(ChannelError::Name {
            name: "a b".to_owned(),
        }),
        AppError::ChannelLocation {
            name: "https://a.example/".to_owned(),
            source: Location::parse("ftp://a.example/").unwrap_err(),
        },
    ];
    let parse = |text: &str| MirrorSource::parse(text, "list", &[], |_| Provenance::CommandLine);
    let fetch = |source| MirrorListError::Fetch {
        url: safe_url("https://me:pw@a.example/list"),
        source,
    };
    let lists = [
        MirrorListError::Read {
            path: "list".into(),
            source: not_found(),
        },
        MirrorListError::Parse(parse("# nothing\n").unwrap_err()),
        MirrorListError::WhichChannel {
            list: "list".to_owned(),
            count: 2,
        },
        MirrorListError::NoBase {
            list: "list".to_owned(),
        },
        fetch(FetchListError::Request(Box::new(status(503)))),
        fetch(FetchListError::TooLarge),
        fetch(FetchListError::NotText(
            taipan_mirrors::decode_text(b"\xff").unwrap_err(),
        )),
        fetch(FetchListError::Offline),
        fetch(FetchListError::Timeout),
    ];
    insta::assert_snapshot!(render(channels) + &render(lists));
}

#[test]
fn errors_of_fetch_arguments() {
    let argument = |text: &str| FetchArgument::parse(text, false, true).unwrap_err();
    let url = |text: &str| FetchArgumentError::from(FileUrl::parse(text).unwrap_err());
    let unnamed = FileUrlError::NoName {
        url: "https://a.example/".to_owned(),
    };
    let arguments = [
        argument("https://me:pw@[a/f"),
        argument("noarch/"),
        argument("s3://bucket/f.meta4"),
        url("oci://r.example/n/f"),
        url("s3://bucket/"),
        FetchArgumentError::from(unnamed),
    ];
    let metalink = Metalink::parse("<metalink>", "f.meta4", |_| Provenance::CommandLine);
    let path = || "out/f".into();
    let others = [
        AppError::Metalink(metalink.unwrap_err()),
        AppError::EmptyMetalink {
            name: "f.meta4".to_owned(),
        },
        AppError::NoMirrorOfFile {
            file: "f".to_owned(),
            metalink: "f.meta4".to_owned(),
        },
        AppError::Digest {
            option: "--sha256",
            source: "abc".parse::<Sha256>().unwrap_err(),
        },
        AppError::OneFile {
            option: "--output",
            count: 2,
        },
        AppError::SameOutput { path: path() },
        AppError::OutputIsDirectory { path: path() },
        AppError::JsonOnStdout,
        AppError::NoChannel,
        AppError::ProbeTimeout,
        AppError::NoUsableMirror {
            channels: vec!["conda-forge".to_owned(), "bioconda".to_owned()],
        },
    ];
    insta::assert_snapshot!(render(arguments) + &render(others));
}

#[test]
fn errors_of_transfers() {
    let fetch = |source| {
        AppError::Repodata(Box::new(RepodataError::Fetch {
            channel: "conda-forge".to_owned(),
            subdir: "noarch".to_owned(),
            source,
        }))
    };
    let prepare = |source| {
        AppError::Prepare(PrepareError::Fetch {
            file: "f.conda".to_owned(),
            source,
        })
    };
    let errors = [
        AppError::Fetch(exhausted(vec![status(404), corrupt()])),
        AppError::Fetch(exhausted(vec![corrupt()])),
        fetch(exhausted(vec![status(500)])),
        fetch(exhausted(vec![corrupt()])),
        AppError::Repodata(Box::new(RepodataError::Cache {
            path: "/cache/repodata".into(),
            source: io_error(io::ErrorKind::PermissionDenied),
        })),
        AppError::Repodata(Box::new(RepodataError::NoSubdir {
            channel: "conda-forge".to_owned(),
            subdirs: vec!["linux-64".to_owned(), "noarch".to_owned()],
        })),
        prepare(exhausted(vec![status(404)])),
        prepare(sink(SinkError::Rejected("not an archive".into()))),
        prepare(sink(SinkError::Write {
            path: "/cache/f".into(),
            source: io_error(io::ErrorKind::StorageFull),
        })),
        AppError::Prepare(PrepareError::NoDigest {
            url: "https://a.example/f.conda".parse().unwrap(),
        }),
        AppError::StdoutBroken {
            label: "f".to_owned(),
        },
    ];
    insta::assert_snapshot!(render(errors));
}

#[test]
fn errors_of_environments() {
    let spec = || parse_spec("numpy >=").unwrap_err();
    let prefix = || "/envs/one".into();
    let link = |kind| {
        AppError::Link(PrefixError::Io {
            action: "create",
            path: "/envs/one/bin".into(),
            source: io_error(kind),
        })
    };
    let errors = [
        AppError::ReadSpecs {
            path: "specs.txt".into(),
            source: not_found(),
        },
        AppError::SpecFile {
            place: "specs.txt:3: `numpy >=`".to_owned(),
            source: spec(),
        },
        AppError::Spec(spec()),
        AppError::IsEnvironment { prefix: prefix() },
        AppError::NotEmpty { prefix: prefix() },
        AppError::NoEnvironment { prefix: prefix() },
        AppError::Solve(SolveError::NotOneName {
            spec: "py*".to_owned(),
        }),
        AppError::Solve(SolveError::Cancelled),
        AppError::Store(StoreError::Full {
            action: "write",
            path: "/cache/pkgs".into(),
            source: io_error(io::ErrorKind::StorageFull),
        }),
        AppError::Store(StoreError::Permission {
            action: "write",
            path: "/cache/pkgs".into(),
            source: io_error(io::ErrorKind::PermissionDenied),
        }),
        link(io::ErrorKind::PermissionDenied),
        link(io::ErrorKind::QuotaExceeded),
        AppError::Link(PrefixError::Cancelled),
    ];
    insta::assert_snapshot!(render(errors));
}

#[test]
fn errors_of_publishing() {
    let denied = |place: &str, why: &str| BackendError::Denied {
        place: place.to_owned(),
        source: Some(why.into()),
    };
    let delivery = |error| DeliveryError {
        action: "upload",
        label: "noarch/a-1-0.conda".to_owned(),
        attempts: vec![attempt(0, error)],
    };
    let place = || "s3://bucket/c".to_owned();
    let subdirs = || vec!["noarch".to_owned(), "linux-64".to_owned()];
    let errors = [
        AppError::Destination(DestinationError::Location {
            text: "ftp://x".to_owned(),
            source: LocationError::UnknownScheme {
                scheme: "ftp".to_owned(),
            },
        }),
        AppError::Destination(DestinationError::Web {
            text: "https://x.example/c".to_owned(),
        }),
        AppError::Destination(DestinationError::Endpoint {
            text: "localhost".to_owned(),
        }),
        AppError::Destination(DestinationError::Twice { text: place() }),
        AppError::Destination(DestinationError::Source { text: place() }),
        AppError::Destination(DestinationError::TooMany { count: 65 }),
        AppError::Delivery(delivery(denied(
            "s3://bucket/c/noarch/a-1-0.conda",
            "it responded with 403 ExpiredToken: The provided token has expired.",
        ))),
        AppError::Delivery(delivery(denied(
            "oci://r.example/c/noarch/a",
            "it responded with 403 DENIED",
        ))),
        AppError::Delivery(delivery(BackendError::Write {
            path: "/srv/c/noarch/a-1-0.conda".into(),
            source: io_error(io::ErrorKind::StorageFull),
        })),
        AppError::from(SyncError::TooManyDropped {
            subdir: "noarch".to_owned(),
            place: place(),
            dropped: 7,
            published: 70,
            limit: 5.0,
        }),
        AppError::Exists {
            path: "noarch/a-1-0.conda".to_owned(),
            place: place(),
        },
        AppError::Record {
            path: "a-1-0.conda".into(),
            problem: RecordProblem::Missing("name"),
        },
        AppError::EmptyLock {
            path: "pixi.lock".into(),
        },
        AppError::Date {
            text: "soon".to_owned(),
        },
        AppError::NothingToClose,
        AppError::NoMirror {
            place: place(),
            subdirs: subdirs(),
        },
        AppError::NoMirrorIndex {
            place: place(),
            subdirs: subdirs(),
        },
    ];
    insta::assert_snapshot!(render(errors));
}

#[test]
fn other_errors() {
    let zchunk = |source| AppError::Zchunk {
        path: "f.zck".into(),
        source: Box::new(source),
    };
    let errors = [
        AppError::Runtime(io_error(io::ErrorKind::OutOfMemory)),
        AppError::ReadFile {
            path: "f".into(),
            source: not_found(),
        },
        AppError::WriteFile {
            path: "f".into(),
            source: io_error(io::ErrorKind::PermissionDenied),
        },
        zchunk(taipan_zchunk::Error::Magic),
        zchunk(taipan_zchunk::Error::Options("a level and no compression")),
        zchunk(taipan_zchunk::Error::Write(io_error(
            io::ErrorKind::StorageFull,
        ))),
        AppError::NoOutputName { path: "f".into() },
        #[cfg(feature = "demo")]
        AppError::Demo {
            action: "start the mirrors",
            source: io_error(io::ErrorKind::AddrInUse),
        },
        #[cfg(feature = "demo")]
        AppError::DemoStep {
            program: "taipan".to_owned(),
            status: ExitStatus::from_raw(4 << 8),
        },
        AppError::Interrupted,
    ];
    insta::assert_snapshot!(render(errors));
}

#[test]
fn the_json_object_lists_attempts_as_data() {
    let error = AppError::Fetch(exhausted(vec![status(404)]));
    insta::assert_snapshot!(serde_json::to_string_pretty(&error.report()).unwrap());
    assert_eq!(status(404).class(), Class::NotHere);
}
