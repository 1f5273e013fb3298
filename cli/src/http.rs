//! The `[http]` table of the configuration file, and the HTTP client that it configures.

use std::{
    error::Error as _,
    path::{Path, PathBuf},
};

use crate::auth::{AuthError, WebCredentials};
use serde::Deserialize;
use taipan_transfer::{
    ClientCertificate, Credentials, HttpClient, HttpOptions, Netrc, ProxyChoice, ServerHeader,
};
use url::Url;

use crate::{args::FetchArgs, settings::SettingsError};

/// The `[http]` table of the configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HttpTable {
    /// PEM files with certificate authorities that are trusted in addition to those of the system.
    #[serde(default)]
    roots: Vec<PathBuf>,
    /// A PEM file with the client certificate.
    client_certificate: Option<PathBuf>,
    /// A PEM file with the key of the client certificate, when it is in another file.
    client_key: Option<PathBuf>,
    /// The proxy, instead of those of the environment; `none`: no proxy.
    proxy: Option<String>,
    /// Hosts that are reached without the proxy.
    #[serde(default)]
    no_proxy: Vec<String>,
    /// Do not use HTTP/2.
    #[serde(default)]
    http1_only: bool,
    /// The netrc file, instead of `NETRC` or `~/.netrc`.
    netrc: Option<PathBuf>,
    /// The headers of the command line.
    #[serde(skip)]
    headers: Vec<ServerHeader>,
    /// Whether any certificate is accepted.
    #[serde(skip)]
    insecure: bool,
}

/// An `[http]` table that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpSettingsError {
    #[error(
        "invalid `http.proxy` in the configuration file: use a URL such as \
         http://proxy.example:3128, or `none`"
    )]
    Proxy,
    #[error("`http.client-key` in the configuration file requires `http.client-certificate`")]
    KeyAlone,
    #[error("cannot use the netrc file {}", path.display())]
    Netrc {
        path: PathBuf,
        source: taipan_transfer::NetrcError,
    },
    #[error(transparent)]
    Credentials(#[from] AuthError),
    #[error("cannot set up the HTTP client")]
    Client(#[source] taipan_transfer::HttpClientError),
}

impl HttpTable {
    /// Resolves relative paths below the directory of the configuration file.
    pub(crate) fn below(mut self, directory: &Path) -> Self {
        let resolve = |path: PathBuf| directory.join(path);
        self.roots = self.roots.into_iter().map(resolve).collect();
        self.client_certificate = self.client_certificate.map(resolve);
        self.client_key = self.client_key.map(resolve);
        self.netrc = self.netrc.map(resolve);
        self
    }

    /// Adds the options of `fetch`. Headers are for the servers that the arguments name; the values are not in the error.
    pub(crate) fn with_fetch_options(mut self, args: &FetchArgs) -> Result<Self, SettingsError> {
        self.insecure = args.insecure;
        let urls = args
            .arguments
            .iter()
            .filter_map(|text| Url::parse(text).ok());
        let urls: Vec<Url> = urls
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .collect();
        let anywhere = Url::parse("http://localhost").expect("this is a URL");
        for (text, number) in args.headers.iter().zip(1..) {
            // Checked also without a URL.
            ServerHeader::parse(text, &anywhere).ok_or(SettingsError::Header { number })?;
            let headers = urls.iter().filter_map(|url| ServerHeader::parse(text, url));
            self.headers.extend(headers);
        }
        Ok(self)
    }

    /// Builds the client; reads the certificates and the netrc file.
    pub(crate) fn client(&self) -> Result<HttpClient, HttpSettingsError> {
        HttpClient::new(&self.options()?).map_err(HttpSettingsError::Client)
    }

    fn options(&self) -> Result<HttpOptions, HttpSettingsError> {
        let identity = match (&self.client_certificate, &self.client_key) {
            (None, Some(_)) => return Err(HttpSettingsError::KeyAlone),
            (None, None) => None,
            (Some(certificate), key) => Some(ClientCertificate {
                certificate: certificate.clone(),
                key: key.as_ref().unwrap_or(certificate).clone(),
            }),
        };
        let proxy = match self.proxy.as_deref() {
            None => ProxyChoice::Environment,
            Some("none" | "") => ProxyChoice::Direct,
            // The text may contain a password, so the error does not show it.
            Some(url) => match Url::parse(url) {
                Ok(url) if matches!(url.scheme(), "http" | "https") => ProxyChoice::Url(url),
                _ => return Err(HttpSettingsError::Proxy),
            },
        };
        Ok(HttpOptions {
            roots: self.roots.clone(),
            identity,
            proxy,
            no_proxy: self.no_proxy.clone(),
            http1_only: self.http1_only,
            credentials: WebCredentials::add_to(self.credentials()?)?,
            headers: self.headers.clone(),
            insecure: self.insecure,
            ..HttpOptions::default()
        })
    }

    fn credentials(&self) -> Result<Credentials, HttpSettingsError> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let usual = || Netrc::locate(std::env::var_os("NETRC"), home.as_deref());
        let Some(path) = self.netrc.clone().or_else(usual) else {
            return Ok(Credentials::new());
        };
        let is_named = self.netrc.is_some()
            || std::env::var_os("NETRC").is_some_and(|value| !value.is_empty());
        match read(&path) {
            Ok(Some(netrc)) => Ok(Credentials::new().with_netrc(netrc)),
            Ok(None) => Ok(Credentials::new()),
            Err(error) if is_named => Err(error),
            Err(error) => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!("{error}, it is ignored: {cause}");
                Ok(Credentials::new())
            }
        }
    }
}

fn read(path: &Path) -> Result<Option<Netrc>, HttpSettingsError> {
    Netrc::read(path).map_err(|source| HttpSettingsError::Netrc {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<HttpOptions, HttpSettingsError> {
        let table: HttpTable = toml::from_str(text).unwrap();
        table.below(Path::new("/etc/taipan")).options()
    }

    #[test]
    fn the_table_becomes_options() {
        let options = options(
            "roots = [\"ca.pem\"]\nclient-certificate = \"/x/me.pem\"\nhttp1-only = true\n\
             proxy = \"http://user:hunter2@proxy.example:3128\"\nno-proxy = [\"near.example\"]\n\
             netrc = \"no-such-file\"\n",
        )
        .unwrap();
        assert_eq!(options.roots, [Path::new("/etc/taipan/ca.pem")]);
        assert_eq!(
            options.identity.as_ref().unwrap().key,
            Path::new("/x/me.pem")
        );
        assert!(options.http1_only);
        assert_eq!(options.no_proxy, ["near.example"]);
        let shown = format!("{options:?}");
        assert!(
            shown.contains("proxy.example") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn errors_do_not_contain_secrets() {
        let error = options("proxy = \"user:hunter2 at proxy\"").unwrap_err();
        assert!(error.to_string().contains("http.proxy"));
        assert!(!error.to_string().contains("hunter2"));
        let error = options("client-key = \"k.pem\"").unwrap_err();
        assert!(matches!(error, HttpSettingsError::KeyAlone));
        assert!(toml::from_str::<HttpTable>("rots = []").is_err());
    }

    #[test]
    fn an_invalid_netrc_file_is_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netrc");
        std::fs::write(&path, "machine\n").unwrap();
        let error = options(&format!("netrc = \"{}\"", path.display())).unwrap_err();
        assert!(error.to_string().contains("netrc"), "{error}");
    }
}
