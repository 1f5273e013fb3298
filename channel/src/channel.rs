//! Channels: their names and URLs, and the paths of their files.

use std::{fmt, path::Path};

use rattler_conda_types::Subdir;
use taipan_mirrors::{mask_text, without_credentials};
use url::Url;

/// Why a name or URL does not name a channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The name is empty or has invalid characters.
    #[error(
        "`{name}` is not a channel: give a name such as `conda-forge`, \
         a path such as `./channel`, or a URL that starts with https://, file://, s3:// or oci://"
    )]
    Name { name: String },
    /// The URL cannot be parsed.
    #[error("the channel `{name}` is not a valid URL")]
    Url {
        name: String,
        source: url::ParseError,
    },
    /// The scheme is not supported.
    #[error(
        "the channel `{name}` has the unsupported scheme `{scheme}`: use https, http, file, s3, oci or \
         oci+http"
    )]
    Scheme { name: String, scheme: String },
}

/// A channel: the directory that holds `linux-64/`, `noarch/` and so on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Channel {
    name: String,
    base: Url,
}

impl Channel {
    /// Parses a channel: a URL, a path that starts with `.`, `/` or `~`, or a
    /// name that is looked up below `alias`. Relative paths are relative to `directory`. The name of
    /// a subdir at the end is taken off, as in conda.
    pub fn parse(text: &str, alias: &Url, directory: &Path) -> Result<Self, ChannelError> {
        let name = || mask_text(text);
        let mut base = if text.contains("://") {
            let url = Url::parse(text).map_err(|source| ChannelError::Url {
                name: name(),
                source,
            })?;
            if !matches!(
                url.scheme(),
                "https" | "http" | "file" | "s3" | "oci" | "oci+http"
            ) {
                let scheme = url.scheme().to_owned();
                return Err(ChannelError::Scheme {
                    name: name(),
                    scheme,
                });
            }
            url
        } else if text.starts_with(['.', '/', '~']) {
            let path = match text.strip_prefix("~/") {
                Some(rest) => std::env::home_dir().unwrap_or_default().join(rest),
                None => directory.join(text),
            };
            let path =
                std::path::absolute(&path).map_err(|_| ChannelError::Name { name: name() })?;
            // `absolute` keeps `..`, which a canonical URL must not have.
            let path = path.canonicalize().unwrap_or(path);
            Url::from_directory_path(&path).map_err(|()| ChannelError::Name { name: name() })?
        } else {
            let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            if text.is_empty() || !text.chars().all(legal) || text.split('/').any(str::is_empty) {
                return Err(ChannelError::Name { name: name() });
            }
            let mut url = alias.clone();
            url.path_segments_mut()
                .map_err(|()| ChannelError::Name { name: name() })?
                .pop_if_empty()
                .extend(text.split('/'));
            url
        };
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        without_subdir(&mut base);
        let canonical = Self::canonical_of(&base);
        let short = match canonical.strip_prefix(&Self::canonical_of(alias)) {
            Some(rest) if rest.starts_with('/') => rest.trim_matches('/').to_owned(),
            _ => canonical,
        };
        Ok(Self { name: short, base })
    }

    /// Its name for users: its path below the alias, or its URL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL, with a slash at the end.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Its URL as records have it: without userinfo, without a token and without a slash at the end.
    pub fn canonical(&self) -> String {
        Self::canonical_of(&self.base)
    }

    /// The same as a URL, with a slash at the end.
    pub fn canonical_url(&self) -> Url {
        let text = format!("{}/", self.canonical());
        text.parse().expect("the canonical form of a URL is a URL")
    }

