//! `ListObjectsV2`.

use std::collections::BTreeSet;

use http::StatusCode;

use super::S3Error;
use super::xml::{self, element};
use crate::date;
use crate::request::{Reply, Request};
use crate::site::Site;
use crate::uri;

/// The maximum number of entries per response, as in S3.
const MAX_KEYS: usize = 1000;

/// Lists a bucket: prefix, delimiter, `max-keys`, `start-after`, continuation, and
/// `encoding-type=url`. The continuation token is the last entry of the page before, in
/// hexadecimal, so that a page is right even if keys come and go meanwhile.
pub(crate) fn list(request: &Request, bucket: &str, site: &Site) -> Result<Reply, S3Error> {
    if request.parameter("list-type").as_deref() != Some("2") {
        return Err(S3Error::NotImplemented);
    }
    let prefix = request.parameter("prefix").unwrap_or_default();
    let delimiter = request
        .parameter("delimiter")
        .filter(|text| !text.is_empty());
    let max_keys = match request.parameter("max-keys") {
        None => MAX_KEYS,
        Some(text) => text.parse().map_err(|_| S3Error::InvalidRequest)?,
    };
    let token = request.parameter("continuation-token");
    let after = match &token {
        Some(token) => hex::decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or(S3Error::InvalidRequest)?,
        None => request.parameter("start-after").unwrap_or_default(),
    };
    let url_encoded = request.parameter("encoding-type").as_deref() == Some("url");
    let shown = |text: &str| {
        if url_encoded {
            uri::encode(text, true)
        } else {
            text.to_owned()
        }
    };

    let mut contents = String::new();
    let mut prefixes = BTreeSet::new();
    let mut count = 0;
    let mut last = String::new();
    let mut truncated = false;
    for (key, object) in site.objects() {
        let Some(rest) = key.strip_prefix(&prefix) else {
            continue;
        };
        let group = delimiter.as_deref().and_then(|text| {
            rest.find(text)
                .map(|at| &key[..prefix.len() + at + text.len()])
        });
        let entry = group.unwrap_or(&key);
        // A group that was listed on the page before must not come again.
        if entry <= after.as_str() || group.is_some_and(|group| prefixes.contains(group)) {
            continue;
        }
        if count == max_keys.min(MAX_KEYS) {
            // With `max-keys=0` there is no entry to continue from, and S3 reports the end of the list.
            truncated = count > 0;
            break;
        }
        count += 1;
        entry.clone_into(&mut last);
        if let Some(group) = group {
            prefixes.insert(group.to_owned());
        } else {
            contents.push_str("<Contents>");
            contents.push_str(&element("Key", &shown(&key)));
            contents.push_str(&element("LastModified", &date::iso_date(object.modified)));
            contents.push_str(&element("ETag", &object.etag));
            contents.push_str(&element("Size", &object.content.len().to_string()));
            contents.push_str(&element("StorageClass", "STANDARD"));
            contents.push_str("</Contents>");
        }
    }
    let mut inner = element("Name", bucket);
    inner.push_str(&element("Prefix", &shown(&prefix)));
    if let Some(delimiter) = &delimiter {
        inner.push_str(&element("Delimiter", &shown(delimiter)));
    }
    if url_encoded {
        inner.push_str(&element("EncodingType", "url"));
    }
    if let Some(token) = &token {
        inner.push_str(&element("ContinuationToken", token));
    }
    inner.push_str(&element("KeyCount", &count.to_string()));
    inner.push_str(&element("MaxKeys", &max_keys.to_string()));
    inner.push_str(&element(
        "IsTruncated",
        if truncated { "true" } else { "false" },
    ));
    if truncated {
        inner.push_str(&element("NextContinuationToken", &hex::encode(&last)));
    }
    inner.push_str(&contents);
    for group in &prefixes {
        inner.push_str("<CommonPrefixes>");
        inner.push_str(&element("Prefix", &shown(group)));
        inner.push_str("</CommonPrefixes>");
    }
    Ok(xml::reply(StatusCode::OK, "ListBucketResult", &inner))
}
