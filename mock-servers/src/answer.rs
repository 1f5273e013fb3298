//! The effect of a fault on a response.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{Response, StatusCode};

use crate::behaviour::Fault;
use crate::content::{Content, Reader};
use crate::gzip;
use crate::log::Entry;
use crate::request::Reply;
use crate::sending::{Drip, Ending, Outbound, Payload};
use crate::server::Connection;

/// The response of a fault that does not depend on the request.
pub(crate) fn instead(fault: &Fault, target: &str) -> Option<Reply> {
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

pub(crate) fn clock_ahead(fault: &Fault) -> i64 {
    match *fault {
        Fault::ClockSkew { seconds } => seconds,
        _ => 0,
    }
}

/// Where and how a body ends early.
pub(crate) fn cut(fault: &Fault) -> Option<(u64, Ending)> {
    match *fault {
        Fault::Truncate { after } => Some((after, Ending::Close)),
        Fault::Reset { after: Some(after) } => Some((after, Ending::Reset)),
        Fault::Stall { after } => Some((after, Ending::Stall)),
        _ => None,
    }
}

pub(crate) fn gzipped(reply: Reply) -> Reply {
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

/// The head of the response and its body.
pub(crate) fn send(
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
            drip: match *fault {
                Fault::Drip { rate } => Some(Drip::new(0, rate)),
                Fault::SlowDown { after, rate } => Some(Drip::new(after, rate)),
                _ => None,
            },
        })
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = reply.headers;
    response
}
