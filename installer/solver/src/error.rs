//! Why there is no solution.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::explanation::Explanation;

/// Why there is no solution.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// The specs are in conflict.
    #[error("{0}")]
    Unsatisfiable(Box<Explanation>),
    /// No channel has the names of some specs.
    #[error("{}", display_unknown(.packages))]
    UnknownPackage {
        /// These specs.
        packages: Vec<UnknownPackage>,
    },
    /// A spec names a channel that the request does not have.
    #[error("the channel {channel} of the spec `{spec}` is not one of the requested channels")]
    UnknownChannel { spec: String, channel: String },
    /// A spec has a pattern instead of a name.
    #[error("the spec `{spec}` does not name one package")]
    NotOneName { spec: String },
    /// The time limit was exceeded.
    #[error("the solver found no solution within {after:?}")]
    Timeout {
        /// The time limit.
        after: Duration,
    },
    /// The caller has cancelled the search.
    #[error("the solver was cancelled")]
    Cancelled,
}

impl SolveError {
    /// Whether no environment satisfies the request. Other errors do not say that.
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
    /// The searched channels, by their names for users.
    pub channels: Vec<String>,
    /// Suggestions, the most likely first: the name in a channel that the spec excludes, or similar
    /// names.
    pub suggestions: Vec<String>,
}

fn display_unknown(packages: &[UnknownPackage]) -> String {
    let show = |package: &UnknownPackage| {
        let place = match package.channels.as_slice() {
            [] => return "there are no channels to search".to_owned(),
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
