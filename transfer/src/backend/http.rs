//! Mirrors on web servers.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use reqwest::{
    Response, StatusCode,
    header::{
        ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap,
        HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LINK, RANGE,
        RETRY_AFTER,
    },
};
use taipan_mirrors::SafeUrl;
use url::Url;

use crate::{
    BackendError, ByteRange, ContentRange, Expected, HttpClient, Target,
    backend::{
        Backend, Body, DuplicateHeaders, GetRequest, GetResponse, Ranges, Validators, byteranges,
        http_client::CredentialSource,
    },
};

/// A directory on a web server.
#[derive(Clone)]
pub struct HttpBackend {
    client: HttpClient,
    root: Url,
}

impl std::fmt::Debug for HttpBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("HttpBackend")
            .field("root", &SafeUrl::from(self.root.clone()))
            .finish_non_exhaustive()
    }
}

impl HttpBackend {
    /// The backend for the directory at `root`.
    pub fn new(client: impl Into<HttpClient>, mut root: Url) -> Self {
        let client = client.into();
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        Self { client, root }
    }

    fn url(&self, target: &Target) -> Result<Url, BackendError> {
        let mut url = self.root.clone();
        let bad = || BackendError::BadPath {
            path: target.path.clone(),
            place: SafeUrl::from(self.root.clone()).to_string(),
        };
        // Segments are escaped one by one, so that a path from a server cannot leave the root by
        // `..`, `?` or `//host`.
        {
            let mut segments = url.path_segments_mut().map_err(|()| bad())?;
            segments.pop_if_empty();
            segments.extend(target.segments().ok_or_else(bad)?);
        }
        Ok(url)
    }

    /// Like [`get`](Backend::get), from this URL, which is requested as it is.
    pub async fn get_url(
        &self,
        url: Url,
        request: GetRequest<'_>,
    ) -> Result<GetResponse, BackendError> {
        let mut get = self.client.get(url.clone());
        if let Some(validators) = request.validators {
            if let Some(etag) = &validators.etag {
                get = get.header(IF_NONE_MATCH, etag);
            }
            if let Some(date) = &validators.last_modified {
                get = get.header(IF_MODIFIED_SINCE, date);
            }
        }
        if let Some(etag) = request.if_range {
            get = get.header(IF_RANGE, etag);
        }
        let url = SafeUrl::from(url);
        let credentials = CredentialSource::Configured;
        send(
            &self.client,
            get,
            credentials,
            url,
            request.ranges,
            request.expected,
        )
        .await
    }
}

#[async_trait]
impl Backend for HttpBackend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let url = self.url(request.target)?;
        self.get_url(url, request).await
    }

    fn has_multi_range(&self) -> bool {
        true
    }

    fn describe(&self, target: &Target) -> String {
        match self.url(target) {
            Ok(url) => SafeUrl::from(url).to_string(),
            Err(_) => SafeUrl::from(self.root.clone()).to_string(),
        }
    }
}

