use std::borrow::Cow;
use std::collections::HashMap;

use toml::de::{DeTable, DeValue};
use url::Url;

use crate::lists::mirrors_file_error::{MirrorsFileError, MirrorsFileProblem as Problem};
use crate::lists::toml_reader::{Reader, Value};
use crate::safe_url::{mask_text, shorten};
use crate::{Location, Mirror, Origin};

/// The longest file that is read, in bytes.
pub(crate) const MOST_BYTES: usize = 4 << 20;
/// The most channels in one file.
pub(crate) const MOST_CHANNELS: usize = 1024;
/// The most mirrors of one channel.
pub(crate) const MOST_MIRRORS: usize = 4096;

const FILE_KEYS: &[&str] = &["channel"];
const CHANNEL_KEYS: &[&str] = &["url", "mirrors"];
const MIRROR_KEYS: &[&str] = &[
    "url",
    "endpoint",
    "region",
    "path-style",
    "anonymous",
    "priority",
    "weight",
    "country",
    "max-connections",
];

/// The mirrors of some channels, as a user writes them.
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
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorsFile {
    /// The channels in the order of the file.
    pub channels: Vec<ChannelMirrors>,
}

/// The mirrors of one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelMirrors {
    /// The channel's URL or name, as it is written.
    pub url: String,
    /// The line where it stands, counted from 1.
    pub line: u32,
    /// Its mirrors in the order of the file; never empty, no two at the same place.
    pub mirrors: Vec<Mirror>,
}

impl MirrorsFile {
    /// Reads the text of a mirrors file; `file` is what errors and origins call it.
    pub fn parse(text: &str, file: &str) -> Result<Self, MirrorsFileError> {
        let reader = Reader::checked(text, file, MOST_BYTES)?;
        let table = DeTable::parse(text).map_err(|error| {
            let message = shorten(error.message(), 300);
            reader.error(
                &error.span().unwrap_or(0..0),
                "",
                Problem::Syntax { message },
            )
        })?;
        Ok(Self {
            channels: reader.channels(table.get_ref())?,
        })
    }

    /// The mirrors of a channel, which is named as in the file or by a URL that means the same
    /// place: case of the host, default port and trailing slashes make no difference.
    pub fn mirrors_for(&self, channel: &str) -> Option<&[Mirror]> {
        let wanted = channel_key(channel);
        self.channels
            .iter()
            .find(|entry| channel_key(&entry.url) == wanted)
            .map(|entry| entry.mirrors.as_slice())
    }
}

/// What a channel is matched by.
pub(crate) fn channel_key(channel: &str) -> Cow<'_, str> {
    match Location::parse(channel) {
        Ok(location) => location.key().into(),
        Err(_) => channel.trim().trim_matches('/').into(),
    }
}

