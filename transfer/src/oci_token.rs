//! Leave to read from a registry: challenges and tokens.
//!
//! How a registry wants to be spoken to is asked once; a token is got once per repository and
//! kept for as long as it is good. A channel with two hundred repositories thus costs two hundred
//! and one exchanges, not four hundred.
//!
//! The protocol is that of the distribution project ("Token Authentication Specification"), on
//! top of RFC 9110 §11.6 and RFC 6750 §3.

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
use tokio::sync::{Mutex, OnceCell};
use url::{Url, form_urlencoded};

use crate::{
    BackendError, HttpClient,
    credentials::basic,
    http::wish,
    http_client::{Who, request_error},
};

/// How long a token is good that does not say it; the specification's number.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(1);

/// A token is renewed so long before it runs out, or at half its time if that is later.
const MARGIN: Duration = Duration::from_secs(10);

/// The longest answer of a token endpoint, in bytes.
const LIMIT: usize = 1 << 20;

/// Who we are to a registry.
enum Credentials {
    Nobody,
    Password(String, String),
    /// To be exchanged for tokens; it is none itself.
    Identity(String),
}

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Nothing,
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// The value of an `Authorization` header, and until when it is to be used.
struct Token {
    header: Option<String>,
    until: Option<Instant>,
}

/// Locked while a token is being got, so that twenty downloads from one repository make one
/// exchange and those from other repositories do not wait for it.
type TokenCell = Arc<Mutex<Option<Token>>>;

/// What one registry lets us read.
pub(crate) struct Tokens {
    http: HttpClient,
    registry: String,
    plain_http: bool,
    // Reading credentials may run a helper program, so it is done at the first request.
    credentials: OnceCell<Credentials>,
    challenge: OnceCell<Challenge>,
    by_repository: Mutex<HashMap<String, TokenCell>>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Tokens {
    pub(crate) fn new(location: &OciLocation, http: HttpClient) -> Self {
        Self {
            http,
            registry: location.registry.clone(),
            plain_http: location.plain_http,
            credentials: OnceCell::new(),
            challenge: OnceCell::new(),
            by_repository: Mutex::default(),
        }
    }

    /// The `Authorization` header for reading a repository; `None` where none is wanted.
    /// `refused` is one that the registry has just refused, so that another is got.
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
        let token = self.exchange(repository).await?;
        let header = token.header.clone();
        *cell = Some(token);
        Ok(header)
    }

