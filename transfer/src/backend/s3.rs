//! Mirrors in S3 buckets.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    Client,
    config::RequestChecksumCalculation,
    config::{Credentials, SharedHttpClient, StalledStreamProtectionConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::get_object::{GetObjectError, GetObjectOutput, builders::GetObjectFluentBuilder},
};
use futures_util::{StreamExt as _, stream};
use taipan_mirrors::{Class, S3Location, SafeUrl};
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    BackendError, ByteRange, ContentRange, HttpClient, HttpClientError, HttpOptions, Target,
    backend::{
        Backend, Body, GetRequest, GetResponse, Validators, http::retry_after, s3_connector,
    },
    error::class_of_status,
};

/// A bucket, or a prefix in one.
#[derive(Debug)]
pub struct S3Backend {
    location: S3Location,
    connect_timeout: Duration,
    credentials: Option<Credentials>,
    http: Option<SharedHttpClient>,
    // The credential chain reads files and may send requests, so it runs at the first request and
    // not when a mirror list is read.
    client: OnceCell<Client>,
    /// The region of the bucket, as a response to a request in another region named it.
    region: Mutex<Option<Region>>,
}

impl S3Backend {
    /// The backend for the bucket at `location`, with the SDK's credential chain unless it is
    /// anonymous.
    pub fn new(location: S3Location, connect_timeout: Duration) -> Self {
        Self {
            location,
            connect_timeout,
            credentials: None,
            http: None,
            client: OnceCell::new(),
            region: Mutex::default(),
        }
    }

    /// Sets the keys, instead of those of the SDK's credential chain. Temporary keys have a session
    /// token.
    #[must_use]
    pub fn with_keys(
        self,
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
        session_token: Option<String>,
    ) -> Self {
        let keys = Credentials::new(access_key, secret_key, session_token, None, "taipan");
        Self {
            credentials: Some(keys),
            client: OnceCell::new(),
            ..self
        }
    }

    /// Sets the HTTP client for the bucket. The credential chain keeps a client with the proxies of
    /// the environment: it sends requests to services of the machine, which are not behind a
    /// configured proxy.
    #[must_use]
    pub fn with_client(self, client: &HttpClient) -> Self {
        Self {
            http: Some(s3_connector::shared(client)),
            client: OnceCell::new(),
            ..self
        }
    }

    pub(crate) async fn client(&self, place: &str) -> Result<&Client, BackendError> {
        let failed = |error: HttpClientError| BackendError::Service {
            place: place.to_owned(),
            class: Class::Unwell,
            retry_after: None,
            source: Box::new(error),
        };
        let connected = self.client.get_or_try_init(|| self.connect()).await;
        connected.map_err(failed)
    }

