use std::collections::{HashMap, HashSet};

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;
use url::Url;

use crate::lists::list_error::{ListError, ListProblem, SkipReason, Skipped, within};
use crate::lists::listed_digest::ListedDigest;
use crate::safe_url::shorten;
use crate::{Location, Mirror, Provenance};

/// In bytes.
const MOST_BYTES: usize = 8 << 20;
const MOST_DEPTH: usize = 32;
/// Of one element, in bytes.
const MOST_TEXT: usize = 16 << 10;
/// Elements of any kind, over all files.
const MOST_ENTRIES: usize = 65_536;
/// The namespace of version 4 (RFC 5854 §3).
const NAMESPACE_4: &str = "urn:ietf:params:xml:ns:metalink";
/// That of version 3, in both schemes.
const NAMESPACES_3: [&str; 2] = ["http://www.metalinker.org/", "https://www.metalinker.org/"];
/// That of the elements which name earlier versions of a file.
const NAMESPACE_ALTERNATES: &str = "http://fedorahosted.org/mirrormanager";

/// A metalink of version 3.0 or 4 (RFC 5854): files, their digests and their mirrors.
///
/// A preference becomes the [weight](Mirror::weight) of a mirror and not its tier: the server that
/// wrote it does not know how fast the mirrors are from here, and it usually ranks all mirrors
/// differently, so that tiers would leave all but the first idle.
#[derive(Clone, Debug, PartialEq)]
pub struct Metalink {
    /// In the order of the document.
    pub files: Vec<MetalinkFile>,
    pub skipped: Vec<Skipped>,
}

/// A file of a metalink.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetalinkFile {
    /// A relative path without `..`.
    pub name: String,
    /// The current version.
    pub version: FileVersion,
    /// Earlier versions that are still valid, usually newest first.
    pub alternates: Vec<FileVersion>,
    /// Each location is that of the file itself.
    pub mirrors: Vec<Mirror>,
}

/// A version of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileVersion {
    /// In seconds since the epoch.
    pub timestamp: Option<u64>,
    /// In bytes.
    pub size: Option<u64>,
    pub digests: Vec<ListedDigest>,
}

impl Metalink {
    /// Reads a metalink. Errors call it `file`; `provenance` gives that of the mirrors in a line.
    /// Unusable mirrors and invalid values are skipped; a malformed document is an error.
    ///
    /// Elements are told apart by namespace and local name. Those of other namespaces are ignored (RFC 5854 §5).
    pub fn parse(
        text: &str,
        file: &str,
        provenance: impl Fn(u32) -> Provenance,
    ) -> Result<Self, ListError> {
        within("the length in bytes", text.len(), MOST_BYTES)
            .map_err(|problem| ListError::at_line(file, 1, problem))?;
        let mut builder = Builder::default();
        let mut lines = Lines {
            text,
            at: 0,
            line: 1,
        };
        match builder.read(text, &mut lines, &provenance) {
            Ok(()) => Ok(Self {
                files: builder.files,
                skipped: builder.skipped,
            }),
            Err(problem) => Err(ListError::at_line(file, lines.line, problem)),
        }
    }

