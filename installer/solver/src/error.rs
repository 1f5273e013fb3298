//! Why there is no solution.

use std::{collections::BTreeSet, fmt, time::Duration};

use rattler_conda_types::{PackageName, RepoDataRecord};
use serde::{Deserialize, Serialize};

use crate::{
    provider::is_channel,
    request::{ChannelIndexes, SolveRequest},
    spec::{exact_name, is_virtual},
    suggest,
};

/// Why there is no solution.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// The specs cannot be met together.
    #[error("{0}")]
    Unsatisfiable(Box<Explanation>),
    /// No channel has the names that specs ask for. Like a conflict, this is the answer to a
    /// well-formed question.
    #[error("{}", display_unknown(.packages))]
    UnknownPackage {
        /// Each of the specs.
        packages: Vec<UnknownPackage>,
    },
    /// A spec asks for a channel that is none of the request's.
    #[error("the spec `{spec}` asks for the channel {channel}, which is not one of the channels")]
    UnknownChannel {
        /// The spec.
        spec: String,
        /// The channel in it.
        channel: String,
    },
    /// A spec asks for names by a pattern.
    #[error("the spec `{spec}` does not name one package")]
    NotOneName {
        /// The spec.
        spec: String,
    },
    /// The request's time was over.
    #[error("no solution was found within {after:?}")]
    Timeout {
        /// The time that the request gave.
        after: Duration,
    },
    /// The caller gave up.
    #[error("the search for a solution was cancelled")]
    Cancelled,
}

impl SolveError {
    /// Whether this is the answer "there is no such environment" to a well-formed question, and
    /// not a question that could not be answered.
    pub fn is_unsatisfiable(&self) -> bool {
        matches!(self, Self::Unsatisfiable(_) | Self::UnknownPackage { .. })
    }
}

/// A spec whose name no channel has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownPackage {
    /// The spec.
    pub spec: String,
    /// The name in it.
    pub name: String,
    /// The channels that were looked at, as the user calls them.
    pub channels: Vec<String>,
    /// What may have been meant, the likeliest first: the name in a channel that the spec rules
    /// out, or names that look like it.
    pub suggestions: Vec<String>,
}

/// Why specs cannot be met together. `Display` renders it in at most some twenty lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The specs in conflict: without any one of them (unless the search for that took too long)
    /// there would be a solution.
    pub conflicting: Vec<ConflictingSpec>,
    /// What stands in the way, as a tree.
    pub reasons: Vec<Reason>,
    /// What may help.
    pub notes: Vec<String>,
}

/// One of the specs in conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictingSpec {
    /// The spec as it was understood.
    pub spec: String,
    /// Who wants it.
    pub origin: SpecOrigin,
}

/// Who wants a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpecOrigin {
    /// It was asked for.
    Requested,
    /// It is a pin: it holds if the name is installed at all.
    Pin,
}

/// A statement and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The statement, one line.
    pub text: String,
    /// What is behind it.
    pub because: Vec<Reason>,
}

/// More lines than this are not read.
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
        // Names, versions and dependencies are what servers say, and end up on terminals.
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

fn display_unknown(packages: &[UnknownPackage]) -> String {
    let show = |package: &UnknownPackage| {
        let place = match package.channels.as_slice() {
            [] => return "there is no channel to take packages from".to_owned(),
            [one] => format!("not in the channel {one}"),
            many => format!("in none of the channels {}", many.join(", ")),
        };
        let suggestion = match package.suggestions.as_slice() {
            [] => String::new(),
            [one] => format!("; did you mean {one}?"),
            [first @ .., last] => format!("; did you mean {} or {last}?", first.join(", ")),
        };
        format!("{} is {place}{suggestion}", package.name)
    };
    let mut lines: Vec<_> = packages.iter().map(show).collect();
    lines.dedup();
    lines.join("\n")
}

/// Refuses what can be seen to have no solution without a search.
pub(crate) fn check(request: &SolveRequest) -> Result<(), SolveError> {
    for spec in request.specs.iter().chain(&request.pins) {
        if exact_name(spec).is_none() {
            return Err(SolveError::NotOneName {
                spec: spec.to_string(),
            });
        }
    }
    let mut packages = Vec::new();
    for spec in &request.specs {
        let allowed = |channel: &&ChannelIndexes| {
            spec.channel
                .as_ref()
                .is_none_or(|wanted| is_channel(wanted, channel))
        };
        let allowed: Vec<_> = request.channels.iter().filter(allowed).collect();
        if let Some(wanted) = spec.channel.as_ref().filter(|_| allowed.is_empty()) {
            return Err(SolveError::UnknownChannel {
                spec: spec.to_string(),
                channel: wanted.name().to_owned(),
            });
        }
        let Some(name) = exact_name(spec) else {
            continue;
        };
        let installed = |record: &RepoDataRecord| record.package_record.name == *name;
        if is_virtual(name.as_normalized())
            || allowed.iter().any(|channel| has(channel, name))
            || request.installed.iter().any(installed)
        {
            continue;
        }
        let elsewhere = request.channels.iter().filter(|channel| has(channel, name));
        let mut suggestions: Vec<_> = elsewhere
            .map(|channel| format!("{}::{}", channel.name, name.as_source()))
            .collect();
        if suggestions.is_empty() {
            suggestions = self::suggestions(request, name.as_normalized());
        }
        packages.push(UnknownPackage {
            spec: spec.to_string(),
            name: name.as_source().to_owned(),
            channels: allowed.iter().map(|channel| channel.name.clone()).collect(),
            suggestions,
        });
    }
    if packages.is_empty() {
        Ok(())
    } else {
        Err(SolveError::UnknownPackage { packages })
    }
}

fn has(channel: &ChannelIndexes, name: &PackageName) -> bool {
    channel.indexes.iter().any(|index| index.contains(name))
}

/// Names of the channels that look like `name`.
pub(crate) fn suggestions(request: &SolveRequest, name: &str) -> Vec<String> {
    let names: BTreeSet<&str> = request
        .channels
        .iter()
        .flat_map(|channel| &channel.indexes)
        .flat_map(taipan_channel::Index::names)
        .collect();
    suggest::similar(name, names)
}
