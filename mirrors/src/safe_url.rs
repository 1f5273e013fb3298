use std::fmt;
use std::str::FromStr;

use url::Url;

/// Replaces a secret.
const MASK: &str = "***";

/// Query keys whose value grants access. The comparison ignores case.
const SECRET_KEYS: &[&str] = &[
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "authorization",
    "awsaccesskeyid",
    "client_secret",
    "key-pair-id",
    "password",
    "policy",
    "private_token",
    "secret",
    "sig",
    "signature",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-amz-signature",
    "x-goog-credential",
    "x-goog-signature",
    "x-oss-security-token",
    "x-oss-signature",
];

/// A URL whose `Display` and `Debug` mask secrets: user name and password, the values of query keys that sign or authorise
/// (`X-Amz-Signature`, `token`, `sig` and the like), and the segment after `/t/` in the path, where
/// some servers expect a token.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafeUrl(Url);

impl SafeUrl {
    /// The URL with its secrets, for requests.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The URL with its secrets, for requests.
    pub fn into_url(self) -> Url {
        self.0
    }
}

impl From<Url> for SafeUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl FromStr for SafeUrl {
    type Err = url::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Url::parse(text).map(Self)
    }
}

impl fmt::Display for SafeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_masked(&self.0, f)
    }
}

impl fmt::Debug for SafeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SafeUrl({self})")
    }
}

/// Whether the value of this query key is a secret.
fn is_secret_key(key: &str) -> bool {
    SECRET_KEYS
        .iter()
        .any(|secret| secret.eq_ignore_ascii_case(key))
}

/// Whether the segment of a path after this one is a token, as anaconda.org and its like have it (`/t/TOKEN/CHANNEL`).
fn is_token_marker(segment: &str) -> bool {
    segment == "t"
}

/// The URL without user information and without a token in its path: the same for everyone who may read it. The URLs of local
/// directories have neither.
#[must_use]
pub fn without_credentials(url: &Url) -> Url {
    let mut bare = url.clone();
    // Both calls fail only for URLs without a host.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    if !matches!(url.scheme(), "http" | "https") {
        return bare;
    }
    let mut segments = url.path().split('/');
    let mut kept = Vec::new();
    while let Some(segment) = segments.next() {
        if is_token_marker(segment) {
            match segments.next() {
                // A directory that is called `t`.
                Some("") => kept.extend([segment, ""]),
                None => kept.push(segment),
                Some(_) => {}
            }
        } else {
            kept.push(segment);
        }
    }
    bare.set_path(&kept.join("/"));
    bare
}

/// A text with the credentials taken off the web URLs in it, which end before white space, a quote, a bracket, a comma or
/// `::`.
#[must_use]
pub fn without_credentials_in(text: &str) -> String {
    with_urls(text, |url, parsed| {
        let bare = without_credentials(parsed);
        // The parser adds a slash to a host alone.
        let bare = bare.as_str();
        let is_cut = !url.ends_with('/');
        let bare = if is_cut {
            bare.trim_end_matches('/')
        } else {
            bare
        };
        bare.to_owned()
    })
}

/// A text with the secrets of the web URLs in it masked.
#[must_use]
pub fn masked_in(text: &str) -> String {
    with_urls(text, |_, parsed| SafeUrl(parsed.clone()).to_string())
}

/// A text with other URLs.
fn with_urls(text: &str, other: impl Fn(&str, &Url) -> String) -> String {
    let mut out = String::new();
    let mut rest = text;
    let next = |text: &str| {
        ["http://", "https://"]
            .iter()
            .filter_map(|it| text.find(it))
            .min()
    };
    while let Some(start) = next(rest) {
        let (before, url) = rest.split_at(start);
        let (url, after) = url.split_at(end_of_url(url));
        out.push_str(before);
        out.push_str(&match Url::parse(url) {
            Ok(parsed) => other(url, &parsed),
            // The user information may be what makes it malformed.
            Err(_) => mask_text(url),
        });
        rest = after;
    }
    out + rest
}

/// The length of the URL at the beginning of a text.
fn end_of_url(text: &str) -> usize {
    let is_end =
        |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | ',' | '[' | ']' | '<' | '>');
    let mut at = text.find("://").map_or(0, |at| at + 3);
    // An IPv6 address is in brackets and has `::`.
    let authority = text[at..]
        .find(['/', ' '])
        .map_or(text.len(), |end| at + end);
    if let Some(close) = text[at..authority].find(']')
        && text[at..at + close].contains('[')
    {
        at += close + 1;
    }
    let end = text[at..].find(is_end).map_or(text.len(), |end| at + end);
    text[at..end].find("::").map_or(end, |end| at + end)
}

/// Writes a URL without its secrets.
pub(crate) fn write_masked(url: &Url, f: &mut impl fmt::Write) -> fmt::Result {
    write!(f, "{}:", url.scheme())?;
    if url.has_authority() {
        f.write_str("//")?;
        if !url.username().is_empty() || url.password().is_some() {
            write!(f, "{MASK}@")?;
        }
        if let Some(host) = url.host_str() {
            f.write_str(host)?;
        }
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
    }
    let mut after_token_marker = false;
    for (index, segment) in url.path().split('/').enumerate() {
        if index > 0 {
            f.write_str("/")?;
        }
        let masked = after_token_marker && !segment.is_empty();
        f.write_str(if masked { MASK } else { segment })?;
        after_token_marker = is_token_marker(segment) && !matches!(url.scheme(), "file" | "s3");
    }
    if let Some(query) = url.query() {
        for (index, pair) in query.split('&').enumerate() {
            f.write_str(if index == 0 { "?" } else { "&" })?;
            match pair.split_once('=') {
                // The key may be percent-encoded to evade the list.
                Some((key, _)) if is_secret_key(&decoded_key(pair)) => write!(f, "{key}={MASK}")?,
                _ => f.write_str(pair)?,
            }
        }
    }
    if let Some(fragment) = url.fragment() {
        write!(f, "#{fragment}")?;
    }
    Ok(())
}

