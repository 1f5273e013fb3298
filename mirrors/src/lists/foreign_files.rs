//! Mirrors in the configuration files of other programs.

use std::collections::HashMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::lists::mirror_source::section;
use crate::lists::mirrors_file::{MOST_BYTES, MOST_CHANNELS, MOST_MIRRORS, channel_key};
use crate::lists::mirrors_file_error::{MirrorsFileError, MirrorsFileProblem as Problem};
use crate::lists::toml_reader::Reader;
use crate::safe_url::{mask_text, shorten};
use crate::{ChannelMirrors, Location, Mirror, MirrorsFile, Origin};

impl MirrorsFile {
    /// Reads the `[mirrors]` table of a TOML file whose other keys are none of our business: each
    /// key is a URL, each value an array of the URLs of its mirrors.
    ///
    /// There a key stands for everything below it, so ask with
    /// [`mirrors_below`](Self::mirrors_below).
    pub fn parse_table(text: &str, file: &str) -> Result<Self, MirrorsFileError> {
        let reader = Reader::checked(text, file, MOST_BYTES)?;
        let document = DeTable::parse(text).map_err(|error| {
            let message = shorten(error.message(), 300);
            reader.error(
                &error.span().unwrap_or(0..0),
                "",
                Problem::Syntax { message },
            )
        })?;
        let Some(value) = document.get_ref().get("mirrors") else {
            return Ok(Self {
                channels: Vec::new(),
            });
        };
        let DeValue::Table(table) = value.get_ref() else {
            let expected = "a table of arrays of URLs";
            return Err(reader.wrong_type(value, "mirrors", expected, value.get_ref()));
        };
        // The table is sorted by name, and the order of the file is the one that is promised.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut channels = Channels::new(&reader);
        for (key, value) in entries {
            let at = format!("mirrors.{}", mask_text(key.get_ref()));
            Location::parse(key.get_ref())
                .map_err(|error| reader.error(&key.span(), &at, Problem::BadUrl(error)))?;
            channels.open(key.get_ref(), &key.span(), &at)?;
            channels.last_mirrors(reader.mirrors(value, &at)?);
        }
        Ok(Self {
            channels: channels.list,
        })
    }

    /// Reads the `mirrored_channels` (or `mirrors`, as some programs call it) of a YAML file whose
    /// other keys are none of our business: a mapping from names to lists of URLs.
    ///
    /// Of YAML only what such a file needs is read: block mappings, block lists, lists in brackets
    /// on one line, plain and quoted scalars, comments. Anything else within the section is refused.
    pub fn parse_mirrored_channels(text: &str, file: &str) -> Result<Self, MirrorsFileError> {
        let reader = Reader::checked(text, file, MOST_BYTES)?;
        let mut channels = Channels::new(&reader);
        let mut in_section = false;
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let span = start + (line.len() - line.trim_start().len())..start + line.len();
            start += line.len();
            let content = without_comment(line).trim_end();
            let indent = content.len() - content.trim_start().len();
            let content = content.trim_start();
            if content.is_empty() || content == "---" {
                continue;
            }
            if indent == 0 && !content.starts_with('-') {
                // The last channel of a section that ends must have its mirrors by now.
                channels.close()?;
                let name = section(content);
                in_section = name.is_some();
                if let Some(name) = name {
                    channels.section = name;
                    let value = content[name.len() + 1..].trim();
                    if !matches!(value, "" | "{}" | "null" | "~") {
                        return Err(unreadable(&channels, &span));
                    }
                }
                continue;
            }
            if !in_section {
                continue;
            }
            if let Some(item) = content.strip_prefix('-') {
                let at = channels.at();
                let item = scalar(item).ok_or_else(|| unreadable(&channels, &span))?;
                channels.add(item, &span, &at)?;
            } else {
                let (name, list) =
                    mapping_entry(content).ok_or_else(|| unreadable(&channels, &span))?;
                channels.close()?;
                channels.open(
                    name,
                    &span,
                    &format!("{}.{}", channels.section, mask_text(name)),
                )?;
                let items = flow_list(list).ok_or_else(|| unreadable(&channels, &span))?;
                let at = channels.at();
                for item in items {
                    channels.add(item, &span, &at)?;
                }
            }
        }
        channels.close()?;
        Ok(Self {
            channels: channels.list,
        })
    }

    /// The mirrors of a place that a channel of this file is, or lies below of: what comes after the
    /// longest such channel is put after each of its mirrors.
    pub fn mirrors_below(&self, url: &str) -> Option<Vec<Mirror>> {
        let wanted = channel_key(url);
        let rest = |entry: &ChannelMirrors| {
            let key = channel_key(&entry.url);
            let rest = wanted.strip_prefix(key.as_ref())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/').to_owned())
        };
        let (entry, rest) = self
            .channels
            .iter()
            .filter_map(|entry| Some((entry, rest(entry)?)))
            .min_by_key(|(_, rest)| rest.len())?;
        let below = |mirror: &Mirror| {
            Some(Mirror {
                location: mirror.location.below(&rest)?,
                ..mirror.clone()
            })
        };
        Some(entry.mirrors.iter().filter_map(below).collect())
    }
}

