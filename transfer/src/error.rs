//! What can go wrong, and what follows from it.

use std::{fmt, io, path::PathBuf, time::Duration};

use taipan_mirrors::{Class, MirrorId, SafeUrl};

use crate::{SinkError, VerifyError, range::ByteRange};

/// Why one request to one mirror did not bring the file. Nothing in here holds a secret: URLs are
/// [`SafeUrl`]s.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The server answered with a status that is not the file.
    #[error("{url} answered {status}{}", reason(*status))]
    Status {
        /// What was asked for.
        url: SafeUrl,
        /// The HTTP status.
        status: u16,
        /// How long the server asks us to stay away.
        retry_after: Option<Duration>,
    },
    /// The file is not there.
    #[error("{url} is not there")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// No connection came about: refused, name unknown, TLS handshake failed.
    #[error("cannot connect to {url}")]
    Connect {
        /// What was asked for.
        url: SafeUrl,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request failed after the connection stood.
    #[error("the request to {url} failed")]
    Request {
        /// What was asked for.
        url: SafeUrl,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server redirects in a circle, or to where nobody can go.
    #[error("{url} redirects {why}{}", place(to))]
    Redirect {
        /// What was asked for.
        url: String,
        /// The last place that it redirects to, printable; empty when it is none.
        to: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The body broke off.
    #[error("the body of {url} broke off")]
    Body {
        /// What was asked for.
        url: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The body ended before its end.
    #[error("{url} ended after {got} of {expected} bytes")]
    Short {
        /// What was asked for.
        url: String,
        /// The last byte that should have come, plus one.
        expected: u64,
        /// How far it came.
        got: u64,
    },
    /// The body went on beyond its end.
    #[error("{url} sent more than the {expected} bytes that the file has")]
    Long {
        /// What was asked for.
        url: String,
        /// The length of the file.
        expected: u64,
    },
    /// Nothing came for too long.
    #[error("{url}: {what} for {} s", seconds(*after))]
    Timeout {
        /// What was asked for.
        url: String,
        /// What did not happen.
        what: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// The mirror is much slower than it should be, and another may be faster.
    #[error("{url} gives only {rate:.0} bytes/s")]
    Slow {
        /// What was asked for.
        url: String,
        /// What it gave lately, in bytes per second.
        rate: f64,
    },
    /// The server sent other bytes than those asked for.
    #[error("{url} was asked for the bytes {wanted} and sent {got}")]
    WrongRange {
        /// What was asked for.
        url: String,
        /// The range of the request.
        wanted: ByteRange,
        /// What the answer says of itself.
        got: String,
    },
    /// The file ends before the range begins (416, RFC 9110 §15.5.17).
    #[error("{url} ends before the bytes {wanted} that it was asked for")]
    BeyondEnd {
        /// What was asked for.
        url: String,
        /// The range of the request.
        wanted: ByteRange,
    },
    /// The server does not answer a request for several ranges with these ranges.
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
    #[error("{url} sent its content encoded as `{encoding}`, which was not asked for")]
    Encoded {
        /// What was asked for.
        url: SafeUrl,
        /// The value of `Content-Encoding`.
        encoding: String,
    },
    /// The server says that the file has not changed, which nobody had asked.
    #[error("{url} answered 304 Not Modified to a request without a condition")]
    Unasked {
        /// What was asked for.
        url: String,
    },
    /// The credentials are missing or refused.
    #[error("{place} refused our credentials or wants some")]
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
        /// The media type that was looked for.
        media_type: String,
    },
    /// A registry or bucket failed in a way of its own.
    #[error("{place} failed")]
    Service {
        /// The registry or bucket.
        place: String,
        /// What kind of failure.
        class: Class,
        /// How long the server asks us to stay away.
        retry_after: Option<Duration>,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A local file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path cannot be written as a URL or name on this mirror.
    #[error("`{path}` cannot be asked for at {place}")]
    BadPath {
        /// The path.
        path: String,
        /// The mirror.
        place: String,
    },
    /// The body is complete but is not the file.
    #[error("{url} served wrong bytes")]
    Corrupt {
        /// What was asked for.
        url: String,
        /// In what way.
        source: VerifyError,
    },
    /// The body is complete, no digest is known, and its reader makes no sense of it.
    #[error("{url} served something that cannot be used")]
    Unusable {
        /// What was asked for.
        url: String,
        /// In what way.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn place(to: &str) -> String {
    match to {
        "" => String::new(),
        to => format!(", to {to}"),
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

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

impl BackendError {
    /// What the mirror is to be thought of for it.
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

    /// How long the server asks us to stay away.
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

    /// Whether another request to the same mirror may succeed.
    pub fn is_transient(&self) -> bool {
        self.class().is_transient()
            && !matches!(
                self,
                Self::Encoded { .. }
                    | Self::Unasked { .. }
                    | Self::Redirect { .. }
                    | Self::NoMultiRange { .. }
                    | Self::Offline { .. }
            )
    }
}

/// What the system says of a path at which there is no file to be had. A file that we may not
/// read is like a 403: it is missing for us, and other files may be readable.
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

/// What an HTTP status says of a mirror. 403 is what buckets answer for a missing key when
/// listing is not allowed, and what many sites answer for a path that they do not carry.
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
    /// What kind of failure.
    pub class: Class,
    /// What was wrong.
    pub error: BackendError,
    /// How many bytes of the body it had given before.
    pub bytes: u64,
}

/// The chain of causes of an error, joined by colons; the error's own text first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Several libraries repeat the cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.name, self.class, chain(&self.error))
    }
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No mirror could give it.
    #[error("no mirror could give {label}{}", list(attempts, skipped))]
    Exhausted {
        /// What to call the file.
        label: String,
        /// Every attempt, in order.
        attempts: Vec<Attempt>,
        /// The mirrors that were not asked, each with the reason.
        skipped: Vec<(String, String)>,
    },
    /// The bytes came, but could not be stored or used.
    #[error("{label} was fetched but could not be used")]
    Sink {
        /// What to call the file.
        label: String,
        /// The cause.
        source: SinkError,
    },
    /// A zchunk file could not be put together.
    #[error("{label} could not be put together from its chunks")]
    Zchunk {
        /// What to call the file.
        label: String,
        /// The cause.
        source: Box<taipan_zchunk::Error>,
    },
    /// All parts were right by what vouches for them, and the file is not the one that was wanted.
    #[error("{label} is not the file that was wanted")]
    Wrong {
        /// What to call the file.
        label: String,
        /// In what way.
        source: Box<VerifyError>,
    },
}

impl FetchError {
    /// Whether every mirror says that it does not have the file (and none was merely unwell).
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Exhausted { attempts, .. } => {
                !attempts.is_empty() && attempts.iter().all(|a| a.class == Class::NotHere)
            }
            _ => false,
        }
    }

    /// Whether a mirror refused our credentials.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Exhausted { attempts, .. } => attempts.iter().any(|a| a.class == Class::Denied),
            _ => false,
        }
    }

    /// Whether mirrors answered at all, be it with a refusal: another file may do better there. When
    /// all are unreachable or resting, none will.
    pub fn is_answered(&self) -> bool {
        match self {
            Self::Exhausted { attempts, .. } => attempts
                .iter()
                .any(|a| !matches!(a.class, Class::Unwell | Class::Throttled)),
            _ => true,
        }
    }

    /// Whether mirrors answered, and all that was wrong was what they served.
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

fn list(attempts: &[Attempt], skipped: &[(String, String)]) -> String {
    let mut text = String::new();
    for attempt in attempts {
        text.push_str("\n  ");
        text.push_str(&attempt.to_string());
    }
    for (name, why) in skipped {
        text.push_str("\n  ");
        text.push_str(name);
        text.push_str(": not asked: ");
        text.push_str(why);
    }
    text
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
    fn a_status_says_what_to_think_of_a_mirror() {
        let class = |code, wish| status(code, wish).class();
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
            // Without a wish it is the error of a proxy whose server is down.
            (503, Class::Unwell),
        ] {
            assert_eq!(class(code, None), expected, "{code}");
        }
        assert_eq!(class(503, Some(1)), Class::Throttled);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
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
    fn what_cannot_be_read_on_this_machine_is_not_here() {
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
    fn a_cause_is_printed_once_and_a_secret_never() {
        let cause = io::Error::other("the disk is gone");
        let error = BackendError::Body {
            url: "http://mirror.example/x".to_owned(),
            source: Box::new(cause),
        };
        assert_eq!(
            chain(&error),
            "the body of http://mirror.example/x broke off: the disk is gone"
        );
        assert!(!status(500, None).to_string().contains("hunter2"));
    }
}
