//! The errors of a request and of a job, and the class of each.

use std::{collections::BTreeSet, fmt, io, path::PathBuf, time::Duration};

use taipan_mirrors::{Class, MirrorId, SafeUrl};

use crate::{SinkError, VerifyError, range::ByteRange};

/// Why a request to a mirror failed. No variant holds a secret: URLs are masked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The response has an error status.
    #[error("{url} responded with {status}{}{}", reason(*status), delay(*retry_after))]
    Status {
        /// The requested URL.
        url: SafeUrl,
        /// The HTTP status.
        status: u16,
        /// The delay that the server requests.
        retry_after: Option<Duration>,
    },
    /// The mirror does not have the file.
    #[error("{url} does not exist")]
    NotFound {
        /// The requested URL.
        url: String,
    },
    /// No connection: refused, unknown host, failed TLS handshake.
    #[error("cannot connect to {url}")]
    Connect {
        /// The requested URL.
        url: SafeUrl,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate of the server is refused.
    #[error("the certificate of {url} is not accepted: {problem}")]
    Certificate {
        /// The requested URL.
        url: SafeUrl,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The request failed after the connection was established.
    #[error("the request to {url} failed")]
    Request {
        /// The requested URL.
        url: SafeUrl,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server redirects too often, or to a URL that cannot be followed.
    #[error("{why} {url}{}", last(to))]
    Redirect {
        /// The requested URL.
        url: String,
        /// The last target of the redirects, printable; empty if it is not a URL.
        to: String,
        /// What is wrong: "too many redirects from".
        why: &'static str,
    },
    /// The connection failed within the body.
    #[error("the connection to {url} failed before the end of the body")]
    Body {
        /// The requested URL.
        url: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The body is shorter than the file.
    #[error("{url} sent only {got} of {expected} bytes")]
    Short {
        /// The requested URL.
        url: String,
        /// One past the last byte expected.
        expected: u64,
        /// One past the last byte received.
        got: u64,
    },
    /// The body is longer than the file.
    #[error("{url} sent more than the {expected} bytes of the file")]
    Long {
        /// The requested URL.
        url: String,
        /// The length of the file.
        expected: u64,
    },
    /// The file was replaced on the mirror while it was fetched.
    #[error("{url} has changed since its first bytes were received")]
    Changed {
        /// The requested URL.
        url: String,
    },
    /// The mirror was silent for too long.
    #[error("{url}: {phase} for {} s", seconds(*after))]
    Timeout {
        /// The requested URL.
        url: String,
        /// What was waited for.
        phase: TimeoutPhase,
        /// For how long.
        after: Duration,
    },
    /// The mirror is much slower than expected, and another may be faster.
    #[error("{url} is too slow: {}/s", bytes(*rate))]
    Slow {
        /// The requested URL.
        url: String,
        /// Its recent throughput, in bytes per second.
        rate: f64,
    },
    /// The server sent other bytes than those requested.
    #[error("{url} sent the wrong range: requested {wanted}, received {got}")]
    WrongRange {
        /// The requested URL.
        url: String,
        /// The range of the request.
        wanted: ByteRange,
        /// The range of the response.
        got: String,
    },
    /// The file ends before the range begins (416, RFC 9110 §15.5.17).
    #[error("{url} ends before the requested range {wanted}")]
    BeyondEnd {
        /// The requested URL.
        url: String,
        /// The range of the request.
        wanted: ByteRange,
    },
    /// The server does not respond to a request for several ranges with these ranges.
    #[error("{url} does not send several ranges in one response")]
    NoMultiRange {
        /// The requested URL.
        url: String,
    },
    /// The mirror is remote, and the engine is offline.
    #[error("{url} is not on this machine, and this run is offline")]
    Offline {
        /// The URL.
        url: String,
    },
    /// The server encoded the content although the request forbade it.
    #[error("{url} sent its content with the encoding `{encoding}`, which was not requested")]
    Encoded {
        /// The requested URL.
        url: SafeUrl,
        /// The value of `Content-Encoding`.
        encoding: String,
    },
    /// The server says that the file has not changed, in response to a request without validators.
    #[error("{url} responded with 304 Not Modified to an unconditional request")]
    UnexpectedNotModified {
        /// The requested URL.
        url: String,
    },
    /// The credentials are missing or were rejected.
    #[error("{place} requires authentication or rejected the credentials")]
    Denied {
        /// The registry, bucket or URL.
        place: String,
        /// The cause.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The manifest in a registry does not list the file.
    #[error("the manifest of {image} lists no layer of the type `{media_type}`")]
    NoLayer {
        /// Registry, repository and tag.
        image: String,
        /// The media type of the file.
        media_type: String,
    },
    /// A registry or bucket failed in a way that only its protocol has.
    #[error("the request to {place} failed")]
    Service {
        /// The registry or bucket.
        place: String,
        /// The class of the failure.
        class: Class,
        /// The delay that the server requests.
        retry_after: Option<Duration>,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A local file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A local file could not be written, for example because the disk is full.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another program changed the file at the same time, so that it was not replaced.
    #[error("{url} was changed by another program at the same time")]
    Conflict {
        /// The URL.
        url: String,
    },
    /// The path cannot be written as a URL or name on this mirror.
    #[error("invalid path `{path}` for {place}")]
    BadPath {
        /// The path.
        path: String,
        /// The mirror.
        place: String,
    },
    /// The body is complete, and is not the file.
    #[error("{url} sent wrong bytes")]
    Corrupt {
        /// The requested URL.
        url: String,
        /// The mismatch.
        source: VerifyError,
    },
    /// No digest is known, and the reader of the body rejected it.
    #[error("unusable response from {url}")]
    Unusable {
        /// The requested URL.
        url: String,
        /// The mismatch.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a request was waiting for when it timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutPhase {
    /// The header of the response.
    Header,
    /// The first byte of the body.
    FirstByte,
    /// The next bytes of the body.
    Body,
    /// The end of a body that must come whole.
    WholeBody,
    /// Progress of a request that sends a file, or its response.
    Upload,
}

impl fmt::Display for TimeoutPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "no response",
            Self::FirstByte => "no body",
            Self::Body => "the body stalled",
            Self::WholeBody => "the body was not complete",
            Self::Upload => "the upload stalled",
        })
    }
}

fn last(to: &str) -> String {
    match to {
        "" => String::new(),
        to => format!(" (last: {to})"),
    }
}

/// Formats a throughput.
fn bytes(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1} MB", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.0} kB", rate / 1e3),
        rate => format!("{rate:.0} B"),
    }
}

