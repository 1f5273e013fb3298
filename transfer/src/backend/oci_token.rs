//! Registry authentication: challenges and bearer tokens.
//!
//! The challenge of a registry is requested once. A token is requested once per repository and kept
//! until it expires. Two hundred repositories thus cost two hundred and one requests, not four
//! hundred.
//!
//! The protocol is the "Token Authentication Specification" of the distribution project, on top of
//! RFC 9110 §11.6 and RFC 6750 §3.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use http_auth::parser::ChallengeParser;
use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use taipan_mirrors::{OciLocation, SafeUrl};
use tokio::{
    sync::{Mutex, OnceCell, oneshot},
    time::timeout,
};
use url::{Url, form_urlencoded};

use crate::{
    BackendError, HttpClient,
    backend::{
        credentials::basic,
        http::retry_after_header,
        http_client::{CredentialSource, request_error},
    },
};

/// The lifetime of a token whose response has no `expires_in`, by the specification.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(1);

/// A longer lifetime of a token is not believed, in seconds.
const MAX_LIFETIME: f64 = 86_400.0;

/// A helper that takes longer is not waited for.
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);

/// A token is renewed this long before it expires, or after half its lifetime if that is later.
const RENEWAL_MARGIN: Duration = Duration::from_secs(10);

/// The longest response of a token endpoint that is read, in bytes.
const MAX_RESPONSE: usize = 1 << 20;

/// The credentials for one registry.
enum RegistryCredentials {
    Anonymous,
    Password(String, String),
    /// A refresh token, which the token endpoint exchanges for bearer tokens.
    IdentityToken(String),
}

/// The authentication that a registry requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Absent,
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// The value of an `Authorization` header, if one is required, and when to renew it.
struct Token {
    header: Option<String>,
    until: Option<Instant>,
}

/// Locked while a token is requested, so that twenty downloads from one repository request one
/// token and those from other repositories do not wait for it.
type TokenCell = Arc<Mutex<Option<Token>>>;

/// What tokens allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Reading, writing and deleting. A registry grants the part of it that is allowed.
    Write,
}

impl Access {
    fn actions(self) -> &'static str {
        match self {
            Self::Read => "pull",
            Self::Write => "pull,push,delete",
        }
    }
}

/// The tokens for one registry.
pub(crate) struct Tokens {
    access: Access,
    http: HttpClient,
    registry: String,
    plain_http: bool,
    // To read credentials may run a helper program, so it is done at the first request.
    credentials: OnceCell<RegistryCredentials>,
    challenge: OnceCell<Challenge>,
    /// The challenge of a repository, of a registry that sends none for `/v2/`.
    repository_challenge: OnceCell<Challenge>,
    by_repository: Mutex<HashMap<String, TokenCell>>,
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds: a number in the specification; some registries send a text or a fraction.
    expires_in: Option<serde_json::Value>,
}

impl TokenResponse {
    /// The lifetime, if it is a positive number.
    fn lifetime(&self) -> Option<Duration> {
        let value = self.expires_in.as_ref()?;
        let seconds = match value.as_str() {
            Some(text) => text.trim().parse().ok()?,
            None => value.as_f64()?,
        };
        (seconds > 0.0).then(|| Duration::from_secs_f64(f64::min(seconds, MAX_LIFETIME)))
    }

    fn token(self) -> Option<String> {
        let token = self.token.filter(|token| !token.is_empty());
        token.or(self.access_token)
    }
}

impl Tokens {
    pub(crate) fn new(location: &OciLocation, http: HttpClient, access: Access) -> Self {
        Self {
            access,
            http,
            registry: location.registry.clone(),
            plain_http: location.plain_http,
            credentials: OnceCell::new(),
            challenge: OnceCell::new(),
            repository_challenge: OnceCell::new(),
            by_repository: Mutex::default(),
        }
    }

