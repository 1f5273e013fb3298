//! An error and its causes as text.

use std::error::Error;

/// The texts of the causes of an error, outermost first. A cause that the message or the
/// cause before it contains is left out: some libraries print their own source.
pub(crate) fn causes(error: &dyn Error) -> Vec<String> {
    let message = error.to_string();
    let mut causes: Vec<String> = Vec::new();
    for cause in std::iter::successors(error.source(), |&cause| cause.source()) {
        // Errors of TOML end with a line break.
        let text = cause.to_string().trim_end().to_owned();
        if !message.contains(&text) && causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
    }
    causes
}

/// An error and its causes in one line, joined by colons.
pub(crate) fn one_line(error: &dyn Error) -> String {
    [vec![error.to_string()], causes(error)].concat().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Level {
        text: &'static str,
        source: Option<Box<Level>>,
    }

    fn chain(texts: &[&'static str]) -> Level {
        let (text, rest) = texts.split_first().unwrap();
        let source = (!rest.is_empty()).then(|| Box::new(chain(rest)));
        Level { text, source }
    }

    #[test]
    fn a_cause_is_printed_once() {
        let error = chain(&["cannot read: no such file", "no such file", "os error 2"]);
        assert_eq!(one_line(&error), "cannot read: no such file: os error 2");
        assert_eq!(causes(&chain(&["alone"])), Vec::<String>::new());
    }
}