/// Sends a GET request and checks the header of the response: one function for the first request of
/// a file and for every later one.
pub(crate) async fn send(
    client: &HttpClient,
    get: reqwest::RequestBuilder,
    credentials: CredentialSource,
    url: SafeUrl,
    ranges: Ranges<'_>,
    expected: Expected,
) -> Result<GetResponse, BackendError> {
    // Ranges and digests are of the file, not of an encoded form of it.
    let mut get = get.header(ACCEPT_ENCODING, "identity");
    let range = match ranges {
        Ranges::All => None,
        Ranges::One(range) => {
            get = get.header(RANGE, range.header());
            Some(range)
        }
        Ranges::Several(ranges) => {
            get = get.header(RANGE, byteranges::header(ranges));
            None
        }
    };
    let response = client.send(get, &url, credentials).await?;
    let headers = response.headers();
    match response.status() {
        StatusCode::NOT_MODIFIED => Ok(GetResponse::NotModified),
        StatusCode::OK => {
            let total = response.content_length();
            body(response, &url, (0, None), total, expected)
        }
        StatusCode::PARTIAL_CONTENT => {
            let kind = text(headers, &CONTENT_TYPE).unwrap_or_default();
            if let Ranges::Several(_) = ranges
                && let Some(boundary) = byteranges::boundary(&kind)
            {
                return Ok(GetResponse::Parts {
                    boundary: boundary.to_owned(),
                    body: pieces(response, &url, expected.size, expected)?,
                });
            }
            let sent = text(headers, &CONTENT_RANGE).unwrap_or_default();
            match (sent.parse::<ContentRange>(), range) {
                (Ok(sent), Some(wanted)) if sent.satisfies(wanted) => {
                    let range = (sent.start, Some(sent.end));
                    body(response, &url, range, sent.total, expected)
                }
                // The server joined the ranges, or sends only the first one.
                (Ok(_), None) if matches!(ranges, Ranges::Several(_)) => {
                    Err(BackendError::NoMultiRange {
                        url: url.to_string(),
                    })
                }
                // A body with another range cannot be placed in the file.
                _ => Err(BackendError::WrongRange {
                    url: url.to_string(),
                    wanted: range.unwrap_or(ByteRange::from(0)),
                    got: sent,
                }),
            }
        }
        status => match range.filter(|_| status == StatusCode::RANGE_NOT_SATISFIABLE) {
            Some(wanted) => Err(BackendError::BeyondEnd {
                url: url.to_string(),
                wanted,
            }),
            None => Err(BackendError::Status {
                status: status.as_u16(),
                retry_after: retry_after_header(headers),
                url,
            }),
        },
    }
}

fn body(
    response: Response,
    url: &SafeUrl,
    (start, end): (u64, Option<u64>),
    total: Option<u64>,
    expected: Expected,
) -> Result<GetResponse, BackendError> {
    let headers = response.headers();
    let validators = Validators {
        etag: text(headers, &ETAG),
        last_modified: text(headers, &LAST_MODIFIED),
    };
    Ok(GetResponse::Body {
        start,
        end,
        total,
        validators,
        duplicates: duplicates(&response),
        body: pieces(response, url, total, expected)?,
    })
}

