//! The request and the response of a handler.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::content::Content;
use crate::log::Entry;
use crate::sending::Ending;
use crate::server::Connection;
use crate::uri;

/// The connection is dropped without (further) response: by a fault, or because the client has disconnected.
#[derive(Debug)]
pub(crate) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is cut")
    }
}

impl std::error::Error for Cut {}

/// Faults in serving an object.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quirks {
    pub(crate) ignore_range: bool,
    pub(crate) shift_range: bool,
    /// At most this many bytes of a range are sent.
    pub(crate) short_range: Option<u64>,
    pub(crate) change_etag: bool,
    /// By how many seconds the server's clock is ahead.
    pub(crate) clock_ahead: i64,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Undecoded, for signatures.
    pub(crate) raw_path: String,
    /// Decoded, with its leading slash.
    pub(crate) path: String,
    pub(crate) raw_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) quirks: Quirks,
    pub(crate) body: Inbound,
}

impl Request {
    /// A header, if it is present and is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn query(&self) -> Vec<(String, String)> {
        uri::query_pairs(&self.raw_query)
    }

    /// The first value of a query parameter, empty if it has none.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.query()
            .into_iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

/// The maximum size of a request body. The servers keep uploads in memory.
const MAX_BODY: usize = 4 << 30;

/// The body of a request, read at the connection's rate and truncated by faults.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) body: Incoming,
    pub(crate) connection: Arc<Connection>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) cut: Option<(u64, Ending)>,
}

impl Inbound {
    /// The next piece; `None` at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let Ok(data) = frame.map_err(|_| Cut)?.into_data() else {
                continue;
            };
            for piece in data.chunks(self.connection.piece()) {
                self.connection.pace(piece.len()).await;
            }
            return Ok(Some(data));
        }
    }

    /// The whole body. If it is truncated, the request must have no effect.
    pub(crate) async fn collect(&mut self) -> Result<Bytes, Cut> {
        let mut kept = BytesMut::new();
        match self.collect_into(&mut kept).await {
            Ok(()) => Ok(kept.freeze()),
            Err(cut) => Err(cut),
        }
    }

    /// Like [`Inbound::collect`], but leaves the bytes of a truncated body in `kept`.
    pub(crate) async fn collect_into(&mut self, kept: &mut BytesMut) -> Result<(), Cut> {
        let before = kept.len();
        loop {
            if let Some((after, ending)) = self.cut
                && (kept.len() - before) as u64 >= after
            {
                let excess = kept.len() - before - usize::try_from(after).unwrap_or(0);
                kept.truncate(kept.len() - excess);
                return Err(self.connection.end(ending).await);
            }
            let Some(data) = self.next().await? else {
                return Ok(());
            };
            self.entry
                .update(|entry| entry.bytes_received += data.len() as u64);
            if kept.len() + data.len() > MAX_BODY {
                return Err(Cut);
            }
            kept.extend_from_slice(&data);
        }
    }
}

/// A response: status, headers, and a range of a content as its body. `Content-Length` is added when it is
/// sent.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    pub(crate) range: Range<u64>,
}

impl Reply {
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self::bytes(status, Bytes::new())
    }

    pub(crate) fn bytes(status: StatusCode, bytes: Bytes) -> Self {
        let range = 0..bytes.len() as u64;
        Self {
            status,
            headers: HeaderMap::new(),
            content: Content::Memory(bytes),
            range,
        }
    }

    pub(crate) fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Self {
        Self::bytes(status, text.into()).with(header::CONTENT_TYPE, kind)
    }

    /// Sets a header; a value that is not allowed in HTTP is left out.
    #[must_use]
    pub(crate) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }
}
