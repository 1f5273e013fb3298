use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;
use url::Url;

use crate::safe_url::{mask_text, write_masked};

/// In bytes.
const LONGEST: usize = 8192;
const SCHEMES: &[&str] = &["https", "http", "s3", "oci", "oci+http", "file"];

/// The location of a mirror.
///
/// `Display` and `Debug` mask secrets; see [`SafeUrl`](crate::SafeUrl).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory on an HTTP server, without trailing slash and fragment.
    Http(Url),
    /// A prefix in a bucket.
    S3(S3Location),
    /// A namespace in a registry.
    Oci(OciLocation),
    /// A local directory, as an absolute path.
    File(PathBuf),
}

/// A prefix in a bucket of an S3 service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Location {
    pub bucket: String,
    /// The prefix of all keys, without slashes at the ends; empty for the whole bucket.
    pub prefix: String,
    /// The service, if not that of the default chain.
    pub endpoint: Option<Url>,
    /// The region, if not that of the default chain.
    pub region: Option<String>,
    /// Whether the bucket is in the path rather than in the host name.
    pub path_style: bool,
    /// Whether requests are not signed.
    pub anonymous: bool,
}

/// A namespace in a registry that speaks the OCI distribution protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OciLocation {
    /// `host` or `host:port`.
    pub registry: String,
    /// The prefix of all repository names, without slashes at the ends; may be empty.
    pub namespace: String,
    /// Whether the connection is without TLS.
    pub plain_http: bool,
}

