//! The contract of backends: one suite of tests for all protocols.

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{
    LAYER, child_url, client, content, expected, in_child, oci, publish, s3, target, trusting,
};
use futures_util::StreamExt as _;
use http::Version;
use taipan_mirrors::Class;
use taipan_mock_servers::{
    BearerAuth, HttpServer, OciAuth, OciServer, S3Keys, S3Server, Server, Site, TestCa, Tls,
};
use taipan_transfer::{
    Backend, BackendError, Body, ByteRange, Expected, FileBackend, GetRequest, GetResponse,
    HttpBackend, HttpClient, HttpOptions, OciBackend, OciTarget, Ranges, S3Backend, Target,
    Validators,
};
use url::Url;

const CONNECT: Duration = Duration::from_secs(5);
const ODD: &str = "odd dir/a b+c%41&=é~!$'(),;@?#.bin";
const LARGE: usize = 48 << 20;

/// The same files behind every backend.
struct Files {
    whole: Bytes,
    odd: Bytes,
    large: Bytes,
}

impl Files {
    fn new() -> Self {
        Self {
            whole: content(100_000),
            odd: content(1_234),
            large: vec![7; LARGE].into(),
        }
    }

    fn all(&self) -> [(Target, Bytes); 4] {
        [
            (target("dir/whole.bin", "whole"), self.whole.clone()),
            (target("empty", "empty"), Bytes::new()),
            (target(ODD, "odd"), self.odd.clone()),
            (target("large", "large"), self.large.clone()),
        ]
    }

    fn site(&self, prefix: &str) -> Site {
        let site = Site::new();
        for (target, bytes) in self.all() {
            site.insert(&format!("{prefix}{}", target.path), bytes);
        }
        site
    }

    fn registry(&self, server: &OciServer) {
        for (target, bytes) in self.all() {
            publish(server, &target.oci.unwrap().repository, &bytes);
        }
    }

