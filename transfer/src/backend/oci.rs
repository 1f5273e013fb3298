//! OCI registries, read by the distribution specification.
//!
//! The requests go through [`HttpClient`], which checks the `Content-Range` of a resumed download,
//! drops credentials on redirects to a blob store, and shares its connections with other mirrors.
//! The client of `oci-client` does not expose ranges and redirects, never renews the credentials of
//! a registry, and requests a challenge before every token. Only its manifest types are used.

use async_trait::async_trait;
use futures_util::StreamExt as _;
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciManifest,
};
use reqwest::header::{ACCEPT, AUTHORIZATION};
use taipan_mirrors::{Class, OciLocation, SafeUrl};
use url::Url;

use crate::{
    BackendError, ByteRange, Expected, HttpClient, OciTarget, Target,
    backend::{
        Backend, GetRequest, GetResponse, Ranges,
        http::send,
        http_client::CredentialSource,
        oci_token::{Access, Tokens},
    },
};

/// The largest manifest that is read, in bytes, as the distribution specification suggests.
pub(crate) const MAX_MANIFEST: usize = 4 << 20;

/// A namespace in a registry.
pub struct OciBackend {
    location: OciLocation,
    http: HttpClient,
    tokens: Tokens,
}

impl std::fmt::Debug for OciBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OciBackend")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

impl OciBackend {
    /// The backend for the namespace at `location`. Credentials come from the docker configuration
    /// and its helpers; without any the registry is read anonymously.
    pub fn new(location: OciLocation, http: impl Into<HttpClient>) -> Self {
        Self::with_access(location, http.into(), Access::Read)
    }

    /// The same, with tokens that allow more than reading.
    pub(crate) fn with_access(location: OciLocation, http: HttpClient, access: Access) -> Self {
        let tokens = Tokens::new(&location, http.clone(), access);
        Self {
            location,
            http,
            tokens,
        }
    }

    pub(crate) fn location(&self) -> &OciLocation {
        &self.location
    }

