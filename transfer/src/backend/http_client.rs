//! The HTTP client that all backends share: its options, and its redirects.

use std::{
    collections::HashMap,
    env, fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{
    Certificate, Identity, Method, NoProxy, Proxy, Request, RequestBuilder, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName,
        HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LOCATION, PROXY_AUTHORIZATION,
        RANGE, TRANSFER_ENCODING,
    },
};
use taipan_mirrors::SafeUrl;
use url::{Origin, Url};

use super::certificate;
use crate::{BackendError, Credentials};

/// How many redirects of one request are followed.
const MAX_REDIRECTS: usize = 8;

/// The options of the HTTP client. Their `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// The `User-Agent`.
    pub user_agent: String,
    /// The timeout for a connection, TLS handshake included.
    pub connect_timeout: Duration,
    /// Whether HTTP/2 is disabled.
    pub http1_only: bool,
    /// PEM files with certificates of authorities that are trusted in addition to those of the
    /// system. (Those of the system come from `SSL_CERT_FILE` and `SSL_CERT_DIR` if these
    /// variables are set.)
    pub roots: Vec<PathBuf>,
    /// The client certificate, for servers that request one.
    pub identity: Option<ClientCertificate>,
    /// The proxy.
    pub proxy: ProxyChoice,
    /// Hosts that are reached without the proxy, in addition to those in the environment variable
    /// `NO_PROXY`: domains with their subdomains, addresses, networks, or `*`.
    pub no_proxy: Vec<String>,
    /// Credentials by host.
    pub credentials: Credentials,
    /// Headers of the requests to some servers.
    pub headers: Vec<ServerHeader>,
    /// Whether any certificate of a server is accepted.
    pub insecure: bool,
}

/// A header of the requests to one server. Its `Debug` shows no value.
#[derive(Debug, Clone)]
pub struct ServerHeader {
    origin: Origin,
    name: HeaderName,
    value: HeaderValue,
}

impl ServerHeader {
    /// A header, as `NAME: VALUE`, of requests to the server of `url`. `None` if it is not a header, or one that requests have
    /// of their own.
    pub fn parse(text: &str, url: &Url) -> Option<Self> {
        const OWN: [HeaderName; 9] = [
            RANGE,
            IF_RANGE,
            IF_NONE_MATCH,
            IF_MODIFIED_SINCE,
            ACCEPT_ENCODING,
            CONTENT_LENGTH,
            TRANSFER_ENCODING,
            CONNECTION,
            PROXY_AUTHORIZATION,
        ];
        let (name, value) = text.split_once(':')?;
        let name: HeaderName = name.trim().parse().ok()?;
        let mut value = HeaderValue::from_str(value.trim()).ok()?;
        value.set_sensitive(true);
        (!OWN.contains(&name)).then(|| Self {
            origin: url.origin(),
            name,
            value,
        })
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("taipan/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            http1_only: false,
            roots: Vec::new(),
            identity: None,
            proxy: ProxyChoice::Environment,
            no_proxy: Vec::new(),
            credentials: Credentials::default(),
            headers: Vec::new(),
            insecure: false,
        }
    }
}

/// A client certificate.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// A PEM file with the certificate and its intermediate certificates.
    pub certificate: PathBuf,
    /// A PEM file with the key, not encrypted. It may be the same file.
    pub key: PathBuf,
}

/// The choice of a proxy.
#[derive(Clone)]
pub enum ProxyChoice {
    /// The proxy of `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`, in upper or lower case.
    Environment,
    /// No proxy, even if the environment names one.
    Direct,
    /// This `http://` or `https://` proxy. Its credentials are the userinfo of the URL.
    Url(Url),
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::Direct => f.write_str("Direct"),
            Self::Url(url) => write!(f, "Url({})", SafeUrl::from(url.clone())),
        }
    }
}

/// Why the HTTP client cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpClientError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file contains no valid certificate.
    #[error("{} contains no valid PEM certificate", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// The cause; `None` if the file contains no certificate.
        source: Option<reqwest::Error>,
    },
    /// The client certificate or its key is invalid.
    #[error(
        "{} and {} are not a valid PEM certificate and key",
        certificate.display(), key.display()
    )]
    Identity {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The cause.
        source: reqwest::Error,
    },
    /// The URL of the proxy is invalid.
    #[error("invalid proxy {url}: use an http:// or https:// URL with a host")]
    Proxy {
        /// The URL, printable, or the variable that contains it.
        url: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: check that this machine has trusted certificates")]
    Build {
        /// The cause.
        source: reqwest::Error,
    },
}

