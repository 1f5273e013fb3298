//! Destinations in OCI registries.
//!
//! Files with the same repository and tag are layers of one manifest. A blob is sent with two requests: one that begins an
//! upload (or mounts the blob from another repository), and one with all bytes. The manifest follows at once, because
//! registries collect blobs that no manifest lists, and is read back, because a registry may accept one whose blobs it has
//! collected.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use oci_client::manifest::OCI_IMAGE_MEDIA_TYPE;
use reqwest::{
    Method, Response, StatusCode,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
        RANGE,
    },
};
use serde::{Deserialize, Serialize};
use taipan_mirrors::{Class, SafeUrl};
use tokio::sync::Mutex as AsyncMutex;
use url::Url;

use super::{
    Deletion, Destination, Held, Listing, NewFile, PutOptions, Stored, body::SendBody,
    common_image, content::Content, request_budget::RequestBudget, sending::Sending,
};
use crate::{
    BackendError, Expected, OciBackend, OciTarget, Sha256, Target,
    backend::{
        Backend as _,
        http::retry_after_header,
        http_client::CredentialSource,
        oci::{MANIFEST_TYPES, MAX_MANIFEST, is_digest, is_repository, is_tag},
    },
    error::class_of_status,
};

/// The content of the configuration of every manifest. It is not empty: some registries refuse empty blobs.
const CONFIG: &[u8] = b"{}";

/// The type of that configuration in manifests of packages, as existing clients write it.
const CONFIG_TYPE: &str = "application/vnd.unknown.config.v1+json";

/// How often a manifest is sent again when the registry does not find a blob that it has just accepted.
const UNKNOWN_BLOB_RETRIES: u32 = 4;

/// The longest response of an error that is read, in bytes.
const MAX_ERROR: usize = 64 << 10;

/// The most tags of a repository that are read.
const MAX_TAGS: usize = 1 << 20;

/// How long to wait after a limit that names no time.
const LIMITED: Duration = Duration::from_secs(30);

/// By repository and digest: locked while the blob is sent, and whether it is there.
type Flights = HashMap<(String, Sha256), Arc<AsyncMutex<bool>>>;

/// A namespace in a registry.
pub struct OciDestination {
    backend: Arc<OciBackend>,
    /// One flight per repository and digest; whether the blob is there.
    flights: Mutex<Flights>,
    /// A repository that has the configuration.
    config_at: Mutex<Option<String>>,
    budget: Option<Arc<RequestBudget>>,
}

impl std::fmt::Debug for OciDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OciDestination")
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

/// The media type of a blob that is sent.
const BYTES_TYPE: &str = "application/octet-stream";

/// The body of a request.
enum Payload<'a> {
    None,
    Bytes(Bytes),
    Content(&'a Content, &'a Arc<Sending>),
}

/// A descriptor (OCI image specification, "Content Descriptors"). Unknown fields of a layer that is kept are kept, too.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    annotations: serde_json::Map<String, serde_json::Value>,
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

/// A manifest (OCI image specification, "Image Manifest").
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<ErrorItem>,
}

#[derive(Deserialize)]
struct ErrorItem {
    code: Option<String>,
    message: Option<String>,
}