    async fn exchange(&self, repository: &str) -> Result<Token, BackendError> {
        let challenge = self.challenge.get_or_try_init(|| self.probe()).await?;
        let credentials = self.credentials.get_or_init(|| self.look_up()).await;
        let (realm, service) = match (challenge, credentials) {
            (Challenge::Bearer { realm, service }, _) => (realm, service.as_deref()),
            // Some registries ask for nothing here and for a password there.
            (_, Credentials::Password(user, password)) => {
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
        self.ask(realm, service, repository, credentials).await
    }

    async fn ask(
        &self,
        realm: &Url,
        service: Option<&str>,
        repository: &str,
        credentials: &Credentials,
    ) -> Result<Token, BackendError> {
        if realm.scheme() != "https" && !self.plain_http {
            return Err(self.denied("its token endpoint is not reached by https"));
        }
        let scope = format!("repository:{repository}:pull");
        let mut fields = vec![("scope", scope.as_str())];
        fields.extend(service.map(|service| ("service", service)));
        let mut url = realm.clone();
        let request = if let Credentials::Identity(token) = credentials {
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
                Credentials::Password(user, password) => {
                    request.header(AUTHORIZATION, basic(user, password))
                }
                _ => request,
            }
        };
        let url = SafeUrl::from(url);
        let failed = |source| request_error(&url, source);
        let began = Instant::now();
        let mut response = self.http.send(request, &url, Who::AsGiven).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return Err(self.denied("its token endpoint gives us no token"));
            }
            // 403 means that there is nothing to read here for us: an endpoint does not tell
            // a repository that is missing from one that is secret.
            status => {
                return Err(BackendError::Status {
                    url,
                    status: status.as_u16(),
                    retry_after: wish(response.headers()),
                });
            }
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&piece);
            if body.len() > LIMIT {
                break;
            }
        }
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        let lifetime = answer.as_ref().and_then(|answer| answer.expires_in);
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        // It becomes a header, so what cannot stand in one is no token.
        let sound =
            |token: &String| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        let Some(token) = token.filter(sound) else {
            return Err(self.denied("its token endpoint answers without a token"));
        };
        let lifetime = lifetime.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        let usable = lifetime.saturating_sub(MARGIN).max(lifetime / 2);
        Ok(Token {
            header: Some(format!("Bearer {token}")),
            until: began.checked_add(usable),
        })
    }

    /// Asks the registry how it wants to be asked.
    async fn probe(&self) -> Result<Challenge, BackendError> {
        let scheme = if self.plain_http { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/", self.registry);
        let Ok(url) = text.parse::<Url>() else {
            let (path, place) = (text, self.registry.clone());
            return Err(BackendError::BadPath { path, place });
        };
        let probe = self.http.inner().get(url.clone());
        let url = SafeUrl::from(url);
        let response = self.http.send(probe, &url, Who::AsGiven).await?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            // Not to be remembered as its way.
            return Err(BackendError::Status {
                url,
                status: status.as_u16(),
                retry_after: wish(response.headers()),
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
        Ok(best.cloned().unwrap_or(Challenge::Nothing))
    }

    async fn look_up(&self) -> Credentials {
        let registry = self.registry.clone();
        let found =
            tokio::task::spawn_blocking(move || docker_credential::get_credential(&registry)).await;
        match found {
            Ok(Ok(DockerCredential::UsernamePassword(user, password))) => {
                Credentials::Password(user, password)
            }
            Ok(Ok(DockerCredential::IdentityToken(token))) => Credentials::Identity(token),
            Ok(Err(
                CredentialRetrievalError::ConfigNotFound
                | CredentialRetrievalError::NoCredentialConfigured,
            ))
            | Err(_) => Credentials::Nobody,
            Ok(Err(error)) => {
                // Its text may hold what a helper printed, and that a secret.
                let kind = match error {
                    CredentialRetrievalError::HelperFailure { .. } => "the helper failed",
                    CredentialRetrievalError::ConfigReadError => "it cannot be read",
                    _ => "it makes no sense",
                };
                let registry = &self.registry;
                tracing::warn!(%registry, "the docker configuration is of no use: {kind}");
                Credentials::Nobody
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
    fn challenges_are_read() {
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
            let (url, _) = answer_once("401 Unauthorized", &headers, "").await;
            let mut tokens = tokens(true);
            tokens.registry = url.authority().to_owned();
            assert_eq!(tokens.probe().await.unwrap(), bearer(realm, None));
        }
    }

    /// Answers one connection, and tells what it was asked.
    async fn answer_once(
        status: &str,
        headers: &str,
        body: &str,
    ) -> (Url, tokio::task::JoinHandle<String>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let whole = |text: &str| match text.split_once("\r\n\r\n") {
                Some((head, body)) => head.starts_with("GET") || body.ends_with("end"),
                None => false,
            };
            while !whole(&String::from_utf8_lossy(&request)) {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        (url.parse().unwrap(), asked)
    }

    fn tokens(plain_http: bool) -> Tokens {
        let location = OciLocation {
            registry: "registry.example".to_owned(),
            namespace: String::new(),
            plain_http,
        };
        let client = HttpClient::new(&crate::HttpOptions::default()).unwrap();
        Tokens::new(&location, client)
    }

    #[tokio::test]
    async fn an_identity_token_is_exchanged_and_never_shown_in_a_url() {
        let (realm, asked) =
            answer_once("200 OK", "", r#"{"access_token":"abc","expires_in":300}"#).await;
        let who = Credentials::Identity("secret/end".to_owned());
        let began = Instant::now();
        let token = tokens(true)
            .ask(&realm, Some("s"), "a/b", &who)
            .await
            .unwrap();
        assert_eq!(token.header.as_deref(), Some("Bearer abc"));
        let left = token.until.unwrap() - began;
        assert!(left > Duration::from_secs(280) && left < Duration::from_mins(5));
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /token HTTP/1.1\r\n"), "{asked}");
        let form = "scope=repository%3Aa%2Fb%3Apull&service=s&grant_type=refresh_token\
            &client_id=taipan&refresh_token=secret%2Fend";
        assert!(asked.ends_with(form), "{asked}");
    }

    #[tokio::test]
    async fn an_identity_token_is_not_sent_on_to_where_a_redirect_leads() {
        use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, Rule, Site};
        let [endpoint, thief] = [(); 2].map(|()| HttpServer::start(Site::new()));
        let (endpoint, thief) = (endpoint.await.unwrap(), thief.await.unwrap());
        let rule = Rule::always(Matcher::Any, Fault::Redirect { to: thief.url() });
        endpoint.set_behaviour(Behaviour::new().with_rule(rule));
        let realm = endpoint.url().parse().unwrap();
        let who = Credentials::Identity("secret".to_owned());
        let error = tokens(true).ask(&realm, None, "a", &who).await.err();
        assert!(
            matches!(error, Some(BackendError::Status { status: 307, .. })),
            "{error:?}"
        );
        assert!(thief.requests().is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_is_no_token_is_none() {
        for body in [
            "",
            "{}",
            "<html>",
            r#"{"token":""}"#,
            "{\"token\":\"a b\\n\"}",
        ] {
            let (realm, asked) = answer_once("200 OK", "", body).await;
            let answer = tokens(true)
                .ask(&realm, None, "a", &Credentials::Nobody)
                .await;
            let error = answer.err().expect("there is no token");
            assert!(
                matches!(error, BackendError::Denied { .. }),
                "{body}: {error:?}"
            );
            let asked = asked.await.unwrap();
            assert!(
                asked.starts_with("GET /token?scope=repository%3Aa%3Apull HTTP"),
                "{asked}"
            );
        }
    }

    #[tokio::test]
    async fn a_password_does_not_go_over_a_plain_connection_unless_the_registry_is_one() {
        let realm = "http://127.0.0.1:9/token".parse().unwrap();
        let who = Credentials::Password("me".to_owned(), "secret".to_owned());
        let answer = tokens(false).ask(&realm, None, "a", &who).await;
        assert!(matches!(answer, Err(BackendError::Denied { .. })));
    }

    proptest! {
        #[test]
        fn any_challenge_is_read_or_refused(text in "(Bearer )?[ -~é]{0,80}") {
            let _ = challenges(&text);
        }
    }
}