fn reason(status: u16) -> String {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason());
    reason
        .map(|reason| format!(" {reason}"))
        .unwrap_or_default()
}

fn delay(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(delay) if !delay.is_zero() => format!(" (retry after {} s)", delay.as_secs().max(1)),
        _ => String::new(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

impl BackendError {
    /// The class of this failure.
    pub fn class(&self) -> Class {
        match self {
            Self::Status {
                status: 503,
                retry_after: None,
                ..
            } => Class::Unwell,
            Self::Status { status, .. } => class_of_status(*status),
            Self::NotFound { .. } | Self::NoLayer { .. } | Self::BadPath { .. } => Class::NotHere,
            Self::Denied { .. } => Class::Denied,
            Self::Service { class, .. } => *class,
            Self::Read { source, .. } if is_absence(source.kind()) => Class::NotHere,
            Self::Corrupt { .. } | Self::Unusable { .. } | Self::Long { .. } => Class::Corrupt,
            _ => Class::Unwell,
        }
    }

    /// The delay that the server requests.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } | Self::Service { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the mirror may have the file, and cannot serve parts of it.
    pub(crate) fn is_about_ranges(&self) -> bool {
        matches!(self, Self::WrongRange { .. } | Self::BeyondEnd { .. })
    }

    /// Whether the server may serve fewer requests at a time than it has received.
    pub(crate) fn is_overload(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 429 | 503),
            Self::Service { class, .. } => *class == Class::Throttled,
            // It closed the connection without a response.
            Self::Request { .. } => true,
            _ => false,
        }
    }

    /// Whether the server may be away for a short time, as during a restart.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 502..=504),
            Self::Connect { source, .. } => is_network_failure(&**source),
            _ => false,
        }
    }

    /// Whether another request to the same mirror may succeed.
    pub fn is_transient(&self) -> bool {
        self.class().is_transient()
            && !matches!(
                self,
                Self::Encoded { .. }
                    | Self::Write { .. }
                    | Self::Conflict { .. }
                    | Self::UnexpectedNotModified { .. }
                    | Self::Redirect { .. }
                    | Self::NoMultiRange { .. }
                    | Self::Offline { .. }
            )
    }
}