/// A response with an error status, and what its body says.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    codes: Vec<String>,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    async fn read(mut response: Response) -> Self {
        let status = response.status();
        let mut retry_after = retry_after_header(response.headers());
        let mut body = Vec::new();
        while let Ok(Some(piece)) = response.chunk().await
            && body.len() < MAX_ERROR
        {
            body.extend_from_slice(&piece);
        }
        let errors = serde_json::from_slice::<Errors>(&body);
        let items = errors.map(|it| it.errors).unwrap_or_default();
        let codes = items.iter().filter_map(|it| it.code.clone()).collect();
        let first = items.into_iter().find_map(|it| it.message);
        let message: String = (first.unwrap_or_default().chars())
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        let body = String::from_utf8_lossy(&body);
        let is_limit = body.to_ascii_lowercase().contains("rate limit");
        if status == StatusCode::TOO_MANY_REQUESTS || (status == StatusCode::FORBIDDEN && is_limit)
        {
            retry_after = retry_after.or_else(|| delay_in(&body)).or(Some(LIMITED));
        } else if status == StatusCode::FORBIDDEN {
            retry_after = None;
        }
        Self {
            status,
            codes,
            message,
            retry_after,
        }
    }

    fn has(&self, code: &str) -> bool {
        self.codes.iter().any(|it| it == code)
    }

    fn error(self, place: String) -> BackendError {
        let status = self.status;
        let class = match status.as_u16() {
            // A secondary rate limit.
            403 if self.retry_after.is_some() => Class::Throttled,
            401 | 403 | 405 | 400 | 413 => Class::Denied,
            404 => Class::NotHere,
            status => class_of_status(status),
        };
        let mut text = format!("it responded with {status}");
        if let Some(code) = self.codes.first() {
            text = format!("{text} {code}");
        }
        if !self.message.is_empty() {
            text = format!("{text}: {}", self.message);
        }
        if matches!(status.as_u16(), 401 | 403) && class == Class::Denied {
            return BackendError::Denied {
                place,
                source: Some(text.into()),
            };
        }
        BackendError::Service {
            place,
            class,
            retry_after: self.retry_after,
            source: text.into(),
        }
    }
}

/// The delay that a text names: `retry-after: 10.3ms`.
fn delay_in(text: &str) -> Option<Duration> {
    let lower = text.to_ascii_lowercase();
    let (_, rest) = lower.split_once("retry-after")?;
    let rest = rest.trim_start_matches([':', '=', ' ', '"']);
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let end = end.unwrap_or(rest.len());
    let number: f64 = rest[..end].trim_end_matches('.').parse().ok()?;
    let unit = rest[end..].trim_start();
    let seconds = if unit.starts_with("ms") {
        number / 1000.0
    } else if unit.starts_with("µs") || unit.starts_with("us") {
        number / 1e6
    } else if unit.starts_with('m') && !unit.starts_with("ms") {
        number * 60.0
    } else {
        number
    };
    Duration::try_from_secs_f64(seconds.clamp(0.0, 86_400.0)).ok()
}

impl OciDestination {
    /// The namespace that this backend reads, whose tokens must allow writing. `per_minute` limits the number of requests.
    pub(crate) fn new(backend: Arc<OciBackend>, per_minute: Option<u32>) -> Self {
        // Its limit for authenticated pushes is 2000 per minute.
        let host = backend.location().registry.clone();
        let known = (host == "ghcr.io").then_some(1900);
        let budget = per_minute.or(known);
        Self {
            backend,
            flights: Mutex::default(),
            config_at: Mutex::default(),
            budget: budget.map(|per_minute| RequestBudget::of_host(&host, per_minute)),
        }
    }

    fn base(&self, repository: &str) -> String {
        let location = self.backend.location();
        let scheme = if location.plain_http { "http" } else { "https" };
        format!("{scheme}://{}/v2/{repository}/", location.registry)
    }

    fn url(&self, repository: &str, what: &str) -> Result<Url, BackendError> {
        let text = format!("{}{what}", self.base(repository));
        text.parse().map_err(|_| BackendError::BadPath {
            path: repository.to_owned(),
            place: format!("oci://{}", self.backend.location().registry),
        })
    }

    fn repository(&self, target: &OciTarget) -> Result<String, BackendError> {
        let repository = self.backend.repository(target);
        if is_repository(&repository) && is_tag(&target.tag) {
            return Ok(repository);
        }
        Err(BackendError::BadPath {
            path: format!("{repository}:{}", target.tag),
            place: format!("oci://{}", self.backend.location().registry),
        })
    }

