//! For which server credentials are.

use url::Url;

use super::AuthError;

/// A server with credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A registry: `host` or `host:port`.
    Registry(String),
    /// A web server: `host` or `host:port`.
    Web(String),
}

impl Place {
    /// Reads `oci://HOST`, `oci+http://HOST`, `https://HOST` or `http://HOST`, with any path behind it.
    pub(crate) fn parse(text: &str) -> Result<Self, AuthError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        // What is before an `@` may be a secret.
        let shown = match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://…@{host}"),
            None => text.to_owned(),
        };
        let unknown = || AuthError::Place {
            place: shown.clone(),
        };
        // The URL parser knows the grammar of hosts. Its default ports depend on the scheme.
        let url = match scheme {
            "https" | "http" => Url::parse(text),
            "oci" => Url::parse(&format!("https://{rest}")),
            "oci+http" => Url::parse(&format!("http://{rest}")),
            "s3" => return Err(AuthError::Bucket),
            _ => return Err(unknown()),
        };
        let url = url.map_err(|_| unknown())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unknown());
        }
        let host = url.host_str().ok_or_else(unknown)?;
        let host = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(match scheme {
            "https" | "http" => Self::Web(host),
            _ => Self::Registry(host),
        })
    }

    /// The URL of the server.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Registry(host) => format!("oci://{host}"),
            Self::Web(host) => format!("https://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart_by_their_scheme() {
        let registry = |host: &str| Place::Registry(host.to_owned());
        let web = |host: &str| Place::Web(host.to_owned());
        for (text, expected) in [
            ("oci://ghcr.io", registry("ghcr.io")),
            ("oci://GHCR.io/me/channel", registry("ghcr.io")),
            ("oci+http://127.0.0.1:5000/x", registry("127.0.0.1:5000")),
            ("https://a.example/t/channel?x", web("a.example")),
            ("http://[::1]:8080", web("[::1]:8080")),
        ] {
            assert_eq!(Place::parse(text).unwrap(), expected);
        }
        for text in [
            "ghcr.io",
            "",
            "ftp://a",
            "https://",
            "oci://me:hunter2@a",
            "https://hunter2@a/",
        ] {
            let error = Place::parse(text).unwrap_err();
            assert!(matches!(error, AuthError::Place { .. }), "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert!(matches!(Place::parse("s3://b"), Err(AuthError::Bucket)));
    }
}
