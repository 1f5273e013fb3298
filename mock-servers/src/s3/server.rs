//! The server itself: addressing, access, and the operations on objects.

use std::collections::BTreeMap;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::multipart::Uploads;
use super::xml::{self, element};
use super::{S3Error, S3Keys, chunked, list, sigv4};
use crate::behaviour::Behaviour;
use crate::date;
use crate::object;
use crate::request::{Cut, Reply, Request};
use crate::server::{Handler, Server};
use crate::site::{Object, Site};
use crate::tls::Tls;

/// An S3 endpoint with path-style and virtual-hosted addresses.
///
/// Objects: GET, HEAD, PUT and DELETE, ranges and conditions both ways, multipart uploads.
/// Buckets: HEAD, `ListObjectsV2`, `DeleteObjects`. With keys, signatures of version 4 are really
/// verified. All else is in [`Server`], to which it dereferences.
#[derive(Debug)]
pub struct S3Server {
    server: Server,
    keys: Option<S3Keys>,
}

impl S3Server {
    pub fn builder() -> S3ServerBuilder {
        S3ServerBuilder {
            buckets: BTreeMap::new(),
            keys: None,
            region: None,
            anonymous_read: false,
            ignore_conditions: false,
            min_part_size: 5 << 20,
            behaviour: Behaviour::default(),
            tls: None,
        }
    }

    /// `http://127.0.0.1:PORT`, or with `https`, for the endpoint setting of S3 clients.
    pub fn endpoint(&self) -> String {
        self.server.url().trim_end_matches('/').to_owned()
    }

    /// The keys that are required, if any.
    pub fn keys(&self) -> Option<&S3Keys> {
        self.keys.as_ref()
    }
}

impl Deref for S3Server {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Options of an [`S3Server`].
#[derive(Debug)]
pub struct S3ServerBuilder {
    buckets: BTreeMap<String, Site>,
    keys: Option<S3Keys>,
    region: Option<String>,
    anonymous_read: bool,
    ignore_conditions: bool,
    min_part_size: usize,
    behaviour: Behaviour,
    tls: Option<Tls>,
}

impl S3ServerBuilder {
    /// Adds a bucket with the files of a site; uploads appear in the site.
    #[must_use]
    pub fn bucket(mut self, name: impl Into<String>, site: Site) -> Self {
        self.buckets.insert(name.into(), site);
        self
    }

    /// Requires requests to be signed with these keys. Without keys everything is allowed.
    #[must_use]
    pub fn keys(self, keys: S3Keys) -> Self {
        Self {
            keys: Some(keys),
            ..self
        }
    }

    /// Refuses requests that are signed for another region, with the region in the response, as S3 does.
    #[must_use]
    pub fn region(self, name: impl Into<String>) -> Self {
        Self {
            region: Some(name.into()),
            ..self
        }
    }

    /// Allows reading and listing without keys.
    #[must_use]
    pub fn anonymous_read(self) -> Self {
        Self {
            anonymous_read: true,
            ..self
        }
    }

    /// Ignores `If-None-Match` and `If-Match` on uploads, as some compatible servers do.
    #[must_use]
    pub fn ignore_conditions(self) -> Self {
        Self {
            ignore_conditions: true,
            ..self
        }
    }

    /// The minimum size of a part, except the last; 5 MiB by default.
    #[must_use]
    pub fn min_part_size(self, bytes: usize) -> Self {
        Self {
            min_part_size: bytes,
            ..self
        }
    }

    #[must_use]
    pub fn behaviour(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }

