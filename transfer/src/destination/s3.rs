//! Destinations in S3 buckets.
//!
//! An object of up to [`SINGLE`] bytes is sent with one request, whose signature contains the digest of the body: a server
//! that checks it refuses other bytes before the object exists. Larger ones are sent in parts (`multipart.rs`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::{
    Client,
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    operation::{
        delete_objects::DeleteObjectsError, head_object::HeadObjectOutput,
        put_object::PutObjectOutput,
    },
    primitives::{ByteStream, SdkBody},
    types::{Delete, ObjectIdentifier},
};
use futures_util::{StreamExt as _, stream};
use taipan_mirrors::Class;
use tokio::sync::OnceCell;

use super::{
    Condition, Deletion, Destination, Held, ListedFile, Listing, NewFile, PutOptions, Stored,
    body::SendBody, content::Content, sending::Sending,
};
use crate::{
    BackendError, Expected, Md5, S3Backend, Sha256, Target, VerifyError,
    backend::{Backend as _, s3},
};

/// The largest object that is sent with one request, in bytes. Its entity tag is the MD5 of its bytes, so that a listing
/// verifies it.
const SINGLE: u64 = 100 << 20;

/// The most objects that are deleted with one request, by the protocol.
const MAX_DELETE: usize = 1000;

/// How many objects are deleted at a time where each needs a request of its own.
const SINGLE_DELETES: usize = 8;

/// The name of the metadata that holds the digest of an object. The protocol makes `x-amz-meta-sha256` of it.
pub(super) const SHA256: &str = "sha256";

/// A bucket, or a prefix in one.
#[derive(Debug)]
pub struct S3Destination {
    pub(super) backend: Arc<S3Backend>,
    /// Whether the server refuses a body that is not the signed one.
    checks_bodies: OnceCell<bool>,
    honours_conditions: OnceCell<bool>,
    single: u64,
}

/// Puts the digest of a body into the signature of its request, in place of a digest that the SDK would have to read
/// the body for.
#[derive(Debug)]
pub(super) struct SignedDigest(pub(super) Sha256);

impl Intercept for SignedDigest {
    fn name(&self) -> &'static str {
        "SignedDigest"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let digest = PayloadSigningOverride::Precomputed(self.0.to_string());
        config.interceptor_state().store_put(digest);
        Ok(())
    }
}

impl S3Destination {
    /// The destination that this backend reads.
    pub fn new(backend: Arc<S3Backend>) -> Self {
        Self {
            backend,
            checks_bodies: OnceCell::new(),
            honours_conditions: OnceCell::new(),
            single: SINGLE,
        }
    }

    /// Sends objects of more than this many bytes in parts, instead of those of more than 100 MiB.
    #[must_use]
    pub fn with_parts_above(self, bytes: u64) -> Self {
        Self {
            single: bytes,
            ..self
        }
    }

    pub(super) fn bucket(&self) -> &str {
        &self.backend.location().bucket
    }

    pub(super) async fn client(&self, place: &str) -> Result<&Client, BackendError> {
        self.backend.client(place).await
    }

    /// The part of the configuration that was learned from responses.
    pub(super) fn whereabouts(&self) -> aws_sdk_s3::config::Builder {
        let config = aws_sdk_s3::Config::builder();
        match self.backend.learned_region() {
            Some(region) => config.region(region),
            None => config,
        }
    }

