use crate::lists::list_error::{ListError, ListProblem};
use crate::lists::yaml_file::section;
use crate::{Metalink, Mirror, MirrorList, MirrorsFile, Provenance};

/// A mirror list of any kind, recognised by its content.
#[derive(Clone, Debug, PartialEq)]
pub enum MirrorSource {
    /// Collections with their mirrors: a mirrors file, or the section of a YAML file.
    Collections(MirrorsFile),
    /// A `[mirrors]` table, whose keys apply to all URLs below them.
    Table(MirrorsFile),
    /// A plain list, which does not name the collection that it is for.
    List(MirrorList),
    /// A metalink: files, their digests and locations.
    Metalink(Metalink),
}

/// The kind of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Metalink,
    OurToml,
    Table,
    Yaml,
    /// YAML without a section of mirrors.
    OtherYaml,
    List,
}

impl MirrorSource {
    /// Reads a list of any kind. Its content decides the kind: `<?xml` or `<metalink` begins
    /// a metalink; `[…]` or `key = …` begins TOML, with a `[mirrors]` table or with `[[channel]]`
    /// entries; `mirrored_channels:` or `mirrors:` at the beginning of a line makes it YAML; anything
    /// else is a plain list. A text without content is a mirrors file if its name ends in `.toml`.
    ///
    /// Errors call the list `file`; `variables` are those of [`MirrorList::parse`]; `provenance` gives
    /// that of the mirrors in a line.
    pub fn parse(
        text: &str,
        file: &str,
        variables: &[(&str, &str)],
        provenance: impl Fn(u32) -> Provenance,
    ) -> Result<Self, ListError> {
        let named = |parsed: MirrorsFile| named_by(parsed, file, &provenance);
        Ok(match shape(text, file) {
            Shape::Metalink => Self::Metalink(Metalink::parse(text, file, &provenance)?),
            Shape::OurToml => Self::Collections(named(MirrorsFile::parse(text, file)?)?),
            Shape::Table => Self::Table(named(MirrorsFile::parse_prefixes(text, file)?)?),
            Shape::Yaml => Self::Collections(named(MirrorsFile::parse_yaml(text, file)?)?),
            Shape::OtherYaml => {
                let found = "YAML without `mirrored_channels:`".to_owned();
                let expected = "a list of mirrors";
                let problem = ListProblem::Foreign { expected, found };
                return Err(ListError::at_line(file, 1, problem));
            }
            Shape::List => Self::List(MirrorList::parse(text, file, variables, &provenance)?),
        })
    }

    /// A name for the kind of list.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Collections(_) => "mirrors file",
            Self::Table(_) => "table of mirrors",
            Self::List(_) => "plain list",
            Self::Metalink(_) => "metalink",
        }
    }
}

/// Looks at the first line with content, and for the sections of YAML at all lines.
fn shape(text: &str, file: &str) -> Shape {
    let text = text.trim_start_matches('\u{feff}');
    let start = text.trim_start();
    if start.starts_with("<?xml") || start.starts_with("<metalink") {
        return Shape::Metalink;
    }
    let says = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let Some(first) = text.lines().find(says) else {
        let is_toml = file.to_ascii_lowercase().ends_with(".toml");
        return if is_toml { Shape::OurToml } else { Shape::List };
    };
    if is_toml_line(first) {
        let has = |what: fn(&str) -> bool| text.lines().any(what);
        let table = has(|line| {
            let line = line.trim_start();
            line.starts_with("[mirrors]") || line.starts_with("mirrors.")
        });
        let ours = has(|line| line.trim_start().starts_with("[[channel"));
        return if table && !ours {
            Shape::Table
        } else {
            Shape::OurToml
        };
    }
    if text.lines().any(|line| section(line).is_some()) {
        return Shape::Yaml;
    }
    // `https://…` has no blank after its colon.
    let is_key = |line: &str| line.ends_with(':') || line.contains(": ");
    let first = first.trim_end();
    let is_yaml = first == "---" || first.starts_with("- ") || first.starts_with("{%");
    if is_yaml || (is_key(first) && !first.contains("://")) {
        Shape::OtherYaml
    } else {
        Shape::List
    }
}

fn is_toml_line(line: &str) -> bool {
    let line = line.trim();
    if line.starts_with('[') {
        return true;
    }
    let Some((key, _)) = line.split_once('=') else {
        return false;
    };
    let key = key.trim();
    // A plain list may consist of lines such as `Server = https://…`.
    let quoted = key.starts_with(['"', '\'']) || key.starts_with("mirrors.");
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    key != "Server" && (quoted || (!key.is_empty() && key.chars().all(bare)))
}

