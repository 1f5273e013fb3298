//! The registry itself.

use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::auth::{Gate, OciAuth};
use super::builder::{OciServerBuilder, Options};
use super::publish::{self, PublishError, Published};
use super::route::{self, Route};
use super::store::{self, Manifest, Store};
use super::uploads::Uploads;
use super::{DIGEST_HEADER, error};
use crate::behaviour::Behaviour;
use crate::content::Content;
use crate::object;
use crate::request::{Cut, Reply, Request};
use crate::server::{Handler, Server};
use crate::site::{Object, Site};
use crate::tls::Tls;

/// The largest manifest, as the spec suggests it.
const MAX_MANIFEST: usize = 4 << 20;

/// An OCI registry (distribution spec 1.1), in memory.
///
/// It dereferences to [`Server`].
#[derive(Debug)]
pub struct OciServer {
    server: Server,
    registry: Arc<Registry>,
}

impl OciServer {
    /// A registry without authentication.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    pub fn builder() -> OciServerBuilder {
        OciServerBuilder::new()
    }

    pub(super) async fn start_with(
        auth: OciAuth,
        options: Options,
        behaviour: Behaviour,
        tls: Option<Tls>,
    ) -> io::Result<Self> {
        let mut registry = None;
        let server = Server::start(behaviour, tls, |base| {
            let made = Arc::new(Registry {
                gate: Gate::new(auth, base),
                base: base.to_owned(),
                options,
                store: Store::default(),
                uploads: Uploads::default(),
                redirect: Mutex::default(),
            });
            registry = Some(Arc::clone(&made));
            RegistryHandler(made)
        })
        .await?;
        let registry = registry.expect("the server was started, so its handler was made");
        Ok(Self { server, registry })
    }

    /// `127.0.0.1:PORT`, as in a reference.
    pub fn host(&self) -> String {
        self.server.address().to_string()
    }

    /// All blobs, at `sha256/HEX`: the site of the server that GETs are redirected to.
    pub fn blobs(&self) -> Site {
        self.registry.store.blobs.clone()
    }

    /// Redirects each following GET of a blob (307) to this URL with `sha256/HEX` appended; `None` ends that.
    pub fn redirect_blobs(&self, to: Option<String>) {
        *self
            .registry
            .redirect
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// Makes all issued tokens invalid.
    pub fn expire_tokens(&self) {
        self.registry.gate.expire();
    }

    /// The names of all repositories.
    pub fn repositories(&self) -> Vec<String> {
        self.registry.store.repositories()
    }

    /// Adds a blob to a repository; returns its digest.
    pub fn add_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> String {
        self.registry.store.add_bytes(repository, bytes.into())
    }

    /// Adds a manifest under a tag without checking it; returns its digest.
    pub fn add_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            bytes: bytes.into(),
        };
        self.registry.store.add_manifest(repository, tag, manifest)
    }

    /// Publishes a channel in the layout of existing clients, below `namespace`: a repository for each
    /// package name and subdir, tagged by version and build, and one for each `repodata.json`.
    ///
    /// Files that `repodata.json` names and the site lacks are skipped, and listed in the result.
    pub fn publish(&self, channel: &Site, namespace: &str) -> Result<Published, PublishError> {
        publish::publish(&self.registry.store, channel, namespace)
    }
}

impl Deref for OciServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

#[derive(Debug)]
struct Registry {
    gate: Gate,
    base: String,
    options: Options,
    store: Store,
    uploads: Uploads,
    redirect: Mutex<Option<String>>,
}

#[derive(Debug)]
struct RegistryHandler(Arc<Registry>);

impl Handler for RegistryHandler {
    fn handle(self: Arc<Self>, mut request: Request) -> BoxFuture<'static, Result<Reply, Cut>> {
        let registry = Arc::clone(&self.0);
        Box::pin(async move { registry.reply(&mut request).await })
    }
}

