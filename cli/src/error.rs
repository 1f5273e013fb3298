//! Every error that can end a command, and its exit code. `error_report.rs` prints them.

#[cfg(feature = "demo")]
use std::process::ExitStatus;
use std::{io, path::PathBuf};

use rattler_conda_types::Subdir;
use taipan_channel::{
    BuildError, ChannelError, FilterError, OciLayoutError, RecordProblem, RepodataError, SyncError,
};
use taipan_installer::{PrefixError, PrepareError};
use taipan_mirrors::{ListError, LocationError};
use taipan_package::{InspectError, StoreError};
use taipan_solver::{SolveError, SpecError, VirtualPackageError};
use taipan_transfer::{DeliveryError, FetchError, ParseDigestError};

use crate::{
    args::sync_file::SyncFileError, auth::AuthError, destinations::DestinationError, exit::Exit,
    fetch_argument::FetchArgumentError, http::HttpSettingsError, mirror_lists::MirrorListError,
    settings::SettingsError,
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Http(#[from] HttpSettingsError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("invalid location of the channel `{name}`")]
    ChannelLocation { name: String, source: LocationError },
    #[error(transparent)]
    MirrorList(#[from] MirrorListError),
    #[error(transparent)]
    FetchArgument(#[from] FetchArgumentError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("cannot parse the metalink")]
    Metalink(#[source] ListError),
    #[error("the metalink {name} lists no files")]
    EmptyMetalink { name: String },
    #[error("the metalink {metalink} lists no supported mirror of {file}")]
    NoMirrorOfFile { file: String, metalink: String },
    #[error("invalid value for `{option}`")]
    Digest {
        option: &'static str,
        source: ParseDigestError,
    },
    #[error("{option} requires a single file, but {count} files are to be fetched")]
    OneFile { option: &'static str, count: usize },
    #[error("two files have the output path {}: fetch them separately, with --output or --directory", path.display())]
    SameOutput { path: PathBuf },
    #[error("the output path {} is a directory: use --output with another path, or --directory to write into it", path.display())]
    OutputIsDirectory { path: PathBuf },
    #[error("--json and `--output -` cannot be combined: both write to stdout")]
    JsonOnStdout,
    #[error(
        "cannot resume {label}: the content differs now, and part was already written \
         to stdout"
    )]
    StdoutBroken { label: String },
    #[error("no channel is given: use --channel")]
    NoChannel,
    #[error("invalid value for `--timeout`: use 0.05 to 600 seconds")]
    ProbeTimeout,
    #[error("no usable mirror of {}", channels.join(" or "))]
    NoUsableMirror { channels: Vec<String> },
    #[error("cannot read the spec file {}", path.display())]
    ReadSpecs { path: PathBuf, source: io::Error },
    #[error("{} is {kind}, which is not read: give a file with one spec per line", path.display())]
    ForeignSpecs { path: PathBuf, kind: &'static str },
    #[error("{place}: invalid spec")]
    SpecFile { place: String, source: SpecError },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("no environment is named: use --prefix{}", if *creating { "" } else { ", or activate one" })]
    NoPrefix { creating: bool },
    #[error("the environment {} is for {known}: it cannot get packages for {wanted}", prefix.display())]
    OtherPlatform {
        prefix: PathBuf,
        known: Subdir,
        wanted: Subdir,
    },
    #[error("cannot start the async runtime")]
    Runtime(#[source] io::Error),
    #[error("{} is already an environment", prefix.display())]
    IsEnvironment { prefix: PathBuf },
    #[error("{} is not empty and is not an environment", prefix.display())]
    NotEmpty { prefix: PathBuf },
    #[error("no environment at {}", prefix.display())]
    NoEnvironment { prefix: PathBuf },
    #[error(transparent)]
    Repodata(Box<RepodataError>),
    #[error("cannot detect virtual packages")]
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
    ReadFile { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("cannot process {}", path.display())]
    Zchunk {
        path: PathBuf,
        source: Box<taipan_zchunk::Error>,
    },
    #[error("the name {} does not end in .zck: use --output to name the output file", path.display())]
    NoOutputName { path: PathBuf },
    #[cfg(feature = "demo")]
    #[error("the demo cannot {action}")]
    Demo {
        action: &'static str,
        source: io::Error,
    },
    #[cfg(feature = "demo")]
    #[error("the demo failed: {program} ended with {status}")]
    DemoStep { program: String, status: ExitStatus },
    #[error(transparent)]
    Destination(#[from] DestinationError),
    #[error(transparent)]
    SyncFile(#[from] SyncFileError),
    #[error(transparent)]
    Sync(Box<SyncError>),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("{} names no package: give a pixi.lock, a conda-lock.yml or an explicit list", path.display())]
    EmptyLock { path: PathBuf },
    #[error("invalid value for `--exclude-newer`: `{text}` is not a date such as 2026-05-01")]
    Date { text: String },
    #[error(
        "`--with-dependencies` needs `--include` or `--only-names-in`: without them all packages are copied"
    )]
    NothingToClose,
    #[error("{place} is no mirror that taipan keeps: it has no state in {}", subdirs.join(", "))]
    NoMirror { place: String, subdirs: Vec<String> },
    #[error("{place} has no index in {}", subdirs.join(", "))]
    NoMirrorIndex { place: String, subdirs: Vec<String> },
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("{} cannot be uploaded: {problem}", path.display())]
    Record {
        path: PathBuf,
        problem: RecordProblem,
    },
    #[error("{path} exists at {place} with other content")]
    Exists { path: String, place: String },
    #[error("{file} cannot be in a registry")]
    Layout {
        file: String,
        source: OciLayoutError,
    },
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error(transparent)]
    Build(Box<BuildError>),
    #[error("interrupted")]
    Interrupted,
}

impl From<RepodataError> for AppError {
    fn from(error: RepodataError) -> Self {
        Self::Repodata(Box::new(error))
    }
}

impl From<BuildError> for AppError {
    fn from(error: BuildError) -> Self {
        Self::Build(Box::new(error))
    }
}

impl From<SyncError> for AppError {
    fn from(error: SyncError) -> Self {
        Self::Sync(Box::new(error))
    }
}

impl AppError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Http(_)
            | Self::Runtime(_)
            | Self::VirtualPackages(_)
            | Self::Store(_)
            | Self::ReadFile { .. }
            | Self::WriteFile { .. } => Exit::Failed,
            #[cfg(feature = "demo")]
            Self::Demo { .. } | Self::DemoStep { .. } => Exit::Failed,
            Self::Settings(error) => match error {
                SettingsError::NoHome { .. } => Exit::Failed,
                SettingsError::Read { .. }
                | SettingsError::Parse { .. }
                | SettingsError::Environment(_)
                | SettingsError::Alias { .. }
                | SettingsError::Platform { .. }
                | SettingsError::Country { .. }
                | SettingsError::NoPlatform
                | SettingsError::Jobs
                | SettingsError::Header { .. }
                | SettingsError::Mirrors(_) => Exit::Usage,
            },
            Self::Auth(error) if error.is_usage() => Exit::Usage,
            Self::Auth(_) => Exit::Failed,
            Self::Channel(_)
            | Self::ChannelLocation { .. }
            | Self::FetchArgument(_)
            | Self::Metalink(_)
            | Self::EmptyMetalink { .. }
            | Self::Digest { .. }
            | Self::OneFile { .. }
            | Self::SameOutput { .. }
            | Self::OutputIsDirectory { .. }
            | Self::JsonOnStdout
            | Self::NoChannel
            | Self::ProbeTimeout
            | Self::ReadSpecs { .. }
            | Self::SpecFile { .. }
            | Self::ForeignSpecs { .. }
            | Self::Spec(_)
            | Self::NoPrefix { .. }
            | Self::OtherPlatform { .. }
            | Self::IsEnvironment { .. }
            | Self::NotEmpty { .. }
            | Self::NoEnvironment { .. }
            | Self::NoOutputName { .. } => Exit::Usage,
            Self::Inspect(InspectError::Name { .. })
            | Self::Record { .. }
            | Self::Layout { .. }
            | Self::Destination(_)
            | Self::SyncFile(_)
            | Self::Filter(FilterError::Spec { .. })
            | Self::EmptyLock { .. }
            | Self::Date { .. }
            | Self::NothingToClose => Exit::Usage,
            Self::Inspect(_) | Self::Exists { .. } | Self::Delivery(_) => Exit::Failed,
            Self::Build(error) => match &**error {
                BuildError::Sync(error) => exit_of_sync(error),
                BuildError::NoListing { .. } => Exit::Usage,
                _ => Exit::Failed,
            },
            Self::Filter(FilterError::Read(_))
            | Self::NoMirror { .. }
            | Self::NoMirrorIndex { .. } => Exit::Failed,
            Self::Sync(error) => exit_of_sync(error),
            Self::NoUsableMirror { .. } | Self::NoMirrorOfFile { .. } => Exit::Exhausted,
            Self::MirrorList(error) => match error {
                MirrorListError::Fetch { .. } => Exit::Exhausted,
                MirrorListError::Read { .. }
                | MirrorListError::Parse(_)
                | MirrorListError::WhichChannel { .. }
                | MirrorListError::NoBase { .. } => Exit::Usage,
            },
            Self::StdoutBroken { .. } => Exit::Verification,
            Self::Fetch(error) => exit_of_fetch(error),
            Self::Repodata(error) => match &**error {
                RepodataError::Fetch { source, .. } => exit_of_fetch(source),
                RepodataError::NoSubdir { .. } => Exit::Exhausted,
                RepodataError::Cache { .. } => Exit::Failed,
            },
            Self::Solve(error) => exit_of_solve(error),
            Self::Prepare(error) => match error {
                PrepareError::Fetch { source, .. } => exit_of_fetch(source),
                PrepareError::NoDigest { .. } => Exit::Verification,
                PrepareError::Store { .. }
                | PrepareError::Archive { .. }
                | PrepareError::Url { .. } => Exit::Failed,
            },
            Self::Link(error) => match error {
                PrefixError::Cancelled => Exit::Interrupted,
                _ => Exit::Failed,
            },
            Self::Interrupted => Exit::Interrupted,
            Self::Zchunk { source, .. } => match **source {
                taipan_zchunk::Error::Read { .. }
                | taipan_zchunk::Error::Write(_)
                | taipan_zchunk::Error::Compress { .. } => Exit::Failed,
                // An input file, or an option, is invalid.
                _ => Exit::Usage,
            },
        }
    }
}

fn exit_of_solve(error: &SolveError) -> Exit {
    match error {
        SolveError::Unsatisfiable(_) | SolveError::UnknownPackage { .. } => Exit::Unsatisfiable,
        SolveError::UnknownChannel { .. } | SolveError::NotOneName { .. } => Exit::Usage,
        SolveError::Timeout { .. } => Exit::Failed,
        SolveError::Cancelled => Exit::Interrupted,
    }
}

/// The exit code of a subdir, or of one destination of it, that failed.
pub(crate) fn exit_of_sync(error: &SyncError) -> Exit {
    match error {
        SyncError::Source { source, .. }
        | SyncError::State { source, .. }
        | SyncError::Published { source, .. } => exit_of_fetch(source),
        SyncError::NoSubdir { .. } | SyncError::Loop { .. } => Exit::Usage,
        _ => Exit::Failed,
    }
}

fn exit_of_fetch(error: &FetchError) -> Exit {
    match error {
        FetchError::Sink { .. } => Exit::Failed,
        _ if error.is_corrupt() => Exit::Verification,
        _ => Exit::Exhausted,
    }
}