/// Channels as they are collected.
struct Channels<'r, 'a> {
    reader: &'r Reader<'a>,
    /// What the section is called in which the channels stand.
    section: &'static str,
    list: Vec<ChannelMirrors>,
    first_lines: HashMap<String, u32>,
    mirror_lines: HashMap<String, u32>,
    last_span: Range<usize>,
}

impl<'r, 'a> Channels<'r, 'a> {
    fn new(reader: &'r Reader<'a>) -> Self {
        Self {
            reader,
            section: "mirrored_channels",
            list: Vec::new(),
            first_lines: HashMap::new(),
            mirror_lines: HashMap::new(),
            last_span: 0..0,
        }
    }

    /// A new channel, without mirrors so far.
    fn open(&mut self, url: &str, span: &Range<usize>, at: &str) -> Result<(), MirrorsFileError> {
        if self.list.len() == MOST_CHANNELS {
            let (what, most) = ("the number of channels", MOST_CHANNELS);
            return Err(self.reader.error(
                span,
                at,
                Problem::TooMuch {
                    what,
                    got: most + 1,
                    most,
                },
            ));
        }
        let line = self.reader.place(span.start).0;
        if let Some(&first_line) = self.first_lines.get(channel_key(url).as_ref()) {
            let problem = Problem::DuplicateChannel {
                channel: mask_text(url),
                first_line,
            };
            return Err(self.reader.error(span, at, problem));
        }
        self.first_lines.insert(channel_key(url).into_owned(), line);
        self.mirror_lines.clear();
        self.last_span = span.clone();
        self.list.push(ChannelMirrors {
            url: url.to_owned(),
            line,
            mirrors: Vec::new(),
        });
        Ok(())
    }

    fn last_mirrors(&mut self, mirrors: Vec<Mirror>) {
        if let Some(last) = self.list.last_mut() {
            last.mirrors = mirrors;
        }
    }

    /// What errors call the last channel.
    fn at(&self) -> String {
        let name = self
            .list
            .last()
            .map(|last| mask_text(&last.url))
            .unwrap_or_default();
        format!("{}.{name}", self.section)
    }

