//! Mirrors files, and the `[mirrors]` tables of other programs.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;

use crate::lists::list_error::{ListError, ListProblem as Problem, within};
use crate::lists::mirrors_file::{Collector, MAX_BYTES};
use crate::safe_url::{mask_text, shorten};
use crate::{Location, LocationError, Mirror, MirrorsFile, Provenance};

impl MirrorsFile {
    /// Reads a mirrors file; errors and provenances call it `file`.
    ///
    /// ```toml
    /// [[channel]]
    /// url = "https://origin.example/pub"
    /// mirrors = [
    ///     "https://one.example/pub",
    ///     { url = "s3://bucket/prefix", endpoint = "http://127.0.0.1:9000", region = "eu-west-1",
    ///       path-style = true, anonymous = true, priority = 1, weight = 0.5, country = "DE",
    ///       max-connections = 4 },
    ///     "oci://registry.example/namespace",
    /// ]
    /// ```
    ///
    /// The file format calls a collection of files `channel`.
    pub fn parse(text: &str, file: &str) -> Result<Self, ListError> {
        let reader = Reader::new(text, file);
        let document: Document = reader.deserialize()?;
        let mut collector = Collector::default();
        for entry in document.channel {
            let CollectionEntry { url, mirrors } = entry;
            let name = url.get_ref();
            if name.trim().is_empty() {
                return Err(reader.error(&url.span(), Problem::BadUrl(LocationError::Empty)));
            }
            // A name has no scheme; a URL must have a known one.
            if name.contains("://") {
                reader.location(&url)?;
            }
            reader.collect(&mut collector, name, &url.span(), mirrors)?;
        }
        Ok(collector.finish())
    }

    /// Reads the `[mirrors]` table of a TOML file and ignores all other keys. Each key is a URL and
    /// applies to all URLs below it (see [`mirrors_below`](Self::mirrors_below)); its value is an
    /// array of mirrors.
    pub fn parse_prefixes(text: &str, file: &str) -> Result<Self, ListError> {
        let reader = Reader::new(text, file);
        let document: PrefixDocument = reader.deserialize()?;
        let mut entries: Vec<_> = document.mirrors.into_iter().collect();
        entries.sort_by_key(|(url, _)| url.span().start);
        let mut collector = Collector::default();
        for (url, mirrors) in entries {
            reader.location(&url)?;
            reader.collect(&mut collector, url.get_ref(), &url.span(), mirrors)?;
        }
        Ok(collector.finish())
    }
}

/// A mirrors file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    channel: Vec<CollectionEntry>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectionEntry {
    url: Spanned<String>,
    mirrors: Spanned<Vec<Spanned<MirrorEntry>>>,
}

/// A file with a `[mirrors]` table.
#[derive(serde::Deserialize)]
struct PrefixDocument {
    #[serde(default)]
    mirrors: BTreeMap<Spanned<String>, Spanned<Vec<Spanned<MirrorEntry>>>>,
}

