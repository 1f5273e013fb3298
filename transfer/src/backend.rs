//! The seam between the engine and the protocols.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{BackendError, ByteRange, Expected, Target};

/// The bytes of an answer as they arrive.
pub type Body = BoxStream<'static, Result<Bytes, BackendError>>;

/// What a mirror said of a file earlier, so that it can say that nothing has changed. Valid for
/// the mirror and path that gave it, and no other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// The `ETag`, verbatim.
    pub etag: Option<String>,
    /// The `Last-Modified` date, verbatim.
    pub last_modified: Option<String>,
}

impl Validators {
    /// Whether there is nothing to validate with.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct GetRequest<'a> {
    /// What is wanted.
    pub target: &'a Target,
    /// What is known of it; registries find a blob by its digest.
    pub expected: Expected,
    /// Which bytes; all of them when `None`.
    pub range: Option<ByteRange>,
    /// What this mirror said of the file before.
    pub validators: Option<&'a Validators>,
}

/// One answer. The connection stands and its header has been read and checked; the body has not.
pub enum GetResponse {
    /// The file is as it was.
    NotModified,
    /// The file, or a range of it.
    Body {
        /// The offset in the file of the first byte of the body. It is what was asked for, or 0
        /// when the server ignored the range and sends everything.
        start: u64,
        /// The length of the whole file, when the server says it.
        total: Option<u64>,
        /// What the mirror says of this version of the file.
        validators: Validators,
        /// The bytes.
        body: Body,
    },
}

impl std::fmt::Debug for GetResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotModified => f.write_str("NotModified"),
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

/// One mirror, spoken to in its own protocol. A backend makes exactly the request it is asked to
/// make: it neither retries nor falls back, and it has no timeout of its own beyond the
/// connection's; all that is the engine's.
#[async_trait]
pub trait Backend: std::fmt::Debug + Send + Sync {
    /// Asks for a file or a range of it. Dropping the future or the body ends the request.
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError>;

    /// Asks for several ranges in one request and one answer: where each part lies in the file, and
    /// its bytes. `None` where the protocol does not have that, or the server answers in any other
    /// way; then each range is to be asked for by itself. Fewer bytes may come than were wanted.
    async fn get_ranges(
        &self,
        target: &Target,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Option<Vec<(u64, Bytes)>>, BackendError> {
        let _ = (target, ranges);
        Ok(None)
    }

    /// The printable URL under which this mirror has the file.
    fn describe(&self, target: &Target) -> String;
}