/// The HTTP client. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    inner: reqwest::Client,
    /// `None` for a client of the caller.
    unpooled: Option<Arc<UnpooledClient>>,
    kept: Arc<KeptConnections>,
    credentials: Arc<Credentials>,
    headers: Arc<[ServerHeader]>,
}

/// A client with a new connection for each request. Built at its first use: it reads the trusted
/// certificates.
#[derive(Debug)]
struct UnpooledClient {
    options: HttpOptions,
    client: OnceLock<Option<reqwest::Client>>,
}

impl UnpooledClient {
    fn get(&self) -> Option<&reqwest::Client> {
        let build = || {
            let builder = builder(&self.options).ok()?;
            builder.pool_max_idle_per_host(0).build().ok()
        };
        self.client.get_or_init(build).as_ref()
    }
}

/// The servers to which a connection may have been kept.
#[derive(Debug, Default)]
struct KeptConnections(Mutex<HashMap<Origin, Instant>>);

impl KeptConnections {
    /// How long an idle connection is kept.
    const TIME: Duration = Duration::from_secs(30);
    /// The number of servers that are remembered.
    const MOST: usize = 1024;

    /// A server has sent a response.
    fn note(&self, origin: Origin) {
        let mut origins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if origins.len() >= Self::MOST && !origins.contains_key(&origin) {
            origins.retain(|_, last| last.elapsed() < Self::TIME);
            if origins.len() >= Self::MOST {
                return;
            }
        }
        origins.insert(origin, Instant::now());
    }

    fn has(&self, origin: &Origin) -> bool {
        let origins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = origins.get(origin);
        last.is_some_and(|last| last.elapsed() < Self::TIME)
    }
}

/// A client with options of the caller, without credentials by host.
impl From<reqwest::Client> for HttpClient {
    fn from(inner: reqwest::Client) -> Self {
        Self {
            inner,
            unpooled: None,
            kept: Arc::default(),
            credentials: Arc::default(),
            headers: Arc::default(),
        }
    }
}

/// Where the credentials of a request come from. Those of a redirected request always come from the
/// options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CredentialSource {
    /// Its URL or the options.
    Configured,
    /// The caller, who has added them to the request if there are any.
    Caller,
}

impl HttpClient {
    /// Builds a client with these options. Reads the files that they name.
    pub fn new(options: &HttpOptions) -> Result<Self, HttpClientError> {
        let failed = |source| HttpClientError::Build { source };
        let pooled = builder(options)?.pool_idle_timeout(KeptConnections::TIME);
        let unpooled = UnpooledClient {
            options: options.clone(),
            client: OnceLock::new(),
        };
        Ok(Self {
            inner: pooled.build().map_err(failed)?,
            unpooled: Some(Arc::new(unpooled)),
            kept: Arc::default(),
            credentials: Arc::new(options.credentials.clone()),
            headers: options.headers.clone().into(),
        })
    }

    /// Sends one request, without credentials of the options, and follows no redirect.
    ///
    /// A server may close an idle connection at any time, also at the moment at which the next request is
    /// sent on it. Such a request is sent once more, on a new connection (RFC 9112 §9.3.1).
    pub(crate) async fn execute(&self, request: Request) -> reqwest::Result<Response> {
        let origin = request.url().origin();
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        let again = request.try_clone().filter(|_| is_safe);
        let mut result = self.inner.execute(request).await;
        if let (Err(error), Some(again), Some(unpooled)) = (&result, again, &self.unpooled)
            && is_closed(error)
            && self.kept.has(&origin)
            && let Some(unpooled) = unpooled.get()
        {
            tracing::debug!(server = %origin.ascii_serialization(), "a kept connection was closed");
            result = unpooled.execute(again).await;
        }
        if result.is_ok() {
            self.kept.note(origin);
        }
        result
    }

    /// The underlying client, which follows no redirects.
    pub(crate) fn inner(&self) -> &reqwest::Client {
        &self.inner
    }

    /// A GET request, for [`send`](Self::send).
    pub(crate) fn get(&self, mut url: Url) -> RequestBuilder {
        if !url.username().is_empty()
            && url.password().is_none()
            && let Some(password) = self.credentials.password(&url, url.username())
        {
            let password = password.to_owned();
            // Only a URL that cannot have a user can have no password.
            let _ = url.set_password(Some(&password));
        }
        self.inner.get(url)
    }

