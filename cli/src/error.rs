//! Everything that can end a command, how it is told, and with which exit code.

use std::path::PathBuf;

use serde::Serialize;
use taipan_channel::{ChannelError, RepodataError};
use taipan_installer::{PrefixError, PrepareError};
use taipan_mirrors::{ListError, LocationError};
use taipan_package::StoreError;
use taipan_solver::{SolveError, SpecError, VirtualPackageError};
use taipan_transfer::{FetchError, ParseDigestError, SinkError};

use crate::{
    exit::Exit, fetch_target::TargetError, mirror_lists::ListsError, printer::Printer,
    settings::SettingsError,
};

/// Why a command ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the channel `{name}` is not a place that packages can come from")]
    ChannelLocation { name: String, source: LocationError },
    #[error(transparent)]
    Lists(#[from] ListsError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the metalink cannot be used")]
    Metalink(#[source] ListError),
    #[error("the metalink {name} lists no files")]
    EmptyMetalink { name: String },
    #[error("the metalink {metalink} names no mirror of {file} that can be asked")]
    NoMirrorOfFile { file: String, metalink: String },
    #[error("--sha256 is wrong")]
    Sha256(#[source] ParseDigestError),
    #[error("{option} is for one file, and there are {count}")]
    OneFile { option: &'static str, count: usize },
    #[error("two files would go to {}: give them a directory each, or fetch them one by one", path.display())]
    SameOutput { path: PathBuf },
    #[error("{} is a directory: name a file with --output, or a directory with --directory", path.display())]
    OutputIsDirectory { path: PathBuf },
    #[error("--json and --output - both want stdout: leave one of them out")]
    JsonOnStdout,
    #[error("{label}: what went to stdout before its mirror failed is not what the others have")]
    StdoutBroken { label: String },
    #[error("no channel is named for it: use -c")]
    NoChannel,
    #[error("--timeout must be between 0.05 and 600 seconds")]
    ProbeTimeout,
    #[error("no mirror of {} serves now", channels.join(" or "))]
    NoMirrorServes { channels: Vec<String> },
    #[error("cannot read the spec file {}", path.display())]
    ReadSpecs {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{place}: this is not a spec")]
    SpecFile { place: String, source: SpecError },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Http(#[from] crate::http::HttpSettingsError),
    #[error("cannot start the HTTP client")]
    Client(#[source] taipan_transfer::HttpClientError),
    #[error("cannot start the threads that do the work")]
    Runtime(#[source] std::io::Error),
    #[error("{} is an environment already", prefix.display())]
    IsEnvironment { prefix: PathBuf },
    #[error("{} is not empty and is not an environment", prefix.display())]
    NotEmpty { prefix: PathBuf },
    #[error("there is no environment at {}", prefix.display())]
    NoEnvironment { prefix: PathBuf },
    #[error(transparent)]
    Repodata(Box<RepodataError>),
    #[error("cannot tell what this machine offers")]
    VirtualPackages(#[from] VirtualPackageError),
    #[error(transparent)]
    Solve(#[from] SolveError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Link(#[from] PrefixError),
    #[error("cannot read {}", path.display())]
    ReadFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot write {}", path.display())]
    WriteFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} cannot be used", path.display())]
    Zchunk {
        path: PathBuf,
        source: Box<taipan_zchunk::Error>,
    },
    #[error("{} does not end in .zck, so its content has no name: give one with --output", path.display())]
    NoOutputName { path: PathBuf },
    #[error("the demonstration failed: {0}")]
    Demo(String),
    #[error("interrupted")]
    Interrupted,
}

impl From<RepodataError> for AppError {
    fn from(error: RepodataError) -> Self {
        Self::Repodata(Box::new(error))
    }
}

impl AppError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Settings(SettingsError::NoHome { .. }) => Exit::Failed,
            Self::Lists(ListsError::Fetch { .. }) | Self::NoMirrorServes { .. } => Exit::Exhausted,
            Self::Settings(_)
            | Self::Channel(_)
            | Self::ChannelLocation { .. }
            | Self::Lists(_)
            | Self::ProbeTimeout
            | Self::Target(_)
            | Self::Metalink(_)
            | Self::EmptyMetalink { .. }
            | Self::NoMirrorOfFile { .. }
            | Self::Sha256(_)
            | Self::OneFile { .. }
            | Self::SameOutput { .. }
            | Self::OutputIsDirectory { .. }
            | Self::JsonOnStdout
            | Self::NoChannel
            | Self::ReadSpecs { .. }
            | Self::SpecFile { .. }
            | Self::Spec(_)
            | Self::IsEnvironment { .. }
            | Self::NotEmpty { .. }
            | Self::NoEnvironment { .. }
            | Self::NoOutputName { .. }
            | Self::Solve(SolveError::UnknownChannel { .. } | SolveError::NotOneName { .. }) => {
                Exit::Usage
            }
            Self::Solve(SolveError::Unsatisfiable(_) | SolveError::UnknownPackage { .. }) => {
                Exit::Unsatisfiable
            }
            Self::Fetch(source) | Self::Prepare(PrepareError::Fetch { source, .. }) => {
                exit_of_fetch(source)
            }
            Self::Repodata(error) => match &**error {
                RepodataError::Fetch { source, .. } => exit_of_fetch(source),
                RepodataError::NoSubdir { .. } => Exit::Exhausted,
                RepodataError::Cache { .. } => Exit::Failed,
            },
            Self::StdoutBroken { .. } | Self::Prepare(PrepareError::NoDigest { .. }) => {
                Exit::Verification
            }
            Self::Zchunk { source, .. } => match **source {
                taipan_zchunk::Error::Options(_) => Exit::Usage,
                taipan_zchunk::Error::Read { .. }
                | taipan_zchunk::Error::Write(_)
                | taipan_zchunk::Error::Compress { .. } => Exit::Failed,
                _ => Exit::Verification,
            },
            Self::Interrupted
            | Self::Link(PrefixError::Cancelled)
            | Self::Solve(SolveError::Cancelled) => Exit::Interrupted,
            _ => Exit::Failed,
        }
    }

    /// What the user may do about it, when the error itself does not say.
    fn hint(&self) -> Option<String> {
        match self {
            Self::IsEnvironment { prefix } => {
                let prefix = prefix.display();
                Some(format!("use `taipan install -p {prefix} …` to add to it"))
            }
            Self::NotEmpty { .. } => Some("name a directory that is new or empty".to_owned()),
            Self::NoEnvironment { prefix } => {
                let prefix = prefix.display();
                Some(format!("use `taipan create -p {prefix} …` to make one"))
            }
            Self::Repodata(error) => match &**error {
                RepodataError::Fetch { source, .. } if source.is_corrupt() => Some(
                    "check the address of the channel and of its mirrors, and whether a login page or \
                     a proxy answers in their place"
                        .to_owned(),
                ),
                RepodataError::Fetch { source, .. } => hint_of_fetch(source),
                RepodataError::NoSubdir { .. } => Some(
                    "check the name of the channel; --channel-alias says where names are looked up, \
                     and a mirrors file may name other places"
                        .to_owned(),
                ),
                RepodataError::Cache { .. } => None,
            },
            Self::Fetch(source) | Self::Prepare(PrepareError::Fetch { source, .. }) => {
                hint_of_fetch(source)
            }
            Self::Store(StoreError::Full { .. }) => Some(FULL.to_owned()),
            Self::Store(StoreError::ReadOnly { .. } | StoreError::Permission { .. }) => {
                Some("name a directory that you may write to with --cache-dir".to_owned())
            }
            Self::Link(PrefixError::Io { source, path, .. }) => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Some(FULL.to_owned())
                }
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    let parent = path.parent().unwrap_or(path).display();
                    Some(format!(
                        "choose a prefix that you may write to, or get leave to write below {parent}"
                    ))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Tells the error, with its causes and what may help.
    pub(crate) fn print(&self, printer: &Printer) {
        #[derive(Serialize)]
        struct Failure {
            message: String,
            causes: Vec<String>,
            hint: Option<String>,
            exit_code: u8,
        }
        let message = self.to_string();
        let causes = causes(self, &message);
        let mut text = message.clone();
        for cause in &causes {
            text.push_str("\n  caused by: ");
            text.push_str(&cause.replace('\n', "\n  "));
        }
        let hint = self.hint();
        if let Some(hint) = &hint {
            text.push_str("\n  hint: ");
            text.push_str(hint);
        }
        printer.error(&text);
        let failure = Failure {
            message,
            causes,
            hint,
            exit_code: self.exit() as u8,
        };
        printer.object("error", &failure);
    }
}

/// The causes of an error whose own text is `message`.
fn causes(error: &dyn std::error::Error, message: &str) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // Some libraries put the cause into their own text.
        if !message.contains(&text) && causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let message = error.to_string();
    let causes = causes(error, &message);
    [vec![message], causes].concat().join(": ")
}

const FULL: &str = "free some space, or name another disk with --cache-dir or --prefix; what was \
                    complete is kept, and the next run goes on from there";

fn exit_of_fetch(error: &FetchError) -> Exit {
    match error {
        FetchError::Sink { .. } => Exit::Failed,
        _ if error.is_corrupt() => Exit::Verification,
        _ => Exit::Exhausted,
    }
}

fn hint_of_fetch(error: &FetchError) -> Option<String> {
    match error {
        FetchError::Sink { source, .. } => {
            let mut next: Option<&dyn std::error::Error> = Some(source);
            while let Some(error) = next {
                let io = error.downcast_ref::<std::io::Error>();
                if io.is_some_and(|io| {
                    matches!(
                        io.kind(),
                        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
                    )
                }) {
                    return Some(FULL.to_owned());
                }
                next = error.source();
            }
            matches!(source, SinkError::Rejected(_)).then(|| {
                "the archive is what the channel says it is, so the package itself is broken: tell \
                 whoever publishes the channel, and ask for another version"
                    .to_owned()
            })
        }
        FetchError::Exhausted { .. } if error.is_corrupt() => Some(
            "all mirrors that have the file serve other bytes than were expected: where the digest \
             comes from may be out of date, or the file was tampered with"
                .to_owned(),
        ),
        FetchError::Zchunk { .. } | FetchError::Wrong { .. } => None,
        FetchError::Exhausted { .. } => {
            Some("name more mirrors with --mirrors, or try again later".to_owned())
        }
    }
}