enum MirrorEntry {
    Url(String),
    Table(Box<MirrorTable>),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MirrorTable {
    url: Spanned<String>,
    endpoint: Option<Spanned<String>>,
    region: Option<Spanned<String>>,
    path_style: Option<Spanned<bool>>,
    anonymous: Option<Spanned<bool>>,
    priority: Option<Spanned<Integer>>,
    weight: Option<Spanned<f64>>,
    country: Option<Spanned<String>>,
    max_connections: Option<Spanned<Integer>>,
}

/// The keys of the structs above, for the error about an unknown one: by depth.
const KNOWN_KEYS: [&[&str]; 3] = [
    &["channel"],
    &["url", "mirrors"],
    &[
        "url",
        "endpoint",
        "region",
        "path-style",
        "anonymous",
        "priority",
        "weight",
        "country",
        "max-connections",
    ],
];

impl<'de> Deserialize<'de> for MirrorEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A derived untagged enum would lose the spans.
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = MirrorEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL or a table")
            }

            fn visit_str<E>(self, url: &str) -> Result<MirrorEntry, E> {
                Ok(MirrorEntry::Url(url.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<MirrorEntry, A::Error> {
                let table = Deserialize::deserialize(MapAccessDeserializer::new(table))?;
                Ok(MirrorEntry::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// An integer of any size, so that a range check sees those that are too large.
struct Integer(i128);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Integer, E> {
                Ok(Integer(value.into()))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Integer, E> {
                Ok(Integer(value))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The text, for the places of errors and mirrors.
struct Reader<'a> {
    text: &'a str,
    file: Arc<str>,
    /// The byte at which each line begins.
    line_starts: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, file: &str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        // A text over the limit is refused before it is looked at.
        let breaks = breaks.take(if text.len() > MAX_BYTES {
            0
        } else {
            usize::MAX
        });
        Self {
            text,
            file: file.into(),
            line_starts: [0].into_iter().chain(breaks).collect(),
        }
    }

    fn deserialize<T: DeserializeOwned>(&self) -> Result<T, ListError> {
        within("the length in bytes", self.text.len(), MAX_BYTES)
            .map_err(|problem| self.placed(0, String::new(), problem))?;
        let syntax = |error: toml::de::Error| {
            let message = shorten(error.message(), 300);
            let format = "TOML";
            let at = error.span().unwrap_or_default().start;
            self.placed(at, String::new(), Problem::Syntax { format, message })
        };
        let document = toml::Deserializer::parse(self.text).map_err(syntax)?;
        T::deserialize(document).map_err(|error| {
            let span = error.span().unwrap_or_default();
            let message = shorten(error.message(), 300);
            match self.find(span.start) {
                Some(Found {
                    key,
                    depth,
                    name: Some(name),
                }) => {
                    let known = KNOWN_KEYS[depth.clamp(1, 3) - 1];
                    let nearest = nearest_key(&name, known);
                    self.placed(span.start, key, Problem::UnknownKey { nearest, known })
                }
                Some(Found { key, .. }) => {
                    self.placed(span.start, key, Problem::Schema { message })
                }
                None => self.placed(span.start, String::new(), Problem::Schema { message }),
            }
        })
    }

    fn error(&self, span: &Range<usize>, problem: Problem) -> ListError {
        let key = self
            .find(span.start)
            .map_or_else(String::new, |found| found.key);
        self.placed(span.start, key, problem)
    }

    fn placed(&self, byte: usize, key: String, problem: Problem) -> ListError {
        let byte = byte.min(self.text.len());
        let line = self.line(byte);
        let start = self.line_starts[line as usize - 1];
        let before = self.text.get(start..byte).unwrap_or_default();
        ListError {
            file: self.file.to_string(),
            line,
            column: Some(counted(before.chars().count() + 1)),
            key,
            problem,
        }
    }

    /// The line of a byte, counted from 1.
    fn line(&self, byte: usize) -> u32 {
        counted(self.line_starts.partition_point(|&start| start <= byte))
    }

    /// Finds the key or value at a byte. Only errors need it, so the document is parsed again.
    fn find(&self, byte: usize) -> Option<Found> {
        let table = DeTable::parse(self.text).ok()?;
        find_in_table(table.get_ref(), byte, "", 1)
    }

    fn collect(
        &self,
        collector: &mut Collector,
        url: &str,
        span: &Range<usize>,
        mirrors: Spanned<Vec<Spanned<MirrorEntry>>>,
    ) -> Result<(), ListError> {
        let begun = collector.begin(url, self.line(span.start));
        begun.map_err(|problem| self.error(span, problem))?;
        if mirrors.get_ref().is_empty() {
            return Err(self.error(&mirrors.span(), Problem::NoMirrors));
        }
        for entry in mirrors.into_inner() {
            let span = entry.span();
            let mirror = self.mirror(entry)?;
            let added = collector.add(mirror, self.line(span.start));
            added.map_err(|problem| self.error(&span, problem))?;
        }
        Ok(())
    }

    fn mirror(&self, entry: Spanned<MirrorEntry>) -> Result<Mirror, ListError> {
        let span = entry.span();
        let provenance = |span: Range<usize>| Provenance::File {
            file: self.file.clone(),
            line: self.line(span.start),
        };
        let table = match entry.into_inner() {
            MirrorEntry::Url(url) => {
                let location = self.location(&Spanned::new(span.clone(), url))?;
                return Ok(Mirror::new(location, provenance(span)));
            }
            MirrorEntry::Table(table) => table,
        };
        let mut location = self.location(&table.url)?;
        self.s3_options(&table, &mut location)?;
        let mut mirror = Mirror::new(location, provenance(table.url.span()));
        if let Some(value) = &table.priority {
            let range = "an integer between -1000000 and 1000000; lower is used first";
            mirror.priority = self.integer(value, -1_000_000..=1_000_000, range)?;
        }
        if let Some(value) = &table.weight {
            if !(0.001..=1000.0).contains(value.get_ref()) {
                return Err(self.out_of_range(&value.span(), "a number between 0.001 and 1000"));
            }
            mirror.weight = *value.get_ref();
        }
        if let Some(value) = &table.country {
            let country = value.get_ref();
            if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_alphabetic()) {
                return Err(self.out_of_range(&value.span(), "two letters, such as \"DE\""));
            }
            mirror.country = Some(country.to_ascii_uppercase());
        }
        if let Some(value) = &table.max_connections {
            let connections = self.integer(value, 1..=1024, "an integer between 1 and 1024")?;
            mirror.max_connections = Some(connections.unsigned_abs());
        }
        Ok(mirror)
    }

    fn location(&self, url: &Spanned<String>) -> Result<Location, ListError> {
        Location::parse(url.get_ref())
            .map_err(|error| self.error(&url.span(), Problem::BadUrl(error)))
    }

    fn s3_options(&self, table: &MirrorTable, location: &mut Location) -> Result<(), ListError> {
        let given = [
            ("endpoint", table.endpoint.as_ref().map(Spanned::span)),
            ("region", table.region.as_ref().map(Spanned::span)),
            ("path-style", table.path_style.as_ref().map(Spanned::span)),
            ("anonymous", table.anonymous.as_ref().map(Spanned::span)),
        ];
        let Location::S3(s3) = location else {
            let Some((key, span)) = given.into_iter().find_map(|(key, span)| Some((key, span?)))
            else {
                return Ok(());
            };
            let scheme = location.scheme().to_owned();
            let applies = "`s3://`";
            return Err(self.error(
                &span,
                Problem::NotForThisKind {
                    key,
                    applies,
                    scheme,
                },
            ));
        };
        if let Some(value) = &table.endpoint {
            s3.endpoint = Some(self.endpoint(value)?);
        }
        if let Some(value) = &table.region {
            let region = value.get_ref();
            let valid = (1..=64).contains(&region.len())
                && region
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !valid {
                let range = "letters, digits and `-`, such as \"eu-central-1\"";
                return Err(self.out_of_range(&value.span(), range));
            }
            s3.region = Some(region.clone());
        }
        s3.path_style |= table
            .path_style
            .as_ref()
            .is_some_and(|value| *value.get_ref());
        s3.anonymous |= table
            .anonymous
            .as_ref()
            .is_some_and(|value| *value.get_ref());
        Ok(())
    }

    fn endpoint(&self, url: &Spanned<String>) -> Result<Url, ListError> {
        let error = match self.location(url)? {
            Location::Http(url) if url.username().is_empty() && url.password().is_none() => {
                return Ok(url);
            }
            Location::Http(_) => LocationError::UnexpectedCredentials { scheme: "s3" },
            other => LocationError::UnknownScheme {
                scheme: other.scheme().to_owned(),
            },
        };
        Err(self.error(&url.span(), Problem::BadUrl(error)))
    }

    fn integer(
        &self,
        value: &Spanned<Integer>,
        valid: std::ops::RangeInclusive<i32>,
        range: &'static str,
    ) -> Result<i32, ListError> {
        i32::try_from(value.get_ref().0)
            .ok()
            .filter(|number| valid.contains(number))
            .ok_or_else(|| self.out_of_range(&value.span(), range))
    }

    fn out_of_range(&self, span: &Range<usize>, range: &'static str) -> ListError {
        let value = shorten(self.text.get(span.clone()).unwrap_or_default(), 80);
        self.error(span, Problem::OutOfRange { value, range })
    }
}

/// The key of a place in a document.
struct Found {
    /// Such as `channel[0].mirrors[2].priority`.
    key: String,
    /// The number of names in it.
    depth: usize,
    /// The last name in it, if the place is this name and not its value.
    name: Option<String>,
}

fn find_in_table(table: &DeTable<'_>, byte: usize, above: &str, depth: usize) -> Option<Found> {
    table.iter().find_map(|(name, value)| {
        let dot = if above.is_empty() { "" } else { "." };
        let key = format!("{above}{dot}{}", shorten(&mask_text(name.get_ref()), 80));
        if name.span().contains(&byte) {
            let name = Some(name.get_ref().to_string());
            return Some(Found { key, depth, name });
        }
        find_in_value(value, byte, &key, depth)
    })
}

/// Looks at the inner values first: the span of a table ends with its header.
fn find_in_value(
    value: &Spanned<DeValue<'_>>,
    byte: usize,
    key: &str,
    depth: usize,
) -> Option<Found> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => find_in_table(table, byte, key, depth + 1),
        DeValue::Array(array) => array.iter().enumerate().find_map(|(index, value)| {
            find_in_value(value, byte, &format!("{key}[{index}]"), depth)
        }),
        _ => None,
    };
    let this = || Found {
        key: key.to_owned(),
        depth,
        name: None,
    };
    inner.or_else(|| value.span().contains(&byte).then(this))
}

fn counted(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The known key that a misspelt one resembles: equal except for case and `_`, or at most a third of
/// its letters different.
fn nearest_key(wrong: &str, known: &[&'static str]) -> Option<&'static str> {
    // A longer key resembles none, and the comparison takes quadratic time.
    const LONGEST: usize = 64;
    if wrong.len() > LONGEST {
        return None;
    }
    let folded = wrong.to_lowercase().replace('_', "-");
    known
        .iter()
        .map(|&key| (strsim::osa_distance(&folded, key), key))
        .filter(|&(distance, key)| distance <= key.len().div_ceil(3))
        .min()
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_recognised_and_a_foreign_one_is_not() {
        const KNOWN: &[&str] = &["url", "priority", "max-connections", "path-style"];
        assert_eq!(
            nearest_key("max_connections", KNOWN),
            Some("max-connections")
        );
        assert_eq!(nearest_key("Prioritiy", KNOWN), Some("priority"));
        assert_eq!(nearest_key("ulr", KNOWN), Some("url"));
        assert_eq!(nearest_key("password", KNOWN), None);
        assert_eq!(nearest_key(&"u".repeat(100_000), KNOWN), None);
    }
}