    /// Uses TLS.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    /// Starts the server. The only errors are those of binding a port.
    pub async fn start(self) -> io::Result<S3Server> {
        let keys = self.keys.clone();
        let handler = S3Handler {
            buckets: self.buckets,
            keys: self.keys,
            region: self.region,
            anonymous_read: self.anonymous_read,
            ignore_conditions: self.ignore_conditions,
            min_part_size: self.min_part_size,
            uploads: Uploads::default(),
        };
        let server = Server::start(self.behaviour, self.tls, |_| handler).await?;
        Ok(S3Server { server, keys })
    }
}

#[derive(Debug)]
struct S3Handler {
    buckets: BTreeMap<String, Site>,
    keys: Option<S3Keys>,
    region: Option<String>,
    anonymous_read: bool,
    ignore_conditions: bool,
    min_part_size: usize,
    uploads: Uploads,
}

impl Handler for S3Handler {
    fn handle(self: Arc<Self>, mut request: Request) -> BoxFuture<'static, Result<Reply, Cut>> {
        Box::pin(async move {
            // Access is denied before the body is read, as in S3.
            let signed = match self.authorise(&request) {
                Ok(signed) => signed,
                Err(error) => return Ok(error.reply(&request.path)),
            };
            if let (Some(region), Some(signed)) = (&self.region, &signed)
                && signed.region() != region
            {
                return Ok(elsewhere(region, &request.path));
            }
            let body = if request.is_read() {
                Bytes::new()
            } else {
                request.body.collect().await?
            };
            let result = chunked::payload(&request, body, signed.as_ref())
                .and_then(|payload| self.operate(&request, payload));
            Ok(result.unwrap_or_else(|error| error.reply(&request.path)))
        })
    }
}

/// The response of S3 to a request that is signed for another region.
fn elsewhere(region: &str, path: &str) -> Reply {
    let (code, message) = ("AuthorizationHeaderMalformed", "the region is wrong");
    let name = HeaderName::from_static("x-amz-bucket-region");
    let reply = xml::error(StatusCode::BAD_REQUEST, code, message, path);
    match HeaderValue::from_str(region) {
        Ok(value) => {
            let mut headers = reply.headers;
            headers.insert(name, value);
            Reply { headers, ..reply }
        }
        Err(_) => reply,
    }
}

impl S3Handler {
    fn authorise(&self, request: &Request) -> Result<Option<sigv4::Signed>, S3Error> {
        let Some(keys) = &self.keys else {
            return Ok(None);
        };
        if sigv4::is_signed(request) {
            let now = date::shifted(SystemTime::now(), request.quirks.clock_ahead);
            return sigv4::verify(request, keys, now).map(Some);
        }
        if self.anonymous_read && request.is_read() {
            return Ok(None);
        }
        Err(S3Error::AccessDenied)
    }

