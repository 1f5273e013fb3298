//! An explanation of a conflict, as data and as text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why specs are in conflict. `Display` renders it in at most about twenty lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The specs in conflict. Without any one of them there would be a solution, unless the search
    /// for this minimal set took too long.
    pub conflicting: Vec<ConflictingSpec>,
    /// The reasons, as a tree.
    pub reasons: Vec<Reason>,
    /// Hints.
    pub notes: Vec<String>,
}

/// One of the specs in conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictingSpec {
    /// The spec as it was parsed.
    pub spec: String,
    /// Whether it was requested or is a pin.
    pub origin: SpecOrigin,
}

/// Where a spec comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpecOrigin {
    /// It was requested.
    Requested,
    /// It is a pin, which applies if the name is installed.
    Pin,
}

/// A statement and its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The statement, one line.
    pub text: String,
    /// Its reasons.
    pub because: Vec<Reason>,
}

/// The largest number of lines that are shown.
const MAX_LINES: usize = 18;

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let specs: Vec<_> = self
            .conflicting
            .iter()
            .map(|spec| match spec.origin {
                SpecOrigin::Requested => format!("`{}`", spec.spec),
                SpecOrigin::Pin => format!("the pin `{}`", spec.spec),
            })
            .collect();
        match specs.as_slice() {
            [] => formatter.write_str("the specs cannot be met")?,
            [one] => write!(formatter, "{one} cannot be met")?,
            [first @ .., last] if specs.len() <= 6 => {
                write!(
                    formatter,
                    "{} and {last} cannot be met together",
                    first.join(", ")
                )?;
            }
            many => write!(
                formatter,
                "{} and {} others cannot be met together",
                many[..5].join(", "),
                many.len() - 5
            )?,
        }
        let mut lines = Vec::new();
        for reason in &self.reasons {
            reason.lines(1, &mut lines);
        }
        let total = lines.len();
        for line in lines.iter().take(MAX_LINES) {
            write!(formatter, "\n{line}")?;
        }
        if total > MAX_LINES {
            write!(formatter, "\n  ... and {} lines more", total - MAX_LINES)?;
        }
        for note in &self.notes {
            write!(formatter, "\n  note: {note}")?;
        }
        Ok(())
    }
}

impl Reason {
    pub(crate) fn new(text: impl Into<String>, because: Vec<Reason>) -> Self {
        let text: String = text.into();
        // Names, versions and dependencies come from servers, and go to terminals.
        let text = text.replace(char::is_control, "\u{fffd}");
        Self { text, because }
    }

    fn lines(&self, depth: usize, lines: &mut Vec<String>) {
        lines.push(format!("{}{}", "  ".repeat(depth), self.text));
        for reason in &self.because {
            reason.lines(depth + 1, lines);
        }
    }
}