    /// The `Authorization` header for reading a repository; `None` where none is required.
    /// `refused` is a header that the registry has just refused; a new token replaces it.
    pub(crate) async fn header(
        &self,
        repository: &str,
        refused: Option<&str>,
    ) -> Result<Option<String>, BackendError> {
        let cell = {
            let mut cells = self.by_repository.lock().await;
            Arc::clone(cells.entry(repository.to_owned()).or_default())
        };
        let mut cell = cell.lock().await;
        if let Some(token) = &*cell
            && token.until.is_none_or(|until| Instant::now() < until)
            && (refused.is_none() || token.header.as_deref() != refused)
        {
            return Ok(token.header.clone());
        }
        let token = self.new_token(repository).await?;
        let header = token.header.clone();
        *cell = Some(token);
        Ok(header)
    }

    /// The header for a repository at `url`, after the registry has refused a request without one: what counts is the
    /// challenge for the request itself (token authentication specification, steps 1 and 2).
    pub(crate) async fn challenged(
        &self,
        repository: &str,
        url: &Url,
    ) -> Result<Option<String>, BackendError> {
        let request = || self.request_challenge(url.clone());
        self.repository_challenge.get_or_try_init(request).await?;
        self.by_repository.lock().await.remove(repository);
        self.header(repository, None).await
    }

    async fn new_token(&self, repository: &str) -> Result<Token, BackendError> {
        let challenge = if let Some(challenge) = self.repository_challenge.get() {
            challenge
        } else {
            let request = || async { self.request_challenge(self.ping_url()?).await };
            self.challenge.get_or_try_init(request).await?
        };
        let credentials = self
            .credentials
            .get_or_init(|| self.find_credentials())
            .await;
        let (realm, service) = match (challenge, credentials) {
            (Challenge::Bearer { realm, service }, _) => (realm, service.as_deref()),
            // Some registries send no challenge at `/v2/` and require a password for a repository.
            (_, RegistryCredentials::Password(user, password)) => {
                let header = Some(basic(user, password));
                return Ok(Token {
                    header,
                    until: None,
                });
            }
            _ => {
                return Ok(Token {
                    header: None,
                    until: None,
                });
            }
        };
        self.request_token(realm, service, repository, credentials)
            .await
    }

