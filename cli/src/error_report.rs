//! How an error is printed: message, causes, attempts, hint.

use std::{error::Error, fmt, io};

use serde::Serialize;
use taipan_channel::{BuildError, RepodataError, SyncError};
use taipan_installer::{PrefixError, PrepareError};
use taipan_package::StoreError;
use taipan_transfer::{Attempt, BackendError, DeliveryError, FetchError, SinkError};

use crate::{error::AppError, error_chain::causes, printer::Printer};

/// An error as it is printed, in text by `Display` and as the JSON object `error`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorReport {
    message: String,
    /// Outermost first.
    causes: Vec<String>,
    /// The attempts of a fetch that failed on all mirrors, in order.
    attempts: Vec<FailedAttempt>,
    /// The mirrors that received no request.
    skipped: Vec<SkippedMirror>,
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
}

#[derive(Debug, Serialize)]
struct FailedAttempt {
    mirror: String,
    class: String,
    error: String,
    /// Bytes of the body that arrived.
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct SkippedMirror {
    mirror: String,
    reason: String,
}

/// An attempt in one line: mirror, class, error.
pub(crate) fn attempt_line(attempt: &Attempt) -> String {
    FailedAttempt::from(attempt).to_string()
}

impl AppError {
    /// Prints the error to stderr, and as a JSON object in JSON mode.
    pub(crate) fn print(&self, printer: &Printer) {
        let report = self.report();
        printer.error(&report.to_string());
        printer.object("error", &report);
    }

    fn report(&self) -> ErrorReport {
        let mut report = match self {
            // Its `source` is that of the `FetchError`.
            Self::Fetch(error) => ErrorReport::new(error),
            Self::Delivery(error) => ErrorReport::new(error),
            Self::Sync(error) => ErrorReport::new(&**error),
            Self::Build(error) => ErrorReport::new(&**error),
            error => ErrorReport::new(error),
        };
        report.hint = hint(self);
        report.exit_code = Some(self.exit() as u8);
        report
    }
}

impl ErrorReport {
    /// The report of a subdir or destination that failed, with what can be done about it.
    pub(crate) fn of_sync(error: &SyncError) -> Self {
        Self {
            hint: hint_of_sync(error),
            ..Self::new(error)
        }
    }

    pub(crate) fn new(error: &(dyn Error + 'static)) -> Self {
        let mut report = Self {
            message: error.to_string(),
            causes: causes(error),
            attempts: Vec::new(),
            skipped: Vec::new(),
            hint: None,
            exit_code: None,
        };
        if let Some((attempts, skipped)) = exhausted(error) {
            report.attempts = attempts.iter().map(FailedAttempt::from).collect();
            let skipped = skipped.iter().cloned();
            report.skipped = skipped
                .map(|(mirror, reason)| SkippedMirror { mirror, reason })
                .collect();
        }
        report
    }
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {}", cause.replace('\n', "\n  "))?;
        }
        let indent = if self.causes.is_empty() { "  " } else { "    " };
        for (attempt, count) in counted(&self.attempts) {
            write!(f, "\n{indent}{attempt}")?;
            if count > 1 {
                write!(f, " ({count} times)")?;
            }
        }
        for SkippedMirror { mirror, reason } in &self.skipped {
            write!(f, "\n{indent}{mirror}: no request: {reason}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<&Attempt> for FailedAttempt {
    fn from(attempt: &Attempt) -> Self {
        Self {
            mirror: attempt.name.clone(),
            class: attempt.class.to_string(),
            error: attempt.problem(),
            bytes: attempt.bytes,
        }
    }
}

impl fmt::Display for FailedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mirror,
            class,
            error,
            ..
        } = self;
        write!(f, "{mirror}: {class}: {error}")
    }
}

/// The texts of attempts, each once, with their number.
fn counted(attempts: &[FailedAttempt]) -> Vec<(String, usize)> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for attempt in attempts {
        let text = attempt.to_string();
        match counted.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => counted.push((text, 1)),
        }
    }
    counted
}

/// The name of a skipped mirror and the reason.
type Skipped = (String, String);

/// The attempts and the skipped mirrors of the failed transfer in a chain of errors.
fn exhausted<'a>(error: &'a (dyn Error + 'static)) -> Option<(&'a [Attempt], &'a [Skipped])> {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    chain.find_map(|error| {
        if let Some(error) = error.downcast_ref::<DeliveryError>() {
            return Some((&*error.attempts, &[][..]));
        }
        if let Some(SyncError::Destination(error)) = error.downcast_ref() {
            return Some((&*error.attempts, &[][..]));
        }
        if let Some(BuildError::Destination(error)) = error.downcast_ref() {
            return Some((&*error.attempts, &[][..]));
        }
        match error.downcast_ref::<FetchError>()? {
            FetchError::Exhausted {
                attempts, skipped, ..
            } => Some((&**attempts, &**skipped)),
            _ => None,
        }
    })
}

