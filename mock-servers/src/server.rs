//! What all servers have in common: listening, logging, shaping, and the faults.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderName};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::behaviour::{Behaviour, Fault};
use crate::content::{Content, Reader};
use crate::gzip;
use crate::log::{Entry, Log, RequestLog};
use crate::pace::{self, Pacer};
use crate::request::{Cut, Inbound, Quirks, Reply, Request};
use crate::script::{Run, ScriptError};
use crate::sending::{Ending, Outbound, Payload};
use crate::uri;
use crate::wire::{Control, Wire};

/// What a kind of server answers when nothing is made to go wrong.
pub(crate) trait Handler: Send + Sync + 'static {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Result<Reply, Cut>>;
}

/// A running server: its address, its log and its behaviour. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    log: Arc<Log>,
    run: Mutex<Run>,
    total: Pacer,
    accepted: AtomicU64,
    open: AtomicU64,
}

impl Shared {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Binds a free port of 127.0.0.1 and serves on the runtime of the caller. The handler is
    /// made once the address is known, because some answers name it.
    pub(crate) async fn start<H: Handler>(
        behaviour: Behaviour,
        handler: impl FnOnce(SocketAddr) -> H,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            log: Log::new(),
            run: Mutex::new(Run::new(behaviour)),
            total: Pacer::default(),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(
            listener,
            Arc::clone(&shared),
            Arc::new(handler(address)),
        ));
        Ok(Self {
            address,
            shared,
            task: Mutex::new(Some(task)),
        })
    }

    /// `http://127.0.0.1:PORT/`
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<RequestLog> {
        self.shared.log.snapshot()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.log.clear();
    }

    /// Waits until the log satisfies a condition, which is asked again after every change.
    pub async fn wait_until(&self, holds: impl FnMut(&[RequestLog]) -> bool) {
        self.shared.log.wait_until(holds).await;
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Replaces shaping and script. Rates apply at once, even to answers under way; what the old
    /// script has seen is forgotten.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *self.shared.run() = Run::new(behaviour);
    }

    /// Whether the script ran as written: each step of `Times::N` used up and, if the script is
    /// strict, no request that no rule matched.
    pub fn verify(&self) -> Result<(), ScriptError> {
        self.shared.run().verify()
    }

    /// Closes the port and all connections, and waits until that is done.
    pub async fn shutdown(&self) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            task.abort();
            // The only possible error is the cancellation that was just asked for.
            let _ = task.await;
        }
        // Other threads of the runtime may still be dropping connections.
        let open = || self.open_connections() == 0;
        self.wait_until(|_| open()).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The connections belong to the task, so they end with it.
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