    async fn request_token(
        &self,
        realm: &Url,
        service: Option<&str>,
        repository: &str,
        credentials: &RegistryCredentials,
    ) -> Result<Token, BackendError> {
        if realm.scheme() != "https" && !self.plain_http {
            return Err(self.denied("the URL of its token endpoint does not begin with https://"));
        }
        let scope = format!("repository:{repository}:{}", self.access.actions());
        let mut fields = vec![("scope", scope.as_str())];
        fields.extend(service.map(|service| ("service", service)));
        let mut url = realm.clone();
        let request = if let RegistryCredentials::IdentityToken(token) = credentials {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "taipan"),
                ("refresh_token", token),
            ]);
            let mut form = form_urlencoded::Serializer::new(String::new());
            let form = form.extend_pairs(fields).finish();
            let kind = "application/x-www-form-urlencoded";
            let request = self.http.inner().post(url.clone());
            request.header(CONTENT_TYPE, kind).body(form)
        } else {
            url.query_pairs_mut().extend_pairs(fields);
            let request = self.http.inner().get(url.clone());
            match credentials {
                RegistryCredentials::Password(user, password) => {
                    request.header(AUTHORIZATION, basic(user, password))
                }
                _ => request,
            }
        };
        let url = SafeUrl::from(url);
        let failed = |source| request_error(&url, source);
        let began = Instant::now();
        let mut response = self
            .http
            .send(request, &url, CredentialSource::Caller)
            .await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return Err(self.denied("its token endpoint responded with 401 Unauthorized"));
            }
            // 403 means a missing repository as well as a private one: an endpoint does not
            // distinguish them.
            status => {
                return Err(BackendError::Status {
                    url,
                    status: status.as_u16(),
                    retry_after: retry_after_header(response.headers()),
                });
            }
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_RESPONSE {
                break;
            }
        }
        let token_response: Option<TokenResponse> = serde_json::from_slice(&body).ok();
        let lifetime = token_response.as_ref().and_then(TokenResponse::lifetime);
        let token = token_response.and_then(TokenResponse::token);
        // It becomes part of a header.
        let sound =
            |token: &String| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        let Some(token) = token.filter(sound) else {
            return Err(self.denied("the response of its token endpoint has no valid token"));
        };
        let lifetime = lifetime.unwrap_or(DEFAULT_LIFETIME);
        let usable = lifetime.saturating_sub(RENEWAL_MARGIN).max(lifetime / 2);
        Ok(Token {
            header: Some(format!("Bearer {token}")),
            until: began.checked_add(usable),
        })
    }

    fn ping_url(&self) -> Result<Url, BackendError> {
        let scheme = if self.plain_http { "http" } else { "https" };
        let path = format!("{scheme}://{}/v2/", self.registry);
        path.parse().map_err(|_| BackendError::BadPath {
            path,
            place: self.registry.clone(),
        })
    }

    /// Requests the challenge of the registry at this URL.
    async fn request_challenge(&self, url: Url) -> Result<Challenge, BackendError> {
        let request = self.http.inner().get(url.clone());
        let url = SafeUrl::from(url);
        let response = self
            .http
            .send(request, &url, CredentialSource::Caller)
            .await?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            // Says nothing about authentication, and is not kept.
            return Err(BackendError::Status {
                url,
                status: status.as_u16(),
                retry_after: retry_after_header(response.headers()),
            });
        }
        let challenges: Vec<Challenge> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenges)
            .collect();
        let bearer = |c: &&Challenge| matches!(c, Challenge::Bearer { .. });
        let best = challenges.iter().find(bearer).or(challenges.first());
        Ok(best.cloned().unwrap_or(Challenge::Absent))
    }

    async fn find_credentials(&self) -> RegistryCredentials {
        let registry = self.registry.clone();
        let (send, found) = oneshot::channel();
        // A thread of its own: a helper that never ends must not keep the process from ending.
        std::thread::spawn(move || send.send(docker_credential::get_credential(&registry)));
        let Ok(found) = timeout(HELPER_TIMEOUT, found).await else {
            let (registry, seconds) = (&self.registry, HELPER_TIMEOUT.as_secs());
            tracing::warn!(%registry, "the docker credential helper did not respond within {seconds} s");
            return RegistryCredentials::Anonymous;
        };
        match found {
            Ok(Ok(DockerCredential::UsernamePassword(user, password))) => {
                RegistryCredentials::Password(user, password)
            }
            Ok(Ok(DockerCredential::IdentityToken(token))) => {
                RegistryCredentials::IdentityToken(token)
            }
            Ok(Err(
                CredentialRetrievalError::ConfigNotFound
                | CredentialRetrievalError::NoCredentialConfigured,
            ))
            | Err(_) => RegistryCredentials::Anonymous,
            Ok(Err(error)) => {
                // Its text may contain the output of a helper, and that a secret.
                let kind = match error {
                    CredentialRetrievalError::HelperFailure { .. } => "the helper failed",
                    CredentialRetrievalError::ConfigReadError => "it cannot be read",
                    _ => "it is invalid",
                };
                let registry = &self.registry;
                tracing::warn!(%registry, "cannot use the docker configuration: {kind}");
                RegistryCredentials::Anonymous
            }
        }
    }

    fn denied(&self, why: &str) -> BackendError {
        BackendError::Denied {
            place: format!("oci://{}", self.registry),
            source: Some(why.into()),
        }
    }
}

/// Reads the challenges of one `WWW-Authenticate` header, of which it may hold several
/// (RFC 9110 §11.6.1). Schemes other than `Basic` and `Bearer` are skipped, and whatever follows a
/// syntax error.
pub(crate) fn challenges(header: &str) -> Vec<Challenge> {
    ChallengeParser::new(&single_spaced(header))
        .map_while(Result::ok)
        .filter_map(|challenge| {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                return Some(Challenge::Basic);
            }
            if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                return None;
            }
            let parameter = |name: &str| {
                let (_, value) = challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                Some(value.to_unescaped())
            };
            let realm: Url = parameter("realm")?.parse().ok()?;
            let service = parameter("service");
            matches!(realm.scheme(), "http" | "https")
                .then_some(Challenge::Bearer { realm, service })
        })
        .collect()
}

