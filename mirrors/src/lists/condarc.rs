//! The settings in conda's configuration file that others share.

use std::rc::Rc;

use crate::lists::list_error::{ListError, ListProblem as Problem};
use crate::lists::yaml_file::{Content, Loader, Node, expanded};

/// The most entries of a list that are read.
const MOST_ENTRIES: usize = 1024;

/// The settings in a `.condarc` that say where packages come from and go to. All other keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condarc {
    pub channels: Option<Vec<String>>,
    /// What the channel name `defaults` stands for.
    pub default_channels: Option<Vec<String>>,
    pub channel_alias: Option<String>,
    /// Channel names, and the URL below which each is.
    pub custom_channels: Vec<(String, String)>,
    /// Names that stand for several channels.
    pub custom_multichannels: Vec<(String, Vec<String>)>,
    /// `strict`, `flexible` or `disabled`.
    pub channel_priority: Option<String>,
    pub subdir: Option<String>,
    pub pkgs_dirs: Option<Vec<String>>,
    pub always_copy: Option<bool>,
    /// Whether it has `mirrored_channels`, which [`MirrorsFile::parse_yaml`](crate::MirrorsFile::parse_yaml) reads.
    pub has_mirrors: bool,
}

impl Condarc {
    /// Reads a `.condarc`. Keys with values that cannot be used are left out, and reported with file and line.
    pub fn parse(text: &str, file: &str) -> (Self, Vec<ListError>) {
        let mut condarc = Self::default();
        let mut problems = Vec::new();
        let mut report = |node: &Node, key: &str, problem| {
            problems.push(ListError {
                file: file.to_owned(),
                line: node.line,
                column: Some(node.column),
                key: key.to_owned(),
                problem,
            });
        };
        let entries = match Loader::load(text) {
            Ok(Some(root)) => match &root.content {
                Content::Mapping(entries) => entries.clone(),
                Content::Null => Vec::new(),
                _ => {
                    report(&root, "", root.is_not("a mapping"));
                    Vec::new()
                }
            },
            Ok(None) => Vec::new(),
            Err((node, problem)) => {
                report(&node, "", problem);
                Vec::new()
            }
        };
        for (name, value) in &entries {
            let Some(key) = name.text() else { continue };
            if let Err((node, problem)) = condarc.set(key, value) {
                report(&node, key, problem);
            }
        }
        (condarc, problems)
    }

    fn set(&mut self, key: &str, value: &Rc<Node>) -> Result<(), (Rc<Node>, Problem)> {
        if matches!(value.content, Content::Null) {
            return Ok(());
        }
        match key {
            "channels" | "channel" => self.channels = Some(texts(value)?),
            "default_channels" => self.default_channels = Some(texts(value)?),
            "channel_alias" => self.channel_alias = Some(text(value)?),
            "custom_channels" => {
                for (name, base) in mapping(value)? {
                    self.custom_channels.push((text(name)?, text(base)?));
                }
            }
            "custom_multichannels" => {
                for (name, channels) in mapping(value)? {
                    self.custom_multichannels
                        .push((text(name)?, texts(channels)?));
                }
            }
            "channel_priority" => {
                let priority = match text(value)?.to_ascii_lowercase().as_str() {
                    "strict" => "strict",
                    // Before 4.6, conda had two values.
                    "flexible" | "true" | "yes" => "flexible",
                    "disabled" | "false" | "no" => "disabled",
                    _ => {
                        return Err((
                            Rc::clone(value),
                            value.is_not("strict, flexible or disabled"),
                        ));
                    }
                };
                self.channel_priority = Some(priority.to_owned());
            }
            "subdir" => self.subdir = Some(text(value)?),
            "pkgs_dirs" => self.pkgs_dirs = Some(texts(value)?),
            "always_copy" => {
                let is_true = match text(value)?.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" | "y" => true,
                    "false" | "no" | "off" | "n" => false,
                    _ => return Err((Rc::clone(value), value.is_not("true or false"))),
                };
                self.always_copy = Some(is_true);
            }
            "mirrored_channels" => self.has_mirrors = true,
            _ => {}
        }
        Ok(())
    }
}

type Bad = (Rc<Node>, Problem);

fn text(node: &Rc<Node>) -> Result<String, Bad> {
    let text = node.text().ok_or_else(|| node.is_not("a text"));
    let text = text.and_then(|text| Ok(expanded(text)?.into_owned()));
    text.map_err(|problem| (Rc::clone(node), problem))
}

/// A list, or one text as a list of it.
fn texts(node: &Rc<Node>) -> Result<Vec<String>, Bad> {
    match &node.content {
        Content::Sequence(items) => items.iter().take(MOST_ENTRIES).map(text).collect(),
        _ => Ok(vec![text(node)?]),
    }
}

fn mapping(node: &Rc<Node>) -> Result<impl Iterator<Item = (&Rc<Node>, &Rc<Node>)>, Bad> {
    match &node.content {
        Content::Mapping(entries) => Ok(entries.iter().take(MOST_ENTRIES).map(|(k, v)| (k, v))),
        _ => Err((Rc::clone(node), node.is_not("a mapping"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_read_and_the_rest_ignored() {
        let (condarc, problems) = Condarc::parse(
            "\u{feff}channels:\n  - conda-forge\n  - https://a.example/t/x/b # mine\nchannel_alias: https://c.example/\r\n\
             default_channels: [https://d.example/main]\ncustom_channels:\n  internal: https://e.example\n\
             custom_multichannels:\n  all: [internal, conda-forge]\nchannel_priority: true\nsubdir: win-64\n\
             pkgs_dirs:\n- /scratch/pkgs\nalways_copy: yes\nssl_verify: false\nproxy_servers: {http: http://p.example}\n\
             mirrored_channels: {}\nallow_softlinks: [odd\n  ]\n",
            "c",
        );
        assert_eq!(problems, []);
        let list = |texts: &[&str]| {
            texts
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        let expected = Condarc {
            channels: Some(list(&["conda-forge", "https://a.example/t/x/b"])),
            default_channels: Some(list(&["https://d.example/main"])),
            channel_alias: Some("https://c.example/".to_owned()),
            custom_channels: vec![("internal".to_owned(), "https://e.example".to_owned())],
            custom_multichannels: vec![("all".to_owned(), list(&["internal", "conda-forge"]))],
            channel_priority: Some("flexible".to_owned()),
            subdir: Some("win-64".to_owned()),
            pkgs_dirs: Some(list(&["/scratch/pkgs"])),
            always_copy: Some(true),
            has_mirrors: true,
        };
        assert_eq!(condarc, expected);
    }

    #[test]
    fn a_bad_value_is_reported_with_its_line_and_costs_only_itself() {
        let (condarc, problems) = Condarc::parse(
            "channels: {a: b}\nchannel_alias: https://c.example\nchannel_priority: best\nalways_copy: [x]\nsubdir:\n",
            "c",
        );
        assert_eq!(condarc.channel_alias.as_deref(), Some("https://c.example"));
        assert_eq!((condarc.channels, condarc.subdir), (None, None));
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("c:1:"), "{said:?}");
        assert!(said[1].contains("strict, flexible or disabled"), "{said:?}");
        let (condarc, problems) = Condarc::parse("a: [", "c");
        assert_eq!((condarc, problems.len()), (Condarc::default(), 1));
        assert_eq!(Condarc::parse("", "c"), (Condarc::default(), Vec::new()));
    }
}
