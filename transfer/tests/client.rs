//! The HTTP client: certificates, proxies, credentials and redirects.

mod common;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use common::{
    child_url, content, expected, file, http, in_child, in_order, oci, publish, s3, short_timeouts,
    target, trusting,
};
use futures_util::TryStreamExt as _;
use taipan_mirrors::{Class, OciLocation};
use taipan_mock_servers::{
    Behaviour, Fault, HttpServer, Identity, Matcher, OciServer, RequestLog, Rule, S3Server, Site,
    TestCa, Tls,
};
use taipan_transfer::{
    Backend, BackendError, ClientCertificate, Credentials, Engine, EngineOptions, Expected,
    GetRequest, GetResponse, HttpBackend, HttpClient, HttpClientError, HttpOptions, Job,
    MemorySink, MirrorSet, Netrc, OciBackend, ProxyChoice, Ranges, S3Backend, Silent, Target,
};
use url::Url;

/// Part of every secret of these tests, and of no other text.
const SECRET: &str = "hunter2";

fn direct() -> HttpOptions {
    HttpOptions {
        proxy: ProxyChoice::Direct,
        ..HttpOptions::default()
    }
}

fn with(credentials: Credentials) -> HttpOptions {
    HttpOptions {
        credentials,
        ..direct()
    }
}

fn netrc(text: &str) -> Credentials {
    Credentials::new().with_netrc(Netrc::parse(text).unwrap())
}

async fn read(backend: &dyn Backend, target: &Target) -> Result<Vec<u8>, BackendError> {
    let request = GetRequest {
        target,
        expected: Expected::default(),
        ranges: Ranges::All,
        validators: None,
        if_range: None,
    };
    match backend.get(request).await? {
        GetResponse::Body { body, .. } => {
            let pieces: Vec<Bytes> = body.try_collect().await?;
            Ok(pieces.concat())
        }
        other => panic!("not the file: {other:?}"),
    }
}

/// Fetches `file` below a URL.
async fn get(options: &HttpOptions, root: &str) -> Result<Vec<u8>, BackendError> {
    let client = HttpClient::new(options).unwrap();
    let backend = HttpBackend::new(client, root.parse().unwrap());
    let result = read(&backend, &Target::path("file")).await;
    let mut shown = format!("{options:?} {backend:?}");
    if let Err(error) = &result {
        shown = format!("{shown} {error} {error:?}");
    }
    // In a URL a secret is escaped, and in a header it is encoded.
    for secret in [SECRET, "aHVudGVyM", "h1bnRlcj", "odW50ZXIy"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    result
}

fn site() -> Site {
    let site = Site::new();
    site.insert("file", content(1_000));
    site
}

async fn plain() -> HttpServer {
    HttpServer::start(site()).await.unwrap()
}

async fn guarded(user: &str, password: &str) -> HttpServer {
    let builder = HttpServer::builder(site()).basic_auth(user, password);
    builder.start().await.unwrap()
}

async fn encrypted(tls: Tls) -> HttpServer {
    HttpServer::builder(site()).tls(tls).start().await.unwrap()
}

fn only_request(server: &HttpServer) -> RequestLog {
    let mut log = server.requests();
    assert_eq!(log.len(), 1, "{log:?}");
    log.pop().unwrap()
}

/// The URL of a server with the name `localhost`, which is another host than its address.
fn by_name(server: &HttpServer) -> String {
    server.url().replace("127.0.0.1", "localhost")
}

fn redirecting(server: &HttpServer, to: impl Into<String>) {
    let fault = Fault::Redirect { to: to.into() };
    server.set_behaviour(Behaviour::new().with_rule(Rule::always(Matcher::Any, fault)));
}

#[tokio::test]
async fn only_the_right_certificate_of_a_trusted_authority_is_accepted() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let options = trusting(dir.path(), &ca);
    let server = encrypted(Tls::new(&ca.server())).await;
    assert_eq!(get(&options, &server.url()).await.unwrap(), content(1_000));
    // Without the option only the roots of the system are trusted.
    let error = get(&direct(), &server.url()).await.unwrap_err();
    assert!(
        matches!(error, BackendError::Certificate { .. }),
        "{error:?}"
    );
    for bad in [
        Identity::self_signed(),
        ca.server_for(&["elsewhere.example"]),
        ca.expired(),
        TestCa::new().server(),
    ] {
        server.set_tls(Tls::new(&bad));
        let error = get(&options, &server.url()).await.unwrap_err();
        assert!(
            matches!(error, BackendError::Certificate { .. }),
            "{error:?}"
        );
        assert_eq!(error.class(), Class::Unwell);
    }
    assert_eq!(server.requests().len(), 1);
    // The last one is of an unknown authority.
    let insecure = HttpOptions {
        insecure: true,
        ..direct()
    };
    let body = get(&insecure, &server.url()).await.unwrap();
    assert_eq!(body, content(1_000));
}