/// Why a text is not a location.
///
/// Messages do not contain secrets of the text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LocationError {
    #[error("it is empty")]
    Empty,
    #[error("it is {bytes} bytes long, the limit is {LONGEST}")]
    TooLong { bytes: usize },
    #[error("`{text}` has no scheme; write `https://…`, `s3://…`, `oci://…` or `file:///…`")]
    NoScheme {
        /// Without secrets.
        text: String,
    },
    #[error("`{scheme}://` is not a kind of mirror; known are {}", known_schemes())]
    UnknownScheme { scheme: String },
    #[error("`{text}` is not a URL")]
    Malformed {
        /// Without secrets.
        text: String,
        #[source]
        source: url::ParseError,
    },
    #[error("`{bucket}` is not a bucket name: 1 to 255 of letters, digits, `.`, `_` and `-`")]
    BadBucket { bucket: String },
    #[error(
        "`{namespace}` is not a repository name: lower-case letters and digits, in parts divided by `/`, `.`, `_`, `__` or `-`"
    )]
    BadNamespace { namespace: String },
    /// A user name or password where none is supported.
    #[error("credentials in the URL are not used for `{scheme}://`; take them out")]
    UnexpectedCredentials { scheme: &'static str },
    /// A query or a fragment where none is supported.
    #[error("`{scheme}://` takes no `?` or `#`; give options as keys beside the URL")]
    UnexpectedQuery { scheme: &'static str },
    /// A file URL with a host or a relative path.
    #[error("`{text}` does not name an absolute path on this machine; write `file:///…`")]
    NotLocal {
        /// Without secrets.
        text: String,
    },
}

fn known_schemes() -> String {
    SCHEMES
        .iter()
        .map(|s| format!("`{s}://`"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Location {
    /// Reads `https://…`, `http://…`, `s3://bucket/prefix`, `oci://host/namespace`,
    /// `oci+http://host:port/namespace`, `file:///…` or an absolute path.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if text.len() > LONGEST {
            return Err(LocationError::TooLong { bytes: text.len() });
        }
        if text.starts_with('/') && !text.starts_with("//") {
            return Ok(Self::File(tidy_path(Path::new(text))));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            // `file:/path` is legal by RFC 8089 §2 and the only scheme that may lack the slashes.
            if text
                .get(..5)
                .is_some_and(|head| head.eq_ignore_ascii_case("file:"))
            {
                return parse_file(text);
            }
            return Err(LocationError::NoScheme {
                text: mask_text(text),
            });
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => parse_http(text),
            "s3" => parse_s3(rest).map(Self::S3),
            "oci" => parse_oci(text, rest, false).map(Self::Oci),
            "oci+http" => parse_oci(text, rest, true).map(Self::Oci),
            "file" => parse_file(text),
            other => Err(LocationError::UnknownScheme {
                scheme: mask_text(other),
            }),
        }
    }

    /// The URL of `path` below an HTTP location; `None` for other kinds and for a path that leaves the
    /// location.
    ///
    /// `path` is plain text, not percent-encoded; segments are separated by `/`.
    pub fn join(&self, path: &str) -> Option<Url> {
        let Self::Http(base) = self else { return None };
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return None;
        }
        let mut url = base.clone();
        url.path_segments_mut()
            .ok()?
            .pop_if_empty()
            .extend(path.split('/').filter(|segment| !segment.is_empty()));
        Some(url)
    }

    /// The location at `path` below this one; `None` if the path leaves it or is not a valid repository
    /// name.
    pub fn below(&self, path: &str) -> Option<Self> {
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return None;
        }
        let path = tidy_prefix(path);
        if path.is_empty() {
            return Some(self.clone());
        }
        let joined = |prefix: &str| tidy_prefix(&format!("{prefix}/{path}"));
        Some(match self {
            Self::Http(_) => Self::Http(self.join(&path)?),
            Self::S3(s3) => Self::S3(S3Location {
                prefix: joined(&s3.prefix),
                ..s3.clone()
            }),
            Self::Oci(oci) => {
                let namespace = joined(&oci.namespace);
                if !is_repository_name(&namespace) {
                    return None;
                }
                Self::Oci(OciLocation {
                    namespace,
                    ..oci.clone()
                })
            }
            Self::File(base) => Self::File(base.join(path)),
        })
    }

    /// A text without secrets that is the same for all spellings of one location.
    ///
    /// Host names are in lower case, default ports and trailing slashes are removed, user information
    /// and signed query values are masked. It identifies mirrors, also in the saved state.
    pub fn key(&self) -> String {
        match self {
            Self::Http(url) => {
                let mut bare = url.clone();
                // Both calls fail only for URLs without a host, which HTTP URLs are not.
                let _ = bare.set_username("");
                let _ = bare.set_password(None);
                let mut key = String::new();
                write_masked(&bare, &mut key).expect("writing to a string cannot fail");
                key.truncate(key.trim_end_matches('/').len());
                key
            }
            Self::S3(s3) => match &s3.endpoint {
                Some(endpoint) => format!("{self}?endpoint={}", Self::Http(endpoint.clone()).key()),
                None => self.to_string(),
            },
            Self::Oci(_) | Self::File(_) => self.to_string(),
        }
    }

    /// Whether both are the same location; spelling and credentials do not matter.
    pub fn same_place(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    pub fn scheme(&self) -> &str {
        match self {
            Self::Http(url) => url.scheme(),
            Self::S3(_) => "s3",
            Self::Oci(OciLocation {
                plain_http: false, ..
            }) => "oci",
            Self::Oci(OciLocation {
                plain_http: true, ..
            }) => "oci+http",
            Self::File(_) => "file",
        }
    }
}

/// The texts of locations, without secrets and each different: equal ones get the endpoint of a bucket, or a number.
pub fn distinct_texts<'a>(locations: impl Iterator<Item = &'a Location>) -> Vec<String> {
    let locations: Vec<&Location> = locations.collect();
    let mut texts: Vec<String> = locations.iter().map(ToString::to_string).collect();
    let repeated = |texts: &[String]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for text in texts {
            *counts.entry(text.clone()).or_default() += 1;
        }
        counts.retain(|_, count| *count > 1);
        counts
    };
    let counts = repeated(&texts);
    for (text, location) in texts.iter_mut().zip(&locations) {
        if counts.contains_key(text)
            && let Location::S3(S3Location {
                endpoint: Some(endpoint),
                ..
            }) = location
        {
            let endpoint = Location::Http(endpoint.clone()).to_string();
            let endpoint = endpoint.trim_end_matches('/');
            *text = format!("{text} at {endpoint}");
        }
    }
    let counts = repeated(&texts);
    let mut seen: HashMap<String, usize> = HashMap::new();
    for text in &mut texts {
        if counts.contains_key(text) {
            let number = seen.entry(text.clone()).or_default();
            *number += 1;
            *text = format!("{text} #{number}");
        }
    }
    texts
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, inner) = match self {
            Self::Http(url) => return write_masked(url, f),
            Self::File(path) => {
                return match Url::from_file_path(path) {
                    Ok(url) => f.write_str(url.as_str()),
                    Err(()) => write!(f, "file://{}", path.display()),
                };
            }
            Self::S3(s3) => (&s3.bucket, &s3.prefix),
            Self::Oci(oci) => (&oci.registry, &oci.namespace),
        };
        write!(f, "{}://{place}", self.scheme())?;
        if inner.is_empty() {
            Ok(())
        } else {
            write!(f, "/{inner}")
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(s3) => fmt::Debug::fmt(s3, f),
            _ => write!(f, "Location({self})"),
        }
    }
}

