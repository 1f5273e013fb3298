//! The report at the end of `taipan fetch`.

use std::path::Path;

use serde::Serialize;
use taipan_transfer::{Attempt, FetchError, MirrorSet};

use super::file::{Download, Outcome, RequestedFile};
use crate::{
    commands::mirrors::show_used,
    context::Context,
    error::AppError,
    error_report::attempt_line,
    exit::Exit,
    printer::{Printer, bytes, rate, table},
};

/// The maximum number of failed attempts that are printed.
const MAX_ATTEMPTS: usize = 30;

/// Prints files, mirrors and failures.
pub(super) struct Report<'a> {
    printer: &'a Printer,
    context: &'a Context,
    /// The mirror sets that are not those of a channel.
    others: Vec<MirrorSet>,
}

/// The JSON object of a file.
#[derive(Serialize)]
struct FileObject<'a> {
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

impl<'a> FileObject<'a> {
    fn new(file: &'a RequestedFile, outcome: &'a Outcome) -> Self {
        let expected = &file.job.expected;
        let object = Self {
            file: &file.job.label,
            path: file.output.as_deref(),
            status: "fetched",
            bytes: 0,
            seconds: 0.0,
            sha256: expected.sha256.map(|digest| digest.to_string()),
            verified: expected.is_content_addressed(),
            url: None,
            wasted_bytes: 0,
            failed_attempts: 0,
        };
        match outcome {
            Outcome::Downloaded { download, duration } => Self {
                bytes: download.size,
                sha256: download
                    .sha256
                    .map(|digest| digest.to_string())
                    .or(object.sha256),
                seconds: duration.as_secs_f64(),
                url: download.url.as_deref().or(Some(&file.job.target.path)),
                wasted_bytes: download.wasted_bytes,
                failed_attempts: download.attempts.len(),
                ..object
            },
            Outcome::Present(size) => Self {
                status: "present",
                bytes: *size,
                ..object
            },
            Outcome::Failed(error) => Self {
                status: "failed",
                verified: false,
                failed_attempts: attempts(error).len(),
                ..object
            },
        }
    }

    fn result(&self) -> &'static str {
        match (self.status, self.verified) {
            ("failed", _) => "failed",
            ("present", _) => "already present, verified",
            (_, true) => "verified",
            (_, false) => "not verified",
        }
    }

    fn row(&self) -> Vec<String> {
        let is_timed = self.seconds > 0.0;
        #[expect(clippy::cast_precision_loss, reason = "only a few digits are printed")]
        let throughput = is_timed.then(|| self.bytes as f64 / self.seconds);
        let time = if is_timed {
            format!("{:.2} s", self.seconds)
        } else {
            "-".to_owned()
        };
        vec![
            self.file.to_owned(),
            bytes(self.bytes),
            time,
            rate(throughput),
            self.result().to_owned(),
        ]
    }
}

impl<'a> Report<'a> {
    pub(super) fn new(printer: &'a Printer, context: &'a Context, others: Vec<MirrorSet>) -> Self {
        Self {
            printer,
            context,
            others,
        }
    }

    /// Prints the report and returns the exit code.
    pub(super) fn show(&self, files: &[RequestedFile], outcomes: &[Outcome]) -> Exit {
        if self.printer.is_closed() {
            return Exit::Done;
        }
        self.show_files(files, outcomes);
        self.show_mirrors();
        self.show_attempts(files, outcomes);
        Exit::worst(outcomes.iter().map(|outcome| match outcome {
            Outcome::Failed(error) => {
                error.print(self.printer);
                error.exit()
            }
            Outcome::Downloaded { .. } | Outcome::Present(_) => Exit::Done,
        }))
    }

    fn show_files(&self, files: &[RequestedFile], outcomes: &[Outcome]) {
        let head = ["file", "bytes", "time", "throughput", "result"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (file, outcome) in files.iter().zip(outcomes) {
            let object = FileObject::new(file, outcome);
            rows.push(object.row());
            self.printer.object("file", &object);
        }
        self.printer.say(&table(&rows, &[4]));
        self.printer.say("");
    }

    fn show_mirrors(&self) {
        let channels = self.context.channels.iter();
        let channels = channels.map(|c| (Some(c.channel.name()), &c.mirrors));
        let others = self.others.iter().map(|set| (None, set));
        show_used(self.printer, channels.chain(others));
    }

    /// The failed attempts of files that were downloaded in the end.
    fn show_attempts(&self, files: &[RequestedFile], outcomes: &[Outcome]) {
        let failed: Vec<(&str, &Attempt)> = files
            .iter()
            .zip(outcomes)
            .filter_map(|(file, outcome)| match outcome {
                Outcome::Downloaded { download, .. } => Some((file, download)),
                Outcome::Present(_) | Outcome::Failed(_) => None,
            })
            .flat_map(|(file, Download { attempts, .. })| {
                attempts.iter().map(|attempt| (&*file.job.label, attempt))
            })
            .collect();
        if failed.is_empty() {
            return;
        }
        self.printer.say("Failed attempts:");
        for (label, attempt) in failed.iter().take(MAX_ATTEMPTS) {
            self.printer
                .say(&format!("  {label}: {}", attempt_line(attempt)));
        }
        if failed.len() > MAX_ATTEMPTS {
            let more = failed.len() - MAX_ATTEMPTS;
            self.printer.say(&format!("  and {more} more"));
        }
    }
}

fn attempts(error: &AppError) -> &[Attempt] {
    match error {
        AppError::Fetch(FetchError::Exhausted { attempts, .. }) => attempts,
        _ => &[],
    }
}