    pub fn file(&self, name: &str) -> Option<&MetalinkFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

impl FileVersion {
    /// Whether the other one has another size or another digest of the same kind.
    fn contradicts(&self, other: &Self) -> bool {
        let sizes = self.size.zip(other.size);
        sizes.is_some_and(|(one, two)| one != two)
            || self.digests.iter().any(|digest| {
                let mut same_kind = (other.digests.iter())
                    .filter(|other| other.algorithm() == digest.algorithm())
                    .peekable();
                same_kind.peek().is_some() && same_kind.all(|other| other != digest)
            })
    }
}

impl MetalinkFile {
    /// The mirrors of the directory in which this file has the path `path`: the locations that end in
    /// `path`, without it.
    pub fn base_mirrors(&self, path: &str) -> Vec<Mirror> {
        let path = path.trim_matches('/');
        let base = |mirror: &Mirror| {
            let Location::Http(url) = &mirror.location else {
                return None;
            };
            let above = url.path().strip_suffix(path)?.strip_suffix('/')?;
            let mut base: Url = url.clone();
            base.set_path(above);
            let location = Location::parse(base.as_str()).ok()?;
            Some(Mirror {
                location,
                ..mirror.clone()
            })
        };
        let mut seen = HashSet::new();
        let mut mirrors: Vec<Mirror> = self.mirrors.iter().filter_map(base).collect();
        mirrors.retain(|mirror| seen.insert(mirror.location.key()));
        mirrors
    }
}

/// Counts lines up to a position that only moves forward.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl Lines<'_> {
    fn move_to(&mut self, byte: u64) {
        let byte = usize::try_from(byte)
            .unwrap_or(usize::MAX)
            .min(self.text.len());
        if let Some(passed) = self.text.as_bytes().get(self.at..byte) {
            let breaks = passed.split(|&b| b == b'\n').count() - 1;
            self.line = self
                .line
                .saturating_add(u32::try_from(breaks).unwrap_or(u32::MAX));
            self.at = byte;
        }
    }
}

/// Attributes of the innermost open element.
#[derive(Default)]
struct Attributes {
    kind: Option<String>,
    location: Option<String>,
    preference: Option<String>,
    priority: Option<String>,
    max_connections: Option<String>,
}

#[derive(Default)]
struct Builder {
    files: Vec<MetalinkFile>,
    skipped: Vec<Skipped>,
    /// The local names of the open elements; `None` for one of another namespace.
    open: Vec<Option<String>>,
    /// The namespace of the root.
    namespace: Option<String>,
    attributes: Attributes,
    text: String,
    version_3: bool,
    /// The `maxconnections` of `resources` in version 3.
    max_connections: Option<u32>,
    seen: HashSet<String>,
    entries: usize,
}

