//! Lists of specs, as files have them.

use rattler_conda_types::MatchSpec;
use taipan_mirrors::without_credentials_in;

use crate::spec::{SpecError, parse_spec};

/// A line of a list that is not a spec.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("line {line}: `{text}` is not a spec")]
pub struct SpecListError {
    /// The number of the line, from 1.
    pub line: usize,
    /// The line without its comment.
    pub text: String,
    /// What is wrong with it.
    pub source: SpecError,
}

/// Parses a list with one spec per line. ` #` begins a comment, and empty lines are ignored.
///
/// # Errors
///
/// The first line that is not a spec.
pub fn parse_spec_list(list: &str) -> Result<Vec<MatchSpec>, SpecListError> {
    let lines = list
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, without_comment(line)));
    lines
        .filter(|(_, text)| !text.is_empty() && !text.starts_with('#'))
        .map(|(line, text)| {
            parse_spec(text).map_err(|source| SpecListError {
                line,
                text: without_credentials_in(text),
                source,
            })
        })
        .collect()
}

/// The text before a comment. No spec contains `#`.
fn without_comment(line: &str) -> &str {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line);
    line.split('#').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_ignored_and_errors_name_the_line() {
        let list = "\u{feff}# tools\n\n numpy >=1.20  # arrays\r\npython=3.12#why\n\t# none\n";
        let specs = parse_spec_list(list).unwrap();
        let specs: Vec<_> = specs.iter().map(ToString::to_string).collect();
        assert_eq!(specs, ["numpy >=1.20", "python 3.12.*"]);
        let error = parse_spec_list("numpy\n\n>=1 # no name").unwrap_err();
        assert_eq!((error.line, error.text.as_str()), (3, ">=1"));
    }
}