fn decoded_key(pair: &str) -> String {
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(key, _)| key.into_owned())
        .unwrap_or_default()
}

/// Masks the secrets of a text that may not be a URL, and cuts it to 200 characters for an error message.
pub fn mask_text(text: &str) -> String {
    const LONGEST: usize = 200;
    // `me:password@host` parses as a URL of the scheme `me`, so the authority is checked, too.
    if let Some(url) = Url::parse(text).ok().filter(Url::has_authority) {
        let mut masked = String::new();
        if write_masked(&url, &mut masked).is_ok() {
            return shorten(&masked, LONGEST);
        }
    }
    // The structure is unknown, so everything that could be a secret is removed: the text before the
    // last `@` and after the first `?`.
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(s, r)| (s, r));
    let (rest, queried) = rest
        .split_once('?')
        .map_or((rest, false), |(r, _)| (r, true));
    let rest = rest
        .rsplit_once('@')
        .map_or(rest.to_owned(), |(_, host)| format!("{MASK}@{host}"));
    let scheme = if scheme.is_empty() {
        String::new()
    } else {
        format!("{scheme}://")
    };
    let query = if queried { "?***" } else { "" };
    shorten(&format!("{scheme}{rest}{query}"), LONGEST)
}

/// Cuts a text to `most` characters and drops control characters, which must not reach a terminal.
pub(crate) fn shorten(text: &str, longest: usize) -> String {
    let mut out: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(longest)
        .collect();
    if text.chars().nth(longest).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<SafeUrl>().unwrap().to_string()
    }

    #[test]
    fn user_information_is_masked() {
        assert_eq!(
            shown("https://user:pw@h.example/a"),
            "https://***@h.example/a"
        );
        assert_eq!(
            shown("https://user@h.example:8443/a"),
            "https://***@h.example:8443/a"
        );
        let debug = format!(
            "{:?}",
            "https://user:pw@h.example/".parse::<SafeUrl>().unwrap()
        );
        assert!(!debug.contains("pw") && !debug.contains("user"));
    }

    #[test]
    fn signed_query_keys_are_masked_and_others_are_not() {
        assert_eq!(
            shown("https://h.example/a?X-Amz-Signature=abc&part=2&TOKEN=t&si%67=x"),
            "https://h.example/a?X-Amz-Signature=***&part=2&TOKEN=***&si%67=***"
        );
    }

    #[test]
    fn a_token_in_the_path_is_masked() {
        assert_eq!(
            shown("https://h.example/t/tk-123/pub"),
            "https://h.example/t/***/pub"
        );
    }

    #[test]
    fn credentials_are_taken_off() {
        for (url, bare) in [
            (
                "https://me:pw@h.example/t/tk-1/pub",
                "https://h.example/pub",
            ),
            ("https://h.example/t/tk-1", "https://h.example/"),
            (
                "https://h.example/x/t/tk-1/pub/",
                "https://h.example/x/pub/",
            ),
            ("https://h.example/a/t/", "https://h.example/a/t/"),
            ("https://h.example/a/t", "https://h.example/a/t"),
            ("file:///srv/t/x/pub", "file:///srv/t/x/pub"),
        ] {
            assert_eq!(
                without_credentials(&url.parse().unwrap()).as_str(),
                bare,
                "{url}"
            );
        }
    }

    #[test]
    fn credentials_are_taken_off_the_urls_in_a_text() {
        for (text, bare) in [
            (
                "https://h.example/t/tk-1/pub::foo>9",
                "https://h.example/pub::foo>9",
            ),
            (
                "http://me:pw@h.example/pub/noarch::foo",
                "http://h.example/pub/noarch::foo",
            ),
            (
                "foo[channel='https://me:pw@h.example/t/x/pub',build=0]",
                "foo[channel='https://h.example/pub',build=0]",
            ),
            ("https://h.example::foo", "https://h.example::foo"),
            (
                "http://me@[::1]:8080/t/x/pub::foo",
                "http://[::1]:8080/pub::foo",
            ),
            (
                "a http://u:p@b.example/ and https://c.example/t/tk/",
                "a http://b.example/ and https://c.example/",
            ),
            ("conda-forge::foo", "conda-forge::foo"),
            ("http://", "http://"),
        ] {
            assert_eq!(without_credentials_in(text), bare, "{text}");
        }
        let odd = without_credentials_in("http://me:secret@:x/y::foo");
        assert!(!odd.contains("secret"), "{odd}");
    }

    #[test]
    fn a_plain_url_is_shown_as_it_is() {
        for url in [
            "https://h.example/a/b?x=1#f",
            "file:///a/b",
            "s3://bucket/p",
            "http://[::1]:80/",
        ] {
            assert_eq!(shown(url), Url::parse(url).unwrap().as_str());
        }
    }

    #[test]
    fn text_that_is_not_a_url_is_masked_and_cut() {
        assert_eq!(mask_text("htp//me:secret@host/x"), "***@host/x");
        assert_eq!(
            mask_text("https://me:secret@:x/?token=1"),
            "https://***@:x/?***"
        );
        assert_eq!(mask_text(&"a".repeat(1000)).chars().count(), 201);
    }
}