    pub(crate) fn http(&self) -> &HttpClient {
        &self.http
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(crate) fn repository(&self, target: &OciTarget) -> String {
        match self.location.namespace.trim_matches('/') {
            "" => target.repository.clone(),
            namespace => format!("{namespace}/{}", target.repository),
        }
    }

    pub(crate) fn place(&self, target: &OciTarget) -> String {
        let registry = &self.location.registry;
        format!(
            "oci://{registry}/{}:{}",
            self.repository(target),
            target.tag
        )
    }

    /// The digest of the layer that contains the file.
    async fn layer(&self, target: &OciTarget) -> Result<String, BackendError> {
        let place = self.place(target);
        let mut manifest = self.manifest(target, &target.tag).await?;
        if let OciManifest::ImageIndex(index) = &manifest
            && let [only] = &index.manifests[..]
            && is_digest(&only.digest)
        {
            manifest = self.manifest(target, &only.digest).await?;
        }
        let layers = match manifest {
            OciManifest::Image(manifest) => manifest.layers,
            OciManifest::ImageIndex(_) => Vec::new(),
        };
        let layer = layers
            .into_iter()
            .find(|layer| layer.media_type == target.media_type);
        match layer {
            // The digest becomes part of a URL, and a registry can write anything there.
            Some(layer) if is_digest(&layer.digest) => Ok(layer.digest),
            Some(_) => Err(self.invalid(
                target,
                "its manifest has a layer with an invalid digest".into(),
            )),
            None => Err(BackendError::NoLayer {
                image: place,
                media_type: target.media_type.clone(),
            }),
        }
    }

    fn invalid(
        &self,
        target: &OciTarget,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> BackendError {
        BackendError::Service {
            place: self.place(target),
            class: Class::Unwell,
            retry_after: None,
            source,
        }
    }

    /// The manifest with this tag or digest.
    async fn manifest(
        &self,
        target: &OciTarget,
        reference: &str,
    ) -> Result<OciManifest, BackendError> {
        let what = format!("manifests/{reference}");
        let response = self.read(target, &what, None, Expected::default());
        let GetResponse::Body { mut body, .. } = response.await? else {
            let url = self.place(target);
            return Err(BackendError::UnexpectedNotModified { url });
        };
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() > MAX_MANIFEST {
                return Err(self.invalid(target, "its manifest is too large".into()));
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| self.invalid(target, error.into()))
    }

    async fn blob(
        &self,
        request: &GetRequest<'_>,
        target: &OciTarget,
        digest: &str,
    ) -> Result<GetResponse, BackendError> {
        let range = request.ranges.one(|| self.place(target))?;
        let what = format!("blobs/{digest}");
        self.read(target, &what, range, request.expected).await
    }

    /// Sends a GET request for something in the repository of a file.
    async fn read(
        &self,
        target: &OciTarget,
        what: &str,
        range: Option<ByteRange>,
        expected: Expected,
    ) -> Result<GetResponse, BackendError> {
        let repository = self.repository(target);
        let registry = &self.location.registry;
        let scheme = if self.location.plain_http {
            "http"
        } else {
            "https"
        };
        let url = format!("{scheme}://{registry}/v2/{repository}/{what}");
        let url: Url = url.parse().map_err(|_| BackendError::BadPath {
            path: repository.clone(),
            place: self.place(target),
        })?;
        let ranges = range.map_or(Ranges::All, Ranges::One);
        let mut header = self.tokens.header(&repository, None).await?;
        for last in [false, true] {
            let mut get = self.http.inner().get(url.clone());
            if what.starts_with("manifests/") {
                get = get.header(ACCEPT, MANIFEST_TYPES.join(", "));
            }
            if let Some(header) = &header {
                get = get.header(AUTHORIZATION, header);
            }
            let name = SafeUrl::from(url.clone());
            let caller = CredentialSource::Caller;
            match send(&self.http, get, caller, name, ranges, expected).await {
                // The token expired early: one more request with a new one.
                Err(BackendError::Status { status: 401, .. }) if !last && header.is_some() => {
                    header = self.tokens.header(&repository, header.as_deref()).await?;
                }
                Err(BackendError::Status { status: 401, .. }) if !last => {
                    header = self.tokens.challenged(&repository, &url).await?;
                    if header.is_none() {
                        break;
                    }
                }
                Err(BackendError::Status { status: 401, .. }) => break,
                response => return response,
            }
        }
        Err(BackendError::Denied {
            place: self.place(target),
            source: None,
        })
    }
}

/// The accepted media types of manifests. Without them a registry hides manifests of another type.
pub(crate) const MANIFEST_TYPES: [&str; 4] = [
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

#[async_trait]
impl Backend for OciBackend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let Some(target) = &request.target.oci else {
            return Err(BackendError::NotFound {
                url: format!("oci://{}: {}", self.location.registry, request.target.path),
            });
        };
        if !is_repository(&self.repository(target)) || !is_tag(&target.tag) {
            return Err(BackendError::BadPath {
                path: format!("{}:{}", target.repository, target.tag),
                place: format!("oci://{}", self.location.registry),
            });
        }
        let known = request.expected.sha256.map(|it| format!("sha256:{it}"));
        if let Some(known) = &known {
            // The blob is the file itself, so the digest of the file names it.
            match self.blob(&request, target, known).await {
                Err(error) if error.class() == Class::NotHere => {}
                response => return response,
            }
        }
        let digest = self.layer(target).await?;
        // It names the blob that was just not found, or another file.
        if known.is_some() && digest.starts_with("sha256:") {
            return Err(BackendError::NotFound {
                url: self.place(target),
            });
        }
        // A tag can move, a blob does not change: the digest of the blob is the validator.
        if request
            .validators
            .is_some_and(|v| v.etag.as_deref() == Some(&digest))
        {
            return Ok(GetResponse::NotModified);
        }
        let mut response = self.blob(&request, target, &digest).await?;
        if let GetResponse::Body { validators, .. } = &mut response {
            validators.etag = Some(digest);
            validators.last_modified = None;
        }
        Ok(response)
    }

    fn has_multi_range(&self) -> bool {
        false
    }

    fn describe(&self, target: &Target) -> String {
        match &target.oci {
            Some(oci) => self.place(oci),
            None => format!(
                "oci://{}/{}",
                self.location.registry, self.location.namespace
            ),
        }
    }
}

/// The grammar of repository names, digests and tags (OCI distribution spec, "Pulling manifests";
/// image spec, "Digests"), as far as is needed: what passes has no special meaning in a URL.
pub(crate) fn is_repository(name: &str) -> bool {
    let part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| inner(*b))
            && bytes.last().is_some_and(|b| inner(*b))
            && bytes.iter().all(|b| inner(*b) || b"._-".contains(b))
    };
    name.len() <= 255 && name.split('/').all(part)
}

pub(crate) fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && !b".-".contains(&bytes[0])
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

pub(crate) fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let known = [("sha256", 64), ("sha512", 128)].contains(&(algorithm, hex.len()));
        known && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_special_meaning_in_a_url_are_refused() {
        for good in ["a", "conda/linux-64/zzz_x", "a__b/c.d/e-f", "1"] {
            assert!(is_repository(good), "{good}");
        }
        for bad in [
            "", "/a", "a/", "a//b", "..", "a/../b", "A", "_a", "a?b", "a b", "a#b",
        ] {
            assert!(!is_repository(bad), "{bad}");
        }
        assert!(is_tag("1.0-py_0") && is_tag("_x"));
        for bad in ["", ".x", "-x", "a/b", "a+b", &"x".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
        assert!(is_digest(&format!("sha256:{}", "0a".repeat(32))));
        for bad in ["", "sha256:", "sha256:../../x", "md5:00", &"0a".repeat(32)] {
            assert!(!is_digest(bad), "{bad}");
        }
    }
}
