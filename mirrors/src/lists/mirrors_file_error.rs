use std::fmt;

use thiserror::Error;

use crate::LocationError;

/// Why a mirrors file is refused, and where.
///
/// `Display` gives `file:line:column: key: what is wrong, and what would be right`.
#[derive(Debug, PartialEq, Eq)]
pub struct MirrorsFileError {
    /// The file, as it was called.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: u32,
    /// The key at fault, such as `channel[0].mirrors[2].priority`, counted from 0; empty for the
    /// whole file.
    pub key: String,
    /// What is wrong.
    pub problem: MirrorsFileProblem,
}

impl fmt::Display for MirrorsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.problem.fmt(f)
    }
}

impl std::error::Error for MirrorsFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The problem is part of this level's text, so the cause is the problem's own cause.
        self.problem.source()
    }
}

/// What is wrong with a mirrors file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MirrorsFileProblem {
    /// Not TOML.
    #[error("not TOML: {message}")]
    Syntax {
        /// The parser's words.
        message: String,
    },
    /// Something that this reader does not understand.
    #[error("{message}")]
    Unreadable {
        /// What it does understand.
        message: String,
    },
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
    /// A key that means nothing here.
    #[error("unknown key{}; known are {}", suggestion(*.nearest), list(.known))]
    UnknownKey {
        /// The known key that it resembles.
        nearest: Option<&'static str>,
        /// All keys that are known here.
        known: &'static [&'static str],
    },
    /// A key that must be there and is not.
    #[error("`{missing}` is missing")]
    MissingKey {
        /// The key.
        missing: &'static str,
    },
    /// A value of the wrong type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What would be right.
        expected: &'static str,
        /// The type that stands there.
        found: &'static str,
    },
    /// A value outside its range.
    #[error("{value} is out of range; it must be {range}")]
    OutOfRange {
        /// The value as it is written.
        value: String,
        /// What would be right.
        range: &'static str,
    },
    /// Not a place where a mirror can be.
    #[error("not a mirror's URL: {0}")]
    BadUrl(LocationError),
    /// A key that is of no use for this kind of mirror.
    #[error("`{key}` applies to {applies} only, this is `{scheme}://`")]
    NotForThisKind {
        /// The key.
        key: &'static str,
        /// The kind of mirror it is for.
        applies: &'static str,
        /// The scheme of the mirror.
        scheme: String,
    },
    /// A channel that stands twice.
    #[error("`{channel}` stands already in line {first_line}; put its mirrors in one entry")]
    DuplicateChannel {
        /// The channel without secrets.
        channel: String,
        /// Where it stood first.
        first_line: u32,
    },
    /// A mirror that stands twice for a channel.
    #[error("`{mirror}` stands already in line {first_line} for this channel")]
    DuplicateMirror {
        /// The mirror without secrets.
        mirror: String,
        /// Where it stood first.
        first_line: u32,
    },
    /// A path on this machine, named by somebody else: what lies there is not his to offer.
    #[error("`{path}` is a path on this machine, which a server must not name")]
    LocalPath {
        /// The path as a URL.
        path: String,
    },
    /// A channel without any mirror.
    #[error("no mirrors; leave the entry out to use the channel itself")]
    NoMirrors,
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

/// The known key that a misspelt one resembles: equal but for case and `_`, or at most a third of
/// its letters away.
pub(crate) fn nearest_key(wrong: &str, known: &'static [&'static str]) -> Option<&'static str> {
    // A key longer than this resembles nothing, and the comparison is quadratic.
    const LONGEST: usize = 64;
    if wrong.len() > LONGEST {
        return None;
    }
    let folded = wrong.to_lowercase().replace('_', "-");
    known
        .iter()
        .map(|&key| (distance(&folded, key), key))
        .filter(|&(distance, key)| distance <= key.len().div_ceil(3))
        .min()
        .map(|(_, key)| key)
}

/// The number of single-letter edits between two texts, a swap of neighbours counting as one
/// (restricted Damerau–Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let substitute = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitute.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
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