impl Reader<'_> {
    fn channels(&self, table: &DeTable<'_>) -> Result<Vec<ChannelMirrors>, MirrorsFileError> {
        self.known_keys(table, "", FILE_KEYS)?;
        let Some(value) = table.get("channel") else {
            return Ok(Vec::new());
        };
        let entries = match value.get_ref() {
            DeValue::Array(entries) => entries,
            other => {
                return Err(self.wrong_type(value, "channel", "`[[channel]]` entries", other));
            }
        };
        if entries.len() > MOST_CHANNELS {
            return Err(self.error(
                &value.span(),
                "channel",
                Problem::TooMuch {
                    what: "the number of channels",
                    got: entries.len(),
                    most: MOST_CHANNELS,
                },
            ));
        }
        let mut first_lines = HashMap::new();
        let mut channels = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let channel = self.channel(entry, &format!("channel[{index}]"))?;
            let key = channel_key(&channel.url).into_owned();
            if let Some(&first_line) = first_lines.get(&key) {
                let url = entry
                    .get_ref()
                    .as_table()
                    .and_then(|table| table.get("url"));
                let span = url.map_or_else(|| entry.span(), Value::span);
                let channel = mask_text(&channel.url);
                return Err(self.error(
                    &span,
                    &format!("channel[{index}].url"),
                    Problem::DuplicateChannel {
                        channel,
                        first_line,
                    },
                ));
            }
            first_lines.insert(key, channel.line);
            channels.push(channel);
        }
        Ok(channels)
    }

    fn channel(&self, entry: &Value<'_>, at: &str) -> Result<ChannelMirrors, MirrorsFileError> {
        let DeValue::Table(table) = entry.get_ref() else {
            return Err(self.wrong_type(entry, at, "a table", entry.get_ref()));
        };
        self.known_keys(table, at, CHANNEL_KEYS)?;
        let url = self.required(table, entry, at, "url")?;
        let name = self.string(url, &format!("{at}.url"))?;
        if name.trim().is_empty() {
            let problem = Problem::BadUrl(crate::LocationError::Empty);
            return Err(self.error(&url.span(), &format!("{at}.url"), problem));
        }
        // A name has no scheme; whatever has one must be a URL that can be fetched from.
        if name.contains("://") {
            Location::parse(name).map_err(|error| {
                self.error(&url.span(), &format!("{at}.url"), Problem::BadUrl(error))
            })?;
        }
        let mirrors = self.required(table, entry, at, "mirrors")?;
        Ok(ChannelMirrors {
            url: name.to_owned(),
            line: self.line(url),
            mirrors: self.mirrors(mirrors, &format!("{at}.mirrors"))?,
        })
    }

    pub(crate) fn mirrors(
        &self,
        value: &Value<'_>,
        at: &str,
    ) -> Result<Vec<Mirror>, MirrorsFileError> {
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(self.wrong_type(value, at, "an array of mirrors", value.get_ref()));
        };
        if entries.is_empty() {
            return Err(self.error(&value.span(), at, Problem::NoMirrors));
        }
        if entries.len() > MOST_MIRRORS {
            return Err(self.error(
                &value.span(),
                at,
                Problem::TooMuch {
                    what: "the number of mirrors",
                    got: entries.len(),
                    most: MOST_MIRRORS,
                },
            ));
        }
        let mut first_lines = HashMap::new();
        let mut mirrors = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let at = format!("{at}[{index}]");
            let mirror = self.mirror(entry, &at)?;
            let line = self.line(entry);
            if let Some(&first_line) = first_lines.get(&mirror.location.key()) {
                let mirror = mirror.location.to_string();
                let problem = Problem::DuplicateMirror { mirror, first_line };
                return Err(self.error(&entry.span(), &at, problem));
            }
            first_lines.insert(mirror.location.key(), line);
            mirrors.push(mirror);
        }
        Ok(mirrors)
    }

    fn mirror(&self, entry: &Value<'_>, at: &str) -> Result<Mirror, MirrorsFileError> {
        let origin = |line| Origin::File {
            file: self.file.clone(),
            line,
        };
        match entry.get_ref() {
            DeValue::String(_) => Ok(Mirror::new(
                self.location(entry, at)?,
                origin(self.line(entry)),
            )),
            DeValue::Table(table) => {
                self.known_keys(table, at, MIRROR_KEYS)?;
                let url = self.required(table, entry, at, "url")?;
                let mut location = self.location(url, &format!("{at}.url"))?;
                self.s3_options(table, at, &mut location)?;
                let mirror = Mirror::new(location, origin(self.line(url)));
                self.mirror_options(table, at, mirror)
            }
            other => Err(self.wrong_type(entry, at, "a URL or a table", other)),
        }
    }

    fn location(&self, value: &Value<'_>, at: &str) -> Result<Location, MirrorsFileError> {
        Location::parse(self.string(value, at)?)
            .map_err(|error| self.error(&value.span(), at, Problem::BadUrl(error)))
    }

    fn s3_options(
        &self,
        table: &DeTable<'_>,
        at: &str,
        location: &mut Location,
    ) -> Result<(), MirrorsFileError> {
        const S3_KEYS: [&str; 4] = ["endpoint", "region", "path-style", "anonymous"];
        for key in S3_KEYS {
            let Some(value) = table.get(key) else {
                continue;
            };
            let here = format!("{at}.{key}");
            let Location::S3(s3) = location else {
                let scheme = location.scheme().to_owned();
                let problem = Problem::NotForThisKind {
                    key,
                    applies: "`s3://`",
                    scheme,
                };
                return Err(self.error(&value.span(), &here, problem));
            };
            match key {
                "endpoint" => s3.endpoint = Some(self.endpoint(value, &here)?),
                "region" => {
                    let region = self.string(value, &here)?;
                    let valid = (1..=64).contains(&region.len())
                        && region
                            .chars()
                            .all(|c| c.is_ascii_alphanumeric() || c == '-');
                    if !valid {
                        let range = "letters, digits and `-`, such as \"eu-central-1\"";
                        return Err(self.out_of_range(value, &here, range));
                    }
                    s3.region = Some(region.to_owned());
                }
                "path-style" => s3.path_style = self.boolean(value, &here)?,
                _ => s3.anonymous = self.boolean(value, &here)?,
            }
        }
        Ok(())
    }

    fn endpoint(&self, value: &Value<'_>, at: &str) -> Result<Url, MirrorsFileError> {
        match self.location(value, at)? {
            Location::Http(url) if url.username().is_empty() && url.password().is_none() => Ok(url),
            Location::Http(_) => {
                let error = crate::LocationError::UnexpectedCredentials { scheme: "s3" };
                Err(self.error(&value.span(), at, Problem::BadUrl(error)))
            }
            other => {
                let scheme = other.scheme().to_owned();
                let error = crate::LocationError::UnknownScheme { scheme };
                Err(self.error(&value.span(), at, Problem::BadUrl(error)))
            }
        }
    }

    fn mirror_options(
        &self,
        table: &DeTable<'_>,
        at: &str,
        mut mirror: Mirror,
    ) -> Result<Mirror, MirrorsFileError> {
        if let Some(value) = table.get("priority") {
            let range = "a whole number between -1000000 and 1000000; lower is asked first";
            let priority = self.integer(value, &format!("{at}.priority"), range)?;
            mirror.priority = i32::try_from(priority)
                .ok()
                .filter(|p| (-1_000_000..=1_000_000).contains(p))
                .ok_or_else(|| self.out_of_range(value, &format!("{at}.priority"), range))?;
        }
        if let Some(value) = table.get("weight") {
            let here = format!("{at}.weight");
            let weight = self.number(value, &here)?;
            if !(0.001..=1000.0).contains(&weight) {
                return Err(self.out_of_range(value, &here, "between 0.001 and 1000"));
            }
            mirror.weight = weight;
        }
        if let Some(value) = table.get("country") {
            let here = format!("{at}.country");
            let country = self.string(value, &here)?;
            if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_alphabetic()) {
                return Err(self.out_of_range(value, &here, "two letters, such as \"DE\""));
            }
            mirror.country = Some(country.to_ascii_uppercase());
        }
        if let Some(value) = table.get("max-connections") {
            let (here, range) = (format!("{at}.max-connections"), "between 1 and 1024");
            let connections = self.integer(value, &here, range)?;
            if !(1..=1024).contains(&connections) {
                return Err(self.out_of_range(value, &here, range));
            }
            mirror.max_connections = u32::try_from(connections).ok();
        }
        Ok(mirror)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::S3Location;

    const GOOD: &str = r#"
