//! OCI registries, read by the distribution specification.
//!
//! Tokens and manifests come through `oci-client`. The bytes of a blob do not: they go through our
//! own HTTP client, which checks the `Content-Range` of a continued download and drops
//! credentials on redirects to a blob store, neither of which the crate lets its caller see.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use docker_credential::DockerCredential;
use oci_client::{
    Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    manifest::OciManifest,
    secrets::RegistryAuth,
};
use reqwest::header::AUTHORIZATION;
use taipan_mirrors::{Class, OciLocation, SafeUrl};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use crate::{
    Backend, BackendError, Expected, GetRequest, GetResponse, OciTarget, Target,
    error::class_of_status, http::send,
};

/// How long a token is used. The distribution specification's default lifetime is 60 s, and
/// `oci-client` does not say when a token that it got expires.
const TOKEN_LIFETIME: Duration = Duration::from_secs(50);

/// A namespace in a registry.
pub struct OciBackend {
    location: OciLocation,
    http: reqwest::Client,
    registry: oci_client::Client,
    // Reading credentials may run a helper program, so it is done at the first request.
    credentials: OnceCell<RegistryAuth>,
    // By repository: a token is good for one.
    tokens: Mutex<HashMap<String, TokenCell>>,
}

/// Locked while a token is being got, so that twenty downloads from one repository make one
/// exchange and those from other repositories do not wait for it.
type TokenCell = Arc<Mutex<Option<Token>>>;

#[derive(Clone)]
struct Token {
    header: Option<String>,
    made: Instant,
}

impl std::fmt::Debug for OciBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OciBackend")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