/// Whether a connection failed for another reason than its configuration: not an unknown host or an
/// invalid certificate.
fn is_network_failure(source: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind as Kind;
    let mut next = Some(source);
    while let Some(cause) = next {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            let is_away = matches!(
                error.kind(),
                Kind::ConnectionRefused
                    | Kind::ConnectionReset
                    | Kind::ConnectionAborted
                    | Kind::HostUnreachable
                    | Kind::NetworkUnreachable
                    | Kind::NetworkDown
                    | Kind::TimedOut
                    | Kind::UnexpectedEof
            );
            if is_away {
                return true;
            }
        }
        next = cause.source();
    }
    false
}

/// Whether an error means that the mirror does not have the file. A file without read permission is
/// like a 403: others may be readable.
fn is_absence(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        kind,
        Kind::NotFound
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::PermissionDenied
            | Kind::InvalidFilename
            | Kind::InvalidInput
    )
}

/// The class of an HTTP status. Buckets respond with 403 to a missing key when listing is not allowed,
/// and many sites to a path that they do not carry.
pub(crate) fn class_of_status(status: u16) -> Class {
    match status {
        401 | 407 => Class::Denied,
        403 | 404 | 410 | 451 => Class::NotHere,
        429 | 503 => Class::Throttled,
        _ => Class::Unwell,
    }
}

/// One attempt that failed.
#[derive(Debug)]
pub struct Attempt {
    /// Which mirror of the set.
    pub mirror: MirrorId,
    /// The mirror, printable.
    pub name: String,
    /// The class of the failure.
    pub class: Class,
    /// The error.
    pub error: BackendError,
    /// Bytes of the body that arrived before.
    pub bytes: u64,
}

/// The chain of causes of an error, joined by colons; the error's own text first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        next = cause.source();
        // Several libraries repeat the cause in their own text.
        let is_said = text.contains(&cause_text) || (next.is_some() && is_wrapper(&cause_text));
        if !is_said {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
    }
    text
}

/// Whether a text of the HTTP client says nothing beyond its cause.
fn is_wrapper(text: &str) -> bool {
    const TEXTS: [&str; 4] = [
        "error sending request",
        "dispatch failure",
        "tcp connect error",
        "error trying to connect",
    ];
    TEXTS.contains(&text) || text.starts_with("client error (")
}

impl Attempt {
    /// The error and its causes in one line, without the name of the mirror where it is that of the attempt.
    pub fn problem(&self) -> String {
        let text = chain(&self.error);
        let name = &self.name;
        let failed = format!("the request to {name} failed: ");
        for before in [failed, format!("{name}: "), format!("{name} ")] {
            if let Some(rest) = text.strip_prefix(&before) {
                return rest.to_owned();
            }
        }
        for within in [" to ", " from ", " of "] {
            let within = format!("{within}{name}");
            if let Some((before, after)) = text.split_once(&within)
                && (after.is_empty() || after.starts_with([':', ' ', ',']))
            {
                return format!("{before}{after}");
            }
        }
        text
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.name, self.class, self.problem())
    }
}

/// The message when no mirror is left, which speaks of several mirrors if there are several.
fn exhausted(label: &str, attempts: &[Attempt], skipped: &[(String, String)]) -> String {
    let names = attempts.iter().map(|attempt| attempt.name.as_str());
    let names: BTreeSet<&str> = names
        .chain(skipped.iter().map(|(name, _)| &**name))
        .collect();
    if names.len() > 1 {
        format!("all mirrors failed for {label}")
    } else {
        format!("cannot fetch {label}")
    }
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No mirror is left.
    #[error("{}", exhausted(label, attempts, skipped))]
    Exhausted {
        /// The name of the job.
        label: String,
        /// Every attempt, in order.
        attempts: Vec<Attempt>,
        /// The mirrors that received no request, each with the reason.
        skipped: Vec<(String, String)>,
    },
    /// The bytes arrived, and could not be stored or used.
    #[error("cannot store or use {label}")]
    Sink {
        /// The name of the job.
        label: String,
        /// The cause.
        source: SinkError,
    },
    /// A zchunk file could not be assembled.
    #[error("cannot assemble {label} from its chunks")]
    Zchunk {
        /// The name of the job.
        label: String,
        /// The cause.
        source: Box<taipan_zchunk::Error>,
    },
    /// All chunks agree with the header, and the file does not have the expected digest.
    #[error("{label} does not have the expected digest")]
    Wrong {
        /// The name of the job.
        label: String,
        /// The mismatch.
        source: Box<VerifyError>,
    },
}