[[channel]]
url = "https://origin.example/pub"
mirrors = [
    "https://one.example/pub",
    { url = "s3://bucket/prefix", endpoint = "http://127.0.0.1:9000", region = "eu-west-1", path-style = true, anonymous = true, priority = 1, weight = 0.5, country = "de", max-connections = 4 },
    "oci://registry.example/namespace",
    { url = "oci+http://127.0.0.1:5000/namespace", weight = 2 },
]

[[channel]]
url = "short-name"
mirrors = ["file:///srv/copy"]
"#;

    fn refused(text: &str) -> String {
        MirrorsFile::parse(text, "m.toml").unwrap_err().to_string()
    }

    fn one_mirror(mirror: &str) -> String {
        format!("[[channel]]\nurl = \"c\"\nmirrors = [{mirror}]\n")
    }

    #[test]
    fn a_full_file_is_read() {
        let file = MirrorsFile::parse(GOOD, "m.toml").unwrap();
        assert_eq!(file.channels.len(), 2);
        let mirrors = &file.channels[0].mirrors;
        assert_eq!(mirrors.len(), 4);
        assert_eq!(
            mirrors[0],
            Mirror::new(
                Location::parse("https://one.example/pub").unwrap(),
                Origin::File {
                    file: "m.toml".into(),
                    line: 5
                },
            )
        );
        let s3 = S3Location {
            endpoint: Some(Url::parse("http://127.0.0.1:9000/").unwrap()),
            region: Some("eu-west-1".into()),
            path_style: true,
            anonymous: true,
            ..S3Location::new("bucket", "prefix")
        };
        assert_eq!(mirrors[1].location, Location::S3(s3));
        assert_eq!(
            (mirrors[1].priority, mirrors[1].max_connections),
            (1, Some(4))
        );
        assert_eq!(
            (mirrors[1].weight, mirrors[1].country.as_deref()),
            (0.5, Some("DE"))
        );
        assert!((mirrors[3].weight - 2.0).abs() < 1e-12);
    }

    #[test]
    fn an_empty_file_names_no_channel() {
        assert_eq!(
            MirrorsFile::parse("# nothing\n", "m.toml")
                .unwrap()
                .channels
                .len(),
            0
        );
    }

    #[test]
    fn a_channel_is_found_by_any_spelling_of_its_url() {
        let file = MirrorsFile::parse(GOOD, "m.toml").unwrap();
        for spelling in [
            "https://origin.example/pub/",
            "HTTPS://Origin.Example:443/pub",
            "https://origin.example/pub",
        ] {
            assert_eq!(file.mirrors_for(spelling).unwrap().len(), 4, "{spelling}");
        }
        assert_eq!(file.mirrors_for("short-name/").unwrap().len(), 1);
        assert!(file.mirrors_for("https://origin.example/other").is_none());
        assert!(file.mirrors_for("https://origin.example/Pub").is_none());
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn each_mistake_is_named_with_place_and_remedy() {
        for (text, expected) in [
            (
                "[[channels]]\nurl = \"c\"\n".to_owned(),
                "m.toml:1:3: channels: unknown key, did you mean `channel`?; known are `channel`",
            ),
            (
                "[[channel]]\nurl = \"c\"\nmirror = []\n".to_owned(),
                "m.toml:3:1: channel[0].mirror: unknown key, did you mean `mirrors`?; known are `url`, `mirrors`",
            ),
            (
                one_mirror("{ url = \"https://a.example\", prio = 1 }"),
                "m.toml:3:41: channel[0].mirrors[0].prio: unknown key; known are",
            ),
            (
                one_mirror("{ url = \"https://a.example\", pathstyle = true }"),
                "m.toml:3:41: channel[0].mirrors[0].pathstyle: unknown key, did you mean `path-style`?",
            ),
            (
                one_mirror("\"ftp://a.example\""),
                "m.toml:3:12: channel[0].mirrors[0]: not a mirror's URL: `ftp://` is not a kind of mirror; known are `https://`",
            ),
            (
                one_mirror("\"https://a.example/x\", \"https://A.example:443/x/\""),
                "m.toml:3:35: channel[0].mirrors[1]: `https://a.example/x` stands already in line 3",
            ),
            (
                format!("{}{}", one_mirror("\"/a\""), one_mirror("\"/b\"")),
                "m.toml:5:7: channel[1].url: `c` stands already in line 2",
            ),
            (
                one_mirror(""),
                "m.toml:3:11: channel[0].mirrors: no mirrors",
            ),
            (
                "[[channel]]\nurl = \"c\"\n".to_owned(),
                "m.toml:1:1: channel[0]: `mirrors` is missing",
            ),
            (
                "[[channel]]\nmirrors = [\"/a\"]\n".to_owned(),
                "m.toml:1:1: channel[0]: `url` is missing",
            ),
            (
                one_mirror("{ weight = 1 }"),
                "m.toml:3:12: channel[0].mirrors[0]: `url` is missing",
            ),
            (
                "channel = 3\n".to_owned(),
                "m.toml:1:11: channel: expected `[[channel]]` entries, found a whole number",
            ),
            (
                "[[channel]]\nurl = 3\nmirrors = [\"/a\"]\n".to_owned(),
                "m.toml:2:7: channel[0].url: expected a string, found a whole number",
            ),
            (
                one_mirror("7"),
                "m.toml:3:12: channel[0].mirrors[0]: expected a URL or a table, found a whole number",
            ),
            (
                one_mirror("{ url = \"/a\", priority = 1.5 }"),
                "m.toml:3:37: channel[0].mirrors[0].priority: expected a whole number, found a number",
            ),
            (
                one_mirror("{ url = \"/a\", priority = 99999999999999999999 }"),
                "channel[0].mirrors[0].priority: 99999999999999999999 is out of range; it must be a whole number",
            ),
            (
                one_mirror("{ url = \"/a\", weight = 0 }"),
                "channel[0].mirrors[0].weight: 0 is out of range; it must be between 0.001 and 1000",
            ),
            (
                one_mirror("{ url = \"/a\", weight = nan }"),
                "channel[0].mirrors[0].weight: nan is out of range",
            ),
            (
                one_mirror("{ url = \"/a\", country = \"Germany\" }"),
                "channel[0].mirrors[0].country: \"Germany\" is out of range; it must be two letters",
            ),
            (
                one_mirror("{ url = \"/a\", max-connections = 0 }"),
                "channel[0].mirrors[0].max-connections: 0 is out of range; it must be between 1 and 1024",
            ),
            (
                one_mirror("{ url = \"https://a.example\", region = \"x\" }"),
                "channel[0].mirrors[0].region: `region` applies to `s3://` only, this is `https://`",
            ),
            (
                one_mirror("{ url = \"s3://bucket\", endpoint = \"minio:9000\" }"),
                "channel[0].mirrors[0].endpoint: not a mirror's URL: `minio:9000` has no scheme",
            ),
            ("[[channel]\n".to_owned(), "m.toml:1:"),
            (
                "a = 1\na = 2\n".to_owned(),
                "m.toml:2:1: not TOML: duplicate key",
            ),
        ] {
            let message = refused(&text);
            assert!(
                message.contains(expected),
                "\n got {message}\nwant {expected}"
            );
        }
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let message = refused("[[channel]]\nurl = \"ü\"\nmirrors = [\"/ä\", 1]\n");
        assert!(message.starts_with("m.toml:3:18: "), "{message}");
    }

    #[test]
    fn secrets_of_a_refused_url_are_not_repeated() {
        for url in [
            "https://me:hush@:x/",
            "ftp://me:hush@h/",
            "s3://me:hush@b/",
            "me:hush@host/x",
        ] {
            let message = refused(&one_mirror(&format!("\"{url}\"")));
            assert!(!message.contains("hush"), "{message}");
        }
        let twice = "\"https://me:hush@h.example/\"";
        assert!(!refused(&one_mirror(&format!("{twice}, {twice}"))).contains("hush"));
    }

    #[test]
    fn too_much_is_refused_before_it_costs_memory() {
        assert!(refused(&"#".repeat(MOST_BYTES + 1)).contains("the most is 4194304"));
        let many: Vec<String> = (0..=MOST_MIRRORS).map(|i| format!("\"/m{i}\"")).collect();
        assert!(refused(&one_mirror(&many.join(","))).contains("the number of mirrors is 4097"));
        let many: Vec<String> = (0..=MOST_CHANNELS)
            .map(|i| format!("[[channel]]\nurl=\"c{i}\"\nmirrors=[\"/m\"]\n"))
            .collect();
        assert!(refused(&many.concat()).contains("the number of channels is 1025"));
        assert!(refused(&format!("a = {}", "[".repeat(100_000))).contains("not TOML"));
    }
}
