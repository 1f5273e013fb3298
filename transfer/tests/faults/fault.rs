//! The faults, as rules of the scripted servers.

use std::time::Duration;

use bytes::Bytes;
use taipan_mock_servers::{Fault as Step, Matcher, Rule};

use crate::{
    cell::{Cell, Phase, Protocol},
    place::{Addresses, PATH},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Refused,
    NoName,
    BadCertificate,
    ResetBefore,
    ResetInBody,
    Truncated,
    Stalled,
    SlowDrip,
    WrongLength,
    WholeForRange,
    WrongRange,
    ChangedEtag,
    Replaced,
    FlippedByte,
    NotFound,
    Forbidden,
    Unauthorized,
    TooMany,
    ServerError,
    Unavailable,
    RedirectLoop,
    RedirectWithCredentials,
    Compressed,
    ClockSkew,
    HalfSynced,
}

impl Fault {
    pub(crate) const ALL: [Self; 25] = [
        Self::Refused,
        Self::NoName,
        Self::BadCertificate,
        Self::ResetBefore,
        Self::ResetInBody,
        Self::Truncated,
        Self::Stalled,
        Self::SlowDrip,
        Self::WrongLength,
        Self::WholeForRange,
        Self::WrongRange,
        Self::ChangedEtag,
        Self::Replaced,
        Self::FlippedByte,
        Self::NotFound,
        Self::Forbidden,
        Self::Unauthorized,
        Self::TooMany,
        Self::ServerError,
        Self::Unavailable,
        Self::RedirectLoop,
        Self::RedirectWithCredentials,
        Self::Compressed,
        Self::ClockSkew,
        Self::HalfSynced,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::NoName => "name not found (DNS)",
            Self::BadCertificate => "bad certificate",
            Self::ResetBefore => "reset before the answer",
            Self::ResetInBody => "reset in the body",
            Self::Truncated => "truncated",
            Self::Stalled => "stalled",
            Self::SlowDrip => "slow drip",
            Self::WrongLength => "wrong length",
            Self::WholeForRange => "200 for a range",
            Self::WrongRange => "wrong range",
            Self::ChangedEtag => "changed ETag",
            Self::Replaced => "changed ETag and file, no digest known",
            Self::FlippedByte => "a flipped byte",
            Self::NotFound => "404",
            Self::Forbidden => "403",
            Self::Unauthorized => "401",
            Self::TooMany => "429 with Retry-After",
            Self::ServerError => "500",
            Self::Unavailable => "503",
            Self::RedirectLoop => "redirect loop",
            Self::RedirectWithCredentials => "redirect with credentials",
            Self::Compressed => "compressed against our wish",
            Self::ClockSkew => "clock skew",
            Self::HalfSynced => "half-synced",
        }
    }

    /// Whether it is detected by a timeout.
    pub(crate) fn is_slow(self) -> bool {
        matches!(self, Self::Stalled | Self::SlowDrip | Self::TooMany)
    }

    /// How long a mirror may be silent: where that is not tested, longer than on any busy machine.
    pub(crate) fn idle_timeout(self) -> Duration {
        Duration::from_secs(if self == Self::Stalled { 3 } else { 20 })
    }

    /// Whether it affects a body that is under way.
    pub(crate) fn is_of_body(self) -> bool {
        matches!(
            self,
            Self::ResetInBody
                | Self::Truncated
                | Self::Stalled
                | Self::SlowDrip
                | Self::FlippedByte
        )
    }

    /// The rules of a server that has it; empty if it is not scripted on the server.
    pub(crate) fn rules(self, cell: &Cell, at: &Addresses) -> Vec<Rule> {
        let Some((matcher, step, count)) = self.step(cell, at, cell.cut_again()) else {
            return Vec::new();
        };
        match cell.phase {
            Phase::Middle => {
                let first = match self.step(cell, at, cell.cut()) {
                    Some((matcher, step, _)) if self.is_of_body() => Rule::once(matcher, step),
                    _ => broken(cell),
                };
                vec![first, Rule::always(matcher, step)]
            }
            Phase::Resumed if cell.alone() => {
                vec![broken(cell), Rule::times(count, matcher, step)]
            }
            Phase::First | Phase::Resumed => vec![Rule::always(matcher, step)],
        }
    }

    /// Which requests have which fault, and how many of them count as once. `after` is the byte at
    /// which a fault of the body begins.
    fn step(self, cell: &Cell, at: &Addresses, after: usize) -> Option<(Matcher, Step, u32)> {
        let after = after as u64;
        let s3 = cell.protocol == Protocol::S3;
        // A registry refuses all requests to a repository.
        let all = || match cell.protocol {
            Protocol::Oci => Matcher::contains(crate::common::NAMESPACE),
            _ => Matcher::suffix(PATH),
        };
        let status = |code: u16, name: &str| {
            if s3 {
                xml(code, name)
            } else {
                Step::status(code)
            }
        };
        let content = content(cell.protocol);
        let step = match self {
            Self::ResetBefore => Step::Reset { after: None },
            Self::ResetInBody => Step::Reset { after: Some(after) },
            Self::Truncated => Step::Truncate { after },
            Self::Stalled => Step::Stall { after },
            Self::SlowDrip => {
                let (after, rate) = match cell.phase {
                    Phase::Middle => (cell.cut() as u64, cell.size as u64 / 6),
                    _ => (0, cell.size as u64 / 6),
                };
                Step::SlowDown { after, rate }
            }
            Self::WrongLength => Step::WrongLength { delta: 1_000 },
            Self::WholeForRange => Step::IgnoreRange,
            Self::WrongRange => Step::WrongRange,
            Self::ChangedEtag => Step::ChangedEtag,
            Self::FlippedByte => Step::Corrupt {
                at: 3 * cell.size as u64 / 4,
            },
            Self::NotFound => return Some((all(), status(404, "NoSuchKey"), 1)),
            Self::Forbidden => return Some((all(), status(403, "AccessDenied"), 1)),
            Self::Unauthorized => return Some((all(), Step::status(401), 1)),
            Self::TooMany => {
                let (code, seconds) = (429, 1);
                return Some((all(), Step::RetryAfter { code, seconds }, 1));
            }
            Self::ServerError => return Some((all(), status(500, "InternalError"), 1)),
            Self::Unavailable => return Some((all(), status(503, "SlowDown"), 1)),
            Self::RedirectLoop => {
                let to = at.own.clone();
                // The SDK follows no redirect; the others follow eight.
                let count = if s3 { 1 } else { 9 };
                return Some((content, Step::Redirect { to }, count));
            }
            Self::RedirectWithCredentials => Step::Redirect {
                to: at.elsewhere.clone(),
            },
            Self::Compressed => Step::Gzip,
            Self::ClockSkew => {
                let seconds = 86_400;
                // The first signature has the wrong time, the second that of the server.
                let count = if s3 { 2 } else { 1 };
                return Some((content, Step::ClockSkew { seconds }, count));
            }
            Self::Refused
            | Self::NoName
            | Self::BadCertificate
            | Self::Replaced
            | Self::HalfSynced => return None,
        };
        Some((content, step, 1))
    }
}

/// The first body breaks off in the middle.
pub(crate) fn broken(cell: &Cell) -> Rule {
    let after = cell.cut() as u64;
    Rule::once(content(cell.protocol), Step::Truncate { after })
}

/// The requests for the bytes of the file.
fn content(protocol: Protocol) -> Matcher {
    match protocol {
        Protocol::Oci => Matcher::contains("/blobs/"),
        _ => Matcher::suffix(PATH),
    }
}

fn xml(code: u16, name: &str) -> Step {
    let body = format!("<Error><Code>{name}</Code><Message>scripted</Message></Error>");
    Step::Status {
        code,
        headers: vec![("content-type".to_owned(), "application/xml".to_owned())],
        body: Bytes::from(body),
    }
}