    fn canonical_of(base: &Url) -> String {
        // A record must not contain a password or token.
        let url = without_credentials(base);
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// The URL of a subdir, as records have it, with a slash at the end.
    pub fn subdir_url(&self, subdir: &str) -> Url {
        let text = format!("{}/{subdir}/", self.canonical());
        text.parse()
            .expect("the URL of a channel and a subdir's name make a URL")
    }

    /// The path of `url` below this channel, if it is there.
    pub fn path_of(&self, url: &Url) -> Option<String> {
        let path = without_credentials(url);
        let path = path
            .as_str()
            .strip_prefix(&self.canonical())?
            .strip_prefix('/')?;
        let path = percent_decode(path)?;
        (!path.is_empty()).then_some(path)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Takes the name of a subdir off the end of a channel's URL.
fn without_subdir(base: &mut Url) {
    let path = base.path().trim_end_matches('/');
    if let Some((above, last)) = path.rsplit_once('/')
        && last.parse::<Subdir>().is_ok()
        && !above.trim_matches('/').is_empty()
    {
        let above = format!("{above}/");
        base.set_path(&above);
    }
}

/// Decodes `%XX`; `None` when the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%'
            && let Some(digits) = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok())
            && let Ok(byte) = u8::from_str_radix(digits, 16)
        {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Channel, ChannelError> {
        let alias = "https://conda.anaconda.org".parse().unwrap();
        Channel::parse(text, &alias, Path::new("/home/me"))
    }

    #[test]
    fn a_subdir_at_the_end_is_taken_off() {
        for (text, canonical) in [
            ("https://h.example/c/linux-64", "https://h.example/c"),
            ("https://h.example/c/noarch/", "https://h.example/c"),
            (
                "conda-forge/osx-arm64",
                "https://conda.anaconda.org/conda-forge",
            ),
            ("/srv/c/win-64", "file:///srv/c"),
            ("https://h.example/linux-64", "https://h.example/linux-64"),
            ("https://h.example/c/label/x", "https://h.example/c/label/x"),
        ] {
            assert_eq!(parse(text).unwrap().canonical(), canonical, "{text}");
        }
    }

    #[test]
    fn names_lie_below_the_alias() {
        let channel = parse("conda-forge/label/dev").unwrap();
        assert_eq!(
            channel.canonical(),
            "https://conda.anaconda.org/conda-forge/label/dev"
        );
        assert_eq!(channel.name(), "conda-forge/label/dev");
        assert_eq!(
            parse("https://conda.anaconda.org/bioconda/")
                .unwrap()
                .name(),
            "bioconda"
        );
        assert_eq!(
            channel.subdir_url("noarch").as_str(),
            "https://conda.anaconda.org/conda-forge/label/dev/noarch/"
        );
    }

    #[test]
    fn urls_and_paths_are_themselves() {
        assert_eq!(
            parse("http://127.0.0.1:80/c").unwrap().canonical(),
            "http://127.0.0.1/c"
        );
        assert_eq!(
            parse("./no/such channel").unwrap().base().as_str(),
            "file:///home/me/no/such%20channel/"
        );
        assert_eq!(
            parse("oci://ghcr.io/mirrors/x").unwrap().canonical(),
            "oci://ghcr.io/mirrors/x"
        );
    }

    #[test]
    fn a_password_is_not_part_of_the_name() {
        let channel = parse("https://me:secret@host.example/c").unwrap();
        assert!(!channel.name().contains("secret"));
        assert!(!channel.canonical().contains("secret"));
        assert!(channel.base().as_str().contains("secret"));
    }

    #[test]
    fn what_is_no_channel_is_refused() {
        for bad in [
            "",
            "a b",
            "a//b",
            "conda-forge::numpy",
            "ftp://host/c",
            "http://",
            "numpy>=1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_found_by_its_url() {
        let channel = parse("https://host.example/c").unwrap();
        let path = |url: &str| channel.path_of(&url.parse().unwrap());
        assert_eq!(
            path("https://host.example/c/noarch/a%20b.conda").unwrap(),
            "noarch/a b.conda"
        );
        assert_eq!(path("https://host.example/cc/noarch/a.conda"), None);
        assert_eq!(path("https://other.example/c/noarch/a.conda"), None);
    }
}
