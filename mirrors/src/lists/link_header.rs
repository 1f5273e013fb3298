use std::collections::HashSet;

use url::Url;

use crate::lists::list_error::SkipReason;
use crate::lists::listed_digest::ListedDigest;
use crate::lists::metalink::rank_weight;
use crate::safe_url::shorten;
use crate::{Location, Mirror, Provenance, SafeUrl};

/// Over all headers.
const MOST_BYTES: usize = 1 << 18;
const MOST_LINKS: usize = 1024;
/// Of one header.
const MOST_DIGESTS: usize = 16;

/// The duplicates of a file according to `Link` headers (RFC 6249).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Duplicates {
    /// `rel=duplicate`. Each location is that of the file itself. As in a
    /// [metalink](crate::Metalink), `pri` becomes a weight.
    pub mirrors: Vec<Mirror>,
    /// `rel=describedby` with the media type of a metalink.
    pub metalinks: Vec<SafeUrl>,
    pub skipped: Vec<SkipReason>,
}

impl Duplicates {
    /// Reads the values of all `Link` headers of a response from `base`, which relative references are
    /// resolved against. Malformed links are skipped.
    pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>, base: &Url) -> Self {
        let mut found = Self::default();
        let from = SafeUrl::from(base.clone()).to_string();
        let provenance = Provenance::Discovered { from: from.into() };
        let (mut bytes, mut links) = (0, 0);
        let mut seen = HashSet::new();
        for header in headers {
            bytes += header.len();
            if bytes > MOST_BYTES {
                break;
            }
            let mut rest = header;
            while let Some((link, after)) = next_link(rest) {
                rest = after;
                links += 1;
                if links > MOST_LINKS {
                    return found;
                }
                found.take(&link, base, &provenance, &mut seen);
            }
        }
        found
    }

    fn take(
        &mut self,
        link: &Link<'_>,
        base: &Url,
        provenance: &Provenance,
        seen: &mut HashSet<String>,
    ) {
        let is = |wanted: &str| {
            let relations = link.parameter("rel").unwrap_or_default();
            relations
                .split_ascii_whitespace()
                .any(|rel| rel.eq_ignore_ascii_case(wanted))
        };
        let Ok(url) = base.join(link.target) else {
            return;
        };
        if is("duplicate") {
            match Location::parse(url.as_str()) {
                Ok(location) if !provenance.may_name(&location) => {
                    self.skipped.push(SkipReason::LocalPath);
                }
                Ok(location) if seen.insert(location.key()) => {
                    let mirror = self.mirror(link, location, provenance);
                    self.mirrors.push(mirror);
                }
                Ok(location) => self
                    .skipped
                    .push(SkipReason::Duplicate(location.to_string())),
                Err(error) => self.skipped.push(SkipReason::Location(error)),
            }
        } else if is("describedby") {
            let kind = link.parameter("type").unwrap_or_default();
            let metalink = ["application/metalink4+xml", "application/metalink+xml"]
                .iter()
                .any(|known| known.eq_ignore_ascii_case(kind));
            if metalink && matches!(url.scheme(), "http" | "https") {
                self.metalinks.push(url.into());
            }
        }
    }

    fn mirror(&mut self, link: &Link<'_>, location: Location, provenance: &Provenance) -> Mirror {
        let mut mirror = Mirror::new(location, provenance.clone());
        if let Some(value) = link.parameter("pri") {
            match value.parse::<u32>() {
                Ok(rank @ 1..=999_999) => mirror.weight = rank_weight(rank),
                _ => self.skipped.push(SkipReason::BadValue {
                    expected: "priority of 1 to 999999",
                    value: shorten(value, 40),
                }),
            }
        }
        mirror.country = link
            .parameter("geo")
            .filter(|geo| geo.len() == 2 && geo.bytes().all(|b| b.is_ascii_alphabetic()))
            .map(str::to_ascii_uppercase);
        mirror
    }
}

/// The digests of a `Digest` header (RFC 3230, `SHA-256=…`) or of a `Repr-Digest` header (RFC 9530,
/// `sha-256=:…:`). Unknown algorithms and malformed values are skipped.
pub fn digests_of_header(value: &str) -> Vec<ListedDigest> {
    value
        .get(..value.len().min(8192))
        .unwrap_or_default()
        .split(',')
        .filter_map(|part| {
            let (algorithm, digest) = part.trim().split_once('=')?;
            // RFC 9530 §2 writes byte sequences between colons.
            let digest = digest.trim().trim_matches(':');
            ListedDigest::from_base64(algorithm.trim(), digest)
        })
        .take(MOST_DIGESTS)
        .collect()
}

/// A link value (RFC 8288 §3).
struct Link<'a> {
    target: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Link<'a> {
    /// The first parameter of this name (RFC 8288 §3.3).
    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|&(_, value)| value)
    }
}