fn with_identity(dir: &Path, identity: &Identity, one_file: bool) -> ClientCertificate {
    let (certificate, key) = (identity.certificate_pem(), identity.key_pem());
    if one_file {
        let both = file(dir, "both.pem", &[key, certificate].concat());
        return ClientCertificate {
            certificate: both.clone(),
            key: both,
        };
    }
    ClientCertificate {
        certificate: file(dir, "cert.pem", certificate),
        key: file(dir, "key.pem", key),
    }
}

#[tokio::test]
async fn a_server_that_requests_a_certificate_receives_it() {
    let (ca, clients, dir) = (TestCa::new(), TestCa::new(), tempfile::tempdir().unwrap());
    let tls = Tls::with_client_certificates(&ca.server(), &clients);
    let server = encrypted(tls).await;
    let mut options = trusting(dir.path(), &ca);
    get(&options, &server.url()).await.unwrap_err();
    for http1_only in [false, true] {
        options.http1_only = http1_only;
        options.identity = Some(with_identity(dir.path(), &clients.client("me"), http1_only));
        assert_eq!(get(&options, &server.url()).await.unwrap(), content(1_000));
    }
    let stranger = TestCa::new().client("stranger");
    options.identity = Some(with_identity(dir.path(), &stranger, true));
    get(&options, &server.url()).await.unwrap_err();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn buckets_and_registries_receive_the_certificate() {
    let (ca, clients, dir) = (TestCa::new(), TestCa::new(), tempfile::tempdir().unwrap());
    let tls = Tls::with_client_certificates(&ca.server(), &clients);
    let bucket = S3Server::builder()
        .bucket("bucket", site())
        .tls(tls.clone());
    let bucket = bucket.start().await.unwrap();
    let registry = OciServer::builder().tls(tls).start().await.unwrap();
    publish(&registry, "name", &content(1_000));
    let anonymous = trusting(dir.path(), &ca);
    let me = HttpOptions {
        identity: Some(with_identity(dir.path(), &clients.client("me"), true)),
        ..anonymous.clone()
    };
    for (options, known) in [(anonymous, false), (me, true)] {
        let client = HttpClient::new(&options).unwrap();
        let location = s3(&bucket.endpoint(), "bucket", "");
        let bucket = S3Backend::new(location, options.connect_timeout).with_client(&client);
        let location = OciLocation {
            plain_http: false,
            ..oci(&registry)
        };
        let registry = OciBackend::new(location, client);
        for backend in [&bucket as &dyn Backend, &registry] {
            let got = read(backend, &target("file", "name")).await;
            assert_eq!(got.is_ok(), known, "{backend:?}: {got:?}");
        }
    }
}

#[tokio::test]
async fn a_bucket_is_reached_through_the_proxy() {
    let bucket = S3Server::builder().bucket("bucket", site());
    let bucket = bucket.start().await.unwrap();
    let options = HttpOptions {
        proxy: ProxyChoice::Url(bucket.endpoint().parse().unwrap()),
        ..HttpOptions::default()
    };
    let client = HttpClient::new(&options).unwrap();
    let location = s3("http://store.invalid", "bucket", "");
    let backend = S3Backend::new(location, options.connect_timeout).with_client(&client);
    let got = read(&backend, &Target::path("file")).await.unwrap();
    assert_eq!(got, content(1_000));
    let host = bucket.requests()[0].header("host").map(str::to_owned);
    assert_eq!(host.as_deref(), Some("store.invalid"));
}

#[tokio::test]
async fn child_trusts_the_roots_of_the_environment() {
    let Some(url) = child_url() else { return };
    assert_eq!(get(&direct(), &url).await.unwrap(), content(1_000));
}

#[tokio::test]
async fn the_environment_names_the_roots_of_the_system() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let server = encrypted(Tls::new(&ca.server())).await;
    let roots = file(dir.path(), "roots.pem", ca.pem());
    let environment = [
        ("TAIPAN_CONTRACT_URL", server.url()),
        ("SSL_CERT_FILE", roots.to_str().unwrap().to_owned()),
    ];
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    in_child("child_trusts_the_roots_of_the_environment", &environment).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_over_http_1_and_2() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let bytes = content(500_000);
    let known = Site::new();
    known.insert("file", bytes.clone());
    let builder = HttpServer::builder(known).tls(Tls::new(&ca.server()));
    let server = builder.start().await.unwrap();
    for http1_only in [false, true] {
        let options = HttpOptions {
            http1_only,
            ..trusting(dir.path(), &ca)
        };
        let client = HttpClient::new(&options).unwrap();
        for fault in [
            Fault::Truncate { after: 200_000 },
            Fault::Reset {
                after: Some(200_000),
            },
            Fault::Reset { after: None },
            Fault::Stall { after: 200_000 },
            Fault::WrongLength { delta: -1_000 },
        ] {
            let rule = Rule::once(Matcher::Any, fault.clone());
            server.set_behaviour(Behaviour::new().with_rule(rule));
            let backend = HttpBackend::new(client.clone(), server.url().parse().unwrap());
            let mirrors = in_order([http(&server.url())]);
            let set = MirrorSet::with_backends(mirrors, vec![Arc::new(backend)], short_timeouts());
            let job = Job::content("file", Target::path("file"), expected(&bytes));
            let engine = Engine::new(EngineOptions::default(), Arc::new(Silent));
            let mut sink = MemorySink::new(1 << 20);
            let fetched = engine.fetch(&set, &job, &mut sink).await;
            // A wrong length in the header is not a transient failure.
            if matches!(fault, Fault::WrongLength { .. }) {
                assert!(fetched.unwrap_err().is_corrupt());
                continue;
            }
            let fetched = fetched.unwrap();
            // A request on a connection that was kept is sent once more, and has not failed.
            let failures = usize::from(!matches!(fault, Fault::Reset { after: None }));
            assert_eq!(fetched.attempts.len(), failures, "{fault:?}");
            assert!(sink.into_bytes() == bytes, "{fault:?}");
        }
    }
}