    fn write(&self, root: &Path) {
        for (target, bytes) in self.all() {
            let path = root.join(target.path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// A response with a body.
struct Got {
    start: u64,
    total: Option<u64>,
    validators: Validators,
    body: Body,
}

async fn get(
    backend: &dyn Backend,
    target: &Target,
    known: Expected,
    range: Option<ByteRange>,
) -> Result<Got, BackendError> {
    let request = GetRequest {
        target,
        expected: known,
        ranges: range.map_or(Ranges::All, Ranges::One),
        validators: None,
        if_range: None,
    };
    match backend.get(request).await? {
        GetResponse::Body {
            start,
            total,
            validators,
            body,
            ..
        } => Ok(Got {
            start,
            total,
            validators,
            body,
        }),
        other => panic!("not the file: {other:?}"),
    }
}

async fn read(mut body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    bytes
}

async fn sends_whole_files(backend: &dyn Backend, files: &Files) {
    for (target, bytes) in &files.all()[..3] {
        for known in [Expected::default(), expected(bytes)] {
            let got = get(backend, target, known, None).await.unwrap();
            assert_eq!((got.start, got.total), (0, Some(bytes.len() as u64)));
            assert!(read(got.body).await == *bytes, "{}", target.path);
        }
    }
}

async fn sends_ranges(backend: &dyn Backend, files: &Files) {
    let target = target("dir/whole.bin", "whole");
    for known in [Expected::default(), expected(&files.whole)] {
        for range in [
            ByteRange::from(1),
            ByteRange::from(99_999),
            ByteRange::new(0, 10).unwrap(),
            ByteRange::new(70_000, 70_001).unwrap(),
            ByteRange::new(99_990, 100_000).unwrap(),
        ] {
            let got = get(backend, &target, known, Some(range)).await.unwrap();
            assert_eq!(
                (got.start, got.total),
                (range.start(), Some(100_000)),
                "{range}"
            );
            let end = range.end().unwrap_or(100_000);
            let index = |offset| usize::try_from(offset).unwrap();
            let wanted = &files.whole[index(range.start())..index(end)];
            assert!(read(got.body).await == wanted, "{range}");
        }
        // A range that ends beyond the file is truncated (RFC 9110 §14.1.2).
        let range = ByteRange::new(99_000, 200_000).unwrap();
        let got = get(backend, &target, known, Some(range)).await.unwrap();
        assert!(read(got.body).await == files.whole[99_000..]);
    }
}

async fn refuses_ranges_beyond_the_end(backend: &dyn Backend, files: &Files) {
    let target = target("dir/whole.bin", "whole");
    for start in [100_000, 1 << 40] {
        let range = Some(ByteRange::from(start));
        let response = get(backend, &target, expected(&files.whole), range).await;
        let error = response.err().expect("there is nothing to give");
        assert!(matches!(error, BackendError::BeyondEnd { .. }), "{error:?}");
    }
}

async fn reports_missing_files(backend: &dyn Backend) {
    let missing = target("dir/no-such.bin", "no-such");
    for known in [Expected::default(), expected(b"nowhere")] {
        let error = get(backend, &missing, known, None).await.err().unwrap();
        assert_eq!(error.class(), Class::NotHere, "{error:?}");
    }
    // Paths that lead out of the root are refused.
    for path in ["../secret", "a/../../b", "/etc/passwd", "", "a//b", "./a"] {
        let bad = target(path, "../x");
        let error = get(backend, &bad, Expected::default(), None)
            .await
            .err()
            .unwrap();
        // In a bucket, these are keys like others below the prefix.
        let is_key = matches!(path, "/etc/passwd" | "a//b")
            && backend.describe(&missing).starts_with("s3://");
        assert!(
            is_key || matches!(error, BackendError::BadPath { .. }),
            "{path}: {error:?}"
        );
        assert!(!is_key || error.class() == Class::NotHere, "{error:?}");
    }
}

async fn detects_unchanged_files(backend: &dyn Backend) {
    let target = target("dir/whole.bin", "whole");
    let first = get(backend, &target, Expected::default(), None)
        .await
        .unwrap();
    let again = get(backend, &target, Expected::default(), None)
        .await
        .unwrap();
    assert!(first.validators.etag.is_some());
    assert_eq!(first.validators, again.validators);
    let conditional = |validators| GetRequest {
        target: &target,
        expected: Expected::default(),
        ranges: Ranges::All,
        validators: Some(validators),
        if_range: None,
    };
    let response = backend.get(conditional(&first.validators)).await.unwrap();
    assert!(matches!(response, GetResponse::NotModified), "{response:?}");
    let other = Validators {
        etag: Some("\"another\"".to_owned()),
        last_modified: None,
    };
    let response = backend.get(conditional(&other)).await.unwrap();
    assert!(matches!(response, GetResponse::Body { .. }), "{response:?}");
}

/// A large body arrives in pieces, and is not received faster than it is read.
async fn streams_large_files(backend: &dyn Backend, files: &Files, server: Option<&Server>) {
    let target = target("large", "large");
    let known = expected(&files.large);
    if let Some(server) = server {
        server.clear_requests();
    }
    let mut got = get(backend, &target, known, None).await.unwrap();
    let mut length = got.body.next().await.unwrap().unwrap().len();
    if let Some(server) = server {
        // While this body is not read, a second one of the same size is. A client without
        // backpressure would receive most of the first in that time.
        let second = get(backend, &target, known, None).await.unwrap();
        assert_eq!(read(second.body).await.len(), LARGE);
        let sent: u64 = server.requests().iter().map(|r| r.bytes_sent).sum();
        assert!(
            sent < LARGE as u64 * 3 / 2,
            "{sent} bytes sent for a reader that has taken {length} and one that has taken all"
        );
    }
    while let Some(piece) = got.body.next().await {
        let piece = piece.unwrap();
        assert!(piece.len() <= 1 << 20, "a piece of {} bytes", piece.len());
        length += piece.len();
    }
    assert_eq!(length, LARGE);
}

async fn ends_the_request_with_its_body(backend: &dyn Backend, files: &Files, server: &Server) {
    let target = target("large", "large");
    server.clear_requests();
    let mut got = get(backend, &target, expected(&files.large), None)
        .await
        .unwrap();
    got.body.next().await.unwrap().unwrap();
    drop(got.body);
    let given_up = |log: &[taipan_mock_servers::RequestLog]| {
        log.iter()
            .any(|r| r.bytes_sent > 0 && r.finished.is_some() && !r.complete)
    };
    tokio::time::timeout(Duration::from_secs(10), server.wait_until(given_up))
        .await
        .expect("the request outlives its body");
}

async fn contract(backend: &dyn Backend, files: &Files, server: Option<&Server>) {
    sends_whole_files(backend, files).await;
    sends_ranges(backend, files).await;
    refuses_ranges_beyond_the_end(backend, files).await;
    reports_missing_files(backend).await;
    detects_unchanged_files(backend).await;
    streams_large_files(backend, files, server).await;
    if let Some(server) = server {
        ends_the_request_with_its_body(backend, files, server).await;
    }
}

fn web(server: &HttpServer) -> HttpBackend {
    HttpBackend::new(client(), server.url().parse().unwrap())
}

#[tokio::test]
async fn http() {
    let files = Files::new();
    let builder = HttpServer::builder(files.site("")).prefix("some where/below");
    let server = builder.start().await.unwrap();
    contract(&web(&server), &files, Some(&server)).await;
}

#[tokio::test]
async fn http_with_a_password() {
    let files = Files::new();
    let builder = HttpServer::builder(files.site("")).basic_auth("me", "s3cret");
    let server = builder.start().await.unwrap();
    let mut url: Url = server.url().parse().unwrap();
    url.set_username("me").unwrap();
    url.set_password(Some("s3cret")).unwrap();
    contract(&HttpBackend::new(client(), url), &files, Some(&server)).await;
    let whole = target("dir/whole.bin", "whole");
    let error = get(&web(&server), &whole, Expected::default(), None)
        .await
        .err()
        .unwrap();
    assert_eq!(error.class(), Class::Denied);
}

/// The suite over TLS, with each version of HTTP that the servers offer.
struct Encrypted {
    files: Files,
    tls: Tls,
    clients: [(Version, HttpClient); 2],
    _dir: tempfile::TempDir,
}

impl Encrypted {
    fn new() -> Self {
        let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
        let options = trusting(dir.path(), &ca);
        let old = HttpOptions {
            http1_only: true,
            ..options.clone()
        };
        Self {
            files: Files::new(),
            tls: Tls::new(&ca.server()),
            clients: [(Version::HTTP_2, options), (Version::HTTP_11, old)]
                .map(|(version, options)| (version, HttpClient::new(&options).unwrap())),
            _dir: dir,
        }
    }

    async fn contract(&self, server: &Server, backend: impl Fn(HttpClient) -> Box<dyn Backend>) {
        assert!(server.url().starts_with("https://"));
        for (version, client) in &self.clients {
            server.clear_requests();
            contract(&*backend(client.clone()), &self.files, Some(server)).await;
            let log = server.requests();
            assert!(!log.is_empty());
            for request in log {
                assert_eq!(request.version, *version, "{}", request.path);
            }
        }
    }
}

#[tokio::test]
async fn http_over_tls() {
    let world = Encrypted::new();
    let builder = HttpServer::builder(world.files.site("")).tls(world.tls.clone());
    let server = builder.start().await.unwrap();
    let url: Url = server.url().parse().unwrap();
    let backend = |client| Box::new(HttpBackend::new(client, url.clone())) as Box<dyn Backend>;
    world.contract(&server, backend).await;
}

#[tokio::test]
async fn s3_over_tls() {
    let world = Encrypted::new();
    let builder = S3Server::builder()
        .bucket("bucket", world.files.site(""))
        .keys(S3Keys::new("ACCESS", "very secret"))
        .tls(world.tls.clone());
    let server = builder.start().await.unwrap();
    let backend = |client| {
        let keys = signed(&server).with_keys("ACCESS", "very secret", None);
        Box::new(keys.with_client(&client)) as Box<dyn Backend>
    };
    world.contract(&server, backend).await;
}

#[tokio::test]
async fn oci_over_tls() {
    let world = Encrypted::new();
    let auth = OciAuth::Bearer(BearerAuth::new());
    let builder = OciServer::builder().auth(auth).tls(world.tls.clone());
    let server = builder.start().await.unwrap();
    world.files.registry(&server);
    let location = taipan_mirrors::OciLocation {
        plain_http: false,
        ..oci(&server)
    };
    let backend = |client| Box::new(OciBackend::new(location.clone(), client)) as Box<dyn Backend>;
    world.contract(&server, backend).await;
}

#[tokio::test]
async fn files_on_this_machine() {
    let files = Files::new();
    let dir = tempfile::tempdir().unwrap();
    files.write(dir.path());
    let backend = FileBackend::new(dir.path());
    contract(&backend, &files, None).await;
    // A directory, a path below a file, and a name that is too long.
    for path in ["dir", "empty/below", &"x".repeat(300)] {
        let error = get(&backend, &Target::path(path), Expected::default(), None).await;
        assert_eq!(error.err().unwrap().class(), Class::NotHere, "{path}");
    }
}

#[tokio::test]
async fn s3_without_keys() {
    let files = Files::new();
    let builder = S3Server::builder().bucket("bucket", files.site("pre/fix/"));
    let server = builder.start().await.unwrap();
    let backend = S3Backend::new(s3(&server.endpoint(), "bucket", "pre/fix"), CONNECT);
    contract(&backend, &files, Some(&server)).await;
}

async fn s3_with(keys: S3Keys, files: &Files) -> S3Server {
    let builder = S3Server::builder()
        .bucket("bucket", files.site(""))
        .keys(keys);
    builder.start().await.unwrap()
}

fn signed(server: &S3Server) -> S3Backend {
    let mut location = s3(&server.endpoint(), "bucket", "");
    location.anonymous = false;
    S3Backend::new(location, CONNECT)
}

#[tokio::test]
async fn s3_with_keys() {
    let files = Files::new();
    let keys = S3Keys::new("ACCESS", "very secret").with_session_token("session");
    let server = s3_with(keys, &files).await;
    let token = || Some("session".to_owned());
    let backend = signed(&server).with_keys("ACCESS", "very secret", token());
    contract(&backend, &files, Some(&server)).await;
    assert!(!format!("{backend:?}").contains("very secret"));
    let whole = target("dir/whole.bin", "whole");
    for wrong in [
        signed(&server).with_keys("ACCESS", "not so secret", token()),
        signed(&server).with_keys("ANOTHER", "very secret", token()),
        signed(&server).with_keys("ACCESS", "very secret", None),
    ] {
        let error = get(&wrong, &whole, Expected::default(), None)
            .await
            .err()
            .unwrap();
        assert_eq!(error.class(), Class::Denied, "{error:?}");
    }
}

#[tokio::test]
async fn requests_follow_the_region_of_a_bucket() {
    let files = Files::new();
    let server = S3Server::builder()
        .bucket("bucket", files.site(""))
        .keys(S3Keys::new("ACCESS", "very secret"))
        .region("eu-central-1");
    let server = server.start().await.unwrap();
    let backend = signed(&server).with_keys("ACCESS", "very secret", None);
    contract(&backend, &files, None).await;
    // The region is kept: later requests are signed for it at once.
    server.clear_requests();
    let whole = target("dir/whole.bin", "whole");
    get(&backend, &whole, Expected::default(), None)
        .await
        .unwrap();
    assert_eq!(server.requests().len(), 1);
    // An invalid region does not become part of a host name.
    let server = S3Server::builder()
        .bucket("bucket", files.site(""))
        .keys(S3Keys::new("ACCESS", "very secret"))
        .region("evil.example/");
    let server = server.start().await.unwrap();
    let backend = signed(&server).with_keys("ACCESS", "very secret", None);
    get(&backend, &whole, Expected::default(), None)
        .await
        .err()
        .unwrap();
    assert_eq!(server.requests().len(), 1);
}

async fn registry(auth: OciAuth, files: &Files) -> OciServer {
    let server = OciServer::builder().auth(auth).start().await.unwrap();
    files.registry(&server);
    server
}

fn reader(server: &OciServer) -> OciBackend {
    OciBackend::new(oci(server), client())
}

#[tokio::test]
async fn oci_without_authentication() {
    let files = Files::new();
    let server = registry(OciAuth::None, &files).await;
    contract(&reader(&server), &files, Some(&server)).await;
}

#[tokio::test]
async fn oci_with_anonymous_tokens() {
    let files = Files::new();
    let server = registry(OciAuth::Bearer(BearerAuth::new()), &files).await;
    contract(&reader(&server), &files, Some(&server)).await;
}

#[tokio::test]
async fn oci_whose_token_endpoint_denies_missing_repositories() {
    let files = Files::new();
    let auth = BearerAuth::new().forbidding_unknown_repositories();
    let server = registry(OciAuth::Bearer(auth), &files).await;
    contract(&reader(&server), &files, Some(&server)).await;
}

#[tokio::test]
async fn oci_tokens_cost_one_request_per_repository() {
    let server = registry(OciAuth::Bearer(BearerAuth::new()), &Files::new()).await;
    let names: Vec<String> = (0..20).map(|n| format!("pkg{n}")).collect();
    for name in &names {
        publish(&server, name, &content(100));
    }
    server.clear_requests();
    let backend = reader(&server);
    let (known, count) = (expected(&content(100)), names.len());
    let read_all = || {
        futures_util::future::join_all(names.iter().map(async |name| {
            // Two concurrent requests share one token.
            let target = target("x", name);
            let get = || get(&backend, &target, known, None);
            let (one, two) = tokio::join!(get(), get());
            assert!(read(one.unwrap().body).await == read(two.unwrap().body).await);
        }))
    };
    read_all().await;
    let requested = |path: &str| server.requests().iter().filter(|r| r.path == path).count();
    assert_eq!((requested("/v2/"), requested("/token")), (1, count));
    read_all().await;
    assert_eq!(server.requests().len(), 1 + count + 4 * count);
}

#[tokio::test]
async fn oci_tokens_are_renewed_before_they_expire() {
    let files = Files::new();
    let auth = BearerAuth::new().with_lifetime(Duration::ZERO);
    let server = registry(OciAuth::Bearer(auth), &files).await;
    let whole = target("dir/whole.bin", "whole");
    // If every token is refused, a second one is requested and no more.
    let error = get(&reader(&server), &whole, expected(&files.whole), None).await;
    assert_eq!(error.err().unwrap().class(), Class::Denied);
    let tokens = server
        .requests()
        .iter()
        .filter(|r| r.path == "/token")
        .count();
    assert_eq!(tokens, 2);
}

#[tokio::test]
async fn oci_without_required_credentials_is_denied() {
    let files = Files::new();
    for auth in [
        OciAuth::Bearer(BearerAuth::new().without_anonymous_pull()),
        OciAuth::Basic {
            user: "me".into(),
            password: "x".into(),
        },
    ] {
        let server = registry(auth, &files).await;
        let whole = target("dir/whole.bin", "whole");
        for known in [Expected::default(), expected(&files.whole)] {
            let response = get(&reader(&server), &whole, known, None).await;
            let error = response.err().unwrap();
            assert_eq!(error.class(), Class::Denied, "{error:?}");
        }
    }
}

#[tokio::test]
async fn oci_sends_only_the_requested_blob() {
    let files = Files::new();
    let server = registry(OciAuth::None, &files).await;
    let whole = target("dir/whole.bin", "whole");
    let error = get(&reader(&server), &whole, expected(b"another version"), None).await;
    assert_eq!(error.err().unwrap().class(), Class::NotHere);
    let fetched =
        |r: &taipan_mock_servers::RequestLog| r.path.contains("/blobs/") && r.bytes_sent > 200;
    assert!(!server.requests().iter().any(fetched));
    // A layer of another type is not the file. A target without a repository is not found.
    let other = Target::path("x").with_oci(OciTarget {
        media_type: format!("{LAYER}.other"),
        ..whole.oci.clone().unwrap()
    });
    for target in [other, Target::path("dir/whole.bin")] {
        let error = get(&reader(&server), &target, Expected::default(), None).await;
        assert_eq!(error.err().unwrap().class(), Class::NotHere);
    }
}

#[tokio::test]
async fn child_reads_a_bucket() {
    let Some(endpoint) = child_url() else { return };
    let mut location = s3(&endpoint, "bucket", "");
    location.anonymous = false;
    location.region = None;
    let backend = S3Backend::new(location, CONNECT);
    let files = Files::new();
    sends_whole_files(&backend, &files).await;
}

#[tokio::test]
async fn child_reads_a_bucket_anonymously() {
    let Some(endpoint) = child_url() else { return };
    let mut location = s3(&endpoint, "bucket", "");
    location.region = None;
    let files = Files::new();
    sends_whole_files(&S3Backend::new(location, CONNECT), &files).await;
}

#[tokio::test]
async fn child_reads_a_registry() {
    let Some(host) = child_url() else { return };
    let location = taipan_mirrors::OciLocation {
        registry: host,
        namespace: common::NAMESPACE.to_owned(),
        plain_http: true,
    };
    let backend = OciBackend::new(location, client());
    contract(&backend, &Files::new(), None).await;
}

#[tokio::test]
async fn s3_keys_come_from_the_environment_or_a_profile() {
    let files = Files::new();
    let server = s3_with(S3Keys::new("ACCESS", "very secret"), &files).await;
    let endpoint = server.endpoint();
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("none");
    let profile = dir.path().join("credentials");
    let text = "[work]\naws_access_key_id = ACCESS\naws_secret_access_key = very secret\n";
    std::fs::write(&profile, text).unwrap();
    let common = [
        ("TAIPAN_CONTRACT_URL", endpoint.as_str()),
        ("AWS_CONFIG_FILE", nowhere.to_str().unwrap()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let keys = [
        ("AWS_ACCESS_KEY_ID", "ACCESS"),
        ("AWS_SECRET_ACCESS_KEY", "very secret"),
        ("AWS_SHARED_CREDENTIALS_FILE", nowhere.to_str().unwrap()),
    ];
    in_child("child_reads_a_bucket", &[&common[..], &keys].concat()).await;
    let keys = [
        ("AWS_PROFILE", "work"),
        ("AWS_SHARED_CREDENTIALS_FILE", profile.to_str().unwrap()),
    ];
    in_child("child_reads_a_bucket", &[&common[..], &keys].concat()).await;
}

#[tokio::test]
async fn an_anonymous_bucket_sends_no_request_to_the_instance_metadata() {
    let files = Files::new();
    let builder = S3Server::builder().bucket("bucket", files.site(""));
    let server = builder.start().await.unwrap();
    let instance = HttpServer::start(Site::new()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("none");
    let nowhere = nowhere.to_str().unwrap();
    let environment = [
        ("TAIPAN_CONTRACT_URL", server.endpoint()),
        ("AWS_CONFIG_FILE", nowhere.to_owned()),
        ("AWS_SHARED_CREDENTIALS_FILE", nowhere.to_owned()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance.url()),
    ];
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    in_child("child_reads_a_bucket_anonymously", &environment).await;
    let requested: Vec<String> = instance.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(requested, [""; 0]);
}

#[tokio::test]
async fn oci_credentials_come_from_the_docker_configuration() {
    let files = Arc::new(Files::new());
    let (user, password) = ("me", "s3cret");
    for auth in [
        OciAuth::Basic {
            user: user.into(),
            password: password.into(),
        },
        OciAuth::Bearer(
            BearerAuth::new()
                .without_anonymous_pull()
                .with_credentials(user, password),
        ),
    ] {
        let server = registry(auth, &files).await;
        let dir = tempfile::tempdir().unwrap();
        // `me:s3cret` in Base64.
        let config = format!(
            r#"{{"auths":{{"{}":{{"auth":"bWU6czNjcmV0"}}}}}}"#,
            server.host()
        );
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let environment = [
            ("TAIPAN_CONTRACT_URL", server.host()),
            ("DOCKER_CONFIG", dir.path().to_str().unwrap().to_owned()),
        ];
        let environment = environment
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        in_child("child_reads_a_registry", &environment).await;
    }
}