    /// Bucket and key: from the first label of the host if that is a bucket, else from the path.
    fn address<'a>(&self, request: &'a Request) -> (&'a str, &'a str) {
        let path = request.path.strip_prefix('/').unwrap_or(&request.path);
        let label = request.header("host").and_then(|host| host.split_once('.'));
        match label {
            Some((bucket, _)) if self.buckets.contains_key(bucket) => (bucket, path),
            _ => path.split_once('/').unwrap_or((path, "")),
        }
    }

    fn operate(&self, request: &Request, body: Bytes) -> Result<Reply, S3Error> {
        let (bucket, key) = self.address(request);
        let site = self.buckets.get(bucket).ok_or(S3Error::NoSuchBucket)?;
        let query = request.query();
        let has = |name: &str| query.iter().any(|(key, _)| key == name);
        match (&request.method, key) {
            (&Method::HEAD, "") => Ok(Reply::empty(StatusCode::OK)),
            (&Method::GET, "") if has("location") => {
                Ok(xml::reply(StatusCode::OK, "LocationConstraint", ""))
            }
            (&Method::GET, "") if has("uploads") => Ok(self.uploads.list(bucket)),
            (&Method::GET, "") => list::list(request, bucket, site),
            (&Method::POST, "") if has("delete") => delete_many(site, &body),
            (_, "") => Err(S3Error::MethodNotAllowed),
            (&Method::GET, key) if has("uploadId") => self.uploads.list_parts(bucket, key, request),
            (&Method::GET | &Method::HEAD, key) => {
                let object = site.object(key).ok_or(S3Error::NoSuchKey)?;
                let reply = object::serve(request, &object);
                Ok(match reply.status {
                    StatusCode::PRECONDITION_FAILED => {
                        return Err(S3Error::PreconditionFailed);
                    }
                    StatusCode::RANGE_NOT_SATISFIABLE => xml::error(
                        reply.status,
                        "InvalidRange",
                        "The requested range is not satisfiable",
                        &request.path,
                    ),
                    _ => reply,
                })
            }
            (&Method::PUT, key) if has("uploadId") => {
                self.uploads.put_part(bucket, key, request, body)
            }
            (&Method::PUT, _) if request.headers.contains_key("x-amz-copy-source") => {
                Err(S3Error::NotImplemented)
            }
            (&Method::PUT, key) => {
                let mut object = Object::new(body);
                object.headers = kept_headers(request);
                let reply = Reply::empty(StatusCode::OK).with(header::ETAG, &object.etag);
                self.store(request, site, key, object)?;
                Ok(reply)
            }
            (&Method::POST, key) if has("uploads") => {
                Ok(self.uploads.create(bucket, key, kept_headers(request)))
            }
            (&Method::POST, key) if has("uploadId") => {
                let object =
                    self.uploads
                        .assemble(bucket, key, request, &body, self.min_part_size)?;
                let inner = element("Bucket", bucket)
                    + &element("Key", key)
                    + &element("ETag", &object.etag);
                self.store(request, site, key, object)?;
                self.uploads.forget(request);
                Ok(xml::reply(
                    StatusCode::OK,
                    "CompleteMultipartUploadResult",
                    &inner,
                ))
            }
            (&Method::DELETE, key) if has("uploadId") => self.uploads.abort(bucket, key, request),
            (&Method::DELETE, key) => {
                // S3 does not report whether it was there.
                site.remove(key);
                Ok(Reply::empty(StatusCode::NO_CONTENT))
            }
            _ => Err(S3Error::MethodNotAllowed),
        }
    }

    /// Puts an object under the conditions of the request.
    fn store(
        &self,
        request: &Request,
        site: &Site,
        key: &str,
        object: Object,
    ) -> Result<(), S3Error> {
        let mut failure = None;
        site.put_if(key, object, |current| {
            if self.ignore_conditions {
                return true;
            }
            failure = match (
                request.header("if-match"),
                request.header("if-none-match"),
                current,
            ) {
                (Some(_), _, None) => Some(S3Error::NoSuchKey),
                (Some(list), _, Some(current)) if !object::lists(list, &current.etag) => {
                    Some(S3Error::PreconditionFailed)
                }
                (_, Some(list), Some(current)) if object::lists(list, &current.etag) => {
                    Some(S3Error::PreconditionFailed)
                }
                _ => None,
            };
            failure.is_none()
        });
        failure.map_or(Ok(()), Err)
    }
}

/// The headers of an upload that its downloads get as well.
fn kept_headers(request: &Request) -> Vec<(HeaderName, HeaderValue)> {
    const KEPT: [&str; 4] = [
        "content-type",
        "cache-control",
        "content-disposition",
        "expires",
    ];
    request
        .headers
        .iter()
        .filter(|(name, _)| {
            KEPT.contains(&name.as_str()) || name.as_str().starts_with("x-amz-meta-")
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn delete_many(site: &Site, body: &[u8]) -> Result<Reply, S3Error> {
    let listing = std::str::from_utf8(body).map_err(|_| S3Error::InvalidRequest)?;
    let quiet = xml::text(listing, "Quiet").as_deref() == Some("true");
    let mut inner = String::new();
    for object in xml::contents(listing, "Object") {
        let key = xml::text(object, "Key").ok_or(S3Error::InvalidRequest)?;
        site.remove(&key);
        if !quiet {
            inner.extend(["<Deleted>", &element("Key", &key), "</Deleted>"]);
        }
    }
    Ok(xml::reply(StatusCode::OK, "DeleteResult", &inner))
}
