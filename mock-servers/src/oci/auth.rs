//! Access control: Basic, or Bearer tokens with their endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{StatusCode, header};
use serde_json::json;
use tokio::time::Instant;

use super::error;
use crate::http_server::basic;
use crate::request::{Reply, Request};

/// The authentication of a registry.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum OciAuth {
    /// None: everything is allowed.
    #[default]
    None,
    Basic {
        user: String,
        password: String,
    },
    Bearer(BearerAuth),
}

impl fmt::Debug for OciAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Basic { user, .. } => write!(f, "Basic({user})"),
            Self::Bearer(bearer) => bearer.fmt(f),
        }
    }
}

/// A registry with a token endpoint.
#[derive(Clone)]
pub struct BearerAuth {
    anonymous_pull: bool,
    credentials: Option<(String, String)>,
    lifetime: Duration,
    forbid_unknown: bool,
}

impl fmt::Debug for BearerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerAuth")
            .field("anonymous_pull", &self.anonymous_pull)
            .field("lifetime", &self.lifetime)
            .field("forbid_unknown", &self.forbid_unknown)
            .finish_non_exhaustive()
    }
}

impl Default for BearerAuth {
    fn default() -> Self {
        Self {
            anonymous_pull: true,
            credentials: None,
            lifetime: Duration::from_mins(5),
            forbid_unknown: false,
        }
    }
}

impl BearerAuth {
    /// Anonymous tokens allow pulling, pushing is forbidden, and tokens are valid for five minutes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens for these credentials allow everything.
    #[must_use]
    pub fn with_credentials(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            credentials: Some((user.into(), password.into())),
            ..self
        }
    }

    /// No token without credentials.
    #[must_use]
    pub fn without_anonymous_pull(self) -> Self {
        Self {
            anonymous_pull: false,
            ..self
        }
    }

    /// The lifetime of a token, reported in whole seconds.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// The token endpoint responds with 403 to a request for a token of a repository that does not exist, as
    /// ghcr does.
    #[must_use]
    pub fn forbidding_unknown_repositories(self) -> Self {
        Self {
            forbid_unknown: true,
            ..self
        }
    }
}

const SERVICE: &str = "mock-registry";

#[derive(Debug)]
struct Grant {
    /// Repository and action.
    access: BTreeSet<(String, String)>,
    expires: Instant,
}

#[derive(Debug)]
pub(crate) struct Gate {
    auth: OciAuth,
    realm: String,
    tokens: Mutex<(u64, BTreeMap<String, Grant>)>,
}

impl Gate {
    /// `base` is the URL of the server with a trailing slash.
    pub(crate) fn new(auth: OciAuth, base: &str) -> Self {
        Self {
            auth,
            realm: format!("{base}token"),
            tokens: Mutex::default(),
        }
    }

    /// Makes all tokens invalid, as if they had expired.
    pub(crate) fn expire(&self) {
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clear();
    }

    /// The error response, if the request is not allowed.
    pub(crate) fn refusal(
        &self,
        request: &Request,
        repository: Option<&str>,
        action: &str,
    ) -> Option<Reply> {
        let sent = request.header("authorization");
        match &self.auth {
            OciAuth::None => None,
            OciAuth::Basic { user, password } => {
                let allowed = sent == Some(&basic(user, password));
                (!allowed).then(|| unauthorized("Basic realm=\"mock-registry\""))
            }
            OciAuth::Bearer(_) => {
                let scheme = sent.and_then(|value| value.split_once(' '));
                let token = scheme.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let problem = match token {
                    None => "",
                    Some((_, token)) => self.judge(token.trim(), repository, action)?,
                };
                let mut challenge =
                    format!("Bearer realm=\"{}\",service=\"{SERVICE}\"", self.realm);
                if let Some(repository) = repository {
                    let actions = if action == "pull" {
                        "pull"
                    } else {
                        "pull,push"
                    };
                    challenge.extend([",scope=\"repository:", repository, ":", actions, "\""]);
                }
                if !problem.is_empty() {
                    challenge.extend([",error=\"", problem, "\""]);
                }
                Some(unauthorized(&challenge))
            }
        }
    }

    /// What is wrong with a token, in the words of RFC 6750 §3.1.
    fn judge(&self, token: &str, repository: Option<&str>, action: &str) -> Option<&'static str> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(grant) = tokens
            .1
            .get(token)
            .filter(|grant| grant.expires > Instant::now())
        else {
            return Some("invalid_token");
        };
        let allowed = repository.is_none_or(|repository| {
            grant
                .access
                .contains(&(repository.to_owned(), action.to_owned()))
        });
        (!allowed).then_some("insufficient_scope")
    }

    /// The token endpoint, if this server has one.
    pub(crate) fn token(&self, request: &Request, exists: impl Fn(&str) -> bool) -> Option<Reply> {
        let OciAuth::Bearer(bearer) = &self.auth else {
            return None;
        };
        if request.path != "/token" {
            return None;
        }
        if !request.is_read() {
            return Some(error(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "only GET",
            ));
        }
        let trusted = match (request.header("authorization"), &bearer.credentials) {
            (Some(sent), Some((user, password))) if sent == basic(user, password) => true,
            (None, _) if bearer.anonymous_pull => false,
            _ => return Some(unauthorized("Basic realm=\"mock-registry\"")),
        };
        let mut access = BTreeSet::new();
        let query = request.query();
        let scopes = query.iter().filter(|(key, _)| key == "scope");
        for scope in scopes.flat_map(|(_, value)| value.split(' ')) {
            let Some((name, actions)) = scope
                .strip_prefix("repository:")
                .and_then(|rest| rest.rsplit_once(':'))
            else {
                continue;
            };
            if bearer.forbid_unknown && !exists(name) && !(trusted && actions.contains("push")) {
                return Some(error(
                    StatusCode::FORBIDDEN,
                    "DENIED",
                    "requested access is denied",
                ));
            }
            for action in actions.split(',') {
                // Granting fewer rights than requested is not an error in this protocol.
                if trusted || action == "pull" {
                    access.insert((name.to_owned(), action.to_owned()));
                }
            }
        }
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.0 += 1;
        let token = format!("mock-token-{}", tokens.0);
        let expires = Instant::now() + bearer.lifetime;
        tokens.1.insert(token.clone(), Grant { access, expires });
        let body = json!({
            "token": token,
            "access_token": token,
            "expires_in": bearer.lifetime.as_secs(),
        });
        Some(Reply::text(
            StatusCode::OK,
            "application/json",
            body.to_string(),
        ))
    }
}

fn unauthorized(challenge: &str) -> Reply {
    error(
        StatusCode::UNAUTHORIZED,
        "UNAUTHORIZED",
        "authentication required",
    )
    .with(header::WWW_AUTHENTICATE, challenge)
}
