//! A server whose responses are bytes, for what a mock server does not say.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// The head of a request as it came: the request line, then the header lines.
pub type Head = Vec<String>;

/// An HTTP/1.1 server on a loopback address that keeps connections and the heads of all requests.
#[derive(Debug)]
pub struct RawServer {
    /// `http://ADDRESS:PORT`.
    pub url: String,
    heads: Arc<Mutex<Vec<Head>>>,
}

impl RawServer {
    /// Starts a server whose responses `respond` makes.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start(
        host: &str,
        respond: impl Fn(&Head) -> Vec<u8> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heads);
        let respond = Arc::new(respond);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, respond) = (Arc::clone(&log), Arc::clone(&respond));
                std::thread::spawn(move || serve(&stream, &log, &*respond));
            }
        });
        Ok(Self { url, heads })
    }

    /// The heads of all requests since the last call.
    pub fn take(&self) -> Vec<Head> {
        std::mem::take(&mut self.heads.lock().expect("no thread panics with the lock"))
    }

    /// The targets of all requests since the last call, as they came.
    pub fn take_targets(&self) -> Vec<String> {
        self.take()
            .iter()
            .map(|head| target(head).to_owned())
            .collect()
    }
}

/// The target of a request.
pub fn target(head: &Head) -> &str {
    head[0].split(' ').nth(1).unwrap_or_default()
}

/// A response with this status line, these header lines and this body.
pub fn response(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let headers = [headers, &[""]].concat().join("\r\n");
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn serve(
    mut stream: &TcpStream,
    log: &Mutex<Vec<Head>>,
    respond: &dyn Fn(&Head) -> Vec<u8>,
) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let mut head = vec![lines.next()?.ok()?];
        loop {
            match lines.next()?.ok()? {
                line if line.is_empty() => break,
                line => head.push(line),
            }
        }
        let bytes = respond(&head);
        log.lock().ok()?.push(head);
        stream.write_all(&bytes).ok()?;
    }
}