async fn accept<H: Handler>(listener: TcpListener, shared: Arc<Shared>, handler: Arc<H>) {
    let mut connections = JoinSet::new();
    loop {
        // Both branches are cancel-safe: accepting and joining lose nothing when dropped.
        tokio::select! {
            accepted = listener.accept() => {
                // Errors of accept are those of a peer that has gone, or of a full file table;
                // either way the next attempt may succeed.
                let Ok((stream, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                connections.spawn(serve(stream, Arc::clone(&shared), Arc::clone(&handler)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection as open while it lives.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.log.changed();
    }
}

async fn serve<H: Handler>(stream: TcpStream, shared: Arc<Shared>, handler: Arc<H>) {
    // Pieces are to leave when their time has come, not when the last one was acknowledged.
    // Failing to set this changes timing only.
    let _ = stream.set_nodelay(true);
    let control = Arc::new(Control::default());
    let connection = Arc::new(Connection {
        id: shared.accepted.fetch_add(1, Ordering::SeqCst),
        shared: Arc::clone(&shared),
        pacer: Pacer::default(),
        control: Arc::clone(&control),
    });
    shared.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(shared);
    let service =
        service_fn(|request| answer(Arc::clone(&connection), Arc::clone(&handler), request));
    let io = TokioIo::new(Wire::new(stream, control));
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(io, service)
        .await;
    if let Err(error) = served {
        tracing::debug!(connection = connection.id, %error, "connection ended");
    }
}

/// One connection, as its requests share it.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    shared: Arc<Shared>,
    pacer: Pacer,
    control: Arc<Control>,
}

impl Connection {
    /// The largest piece that keeps the rates smooth.
    pub(crate) fn piece(&self) -> usize {
        let run = self.shared.run();
        let behaviour = run.behaviour();
        [behaviour.rate, behaviour.total_rate]
            .into_iter()
            .flatten()
            .map(pace::piece)
            .min()
            .unwrap_or(usize::MAX)
    }

    /// Waits until so many bytes may pass.
    pub(crate) async fn pace(&self, bytes: usize) {
        let (rate, total_rate) = {
            let run = self.shared.run();
            (run.behaviour().rate, run.behaviour().total_rate)
        };
        if let Some(rate) = rate {
            self.pacer.pace(bytes, rate).await;
        }
        if let Some(rate) = total_rate {
            self.shared.total.pace(bytes, rate).await;
        }
    }

    /// Brings a body to the end that a fault asks for. What was sent before is flushed first.
    pub(crate) async fn end(&self, ending: Ending) -> Cut {
        match ending {
            // hyper drops the answer when the client goes or the server shuts down.
            Ending::Stall => std::future::pending().await,
            Ending::Close => self.control.flushed().await,
            Ending::Reset => {
                self.control.flushed().await;
                self.control.reset_on_close();
            }
        }
        Cut
    }
}

async fn answer<H: Handler>(
    connection: Arc<Connection>,
    handler: Arc<H>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Payload>, Cut> {
    let (head, body) = request.into_parts();
    let path = uri::decode(head.uri.path());
    let query = head.uri.query();
    let shared = &connection.shared;
    let entry = Arc::new(shared.log.begin(
        head.method.as_str(),
        &path,
        query,
        &head.headers,
        connection.id,
    ));
    let ranged = head.headers.contains_key(header::RANGE);
    let (latency, fault) = {
        let mut run = shared.run();
        let fault = run.decide(head.method.as_str(), &path, ranged);
        (run.behaviour().latency, fault)
    };
    entry.update(|entry| entry.fault = fault.name());
    let slow = if let Fault::SlowFirstByte(delay) = fault {
        delay
    } else {
        Duration::ZERO
    };
    if !(latency + slow).is_zero() {
        tokio::time::sleep(latency + slow).await;
    }
    if matches!(fault, Fault::Hang) {
        std::future::pending::<()>().await;
    }

    let is_head = head.method == http::Method::HEAD;
    let target = head
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str)
        .to_owned();
    // Of a request that brings a body it is that body which breaks off, else the answer's.
    let (cut_in, cut_out) = if hyper::body::Body::is_end_stream(&body) {
        (None, cut(&fault))
    } else {
        (cut(&fault), None)
    };
    let mut reply = if let Some(reply) = instead(&fault, &target) {
        reply
    } else {
        let request = Request {
            raw_path: head.uri.path().to_owned(),
            raw_query: query.unwrap_or_default().to_owned(),
            path,
            method: head.method,
            headers: head.headers,
            quirks: Quirks {
                ignore_range: matches!(fault, Fault::IgnoreRange | Fault::Gzip),
                shift_range: matches!(fault, Fault::WrongRange),
                change_etag: matches!(fault, Fault::ChangedEtag),
            },
            body: Inbound {
                body,
                connection: Arc::clone(&connection),
                entry: Arc::clone(&entry),
                cut: cut_in,
            },
        };
        handler.handle(request).await?
    };

    if matches!(fault, Fault::Reset { after: None }) {
        connection.control.reset_on_close();
        return Err(Cut);
    }
    if matches!(fault, Fault::Gzip) {
        reply = gzipped(reply);
    }
    Ok(send(reply, is_head, &fault, cut_out, &connection, entry))
}

/// The answer of a fault that does not depend on what is asked for.
fn instead(fault: &Fault, target: &str) -> Option<Reply> {
    const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head>\
        <body><h1>Sign in to continue</h1></body></html>\n";
    let valid = |code: u16| StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
    match fault {
        Fault::Status {
            code,
            headers,
            body,
        } => {
            let mut reply = Reply::bytes(valid(*code), body.clone());
            for (name, value) in headers {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    reply = reply.with(name, value);
                }
            }
            Some(reply)
        }
        Fault::RetryAfter { code, seconds } => {
            let reply = Reply::text(valid(*code), "text/plain", "come back later\n");
            Some(reply.with(header::RETRY_AFTER, seconds.to_string()))
        }
        Fault::Redirect { to } => {
            let rest = if to.ends_with('/') {
                target.trim_start_matches('/')
            } else {
                ""
            };
            let reply = Reply::empty(StatusCode::TEMPORARY_REDIRECT);
            Some(reply.with(header::LOCATION, format!("{to}{rest}")))
        }
        Fault::Html => Some(Reply::text(
            StatusCode::OK,
            "text/html; charset=utf-8",
            PAGE,
        )),
        _ => None,
    }
}

/// Where and how a body breaks off.
fn cut(fault: &Fault) -> Option<(u64, Ending)> {
    match *fault {
        Fault::Truncate { after } => Some((after, Ending::Close)),
        Fault::Reset { after: Some(after) } => Some((after, Ending::Reset)),
        Fault::Stall { after } => Some((after, Ending::Stall)),
        _ => None,
    }
}

fn gzipped(reply: Reply) -> Reply {
    if reply.status != StatusCode::OK {
        return reply;
    }
    match reply.content.read_all() {
        Ok(bytes) => {
            let bytes = Bytes::from(gzip::gzip(&bytes));
            let range = 0..bytes.len() as u64;
            let reply = Reply {
                content: Content::Memory(bytes),
                range,
                ..reply
            };
            reply.with(header::CONTENT_ENCODING, "gzip")
        }
        Err(_) => Reply::empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The head of the answer, and the body that will follow it.
fn send(
    reply: Reply,
    is_head: bool,
    fault: &Fault,
    cut_out: Option<(u64, Ending)>,
    connection: &Arc<Connection>,
    entry: Arc<Entry>,
) -> Response<Payload> {
    let status = reply.status;
    let len = reply.range.end.saturating_sub(reply.range.start);
    let declared = match fault {
        Fault::WrongLength { delta } => len.saturating_add_signed(*delta),
        _ => len,
    };
    // These two have no body by definition (RFC 9110 §6.4.1), and hyper sends none.
    let bodiless = is_head
        || declared == 0
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    entry.update(|entry| {
        entry.status = Some(status.as_u16());
        entry.complete = bodiless;
    });
    let mut reply = reply;
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        // A handler may have set it for the body that a HEAD does not get.
        reply = reply.with(header::CONTENT_LENGTH, declared.to_string());
    }
    let body = if bodiless {
        Payload::Idle(None)
    } else {
        Payload::new(Outbound {
            reader: Reader::new(reply.content, reply.range),
            connection: Arc::clone(connection),
            entry,
            corrupt: if let Fault::Corrupt { at } = fault {
                Some(*at)
            } else {
                None
            },
            cut: cut_out,
            promised: declared,
            drip: if let Fault::Drip { rate } = fault {
                Some((Pacer::default(), *rate))
            } else {
                None
            },
        })
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = reply.headers;
    response
}