    /// Sends a request, and a second time if the first response tells how it must be sent.
    pub(super) async fn attempt<T, E, F>(&self, request: impl Fn() -> F) -> Result<T, SdkError<E>>
    where
        E: ProvideErrorMetadata,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        match request().await {
            // The SDK takes the server's time from the response, and signs with it from now on.
            Err(error) if error.code() == Some("RequestTimeTooSkewed") => request().await,
            Err(error) if self.backend.learn_region(&error) => request().await,
            result => result,
        }
    }

    pub(super) fn place(&self, path: &str) -> String {
        self.backend.describe(&Target::path(path))
    }

    /// Whether the server refuses a body that is not the signed one. Asked once, with an object that must not come to be.
    pub(super) async fn checks_bodies(&self) -> Result<bool, BackendError> {
        let probe = Box::pin(async {
            let path = probe_path("body");
            let right = Sha256::of(b"right");
            let content = Content::Bytes("wrong".into());
            let mut file = NewFile::known(Target::path(&path), content, right, None);
            file.content_type = "text/plain";
            match self.put_object(&file, &Sending::new()).await {
                Ok(_) => {
                    tracing::debug!(place = %self.place(&path), "the server does not check bodies");
                    self.remove_probe(&path).await;
                    Ok(false)
                }
                Err(error) => match s3::status(&error) {
                    Some(400) => Ok(true),
                    // Some servers have no better response. What counts is that the object is not there.
                    Some(500) if self.head(&path).await?.is_none() => Ok(true),
                    _ => Err(write_error(self.place(&path), error)),
                },
            }
        });
        let known = self.checks_bodies.get_or_try_init(|| probe);
        known.await.copied()
    }

    async fn remove_probe(&self, path: &str) {
        let place = self.place(path);
        if let Ok(client) = self.client(&place).await {
            let delete = client.delete_object().bucket(self.bucket());
            let delete = delete.key(self.backend.key(path)).customize();
            let delete = delete.config_override(self.whereabouts());
            if let Err(error) = delete.send().await {
                tracing::debug!(%place, %error, "cannot delete the object of a probe");
            }
        }
    }

    /// Puts an object with one request.
    async fn put_object(
        &self,
        file: &NewFile,
        sending: &Arc<Sending>,
    ) -> Result<PutObjectOutput, SdkError<aws_sdk_s3::operation::put_object::PutObjectError>> {
        let place = self.place(&file.target.path);
        let client = match self.client(&place).await {
            Ok(client) => client,
            Err(error) => return Err(SdkError::construction_failure(error)),
        };
        let size = file.size();
        self.attempt(|| {
            let body = SendBody::open(&file.content, 0..size, sending);
            let (absent, unchanged) = conditions(&file.condition);
            let put = (client.put_object())
                .bucket(self.bucket())
                .key(self.backend.key(&file.target.path))
                .content_length(i64::try_from(size).unwrap_or(i64::MAX))
                .content_type(file.content_type)
                .set_cache_control(file.cache_control.map(str::to_owned))
                .metadata(SHA256, file.sha256.to_string())
                .set_if_none_match(absent)
                .set_if_match(unchanged);
            let (digest, config) = (SignedDigest(file.sha256), self.whereabouts());
            async move {
                let body = body.map_err(SdkError::construction_failure)?;
                let put = put.body(ByteStream::new(SdkBody::from_body_1_x(body)));
                let put = put.customize().interceptor(digest);
                put.config_override(config).send().await
            }
        })
        .await
    }

    async fn put_one(
        &self,
        file: &NewFile,
        sending: &Arc<Sending>,
    ) -> Result<Stored, BackendError> {
        let place = self.place(&file.target.path);
        if !file.target.is_key() {
            return Err(BackendError::BadPath {
                path: file.target.path.clone(),
                place,
            });
        }
        if file.size() > self.single {
            return self.put_parts(file, sending).await;
        }
        let is_checked = self.checks_bodies().await?;
        let sent = if is_checked {
            None
        } else {
            // The server does not compare the bytes with their digest.
            let (sha256, md5) = file.content.digests().await?;
            if sha256 != file.sha256 {
                return Err(Self::corrupt(place, "sha256", &file.sha256, &sha256));
            }
            Some(md5)
        };
        let put = self.put_object(file, sending).await;
        let etag = put
            .map_err(|error| write_error(place.clone(), error))?
            .e_tag;
        let Some(sent) = sent else {
            return Ok(Stored { etag });
        };
        // The tag of an object that was sent with one request is its MD5, unless it is encrypted in some ways.
        match etag.as_deref().and_then(md5_of) {
            Some(got) if got == sent => {}
            Some(got) => {
                self.remove_probe(&file.target.path).await;
                return Err(Self::corrupt(place, "md5", &sent, &got));
            }
            None => self.read_back(file).await?,
        }
        Ok(Stored { etag })
    }

    /// Reads an object whose bytes the server has not checked.
    pub(super) async fn read_back(&self, file: &NewFile) -> Result<(), BackendError> {
        let place = self.place(&file.target.path);
        let client = self.client(&place).await?;
        let key = self.backend.key(&file.target.path);
        let get = self.attempt(|| {
            let get = client.get_object().bucket(self.bucket()).key(&key);
            let get = get.customize().config_override(self.whereabouts());
            get.send()
        });
        let get = get.await;
        let mut body = get.map_err(|error| write_error(place.clone(), error))?.body;
        let mut hashes = super::content::Hashes::default();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|source| BackendError::Body {
                url: place.clone(),
                source: Box::new(source),
            })?;
            hashes.add(&piece);
        }
        let (got, _) = hashes.finish();
        if got == file.sha256 {
            return Ok(());
        }
        self.remove_probe(&file.target.path).await;
        Err(Self::corrupt(place, "sha256", &file.sha256, &got))
    }

    fn corrupt(
        url: String,
        name: &'static str,
        expected: &dyn std::fmt::Display,
        got: &dyn std::fmt::Display,
    ) -> BackendError {
        let source = VerifyError::Digest {
            name,
            expected: expected.to_string(),
            got: got.to_string(),
        };
        BackendError::Corrupt { url, source }
    }

    pub(super) async fn head(&self, path: &str) -> Result<Option<HeadObjectOutput>, BackendError> {
        let place = self.place(path);
        let client = self.client(&place).await?;
        let key = self.backend.key(path);
        let head = self.attempt(|| {
            let head = client.head_object().bucket(self.bucket()).key(&key);
            let head = head.customize().config_override(self.whereabouts());
            head.send()
        });
        match head.await {
            Ok(object) => Ok(Some(object)),
            Err(error) if s3::status(&error) == Some(404) => Ok(None),
            Err(error) => Err(write_error(place, error)),
        }
    }

    async fn delete_one(&self, path: &str) -> Result<Deletion, BackendError> {
        let place = self.place(path);
        let client = self.client(&place).await?;
        let key = self.backend.key(path);
        let delete = self.attempt(|| {
            let delete = client.delete_object().bucket(self.bucket()).key(&key);
            let delete = delete.customize().config_override(self.whereabouts());
            delete.send()
        });
        match delete.await {
            Ok(_) => Ok(Deletion::Done),
            Err(error) => match (s3::status(&error), error.code()) {
                (Some(404), _) => Ok(Deletion::Done),
                (Some(403), code) => Ok(Deletion::Refused(code.unwrap_or("403").to_owned())),
                (Some(405 | 501), _) => Ok(Deletion::Unsupported),
                _ => Err(write_error(place, error)),
            },
        }
    }

    /// Deletes up to [`MAX_DELETE`] objects with one request. `None` if the server has no such request.
    async fn delete_many(&self, targets: &[Target]) -> Result<Option<Vec<Deletion>>, BackendError> {
        let place = self.place("");
        let client = self.client(&place).await?;
        let identifier = |target: &Target| {
            let key = self.backend.key(&target.path);
            ObjectIdentifier::builder().key(key).build()
        };
        let objects: Result<Vec<_>, _> = targets.iter().map(identifier).collect();
        let delete = objects.and_then(|objects| {
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true);
            delete.build()
        });
        let Ok(delete) = delete else {
            return Ok(None);
        };
        let deleted = self.attempt(|| {
            let request = client.delete_objects().bucket(self.bucket());
            let request = request.delete(delete.clone()).customize();
            request.config_override(self.whereabouts()).send()
        });
        let errors = match deleted.await {
            Ok(output) => output.errors.unwrap_or_default(),
            Err(error) if lacks_bulk(&error) => return Ok(None),
            Err(error) => return Err(write_error(place, error)),
        };
        let outcome = |target: &Target| {
            let key = self.backend.key(&target.path);
            let error = errors.iter().find(|error| error.key() == Some(&key));
            match error.map(|error| error.code().unwrap_or("unknown error")) {
                None | Some("NoSuchKey") => Deletion::Done,
                Some(code) => Deletion::Refused(code.to_owned()),
            }
        };
        Ok(Some(targets.iter().map(outcome).collect()))
    }
}

