//! The URL of a single file, kept as it was given.

use std::{fmt, path::Path};

use percent_encoding::percent_decode_str;
use taipan_mirrors::{Location, LocationError, S3Location, SafeUrl};
use url::Url;

use crate::list_location::without_secrets;

/// The URL of a file. It is requested as it is written: `%2B`, `%2F`, `//`, octets that are not UTF-8 and the query mean what
/// the server takes them for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileUrl {
    /// An `http` or `https` URL.
    Http(Url),
    /// A `file` URL of an absolute path.
    Local(Url),
    /// A key in a bucket. What follows `s3://BUCKET/` is the key, with nothing decoded.
    Object { bucket: S3Location, key: String },
}

/// A text that is not the URL of a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileUrlError {
    #[error("`{text}` is not a valid URL")]
    Malformed {
        text: String,
        source: url::ParseError,
    },
    #[error("`{text}` is not a valid URL of an object")]
    Object { text: String, source: LocationError },
    #[error(
        "cannot fetch `{url}` as a single file: use an https://, http://, s3:// or file:// URL, or \
         --channel and a path below the channel"
    )]
    Scheme { url: String },
    #[error("`{url}` does not name a file")]
    NoFile { url: String },
    #[error("`{url}` does not end in the name of a file: give a name with --output")]
    NoName { url: String },
}

impl FileUrl {
    /// Reads a URL.
    pub(crate) fn parse(text: &str) -> Result<Self, FileUrlError> {
        let no_file = || FileUrlError::NoFile {
            url: without_secrets(text),
        };
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            let bucket = match Location::parse(&format!("s3://{bucket}")) {
                Ok(Location::S3(bucket)) => bucket,
                Ok(_) => return Err(no_file()),
                Err(source) => {
                    return Err(FileUrlError::Object {
                        text: without_secrets(text),
                        source,
                    });
                }
            };
            let last = key.rsplit('/').next().unwrap_or_default();
            if matches!(last, "" | "." | "..") {
                return Err(no_file());
            }
            return Ok(Self::Object {
                bucket,
                key: key.to_owned(),
            });
        }
        let url = Url::parse(text).map_err(|source| FileUrlError::Malformed {
            text: without_secrets(text),
            source,
        })?;
        let is_supported = matches!(url.scheme(), "http" | "https" | "file");
        let url = Self::of_url(url);
        url.ok_or_else(|| {
            if is_supported {
                return no_file();
            }
            FileUrlError::Scheme {
                url: without_secrets(text),
            }
        })
    }

    /// The same for a URL that is not that of an object; `None` if it does not name a file.
    pub(crate) fn of_url(mut url: Url) -> Option<Self> {
        url.set_fragment(None);
        match url.scheme() {
            "http" | "https" => Some(Self::Http(url)),
            "file" if url.to_file_path().is_ok() && !url.path().ends_with('/') => {
                Some(Self::Local(url))
            }
            _ => None,
        }
    }

    /// The place whose measurements the file shares: its directory or its bucket.
    pub(crate) fn directory(&self) -> Location {
        match self {
            Self::Http(url) => {
                let mut parent = url.clone();
                parent.set_query(None);
                let path = url.path().rsplit_once('/').map_or("", |(parent, _)| parent);
                parent.set_path(path.trim_end_matches('/'));
                Location::Http(parent)
            }
            Self::Local(url) => {
                let path = url.to_file_path().unwrap_or_default();
                Location::File(path.parent().unwrap_or(Path::new("/")).to_owned())
            }
            Self::Object { bucket, .. } => Location::S3(bucket.clone()),
        }
    }

    /// The last part of the path; `None` if it cannot be the name of a file.
    pub(crate) fn name(&self) -> Option<String> {
        let name = match self {
            Self::Http(url) | Self::Local(url) => {
                let name = url.path().rsplit('/').next().unwrap_or_default();
                percent_decode_str(name).decode_utf8().ok()?.into_owned()
            }
            Self::Object { key, .. } => key.rsplit('/').next().unwrap_or_default().to_owned(),
        };
        let is_name = !matches!(&*name, "" | "." | "..") && !name.contains(['/', '\0']);
        is_name.then_some(name)
    }

    /// The path below the channel with this URL, if the file is there. `None` also for a path that would be another one after
    /// it is decoded: such a URL is only requested as it is.
    pub(crate) fn path_below(&self, channel: &taipan_channel::Channel) -> Option<String> {
        match self {
            Self::Http(url) | Self::Local(url) => {
                let path = channel.path_of(url)?;
                let mut parts = path.split('/');
                let is_plain = path.split('/').count() + channel_parts(channel)
                    == url.path().trim_start_matches('/').split('/').count();
                (is_plain && !parts.any(str::is_empty) && url.query().is_none()).then_some(path)
            }
            Self::Object { bucket, key } => {
                let text = format!("s3://{}/{key}", bucket.bucket);
                let path = text.strip_prefix(&channel.canonical())?;
                Some(path.strip_prefix('/')?.to_owned())
            }
        }
    }
}

