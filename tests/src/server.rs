//! HTTP servers in this process, and the bytes that they send.

use std::{
    io::Read as _,
    pin::pin,
    process::Child,
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::future::{self, Either};
use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, RequestLog, Rule, Site};

use crate::Sandbox;

/// Serves a site.
pub async fn serve(site: &Site, behaviour: Behaviour) -> HttpServer {
    HttpServer::builder(site.clone())
        .behaviour(behaviour)
        .start()
        .await
        .expect("a server can be started")
}

/// A behaviour with this fault in each response.
pub fn always(fault: Fault) -> Behaviour {
    Behaviour::new().with_rule(Rule::always(Matcher::Any, fault))
}

/// The bytes that were sent in response to these requests.
pub fn bytes_sent(log: &[RequestLog]) -> u64 {
    log.iter().map(|request| request.bytes_sent).sum()
}

/// Waits until the servers together have sent this many bytes since their logs were cleared.
pub async fn wait_until_sent(servers: &[&HttpServer], bytes: u64) {
    let counts: Vec<AtomicU64> = servers.iter().map(|_| AtomicU64::new(0)).collect();
    let sum = || -> u64 { counts.iter().map(|it| it.load(Ordering::SeqCst)).sum() };
    // Each server updates its own count and checks the sum, so the last one of them ends the wait.
    let each = servers.iter().zip(&counts).map(|(server, count)| {
        Box::pin(server.wait_until(move |log| {
            count.store(bytes_sent(log), Ordering::SeqCst);
            sum() >= bytes
        }))
    });
    future::select_all(each).await;
}

/// Starts the binary, and returns when the servers have sent this many bytes or the process has
/// ended.
pub async fn start_until_sent(
    sandbox: &Sandbox,
    arguments: &[&str],
    servers: &[&HttpServer],
    bytes: u64,
) -> Child {
    let mut child = sandbox.start(arguments);
    let mut stdout = child.stdout.take().expect("stdout is a pipe");
    // The pipe is open as long as the process lives.
    let mut end = tokio::task::spawn_blocking(move || stdout.read_to_end(&mut Vec::new()));
    let sent = pin!(wait_until_sent(servers, bytes));
    if let Either::Right((read, _)) = future::select(sent, &mut end).await {
        read.expect("the reader does not panic")
            .expect("a pipe can be read");
    }
    child
}