    /// One more mirror of the last channel.
    fn add(&mut self, text: &str, span: &Range<usize>, at: &str) -> Result<(), MirrorsFileError> {
        let line = self.reader.place(span.start).0;
        let location = Location::parse(text)
            .map_err(|error| self.reader.error(span, at, Problem::BadUrl(error)))?;
        if let Some(&first_line) = self.mirror_lines.get(&location.key()) {
            let problem = Problem::DuplicateMirror {
                mirror: location.to_string(),
                first_line,
            };
            return Err(self.reader.error(span, at, problem));
        }
        self.mirror_lines.insert(location.key(), line);
        let Some(last) = self.list.last_mut() else {
            return Err(unreadable(self, span));
        };
        if last.mirrors.len() == MOST_MIRRORS {
            let (what, most) = ("the number of mirrors", MOST_MIRRORS);
            return Err(self.reader.error(
                span,
                at,
                Problem::TooMuch {
                    what,
                    got: most + 1,
                    most,
                },
            ));
        }
        last.mirrors.push(Mirror::new(
            location,
            Origin::File {
                file: self.reader.file.clone(),
                line,
            },
        ));
        Ok(())
    }

    /// The last channel is complete.
    fn close(&self) -> Result<(), MirrorsFileError> {
        match self.list.last() {
            Some(last) if last.mirrors.is_empty() => {
                Err(self
                    .reader
                    .error(&self.last_span, &self.at(), Problem::NoMirrors))
            }
            _ => Ok(()),
        }
    }
}

fn unreadable(channels: &Channels<'_, '_>, span: &Range<usize>) -> MirrorsFileError {
    let message = "only names with lists of URLs are read here".to_owned();
    let problem = Problem::Unreadable { message };
    channels.reader.error(span, channels.section, problem)
}

/// The line up to a comment, which begins with `#` after a blank and outside of quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (index, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '#' && before.is_whitespace() => return &line[..index],
            None if matches!(c, '"' | '\'') && !before.is_alphanumeric() => quote = Some(c),
            Some(_) | None => {}
        }
        before = c;
    }
    line
}

/// A plain or quoted scalar; escapes are not read.
fn scalar(text: &str) -> Option<&str> {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            let inner = inner.strip_suffix(quote)?;
            return (!inner.contains([quote, '\\'])).then_some(inner);
        }
    }
    // What begins so is some other part of YAML.
    let plain =
        !text.is_empty() && !text.starts_with(['[', '{', '&', '*', '!', '|', '>', '%', '@']);
    plain.then_some(text)
}

/// `name:` and what follows.
fn mapping_entry(content: &str) -> Option<(&str, &str)> {
    for quote in ['"', '\''] {
        if let Some(inner) = content.strip_prefix(quote) {
            let (name, rest) = inner.split_once(quote)?;
            return Some((name, rest.trim_start().strip_prefix(':')?));
        }
    }
    // In a plain key a colon ends the key only before a blank, so `https://…:` is one key.
    let (name, rest) = match content.split_once(": ") {
        Some(parts) => parts,
        None => (content.strip_suffix(':')?, ""),
    };
    Some((scalar(name)?, rest))
}

/// `[a, b]`, or nothing at all.
fn flow_list(text: &str) -> Option<Vec<&str>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Vec::new());
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    let inner = inner.strip_suffix(',').unwrap_or(inner);
    if inner.is_empty() {
        return Some(Vec::new());
    }
    inner.split(',').map(scalar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mirrors: &[Mirror]) -> Vec<String> {
        mirrors
            .iter()
            .map(|mirror| mirror.location.to_string())
            .collect()
    }

    const TABLE: &str = r#"