#[test]
fn errors_name_the_files_that_cannot_be_used() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let dir = dir.path();
    let garbage = "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n";
    for (name, text) in [("empty.pem", ""), ("garbage.pem", garbage)] {
        let path = file(dir, name, text);
        let options = HttpOptions {
            roots: vec![path.clone()],
            ..direct()
        };
        let error = HttpClient::new(&options).unwrap_err();
        assert!(
            matches!(&error, HttpClientError::Root { path: p, .. } if *p == path),
            "{error:?}"
        );
    }
    let missing = HttpOptions {
        roots: vec![dir.join("missing.pem")],
        ..direct()
    };
    let error = HttpClient::new(&missing).unwrap_err();
    assert!(matches!(error, HttpClientError::Read { .. }), "{error:?}");
    let one = with_identity(dir, &ca.client("one"), false);
    let no_key = HttpOptions {
        identity: Some(ClientCertificate {
            key: one.certificate.clone(),
            ..one
        }),
        ..direct()
    };
    let error = HttpClient::new(&no_key).unwrap_err();
    assert!(
        matches!(error, HttpClientError::Identity { .. }),
        "{error:?}"
    );
    let socks = format!("socks5://me:{SECRET}@127.0.0.1:1");
    let options = HttpOptions {
        proxy: ProxyChoice::Url(socks.parse().unwrap()),
        ..direct()
    };
    let error = HttpClient::new(&options).unwrap_err();
    assert!(matches!(error, HttpClientError::Proxy { .. }), "{error:?}");
    let shown = format!("{error} {error:?} {options:?}");
    assert!(!shown.contains(SECRET), "{shown}");
}

/// A host that does not exist. Its label is longer than allowed (RFC 1035 §2.3.4), so that no query
/// leaves this machine.
fn unknown_host() -> String {
    format!("{}.invalid", "x".repeat(64))
}

