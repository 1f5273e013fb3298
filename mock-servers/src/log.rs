//! The request log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::{HeaderMap, header};
use tokio::sync::watch;

/// One request. It is recorded when its head has been read and updated until the response ends, so requests
/// of clients that disconnect are included.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RequestLog {
    pub method: String,
    /// Percent-decoded, with its leading slash.
    pub path: String,
    /// Undecoded, without the question mark.
    pub query: Option<String>,
    /// The version of HTTP.
    pub version: http::Version,
    /// The scheme of the `Authorization` header (`Basic`, `Bearer`, `AWS4-HMAC-SHA256`), without the secret.
    pub authorization: Option<String>,
    /// All headers but `Authorization` and `Cookie`.
    pub headers: HeaderMap,
    /// Number of the connection, from 0, in the order of accepting.
    pub connection: u64,
    /// The scripted fault that was applied.
    pub fault: Option<&'static str>,
    /// `None` before a response is started.
    pub status: Option<u16>,
    /// Bytes of the response's body passed to the connection, which may buffer some of them.
    pub bytes_sent: u64,
    /// Bytes of the request's body that were read.
    pub bytes_received: u64,
    pub started: Instant,
    /// When the response was sent or failed.
    pub finished: Option<Instant>,
    /// The body was sent to its end.
    pub complete: bool,
}

impl RequestLog {
    /// A header of the request, if it occurs once and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `Range` header.
    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }

    /// The `If-None-Match` header.
    pub fn if_none_match(&self) -> Option<&str> {
        self.header("if-none-match")
    }
}

#[derive(Debug)]
pub(crate) struct Log {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<RequestLog>,
    /// The number of cleared entries; ids continue.
    cleared: usize,
}

impl Log {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    pub(crate) fn begin(
        self: &Arc<Self>,
        head: &http::request::Parts,
        path: &str,
        connection: u64,
    ) -> Entry {
        let authorization = head
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split([' ', '\t']).next())
            .map(str::to_owned);
        let mut headers = head.headers.clone();
        headers.remove(header::AUTHORIZATION);
        headers.remove(header::COOKIE);
        let mut state = self.lock();
        let id = state.cleared + state.entries.len();
        state.entries.push(RequestLog {
            method: head.method.as_str().to_owned(),
            path: path.to_owned(),
            query: head.uri.query().map(str::to_owned),
            version: head.version,
            authorization,
            headers,
            connection,
            fault: None,
            status: None,
            bytes_sent: 0,
            bytes_received: 0,
            started: Instant::now(),
            finished: None,
            complete: false,
        });
        drop(state);
        self.changed();
        Entry {
            log: Arc::clone(self),
            id,
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<RequestLog> {
        self.lock().entries.clone()
    }

    /// The number of requests whose response has not ended.
    pub(crate) fn open(&self) -> usize {
        let all = self.snapshot();
        all.iter().filter(|entry| entry.finished.is_none()).count()
    }

    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.cleared += state.entries.len();
        state.entries.clear();
    }

    pub(crate) async fn wait_until(&self, mut holds: impl FnMut(&[RequestLog]) -> bool) {
        let mut changes = self.changes.subscribe();
        // The sender lives as long as `self`, so this does not fail.
        while !holds(&self.lock().entries) && changes.changed().await.is_ok() {}
    }

    pub(crate) fn changed(&self) {
        self.changes
            .send_modify(|version| *version = version.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle to update one entry; its drop marks the end of the response.
#[derive(Debug)]
pub(crate) struct Entry {
    log: Arc<Log>,
    id: usize,
}

impl Entry {
    pub(crate) fn update(&self, change: impl FnOnce(&mut RequestLog)) {
        let mut state = self.log.lock();
        let index = self.id.checked_sub(state.cleared);
        if let Some(entry) = index.and_then(|index| state.entries.get_mut(index)) {
            change(entry);
        }
        drop(state);
        self.log.changed();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.update(|entry| entry.finished = Some(Instant::now()));
    }
}