/// The headers that name other locations of the file.
fn duplicates(response: &Response) -> Option<Box<DuplicateHeaders>> {
    let values = |names: &[HeaderName]| -> Vec<String> {
        let all = names
            .iter()
            .flat_map(|name| response.headers().get_all(name));
        all.filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let links = values(&[LINK]);
    (!links.is_empty()).then(|| {
        Box::new(DuplicateHeaders {
            base: response.url().clone(),
            links,
            digests: values(&[
                HeaderName::from_static("digest"),
                HeaderName::from_static("repr-digest"),
            ]),
        })
    })
}

/// Whether an encoding is that of the file itself, by its name: many servers send a `.tar.gz` with
/// `Content-Encoding: x-gzip`, and the bytes are those of the file.
fn is_encoding_of_name(path: &str, encoding: &str) -> bool {
    let (_, extension) = path.rsplit_once('.').unwrap_or_default();
    let extension = extension.to_ascii_lowercase();
    match &*encoding.trim().to_ascii_lowercase() {
        "gzip" | "x-gzip" => matches!(&*extension, "gz" | "tgz"),
        "zstd" => matches!(&*extension, "zst" | "tzst"),
        "bzip2" | "x-bzip2" => matches!(&*extension, "bz2" | "tbz2"),
        _ => false,
    }
}

/// Whether the bytes of an encoded body may be those of the file, so that its digest can decide: a file that is stored encoded
/// has a length, and one that is encoded on the way has another one.
fn may_be_stored_so(expected: Expected, total: Option<u64>) -> bool {
    let is_length = total.is_some_and(|total| expected.size.is_none_or(|size| size == total));
    expected.is_content_addressed() && is_length
}

/// The body of a file with `total` bytes, unless it is encoded on the way.
fn pieces(
    response: Response,
    url: &SafeUrl,
    total: Option<u64>,
    expected: Expected,
) -> Result<Body, BackendError> {
    if let Some(encoding) = text(response.headers(), &CONTENT_ENCODING)
        && !encoding.eq_ignore_ascii_case("identity")
        && !is_encoding_of_name(response.url().path(), &encoding)
        && !may_be_stored_so(expected, total)
    {
        let url = url.clone();
        return Err(BackendError::Encoded { url, encoding });
    }
    let name = url.to_string();
    let pieces = response.bytes_stream().map(move |piece| {
        piece.map_err(|source| BackendError::Body {
            url: name.clone(),
            // The text of this error has the URL, masked.
            source: Box::new(source.without_url()),
        })
    });
    Ok(pieces.boxed())
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The delay that `Retry-After` requests.
pub(crate) fn retry_after_header(headers: &HeaderMap) -> Option<Duration> {
    let date = text(headers, &DATE);
    retry_after(&text(headers, &RETRY_AFTER)?, date.as_deref())
}

/// The value of a `Retry-After` header (RFC 9110 §10.2.3): seconds, or a date. A date is compared
/// with the `Date` of the same response, because the clocks may differ, or with the local clock if
/// there is none. The delay is capped, so that a wrong clock does not exclude a mirror for good.
pub(crate) fn retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    const LIMIT: Duration = Duration::from_hours(1);
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(LIMIT));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = date
        .and_then(|date| httpdate::parse_http_date(date.trim()).ok())
        .unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or_default().min(LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HttpOptions;

    fn backend(root: &str) -> HttpBackend {
        let client = HttpClient::new(&HttpOptions::default()).unwrap();
        HttpBackend::new(client, root.parse().unwrap())
    }

    #[test]
    fn paths_stay_below_the_root() {
        let backend = backend("http://mirror.example/conda?x=1");
        let url = |path: &str| backend.url(&Target::path(path)).map(|url| url.to_string());
        assert_eq!(
            url("noarch/a b#c?d%2e.conda").unwrap(),
            "http://mirror.example/conda/noarch/a%20b%23c%3Fd%252e.conda?x=1"
        );
        for bad in ["../secret", "a/../../b", "//host/x", "a/./b", ""] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_encoding_that_the_name_has_is_the_files_own() {
        assert!(is_encoding_of_name("/a/b.tar.gz", "x-gzip"));
        assert!(is_encoding_of_name("/repodata.json.zst", "zstd"));
        for (path, encoding) in [
            ("/repodata.json", "gzip"),
            ("/a.gz", "zstd"),
            ("/a.gz/b", "gzip"),
            ("/gz", "gzip"),
            ("/a.conda", "gzip"),
        ] {
            assert!(!is_encoding_of_name(path, encoding), "{path}");
        }
    }

    #[test]
    fn of_an_encoded_body_with_the_right_length_the_digest_decides() {
        let known = Expected {
            size: Some(5),
            sha256: Some(crate::Sha256::of(b"x")),
            ..Expected::default()
        };
        let sizeless = Expected {
            size: None,
            ..known
        };
        assert!(may_be_stored_so(known, Some(5)) && may_be_stored_so(sizeless, Some(5)));
        assert!(!may_be_stored_so(known, Some(4)) && !may_be_stored_so(sizeless, None));
        assert!(!may_be_stored_so(Expected::default(), Some(5)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        assert_eq!(retry_after("7", None), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("99999999", None), Some(Duration::from_hours(1)));
        let then = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(retry_after(then, None), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", None), None);
    }

    #[test]
    fn a_date_in_retry_after_is_compared_with_the_clock_of_the_server() {
        let (now, then) = (
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Wed, 21 Oct 2015 07:28:30 GMT",
        );
        assert_eq!(retry_after(then, Some(now)), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(now, Some(then)), Some(Duration::ZERO));
        let far = "Fri, 21 Oct 2050 07:28:00 GMT";
        assert_eq!(retry_after(far, Some(now)), Some(Duration::from_hours(1)));
        assert_eq!(
            retry_after(far, Some("today")),
            Some(Duration::from_hours(1))
        );
    }

    #[test]
    fn a_password_in_the_root_is_not_printed() {
        let backend = backend("https://user:hunter2@mirror.example/c/");
        assert!(
            !backend
                .describe(&Target::path("noarch/x"))
                .contains("hunter2")
        );
    }
}
