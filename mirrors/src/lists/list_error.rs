use std::fmt;

use thiserror::Error;

use crate::LocationError;

/// Why a list of mirrors is refused, and where.
///
/// `Display` is `file:line:column: key: problem`; column and key are left out where a format has
/// none.
#[derive(Debug, PartialEq, Eq)]
pub struct ListError {
    /// The list, under the name that the caller gave.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: Option<u32>,
    /// The key at fault, such as `channel[0].mirrors[2].priority`; empty for the whole file.
    pub key: String,
    pub problem: ListProblem,
}

impl ListError {
    /// An error of a format without keys.
    pub(crate) fn at_line(file: &str, line: u32, problem: ListProblem) -> Self {
        Self {
            file: file.to_owned(),
            line,
            column: None,
            key: String::new(),
            problem,
        }
    }
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        f.write_str(": ")?;
        self.problem.fmt(f)
    }
}

impl std::error::Error for ListError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The problem is part of this level's text, so the cause is the problem's own cause.
        self.problem.source()
    }
}

/// What is wrong with a list of mirrors.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ListProblem {
    /// The text does not have the syntax of its format.
    #[error("not {format}: {message}")]
    Syntax {
        /// `TOML`, `YAML` or `well-formed`.
        format: &'static str,
        /// The parser's message.
        message: String,
    },
    /// Another kind of document than expected, such as a login page.
    #[error("expected {expected}, found {found}")]
    Foreign {
        expected: &'static str,
        found: String,
    },
    /// A limit is exceeded.
    #[error("{what} is {got}, the limit is {most}")]
    TooMuch {
        what: &'static str,
        got: usize,
        most: usize,
    },
    #[error("unknown key{}; known keys are {}", suggestion(*.nearest), list(.known))]
    UnknownKey {
        /// The known key that resembles it.
        nearest: Option<&'static str>,
        known: &'static [&'static str],
    },
    /// A value of the wrong type, or a missing key.
    #[error("{message}")]
    Schema {
        /// The deserializer's message.
        message: String,
    },
    #[error("expected {expected}, found {found}")]
    WrongType {
        expected: &'static str,
        found: &'static str,
    },
    #[error("{value} is out of range: use {range}")]
    OutOfRange {
        /// The value as written.
        value: String,
        range: &'static str,
    },
    #[error("the environment variable `{name}` is not set")]
    Unset {
        /// The name of the variable.
        name: String,
    },
    #[error("invalid mirror URL: {0}")]
    BadUrl(LocationError),
    #[error("`{key}` applies to {applies} only, this mirror is `{scheme}://`")]
    NotForThisKind {
        key: &'static str,
        applies: &'static str,
        scheme: String,
    },
    #[error("`{name}` is already in line {first_line}: put all its mirrors into one entry")]
    DuplicateCollection {
        /// Without secrets.
        name: String,
        first_line: u32,
    },
    #[error("`{mirror}` is already in line {first_line} of the same entry")]
    DuplicateMirror {
        /// Without secrets.
        mirror: String,
        first_line: u32,
    },
    /// A local path in a list that came from a server, which must not choose what is read here.
    #[error("`{path}` is a local path: a list from a server must not name one")]
    LocalPath {
        /// As a URL.
        path: String,
    },
    #[error("no mirrors: remove the entry to use its own URL")]
    NoMirrors,
    /// A plain list without a usable entry.
    #[error("no usable mirror{}", first(.skipped))]
    NothingUsable { skipped: Vec<Skipped> },
}

/// Checks a limit.
pub(crate) fn within(what: &'static str, got: usize, most: usize) -> Result<(), ListProblem> {
    if got > most {
        return Err(ListProblem::TooMuch { what, got, most });
    }
    Ok(())
}

fn suggestion(nearest: Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |key| format!(", did you mean `{key}`?"))
}

fn list(keys: &[&str]) -> String {
    keys.iter()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn first(skipped: &[Skipped]) -> String {
    match skipped {
        [] => String::new(),
        [only] => format!("; {only}"),
        [first, others @ ..] => format!("; {first}, and {} more", others.len()),
    }
}

/// An entry of a list that is skipped. The rest of the list is used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {why}")]
pub struct Skipped {
    /// Counted from 1.
    pub line: u32,
    pub why: SkipReason,
}

/// Why an entry of a list is skipped.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SkipReason {
    /// Not the location of a mirror, such as `rsync://`.
    #[error("{0}")]
    Location(LocationError),
    /// A local path in a list that came from a server.
    #[error("a list from a server must not name local paths")]
    LocalPath,
    #[error("`{0}` is already in the list")]
    Duplicate(String),
    #[error("the variable `${0}` is not set")]
    UnknownVariable(String),
    #[error("neither a mirror nor a comment")]
    NotAnEntry,
    /// A value that is ignored.
    #[error("`{value}` is not a valid {expected}")]
    BadValue {
        expected: &'static str,
        value: String,
    },
}
