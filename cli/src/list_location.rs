//! Where a mirror list or a metalink is.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use taipan_mirrors::SafeUrl;
use url::Url;

/// The path or the URL of a mirror list or a metalink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListLocation {
    File(PathBuf),
    /// An `http` or `https` URL.
    Url(Url),
}

/// The text is neither a path nor a supported URL.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a location of a mirror list: use a path or an http(s):// URL")]
pub(crate) struct ListLocationError {
    text: String,
}

impl ListLocation {
    /// Parses an `http`, `https` or `file` URL, or a path.
    pub(crate) fn parse(text: &str) -> Result<Self, ListLocationError> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let error = || ListLocationError {
            text: without_secrets(text),
        };
        let url = Url::parse(text).map_err(|_| error())?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Url(url)),
            "file" => Ok(Self::File(url.to_file_path().map_err(|()| error())?)),
            _ => Err(error()),
        }
    }

    /// Resolves a relative path below `directory`.
    pub(crate) fn below(self, directory: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(directory.join(path)),
            url @ Self::Url(_) => url,
        }
    }
}

impl fmt::Display for ListLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => SafeUrl::from(url.clone()).fmt(f),
        }
    }
}

/// A text that contains `://` as it may be printed: without its secrets, or its scheme alone when
/// it cannot be parsed.
pub(crate) fn without_secrets(text: &str) -> String {
    match text.parse::<SafeUrl>() {
        Ok(url) => url.to_string(),
        Err(_) => text.split("://").next().unwrap_or_default().to_owned() + "://…",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_path_or_an_http_url() {
        let parse = |text: &str| ListLocation::parse(text).map(|location| location.to_string());
        assert_eq!(parse("dir/m.toml").unwrap(), "dir/m.toml");
        assert_eq!(parse("file:///srv/my%20list").unwrap(), "/srv/my list");
        assert_eq!(
            parse("https://me:pw@a.example/m?token=x").unwrap(),
            "https://***@a.example/m?token=***"
        );
        let error = parse("s3://me:pw@bucket/m").unwrap_err().to_string();
        assert!(
            error.starts_with("`s3://***@bucket/m` is not a location"),
            "{error}"
        );
    }
}