    /// Adds the headers for the server of a request.
    fn add_headers(&self, request: &mut Request) {
        let origin = request.url().origin();
        for header in self.headers.iter().filter(|it| it.origin == origin) {
            let value = header.value.clone();
            request.headers_mut().insert(&header.name, value);
        }
    }

    /// Sends a request, and follows its redirects if it is a GET. `url` is the URL in errors.
    ///
    /// A redirect to another scheme, host or port drops the credentials. The new host receives those
    /// that the options have for it, or none after a redirect from `https` to `http`.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        url: &SafeUrl,
        credentials: CredentialSource,
    ) -> Result<Response, BackendError> {
        let failed = |source| request_error(url, source);
        let mut request = request.build().map_err(failed)?;
        self.add_headers(&mut request);
        if credentials == CredentialSource::Configured
            && !request.headers().contains_key(AUTHORIZATION)
            && let Some(header) = self.credentials.header(request.url(), false)
        {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let mut followed = 0;
        let mut secure = request.url().scheme() == "https";
        let mut downgraded = false;
        loop {
            let again = request.try_clone();
            let response = self.execute(request).await.map_err(failed)?;
            let (Some(mut next), true) = (again, is_redirect(response.status())) else {
                return Ok(response);
            };
            let Some(location) = response.headers().get(LOCATION) else {
                return Ok(response);
            };
            if next.method() != Method::GET {
                return Ok(response);
            }
            let redirect_error = |to: String, why| BackendError::Redirect {
                url: url.to_string(),
                to,
                why,
            };
            // A location is ASCII (RFC 9110 §10.2.2), but many servers send UTF-8.
            let text = String::from_utf8_lossy(location.as_bytes());
            let target = match response.url().join(&text) {
                Ok(target) if matches!(target.scheme(), "http" | "https") => target,
                _ => return Err(redirect_error(String::new(), "unsupported redirect from")),
            };
            followed += 1;
            if followed > MAX_REDIRECTS {
                let to = SafeUrl::from(target).to_string();
                return Err(redirect_error(to, "too many redirects from"));
            }
            let same = target.origin() == next.url().origin();
            downgraded |= secure && target.scheme() == "http";
            secure = target.scheme() == "https";
            if !same {
                for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
                    next.headers_mut().remove(name);
                }
                for header in &*self.headers {
                    next.headers_mut().remove(&header.name);
                }
                if !downgraded && let Some(header) = self.credentials.header(&target, true) {
                    next.headers_mut().insert(AUTHORIZATION, header);
                }
            }
            next.headers_mut().remove(HOST);
            *next.url_mut() = target;
            self.add_headers(&mut next);
            request = next;
        }
    }
}

/// The options of a client.
fn builder(options: &HttpOptions) -> Result<reqwest::ClientBuilder, HttpClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(&options.user_agent)
        .connect_timeout(options.connect_timeout)
        // `send` follows them, and knows which credentials each host may receive.
        .redirect(reqwest::redirect::Policy::none())
        .tcp_keepalive(Duration::from_secs(30));
    if options.http1_only {
        builder = builder.http1_only();
    }
    let mut roots = Vec::new();
    for path in &options.roots {
        roots.extend(certificates(path)?);
    }
    if !roots.is_empty() {
        builder = builder.tls_certs_merge(roots);
    }
    if let Some(identity) = &options.identity {
        builder = builder.identity(read_identity(identity)?);
    }
    if options.insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    builder = match proxies(options)? {
        Proxies::Direct => builder.no_proxy(),
        Proxies::System => builder,
        Proxies::Of(proxies) => proxies
            .into_iter()
            .fold(builder, reqwest::ClientBuilder::proxy),
    };
    Ok(builder)
}

/// Whether a connection was closed before a response.
fn is_closed(error: &reqwest::Error) -> bool {
    use io::ErrorKind as Kind;
    if error.is_connect() || error.is_timeout() {
        return false;
    }
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                Kind::ConnectionReset
                    | Kind::ConnectionAborted
                    | Kind::BrokenPipe
                    | Kind::UnexpectedEof
            )
        {
            return true;
        }
        next = cause.source();
    }
    false
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