impl Builder {
    fn read(
        &mut self,
        text: &str,
        lines: &mut Lines<'_>,
        provenance: &dyn Fn(u32) -> Provenance,
    ) -> Result<(), ListProblem> {
        let syntax = |message: String| ListProblem::Syntax {
            format: "well-formed",
            message: shorten(&message, 200),
        };
        let mut reader = NsReader::from_str(text);
        let mut rooted = false;
        loop {
            let event = reader.read_event().map_err(|error| {
                lines.move_to(reader.error_position());
                syntax(error.to_string())
            })?;
            lines.move_to(reader.buffer_position());
            match event {
                Event::Start(element) => {
                    rooted = true;
                    let namespace = reader.resolver().resolve_element(element.name()).0;
                    self.start(&element, &namespace, lines.line)?;
                }
                Event::Empty(element) => {
                    rooted = true;
                    let namespace = reader.resolver().resolve_element(element.name()).0;
                    self.start(&element, &namespace, lines.line)?;
                    self.end(lines.line, provenance);
                }
                Event::End(_) => self.end(lines.line, provenance),
                Event::Text(part) => self.push_text(&part.xml10_content())?,
                Event::CData(part) => self.push_text(&part.xml10_content())?,
                Event::GeneralRef(part) => {
                    let name = part.xml10_content().into_owned();
                    let named = match part.resolve_char_ref() {
                        Ok(Some(character)) => Some(character),
                        Ok(None) => predefined(&name),
                        Err(error) => return Err(syntax(error.to_string())),
                    };
                    // Declared entities can expand exponentially.
                    let character =
                        named.ok_or_else(|| syntax(format!("unknown entity `&{name};`")))?;
                    self.push_text(character.encode_utf8(&mut [0; 4]))?;
                }
                // One without declarations changes nothing.
                Event::DocType(declarations) if !declarations.xml10_content().contains('[') => {}
                Event::DocType(_) => {
                    let found = "a document with a type declaration".to_owned();
                    return Err(ListProblem::Foreign {
                        expected: "a metalink",
                        found,
                    });
                }
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        if let Some(element) = self.open.last() {
            let element = element.as_deref().unwrap_or("an element");
            return Err(syntax(format!("the document ends within `{element}`")));
        }
        if !rooted {
            let found = "a document without elements".to_owned();
            return Err(ListProblem::Foreign {
                expected: "a metalink",
                found,
            });
        }
        self.join_repeated()
    }

    fn start(
        &mut self,
        element: &BytesStart<'_>,
        namespace: &ResolveResult<'_>,
        line: u32,
    ) -> Result<(), ListProblem> {
        let name = element.local_name().as_ref().to_owned();
        let uri = match namespace {
            ResolveResult::Bound(Namespace(uri)) => Some(*uri),
            ResolveResult::Unbound => None,
            // A prefix that is not declared.
            ResolveResult::Unknown(_) => Some(""),
        };
        within("the depth of elements", self.open.len() + 1, MOST_DEPTH)?;
        self.entries += 1;
        within("the number of elements", self.entries, MOST_ENTRIES)?;
        let foreign = |found: String| ListProblem::Foreign {
            expected: "a metalink",
            found,
        };
        if self.open.is_empty() && name != "metalink" {
            return Err(foreign(format!("`{}`", shorten(&name, 40))));
        }
        self.attributes = Attributes::default();
        let (mut file_name, mut version) = (None, None);
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|error| ListProblem::Syntax {
                format: "well-formed",
                message: shorten(&error.to_string(), 200),
            })?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|error| ListProblem::Syntax {
                    format: "well-formed",
                    message: shorten(&error.to_string(), 200),
                })?
                .into_owned();
            match attribute.key.as_ref() {
                "name" => file_name = Some(value),
                "version" => version = Some(value),
                "type" => self.attributes.kind = Some(value),
                "location" => self.attributes.location = Some(value),
                "preference" => self.attributes.preference = Some(value),
                "priority" => self.attributes.priority = Some(value),
                "maxconnections" => self.attributes.max_connections = Some(value),
                _ => {}
            }
        }
        self.text.clear();
        if self.open.is_empty() {
            let states_3 = version.is_some_and(|version| version.starts_with("3."));
            let is_4 = uri == Some(NAMESPACE_4);
            self.version_3 =
                !is_4 && (states_3 || uri.is_some_and(|it| NAMESPACES_3.contains(&it)));
            if !self.version_3 && !is_4 {
                return Err(foreign("a metalink of an unknown version".to_owned()));
            }
            self.namespace = uri.map(str::to_owned);
        }
        let is_own = uri == self.namespace.as_deref() || uri == Some(NAMESPACE_ALTERNATES);
        self.open.push(is_own.then_some(name));
        match self.path().as_slice() {
            ["metalink", "file"] => self.start_file(file_name.unwrap_or_default(), line)?,
            ["metalink", "file", "resources"] => {
                let value = self.attributes.max_connections.take();
                self.max_connections = self.connections(value, line);
            }
            ["metalink", "file", "alternates", "alternate"] => {
                if let Some(file) = self.files.last_mut() {
                    file.alternates.push(FileVersion::default());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A file may be written under this name, so it must not leave a directory (RFC 5854 §4.1.2.1).
    fn start_file(&mut self, name: String, line: u32) -> Result<(), ListProblem> {
        let leaves = name.is_empty()
            || name.len() > 4096
            || name.starts_with('/')
            || name.contains(['\\', '\0'])
            || name
                .split('/')
                .any(|segment| matches!(segment, "" | "." | ".."));
        if leaves {
            let message = format!(
                "`{}` is not a valid file name in line {line}",
                shorten(&name, 80)
            );
            return Err(ListProblem::Syntax {
                format: "well-formed",
                message,
            });
        }
        self.files.push(MetalinkFile {
            name,
            ..MetalinkFile::default()
        });
        self.max_connections = None;
        self.seen.clear();
        Ok(())
    }

    /// The open elements as in version 4, which has no `files`. Nothing below an element of another namespace has a path
    /// that is known.
    fn path(&self) -> Vec<&str> {
        let names = self.open.iter().map(|name| name.as_deref().unwrap_or(""));
        let mut path: Vec<&str> = names.collect();
        if path.get(1) == Some(&"files") {
            path.remove(1);
        }
        path
    }

    fn push_text(&mut self, part: &str) -> Result<(), ListProblem> {
        let length = self.text.len() + part.len();
        within("the length of an element's text", length, MOST_TEXT)?;
        self.text.push_str(part);
        Ok(())
    }

    fn end(&mut self, line: u32, provenance: &dyn Fn(u32) -> Provenance) {
        let text = std::mem::take(&mut self.text);
        let text = text.trim();
        let path = self.path();
        if let ["metalink", "file", rest @ ..] = path.as_slice() {
            let in_version_3 = self.version_3;
            match rest {
                ["size"] => self.set_size(text, line, false),
                ["timestamp"] => self.set_timestamp(text, line, false),
                ["hash"] | ["verification", "hash"] => self.add_digest(text, line, false),
                ["alternates", "alternate", "size"] => self.set_size(text, line, true),
                ["alternates", "alternate", "timestamp"] => self.set_timestamp(text, line, true),
                ["alternates", "alternate", "verification", "hash"] => {
                    self.add_digest(text, line, true);
                }
                ["url"] if !in_version_3 => self.add_mirror(text, line, provenance),
                ["resources", "url"] if in_version_3 => self.add_mirror(text, line, provenance),
                _ => {}
            }
        }
        self.open.pop();
        self.attributes = Attributes::default();
    }

    /// Joins the entries of files that the document lists more than once.
    fn join_repeated(&mut self) -> Result<(), ListProblem> {
        let mut files: Vec<MetalinkFile> = Vec::new();
        let mut places = HashMap::new();
        for file in self.files.drain(..) {
            let place = *places.entry(file.name.clone()).or_insert(files.len());
            let Some(first) = files.get_mut(place) else {
                files.push(file);
                continue;
            };
            if first.version.contradicts(&file.version) {
                let name = shorten(&file.name, 80);
                return Err(ListProblem::Syntax {
                    format: "consistent",
                    message: format!("`{name}` is listed twice, as two different files"),
                });
            }
            first.version.size = first.version.size.or(file.version.size);
            first.version.timestamp = first.version.timestamp.or(file.version.timestamp);
            for digest in file.version.digests {
                if !first.version.digests.contains(&digest) {
                    first.version.digests.push(digest);
                }
            }
            first.alternates.extend(file.alternates);
            let known: HashSet<String> = first.mirrors.iter().map(|m| m.location.key()).collect();
            let others = file.mirrors.into_iter();
            first
                .mirrors
                .extend(others.filter(|mirror| !known.contains(&mirror.location.key())));
        }
        self.files = files;
        Ok(())
    }

    /// The version that the open element describes.
    fn version(&mut self, alternate: bool) -> Option<&mut FileVersion> {
        let file = self.files.last_mut()?;
        if alternate {
            file.alternates.last_mut()
        } else {
            Some(&mut file.version)
        }
    }

    fn skip(&mut self, line: u32, expected: &'static str, value: &str) {
        let why = SkipReason::BadValue {
            expected,
            value: shorten(value, 80),
        };
        self.skipped.push(Skipped { line, why });
    }

    fn set_size(&mut self, text: &str, line: u32, alternate: bool) {
        match (text.parse(), self.version(alternate)) {
            (Ok(size), Some(version)) => version.size = Some(size),
            _ => self.skip(line, "length in bytes", text),
        }
    }

    fn set_timestamp(&mut self, text: &str, line: u32, alternate: bool) {
        match (text.parse(), self.version(alternate)) {
            (Ok(time), Some(version)) => version.timestamp = Some(time),
            _ => self.skip(line, "time in seconds since the epoch", text),
        }
    }

    fn add_digest(&mut self, text: &str, line: u32, alternate: bool) {
        let kind = self.attributes.kind.take().unwrap_or_default();
        match (ListedDigest::from_hex(&kind, text), self.version(alternate)) {
            (Some(digest), Some(version)) => version.digests.push(digest),
            _ => self.skip(line, "digest of a known kind", &format!("{kind}:{text}")),
        }
    }

    fn connections(&mut self, value: Option<String>, line: u32) -> Option<u32> {
        let value = value?;
        let count = value
            .trim()
            .parse()
            .ok()
            .filter(|count| (1..=1024).contains(count));
        if count.is_none() {
            self.skip(line, "number of connections", &value);
        }
        count
    }

    fn add_mirror(&mut self, text: &str, line: u32, provenance: &dyn Fn(u32) -> Provenance) {
        let attributes = std::mem::take(&mut self.attributes);
        let location = match Location::parse(text) {
            Ok(location) => location,
            Err(error) => {
                let why = SkipReason::Location(error);
                self.skipped.push(Skipped { line, why });
                return;
            }
        };
        if !provenance(line).may_name(&location) {
            self.skipped.push(Skipped {
                line,
                why: SkipReason::LocalPath,
            });
            return;
        }
        if !self.seen.insert(location.key()) {
            let why = SkipReason::Duplicate(location.to_string());
            self.skipped.push(Skipped { line, why });
            return;
        }
        let mut mirror = Mirror::new(location, provenance(line));
        mirror.weight = self.weight(&attributes, line);
        let own = self.connections(attributes.max_connections, line);
        mirror.max_connections = own.or(self.max_connections);
        mirror.country = attributes
            .location
            .map(|country| country.trim().to_ascii_uppercase())
            .filter(|country| {
                country.len() == 2 && country.bytes().all(|b| b.is_ascii_alphabetic())
            });
        if let Some(file) = self.files.last_mut() {
            file.mirrors.push(mirror);
        }
    }

    /// The weight of a preference (0 to 100, the higher the better) or of a priority (1 to 999999, the
    /// lower the better).
    fn weight(&mut self, attributes: &Attributes, line: u32) -> f64 {
        if let Some(value) = &attributes.preference {
            match value.trim().parse::<u32>() {
                Ok(preference @ 0..=100) => return (f64::from(preference) / 100.0).max(0.01),
                _ => self.skip(line, "preference of 0 to 100", value),
            }
        }
        if let Some(value) = &attributes.priority {
            match value.trim().parse::<u32>() {
                Ok(priority @ 1..=999_999) => return rank_weight(priority),
                _ => self.skip(line, "priority of 1 to 999999", value),
            }
        }
        1.0
    }
}

/// The weight of a rank, 1 being the best. It falls slowly.
pub(crate) fn rank_weight(rank: u32) -> f64 {
    f64::from(rank).sqrt().recip().max(0.01)
}

fn predefined(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Metalink, ListError> {
        Metalink::parse(text, "m", |_| Provenance::CommandLine)
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    const VERSION_3: &str = r#"<?xml version="1.0"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" xmlns:mm0="http://fedorahosted.org/mirrormanager">
 <files>
  <file name="index.bin">
   <mm0:timestamp>1700000000</mm0:timestamp>
   <size>4309</size>
   <verification><hash type="md5">d41d8cd98f00b204e9800998ecf8427e</hash></verification>
   <mm0:alternates><mm0:alternate>
     <mm0:timestamp>1600000000</mm0:timestamp><size>17</size>
     <verification><hash type="sha1">da39a3ee5e6b4b0d3255bfef95601890afd80709</hash></verification>
   </mm0:alternate></mm0:alternates>
   <resources maxconnections="2">
    <url protocol="https" type="https" location="de" preference="90">https://a.example/pub/repo/index.bin</url>
    <url location="US" preference="101">https://b.example/x/repo/index.bin?a=1&amp;b=2</url>
    <url preference="50" maxconnections="7"> https://c.example/other/index.bin </url>
    <url>rsync://d.example/repo/index.bin</url>
    <url>https://A.example:443/pub/repo/index.bin</url>
    <url/>
   </resources>
  </file>
 </files>
</metalink>"#;

    #[test]
    fn version_3_is_read_with_alternates() {
        let metalink = parse(VERSION_3).unwrap();
        let file = metalink.file("index.bin").unwrap();
        assert_eq!(
            (file.version.timestamp, file.version.size),
            (Some(1_700_000_000), Some(4309))
        );
        assert_eq!(file.version.digests[0].algorithm(), "md5");
        assert_eq!(file.alternates.len(), 1);
        assert_eq!(
            (file.alternates[0].size, file.alternates[0].digests.len()),
            (Some(17), 1)
        );
        assert_eq!(file.mirrors.len(), 3);
        let first = &file.mirrors[0];
        assert_eq!(
            (first.country.as_deref(), first.max_connections),
            (Some("DE"), Some(2))
        );
        assert!((first.weight - 0.9).abs() < 1e-9 && first.priority == 0);
        assert_eq!(
            file.mirrors[1].location.to_string(),
            "https://b.example/x/repo/index.bin?a=1&b=2"
        );
        assert_eq!(file.mirrors[2].max_connections, Some(7));
        let said: Vec<String> = metalink.skipped.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(
            said[0],
            "line 14: `101` is not a valid preference of 0 to 100"
        );
        assert!(said[1].starts_with("line 16: `rsync://`"), "{said:?}");
        assert!(said[2].contains("is already in the list"), "{said:?}");
        assert_eq!(said[3], "line 18: it is empty");
    }

    #[test]
    fn version_4_is_read() {
        let metalink = parse(
            r#"<metalink xmlns="urn:ietf:params:xml:ns:metalink">
 <generator>g/1</generator>
 <file name="dir/a.bin">
  <size>5</size>
  <hash type="sha-256">E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855</hash>
  <pieces length="2" type="sha-256"><hash>00</hash></pieces>
  <url location="fr" priority="4">https://a.example/dir/a.bin</url>
  <url priority="1"><![CDATA[https://b.example/dir/a.bin]]></url>
  <metaurl mediatype="torrent">https://b.example/a.torrent</metaurl>
 </file>
</metalink>"#,
        )
        .unwrap();
        let file = &metalink.files[0];
        assert_eq!(
            (file.name.as_str(), file.version.size),
            ("dir/a.bin", Some(5))
        );
        assert_eq!(file.version.digests.len(), 1);
        assert_eq!(file.mirrors.len(), 2);
        assert!(file.mirrors[0].weight < file.mirrors[1].weight);
        assert_eq!(metalink.skipped, []);
    }

    #[test]
    fn base_mirrors_are_those_that_have_the_file_at_its_path() {
        let metalink = parse(VERSION_3).unwrap();
        let bases = metalink.files[0].base_mirrors("repo/index.bin");
        let urls: Vec<String> = bases.iter().map(|m| m.location.to_string()).collect();
        assert_eq!(
            urls,
            ["https://a.example/pub", "https://b.example/x?a=1&b=2"]
        );
        assert_eq!(bases[0].country.as_deref(), Some("DE"));
    }

    #[test]
    fn a_document_that_is_not_a_metalink_is_refused_with_its_line() {
        for (text, expected) in [
            (
                "",
                "m:1: expected a metalink, found a document without elements",
            ),
            (
                "just text",
                "m:1: expected a metalink, found a document without elements",
            ),
            (
                "<!DOCTYPE html><html/>",
                "m:1: expected a metalink, found `html`",
            ),
            (
                "<!DOCTYPE metalink [<!ENTITY a \"b\">]><metalink version=\"3.0\"/>",
                "m:1: expected a metalink, found a document with a type declaration",
            ),
            (
                "<html><body/></html>",
                "m:1: expected a metalink, found `html`",
            ),
            (
                "<metalink version=\"9\"/>",
                "m:1: expected a metalink, found a metalink of an unknown version",
            ),
            (
                "<metalink version=\"3.0\">\n<files>\n<file name=\"a\">\n",
                "m:4: not well-formed: the document ends within `file`",
            ),
            (
                "<metalink version=\"3.0\">\n</files>",
                "m:2: not well-formed: ",
            ),
            (
                "<metalink version=\"3.0\"><files><file name=\"../a\"/></files></metalink>",
                "m:1: not well-formed: `../a` is not a valid file name",
            ),
            (
                "<metalink version=\"3.0\"><files>&bomb;</files></metalink>",
                "m:1: not well-formed: unknown entity `&bomb;`",
            ),
        ] {
            let message = refused(text);
            assert!(
                message.starts_with(expected),
                "\n got {message}\nwant {expected}"
            );
        }
    }

    const ROOT_4: &str = "<metalink xmlns='urn:ietf:params:xml:ns:metalink'";

    #[test]
    fn elements_are_told_apart_by_namespace_whatever_the_prefix() {
        let prefixed = parse(
            "<m:metalink xmlns:m='urn:ietf:params:xml:ns:metalink'><m:file name='a'><m:size>5</m:size>\
             <m:url>https://a.example/a</m:url></m:file><file name='b'/></m:metalink>",
        )
        .unwrap();
        assert_eq!(prefixed.files.len(), 1);
        assert_eq!(prefixed.files[0].version.size, Some(5));
        assert_eq!(prefixed.files[0].mirrors.len(), 1);
        let foreign = parse(&format!(
            "{ROOT_4} xmlns:x='http://x.example/'><x:file/><x:info><file name='z'/></x:info><file name='a'>\
             <x:url>https://x.example/a</x:url><x:size>7</x:size><url xmlns='http://y.example/'>https://y.example/</url>\
             <undeclared:size>8</undeclared:size><url>https://a.example/a</url></file></metalink>"
        ))
        .unwrap();
        assert_eq!(foreign.files.len(), 1);
        assert_eq!(foreign.files[0].version.size, None);
        let location = foreign.files[0].mirrors[0].location.to_string();
        assert_eq!(
            (foreign.files[0].mirrors.len(), &*location),
            (1, "https://a.example/a")
        );
        for scheme in ["http", "https"] {
            let by_namespace = parse(&format!(
                "<metalink xmlns='{scheme}://www.metalinker.org/'><files><file name='a'/></files></metalink>"
            ));
            assert_eq!(by_namespace.unwrap().files.len(), 1);
        }
    }

    #[test]
    fn a_type_declaration_without_declarations_changes_nothing() {
        let metalink = parse(&format!(
            "<!DOCTYPE metalink>{ROOT_4}><file name='a'/></metalink>"
        ));
        assert_eq!(metalink.unwrap().files.len(), 1);
    }

    #[test]
    fn a_file_that_is_listed_twice_is_one_file() {
        let digest = "0123456789abcdef0123456789abcdef";
        let entry = |size: u32, host: &str| {
            format!(
                "<file name='a'><size>{size}</size><hash type='md5'>{digest}</hash>\
                 <url>https://{host}.example/a</url><url>https://c.example/a</url></file>"
            )
        };
        let metalink = parse(&format!(
            "{ROOT_4}>{}{}</metalink>",
            entry(5, "a"),
            entry(5, "b")
        ))
        .unwrap();
        assert_eq!(
            (metalink.files.len(), metalink.files[0].mirrors.len()),
            (1, 3)
        );
        assert_eq!(metalink.files[0].version.digests.len(), 1);
        let message = refused(&format!(
            "{ROOT_4}>{}{}</metalink>",
            entry(5, "a"),
            entry(6, "b")
        ));
        assert!(message.contains("`a` is listed twice"), "{message}");
    }

    #[test]
    fn in_version_3_only_urls_in_resources_are_mirrors() {
        let metalink = parse(
            "<metalink version=\"3.0\"><files><file name=\"a\"><url>https://r.example/</url><publisher><url>https://p.example/</url>\
             </publisher></file></files><url>https://q.example/</url></metalink>",
        )
        .unwrap();
        assert_eq!(metalink.files[0].mirrors, []);
    }

    #[test]
    fn too_much_of_anything_is_refused() {
        let deep = format!("<metalink version=\"3.0\">{}", "<a>".repeat(1000));
        assert!(refused(&deep).contains("the depth of elements is 33"));
        let long = format!(
            "<metalink version=\"3.0\">{}</metalink>",
            "a".repeat(20_000)
        );
        assert!(refused(&long).contains("the length of an element's text"));
        let many = format!(
            "<metalink version=\"3.0\">{}</metalink>",
            "<a/>".repeat(70_000)
        );
        assert!(refused(&many).contains("the number of elements is 65537"));
    }
}
