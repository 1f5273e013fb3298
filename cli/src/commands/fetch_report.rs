//! What `taipan fetch` tells at its end.

use std::path::Path;

use serde::Serialize;
use taipan_transfer::{Attempt, FetchError, MirrorSet};

use super::fetch::{Outcome, WantedFile};
use crate::{
    context::Context,
    error::AppError,
    exit::Exit,
    printer::{Printer, bytes, rate, table},
};

/// The most failed attempts that are shown after the table.
const SHOWN: usize = 30;

/// Files, mirrors and failures.
pub(super) struct Report<'a> {
    printer: &'a Printer,
    context: &'a Context,
    /// The mirrors that are no channel's.
    others: &'a [MirrorSet],
}

impl<'a> Report<'a> {
    pub(super) fn new(printer: &'a Printer, context: &'a Context, others: &'a [MirrorSet]) -> Self {
        Self {
            printer,
            context,
            others,
        }
    }

    /// Tells what became of the files and what the mirrors gave; says how the process ends.
    pub(super) fn show(&self, files: &[WantedFile], outcomes: &[Outcome]) -> Exit {
        #[derive(Serialize)]
        struct Line<'a> {
            file: &'a str,
            path: Option<&'a Path>,
            status: &'static str,
            bytes: u64,
            seconds: f64,
            sha256: Option<String>,
            verified: bool,
            url: Option<&'a str>,
            wasted_bytes: u64,
            failed_attempts: usize,
        }
        if self.printer.is_closed() {
            return Exit::Done;
        }
        let head = ["file", "bytes", "time", "speed", "result"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let mut failed = Vec::new();
        for (file, outcome) in files.iter().zip(outcomes) {
            let verified = file.expected.is_content_addressed();
            let mut line = Line {
                file: &file.label,
                path: file.output.as_deref(),
                status: "fetched",
                bytes: 0,
                seconds: 0.0,
                sha256: file.expected.sha256.map(|digest| digest.to_string()),
                verified,
                url: None,
                wasted_bytes: 0,
                failed_attempts: 0,
            };
            let mut result = if verified { "verified" } else { "not verified" };
            match outcome {
                Outcome::Fetched { fetched, took } => {
                    if let Some((digest, size)) = fetched.file {
                        line.bytes = size;
                        line.sha256 = Some(digest.to_string());
                    }
                    line.seconds = took.as_secs_f64();
                    line.url = Some(&fetched.url);
                    line.wasted_bytes = fetched.wasted;
                    line.failed_attempts = fetched.attempts.len();
                    failed.extend(fetched.attempts.iter().map(|a| (file.label.as_str(), a)));
                }
                Outcome::Present(size) => {
                    line.bytes = *size;
                    line.status = "present";
                    result = "was there, verified";
                }
                Outcome::Failed(error) => {
                    line.status = "failed";
                    line.verified = false;
                    line.failed_attempts = attempts(error).len();
                    result = "failed";
                }
            }
            rows.push(row(line.file, line.bytes, line.seconds, result));
            self.printer.object("file", &line);
        }
        self.printer.say(&table(&rows, &[4]));
        self.printer.say("");
        self.show_mirrors();
        self.show_failed(&failed);
        let mut exits = Vec::new();
        for outcome in outcomes {
            if let Outcome::Failed(error) = outcome {
                error.print(self.printer);
                exits.push(error.exit());
            }
        }
        // What the user must look at himself comes before what may pass.
        let order = [
            Exit::Verification,
            Exit::Failed,
            Exit::Usage,
            Exit::Exhausted,
        ];
        let worst = order.into_iter().find(|exit| exits.contains(exit));
        worst.unwrap_or(Exit::Done)
    }

    fn show_mirrors(&self) {
        let of_channels = self.context.channels.iter();
        let of_channels = of_channels.map(|place| (Some(place.channel.name()), &place.mirrors));
        let others = self.others.iter().map(|set| (None, set));
        super::mirrors::show_asked(self.printer, of_channels.chain(others));
    }

    /// What failed on the way to files that came in the end.
    fn show_failed(&self, failed: &[(&str, &Attempt)]) {
        if failed.is_empty() {
            return;
        }
        self.printer
            .say("What failed before another mirror gave it:");
        for (label, attempt) in failed.iter().take(SHOWN) {
            self.printer.say(&format!("  {label}: {attempt}"));
        }
        if failed.len() > SHOWN {
            let more = failed.len() - SHOWN;
            self.printer.say(&format!("  and {more} more"));
        }
    }
}

fn row(label: &str, size: u64, seconds: f64, result: &str) -> Vec<String> {
    let is_timed = seconds > 0.0;
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let speed = is_timed.then(|| size as f64 / seconds);
    let time = if is_timed {
        format!("{seconds:.2} s")
    } else {
        "-".to_owned()
    };
    vec![
        label.to_owned(),
        bytes(size),
        time,
        rate(speed),
        result.to_owned(),
    ]
}

/// The failed attempts that an error tells of.
fn attempts(error: &AppError) -> &[Attempt] {
    match error {
        AppError::Fetch(FetchError::Exhausted { attempts, .. }) => attempts,
        _ => &[],
    }
}
