//! The common part of all servers: listening, logging, shaping, and faults.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use http::Response;
use http::header::{self, HeaderValue};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::answer::{clock_ahead, cut, gzipped, instead, send};
use crate::behaviour::{Behaviour, Fault};
use crate::date;
use crate::log::{Log, RequestLog};
use crate::pace::{self, Pacer};
use crate::port::Port;
use crate::request::{Cut, Inbound, Quirks, Reply, Request};
use crate::script::{Run, ScriptError};
use crate::sending::{Ending, Payload};
use crate::tls::Tls;
use crate::uri;
use crate::wire::{Control, Wire};

/// The responses of a kind of server without faults.
pub(crate) trait Handler: Send + Sync + 'static {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Result<Reply, Cut>>;
}

/// A running server: its URL, its log and its behaviour. It is stopped on drop.
#[derive(Debug)]
pub struct Server {
    port: Port,
    scheme: &'static str,
    shared: Arc<Shared>,
    doors: mpsc::UnboundedSender<Door>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// A new listener for the port, or none; the sender is notified when the old one is closed.
type Door = (Option<TcpListener>, oneshot::Sender<()>);

#[derive(Debug)]
pub(crate) struct Shared {
    log: Arc<Log>,
    run: Mutex<Run>,
    total: Pacer,
    accepted: AtomicU64,
    open: AtomicU64,
    failed_handshakes: AtomicU64,
    tls: Mutex<Option<Tls>>,
}

impl Shared {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Binds a free port of 127.0.0.1 and serves on the runtime of the caller. The handler is created with
    /// the URL `SCHEME://ADDRESS/`, which some responses contain.
    #[expect(
        clippy::unused_async,
        reason = "it needs the runtime of its caller, which an async function has"
    )]
    pub(crate) async fn start<H: Handler>(
        behaviour: Behaviour,
        tls: Option<Tls>,
        handler: impl FnOnce(&str) -> H,
    ) -> io::Result<Self> {
        let port = Port::reserve()?;
        let listener = port.open()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/", port.address());
        let shared = Arc::new(Shared {
            log: Log::new(),
            run: Mutex::new(Run::new(behaviour)),
            total: Pacer::default(),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            failed_handshakes: AtomicU64::new(0),
            tls: Mutex::new(tls),
        });
        let (doors, changes) = mpsc::unbounded_channel();
        let task = tokio::spawn(accept(
            listener,
            changes,
            Arc::clone(&shared),
            Arc::new(handler(&url)),
        ));
        Ok(Self {
            port,
            scheme,
            shared,
            doors,
            task: Mutex::new(Some(task)),
        })
    }

    /// `http://127.0.0.1:PORT/`, or `https://127.0.0.1:PORT/` if it was started with TLS.
    pub fn url(&self) -> String {
        format!("{}://{}/", self.scheme, self.address())
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Refuses new connections; existing ones stay open.
    pub async fn close_port(&self) {
        self.door(None).await;
    }

    /// Ends [`close_port`](Self::close_port). The only errors are those of listening.
    pub async fn open_port(&self) -> io::Result<()> {
        // Two sockets cannot listen at the same time.
        self.door(None).await;
        self.door(Some(self.port.open()?)).await;
        Ok(())
    }

    async fn door(&self, listener: Option<TcpListener>) {
        let (done, changed) = oneshot::channel();
        // Neither can fail but after `shutdown`, when the port is closed for good.
        let _ = self.doors.send((listener, done));
        let _ = changed.await;
    }

    /// Changes TLS for new connections. A server that was started without TLS has an `http` URL and cannot
    /// change to TLS.
    pub fn set_tls(&self, tls: Tls) {
        assert_eq!(self.scheme, "https", "the server was started without TLS");
        *self
            .shared
            .tls
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(tls);
    }

    /// The number of connections that failed in the TLS handshake.
    pub fn failed_handshakes(&self) -> u64 {
        self.shared.failed_handshakes.load(Ordering::SeqCst)
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<RequestLog> {
        self.shared.log.snapshot()
    }

    /// Clears the request log.
    pub fn clear_requests(&self) {
        self.shared.log.clear();
    }

    /// Waits until the log satisfies a condition, which is checked after every change.
    pub async fn wait_until(&self, holds: impl FnMut(&[RequestLog]) -> bool) {
        self.shared.log.wait_until(holds).await;
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The number of open connections.
    pub fn open_connections(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Replaces shaping and script. Rates apply at once, also to running responses. Failures of a strict
    /// script are kept for [`Self::verify`]; those of other scripts are discarded.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.shared.run().replace(behaviour);
    }

    /// Whether the script ran as written: each step of `Times::N` used up and, if the script is
    /// strict, no request that no rule matched.
    ///
    /// A strict script that was not verified is verified on drop, with a panic, so a test without a call of
    /// this fails as well.
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
            // The only possible error is the requested cancellation.
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
        let unheard = self.shared.run().unheard_verdict();
        if let Some(error) = unheard
            && !std::thread::panicking()
        {
            panic!("{error}");
        }
    }
}

async fn accept<H: Handler>(
    listener: TcpListener,
    mut doors: mpsc::UnboundedReceiver<Door>,
    shared: Arc<Shared>,
    handler: Arc<H>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let accepting = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        // All branches are cancel-safe: accepting, receiving and joining lose nothing when dropped.
        tokio::select! {
            Some((door, done)) = doors.recv() => {
                listener = door;
                // The receiver may be gone.
                let _ = done.send(());
            }
            accepted = accepting => {
                // Accepting fails for a disconnected peer or a full file table; the next attempt may succeed.
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
    // Pieces are sent at their time, not when the last one was acknowledged. A failure to set this only
    // changes the timing.
    let _ = stream.set_nodelay(true);
    let control = Arc::new(Control::default());
    let id = shared.accepted.fetch_add(1, Ordering::SeqCst);
    shared.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(Arc::clone(&shared));
    let tls = shared
        .tls
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let connection = |multiplexed| {
        Arc::new(Connection {
            id,
            shared: Arc::clone(&shared),
            pacer: Pacer::default(),
            control: Arc::clone(&control),
            multiplexed,
        })
    };
    let wire = Wire::new(stream, Arc::clone(&control));
    let served = match tls {
        None => speak(wire, &connection(false), &handler).await,
        Some(tls) => match TlsAcceptor::from(tls.0).accept(wire).await {
            Ok(stream) => {
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                speak(stream, &connection(h2), &handler).await
            }
            Err(error) => {
                shared.failed_handshakes.fetch_add(1, Ordering::SeqCst);
                shared.log.changed();
                tracing::debug!(connection = id, %error, "TLS handshake failed");
                return;
            }
        },
    };
    if let Err(error) = served {
        tracing::debug!(connection = id, %error, "connection ended");
    }
}

/// Serves a connection in its version of HTTP.
async fn speak<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: &Arc<Connection>,
    handler: &Arc<H>,
) -> hyper::Result<()> {
    let (each, handler) = (Arc::clone(connection), Arc::clone(handler));
    let service =
        service_fn(move |request| answer(Arc::clone(&each), Arc::clone(&handler), request));
    let io = TokioIo::new(stream);
    if !connection.multiplexed {
        let http1 = hyper::server::conn::http1::Builder::new();
        return http1.serve_connection(io, service).await;
    }
    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // Neither future is polled after the other is done.
    tokio::select! {
        served = http2.serve_connection(io, service) => served,
        () = connection.control.aborted() => Ok(()),
    }
}

/// The state of a connection, shared by its requests.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    shared: Arc<Shared>,
    pacer: Pacer,
    control: Arc<Control>,
    /// HTTP/2, where an error of a response does not end the connection.
    multiplexed: bool,
}

impl Connection {
    /// The maximum piece size that keeps the rates smooth.
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

    /// Waits until this many bytes may be sent.
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

    /// Ends a body as its fault requires. Bytes that were sent before are flushed first.
    pub(crate) async fn end(&self, ending: Ending) -> Cut {
        match ending {
            // hyper drops the response when the client disconnects or the server shuts down.
            Ending::Stall => std::future::pending().await,
            Ending::Close => self.flushed().await,
            Ending::Reset => {
                self.flushed().await;
                self.control.reset_on_close();
            }
        }
        self.abort().await
    }

    async fn flushed(&self) {
        if !self.multiplexed {
            return self.control.flushed().await;
        }
        // With HTTP/2 another task writes, as flow control allows, and does not report its end: it is assumed
        // when nothing was written for a while.
        let mut written = None;
        while written != Some(self.control.written()) {
            written = Some(self.control.written());
            tokio::time::sleep(FLUSHING).await;
        }
    }

    /// Ends the connection abruptly. HTTP/1 does it by itself when a body fails.
    async fn abort(&self) -> Cut {
        if self.multiplexed {
            self.control.abort();
            std::future::pending::<()>().await;
        }
        Cut
    }
}

/// When nothing was written for this long, HTTP/2 is assumed to have written everything.
const FLUSHING: Duration = Duration::from_millis(50);

async fn answer<H: Handler>(
    connection: Arc<Connection>,
    handler: Arc<H>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Payload>, Cut> {
    let (mut head, body) = request.into_parts();
    // HTTP/2 has `:authority` instead of `Host` (RFC 9113 §8.3.1).
    if let Some(authority) = head.uri.authority()
        && !head.headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(header::HOST, host);
    }
    let path = uri::decode(head.uri.path());
    let query = head.uri.query();
    let shared = &connection.shared;
    let entry = Arc::new(shared.log.begin(&head, &path, connection.id));
    let ranged = head.headers.contains_key(header::RANGE);
    let (latency, fault) = {
        let mut run = shared.run();
        let fault = run.decide(head.method.as_str(), &path, ranged);
        (run.behaviour().latency, fault)
    };
    let fault = match fault {
        Fault::Busy { most } if shared.log.open() > most => Fault::status(503),
        Fault::Busy { .. } => Fault::None,
        other => other,
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
    // For a request with a body the fault truncates that body, otherwise the response's.
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
                short_range: match fault {
                    Fault::ShortRange { most } => Some(most),
                    _ => None,
                },
                change_etag: matches!(fault, Fault::ChangedEtag),
                clock_ahead: clock_ahead(&fault),
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
        return Err(connection.abort().await);
    }
    if let Fault::ClockSkew { .. } = fault {
        let now = date::shifted(SystemTime::now(), clock_ahead(&fault));
        reply = reply.with(header::DATE, date::http_date(now));
    }
    if matches!(fault, Fault::Gzip) {
        reply = gzipped(reply);
    }
    Ok(send(reply, is_head, &fault, cut_out, &connection, entry))
}