/// The first link of a header, and the rest of the header.
fn next_link(text: &str) -> Option<(Link<'_>, &str)> {
    let (_, after) = text.split_once('<')?;
    let (target, mut rest) = after.split_once('>')?;
    let mut link = Link {
        target: target.trim(),
        parameters: Vec::new(),
    };
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        let Some(parameter) = rest.strip_prefix(';') else {
            // A comma follows; anything else is skipped up to the next link.
            return Some((link, rest));
        };
        let (name, value, after) = next_parameter(parameter);
        if !name.is_empty() {
            link.parameters.push((name, value));
        }
        rest = after;
    }
}

/// Name and value of a parameter, and the rest. Escapes in a quoted value are not resolved, because the
/// values in use here have none.
fn next_parameter(text: &str) -> (&str, &str, &str) {
    let text = text.trim_start();
    let name_end = text.find(['=', ';', ',']).unwrap_or(text.len());
    let (name, after) = text.split_at(name_end);
    let Some(value) = after.strip_prefix('=') else {
        return (name.trim_end(), "", after);
    };
    let value = value.trim_start();
    if let Some(quoted) = value.strip_prefix('"') {
        let mut escaped = false;
        let end = quoted.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let end = end.unwrap_or(quoted.len());
        let after = quoted.get(end + 1..).unwrap_or_default();
        return (name.trim_end(), &quoted[..end], after);
    }
    let end = value.find([';', ',']).unwrap_or(value.len());
    let (value, after) = value.split_at(end);
    (name.trim_end(), value.trim_end(), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(headers: &[&str]) -> Duplicates {
        let base = Url::parse("https://user:hush@origin.example/pub/a.bin").unwrap();
        Duplicates::parse(headers.iter().copied(), &base)
    }

    #[test]
    fn duplicates_are_read_with_priority_and_country() {
        let found = parse(&[
            "<https://a.example/a.bin>; rel=duplicate; pri=1; pref; geo=gb; depth=1, \
             <../b/a.bin>;rel=\"duplicate other\" ;PRI=4",
            "</style.css>; rel=stylesheet, <https://c.example/a,b;c.bin>; title=\"x, <y>; rel=z\"; rel=duplicate",
        ]);
        let urls: Vec<String> = found
            .mirrors
            .iter()
            .map(|m| m.location.to_string())
            .collect();
        assert_eq!(urls[0], "https://a.example/a.bin");
        assert!(urls[1].ends_with("@origin.example/b/a.bin") && !urls[1].contains("hush"));
        assert_eq!(urls[2], "https://c.example/a,b;c.bin");
        assert_eq!(found.mirrors[0].country.as_deref(), Some("GB"));
        assert!((found.mirrors[1].weight - 0.5).abs() < 1e-9);
        let provenance = found.mirrors[0].provenance.to_string();
        assert_eq!(
            provenance,
            "discovered at https://***@origin.example/pub/a.bin"
        );
    }

    #[test]
    fn a_metalink_is_found() {
        let found = parse(&[
            "<a.meta4>; rel=describedby; type=\"application/metalink4+xml\", <a.txt>; rel=describedby",
        ]);
        assert_eq!(found.metalinks.len(), 1);
        assert_eq!(found.metalinks[0].as_url().path(), "/pub/a.meta4");
    }

    #[test]
    fn unusable_links_are_skipped() {
        let found = parse(&[
            "<ftp://a.example/a>; rel=duplicate, <file:///etc>; rel=duplicate, <https://b.example/a>; rel=duplicate; pri=0, \
             <https://b.example:443/a>; rel=duplicate",
        ]);
        assert_eq!((found.mirrors.len(), found.skipped.len()), (1, 4));
        for broken in [
            "",
            "<",
            "<>",
            "<a",
            "a>; rel=duplicate",
            "<a>; rel=\"duplicate",
            "<a>;=;;,<",
            ";;",
        ] {
            assert!(parse(&[broken]).mirrors.len() <= 1, "{broken}");
        }
    }

    #[test]
    fn headers_over_the_limit_are_cut() {
        let many = "<https://a.example/x>; rel=duplicate,".repeat(5000);
        let found = parse(&[&many]);
        assert!(found.mirrors.len() + found.skipped.len() <= MOST_LINKS);
        let huge = "<https://a.example/x>; rel=duplicate,".repeat(50_000);
        assert_eq!(parse(&[&huge]).mirrors, []);
    }

    #[test]
    fn digests_of_both_headers_are_read() {
        let sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let old = digests_of_header(&format!("MD5=1B2M2Y8AsgTpgAmY7PhCfg==, SHA-256={sha256}"));
        assert_eq!(old.len(), 2);
        let new = digests_of_header(&format!("sha-256=:{sha256}:, unixsum=30637, sha-512=:x:"));
        assert_eq!(new, old[1..]);
        assert_eq!(digests_of_header("ü=ü,=,"), []);
    }
}
