use thiserror::Error;

use crate::LocationError;

/// Why a list of mirrors is refused as a whole, and where.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{file}:{line}: {problem}")]
pub struct ListError {
    /// The list, as it was called.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// What is wrong.
    pub problem: ListProblem,
}

/// What is wrong with a list of mirrors.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ListProblem {
    /// More than is read.
    #[error("{what} is {got}, the most is {most}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        got: usize,
        /// How much there may be.
        most: usize,
    },
    /// Something else than the kind of list that was expected, such as a login page.
    #[error("this is {found}, not {expected}")]
    Foreign {
        /// What was expected.
        expected: &'static str,
        /// What it looks like.
        found: String,
    },
    /// Not well-formed.
    #[error("not well-formed: {message}")]
    Syntax {
        /// What is wrong.
        message: String,
    },
    /// Nothing that could be used; the entries that were passed over say why.
    #[error("no usable mirror in it{}", first(.skipped))]
    NoMirrors {
        /// What was passed over.
        skipped: Vec<Skipped>,
    },
}

fn first(skipped: &[Skipped]) -> String {
    match skipped {
        [] => String::new(),
        [only] => format!("; {only}"),
        [first, others @ ..] => format!("; {first}, and {} more", others.len()),
    }
}

/// An entry of a list that is passed over. The rest of the list is good.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {why}")]
pub struct Skipped {
    /// The line, counted from 1.
    pub line: u32,
    /// Why.
    pub why: SkipReason,
}

/// Why an entry of a list is passed over.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SkipReason {
    /// Not a place that can be fetched from, such as `rsync://`.
    #[error("{0}")]
    Location(LocationError),
    /// A path on this machine, named by somebody else: what lies there is not his to offer.
    #[error("a server must not name paths on this machine")]
    LocalPath,
    /// It stands there already.
    #[error("`{0}` stands there already")]
    Duplicate(String),
    /// A variable that has no value here.
    #[error("`${0}` has no value")]
    UnknownVariable(String),
    /// Neither a mirror nor a comment.
    #[error("neither a mirror nor a comment")]
    NotAnEntry,
    /// A value that makes no sense, and is left out.
    #[error("`{value}` is not a {expected}")]
    BadValue {
        /// What would be right.
        expected: &'static str,
        /// What stands there.
        value: String,
    },
}