impl FetchError {
    /// What happened with each mirror, a line each: the failed attempts, then the mirrors that
    /// received no request, with the reason. Empty unless all mirrors failed.
    pub fn details(&self) -> Vec<String> {
        let Self::Exhausted {
            attempts, skipped, ..
        } = self
        else {
            return Vec::new();
        };
        let skipped = skipped
            .iter()
            .map(|(name, why)| format!("{name}: no request: {why}"));
        attempts
            .iter()
            .map(Attempt::to_string)
            .chain(skipped)
            .collect()
    }

    /// Whether every mirror says that it does not have the file.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Exhausted { attempts, .. } => {
                !attempts.is_empty() && attempts.iter().all(|a| a.class == Class::NotHere)
            }
            _ => false,
        }
    }

    /// Whether a mirror rejected the credentials.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Exhausted { attempts, .. } => attempts.iter().any(|a| a.class == Class::Denied),
            _ => false,
        }
    }

    /// Whether a mirror responded that it does not have the file, and none that it has another one.
    pub fn has_absence(&self) -> bool {
        match self {
            Self::Exhausted { attempts, .. } => {
                let is = |class: Class| attempts.iter().any(|attempt| attempt.class == class);
                is(Class::NotHere) && !is(Class::Corrupt) && !is(Class::Denied)
            }
            _ => false,
        }
    }

    /// The last failure with its causes, in one line.
    pub fn problem(&self) -> String {
        match self {
            Self::Exhausted { attempts, .. } if !attempts.is_empty() => {
                attempts.last().map(Attempt::to_string).unwrap_or_default()
            }
            other => chain(other),
        }
    }

    /// Whether a mirror responded at all, so that another file may succeed there. When all are
    /// unreachable or in backoff, none will.
    pub fn has_response(&self) -> bool {
        match self {
            Self::Exhausted { attempts, .. } => attempts
                .iter()
                .any(|a| !matches!(a.class, Class::Unwell | Class::Throttled)),
            _ => true,
        }
    }

    /// Whether mirrors responded, and sent wrong bytes.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Exhausted { attempts, .. } => {
                attempts.iter().any(|a| a.class == Class::Corrupt)
                    && attempts
                        .iter()
                        .all(|a| matches!(a.class, Class::Corrupt | Class::NotHere))
            }
            Self::Zchunk { .. } | Self::Wrong { .. } => true,
            Self::Sink { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> BackendError {
        let url: url::Url = "http://mirror.example/x?token=hunter2".parse().unwrap();
        BackendError::Status {
            url: url.into(),
            status,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_status_has_a_class() {
        let class = |code, retry_after| status(code, retry_after).class();
        for (code, expected) in [
            (400, Class::Unwell),
            (401, Class::Denied),
            (403, Class::NotHere),
            (404, Class::NotHere),
            (407, Class::Denied),
            (408, Class::Unwell),
            (410, Class::NotHere),
            (429, Class::Throttled),
            (451, Class::NotHere),
            (500, Class::Unwell),
            // Without `Retry-After` it is the error of a proxy whose server is down.
            (503, Class::Unwell),
        ] {
            assert_eq!(class(code, None), expected, "{code}");
        }
        assert_eq!(class(503, Some(1)), Class::Throttled);
    }

    #[test]
    fn only_transient_failures_are_retried() {
        assert!(status(500, None).is_transient());
        assert!(status(429, Some(1)).is_transient());
        assert!(!status(404, None).is_transient());
        let url: url::Url = "http://mirror.example/x".parse().unwrap();
        let encoded = BackendError::Encoded {
            url: url.into(),
            encoding: "gzip".to_owned(),
        };
        assert!(!encoded.is_transient());
    }

    #[test]
    fn an_unreadable_file_has_the_class_not_here() {
        let read = |kind: io::ErrorKind| BackendError::Read {
            path: "x".into(),
            source: kind.into(),
        };
        for kind in [
            io::ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::NotADirectory,
        ] {
            assert_eq!(read(kind).class(), Class::NotHere, "{kind}");
        }
        assert_eq!(read(io::ErrorKind::Other).class(), Class::Unwell);
    }

    #[test]
    fn a_cause_is_printed_once_and_no_secret() {
        let cause = io::Error::other("the disk is gone");
        let error = BackendError::Body {
            url: "http://mirror.example/x".to_owned(),
            source: Box::new(cause),
        };
        assert_eq!(
            chain(&error),
            "the connection to http://mirror.example/x failed before the end of the body: the disk is gone"
        );
        assert!(!status(500, None).to_string().contains("hunter2"));
    }
}