impl S3Location {
    /// A prefix in a bucket of the default service.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            path_style: false,
            anonymous: false,
        }
    }
}

/// Parses an HTTP URL and removes fragment and trailing slash.
pub(crate) fn parse_http(text: &str) -> Result<Location, LocationError> {
    let mut url = Url::parse(text).map_err(|source| LocationError::Malformed {
        text: mask_text(text),
        source,
    })?;
    url.set_fragment(None);
    let trimmed = url.path().trim_end_matches('/').len();
    if trimmed < url.path().len() {
        let path = url.path()[..trimmed].to_owned();
        url.set_path(&path);
    }
    Ok(Location::Http(url))
}

fn parse_s3(rest: &str) -> Result<S3Location, LocationError> {
    refuse_extras("s3", rest)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let valid = (1..=255).contains(&bucket.len())
        && bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
        && bucket
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !valid {
        return Err(LocationError::BadBucket {
            bucket: mask_text(bucket),
        });
    }
    Ok(S3Location::new(bucket, tidy_prefix(prefix)))
}

fn parse_oci(text: &str, rest: &str, plain_http: bool) -> Result<OciLocation, LocationError> {
    let scheme = if plain_http { "oci+http" } else { "oci" };
    refuse_extras(scheme, rest)?;
    let (host, namespace) = rest.split_once('/').unwrap_or((rest, ""));
    // The URL parser checks hosts, ports and IPv6 literals, and drops the default port.
    let carrier = format!("{}://{host}", if plain_http { "http" } else { "https" });
    let url = Url::parse(&carrier).map_err(|source| LocationError::Malformed {
        text: mask_text(text),
        source,
    })?;
    let registry = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let namespace = tidy_prefix(namespace);
    if !namespace.is_empty() && !is_repository_name(&namespace) {
        return Err(LocationError::BadNamespace {
            namespace: mask_text(&namespace),
        });
    }
    Ok(OciLocation {
        registry,
        namespace,
        plain_http,
    })
}

fn parse_file(text: &str) -> Result<Location, LocationError> {
    let url = Url::parse(text).map_err(|source| LocationError::Malformed {
        text: mask_text(text),
        source,
    })?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(LocationError::UnexpectedQuery { scheme: "file" });
    }
    let path = url.to_file_path().map_err(|()| LocationError::NotLocal {
        text: mask_text(text),
    })?;
    Ok(Location::File(tidy_path(&path)))
}

/// Rejects parts that would otherwise become part of a name.
fn refuse_extras(scheme: &'static str, rest: &str) -> Result<(), LocationError> {
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err(LocationError::UnexpectedCredentials { scheme });
    }
    if rest.contains(['?', '#']) {
        return Err(LocationError::UnexpectedQuery { scheme });
    }
    Ok(())
}

/// Repository names by the OCI distribution specification, "Pulling manifests".
fn is_repository_name(name: &str) -> bool {
    name.len() <= 255 && name.split('/').all(is_repository_part)
}

fn is_repository_part(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !part.starts_with(alphanumeric) || !part.ends_with(alphanumeric) {
        return false;
    }
    part.split(alphanumeric).all(|divider| {
        matches!(divider, "" | "." | "_" | "__") || divider.chars().all(|c| c == '-')
    })
}

/// Drops empty segments, so that two spellings of a prefix compare equal.
fn tidy_prefix(prefix: &str) -> String {
    prefix
        .split('/')
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join("/")
}

