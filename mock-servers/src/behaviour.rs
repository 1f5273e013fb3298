//! The behaviour of a server: shaping of every request, and a script of faults.

use std::time::Duration;

use bytes::Bytes;

/// Shaping of every response, and the script of faults. The default is a fast and correct server.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Behaviour {
    /// The delay before the first byte of every response.
    pub latency: Duration,
    /// Bytes per second of each connection, both directions together.
    pub rate: Option<u64>,
    /// Bytes per second of the whole server, shared by its connections.
    pub total_rate: Option<u64>,
    pub script: Script,
}

impl Behaviour {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }

    /// Bytes per second of each connection.
    #[must_use]
    pub fn with_rate(self, rate: u64) -> Self {
        Self {
            rate: Some(rate),
            ..self
        }
    }

    /// Bytes per second of all connections together.
    #[must_use]
    pub fn with_total_rate(self, rate: u64) -> Self {
        Self {
            total_rate: Some(rate),
            ..self
        }
    }

    #[must_use]
    pub fn with_script(self, script: Script) -> Self {
        Self { script, ..self }
    }

    /// Appends a rule to the script.
    #[must_use]
    pub fn with_rule(mut self, rule: Rule) -> Self {
        self.script = self.script.rule(rule);
        self
    }
}

/// An ordered list of rules. For each request the first rule that matches and is not used up
/// applies; a request without a matching rule gets a correct response.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub(crate) rules: Vec<Rule>,
    pub(crate) strict: bool,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Makes a request without a matching rule *unexpected*: it gets a correct response, but
    /// [`Server::verify`](crate::Server::verify) fails, and so does dropping the server without a call of it. Use
    /// [`Fault::None`] for requests that must get a correct response.
    #[must_use]
    pub fn strict(self) -> Self {
        Self {
            strict: true,
            ..self
        }
    }
}

/// One step of a script.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rule {
    pub matches: Matcher,
    pub times: Times,
    pub fault: Fault,
}

impl Rule {
    pub fn new(matches: Matcher, times: Times, fault: Fault) -> Self {
        Self {
            matches,
            times,
            fault,
        }
    }

    /// For every matching request.
    pub fn always(matches: Matcher, fault: Fault) -> Self {
        Self::new(matches, Times::Always, fault)
    }

    /// For the next matching request only.
    pub fn once(matches: Matcher, fault: Fault) -> Self {
        Self::new(matches, Times::N(1), fault)
    }

    /// For the next `n` matching requests.
    pub fn times(n: u32, matches: Matcher, fault: Fault) -> Self {
        Self::new(matches, Times::N(n), fault)
    }
}

/// How often a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    Always,
    N(u32),
}

/// The requests of a rule.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Matcher {
    Any,
    /// The decoded path ends with this.
    Suffix(String),
    /// The decoded path contains this.
    Contains(String),
    /// The method, in capitals.
    Method(String),
    /// The request has a `Range` header, or has none.
    Ranged(bool),
    /// All of these hold.
    All(Vec<Matcher>),
}

impl Matcher {
    pub fn suffix(suffix: impl Into<String>) -> Self {
        Self::Suffix(suffix.into())
    }

    pub fn contains(part: impl Into<String>) -> Self {
        Self::Contains(part.into())
    }

    pub fn method(method: impl Into<String>) -> Self {
        Self::Method(method.into())
    }

    /// Both this and the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match self {
            Self::All(mut all) => {
                all.push(other);
                Self::All(all)
            }
            single => Self::All(vec![single, other]),
        }
    }

    pub(crate) fn matches(&self, method: &str, path: &str, ranged: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Suffix(suffix) => path.ends_with(suffix.as_str()),
            Self::Contains(part) => path.contains(part.as_str()),
            Self::Method(wanted) => method == wanted,
            Self::Ranged(wanted) => ranged == *wanted,
            Self::All(all) => all.iter().all(|one| one.matches(method, path, ranged)),
        }
    }
}

/// A fault. Offsets count bytes of the response's body; for a request with a body (PUT, POST, PATCH)
/// `Truncate`, `Reset { after: Some(_) }` and `Stall` count the bytes of the *request* instead, and the request
/// has no effect on the store beyond what is described there.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fault {
    /// No fault: the step of a strict script that expects a correct response.
    None,
    /// This response instead of the correct one; an upload has no effect.
    Status {
        code: u16,
        headers: Vec<(String, String)>,
        body: Bytes,
    },
    /// A status with `Retry-After`, usually 429 or 503.
    RetryAfter { code: u16, seconds: u64 },
    /// Correct headers and a number of bytes of the body, then the connection is closed.
    Truncate { after: u64 },
    /// The connection is reset (RST): after a number of bytes of the body, or before the headers. In the latter
    /// case an upload *has* had its effect: only the response is lost.
    Reset { after: Option<u64> },
    /// A number of bytes, then nothing; the connection stays open.
    Stall { after: u64 },
    /// A delay before the first byte, in addition to the latency.
    SlowFirstByte(Duration),
    /// Bytes per second of this response.
    Drip { rate: u64 },
    /// A number of bytes at full speed, then a rate in bytes per second.
    SlowDown { after: u64, rate: u64 },
    /// The lowest bit of the byte at this offset of the *file* is flipped, in every response that contains it.
    Corrupt { at: u64 },
    /// 200 with the whole file, although a range was requested.
    IgnoreRange,
    /// 206 with at most this many bytes of the range, as its header says.
    ShortRange { most: u64 },
    /// 503 while more than this many requests are open, this one included; otherwise no fault.
    Busy { most: usize },
    /// 206 whose range and bytes are shifted by one byte from the request.
    WrongRange,
    /// `Content-Length` is wrong by this much. If it is too large, the connection closes after the body; if it is
    /// too small, the body is truncated to it.
    WrongLength { delta: i64 },
    /// Another entity tag, as if the file had been replaced by an equal one.
    ChangedEtag,
    /// 307 to this address; if it ends with a slash, the path and query of the request are
    /// appended. To the server's own address this is a loop.
    Redirect { to: String },
    /// 200 with an HTML page, as captive portals and login walls send it.
    Html,
    /// The whole file with `Content-Encoding: gzip`, whatever the client accepts.
    Gzip,
    /// The request is accepted without a response.
    Hang,
    /// The clock of the server is wrong by this much, in its `Date` and in the verification of S3 signatures.
    ClockSkew { seconds: i64 },
}

impl Fault {
    /// A response of this status with a short text body.
    pub fn status(code: u16) -> Self {
        Self::Status {
            code,
            headers: Vec::new(),
            body: Bytes::from_static(b"scripted fault\n"),
        }
    }

    /// The name that the request log shows.
    pub(crate) fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::None => return None,
            Self::Status { .. } => "status",
            Self::RetryAfter { .. } => "retry-after",
            Self::Truncate { .. } => "truncate",
            Self::Reset { .. } => "reset",
            Self::Stall { .. } => "stall",
            Self::SlowFirstByte(_) => "slow-first-byte",
            Self::Drip { .. } => "drip",
            Self::SlowDown { .. } => "slow-down",
            Self::ClockSkew { .. } => "clock-skew",
            Self::Corrupt { .. } => "corrupt",
            Self::IgnoreRange => "ignore-range",
            Self::ShortRange { .. } => "short-range",
            Self::Busy { .. } => "busy",
            Self::WrongRange => "wrong-range",
            Self::WrongLength { .. } => "wrong-length",
            Self::ChangedEtag => "changed-etag",
            Self::Redirect { .. } => "redirect",
            Self::Html => "html",
            Self::Gzip => "gzip",
            Self::Hang => "hang",
        })
    }
}
