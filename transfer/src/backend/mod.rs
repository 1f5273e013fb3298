//! The seam between the engine and the protocols.

pub(crate) mod byteranges;
pub(crate) mod credentials;
pub(crate) mod file;
pub(crate) mod http;
pub(crate) mod http_client;
pub(crate) mod netrc;
pub(crate) mod oci;
pub(crate) mod oci_token;
pub(crate) mod renamed;
pub(crate) mod s3;
pub(crate) mod s3_connector;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{BackendError, ByteRange, Expected, Target};

/// The bytes of a response as they arrive.
pub type Body = BoxStream<'static, Result<Bytes, BackendError>>;

/// The validators of a file, by which a mirror tells whether it has changed. Valid for one mirror
/// and path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// The `ETag`, verbatim.
    pub etag: Option<String>,
    /// The `Last-Modified` date, verbatim.
    pub last_modified: Option<String>,
}

impl Validators {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// Headers of a response that name other places of the same file (RFC 6249), unparsed.
#[derive(Debug, Clone)]
pub struct DuplicateHeaders {
    /// The URL of the response, against which relative links are resolved.
    pub base: url::Url,
    /// The values of `Link`.
    pub links: Vec<String>,
    /// The values of `Digest` (RFC 3230) and `Repr-Digest` (RFC 9530).
    pub digests: Vec<String>,
}

/// Which bytes of a file are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges<'a> {
    /// All of them.
    All,
    /// One range.
    One(ByteRange),
    /// Several ranges, for a backend that [has that](Backend::has_multi_range).
    Several(&'a [Range<u64>]),
}

impl Ranges<'_> {
    /// The range of a request for at most one.
    pub(crate) fn one(
        self,
        url: impl FnOnce() -> String,
    ) -> Result<Option<ByteRange>, BackendError> {
        match self {
            Self::All => Ok(None),
            Self::One(range) => Ok(Some(range)),
            Self::Several(_) => Err(BackendError::NoMultiRange { url: url() }),
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct GetRequest<'a> {
    /// Where the file is.
    pub target: &'a Target,
    /// What is known of it; registries find a blob by its digest.
    pub expected: Expected,
    /// Which bytes.
    pub ranges: Ranges<'a>,
    /// What this mirror said of the file before.
    pub validators: Option<&'a Validators>,
}

/// One response. Its header has been read and checked; its body has not.
pub enum GetResponse {
    /// The file has not changed.
    NotModified,
    /// The file, or a range of it.
    Body {
        /// The offset in the file of the first byte of the body. It is the one requested, or 0
        /// when the server ignored the range and sends everything.
        start: u64,
        /// The length of the whole file, when the server says it.
        total: Option<u64>,
        /// The validators of this version of the file.
        validators: Validators,
        /// Other places of the file, if the server names any.
        duplicates: Option<Box<DuplicateHeaders>>,
        /// The bytes.
        body: Body,
    },
    /// Several ranges (`multipart/byteranges`, RFC 9110 §14.6).
    Parts {
        /// What separates the parts.
        boundary: String,
        /// The parts with their headers.
        body: Body,
    },
}

impl std::fmt::Debug for GetResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotModified => f.write_str("NotModified"),
            Self::Parts { .. } => f.write_str("Parts"),
            Self::Body {
                start,
                total,
                validators,
                ..
            } => f
                .debug_struct("Body")
                .field("start", start)
                .field("total", total)
                .field("validators", validators)
                .finish_non_exhaustive(),
        }
    }
}

/// One mirror, in its own protocol. A backend makes exactly one request: it neither retries nor
/// falls back, and it has no timeout of its own beyond the connection's. Everything else is the
/// engine's.
#[async_trait]
pub trait Backend: std::fmt::Debug + Send + Sync {
    /// Requests a file or ranges of it. Dropping the future or the body ends the request.
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError>;

    /// Whether the protocol allows several ranges in one request. A server may still ignore them.
    fn has_multi_range(&self) -> bool;

    /// The printable URL of a file on this mirror.
    fn describe(&self, target: &Target) -> String;
}