/// With one space for each run of white space outside quotes. The grammar has `1*SP` behind a
/// scheme; the parser takes one.
fn single_spaced(header: &str) -> String {
    let mut text = String::with_capacity(header.len());
    let (mut in_quotes, mut is_escaped) = (false, false);
    for character in header.trim().chars() {
        if !in_quotes && matches!(character, ' ' | '\t') {
            if !text.ends_with(' ') {
                text.push(' ');
            }
            continue;
        }
        if is_escaped {
            is_escaped = false;
        } else if in_quotes && character == '\\' {
            is_escaped = true;
        } else if character == '"' {
            in_quotes = !in_quotes;
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.parse().unwrap(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn token_responses_are_read_as_registries_write_them() {
        let read = |text: &str| {
            let response: TokenResponse = serde_json::from_str(text).unwrap();
            let lifetime = response.lifetime();
            (response.token(), lifetime)
        };
        let token = Some("T".to_owned());
        let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
        for (text, lifetime) in [
            (
                r#"{"token":"","access_token":"T","expires_in":300}"#,
                seconds(300.0),
            ),
            (r#"{"token":"T","expires_in":"300"}"#, seconds(300.0)),
            (r#"{"token":"T","expires_in":299.5}"#, seconds(299.5)),
            (r#"{"token":"T","expires_in":1e300}"#, seconds(MAX_LIFETIME)),
            (r#"{"token":"T","expires_in":-1}"#, None),
            (r#"{"token":"T","expires_in":"soon"}"#, None),
            (r#"{"access_token":"T","expires_in":null}"#, None),
        ] {
            assert_eq!(read(text), (token.clone(), lifetime), "{text}");
        }
    }

    #[test]
    fn challenges_are_parsed() {
        assert_eq!(
            challenges(
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="a,b""#
            ),
            [bearer("https://auth.example/token", Some("r.example"))]
        );
        assert_eq!(
            challenges(
                r#"bearer  scope="x=y, z" , service=plain, Realm = "https://a.example/?q=\"1\"""#
            ),
            [bearer("https://a.example/?q=\"1\"", Some("plain"))]
        );
        assert_eq!(challenges("Basic realm=\"x\""), [Challenge::Basic]);
        assert_eq!(challenges("BASIC"), [Challenge::Basic]);
        for bad in [
            "",
            "Bearer",
            "Negotiate",
            "Bearer realm=\"https://a",
            "Bearer realm=\"file:///x\"",
        ] {
            assert_eq!(challenges(bad), [], "{bad}");
        }
    }

    #[test]
    fn a_header_may_hold_several_challenges() {
        let realm = "https://auth.example/token";
        assert_eq!(
            challenges(&format!(
                r#"Basic realm="Bearer, realm", charset="UTF-8", Bearer realm="{realm}",service="r""#
            )),
            [Challenge::Basic, bearer(realm, Some("r"))]
        );
        assert_eq!(
            challenges(&format!(r#"Negotiate, Bearer realm="{realm}" , , Basic"#)),
            [bearer(realm, None), Challenge::Basic]
        );
        assert_eq!(
            challenges("Basic, Bearer realm=\"https://a"),
            [Challenge::Basic]
        );
    }

    #[tokio::test]
    async fn a_bearer_challenge_is_preferred_wherever_it_is_in_the_headers() {
        let realm = "https://auth.example/token";
        for headers in [
            format!("WWW-Authenticate: Basic realm=\"r\", Bearer realm=\"{realm}\"\r\n"),
            format!(
                "WWW-Authenticate: Basic realm=\"r\"\r\nWWW-Authenticate: Bearer realm=\"{realm}\"\r\n"
            ),
        ] {
            let (url, _) = respond_once("401 Unauthorized", &headers, "").await;
            let mut tokens = tokens(true);
            tokens.registry = url.authority().to_owned();
            assert_eq!(
                tokens
                    .request_challenge(tokens.ping_url().unwrap())
                    .await
                    .unwrap(),
                bearer(realm, None)
            );
        }
    }

    /// Serves one connection, and returns the request.
    async fn respond_once(
        status: &str,
        headers: &str,
        body: &str,
    ) -> (Url, tokio::task::JoinHandle<String>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let length = body.len();
        let response =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        let request = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let whole = |text: &str| match text.split_once("\r\n\r\n") {
                Some((head, body)) => head.starts_with("GET") || body.ends_with("end"),
                None => false,
            };
            while !whole(&String::from_utf8_lossy(&request)) {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(response.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        (url.parse().unwrap(), request)
    }

    fn tokens(plain_http: bool) -> Tokens {
        let location = OciLocation {
            registry: "registry.example".to_owned(),
            namespace: String::new(),
            plain_http,
        };
        let client = HttpClient::new(&crate::HttpOptions::default()).unwrap();
        Tokens::new(&location, client, Access::Read)
    }

    #[tokio::test]
    async fn an_identity_token_is_sent_in_a_form_and_not_in_a_url() {
        let body = r#"{"access_token":"abc","expires_in":300}"#;
        let (realm, request) = respond_once("200 OK", "", body).await;
        let credentials = RegistryCredentials::IdentityToken("secret/end".to_owned());
        let began = Instant::now();
        let token = tokens(true)
            .request_token(&realm, Some("s"), "a/b", &credentials)
            .await
            .unwrap();
        assert_eq!(token.header.as_deref(), Some("Bearer abc"));
        let left = token.until.unwrap() - began;
        assert!(left > Duration::from_secs(280) && left < Duration::from_mins(5));
        let request = request.await.unwrap();
        assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
        let form = "scope=repository%3Aa%2Fb%3Apull&service=s&grant_type=refresh_token\
            &client_id=taipan&refresh_token=secret%2Fend";
        assert!(request.ends_with(form), "{request}");
    }

    #[tokio::test]
    async fn an_identity_token_does_not_follow_a_redirect() {
        use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, Rule, Site};
        let [endpoint, thief] = [(); 2].map(|()| HttpServer::start(Site::new()));
        let (endpoint, thief) = (endpoint.await.unwrap(), thief.await.unwrap());
        let rule = Rule::always(Matcher::Any, Fault::Redirect { to: thief.url() });
        endpoint.set_behaviour(Behaviour::new().with_rule(rule));
        let realm = endpoint.url().parse().unwrap();
        let credentials = RegistryCredentials::IdentityToken("secret".to_owned());
        let error = tokens(true)
            .request_token(&realm, None, "a", &credentials)
            .await
            .err();
        assert!(
            matches!(error, Some(BackendError::Status { status: 307, .. })),
            "{error:?}"
        );
        assert!(thief.requests().is_empty());
    }

    #[tokio::test]
    async fn a_response_without_a_token_is_an_error() {
        for body in [
            "",
            "{}",
            "<html>",
            r#"{"token":""}"#,
            "{\"token\":\"a b\\n\"}",
        ] {
            let (realm, request) = respond_once("200 OK", "", body).await;
            let token = tokens(true)
                .request_token(&realm, None, "a", &RegistryCredentials::Anonymous)
                .await;
            let error = token.err().expect("there is no token");
            assert!(
                matches!(error, BackendError::Denied { .. }),
                "{body}: {error:?}"
            );
            let request = request.await.unwrap();
            assert!(
                request.starts_with("GET /token?scope=repository%3Aa%3Apull HTTP"),
                "{request}"
            );
        }
    }

    #[tokio::test]
    async fn a_password_is_sent_without_tls_only_if_the_registry_has_none() {
        let realm = "http://127.0.0.1:9/token".parse().unwrap();
        let credentials = RegistryCredentials::Password("me".to_owned(), "secret".to_owned());
        let token = tokens(false)
            .request_token(&realm, None, "a", &credentials)
            .await;
        assert!(matches!(token, Err(BackendError::Denied { .. })));
    }

    proptest! {
        #[test]
        fn any_challenge_is_parsed_or_refused(text in "(Bearer )?[ -~é]{0,80}") {
            let _ = challenges(&text);
        }
    }
}