    async fn connect(&self) -> Result<Client, HttpClientError> {
        let plain = HttpClient::new(&HttpOptions {
            connect_timeout: self.connect_timeout,
            ..HttpOptions::default()
        })?;
        // Retries and stalls are up to the engine, which can use another mirror instead.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(s3_connector::shared(&plain))
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(self.connect_timeout)
                    .build(),
            );
        if let Some(region) = &self.location.region {
            loader = loader.region(Region::new(region.clone()));
        } else if self.location.endpoint.is_some() || self.location.anonymous {
            // Most servers other than AWS ignore the region; a request to the instance metadata
            // service for it would only cost time.
            let region =
                std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION"));
            loader = loader.region(Region::new(
                region.unwrap_or_else(|_| "us-east-1".to_owned()),
            ));
        }
        if self.location.anonymous {
            loader = loader.no_credentials();
        } else if let Some(keys) = &self.credentials {
            loader = loader.credentials_provider(keys.clone());
        }
        let shared = loader.load().await;
        let mut config =
            aws_sdk_s3::config::Builder::from(&shared).force_path_style(self.location.path_style);
        // Many services refuse the encoding of bodies that the SDK's own checksums need.
        config = config.request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
        if shared.region().is_none() {
            config = config.region(Region::new("us-east-1"));
        }
        if let Some(endpoint) = &self.location.endpoint {
            config = config.endpoint_url(endpoint_text(endpoint));
        }
        if let Some(http) = &self.http {
            config = config.http_client(http.clone());
        }
        Ok(Client::from_conf(config.build()))
    }

    pub(crate) fn learned_region(&self) -> Option<Region> {
        // Each change is one assignment.
        let region = self.region.lock().unwrap_or_else(PoisonError::into_inner);
        region.clone()
    }

    /// The endpoint to which a redirect leads, if its URL is that of the same bucket. A signed request does not leave TLS.
    fn redirected(&self, error: &SdkError<GetObjectError>) -> Option<Endpoint> {
        if !matches!(status(error)?, 301 | 302 | 307 | 308) {
            return None;
        }
        let location = error.raw_response()?.headers().get("location")?;
        let mut url = Url::parse(location).ok()?;
        let is_encrypted =
            (self.location.endpoint.as_ref()).is_none_or(|it| it.scheme() == "https");
        if !(url.scheme() == "https" || (url.scheme() == "http" && !is_encrypted)) {
            return None;
        }
        let bucket = &self.location.bucket;
        let below = format!("/{bucket}/");
        let host = url.host_str()?.to_owned();
        let path_style = match host.strip_prefix(&format!("{bucket}.")) {
            Some(service) => {
                url.set_host(Some(service)).ok()?;
                false
            }
            None if url.path().starts_with(&below) => true,
            None => return None,
        };
        Some(Endpoint {
            url: url.origin().ascii_serialization(),
            path_style,
        })
    }

    /// Sends a request to where the bucket is, also if its service says that only now.
    async fn send(
        &self,
        get: GetObjectFluentBuilder,
        place: &str,
    ) -> Result<GetObjectOutput, SdkError<GetObjectError>> {
        let mut at = Whereabouts {
            region: self.learned_region(),
            endpoint: None,
        };
        let mut response = send(get.clone(), &at).await;
        if let Err(error) = &response
            && let Some(right) = region_of(error).filter(|right| Some(right) != at.region.as_ref())
        {
            tracing::debug!(place, region = %right, "the bucket is in another region");
            *self.region.lock().unwrap_or_else(PoisonError::into_inner) = Some(right.clone());
            at.region = Some(right);
            response = send(get.clone(), &at).await;
        } else if let Err(error) = &response
            && let Some(endpoint) = self.redirected(error)
        {
            // Valid for this request: nothing says for how long.
            tracing::debug!(place, endpoint = %endpoint.url, "the bucket is at another endpoint");
            at.endpoint = Some(endpoint);
            response = send(get.clone(), &at).await;
        }
        // A signature is refused if its time is wrong by a quarter of an hour. The SDK takes the
        // server's time from the response, and signs with it from now on.
        if let Err(error) = &response
            && error.code() == Some("RequestTimeTooSkewed")
        {
            tracing::warn!(place, "the clock of this machine or of the bucket is wrong");
            response = send(get, &at).await;
        }
        response
    }

    /// The bucket and the prefix.
    pub(crate) fn location(&self) -> &S3Location {
        &self.location
    }

    /// Remembers the region of the bucket if the response names one. Whether it is another than before.
    pub(crate) fn learn_region<E>(&self, error: &SdkError<E>) -> bool {
        let Some(right) = region_of(error) else {
            return false;
        };
        let mut region = self.region.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = region.as_ref() != Some(&right);
        *region = Some(right);
        is_new
    }

    pub(crate) fn key(&self, path: &str) -> String {
        match self.location.prefix.trim_matches('/') {
            "" => path.to_owned(),
            prefix => format!("{prefix}/{path}"),
        }
    }
}

