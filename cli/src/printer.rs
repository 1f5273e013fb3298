//! All output: data to stdout, everything else to stderr.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use console::measure_text_width;
use indicatif::MultiProgress;
use serde::Serialize;

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Text,
    Json,
    Quiet,
}

/// The only place that writes to the standard streams.
#[derive(Debug)]
pub(crate) struct Printer {
    mode: Mode,
    verbose: bool,
    bars: Option<MultiProgress>,
    closed: AtomicBool,
}

impl Printer {
    pub(crate) fn new(mode: Mode, verbose: bool) -> Self {
        let bars = mode == Mode::Text && std::io::stderr().is_terminal() && !verbose;
        let bars = bars.then(MultiProgress::new);
        Self {
            mode,
            verbose,
            bars,
            closed: AtomicBool::new(false),
        }
    }

    /// The progress bars; `None` without a terminal.
    pub(crate) fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    pub(crate) fn is_json(&self) -> bool {
        self.mode == Mode::Json
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Prints the requested data; not in JSON mode.
    pub(crate) fn data(&self, text: &str) {
        if self.mode != Mode::Json {
            self.stdout(text);
        }
    }

    /// Prints an object on one line, with `kind` as its `type`; only in JSON mode.
    pub(crate) fn object(&self, kind: &str, object: &impl Serialize) {
        #[derive(Serialize)]
        struct Tagged<'a, T> {
            r#type: &'a str,
            #[serde(flatten)]
            object: &'a T,
        }
        if self.mode != Mode::Json {
            return;
        }
        match serde_json::to_string(&Tagged {
            r#type: kind,
            object,
        }) {
            Ok(line) => self.stdout(&line),
            Err(error) => self.stderr(&format!("cannot print a `{kind}` as JSON: {error}")),
        }
    }

    /// Prints a message to stderr; only in text mode.
    pub(crate) fn say(&self, text: &str) {
        if self.mode == Mode::Text {
            self.stderr(text);
        }
    }

    /// Prints a message to stderr; only in text mode with `--verbose`.
    pub(crate) fn detail(&self, text: &str) {
        if self.mode == Mode::Text && self.verbose {
            self.stderr(text);
        }
    }

    /// Prints a warning; not in quiet mode.
    pub(crate) fn warn(&self, text: &str) {
        #[derive(Serialize)]
        struct Warning<'a> {
            message: &'a str,
        }
        match self.mode {
            Mode::Text => self.stderr(&format!("warning: {text}")),
            Mode::Json => self.object("warning", &Warning { message: text }),
            Mode::Quiet => {}
        }
    }

    /// Prints an error, in all modes.
    pub(crate) fn error(&self, text: &str) {
        self.stderr(&format!("error: {text}"));
    }

    /// Whether the reader of stdout has closed the pipe.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes bytes to stdout without any change.
    pub(crate) fn raw(&self, bytes: &[u8]) -> std::io::Result<()> {
        let result = std::io::stdout().lock().write_all(bytes);
        let result = result.and_then(|()| std::io::stdout().lock().flush());
        if let Err(error) = &result
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            self.closed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn stdout(&self, text: &str) {
        let write = || writeln!(std::io::stdout().lock(), "{}", clean(text));
        let result = match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        };
        if result.is_err() {
            // Most likely a closed pipe, as in `taipan list | head`, which is not a failure.
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    fn stderr(&self, text: &str) {
        let write = || writeln!(std::io::stderr().lock(), "{}", clean(text));
        // A failure to write to stderr cannot be reported.
        let _ = match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        };
    }
}

/// Replaces the characters that control a terminal. Text from servers and packages passes through
/// here.
pub(crate) fn clean(text: &str) -> String {
    text.replace(controls_terminal, "\u{fffd}")
}

/// Control characters except line breaks and tabs, and the bidirectional controls, which change the
/// order in which text is displayed (Unicode Standard Annex #9).
fn controls_terminal(c: char) -> bool {
    let is_bidi_control = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_bidi_control || (c.is_control() && c != '\n' && c != '\t')
}

/// A number of bytes with a suitable unit.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}

/// Bytes per second with a suitable unit; a dash without a value.
pub(crate) fn rate(bytes_per_second: Option<f64>) -> String {
    match bytes_per_second {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate that does not fit saturates, and fractions of bytes are not printed"
        )]
        Some(rate) if rate.is_finite() && rate > 0.0 => format!("{}/s", bytes(rate as u64)),
        _ => "-".to_owned(),
    }
}

/// Aligns the columns of a table: the first and those in `left` to the left, others to the right.
pub(crate) fn table(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| measure_text_width(cell))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let mut line = String::from("  ");
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column] - measure_text_width(cell));
            if column > 0 {
                line.push_str("  ");
            }
            if column == 0 || left.contains(&column) {
                line.push_str(cell);
                line.push_str(&pad);
            } else {
                line.push_str(&pad);
                line.push_str(cell);
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\r\n\tc"), "a\u{fffd}[31mb\u{fffd}\n\tc");
        assert_eq!(clean("plain ünïcode"), "plain ünïcode");
    }

    #[test]
    fn bidirectional_controls_do_not_reach_the_terminal() {
        for c in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert_eq!(clean(&format!("gpj{c}.exe")), "gpj\u{fffd}.exe");
        }
        assert_eq!(clean("עברית"), "עברית");
    }

    #[test]
    fn columns_are_aligned() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let text = table(
            &[row(&["name", "n", "why"]), row(&["é", "10", "x y"])],
            &[2],
        );
        assert_eq!(text, "  name   n  why\n  é     10  x y");
    }

    #[test]
    fn wide_and_combining_characters_are_aligned_by_their_width() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let text = table(&[row(&["蛇", "1"]), row(&["e\u{301}x", "2"])], &[1]);
        assert_eq!(text, "  蛇  1\n  e\u{301}x  2");
    }
}