impl Registry {
    async fn reply(&self, request: &mut Request) -> Result<Reply, Cut> {
        if let Some(reply) = self.gate.token(request, |name| self.store.exists(name)) {
            return Ok(reply);
        }
        let Some(route) = Route::of(&request.path) else {
            // Registries answer a name outside the grammar in plain text, from their router.
            return Ok(Reply::text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "404 page not found\n",
            ));
        };
        let action = match (&route, &request.method) {
            (Route::Upload { .. } | Route::UploadStart { .. }, _) => "push",
            (_, &Method::GET | &Method::HEAD) => "pull",
            (_, &Method::DELETE) => "delete",
            _ => "push",
        };
        if let Some(reply) = self.gate.refusal(request, route.repository(), action) {
            return Ok(reply);
        }
        let method = request.method.clone();
        Ok(match (route, method) {
            (Route::Base, Method::GET | Method::HEAD) => {
                Reply::text(StatusCode::OK, "application/json", "{}")
            }
            (Route::Manifest { name, reference }, Method::GET | Method::HEAD) => {
                self.get_manifest(request, &name, &reference)
            }
            (Route::Manifest { name, reference }, Method::PUT) => {
                let body = request.body.collect().await?;
                self.put_manifest(request, &name, &reference, body)
            }
            (Route::Manifest { name, reference }, Method::DELETE) => {
                if route::sha256_hex(&reference).is_none() {
                    error(
                        StatusCode::BAD_REQUEST,
                        "UNSUPPORTED",
                        "delete manifests by digest",
                    )
                } else if self.store.remove_manifest(&name, &reference) {
                    Reply::empty(StatusCode::ACCEPTED)
                } else {
                    manifest_unknown()
                }
            }
            (Route::Blob { name, digest }, Method::GET | Method::HEAD) => {
                self.get_blob(request, &name, &digest)
            }
            (Route::Blob { name, digest }, Method::DELETE) => {
                if self.store.remove_blob(&name, &digest) {
                    Reply::empty(StatusCode::ACCEPTED)
                } else {
                    blob_unknown()
                }
            }
            (Route::UploadStart { name }, Method::POST) => {
                self.start_upload(request, &name).await?
            }
            (Route::Upload { name, id }, Method::GET | Method::HEAD) => {
                match self.uploads.status(&name, &id) {
                    Some(_) => self.session(StatusCode::NO_CONTENT, &name, &id),
                    None => upload_unknown(),
                }
            }
            (Route::Upload { name, id }, Method::PATCH) => self.patch(request, &name, &id).await?,
            (Route::Upload { name, id }, Method::PUT) => {
                self.finish_upload(request, &name, &id).await?
            }
            (Route::Upload { name, id }, Method::DELETE) => {
                match self
                    .uploads
                    .take(&name, &id, request.parameter("_state").as_deref())
                {
                    Some(_) => Reply::empty(StatusCode::NO_CONTENT),
                    None => upload_unknown(),
                }
            }
            (Route::Tags { name }, Method::GET) => self.tags(request, &name),
            (Route::Referrers { name, digest }, Method::GET) => {
                self.referrers(request, &name, &digest)
            }
            _ => error(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "not possible here",
            ),
        })
    }

    fn get_manifest(&self, request: &Request, name: &str, reference: &str) -> Reply {
        let Some((digest, manifest)) = self.store.manifest(name, reference) else {
            return manifest_unknown();
        };
        if !accepts(request, &manifest.media_type) {
            return manifest_unknown();
        }
        let mut object = Object::new(manifest.bytes);
        object.etag = format!("\"{digest}\"");
        if let Ok(kind) = HeaderValue::from_str(&manifest.media_type) {
            object.headers.push((header::CONTENT_TYPE, kind));
        }
        object::serve(request, &object).with(DIGEST_HEADER, digest)
    }

    fn put_manifest(&self, request: &Request, name: &str, reference: &str, body: Bytes) -> Reply {
        let invalid = |message| error(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message);
        if body.len() > MAX_MANIFEST {
            let message = "the manifest is too large";
            return error(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message);
        }
        let digest = store::digest(&body);
        if reference.contains(':') {
            if reference != digest {
                let message = "the manifest does not have this digest";
                return error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message);
            }
        } else if !route::is_tag(reference) {
            return error(StatusCode::BAD_REQUEST, "TAG_INVALID", "this is no tag");
        }
        let Ok(value) = serde_json::from_slice::<Value>(&body) else {
            return invalid("the manifest is no JSON");
        };
        let Some(media_type) = request.header("content-type").map(str::to_owned) else {
            return invalid("the manifest has no Content-Type");
        };
        if value["schemaVersion"] != 2 {
            return invalid("the schema version is not 2");
        }
        if value["mediaType"]
            .as_str()
            .is_some_and(|stated| stated != media_type)
        {
            return invalid("the media type is not the one of the header");
        }
        if let Some(missing) = self.store.missing_blob(name, &value) {
            return error(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", &missing);
        }
        self.store.add_manifest(
            name,
            reference,
            Manifest {
                media_type,
                bytes: body,
            },
        );
        let reply = Reply::empty(StatusCode::CREATED)
            .with(
                header::LOCATION,
                self.location(&format!("v2/{name}/manifests/{digest}")),
            )
            .with(DIGEST_HEADER, &digest);
        match value["subject"]["digest"].as_str() {
            Some(subject) if self.options.referrers => {
                reply.with(HeaderName::from_static("oci-subject"), subject)
            }
            _ => reply,
        }
    }

    fn get_blob(&self, request: &Request, name: &str, digest: &str) -> Reply {
        let Some(object) = self.store.blob(name, digest) else {
            return blob_unknown();
        };
        let redirect = self
            .redirect
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match redirect {
            Some(to) if request.method == Method::GET => {
                let hex = route::sha256_hex(digest).unwrap_or_default();
                Reply::empty(StatusCode::TEMPORARY_REDIRECT)
                    .with(header::LOCATION, format!("{to}sha256/{hex}"))
            }
            _ => object::serve(request, &object).with(DIGEST_HEADER, digest),
        }
    }

    async fn start_upload(&self, request: &mut Request, name: &str) -> Result<Reply, Cut> {
        if let Some(digest) = request.parameter("mount") {
            let from = request.parameter("from");
            if !self.options.without_mount
                && from.is_some_and(|from| self.store.mount(name, &from, &digest))
            {
                return Ok(self.created(name, &digest));
            }
        } else if let Some(digest) = request.parameter("digest") {
            let body = request.body.collect().await?;
            if !self.options.without_single_post {
                return Ok(self.commit(name, &digest, body));
            }
        }
        let id = self.uploads.start(name);
        Ok(self.session(StatusCode::ACCEPTED, name, &id))
    }

    async fn patch(&self, request: &mut Request, name: &str, id: &str) -> Result<Reply, Cut> {
        let state = request.parameter("_state");
        let Some(received) = self.uploads.received(name, id, state.as_deref()) else {
            return Ok(upload_unknown());
        };
        let range = request.header("content-range").map(chunk);
        let in_order = match range {
            None => true,
            Some(range) => range.is_some_and(|(first, _)| first == received as u64),
        };
        if !in_order {
            return Ok(self.session(StatusCode::RANGE_NOT_SATISFIABLE, name, id));
        }
        let mut chunk = BytesMut::new();
        let result = request.body.collect_into(&mut chunk).await;
        // The session is removed only now: another request may have changed it while the body arrived,
        // and a client that disconnected must not lose it.
        let Some(mut session) = self.uploads.take(name, id, state.as_deref()) else {
            return Ok(upload_unknown());
        };
        if let Err(cut) = result {
            if !self.options.drop_cut_sessions {
                session.data.extend_from_slice(&chunk);
                self.uploads.put_back(id, session, false);
            }
            return Err(cut);
        }
        let too_large = self.options.max_chunk.is_some_and(|max| chunk.len() > max);
        let expected = range.flatten().map(|(first, last)| last - first + 1);
        if too_large || expected.is_some_and(|expected| expected != chunk.len() as u64) {
            self.uploads.put_back(id, session, false);
            return Ok(self.session(StatusCode::RANGE_NOT_SATISFIABLE, name, id));
        }
        session.data.extend_from_slice(&chunk);
        self.uploads.put_back(id, session, true);
        Ok(self.session(StatusCode::ACCEPTED, name, id))
    }

    async fn finish_upload(
        &self,
        request: &mut Request,
        name: &str,
        id: &str,
    ) -> Result<Reply, Cut> {
        let Some(digest) = request.parameter("digest") else {
            return Ok(error(
                StatusCode::BAD_REQUEST,
                "DIGEST_INVALID",
                "no digest is given",
            ));
        };
        let body = request.body.collect().await?;
        let state = request.parameter("_state");
        let Some(mut session) = self.uploads.take(name, id, state.as_deref()) else {
            return Ok(upload_unknown());
        };
        session.data.extend_from_slice(&body);
        Ok(self.commit(name, &digest, session.data.freeze()))
    }

    /// Adds a blob, if it has the given digest.
    fn commit(&self, name: &str, digest: &str, bytes: Bytes) -> Reply {
        if store::digest(&bytes) != digest {
            let message = "the content does not have this digest";
            return error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message);
        }
        self.store.add_blob(name, digest, Content::Memory(bytes));
        self.created(name, digest)
    }

    fn created(&self, name: &str, digest: &str) -> Reply {
        Reply::empty(StatusCode::CREATED)
            .with(
                header::LOCATION,
                self.location(&format!("v2/{name}/blobs/{digest}")),
            )
            .with(DIGEST_HEADER, digest)
    }

    /// The state of an upload, in headers.
    fn session(&self, status: StatusCode, name: &str, id: &str) -> Reply {
        let (len, state) = self.uploads.status(name, id).unwrap_or_default();
        let location = self.location(&format!("v2/{name}/blobs/uploads/{id}?_state={state}"));
        Reply::empty(status)
            .with(header::LOCATION, location)
            .with(header::RANGE, format!("0-{}", len.saturating_sub(1)))
            .with(HeaderName::from_static("docker-upload-uuid"), id)
    }

    fn location(&self, path: &str) -> String {
        let base = if self.options.absolute_locations {
            self.base.as_str()
        } else {
            "/"
        };
        format!("{base}{path}")
    }

    fn tags(&self, request: &Request, name: &str) -> Reply {
        let Some(tags) = self.store.tags(name) else {
            return error(
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "there is no such repository",
            );
        };
        let asked = request.parameter("n").map(|text| text.parse::<usize>());
        let Ok(asked) = asked.transpose() else {
            return error(
                StatusCode::BAD_REQUEST,
                "PAGINATION_NUMBER_INVALID",
                "n is no number",
            );
        };
        let last = request.parameter("last").unwrap_or_default();
        let mut left: Vec<String> = tags.into_iter().filter(|tag| *tag > last).collect();
        let page = [asked, self.options.max_tags]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(usize::MAX);
        let more = left.len() > page;
        left.truncate(page);
        let body = json!({ "name": name, "tags": left }).to_string();
        let reply = Reply::text(StatusCode::OK, "application/json", body);
        match left.last() {
            Some(last) if more => {
                let next = self.location(&format!("v2/{name}/tags/list?n={page}&last={last}"));
                reply.with(header::LINK, format!("<{next}>; rel=\"next\""))
            }
            _ => reply,
        }
    }

    fn referrers(&self, request: &Request, name: &str, digest: &str) -> Reply {
        if !self.options.referrers {
            return Reply::text(StatusCode::NOT_FOUND, "text/plain", "404 page not found\n");
        }
        let wanted = request.parameter("artifactType");
        let manifests: Vec<Value> = self
            .store
            .referrers(name, digest)
            .into_iter()
            .filter_map(|(digest, manifest)| {
                let value: Value = serde_json::from_slice(&manifest.bytes).ok()?;
                // An image without artifact type counts by the type of its config.
                let kind = value["artifactType"].as_str();
                let kind = kind
                    .or_else(|| value["config"]["mediaType"].as_str())
                    .unwrap_or("");
                let shown = wanted.as_deref().is_none_or(|wanted| wanted == kind);
                shown.then(|| {
                    json!({
                        "mediaType": manifest.media_type,
                        "digest": digest,
                        "size": manifest.bytes.len(),
                        "artifactType": kind,
                        "annotations": value["annotations"],
                    })
                })
            })
            .collect();
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests });
        let reply = Reply::text(StatusCode::OK, kind, index.to_string());
        if wanted.is_some() {
            reply.with(
                HeaderName::from_static("oci-filters-applied"),
                "artifactType",
            )
        } else {
            reply
        }
    }
}

/// First and last byte of a chunk: `a-b`, without the unit that `Content-Range` has elsewhere.
fn chunk(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.trim().split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    // A last byte of `u64::MAX` has no length.
    (first <= last && last < u64::MAX).then_some((first, last))
}

/// Whether a client that sends these `Accept` headers takes this type. Wildcards do not count, as
/// with the reference registry: HTTP libraries send `*/*` by default, and a client that does not list its
/// types must fail here.
fn accepts(request: &Request, media_type: &str) -> bool {
    request
        .headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| range == media_type)
}

fn manifest_unknown() -> Reply {
    error(
        StatusCode::NOT_FOUND,
        "MANIFEST_UNKNOWN",
        "there is no such manifest",
    )
}

fn blob_unknown() -> Reply {
    error(
        StatusCode::NOT_FOUND,
        "BLOB_UNKNOWN",
        "there is no such blob",
    )
}

fn upload_unknown() -> Reply {
    error(
        StatusCode::NOT_FOUND,
        "BLOB_UPLOAD_UNKNOWN",
        "there is no such upload",
    )
}