/// The number of segments in the path of a channel's URL.
fn channel_parts(channel: &taipan_channel::Channel) -> usize {
    let path = channel.base().path().trim_matches('/');
    if path.is_empty() {
        0
    } else {
        path.split('/').count()
    }
}

/// Without secrets.
impl fmt::Display for FileUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) | Self::Local(url) => SafeUrl::from(url.clone()).fmt(f),
            Self::Object { bucket, key } => write!(f, "s3://{}/{key}", bucket.bucket),
        }
    }
}

/// The directory below which the file at a URL has the path `path`; `None` when the URL does not
/// end in that path.
pub(crate) fn directory_of(url: &Url, path: &str) -> Option<Location> {
    let decoded = percent_decode_str(url.path()).decode_utf8().ok()?;
    let directory = decoded.strip_suffix(path)?;
    if path.is_empty() || !directory.ends_with('/') || url.cannot_be_a_base() {
        return None;
    }
    let mut parent = url.clone();
    parent.set_fragment(None);
    parent.set_query(None);
    let mut segments = parent.path_segments_mut().ok()?;
    for _ in path.split('/') {
        segments.pop();
    }
    drop(segments);
    // A segment may contain an encoded slash; then more segments than the path has were removed.
    let is_same = percent_decode_str(parent.path())
        .decode_utf8()
        .is_ok_and(|parent| parent.trim_end_matches('/') == directory.trim_end_matches('/'));
    let location = Location::parse(parent.as_str()).ok()?;
    is_same.then_some(location)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_kept_and_has_a_directory_and_usually_a_name() {
        for (url, directory, name) in [
            (
                "https://a.example/x/y%20z?q=1#f",
                "https://a.example/x",
                Some("y z"),
            ),
            ("https://a.example/f", "https://a.example/", Some("f")),
            ("https://a.example//x//f", "https://a.example//x", Some("f")),
            (
                "https://a.example/o/x%2Fy.jpg?alt=media",
                "https://a.example/o",
                None,
            ),
            ("https://a.example/caf%E9", "https://a.example/", None),
            ("https://a.example/?id=17", "https://a.example/", None),
            ("https://a.example/d/?f=x", "https://a.example/d", None),
            ("s3://bucket/p/a%2B b", "s3://bucket", Some("a%2B b")),
            ("s3://bucket//p//f?x#y", "s3://bucket", Some("f?x#y")),
            ("file:///srv/a%25/f", "file:///srv/a%25", Some("f")),
        ] {
            let parsed = FileUrl::parse(url).unwrap();
            assert_eq!(parsed.directory().to_string(), directory, "{url}");
            assert_eq!(parsed.name().as_deref(), name, "{url}");
            if !url.contains('#') {
                assert_eq!(parsed.to_string(), url);
            }
        }
    }

    #[test]
    fn a_url_that_is_not_of_a_file_is_refused() {
        for url in [
            "file:///x/",
            "file://host/x",
            "s3://bucket/",
            "s3://bucket/a/..",
        ] {
            let error = FileUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains("does not name a file"), "{error}");
        }
        let error = FileUrl::parse("oci://me:pw@r.example/n/x").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("--channel") && !error.contains("pw"),
            "{error}"
        );
        let error = FileUrl::parse("https://a b/").unwrap_err().to_string();
        assert!(error.contains("not a valid URL"), "{error}");
    }

    #[test]
    fn a_path_below_a_channel_is_one_that_decoding_does_not_change() {
        let channel = |text: &str| {
            let alias = "https://alias.example".parse().unwrap();
            taipan_channel::Channel::parse(text, &alias, Path::new("/")).unwrap()
        };
        let below = |url: &str, of: &str| FileUrl::parse(url).unwrap().path_below(&channel(of));
        let web = "https://a.example/c";
        let path = below("https://a.example/c/noarch/b%2Bc.conda", web);
        assert_eq!(path.as_deref(), Some("noarch/b+c.conda"));
        for odd in [
            "noarch%2Fb.conda",
            "noarch//b.conda",
            "noarch/b.conda?v=1",
            "a%E9",
        ] {
            assert_eq!(below(&format!("{web}/{odd}"), web), None, "{odd}");
        }
        assert_eq!(below("https://a.example/d/x", web), None);
        let path = below("s3://bucket/c/noarch/b%2B.conda", "s3://bucket/c");
        assert_eq!(path.as_deref(), Some("noarch/b%2B.conda"));
    }

    #[test]
    fn a_path_of_several_segments_is_below_its_directory() {
        let directory = |url: &str, path: &str| {
            directory_of(&url.parse().unwrap(), path).map(|location| location.to_string())
        };
        let found = directory(
            "https://a.example/x%20y/noarch/b%2Bc.conda?sig=x",
            "noarch/b+c.conda",
        );
        assert_eq!(
            found.unwrap().trim_end_matches('/'),
            "https://a.example/x%20y"
        );
        for (url, path) in [
            ("https://a.example/x/other.conda", "noarch/b.conda"),
            ("https://a.example/xnoarch/b.conda", "noarch/b.conda"),
            ("https://a.example/x%2Fb.conda", "b.conda"),
            ("https://a.example/", ""),
        ] {
            assert_eq!(directory(url, path), None, "{url}");
        }
    }
}