#[async_trait]
impl Destination for S3Destination {
    async fn look(
        &self,
        target: &Target,
        expected: &Expected,
    ) -> Result<Option<Held>, BackendError> {
        let Some(object) = self.head(&target.path).await? else {
            return Ok(None);
        };
        let noted = object.metadata().and_then(|it| it.get(SHA256));
        let md5 = object.e_tag().and_then(md5_of);
        let sha256 = match (md5, expected.md5, expected.sha256) {
            // The same MD5 as that of the expected file, which the server has made of what it holds.
            (Some(held), Some(expected_md5), Some(sha256)) if held == expected_md5 => Some(sha256),
            _ => noted.and_then(|text| text.parse().ok()),
        };
        Ok(Some(Held {
            size: object
                .content_length()
                .and_then(|it| u64::try_from(it).ok()),
            etag: object.e_tag,
            sha256,
            md5,
        }))
    }

    async fn put(
        &self,
        files: &[NewFile],
        _: PutOptions,
        sending: &Arc<Sending>,
    ) -> Result<Vec<Stored>, BackendError> {
        let mut stored = Vec::with_capacity(files.len());
        for file in files {
            stored.push(Box::pin(self.put_one(file, sending)).await?);
        }
        Ok(stored)
    }

    async fn delete(&self, targets: &[Target]) -> Result<Vec<Deletion>, BackendError> {
        let mut deletions = Vec::with_capacity(targets.len());
        for some in targets.chunks(MAX_DELETE) {
            if some.len() > 1
                && let Some(outcomes) = self.delete_many(some).await?
            {
                deletions.extend(outcomes);
                continue;
            }
            let mut requests = Vec::with_capacity(some.len());
            for target in some {
                requests.push(self.delete_one(&target.path));
            }
            let mut outcomes = stream::iter(requests).buffered(SINGLE_DELETES);
            while let Some(outcome) = outcomes.next().await {
                deletions.push(outcome?);
            }
        }
        Ok(deletions)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Option<Listing>, BackendError> {
        let place = self.place(prefix);
        let client = self.client(&place).await?;
        let root = self.backend.key("");
        let list = self.attempt(|| {
            let list = client.list_objects_v2().bucket(self.bucket());
            let list = list.prefix(self.backend.key(prefix));
            let list = list.set_start_after(after.map(|after| self.backend.key(after)));
            let list = list.customize().config_override(self.whereabouts());
            list.send()
        });
        let page = list.await.map_err(|error| write_error(place, error))?;
        let is_truncated = page.is_truncated() == Some(true);
        let file = |object: aws_sdk_s3::types::Object| {
            let path = object.key()?.strip_prefix(&root)?.to_owned();
            Some(ListedFile {
                path,
                held: Held {
                    size: object.size().and_then(|size| u64::try_from(size).ok()),
                    md5: object.e_tag().and_then(md5_of),
                    etag: object.e_tag,
                    sha256: None,
                },
            })
        };
        let files: Vec<ListedFile> = page
            .contents
            .unwrap_or_default()
            .into_iter()
            .filter_map(file)
            .collect();
        let end = files.last().map(|file| file.path.clone());
        Ok(Some(Listing {
            next: end.filter(|_| is_truncated),
            files,
        }))
    }

    async fn tags(&self, _: &str) -> Result<Option<Vec<String>>, BackendError> {
        Ok(None)
    }

    /// Some servers accept the headers and ignore them, so it is tried: a second object may not replace the first, and one
    /// with a wrong entity tag may not, either.
    async fn honours_conditions(&self) -> Result<bool, BackendError> {
        let probe = Box::pin(async {
            let path = probe_path("condition");
            let target = Target::path(&path);
            let content = Content::Bytes("probe".into());
            let file = NewFile::new(target, content).await?;
            let sending = Sending::new();
            let absent = file.clone().with_condition(Condition::Absent);
            let first = self.put_object(&absent, &sending).await;
            if let Err(error) = first {
                return match s3::status(&error) {
                    // The header is not known.
                    Some(400 | 501) => Ok(false),
                    _ => Err(write_error(self.place(&path), error)),
                };
            }
            let mut is_honoured = true;
            let wrong = format!("\"{}\"", "0".repeat(32));
            for condition in [Condition::Absent, Condition::Unchanged(wrong)] {
                let again = file.clone().with_condition(condition);
                is_honoured &= match self.put_object(&again, &sending).await {
                    Ok(_) => false,
                    Err(error) => s3::status(&error) == Some(412),
                };
            }
            self.remove_probe(&path).await;
            tracing::debug!(place = %self.place(&path), is_honoured, "conditional writes");
            Ok(is_honoured)
        });
        let known = self.honours_conditions.get_or_try_init(|| probe);
        known.await.copied()
    }

    async fn sweep(&self, older_than: Duration) -> Result<usize, BackendError> {
        self.sweep_uploads(older_than).await
    }

    fn describe(&self, target: &Target) -> String {
        self.backend.describe(target)
    }
}

/// The path of an object that only probes.
fn probe_path(what: &str) -> String {
    let entropy = format!("{:?}{}", std::time::SystemTime::now(), std::process::id());
    let id = Sha256::of(entropy.as_bytes()).to_string();
    format!(".taipan/probe/{what}-{}", &id[..16])
}

/// The values of `If-None-Match` and `If-Match`.
pub(super) fn conditions(condition: &Condition) -> (Option<String>, Option<String>) {
    match condition {
        Condition::None => (None, None),
        Condition::Absent => (Some("*".to_owned()), None),
        Condition::Unchanged(tag) => (None, Some(tag.clone())),
    }
}

/// The MD5 that an entity tag is, for an object that was sent with one request.
pub(super) fn md5_of(etag: &str) -> Option<Md5> {
    etag.trim_matches('"').parse().ok()
}

/// Whether the server has no request that deletes several objects, or not in the form in which it is sent.
fn lacks_bulk(error: &SdkError<DeleteObjectsError>) -> bool {
    matches!(s3::status(error), Some(400 | 404 | 405 | 501)) && error.code() != Some("NoSuchBucket")
}

/// The error of a request that changes something: what reading takes for absence is a refusal here.
pub(super) fn write_error<E>(place: String, error: SdkError<E>) -> BackendError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    if let SdkError::ConstructionFailure(_) = &error {
        // The content could not be read, for example.
        let mut cause = std::error::Error::source(&error);
        let is_ours = std::iter::from_fn(|| {
            let this = cause?;
            cause = this.source();
            Some(this)
        })
        .any(<dyn std::error::Error>::is::<BackendError>);
        if is_ours && let Ok(source) = error.into_source() {
            return match source.downcast::<BackendError>() {
                Ok(error) => *error,
                Err(source) => service(place, Class::Unwell, source),
            };
        }
        return service(
            place,
            Class::Denied,
            "the request could not be signed".into(),
        );
    }
    let status = s3::status(&error);
    let code = error.code().unwrap_or_default().to_owned();
    let told = || {
        let message = error
            .message()
            .map(|it| format!(": {it}"))
            .unwrap_or_default();
        let status = status.unwrap_or_default();
        format!("it responded with {status} {code}{message}")
    };
    match (status, code.as_str()) {
        (Some(412), _) | (Some(409), "ConditionalRequestConflict") => {
            BackendError::Conflict { url: place }
        }
        (Some(404), "NoSuchBucket") => service(
            place,
            Class::NotHere,
            "the bucket does not exist: create it first, or check its name and the endpoint".into(),
        ),
        (Some(404), _) => service(place, Class::NotHere, told().into()),
        (Some(400), "BadDigest" | "XAmzContentSHA256Mismatch") => {
            service(place, Class::Unwell, told().into())
        }
        (Some(403), "AccessDenied" | "Forbidden" | "") => BackendError::Denied {
            place,
            source: Some(told().into()),
        },
        (Some(403), code) if !KEY_ERRORS.contains(&code) => BackendError::Denied {
            place,
            source: Some(told().into()),
        },
        (Some(400 | 405 | 411 | 413), code) if !KEY_ERRORS.contains(&code) => {
            service(place, Class::Denied, told().into())
        }
        _ => s3::translate(place, status, error),
    }
}

/// Errors about keys, which reading has in common.
const KEY_ERRORS: [&str; 7] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
    "RequestTimeout",
];

fn service(
    place: String,
    class: Class,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> BackendError {
    BackendError::Service {
        place,
        class,
        retry_after: None,
        source,
    }
}