impl OciBackend {
    /// The namespace at `location`. Credentials come from the docker configuration and its
    /// helpers; without any the registry is read anonymously.
    pub fn new(location: OciLocation, http: reqwest::Client, connect_timeout: Duration) -> Self {
        let protocol = if location.plain_http {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        let registry = oci_client::Client::new(ClientConfig {
            protocol,
            connect_timeout: Some(connect_timeout),
            read_timeout: Some(Duration::from_secs(30)),
            user_agent: concat!("taipan/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        Self {
            location,
            http,
            registry,
            credentials: OnceCell::new(),
            tokens: Mutex::default(),
        }
    }

    fn reference(&self, target: &OciTarget) -> Reference {
        Reference::with_tag(
            self.location.registry.clone(),
            self.repository(target),
            target.tag.clone(),
        )
    }

    fn repository(&self, target: &OciTarget) -> String {
        match self.location.namespace.trim_matches('/') {
            "" => target.repository.clone(),
            namespace => format!("{namespace}/{}", target.repository),
        }
    }

    fn place(&self, target: &OciTarget) -> String {
        let registry = &self.location.registry;
        format!(
            "oci://{registry}/{}:{}",
            self.repository(target),
            target.tag
        )
    }

    async fn credentials(&self) -> &RegistryAuth {
        self.credentials
            .get_or_init(|| async {
                let registry = self.location.registry.clone();
                let found = tokio::task::spawn_blocking(move || {
                    docker_credential::get_credential(&registry)
                });
                match found.await {
                    Ok(Ok(DockerCredential::UsernamePassword(user, password))) => {
                        RegistryAuth::Basic(user, password)
                    }
                    Ok(Ok(DockerCredential::IdentityToken(token))) => RegistryAuth::Bearer(token),
                    // No configuration, or none for this registry.
                    _ => RegistryAuth::Anonymous,
                }
            })
            .await
    }

    /// The `Authorization` header for reading a repository (`None` where none is wanted), and
    /// whether it was got just now.
    async fn authorization(
        &self,
        reference: &Reference,
        place: &str,
    ) -> Result<(Option<String>, bool), BackendError> {
        let cell = {
            let mut tokens = self.tokens.lock().await;
            Arc::clone(tokens.entry(reference.repository().to_owned()).or_default())
        };
        let mut cell = cell.lock().await;
        if let Some(token) = &*cell
            && token.made.elapsed() < TOKEN_LIFETIME
        {
            return Ok((token.header.clone(), false));
        }
        let credentials = self.credentials().await;
        let answer = self
            .registry
            .auth(reference, credentials, RegistryOperation::Pull)
            .await;
        let header = match answer {
            Ok(Some(token)) => Some(format!("Bearer {token}")),
            Ok(None) => match credentials {
                RegistryAuth::Basic(user, password) => Some(basic(user, password)),
                RegistryAuth::Bearer(token) => Some(format!("Bearer {token}")),
                RegistryAuth::Anonymous => None,
            },
            Err(error) => return Err(translate(place, error)),
        };
        *cell = Some(Token {
            header: header.clone(),
            made: Instant::now(),
        });
        Ok((header, true))
    }

    async fn forget_token(&self, reference: &Reference) {
        self.tokens.lock().await.remove(reference.repository());
    }

    /// The digest of the layer that is the file.
    async fn layer(&self, target: &OciTarget) -> Result<String, BackendError> {
        let reference = self.reference(target);
        let place = self.place(target);
        let credentials = self.credentials().await;
        let (manifest, _) = self
            .registry
            .pull_manifest(&reference, credentials)
            .await
            .map_err(|error| translate(&place, error))?;
        let OciManifest::Image(manifest) = manifest else {
            return Err(BackendError::NoLayer {
                image: place,
                media_type: target.media_type.clone(),
            });
        };
        let layer = manifest
            .layers
            .into_iter()
            .find(|l| l.media_type == target.media_type);
        match layer {
            Some(layer) => Ok(layer.digest),
            None => Err(BackendError::NoLayer {
                image: place,
                media_type: target.media_type.clone(),
            }),
        }
    }

    async fn blob(
        &self,
        request: &GetRequest<'_>,
        target: &OciTarget,
        digest: &str,
    ) -> Result<GetResponse, BackendError> {
        let reference = self.reference(target);
        let place = self.place(target);
        let scheme = if self.location.plain_http {
            "http"
        } else {
            "https"
        };
        let repository = self.repository(target);
        let url = format!(
            "{scheme}://{}/v2/{repository}/blobs/{digest}",
            self.location.registry
        );
        let bad = |_| BackendError::BadPath {
            path: repository.clone(),
            place: place.clone(),
        };
        let url: Url = url.parse().map_err(bad)?;
        loop {
            let mut get = self.http.get(url.clone());
            let (header, fresh) = self.authorization(&reference, &place).await?;
            if let Some(header) = header {
                get = get.header(AUTHORIZATION, header);
            }
            match send(get, SafeUrl::from(url.clone()), request.range).await {
                Err(BackendError::Status { status: 401, .. }) => {
                    self.forget_token(&reference).await;
                    if fresh {
                        return Err(BackendError::Denied {
                            place,
                            source: None,
                        });
                    }
                    // The token ran out early: once more with a new one.
                }
                answer => return answer,
            }
        }
    }
}

#[async_trait]
impl Backend for OciBackend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let Some(target) = &request.target.oci else {
            return Err(BackendError::NotFound {
                url: format!("oci://{}: {}", self.location.registry, request.target.path),
            });
        };
        if let Expected {
            sha256: Some(sha256),
            ..
        } = request.expected
        {
            // The blob of a file is the file, so its digest is its name.
            match self
                .blob(&request, target, &format!("sha256:{sha256}"))
                .await
            {
                Err(error) if error.class() == Class::NotHere => {}
                answer => return answer,
            }
        }
        let digest = self.layer(target).await?;
        // A tag moves, its blobs do not: the digest of the blob is the validator.
        if request
            .validators
            .is_some_and(|v| v.etag.as_deref() == Some(&digest))
        {
            return Ok(GetResponse::NotModified);
        }
        let mut answer = self.blob(&request, target, &digest).await?;
        if let GetResponse::Body { validators, .. } = &mut answer {
            validators.etag = Some(digest);
            validators.last_modified = None;
        }
        Ok(answer)
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

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

fn translate(place: &str, error: OciDistributionError) -> BackendError {
    use oci_client::errors::OciErrorCode as Code;
    let place = place.to_owned();
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => {
            BackendError::NotFound { url: place }
        }
        // A token endpoint that knows no such repository may answer 403 instead of 404, and the
        // crate reports every refused token the same way. With credentials of ours the refusal
        // is about them; without, it says that there is nothing to read here for us.
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => BackendError::Denied {
            place,
            source: Some(Box::new(error)),
        },
        OciDistributionError::RegistryError { ref envelope, .. } => {
            let is = |code: &Code| envelope.errors.iter().any(|e| e.code == *code);
            if is(&Code::NameUnknown)
                || is(&Code::ManifestUnknown)
                || is(&Code::BlobUnknown)
                || is(&Code::NotFound)
            {
                return BackendError::NotFound { url: place };
            }
            if is(&Code::Unauthorized) || is(&Code::Denied) {
                return BackendError::Denied {
                    place,
                    source: Some(Box::new(error)),
                };
            }
            let class = if is(&Code::Toomanyrequests) {
                Class::Throttled
            } else {
                Class::Unwell
            };
            BackendError::Service {
                place,
                class,
                retry_after: None,
                source: Box::new(error),
            }
        }
        OciDistributionError::ServerError { code, .. } => {
            let class = class_of_status(code);
            BackendError::Service {
                place,
                class,
                retry_after: None,
                source: Box::new(error),
            }
        }
        error => BackendError::Service {
            place,
            class: Class::Unwell,
            retry_after: None,
            source: Box::new(error),
        },
    }
}
