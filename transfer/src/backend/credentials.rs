//! Credentials by host.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::HeaderValue;
use url::Url;

use crate::Netrc;

/// Credentials by host. They are sent to their own host only, also after a redirect. Userinfo in a
/// URL precedes credentials that were set for a host, and these precede the netrc file.
///
/// Its `Debug` shows hosts and no secret.
#[derive(Clone, Default)]
pub struct Credentials {
    hosts: Vec<(Host, HeaderValue)>,
    netrc: Netrc,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    /// In lower case.
    name: String,
    /// `None` for every port.
    port: Option<u16>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<&Host> = self.hosts.iter().map(|(host, _)| host).collect();
        f.debug_struct("Credentials")
            .field("hosts", &hosts)
            .field("netrc", &self.netrc)
            .finish()
    }
}

/// Why credentials cannot be used. Contains no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The host is not of the form `host` or `host:port`.
    #[error("invalid host `{host}`: use `host` or `host:port`")]
    Host {
        /// The given host.
        host: String,
    },
    /// The token has characters that a header may not contain.
    #[error("the token for {host} contains characters that are not allowed in a token")]
    Token {
        /// The host.
        host: String,
    },
}

impl Credentials {
    /// No credentials.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a bearer token (RFC 6750) for a host, given as `host` or `host:port`. It replaces other
    /// credentials for that host.
    pub fn with_bearer(self, host: &str, token: &str) -> Result<Self, CredentialsError> {
        self.with(host, &format!("Bearer {token}"))
    }

    /// Adds a user and password (RFC 7617) for a host, given as `host` or `host:port`. They replace
    /// other credentials for that host.
    pub fn with_basic(
        self,
        host: &str,
        user: &str,
        password: &str,
    ) -> Result<Self, CredentialsError> {
        self.with(host, &basic(user, password))
    }

    /// Adds the logins of a netrc file, for hosts without other credentials. Its `default` is not
    /// used for the host of a redirect.
    #[must_use]
    pub fn with_netrc(self, netrc: Netrc) -> Self {
        Self { netrc, ..self }
    }

    fn with(mut self, host: &str, header: &str) -> Result<Self, CredentialsError> {
        let bad_host = || CredentialsError::Host {
            host: host.to_owned(),
        };
        // The URL parser knows the grammar of hosts, the brackets of IPv6 included.
        let url: Url = format!("x://{host}").parse().map_err(|_| bad_host())?;
        let name = url.host_str().ok_or_else(bad_host)?.to_ascii_lowercase();
        let alone = url.path().is_empty() && url.query().is_none() && url.fragment().is_none();
        if !alone || !url.username().is_empty() || url.password().is_some() {
            return Err(bad_host());
        }
        let printable = header.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        let value = HeaderValue::from_str(header).ok().filter(|_| printable);
        let mut value = value.ok_or_else(|| CredentialsError::Token {
            host: host.to_owned(),
        })?;
        value.set_sensitive(true);
        let host = Host {
            name,
            port: url.port(),
        };
        self.hosts.retain(|(other, _)| *other != host);
        self.hosts.push((host, value));
        Ok(self)
    }

    /// The `Authorization` header for a URL that has no userinfo. `redirected`: the URL comes from a
    /// redirect.
    pub(crate) fn header(&self, url: &Url, redirected: bool) -> Option<HeaderValue> {
        let name = url.host_str()?;
        let named = |port: Option<u16>| {
            self.hosts
                .iter()
                .find(|(host, _)| host.port == port && host.name.eq_ignore_ascii_case(name))
        };
        if let Some((_, header)) = named(url.port_or_known_default()).or_else(|| named(None)) {
            return Some(header.clone());
        }
        let (login, password) = self.netrc.find(name, None, !redirected)?;
        let mut header = HeaderValue::from_str(&basic(login, password)).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// The password for a login that a URL names without a password.
    pub(crate) fn password(&self, url: &Url, login: &str) -> Option<&str> {
        let found = self.netrc.find(url.host_str()?, Some(login), true)?;
        Some(found.1)
    }
}

/// The value of an `Authorization` header (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(credentials: &Credentials, url: &str, redirected: bool) -> Option<String> {
        let header = credentials.header(&url.parse().unwrap(), redirected)?;
        Some(header.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_most_specific_credentials_are_sent_and_only_to_their_host() {
        let netrc = "machine a.example login n password p default login d password d";
        let all = Credentials::new()
            .with_netrc(Netrc::parse(netrc).unwrap())
            .with_bearer("B.example", "any")
            .unwrap()
            .with_bearer("b.example:8443", "one")
            .unwrap()
            .with_basic("[::1]:99", "u", "p")
            .unwrap();
        for (url, redirected, expected) in [
            ("https://b.example/x", false, Some("Bearer any".to_owned())),
            ("https://b.example/x", true, Some("Bearer any".to_owned())),
            (
                "https://b.example:8443/",
                true,
                Some("Bearer one".to_owned()),
            ),
            ("https://sub.b.example/", true, None),
            ("https://a.example/", true, Some(basic("n", "p"))),
            ("https://c.example/", false, Some(basic("d", "d"))),
            ("https://c.example/", true, None),
            ("http://[::1]:99/", true, Some(basic("u", "p"))),
        ] {
            assert_eq!(sent(&all, url, redirected), expected, "{url} {redirected}");
        }
    }

    #[test]
    fn the_last_credentials_for_a_host_are_used() {
        let all = Credentials::new().with_bearer("a", "1").unwrap();
        let all = all.with_bearer("A", "2").unwrap();
        assert_eq!(sent(&all, "http://a/", false).unwrap(), "Bearer 2");
    }

    #[test]
    fn errors_and_debug_output_show_no_secret() {
        let new = Credentials::new;
        for host in ["", "a/b", "me@a", "a b", "a:x"] {
            let error = new().with_bearer(host, "hunter2").unwrap_err();
            assert!(matches!(error, CredentialsError::Host { .. }), "{host}");
        }
        for token in ["hunter2\n", "hunter2 é", "hunter2\0"] {
            let error = new().with_bearer("a", token).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let one = new().with_basic("a", "me", "hunter2").unwrap();
        let shown = format!(
            "{one:?} {:?}",
            one.header(&"http://a/".parse().unwrap(), false)
        );
        assert!(!shown.contains("hunter2") && !shown.contains(&basic("me", "hunter2")));
    }
}
