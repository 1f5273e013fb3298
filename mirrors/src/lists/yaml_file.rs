//! The mirrors in YAML files of other programs.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::lists::list_error::{ListError, ListProblem as Problem, within};
use crate::lists::mirrors_file::{Collector, MAX_BYTES};
use crate::safe_url::{mask_text, shorten};
use crate::{Location, Mirror, MirrorsFile, Provenance};

const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 262_144;

/// The keys of the top level that list mirrors.
const SECTIONS: [&str; 2] = ["mirrored_channels", "mirrors"];

impl MirrorsFile {
    /// Reads `mirrored_channels` or `mirrors` of a YAML file, a mapping from names to lists of URLs,
    /// and ignores all other keys. Only the first document is read. A Jinja template (`{% … %}`) is
    /// not YAML as a whole, so only the sections themselves are parsed. Errors and provenances call
    /// the file `file`.
    pub fn parse_yaml(text: &str, file: &str) -> Result<Self, ListError> {
        let fail = |node: &Node, key: String, problem| ListError {
            file: file.to_owned(),
            line: node.line,
            column: Some(node.column),
            key,
            problem,
        };
        let root = Loader::load(&without_templates(text))
            .map_err(|(place, problem)| fail(&place, String::new(), problem))?;
        let file: std::sync::Arc<str> = file.into();
        let mut collector = Collector::default();
        let Some(Content::Mapping(sections)) = root.as_ref().map(|root| &root.content) else {
            return Ok(Self::default());
        };
        for (section, value) in sections {
            let Some(section) = section.text().filter(|name| SECTIONS.contains(name)) else {
                continue;
            };
            let entries = match &value.content {
                Content::Mapping(entries) => entries,
                Content::Null => continue,
                _ => {
                    let problem = value.is_not("a mapping from names to lists of URLs");
                    return Err(fail(value, section.to_owned(), problem));
                }
            };
            for (name, list) in entries {
                let Some(url) = name.text() else {
                    return Err(fail(name, section.to_owned(), name.is_not("a name")));
                };
                let key = format!("{section}.{}", shorten(&mask_text(url), 200));
                let begun = collector.begin(url, name.line);
                begun.map_err(|problem| fail(name, key.clone(), problem))?;
                let items = match &list.content {
                    Content::Sequence(items) if !items.is_empty() => items,
                    Content::Sequence(_) | Content::Null => {
                        return Err(fail(name, key, Problem::NoMirrors));
                    }
                    _ => return Err(fail(list, key, list.is_not("a list of URLs"))),
                };
                for (index, item) in items.iter().enumerate() {
                    let provenance = Provenance::File {
                        file: file.clone(),
                        line: item.line,
                    };
                    let added = item
                        .text()
                        .ok_or_else(|| item.is_not("a URL"))
                        .and_then(expanded)
                        .and_then(|url| Location::parse(&url).map_err(Problem::BadUrl))
                        .map(|location| Mirror::new(location, provenance))
                        .and_then(|mirror| collector.add(mirror, item.line));
                    added.map_err(|problem| fail(item, format!("{key}[{index}]"), problem))?;
                }
            }
        }
        Ok(collector.finish())
    }
}

/// A URL with the values of the environment variables that it names, `$NAME` or `${NAME}`, as conda reads its configuration.
pub(super) fn expanded(url: &str) -> Result<Cow<'_, str>, Problem> {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_other = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut text = String::new();
    let mut rest = url;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let name = if let Some(inner) = after.strip_prefix('{') {
            inner.split_once('}')
        } else {
            let end = after.find(|c| !is_other(c)).unwrap_or(after.len());
            Some(after.split_at(end))
        };
        let Some((name, left)) = name.filter(|(name, _)| name.starts_with(is_first)) else {
            text.push('$');
            rest = after;
            continue;
        };
        let name = name.to_owned();
        let value = std::env::var(&name).map_err(|_| Problem::Unset { name })?;
        text.push_str(&value);
        rest = left;
    }
    if text.is_empty() {
        return Ok(url.into());
    }
    text.push_str(rest);
    Ok(text.into())
}

/// The section that begins with this line.
pub(super) fn section(line: &str) -> Option<&'static str> {
    SECTIONS.into_iter().find(|name| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.trim_end() == ":" || rest.starts_with(": "))
    })
}

