//! An object store that speaks S3.

mod chunked;
mod list;
mod multipart;
mod server;
mod sigv4;
mod xml;

pub use server::{S3Server, S3ServerBuilder};

use http::StatusCode;

use crate::request::Reply;

/// The keys of an S3 account.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Keys {
    pub access_key: String,
    pub secret_key: String,
    /// If set, requests must carry it, as with temporary credentials.
    pub session_token: Option<String>,
}

impl S3Keys {
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            session_token: None,
        }
    }

    #[must_use]
    pub fn with_session_token(self, token: impl Into<String>) -> Self {
        Self {
            session_token: Some(token.into()),
            ..self
        }
    }
}

impl std::fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Keys")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// The error codes of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum S3Error {
    AccessDenied,
    BadDigest,
    ContentSha256Mismatch,
    EntityTooSmall,
    Expired,
    IncompleteBody,
    InvalidAccessKeyId,
    InvalidPart,
    InvalidPartOrder,
    InvalidRequest,
    InvalidToken,
    MalformedAuthorization,
    MethodNotAllowed,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    NotImplemented,
    PreconditionFailed,
    SignatureDoesNotMatch,
    TimeTooSkewed,
}

impl S3Error {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::AccessDenied => (S::FORBIDDEN, "AccessDenied", "Access Denied"),
            Self::BadDigest => (
                S::BAD_REQUEST,
                "BadDigest",
                "a checksum does not match the body",
            ),
            Self::ContentSha256Mismatch => (
                S::BAD_REQUEST,
                "XAmzContentSHA256Mismatch",
                "the body is not the one that was signed",
            ),
            Self::EntityTooSmall => (
                S::BAD_REQUEST,
                "EntityTooSmall",
                "a part but the last is too small",
            ),
            Self::Expired => (S::FORBIDDEN, "AccessDenied", "Request has expired"),
            Self::IncompleteBody => (
                S::BAD_REQUEST,
                "IncompleteBody",
                "the body is not as long as it was said to be",
            ),
            Self::InvalidAccessKeyId => (
                S::FORBIDDEN,
                "InvalidAccessKeyId",
                "the access key is not known",
            ),
            Self::InvalidPart => (
                S::BAD_REQUEST,
                "InvalidPart",
                "a part is not there as listed",
            ),
            Self::InvalidPartOrder => (
                S::BAD_REQUEST,
                "InvalidPartOrder",
                "the parts are not in ascending order",
            ),
            Self::InvalidRequest => (S::BAD_REQUEST, "InvalidRequest", "the request is not valid"),
            Self::InvalidToken => (S::BAD_REQUEST, "InvalidToken", "the session token is wrong"),
            Self::MalformedAuthorization => (
                S::BAD_REQUEST,
                "AuthorizationHeaderMalformed",
                "the authorization is not a complete signature of version 4",
            ),
            Self::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "not possible on this resource",
            ),
            Self::NoSuchBucket => (
                S::NOT_FOUND,
                "NoSuchBucket",
                "The specified bucket does not exist",
            ),
            Self::NoSuchKey => (
                S::NOT_FOUND,
                "NoSuchKey",
                "The specified key does not exist.",
            ),
            Self::NoSuchUpload => (S::NOT_FOUND, "NoSuchUpload", "the upload does not exist"),
            Self::NotImplemented => (
                S::NOT_IMPLEMENTED,
                "NotImplemented",
                "this server does not do that",
            ),
            Self::PreconditionFailed => (
                S::PRECONDITION_FAILED,
                "PreconditionFailed",
                "a precondition does not hold",
            ),
            Self::SignatureDoesNotMatch => (
                S::FORBIDDEN,
                "SignatureDoesNotMatch",
                "the signature is not the one that the server calculated",
            ),
            Self::TimeTooSkewed => (
                S::FORBIDDEN,
                "RequestTimeTooSkewed",
                "the clocks differ by too much",
            ),
        }
    }

    fn reply(self, resource: &str) -> Reply {
        let (status, code, message) = self.parts();
        xml::error(status, code, message, resource)
    }
}