const NO_SPACE: &str = "free some space, or use another disk with --cache-dir or --prefix; complete \
                        packages are kept, and the next run resumes";

/// What the user can do about an error, where the error itself does not say it.
fn hint(error: &AppError) -> Option<String> {
    match error {
        AppError::IsEnvironment { prefix } => {
            let prefix = prefix.display();
            Some(format!("use `taipan install -p {prefix} …` to add packages"))
        }
        AppError::NotEmpty { .. } => Some("use a new or an empty directory".to_owned()),
        AppError::NoEnvironment { prefix } => {
            let prefix = prefix.display();
            Some(format!("use `taipan create -p {prefix} …` to create it"))
        }
        AppError::Repodata(error) => match &**error {
            RepodataError::Fetch { source, .. } if source.is_corrupt() => Some(
                "check the URLs of the channel and its mirrors, and whether a login page or a proxy \
                 responds in their place"
                    .to_owned(),
            ),
            RepodataError::Fetch { source, .. } => hint_of_fetch(source),
            RepodataError::NoSubdir { .. } => Some(
                "check the name of the channel; --channel-alias sets the base URL of channel names, and a \
                 mirrors file can name other locations"
                    .to_owned(),
            ),
            RepodataError::Cache { .. } => None,
        },
        AppError::Fetch(source) | AppError::Prepare(PrepareError::Fetch { source, .. }) => {
            hint_of_fetch(source)
        }
        AppError::Exists { .. } => Some(
            "give the package a new build number, or replace it with --force; --skip-existing leaves \
             it as it is"
                .to_owned(),
        ),
        AppError::Store(StoreError::Full { .. }) => Some(NO_SPACE.to_owned()),
        AppError::Store(StoreError::ReadOnly { .. } | StoreError::Permission { .. }) => {
            Some("use a writable directory with --cache-dir".to_owned())
        }
        AppError::Link(PrefixError::Io { source, path, .. }) => match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                let parent = path.parent().unwrap_or(path).display();
                Some(format!(
                    "use a writable prefix, or get write permission for {parent}"
                ))
            }
            _ if is_no_space(source) => Some(NO_SPACE.to_owned()),
            _ => None,
        },
        AppError::Delivery(error) => hint_of_delivery(error),
        AppError::Sync(error) => hint_of_sync(error),
        _ => None,
    }
}

fn hint_of_sync(error: &SyncError) -> Option<String> {
    match error {
        SyncError::Destination(error) => hint_of_delivery(error),
        SyncError::State { source, .. } | SyncError::Published { source, .. } => {
            let FetchError::Exhausted { attempts, .. } = source else {
                return None;
            };
            hint_of_denied(&attempts.last()?.error)
        }
        SyncError::TooManyDropped { .. } => {
            Some("check the source; if it is right, raise --max-delete for this run".to_owned())
        }
        SyncError::Local { source, .. } if is_no_space(source) => {
            Some("free some space, or set TMPDIR to a directory on another disk".to_owned())
        }
        _ => None,
    }
}

fn hint_of_delivery(error: &DeliveryError) -> Option<String> {
    let last = error.attempts.last()?;
    match &last.error {
        BackendError::Denied { .. } => hint_of_denied(&last.error),
        BackendError::Write { source, .. } if is_no_space(source) => Some(
            "free some space at the destination; what was sent before is kept, and the next run continues"
                .to_owned(),
        ),
        _ => None,
    }
}

/// How to get other credentials for a destination.
fn hint_of_denied(error: &BackendError) -> Option<String> {
    let BackendError::Denied { place, .. } = error else {
        return None;
    };
    if place.starts_with("s3:") {
        return Some(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to keys that may read and write \
             there; temporary keys expire. What was sent before is kept"
                .to_owned(),
        );
    }
    let host = place.strip_prefix("oci://")?.split('/').next()?;
    Some(format!(
        "use `taipan auth login oci://{host} --username USER` with a user who may push there; what was sent \
         before is kept"
    ))
}

fn hint_of_fetch(error: &FetchError) -> Option<String> {
    match error {
        FetchError::Sink { source, .. } => {
            let mut chain =
                std::iter::successors(Some(source as &(dyn Error + 'static)), |&e| e.source());
            if chain.any(|error| error.downcast_ref().is_some_and(is_no_space)) {
                return Some(NO_SPACE.to_owned());
            }
            matches!(source, SinkError::Rejected(_)).then(|| {
                "the archive has the digest of the repodata, so the package itself is broken: report it \
                 to the channel and use another version"
                    .to_owned()
            })
        }
        FetchError::Exhausted { .. } if error.is_corrupt() => Some(
            "all mirrors that have the file send other content than expected: the expected digest may be \
             out of date, or the file was modified"
                .to_owned(),
        ),
        FetchError::Exhausted { .. } => {
            Some("add mirrors with --mirrors, or try again later".to_owned())
        }
        FetchError::Zchunk { .. } | FetchError::Wrong { .. } => None,
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests;