#[tokio::test]
async fn an_unknown_host_is_a_connection_error() {
    let url = format!("http://{}/", unknown_host());
    let error = get(&direct(), &url).await.unwrap_err();
    assert!(matches!(error, BackendError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn credentials_come_from_the_url_the_options_or_the_netrc_file() {
    let server = guarded("me", SECRET).await;
    let url: Url = server.url().parse().unwrap();
    let host = format!("127.0.0.1:{}", url.port().unwrap());
    let mut known = url.clone();
    known.set_username("me").unwrap();
    // The password of a user comes from the netrc file, which has several logins for the host.
    let named = known.to_string();
    known.set_password(Some(SECRET)).unwrap();
    let two = format!(
        "machine 127.0.0.1 login other password x\nmachine 127.0.0.1 login me password {SECRET}"
    );
    let basic = Credentials::new().with_basic(&host, "me", SECRET).unwrap();
    let shadowed = basic.clone().with_netrc(Netrc::parse(&two).unwrap());
    for (options, url) in [
        (direct(), known.as_str()),
        (with(netrc("default login x password y")), known.as_str()),
        (with(basic), url.as_str()),
        (with(shadowed), url.as_str()),
        (with(netrc(&two)), named.as_str()),
        (
            with(netrc(&format!("default login me password {SECRET}"))),
            url.as_str(),
        ),
    ] {
        get(&options, url).await.unwrap();
    }
    for options in [direct(), with(netrc(&two))] {
        let error = get(&options, url.as_str()).await.unwrap_err();
        assert_eq!(error.class(), Class::Denied);
    }
    let tokens = plain().await;
    let all = Credentials::new().with_bearer("127.0.0.1", SECRET).unwrap();
    get(&with(all), &tokens.url()).await.unwrap();
    assert_eq!(
        only_request(&tokens).authorization.as_deref(),
        Some("Bearer")
    );
}

#[tokio::test]
async fn no_credentials_follow_a_redirect_to_another_host() {
    let (first, second) = (plain().await, plain().await);
    // Another port counts as another host, and so does another name.
    redirecting(&first, second.url());
    let mut known: Url = first.url().parse().unwrap();
    known.set_username("me").unwrap();
    known.set_password(Some(SECRET)).unwrap();
    let host = first.address().to_string();
    let bearer = Credentials::new().with_bearer(&host, SECRET).unwrap();
    let default = netrc(&format!("default login me password {SECRET}"));
    for (options, url) in [
        (direct(), known.as_str()),
        (with(bearer), &first.url()),
        (with(default), &first.url()),
    ] {
        first.clear_requests();
        second.clear_requests();
        assert_eq!(get(&options, url).await.unwrap(), content(1_000));
        assert!(only_request(&first).authorization.is_some());
        let request = only_request(&second);
        assert_eq!(request.authorization, None);
        assert!(!format!("{:?}", request.headers).contains(SECRET));
    }
}

#[tokio::test]
async fn the_new_host_of_a_redirect_receives_its_own_credentials() {
    let (first, second) = (guarded("a", "1").await, guarded("b", SECRET).await);
    let logins = format!(
        "machine 127.0.0.1 login a password 1\nmachine localhost login b password {SECRET}"
    );
    redirecting(&first, by_name(&second));
    let got = get(&with(netrc(&logins)), &first.url()).await.unwrap();
    assert_eq!(got, content(1_000));
    assert_eq!(
        only_request(&second).authorization.as_deref(),
        Some("Basic")
    );
}

#[tokio::test]
async fn a_redirect_within_a_host_keeps_the_credentials() {
    let server = guarded("me", SECRET).await;
    let rule = Rule::once(
        Matcher::suffix("old/file"),
        Fault::Redirect {
            to: "/file".to_owned(),
        },
    );
    server.set_behaviour(Behaviour::new().with_rule(rule));
    let options = with(netrc(&format!("default login me password {SECRET}")));
    let url = format!("{}old/", server.url());
    assert_eq!(get(&options, &url).await.unwrap(), content(1_000));
    let paths: Vec<String> = server.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/old/file", "/file"]);
}

#[tokio::test]
async fn a_redirect_from_https_to_http_drops_the_credentials() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let first = encrypted(Tls::new(&ca.server())).await;
    let second = plain().await;
    redirecting(&first, by_name(&second));
    let options = HttpOptions {
        credentials: netrc(&format!(
            "machine localhost login b password {SECRET}\nmachine 127.0.0.1 login b password b"
        )),
        ..trusting(dir.path(), &ca)
    };
    get(&options, &first.url()).await.unwrap();
    assert!(only_request(&first).authorization.is_some());
    assert_eq!(only_request(&second).authorization, None);
    // A direct request to the same host has the credentials.
    second.clear_requests();
    get(&options, &by_name(&second)).await.unwrap();
    assert!(only_request(&second).authorization.is_some());
}

#[tokio::test]
async fn invalid_redirects_are_errors() {
    let server = plain().await;
    redirecting(&server, server.url());
    let error = get(&direct(), &server.url()).await.unwrap_err();
    assert!(matches!(error, BackendError::Redirect { .. }), "{error:?}");
    assert!(!error.is_transient());
    assert_eq!(server.requests().len(), 9);
    for to in [
        "ftp://127.0.0.1/file",
        "file:///etc/passwd",
        "http://[",
        "data:,x",
    ] {
        redirecting(&server, to);
        let error = get(&direct(), &server.url()).await.unwrap_err();
        assert!(matches!(error, BackendError::Redirect { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_proxy_receives_only_its_own_credentials() {
    let (proxy, direct_server) = (plain().await, plain().await);
    let mut url: Url = proxy.url().parse().unwrap();
    url.set_username("me").unwrap();
    url.set_password(Some(SECRET)).unwrap();
    let options = HttpOptions {
        proxy: ProxyChoice::Url(url),
        no_proxy: vec!["127.0.0.1".to_owned(), ".direct.example".to_owned()],
        ..HttpOptions::default()
    };
    let got = get(&options, "http://mirror.invalid/").await.unwrap();
    assert_eq!(got, content(1_000));
    let request = only_request(&proxy);
    assert_eq!(request.header("host"), Some("mirror.invalid"));
    assert!(request.header("proxy-authorization").is_some());
    assert_eq!(request.authorization, None);
    get(&options, &direct_server.url()).await.unwrap();
    assert!(
        only_request(&direct_server)
            .header("proxy-authorization")
            .is_none()
    );
    assert_eq!(proxy.requests().len(), 1);
}

#[tokio::test]
async fn child_goes_through_the_proxy_of_the_environment() {
    let Some(address) = child_url() else { return };
    let mut options = HttpOptions::default();
    for no_proxy in [vec![], vec![unknown_host()]] {
        options.no_proxy = no_proxy;
        let got = get(&options, "http://mirror.invalid/").await.unwrap();
        assert_eq!(got, content(1_000));
        // `NO_PROXY` and the option are both respected.
        assert_eq!(get(&options, &address).await.unwrap(), content(1_000));
    }
    for options in [options, direct()] {
        let error = get(&options, &format!("http://{}/", unknown_host())).await;
        assert!(matches!(error, Err(BackendError::Connect { .. })));
    }
}

#[tokio::test]
async fn the_proxy_of_the_environment_is_used_unless_the_options_disable_it() {
    let (proxy, server) = (plain().await, plain().await);
    for (name, value) in [
        ("HTTP_PROXY", proxy.url()),
        ("http_proxy", proxy.address().to_string()),
        ("all_proxy", proxy.url()),
    ] {
        proxy.clear_requests();
        server.clear_requests();
        let environment = [
            ("TAIPAN_CONTRACT_URL", server.url()),
            ("NO_PROXY", "127.0.0.1".to_owned()),
            (name, value),
        ];
        let environment = environment
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        in_child(
            "child_goes_through_the_proxy_of_the_environment",
            &environment,
        )
        .await;
        let hosts: Vec<_> = proxy
            .requests()
            .iter()
            .map(|r| r.header("host").map(str::to_owned))
            .collect();
        assert_eq!(hosts, vec![Some("mirror.invalid".to_owned()); 2], "{name}");
        assert_eq!(server.requests().len(), 2, "{name}");
    }
}

#[tokio::test]
async fn clones_share_connections() {
    let server = plain().await;
    let client = Arc::new(HttpClient::new(&direct()).unwrap());
    for _ in 0..3 {
        let backend = HttpBackend::new((*client).clone(), server.url().parse().unwrap());
        read(&backend, &Target::path("file")).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
}