#[async_trait]
impl Backend for S3Backend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let place = self.describe(request.target);
        let range = request.ranges.one(|| place.clone())?;
        // The SDK would resolve a `..` in the key, and leave the prefix.
        if !request.target.is_key() {
            let path = request.target.path.clone();
            return Err(BackendError::BadPath { path, place });
        }
        let get = self
            .client(&place)
            .await?
            .get_object()
            .bucket(&self.location.bucket)
            .key(self.key(&request.target.path))
            .set_range(range.map(|range| range.header()))
            .set_if_none_match(request.validators.and_then(|v| v.etag.clone()))
            .set_if_match(request.if_range.map(str::to_owned));
        let response = self.send(get, &place).await;
        if let Err(error) = &response
            && request.if_range.is_some()
            && status(error) == Some(412)
        {
            return Err(BackendError::Changed { url: place });
        }
        let object = match response {
            Ok(object) => object,
            Err(error) => {
                return match status(&error) {
                    Some(304) => Ok(GetResponse::NotModified),
                    status => match range.filter(|_| status == Some(416)) {
                        Some(wanted) => Err(BackendError::BeyondEnd { url: place, wanted }),
                        None => Err(translate(place, status, error)),
                    },
                };
            }
        };
        let length = object
            .content_length
            .and_then(|length| u64::try_from(length).ok());
        let (start, end, total) = match (range, &object.content_range) {
            (Some(wanted), Some(text)) => match text.parse::<ContentRange>() {
                Ok(sent) if sent.satisfies(wanted) => (sent.start, Some(sent.end), sent.total),
                _ => return Err(wrong_range(place, wanted, text.clone())),
            },
            (None, Some(text)) => {
                return Err(wrong_range(place, ByteRange::from(0), text.clone()));
            }
            (_, None) => (0, None, length),
        };
        // An object may be stored encoded; then its digest is that of the encoded bytes. If its
        // length is not that of the file, something between has encoded it.
        if let (Some(encoding), Some(total), Some(size)) =
            (&object.content_encoding, total, request.expected.size)
            && total != size
            && !["identity", "aws-chunked"].contains(&encoding.to_ascii_lowercase().as_str())
            && let Ok(url) = place.parse::<Url>()
        {
            return Err(BackendError::Encoded {
                url: url.into(),
                encoding: encoding.clone(),
            });
        }
        let validators = Validators {
            etag: object.e_tag,
            last_modified: None,
        };
        let body = stream::try_unfold((object.body, place), |(mut body, place)| async move {
            match body.next().await {
                None => Ok(None),
                Some(Ok(piece)) => Ok(Some((piece, (body, place)))),
                Some(Err(source)) => Err(BackendError::Body {
                    url: place,
                    source: Box::new(source),
                }),
            }
        });
        let body: Body = body.boxed();
        Ok(GetResponse::Body {
            start,
            end,
            total,
            validators,
            duplicates: None,
            body,
        })
    }

    fn has_multi_range(&self) -> bool {
        false
    }

    fn describe(&self, target: &Target) -> String {
        format!("s3://{}/{}", self.location.bucket, self.key(&target.path))
    }
}

/// Where a bucket is, as far as its service has said otherwise than expected.
struct Whereabouts {
    region: Option<Region>,
    endpoint: Option<Endpoint>,
}

struct Endpoint {
    url: String,
    path_style: bool,
}

/// The URL of an endpoint for the SDK, which appends paths to it.
fn endpoint_text(endpoint: &Url) -> String {
    let text = endpoint.as_str().trim_end_matches('/');
    if endpoint.path().trim_matches('/').is_empty() {
        text.to_owned()
    } else {
        format!("{text}/")
    }
}

/// Sends a request to where the bucket is.
async fn send(
    get: GetObjectFluentBuilder,
    at: &Whereabouts,
) -> Result<GetObjectOutput, SdkError<GetObjectError>> {
    if at.region.is_none() && at.endpoint.is_none() {
        return get.send().await;
    }
    let mut other = aws_sdk_s3::Config::builder();
    if let Some(region) = &at.region {
        other = other.region(region.clone());
    }
    if let Some(endpoint) = &at.endpoint {
        other = other
            .endpoint_url(&endpoint.url)
            .force_path_style(endpoint.path_style);
    }
    get.customize().config_override(other).send().await
}