    fn target<'t>(&self, target: &'t Target) -> Result<&'t OciTarget, BackendError> {
        target.oci.as_ref().ok_or_else(|| BackendError::BadPath {
            path: target.path.clone(),
            place: format!("oci://{}", self.backend.location().registry),
        })
    }

    /// Sends a request with the token of a repository; with a new token if the first is refused. Another host than that of
    /// the registry, where an upload may continue, does not get the token.
    async fn send(
        &self,
        repository: &str,
        method: Method,
        url: Url,
        headers: HeaderMap,
        payload: Payload<'_>,
    ) -> Result<Response, BackendError> {
        let tokens = self.backend.tokens();
        let is_ours = self.is_registry(&url);
        let mut token = if is_ours {
            tokens.header(repository, None).await?
        } else {
            None
        };
        let mut is_last = !is_ours;
        loop {
            if let Some(budget) = &self.budget {
                budget.spend().await;
            }
            let http = self.backend.http();
            let mut request = http.inner().request(method.clone(), url.clone());
            request = request.headers(headers.clone());
            request = match &payload {
                Payload::None => request,
                Payload::Bytes(bytes) => request.body(bytes.clone()),
                Payload::Content(content, sending) => {
                    let size = content.size();
                    let body = SendBody::open(content, 0..size, sending)?;
                    let request = request.header(CONTENT_LENGTH, size);
                    request.body(reqwest::Body::wrap(body))
                }
            };
            if let Some(token) = &token {
                request = request.header(AUTHORIZATION, token);
            }
            let name = SafeUrl::from(self.url(repository, "")?);
            let response = http.send(request, &name, CredentialSource::Caller).await?;
            if response.status() != StatusCode::UNAUTHORIZED || is_last {
                return Ok(response);
            }
            is_last = true;
            token = match token {
                Some(refused) => tokens.header(repository, Some(&refused)).await?,
                None => tokens.challenged(repository, response.url()).await?,
            };
        }
    }

    fn is_registry(&self, url: &Url) -> bool {
        let ours: Option<Url> = self.base("x").parse().ok();
        ours.is_some_and(|ours| ours.origin() == url.origin())
    }

    /// Makes sure that a repository has a blob, once at a time for each of them.
    async fn ensure_blob(
        &self,
        repository: &str,
        content: &Content,
        digest: Sha256,
        mount_from: Option<String>,
        sending: &Arc<Sending>,
    ) -> Result<(), BackendError> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            let flight = flights.entry((repository.to_owned(), digest));
            Arc::clone(flight.or_default())
        };
        let mut is_there = flight.lock().await;
        if *is_there {
            return Ok(());
        }
        self.send_blob(repository, content, digest, mount_from, sending)
            .await?;
        *is_there = true;
        // The uploads that wait for it hold it. Only the configuration is needed again later.
        if digest != Sha256::of(CONFIG) {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.remove(&(repository.to_owned(), digest));
        }
        Ok(())
    }

    /// Forgets that blobs of a repository are there.
    fn forget(&self, repository: &str) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|(known, _), _| known != repository);
    }

    async fn send_blob(
        &self,
        repository: &str,
        content: &Content,
        digest: Sha256,
        mount_from: Option<String>,
        sending: &Arc<Sending>,
    ) -> Result<(), BackendError> {
        let place = format!("oci://{}/{repository}", self.backend.location().registry);
        let mut start = self.url(repository, "blobs/uploads/")?;
        if let Some(from) = mount_from {
            let mut query = start.query_pairs_mut();
            query.append_pair("mount", &format!("sha256:{digest}"));
            query.append_pair("from", &from);
        }
        let mut empty = HeaderMap::new();
        empty.insert(CONTENT_LENGTH, 0.into());
        let response = self
            .send(repository, Method::POST, start, empty, Payload::None)
            .await?;
        let session = match response.status() {
            StatusCode::CREATED => return Ok(()),
            StatusCode::ACCEPTED => self.location(&response, &place)?,
            _ => return Err(Refusal::read(response).await.error(place)),
        };
        sending.touch();
        let mut url = session;
        url.query_pairs_mut()
            .append_pair("digest", &format!("sha256:{digest}"));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(BYTES_TYPE));
        let payload = Payload::Content(content, sending);
        let response = self.send(repository, Method::PUT, url, headers, payload);
        let response = response.await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            // The session has ended. A new one is begun by the next attempt.
            StatusCode::NOT_FOUND => {
                let refusal = Refusal::read(response).await;
                Err(BackendError::Service {
                    place,
                    class: Class::Unwell,
                    retry_after: refusal.retry_after,
                    source: "the upload is not known any more".into(),
                })
            }
            StatusCode::BAD_REQUEST => {
                let refusal = Refusal::read(response).await;
                let is_damaged = refusal.has("DIGEST_INVALID") || refusal.has("SIZE_INVALID");
                let class = if is_damaged {
                    Class::Unwell
                } else {
                    Class::Denied
                };
                Err(match refusal.error(place) {
                    BackendError::Service {
                        place,
                        retry_after,
                        source,
                        ..
                    } => BackendError::Service {
                        place,
                        class,
                        retry_after,
                        source,
                    },
                    other => other,
                })
            }
            _ => Err(Refusal::read(response).await.error(place)),
        }
    }

    /// Where an upload continues. It may be at another host, but not at an address that only this machine or its network
    /// reaches, unless the registry is there, too.
    fn location(&self, response: &Response, place: &str) -> Result<Url, BackendError> {
        let bad = |why: &'static str| BackendError::Service {
            place: place.to_owned(),
            class: Class::Unwell,
            retry_after: None,
            source: why.into(),
        };
        let location = response.headers().get(LOCATION);
        let location = location.ok_or_else(|| bad("it began an upload without a Location"))?;
        let text = String::from_utf8_lossy(location.as_bytes());
        let url = response.url().join(&text);
        let url = url.map_err(|_| bad("its Location is not a URL"))?;
        if self.is_registry(&url) {
            return Ok(url);
        }
        let plain_http = self.backend.location().plain_http;
        let is_private = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unicast_link_local(),
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => true,
        };
        if is_private || !(url.scheme() == "https" || (plain_http && url.scheme() == "http")) {
            return Err(bad("its Location leads to another host that is not used"));
        }
        Ok(url)
    }

    /// The manifest with this tag or digest, and its bytes; `None` if it is not there.
    async fn manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<(Manifest, Bytes)>, BackendError> {
        let place = format!(
            "oci://{}/{repository}:{reference}",
            self.backend.location().registry
        );
        let url = self.url(repository, &format!("manifests/{reference}"))?;
        let mut headers = HeaderMap::new();
        for kind in MANIFEST_TYPES {
            headers.append(ACCEPT, HeaderValue::from_static(kind));
        }
        let response = self
            .send(repository, Method::GET, url, headers, Payload::None)
            .await;
        let mut response = match response {
            Ok(response) => response,
            // The token endpoint of some registries says 403 for a repository that does not exist.
            Err(error) if error.class() == Class::NotHere => return Ok(None),
            Err(error) => return Err(error),
        };
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(Refusal::read(response).await.error(place)),
        }
        let name = SafeUrl::from(response.url().clone());
        let mut bytes = Vec::new();
        loop {
            let piece = response.chunk().await;
            let piece = piece
                .map_err(|source| crate::backend::http_client::request_error(&name, source))?;
            let Some(piece) = piece else { break };
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_MANIFEST {
                break;
            }
        }
        let invalid = |source: Box<dyn std::error::Error + Send + Sync>| BackendError::Service {
            place: place.clone(),
            class: Class::Unwell,
            retry_after: None,
            source,
        };
        if bytes.len() > MAX_MANIFEST {
            return Err(invalid("its manifest is too large".into()));
        }
        match serde_json::from_slice(&bytes) {
            Ok(manifest) => Ok(Some((manifest, bytes.into()))),
            Err(error) => Err(invalid(error.into())),
        }
    }

    async fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        manifest: &Manifest,
    ) -> Result<String, PutManifestError> {
        let place = format!(
            "oci://{}/{repository}:{tag}",
            self.backend.location().registry
        );
        let bytes = serde_json::to_vec(manifest).map_err(|error| BackendError::Service {
            place: place.clone(),
            class: Class::Unwell,
            retry_after: None,
            source: error.into(),
        })?;
        let digest = format!("sha256:{}", Sha256::of(&bytes));
        let bytes = Bytes::from(bytes);
        let url = self.url(repository, &format!("manifests/{tag}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE));
        let mut delay = Duration::from_millis(50);
        for retry in 0..=UNKNOWN_BLOB_RETRIES {
            let payload = Payload::Bytes(bytes.clone());
            let response = self
                .send(
                    repository,
                    Method::PUT,
                    url.clone(),
                    headers.clone(),
                    payload,
                )
                .await?;
            if response.status() == StatusCode::CREATED {
                break;
            }
            let is_bad = matches!(
                response.status(),
                StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR
            );
            let refusal = Refusal::read(response).await;
            let is_unknown = [
                "MANIFEST_BLOB_UNKNOWN",
                "BLOB_UNKNOWN",
                "DIGEST_INVALID",
                "UNKNOWN",
            ];
            if !(is_bad && is_unknown.iter().any(|code| refusal.has(code))) {
                return Err(refusal.error(place).into());
            }
            // Some registries need a moment for a blob that was sent twice at once.
            if retry == UNKNOWN_BLOB_RETRIES {
                return Err(PutManifestError::UnknownBlob(refusal.error(place)));
            }
            tokio::time::sleep(delay).await;
            delay *= 2;
        }
        match self.manifest(repository, &digest).await? {
            Some((_, held)) if held == bytes => Ok(digest),
            _ => Err(PutManifestError::UnknownBlob(BackendError::Service {
                place,
                class: Class::Unwell,
                retry_after: None,
                source: "it accepted a manifest and does not have it".into(),
            })),
        }
    }

    /// Whether the registry sends the first byte of a blob. That it says to have the blob proves nothing.
    async fn has_blob(&self, repository: &str, digest: &str) -> Result<bool, BackendError> {
        let place = format!("oci://{}/{repository}", self.backend.location().registry);
        let url = self.url(repository, &format!("blobs/{digest}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let response = self
            .send(repository, Method::GET, url, headers, Payload::None)
            .await;
        let mut response = match response {
            Ok(response) => response,
            Err(error) if error.class() == Class::NotHere => return Ok(false),
            Err(error) => return Err(error),
        };
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                while let Ok(Some(piece)) = response.chunk().await {
                    if !piece.is_empty() {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => Ok(false),
            _ => Err(Refusal::read(response).await.error(place)),
        }
    }

    async fn put_image(
        &self,
        files: &[NewFile],
        options: PutOptions,
        sending: &Arc<Sending>,
    ) -> Result<String, PutManifestError> {
        let registry = &self.backend.location().registry;
        let image = common_image(files, &format!("oci://{registry}"))?;
        let repository = self.repository(image)?;
        for file in files {
            self.ensure_blob(&repository, &file.content, file.sha256, None, sending)
                .await?;
        }
        let config = Sha256::of(CONFIG);
        let from = {
            let known = self
                .config_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            known.clone().filter(|known| *known != repository)
        };
        let content = Content::Bytes(Bytes::from_static(CONFIG));
        self.ensure_blob(&repository, &content, config, from, sending)
            .await?;
        *self
            .config_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(repository.clone());
        let mut layers: Vec<Descriptor> = files.iter().map(layer).collect();
        if options.keeps_other_layers
            && let Some((manifest, _)) = self.manifest(&repository, &image.tag).await?
        {
            let is_new =
                |kept: &Descriptor| layers.iter().all(|it| it.media_type != kept.media_type);
            let kept: Vec<Descriptor> = manifest
                .layers
                .into_iter()
                .filter(|it| is_new(it))
                .collect();
            layers.extend(kept);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
            config: Descriptor {
                media_type: CONFIG_TYPE.to_owned(),
                digest: format!("sha256:{config}"),
                size: CONFIG.len() as u64,
                annotations: serde_json::Map::new(),
                other: serde_json::Map::new(),
            },
            layers,
            other: serde_json::Map::new(),
        };
        let put = self.put_manifest(&repository, &image.tag, &manifest).await;
        if let Err(PutManifestError::UnknownBlob(_)) = &put {
            self.forget(&repository);
        }
        put
    }

    /// Removes the layer of a file from the manifest of its tag, or the manifest if it has no other.
    async fn delete_one(&self, target: &Target) -> Result<Deletion, BackendError> {
        let image = self.target(target)?;
        let repository = self.repository(image)?;
        let Some((manifest, bytes)) = self.manifest(&repository, &image.tag).await? else {
            return Ok(Deletion::Done);
        };
        let others: Vec<Descriptor> = (manifest.layers.iter())
            .filter(|layer| layer.media_type != image.media_type)
            .cloned()
            .collect();
        if others.len() == manifest.layers.len() {
            return Ok(Deletion::Done);
        }
        if !others.is_empty() {
            let rest = Manifest {
                layers: others,
                ..manifest
            };
            let put = self.put_manifest(&repository, &image.tag, &rest).await;
            return put.map(|_| Deletion::Done).map_err(BackendError::from);
        }
        let digest = format!("sha256:{}", Sha256::of(&bytes));
        let url = self.url(&repository, &format!("manifests/{digest}"))?;
        let response = self
            .send(
                &repository,
                Method::DELETE,
                url,
                HeaderMap::new(),
                Payload::None,
            )
            .await?;
        match response.status() {
            status if status.is_success() => Ok(Deletion::Done),
            StatusCode::NOT_FOUND => Ok(Deletion::Done),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Ok(Deletion::Unsupported)
            }
            status @ (StatusCode::FORBIDDEN
            | StatusCode::UNAUTHORIZED
            | StatusCode::BAD_REQUEST) => {
                let refusal = Refusal::read(response).await;
                if refusal.has("UNSUPPORTED") {
                    return Ok(Deletion::Unsupported);
                }
                Ok(Deletion::Refused(format!("{status} {}", refusal.message)))
            }
            _ => {
                let place = self.backend.place(image);
                Err(Refusal::read(response).await.error(place))
            }
        }
    }
}

/// Why a manifest was not stored.
enum PutManifestError {
    /// The registry does not have a blob that it accepted.
    UnknownBlob(BackendError),
    Other(BackendError),
}

impl From<BackendError> for PutManifestError {
    fn from(error: BackendError) -> Self {
        Self::Other(error)
    }
}

impl From<PutManifestError> for BackendError {
    fn from(error: PutManifestError) -> Self {
        match error {
            PutManifestError::Other(error) => error,
            PutManifestError::UnknownBlob(error) => match error {
                // The next attempt sends the blobs again.
                Self::Service {
                    place,
                    retry_after,
                    source,
                    ..
                } => Self::Service {
                    place,
                    class: Class::Unwell,
                    retry_after,
                    source,
                },
                other => other,
            },
        }
    }
}

fn layer(file: &NewFile) -> Descriptor {
    let mut annotations = serde_json::Map::new();
    for (key, value) in &file.annotations {
        annotations.insert(key.clone(), value.clone().into());
    }
    let media_type = (file.target.oci.as_ref()).map(|oci| oci.media_type.clone());
    Descriptor {
        media_type: media_type.unwrap_or_default(),
        digest: format!("sha256:{}", file.sha256),
        size: file.size(),
        annotations,
        other: serde_json::Map::new(),
    }
}

#[async_trait]
impl Destination for OciDestination {
    async fn look(
        &self,
        target: &Target,
        expected: &Expected,
    ) -> Result<Option<Held>, BackendError> {
        let image = self.target(target)?;
        let repository = self.repository(image)?;
        let Some((manifest, bytes)) = self.manifest(&repository, &image.tag).await? else {
            return Ok(None);
        };
        let layer = manifest
            .layers
            .into_iter()
            .find(|it| it.media_type == image.media_type);
        let Some(layer) = layer.filter(|it| is_digest(&it.digest)) else {
            return Ok(None);
        };
        let wants_proof = expected.sha256.is_some();
        if wants_proof && layer.size > 0 && !self.has_blob(&repository, &layer.digest).await? {
            return Ok(None);
        }
        let hex = layer.digest.strip_prefix("sha256:");
        Ok(Some(Held {
            size: Some(layer.size),
            etag: Some(format!("sha256:{}", Sha256::of(&bytes))),
            sha256: hex.and_then(|hex| hex.parse().ok()),
            md5: None,
        }))
    }

    async fn put(
        &self,
        files: &[NewFile],
        options: PutOptions,
        sending: &Arc<Sending>,
    ) -> Result<Vec<Stored>, BackendError> {
        let digest = self.put_image(files, options, sending).await?;
        let stored = Stored { etag: Some(digest) };
        Ok(vec![stored; files.len()])
    }

    async fn delete(&self, targets: &[Target]) -> Result<Vec<Deletion>, BackendError> {
        let mut deletions = Vec::with_capacity(targets.len());
        for target in targets {
            deletions.push(self.delete_one(target).await?);
        }
        Ok(deletions)
    }

    async fn list(&self, _: &str, _: Option<&str>) -> Result<Option<Listing>, BackendError> {
        Ok(None)
    }

    async fn tags(&self, repository: &str) -> Result<Option<Vec<String>>, BackendError> {
        let target = OciTarget {
            repository: repository.to_owned(),
            tag: "latest".to_owned(),
            media_type: String::new(),
        };
        let repository = self.repository(&target)?;
        let place = format!("oci://{}/{repository}", self.backend.location().registry);
        let mut url = self.url(&repository, "tags/list")?;
        let mut tags = Vec::new();
        loop {
            let response = self
                .send(
                    &repository,
                    Method::GET,
                    url.clone(),
                    HeaderMap::new(),
                    Payload::None,
                )
                .await;
            let response = match response {
                Ok(response) => response,
                Err(error) if error.class() == Class::NotHere => return Ok(Some(tags)),
                Err(error) => return Err(error),
            };
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(Some(tags)),
                _ => return Err(Refusal::read(response).await.error(place)),
            }
            let next = (response.headers().get(reqwest::header::LINK))
                .and_then(|link| link.to_str().ok())
                .and_then(|link| link.split_once('<')?.1.split_once('>'))
                .and_then(|(to, _)| response.url().join(to).ok())
                .filter(|next| *next != url && self.is_registry(next));
            let list: Result<TagList, _> = response.json().await;
            let list = list.map_err(|error| BackendError::Service {
                place: place.clone(),
                class: Class::Unwell,
                retry_after: None,
                source: Box::new(error.without_url()),
            })?;
            tags.extend(list.tags.unwrap_or_default());
            match next {
                Some(next) if tags.len() < MAX_TAGS => url = next,
                _ => return Ok(Some(tags)),
            }
        }
    }

    /// The protocol has no conditions.
    async fn honours_conditions(&self) -> Result<bool, BackendError> {
        Ok(false)
    }

    /// Registries end uploads on their own.
    async fn sweep(&self, _: Duration) -> Result<usize, BackendError> {
        Ok(0)
    }

    fn describe(&self, target: &Target) -> String {
        self.backend.describe(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_read_from_the_text_of_an_error() {
        for (text, expected) in [
            ("retry-after: 10.3ms, allowed: 2000/minute", Some(10_300)),
            (r#"{"message":"retry-after: 2s"}"#, Some(2_000_000)),
            ("Retry-After: 5", Some(5_000_000)),
            ("Retry-After: 5.", Some(5_000_000)),
            ("retry-after: 1m", Some(60_000_000)),
            ("retry-after: soon", None),
            ("rate limit", None),
        ] {
            let micros = delay_in(text).map(|it| it.as_micros());
            assert_eq!(micros, expected, "{text}");
        }
    }
}
