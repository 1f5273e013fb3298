//! Serving one object: validators, conditions and ranges (RFC 9110 §13 and §14).

use std::time::SystemTime;

use http::StatusCode;
use http::header;

use crate::date;
use crate::range::{self, Wanted};
use crate::request::{Reply, Request};
use crate::site::Object;

/// Answers a GET or HEAD for an existing object. The conditions are evaluated in the order of
/// RFC 9110 §13.2.2.
pub(crate) fn serve(request: &Request, object: &Object) -> Reply {
    let len = object.content.len();
    let etag = if request.quirks.change_etag {
        format!("\"changed-{}", object.etag.trim_start_matches('"'))
    } else {
        object.etag.clone()
    };
    let modified = date::whole_seconds(object.modified);
    let validated = |reply: Reply| {
        reply
            .with(header::ETAG, &etag)
            .with(header::LAST_MODIFIED, date::http_date(modified))
            .with(header::ACCEPT_RANGES, "bytes")
    };

    if let Some(status) = precondition(request, &etag, modified) {
        return validated(Reply::empty(status));
    }

    let wanted = if request.quirks.ignore_range || !range_still_valid(request, &etag, modified) {
        Wanted::Whole
    } else {
        range::wanted(request.header("range"), len)
    };
    let mut reply = Reply::empty(StatusCode::OK);
    match wanted {
        Wanted::Whole => reply.range = 0..len,
        Wanted::Part(mut part) => {
            if let Some(most) = request.quirks.short_range {
                part.end = part.end.min(part.start + most.max(1));
            }
            // One byte on, or one back where the file ends.
            let part = match (request.quirks.shift_range, part.end < len, part.start > 0) {
                (true, true, _) => part.start + 1..part.end + 1,
                (true, false, true) => part.start - 1..part.end - 1,
                _ => part,
            };
            reply.status = StatusCode::PARTIAL_CONTENT;
            reply = reply.with(
                header::CONTENT_RANGE,
                format!("bytes {}-{}/{len}", part.start, part.end - 1),
            );
            reply.range = part;
        }
        Wanted::Unsatisfiable => {
            let reply = Reply::empty(StatusCode::RANGE_NOT_SATISFIABLE);
            return validated(reply.with(header::CONTENT_RANGE, format!("bytes */{len}")));
        }
    }
    reply.content = object.content.clone();
    reply = reply.with(header::CONTENT_TYPE, "application/octet-stream");
    for (name, value) in &object.headers {
        reply.headers.insert(name.clone(), value.clone());
    }
    validated(reply)
}

/// 412 or 304 by the conditions of the request.
fn precondition(request: &Request, etag: &str, modified: SystemTime) -> Option<StatusCode> {
    let dated = |name| request.header(name).and_then(date::parse_http_date);
    if let Some(list) = request.header("if-match") {
        if !lists(list, etag) || list.trim_start().starts_with("W/") {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
    } else if dated("if-unmodified-since").is_some_and(|since| modified > since) {
        return Some(StatusCode::PRECONDITION_FAILED);
    }
    let unchanged = match request.header("if-none-match") {
        Some(list) => lists(list, etag),
        None => dated("if-modified-since").is_some_and(|since| modified <= since),
    };
    unchanged.then_some(StatusCode::NOT_MODIFIED)
}

/// `If-Range` holds a strong tag or a date; either must be exactly the current one.
fn range_still_valid(request: &Request, etag: &str, modified: SystemTime) -> bool {
    match request.header("if-range").map(str::trim) {
        None => true,
        Some(tag) if tag.starts_with('"') => tag == etag,
        Some(tag) => date::parse_http_date(tag) == Some(modified),
    }
}

/// Whether a list of entity tags names this one, by weak comparison.
pub(crate) fn lists(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|tag| {
        tag == "*"
            || tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == etag.trim_matches('"')
    })
}