/// The region of the bucket, as a response with 301, 307 or 400 names it: in the header `x-amz-bucket-region`, or in the body
/// (`<Region>`, with `AuthorizationHeaderMalformed`).
fn region_of<E>(error: &SdkError<E>) -> Option<Region> {
    if !matches!(status(error)?, 301 | 307 | 400) {
        return None;
    }
    let response = error.raw_response()?;
    let in_body = || {
        let body = std::str::from_utf8(response.body().bytes()?).ok()?;
        let (_, rest) = body.split_once("<Region>")?;
        Some(rest.split_once("</Region>")?.0)
    };
    let name = response.headers().get("x-amz-bucket-region");
    let name = name.or_else(in_body)?.trim();
    // It becomes part of a host name.
    let is_sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = (1..=32).contains(&name.len()) && name.chars().all(is_sound);
    is_name.then(|| Region::new(name.to_owned()))
}

fn wrong_range(url: String, wanted: ByteRange, got: String) -> BackendError {
    BackendError::WrongRange { url, wanted, got }
}

pub(crate) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error
        .raw_response()
        .map(|response| response.status().as_u16())
}

/// What to do when a service wants no keys or others.
const ANONYMOUS: &str = "set `anonymous = true` beside the URL of a public bucket";

/// Whether no source of credentials had any. The request was not sent then.
fn lacks_keys(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<CredentialsError>() {
            return matches!(error, CredentialsError::CredentialsNotLoaded(_));
        }
        cause = error.source();
    }
    false
}

pub(crate) fn translate<E>(place: String, status: Option<u16>, error: SdkError<E>) -> BackendError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    if status.is_none() && lacks_keys(&error) {
        let source = format!(
            "no keys were found in the environment, the profiles or the metadata service; {ANONYMOUS}"
        );
        return BackendError::Denied {
            place,
            source: Some(source.into()),
        };
    }
    let retry_after = error
        .raw_response()
        .map(aws_sdk_s3::config::http::HttpResponse::headers)
        .and_then(|headers| retry_after(headers.get("retry-after")?, headers.get("date")));
    let code = error.code().unwrap_or_default().to_owned();
    let class = match code.as_str() {
        "NoSuchKey" | "NotFound" => return BackendError::NotFound { url: place },
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "RequestTimeTooSkewed" => Class::Denied,
        "SlowDown" | "TooManyRequests" => Class::Throttled,
        _ => match (&error, status) {
            // The credential chain found none: the request was not sent.
            (SdkError::ConstructionFailure(_), _) => Class::Denied,
            (_, Some(status)) => class_of_status(status),
            (_, None) => Class::Unwell,
        },
    };
    if let (None, SdkError::DispatchFailure(_), Ok(url)) = (status, &error, place.parse::<Url>()) {
        return match error.into_source() {
            Ok(source) => dispatch(url.into(), source),
            Err(error) => BackendError::Request {
                url: url.into(),
                source: Box::new(error),
            },
        };
    }
    let source: Box<dyn std::error::Error + Send + Sync> = match (status, code.as_str()) {
        (Some(status), "") => format!("it responded with {status}").into(),
        (Some(status), "InvalidAccessKeyId") => {
            format!("it responded with {status} InvalidAccessKeyId: the keys are of another service; {ANONYMOUS}").into()
        }
        (Some(status), code) => match error.message() {
            Some(message) => format!("it responded with {status} {code}: {message}").into(),
            None => format!("it responded with {status} {code}").into(),
        },
        (None, _) => match error.into_source() {
            Ok(source) => source,
            Err(error) => Box::new(error),
        },
    };
    match class {
        Class::Denied => BackendError::Denied {
            place,
            source: Some(source),
        },
        class => BackendError::Service {
            place,
            class,
            retry_after,
            source,
        },
    }
}

/// The error of a request that was not sent, or got no response. `source` is the SDK's wrapping of
/// the error of the client.
fn dispatch(url: SafeUrl, source: Box<dyn std::error::Error + Send + Sync>) -> BackendError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*source);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            if error.is_connect() {
                return BackendError::Connect { url, source };
            }
            break;
        }
        cause = error.source();
    }
    BackendError::Request { url, source }
}