/// Drops a trailing slash and `.` segments; leaves `..` alone because of symbolic links.
fn tidy_path(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        Location::parse(text).unwrap().key()
    }

    #[test]
    fn texts_of_equal_locations_are_told_apart() {
        let s3 = |endpoint: &str| {
            Location::S3(S3Location {
                endpoint: (!endpoint.is_empty()).then(|| endpoint.parse().unwrap()),
                ..S3Location::new("b", "p")
            })
        };
        let other = Location::parse("https://me:pw@h.example/c").unwrap();
        let locations = [
            s3("https://one.example"),
            s3("https://two.example:9/x"),
            s3(""),
            other.clone(),
            other,
        ];
        assert_eq!(
            distinct_texts(locations.iter()),
            [
                "s3://b/p at https://one.example",
                "s3://b/p at https://two.example:9/x",
                "s3://b/p",
                "https://***@h.example/c #1",
                "https://***@h.example/c #2"
            ]
        );
        assert_eq!(distinct_texts(locations[..1].iter()), ["s3://b/p"]);
    }

    #[test]
    fn spellings_of_one_place_have_one_key() {
        for (a, b) in [
            ("https://Host.Example/a/", "HTTPS://host.example:443/a"),
            ("https://me:pw@host.example/a", "https://host.example/a"),
            ("http://host.example", "http://host.example:80///"),
            ("s3://bucket/a/b/", "s3://bucket//a/b"),
            ("oci://Ghcr.Example/ns/", "oci://ghcr.example:443/ns"),
            ("oci+http://127.0.0.1/ns", "oci+http://127.0.0.1:80/ns/"),
            ("file:///srv/x/", "/srv/x"),
            ("file:/srv/x", "file://localhost/srv/./x"),
            ("/srv/50%20", "file:///srv/50%2520"),
        ] {
            assert_eq!(key(a), key(b), "{a} {b}");
        }
        for (a, b) in [
            ("https://host.example/a", "http://host.example/a"),
            ("https://host.example/a", "https://host.example/A"),
            ("https://host.example:8443/a", "https://host.example/a"),
            ("oci://h.example/ns", "oci+http://h.example/ns"),
            ("s3://bucket", "s3://bucket/p"),
        ] {
            assert_ne!(key(a), key(b), "{a} {b}");
        }
    }

    #[test]
    fn two_services_with_the_same_bucket_are_two_places() {
        let one = S3Location::new("b", "p");
        let mut two = one.clone();
        two.endpoint = Some(Url::parse("http://127.0.0.1:9000/").unwrap());
        assert!(!Location::S3(one).same_place(&Location::S3(two)));
    }

    #[test]
    fn the_kinds_are_read() {
        assert_eq!(
            Location::parse("s3://my-bucket/a/b").unwrap(),
            Location::S3(S3Location::new("my-bucket", "a/b"))
        );
        assert_eq!(
            Location::parse("oci+http://127.0.0.1:5000/a/b-c").unwrap(),
            Location::Oci(OciLocation {
                registry: "127.0.0.1:5000".into(),
                namespace: "a/b-c".into(),
                plain_http: true,
            })
        );
        let oci = Location::parse("oci://[::1]:5000/x").unwrap();
        assert_eq!(oci.to_string(), "oci://[::1]:5000/x");
        assert_eq!(
            Location::parse("file:///a%20b").unwrap(),
            Location::File(PathBuf::from("/a b"))
        );
    }

    #[test]
    fn joining_stays_inside_and_encodes() {
        let base = Location::parse("https://h.example/a?sig=s").unwrap();
        assert_eq!(
            base.join("dir/x 1!2%.bin").unwrap().as_str(),
            "https://h.example/a/dir/x%201!2%25.bin?sig=s"
        );
        assert_eq!(
            Location::parse("http://h.example/")
                .unwrap()
                .join("/x")
                .unwrap()
                .as_str(),
            "http://h.example/x"
        );
        assert!(base.join("../x").is_none());
        assert!(base.join("a/./x").is_none());
        assert!(Location::parse("/tmp").unwrap().join("x").is_none());
    }

    #[test]
    fn a_joined_path_cannot_change_host_or_query() {
        let base = Location::parse("https://h.example/a").unwrap();
        for path in [
            "http://evil.example/",
            "//evil.example/x",
            "x?y=1",
            "x#y",
            "\\\\evil",
            "%2e%2e/x",
        ] {
            let url = base.join(path).unwrap();
            assert_eq!(url.host_str(), Some("h.example"), "{path}");
            assert!(url.path().starts_with("/a/"), "{path}: {url}");
            assert_eq!((url.query(), url.fragment()), (None, None), "{path}");
        }
    }

    #[test]
    fn an_invalid_location_is_refused_with_the_valid_forms() {
        for (text, part) in [
            ("", "empty"),
            ("host.example/a", "has no scheme"),
            ("ftp://h.example/a", "`https://`"),
            ("https://", "is not a URL"),
            ("https://h.example:99999/", "is not a URL"),
            ("s3:///x", "bucket name"),
            ("s3://b?region=x", "no `?`"),
            ("s3://key:secret@bucket/x", "credentials"),
            ("oci://h.example/Upper", "lower-case"),
            ("oci://h.example/a..b", "repository name"),
            ("oci:///ns", "is not a URL"),
            ("file://elsewhere.example/a", "absolute path"),
        ] {
            let error = Location::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(matches!(
            Location::parse(&format!("https://h.example/{}", "a".repeat(10_000))),
            Err(LocationError::TooLong { .. })
        ));
    }

    #[test]
    fn display_and_debug_mask_secrets() {
        let location = Location::parse("https://me:hush@h.example/a?token=hush").unwrap();
        assert!(!format!("{location} {location:?} {}", location.key()).contains("hush"));
    }
}
