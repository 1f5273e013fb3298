//! The interface between the engine and the protocols.

pub(crate) mod addressed;
pub(crate) mod byteranges;
mod certificate;
pub(crate) mod credentials;
pub(crate) mod file;
pub(crate) mod http;
pub(crate) mod http_client;
pub(crate) mod netrc;
pub(crate) mod oci;
pub(crate) mod oci_token;

pub(crate) mod s3;
pub(crate) mod s3_connector;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{BackendError, ByteRange, Expected, Target};

/// The body of a response, in pieces as they arrive.
pub type Body = BoxStream<'static, Result<Bytes, BackendError>>;

/// The validators of a file, with which a mirror detects whether it has changed. Valid for one
/// mirror and URL.
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

    /// The `ETag`, if it is strong: two bodies with it are equal byte by byte (RFC 9110 §8.8.1).
    pub fn strong_etag(&self) -> Option<&str> {
        let etag = self.etag.as_deref()?;
        (etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"')).then_some(etag)
    }

    /// Whether they are of another version of the file, as far as both tell.
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        match (&self.etag, &other.etag) {
            (Some(ours), Some(theirs)) => ours != theirs,
            _ => matches!(
                (&self.last_modified, &other.last_modified),
                (Some(ours), Some(theirs)) if ours != theirs
            ),
        }
    }
}

/// Headers of a response that name other locations of the same file (RFC 6249), unparsed.
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
    /// The whole file.
    All,
    /// One range.
    One(ByteRange),
    /// Several ranges, for a backend that [supports them](Backend::has_multi_range).
    Several(&'a [Range<u64>]),
}

impl Ranges<'_> {
    /// The range for a backend that supports at most one.
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
    /// Where the file lies below the mirror.
    pub target: &'a Target,
    /// The expected size and digests; registries find a blob by its digest.
    pub expected: Expected,
    /// The requested bytes.
    pub ranges: Ranges<'a>,
    /// The validators of the local copy, for a conditional request.
    pub validators: Option<&'a Validators>,
    /// The strong `ETag` of the version that a range must be of. A server that has another version sends
    /// the whole file (RFC 9110 §13.1.5).
    pub if_range: Option<&'a str>,
}

/// One response. Its header has been read and checked; its body has not.
pub enum GetResponse {
    /// The file has not changed.
    NotModified,
    /// The file, or a range of it.
    Body {
        /// The offset in the file of the first byte of the body: that of the request, or 0 if the
        /// server ignored the range and sends the whole file.
        start: u64,
        /// One past the last byte of the body in the file, if the server sends a range. A server may send
        /// less than was requested (RFC 9110 §15.3.7).
        end: Option<u64>,
        /// The length of the whole file, if the server sent it.
        total: Option<u64>,
        /// The validators of this version of the file.
        validators: Validators,
        /// Other locations of the file, if the server names any.
        duplicates: Option<Box<DuplicateHeaders>>,
        /// The body.
        body: Body,
    },
    /// Several ranges (`multipart/byteranges`, RFC 9110 §14.6).
    Parts {
        /// The boundary between the parts.
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

/// One mirror, in its own protocol. A backend does not retry, and has no timeout except for the
/// connection: retries, failover and other timeouts are up to the engine.
#[async_trait]
pub trait Backend: std::fmt::Debug + Send + Sync {
    /// Requests a file or ranges of it. To drop the future or the body ends the request.
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError>;

    /// Whether the protocol allows several ranges in one request. A server may ignore them.
    fn has_multi_range(&self) -> bool;

    /// The printable URL of a file on this mirror.
    fn describe(&self, target: &Target) -> String;
}