pub(crate) fn request_error(url: &SafeUrl, source: reqwest::Error) -> BackendError {
    let (url, connect, redirect) = (url.clone(), source.is_connect(), source.is_redirect());
    if redirect {
        // From a client of the caller, which follows redirects itself.
        return BackendError::Redirect {
            url: url.to_string(),
            to: source
                .url()
                .map(|to| SafeUrl::from(to.clone()).to_string())
                .unwrap_or_default(),
            why: "too many redirects from",
        };
    }
    let source = Box::new(source.without_url());
    if let Some(problem) = certificate::problem(&*source) {
        BackendError::Certificate { url, problem }
    } else if connect {
        BackendError::Connect { url, source }
    } else {
        BackendError::Request { url, source }
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, HttpClientError> {
    std::fs::read(path).map_err(|source| HttpClientError::Read {
        path: path.clone(),
        source,
    })
}

fn certificates(path: &PathBuf) -> Result<Vec<Certificate>, HttpClientError> {
    let bad = |source| HttpClientError::Root {
        path: path.clone(),
        source,
    };
    let found = Certificate::from_pem_bundle(&read(path)?).map_err(|e| bad(Some(e)))?;
    if found.is_empty() {
        return Err(bad(None));
    }
    Ok(found)
}

fn read_identity(files: &ClientCertificate) -> Result<Identity, HttpClientError> {
    let mut pem = read(&files.certificate)?;
    if files.key != files.certificate {
        pem.push(b'\n');
        pem.extend(read(&files.key)?);
    }
    Identity::from_pem(&pem).map_err(|source| HttpClientError::Identity {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })
}

/// How a client goes through proxies.
enum Proxies {
    Direct,
    /// As the system has it: the environment names none.
    System,
    Of(Vec<Proxy>),
}

/// The proxies of the options.
fn proxies(options: &HttpOptions) -> Result<Proxies, HttpClientError> {
    let variable = |names: [&str; 2]| {
        let values = names.into_iter().filter_map(|name| env::var(name).ok());
        values.into_iter().find(|value| !value.is_empty())
    };
    let in_environment = variable(["no_proxy", "NO_PROXY"]).unwrap_or_default();
    let in_options = options.no_proxy.join(",");
    if [&in_environment, &in_options]
        .into_iter()
        .any(|list| list == "*")
    {
        return Ok(Proxies::Direct);
    }
    let except = exceptions(&format!("{in_options},{in_environment}"));
    let except = || NoProxy::from_string(&except);
    match &options.proxy {
        ProxyChoice::Direct => Ok(Proxies::Direct),
        ProxyChoice::Url(url) => {
            let proxy = proxy(url, Proxy::all)?.no_proxy(except());
            Ok(Proxies::Of(vec![proxy]))
        }
        ProxyChoice::Environment => {
            // A CGI server has the header `Proxy` of a request in `HTTP_PROXY`.
            let upper = match env::var_os("REQUEST_METHOD") {
                None => "HTTP_PROXY",
                Some(_) => "http_proxy",
            };
            let kinds: [([&str; 2], MakeProxy); 3] = [
                (["http_proxy", upper], Proxy::http),
                (["https_proxy", "HTTPS_PROXY"], Proxy::https),
                (["all_proxy", "ALL_PROXY"], Proxy::all),
            ];
            let mut found = Vec::new();
            for (names, make) in kinds {
                let Some(value) = variable(names) else {
                    continue;
                };
                // The scheme is usually omitted.
                let text = if value.contains("://") {
                    value
                } else {
                    format!("http://{value}")
                };
                let url: Url = text.parse().map_err(|_| HttpClientError::Proxy {
                    url: format!("in {}", names[1]),
                })?;
                found.push(proxy(&url, make)?.no_proxy(except()));
            }
            Ok(match found.as_slice() {
                [] => Proxies::System,
                _ => Proxies::Of(found),
            })
        }
    }
}

/// A list of hosts as curl reads `NO_PROXY`: divided by commas or white space, with a dot at the end or not. `*` counts only
/// alone, and is no entry of a list.
fn exceptions(list: &str) -> String {
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    let entries = entries.map(|entry| entry.trim_end_matches('.'));
    let entries: Vec<&str> = entries
        .filter(|entry| !matches!(*entry, "" | "*"))
        .collect();
    entries.join(",")
}

type MakeProxy = fn(Url) -> reqwest::Result<Proxy>;

fn proxy(url: &Url, make: MakeProxy) -> Result<Proxy, HttpClientError> {
    let bad = || HttpClientError::Proxy {
        url: SafeUrl::from(url.clone()).to_string(),
    };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad());
    }
    make(url.clone()).map_err(|_| bad())
}