/// Blanks all lines but the sections, if there are lines with template statements.
fn without_templates(text: &str) -> Cow<'_, str> {
    let is_statement = |line: &str| line.trim_start().starts_with("{%");
    if !text.lines().any(is_statement) {
        return text.into();
    }
    let mut in_section = false;
    let keep = |line| {
        let is_key = !is_statement(line)
            && line.starts_with(|c: char| !c.is_whitespace() && !matches!(c, '#' | '-'));
        if is_key {
            in_section = section(line).is_some();
        }
        let is_kept = in_section && !is_statement(line);
        if is_kept { line } else { "\n" }
    };
    text.split_inclusive('\n').map(keep).collect()
}

/// A part of a document, and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) content: Content,
    /// The number of levels, aliases included. It bounds the recursion of `drop`.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Content {
    Null,
    Text(String),
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<(Rc<Node>, Rc<Node>)>),
}

impl Node {
    fn at(span: Span, content: Content) -> Self {
        let counted = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            line: counted(span.start.line()).max(1),
            column: counted(span.start.col().saturating_add(1)),
            content,
            depth: 1,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_not(&self, expected: &'static str) -> Problem {
        let found = match self.content {
            Content::Null => "nothing",
            Content::Text(_) => "a scalar",
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a mapping",
        };
        Problem::WrongType { expected, found }
    }
}

/// A sequence or mapping that is not complete. The children of a mapping are keys and values in turn.
struct Open {
    span: Span,
    anchor: usize,
    is_mapping: bool,
    children: Vec<Rc<Node>>,
}

/// Builds the tree of a document. An alias shares the node of its anchor, so that aliases of aliases
/// take no memory.
#[derive(Default)]
pub(super) struct Loader {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    nodes: usize,
    root: Option<Rc<Node>>,
}

impl Loader {
    /// The root of the first document, or what is wrong and a node at the place.
    pub(super) fn load(text: &str) -> Result<Option<Rc<Node>>, (Node, Problem)> {
        let place = |span| Node::at(span, Content::Null);
        within("the length in bytes", text.len(), MAX_BYTES)
            .map_err(|problem| (place(Span::default()), problem))?;
        let mut loader = Self::default();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let message = shorten(error.info(), 200);
                let span = Span::empty(*error.marker());
                let format = "YAML";
                (place(span), Problem::Syntax { format, message })
            })?;
            if matches!(event, Event::DocumentEnd) {
                break;
            }
            loader
                .take(event, span)
                .map_err(|problem| (place(span), problem))?;
        }
        Ok(loader.root)
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let is_plain = style == ScalarStyle::Plain;
                let content = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if is_plain => Content::Null,
                    _ => Content::Text(text.into_owned()),
                };
                self.complete(Node::at(span, content), anchor)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => self.attach(Rc::clone(node)),
                None => Err(Problem::Syntax {
                    format: "YAML",
                    message: "an alias refers to a node that contains it".to_owned(),
                }),
            },
            Event::SequenceStart(anchor, _) => self.begin(span, anchor, false),
            Event::MappingStart(anchor, _) => self.begin(span, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let below = open.children.iter().map(|child| child.depth).max();
                    let depth = 1 + below.unwrap_or(0);
                    within("the depth", depth, MAX_DEPTH)?;
                    let content = if open.is_mapping {
                        Content::Mapping(pairs(open.children))
                    } else {
                        Content::Sequence(open.children)
                    };
                    let node = Node::at(open.span, content);
                    self.complete(Node { depth, ..node }, open.anchor)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, span: Span, anchor: usize, is_mapping: bool) -> Result<(), Problem> {
        within("the depth", self.open.len() + 1, MAX_DEPTH)?;
        self.open.push(Open {
            span,
            anchor,
            is_mapping,
            children: Vec::new(),
        });
        Ok(())
    }

    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        let node = Rc::new(node);
        // The parser counts anchors from 1.
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.attach(node)
    }

    fn attach(&mut self, node: Rc<Node>) -> Result<(), Problem> {
        self.nodes += 1;
        within("the number of values", self.nodes, MAX_NODES)?;
        match self.open.last_mut() {
            Some(open) => open.children.push(node),
            None => self.root = Some(node),
        }
        Ok(())
    }
}

fn pairs(children: Vec<Rc<Node>>) -> Vec<(Rc<Node>, Rc<Node>)> {
    let mut children = children.into_iter();
    std::iter::from_fn(|| Some((children.next()?, children.next()?))).collect()
}