tls-no-verify = false
[mirrors]
"https://origin.example/" = ["https://z.example/all", "s3://bucket/all", "oci://r.example/all"]
"https://origin.example/one" = ["https://a.example/one"]
[other]
key = [1]
"#;

    #[test]
    fn a_table_maps_whatever_lies_below_its_keys() {
        let file = MirrorsFile::parse_table(TABLE, "c.toml").unwrap();
        assert_eq!(file.channels.len(), 2);
        let below = |url: &str| file.mirrors_below(url).map(|mirrors| shown(&mirrors));
        assert_eq!(
            below("https://Origin.example/two/three/").unwrap(),
            [
                "https://z.example/all/two/three",
                "s3://bucket/all/two/three",
                "oci://r.example/all/two/three"
            ]
        );
        assert_eq!(
            below("https://origin.example/one").unwrap(),
            ["https://a.example/one"]
        );
        assert_eq!(
            below("https://origin.example/one/x").unwrap(),
            ["https://a.example/one/x"]
        );
        assert_eq!(
            below("https://origin.example/oneness").unwrap()[0],
            "https://z.example/all/oneness"
        );
        assert_eq!(below("https://elsewhere.example/one"), None);
        assert_eq!(
            MirrorsFile::parse_table("a = 1", "c.toml")
                .unwrap()
                .channels,
            []
        );
    }

    #[test]
    fn mistakes_in_a_table_are_named() {
        for (text, expected) in [
            (
                "mirrors = 3",
                "c.toml:1:11: mirrors: expected a table of arrays of URLs",
            ),
            (
                "[mirrors]\nname = [\"/a\"]",
                "c.toml:2:1: mirrors.name: not a mirror's URL: `name` has no",
            ),
            ("[mirrors]\n\"https://a.example\" = []", "no mirrors"),
            (
                "[mirrors]\n\"https://a.example\" = [\"/a\"]\n\"https://A.example/\" = [\"/b\"]",
                "c.toml:3:1: mirrors.https://a.example/: `https://a.example/` stands already in line 2",
            ),
        ] {
            let message = MirrorsFile::parse_table(text, "c.toml")
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(expected),
                "\n got {message}\nwant {expected}"
            );
        }
    }

    #[test]
    fn mirrored_channels_are_read_from_yaml() {
        let file = MirrorsFile::parse_mirrored_channels(
            "{% a template %}\nname: x   # comment\nchannels:\n  - one\nmirrored_channels:\n  one:\n    \
             - \"https://a.example/one\"   # near\n    - https://b.example/one#frag\n\n  'two':\n  - /srv/two\n  \
             three: [https://c.example/3, 'https://d.example/3']\nother:\n  - ignored: {}\n",
            "rc",
        )
        .unwrap();
        assert_eq!(file.channels.len(), 3);
        assert_eq!(
            shown(file.mirrors_for("one").unwrap()),
            ["https://a.example/one", "https://b.example/one"]
        );
        assert_eq!(shown(file.mirrors_for("two").unwrap()), ["file:///srv/two"]);
        assert_eq!(file.mirrors_for("three").unwrap().len(), 2);
        let origin = file.channels[0].mirrors[0].origin.to_string();
        assert_eq!(origin, "rc:7");
        assert_eq!(
            MirrorsFile::parse_mirrored_channels("a: b\n", "rc")
                .unwrap()
                .channels,
            []
        );
    }

    #[test]
    fn mistakes_in_yaml_are_named_with_their_line() {
        for (text, expected) in [
            (
                "mirrored_channels: 3\n",
                "rc:1:1: mirrored_channels: only names with lists",
            ),
            (
                "mirrored_channels:\n  - /a\n",
                "rc:2:3: mirrored_channels: only names with lists",
            ),
            (
                "mirrored_channels:\n  a: &x [/a]\n",
                "rc:2:3: mirrored_channels: only names with lists",
            ),
            (
                "mirrored_channels:\n  a:\n  b:\n    - /b\n",
                "rc:2:3: mirrored_channels.a: no mirrors",
            ),
            (
                "mirrored_channels:\n  a:\n    - ftp://a.example\n",
                "rc:3:5: mirrored_channels.a: not a mirror's",
            ),
            (
                "mirrored_channels:\n  a: [/a, /a/]\n",
                "`file:///a` stands already in line 2",
            ),
            (
                "mirrored_channels:\n  a: [/a]\n  a: [/b]\n",
                "rc:3:3: mirrored_channels.a: `a` stands already",
            ),
        ] {
            let message = MirrorsFile::parse_mirrored_channels(text, "rc")
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(expected),
                "\n got {message}\nwant {expected}"
            );
        }
    }
}
