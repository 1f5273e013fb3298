//! All output. Data goes to stdout, everything else to stderr.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use indicatif::MultiProgress;
use serde::Serialize;

/// How to print.
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

    /// Where bars are drawn; `None` when there is no terminal for them.
    pub(crate) fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    pub(crate) fn is_json(&self) -> bool {
        self.mode == Mode::Json
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Prints what was asked for; only in text mode and in quiet mode.
    pub(crate) fn data(&self, text: &str) {
        if self.mode != Mode::Json {
            self.stdout(text);
        }
    }

    /// Prints an object on a line of its own; only in JSON mode. `kind` becomes its `type`.
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

    /// Says what is going on; not in quiet or JSON mode.
    pub(crate) fn say(&self, text: &str) {
        if self.mode == Mode::Text {
            self.stderr(text);
        }
    }

    /// Says what only some want to know.
    pub(crate) fn detail(&self, text: &str) {
        if self.mode == Mode::Text && self.verbose {
            self.stderr(text);
        }
    }

    /// Warns; not in quiet mode.
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

    /// Says what failed, always.
    pub(crate) fn error(&self, text: &str) {
        self.stderr(&format!("error: {text}"));
    }

    /// Whether whoever read our stdout has gone, so that more need not be printed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes bytes to stdout as they are, whoever reads them.
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
            // Most likely a closed pipe, as in `taipan list | head`: that is not a failure.
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    fn stderr(&self, text: &str) {
        let write = || writeln!(std::io::stderr().lock(), "{}", clean(text));
        // Nobody is left to tell when stderr is gone.
        let _ = match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        };
    }
}

/// Takes out what a terminal would obey: text from servers and packages passes through here.
pub(crate) fn clean(text: &str) -> String {
    if !text
        .chars()
        .any(|c| c.is_control() && c != '\n' && c != '\t')
    {
        return text.to_owned();
    }
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// A number of bytes as people read it.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}

/// A number of bytes per second as people read it; a dash when there is nothing to say.
pub(crate) fn rate(bytes_per_second: Option<f64>) -> String {
    match bytes_per_second {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate that does not fit saturates, and people do not read fractions of bytes"
        )]
        Some(rate) if rate.is_finite() && rate > 0.0 => format!("{}/s", bytes(rate as u64)),
        _ => "-".to_owned(),
    }
}

/// Lines up the columns of a table: the first and those named in `left` to the left, others to
/// the right.
pub(crate) fn table(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let mut line = String::from("  ");
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column] - cell.chars().count());
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
    fn tables_line_up() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let text = table(
            &[row(&["name", "n", "why"]), row(&["é", "10", "x y"])],
            &[2],
        );
        assert_eq!(text, "  name   n  why\n  é     10  x y");
    }
}
