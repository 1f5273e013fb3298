//! How the HTTP client is set up: the `[http]` table of the configuration file, and the netrc file.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use taipan_transfer::{
    ClientCertificate, Credentials, HttpClient, HttpOptions, Netrc, ProxyChoice,
};
use url::Url;

use crate::error::AppError;

/// The `[http]` table of the configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HttpTable {
    /// Files in PEM with certificates of authorities that are trusted besides those of the system.
    #[serde(default)]
    roots: Vec<PathBuf>,
    /// A file in PEM with the certificate that servers are shown which ask for one.
    client_certificate: Option<PathBuf>,
    /// A file in PEM with its key, when that is not in the same file.
    client_key: Option<PathBuf>,
    /// The proxy, instead of those that the environment names; `none` for none.
    proxy: Option<String>,
    /// Hosts that are asked directly.
    #[serde(default)]
    no_proxy: Vec<String>,
    /// Whether HTTP/2 is not to be used.
    #[serde(default)]
    http1_only: bool,
    /// The netrc file, instead of the one that `NETRC` names or that is in the home directory.
    netrc: Option<PathBuf>,
}

/// What is wrong with the `[http]` table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpSettingsError {
    #[error(
        "`http.proxy` of the configuration file is not a URL: give one such as \
         http://proxy.example:3128, or none"
    )]
    Proxy,
    #[error("`http.client-key` of the configuration file stands without `http.client-certificate`")]
    KeyAlone,
    #[error("the netrc file {} is not used", path.display())]
    Netrc {
        path: PathBuf,
        source: taipan_transfer::NetrcError,
    },
}

impl HttpTable {
    /// With the paths in it, which are relative to the file that it stands in.
    pub(crate) fn based(mut self, place: impl Fn(PathBuf) -> PathBuf) -> Self {
        self.roots = self.roots.into_iter().map(&place).collect();
        self.client_certificate = self.client_certificate.map(&place);
        self.client_key = self.client_key.map(&place);
        self.netrc = self.netrc.map(&place);
        self
    }

    /// The client, with the files read that belong to it.
    pub(crate) fn client(&self) -> Result<HttpClient, AppError> {
        let options = self.options()?;
        HttpClient::new(&options).map_err(AppError::Client)
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
            // The text may hold a password, so it is not shown.
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
            credentials: self.credentials()?,
            ..HttpOptions::default()
        })
    }

    fn credentials(&self) -> Result<Credentials, HttpSettingsError> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let usual = || Netrc::locate(std::env::var_os("NETRC"), home.as_deref());
        let Some(path) = self.netrc.clone().or_else(usual) else {
            return Ok(Credentials::new());
        };
        match read(&path)? {
            Some(netrc) => Ok(Credentials::new().with_netrc(netrc)),
            None => Ok(Credentials::new()),
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
        let dir = Path::new("/etc/taipan");
        table.based(|path| dir.join(path)).options()
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
    fn what_is_wrong_is_told_without_secrets() {
        let error = options("proxy = \"user:hunter2 at proxy\"").unwrap_err();
        assert!(error.to_string().contains("http.proxy"));
        assert!(!error.to_string().contains("hunter2"));
        let error = options("client-key = \"k.pem\"").unwrap_err();
        assert!(matches!(error, HttpSettingsError::KeyAlone));
        assert!(toml::from_str::<HttpTable>("rots = []").is_err());
    }

    #[test]
    fn a_netrc_file_that_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netrc");
        std::fs::write(&path, "machine\n").unwrap();
        let error = options(&format!("netrc = \"{}\"", path.display())).unwrap_err();
        assert!(error.to_string().contains("netrc"), "{error}");
    }
}