/// Replaces the provenance of each mirror, and rejects locations that it may not name.
fn named_by(
    mut parsed: MirrorsFile,
    file: &str,
    provenance: &dyn Fn(u32) -> Provenance,
) -> Result<MirrorsFile, ListError> {
    for collection in &mut parsed.collections {
        for mirror in &mut collection.mirrors {
            let line = line_of(mirror).unwrap_or(collection.line);
            mirror.provenance = provenance(line);
            if !mirror.provenance.may_name(&mirror.location) {
                return Err(ListError {
                    file: file.to_owned(),
                    line,
                    column: None,
                    key: String::new(),
                    problem: ListProblem::LocalPath {
                        path: mirror.location.to_string(),
                    },
                });
            }
        }
    }
    Ok(parsed)
}

fn line_of(mirror: &Mirror) -> Option<u32> {
    match mirror.provenance {
        Provenance::File { line, .. } => Some(line),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<MirrorSource, ListError> {
        MirrorSource::parse(text, "f", &[], |line| Provenance::File {
            file: "f".into(),
            line,
        })
    }

    #[test]
    fn a_list_is_recognised_by_its_content() {
        for (text, kind) in [
            (
                "# c\n[[channel]]\nurl = \"c\"\nmirrors = [\"/a\"]\n",
                "mirrors file",
            ),
            ("channel = []\n", "mirrors file"),
            (
                "tls-no-verify = true\n[mirrors]\n\"https://o.example\" = [\"/a\"]\n",
                "table of mirrors",
            ),
            (
                "mirrors.\"https://o.example\" = [\"/a\"]\n",
                "table of mirrors",
            ),
            (
                "channels:\n  - c\nmirrored_channels:\n  c:\n    - /a\n",
                "mirrors file",
            ),
            (
                "mirrors:\n  c:\n    - https://a.example/c\n",
                "mirrors file",
            ),
            ("https://a.example/x\n", "plain list"),
            ("\u{feff}/srv/x\n", "plain list"),
            ("# c\nServer = https://a.example/x?y=1: z\n", "plain list"),
            (
                "<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"></metalink>",
                "metalink",
            ),
            (
                "\n<?xml version=\"1.0\"?><metalink version=\"3.0\"/>",
                "metalink",
            ),
        ] {
            assert_eq!(read(text).unwrap().kind(), kind, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_not_a_list_is_refused_and_named() {
        for (text, expected) in [
            (
                "<!DOCTYPE html><p>",
                "f:1: expected a list of mirrors, found markup",
            ),
            (
                "- provider: x\n  url: https://a.example\n",
                "f:1: expected a list of mirrors, found YAML without `mirrored_channels:`",
            ),
            (
                "channels: [c]\n",
                "f:1: expected a list of mirrors, found YAML without",
            ),
            ("\n# nothing\n", "f:1: no usable mirror"),
            (
                "[[channel]]\nurl = \"c\"\n",
                "f:1:1: channel[0]: missing field `mirrors`",
            ),
            ("[repos]\na = 1\n", "f:1:2: repos: unknown key"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(
                message.starts_with(expected),
                "\n got {message}\nwant {expected}"
            );
        }
        let empty = MirrorSource::parse("# nothing\n", "m.toml", &[], |_| Provenance::CommandLine);
        assert_eq!(empty.unwrap().kind(), "mirrors file");
    }

    #[test]
    fn a_file_from_a_server_names_no_local_path() {
        let found = |line: u32| Provenance::Discovered {
            from: format!("https://l.example/m:{line}").into(),
        };
        let text = "[[channel]]\nurl = \"c\"\nmirrors = [\"https://a.example/c\",\n\"/etc\"]\n";
        let message = MirrorSource::parse(text, "https://l.example/m", &[], found)
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "https://l.example/m:4: `file:///etc` is a local path: a list from a server must not name one"
        );
        let text = "[[channel]]\nurl = \"c\"\nmirrors = [\"https://a.example/c\"]\n";
        let MirrorSource::Collections(file) =
            MirrorSource::parse(text, "https://l.example/m", &[], found).unwrap()
        else {
            panic!("it is a mirrors file")
        };
        assert_eq!(
            file.collections[0].mirrors[0].provenance.to_string(),
            "discovered at https://l.example/m:3"
        );
    }
}
