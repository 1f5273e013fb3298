//! Progress of downloads and linking: bars, lines and JSON objects.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use taipan_installer::{LinkObserver, LinkWarning};
use taipan_transfer::{Event, JobId, Observer};

use crate::printer::{Printer, bytes};

/// Shows the progress of downloads.
pub(crate) struct Downloads {
    printer: Arc<Printer>,
    total: Option<ProgressBar>,
    jobs: Mutex<HashMap<JobId, Row>>,
    received: AtomicU64,
}

struct Row {
    label: String,
    received: u64,
    /// When a wait was last told.
    last_wait: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Row {
    /// Whether a wait is to be told: one line in ten seconds is enough.
    fn is_wait_news(&mut self) -> bool {
        let last = self.last_wait;
        let is_news = last.is_none_or(|last| last.elapsed() >= Duration::from_secs(10));
        if is_news {
            self.last_wait = Some(Instant::now());
        }
        is_news
    }
}

/// The minimum size of a file with a bar of its own, in bytes.
const MIN_BAR_SIZE: u64 = 4_000_000;

impl Downloads {
    /// `total_size` is in bytes; `None` when it is not known.
    pub(crate) fn new(
        printer: &Arc<Printer>,
        title: &'static str,
        total_size: Option<u64>,
    ) -> Arc<Self> {
        let total = match (printer.bars(), total_size) {
            (Some(bars), Some(size)) => {
                let bar = bars.add(ProgressBar::new(size));
                bar.set_style(style(
                    "  {msg:28!} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} \
                     {decimal_bytes_per_sec} {eta}",
                ));
                bar.set_message(title);
                Some(bar)
            }
            (Some(bars), None) => {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.set_style(style("  {msg:28!} {decimal_bytes} {decimal_bytes_per_sec}"));
                bar.set_message(title);
                Some(bar)
            }
            (None, _) => None,
        };
        Arc::new(Self {
            printer: Arc::clone(printer),
            total,
            jobs: Mutex::default(),
            received: AtomicU64::new(0),
        })
    }

    /// Removes the bars.
    pub(crate) fn finish(&self) {
        if let Some(total) = &self.total {
            total.finish_and_clear();
        }
        for row in self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            if let Some(bar) = &row.bar {
                bar.finish_and_clear();
            }
        }
    }

    /// The number of received bytes, wasted bytes included.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn row<T>(&self, job: JobId, update: impl FnOnce(&mut Row) -> T) -> Option<T> {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&job)
            .map(update)
    }

    /// The label of a job and a colon; empty for a request that belongs to no file.
    fn label(&self, job: JobId) -> String {
        let label = self.row(job, |row| format!("{}: ", row.label));
        label.unwrap_or_default()
    }
}

/// Whether the log contains the same, with more detail.
fn is_logged() -> bool {
    tracing::enabled!(target: "taipan_transfer::engine", tracing::Level::DEBUG)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[derive(Serialize)]
struct AttemptFailed<'a> {
    file: &'a str,
    mirror: &'a str,
    class: String,
    cause: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct Waiting<'a> {
    file: &'a str,
    seconds: f64,
    why: &'a str,
}

#[derive(Serialize)]
struct Resumed<'a> {
    file: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct Fetched<'a> {
    file: &'a str,
    bytes: u64,
    seconds: f64,
}

impl Observer for Downloads {
    #[expect(clippy::too_many_lines, reason = "one arm per event")]
    fn event(&self, event: &Event<'_>) {
        match *event {
            Event::Started { job, label, size } => {
                let bar = match (self.printer.bars(), size) {
                    (Some(bars), Some(size)) if size >= MIN_BAR_SIZE => {
                        let bar = bars.add(ProgressBar::new(size));
                        bar.set_style(style(
                            "    {msg:26!} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} \
                             {decimal_bytes_per_sec}",
                        ));
                        bar.set_message(crate::printer::clean(label));
                        Some(bar)
                    }
                    _ => None,
                };
                let row = Row {
                    label: label.to_owned(),
                    received: 0,
                    last_wait: None,
                    bar,
                };
                self.jobs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(job, row);
            }
            Event::Progress { job, bytes } => {
                self.received.fetch_add(bytes, Ordering::Relaxed);
                if let Some(total) = &self.total {
                    total.inc(bytes);
                }
                self.row(job, |row| {
                    row.received += bytes;
                    if let Some(bar) = &row.bar {
                        bar.inc(bytes);
                    }
                });
            }
            Event::Resumed { job, bytes: kept } => {
                // These bytes were received by an earlier run.
                if let Some(total) = &self.total {
                    total.inc(kept);
                }
                let label = self.row(job, |row| {
                    row.received += kept;
                    if let Some(bar) = &row.bar {
                        bar.inc(kept);
                    }
                    row.label.clone()
                });
                let file = label.unwrap_or_default();
                self.printer
                    .detail(&format!("  {file}: resuming after {}", bytes(kept)));
                let resumed = Resumed {
                    file: &file,
                    bytes: kept,
                };
                self.printer.object("resumed", &resumed);
            }
            Event::Restarted { job, bytes } => {
                if let Some(total) = &self.total {
                    total.set_position(total.position().saturating_sub(bytes));
                }
                self.row(job, |row| {
                    row.received = row.received.saturating_sub(bytes);
                    if let Some(bar) = &row.bar {
                        bar.set_position(row.received);
                    }
                });
            }
            Event::Attempt {
                job,
                name,
                offset,
                why,
                ..
            } if self.printer.is_verbose() && !is_logged() => {
                let label = self.label(job);
                let from = if offset > 0 {
                    format!(" from byte {offset}")
                } else {
                    String::new()
                };
                self.printer
                    .detail(&format!("  {label}requesting from {name}{from} ({why})"));
            }
            Event::AttemptFailed {
                job,
                name,
                class,
                cause,
                bytes: got,
                ..
            } => {
                let label = self.row(job, |row| row.label.clone()).unwrap_or_default();
                if !is_logged() {
                    let prefix = self.label(job);
                    self.printer
                        .detail(&format!("  {prefix}{name}: {class}: {cause}"));
                }
                let class = class.to_string();
                let failed = AttemptFailed {
                    file: &label,
                    mirror: name,
                    class,
                    cause,
                    bytes: got,
                };
                self.printer.object("attempt-failed", &failed);
            }
            Event::Waiting { job, delay, why } => {
                let (label, is_news) = self
                    .row(job, |row| (row.label.clone(), row.is_wait_news()))
                    .unwrap_or_default();
                let seconds = delay.as_secs_f64().round();
                if is_news {
                    let text = format!("{label}: waiting {seconds} s for a mirror: {why}");
                    self.printer.say(&text);
                }
                let file = &label;
                self.printer
                    .object("waiting", &Waiting { file, seconds, why });
            }
            Event::Done {
                job,
                bytes: size,
                duration,
            } => {
                let row = self
                    .jobs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&job);
                let Some(row) = row else { return };
                if let Some(bar) = row.bar {
                    bar.finish_and_clear();
                }
                let seconds = duration.as_secs_f64();
                self.printer.detail(&format!(
                    "  {}: {} in {seconds:.2} s",
                    row.label,
                    bytes(size)
                ));
                let fetched = Fetched {
                    file: &row.label,
                    bytes: size,
                    seconds,
                };
                self.printer.object("fetched", &fetched);
            }
            Event::Failed { job } => {
                let row = self
                    .jobs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&job);
                if let Some(bar) = row.and_then(|row| row.bar) {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
    }
}

/// Shows the progress of linking.
pub(crate) struct Links {
    printer: Arc<Printer>,
    bar: Option<ProgressBar>,
}

#[derive(Serialize)]
struct Message<'a> {
    package: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Package<'a> {
    package: &'a str,
}

impl Links {
    pub(crate) fn new(printer: &Arc<Printer>) -> Arc<Self> {
        let bar = printer.bars().map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(style("  {msg:28!} [{bar:30}] {pos}/{len} files"));
            bar.set_message("link");
            bar
        });
        Arc::new(Self {
            printer: Arc::clone(printer),
            bar,
        })
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl LinkObserver for Links {
    fn started(&self, _unlink: usize, _link: usize, files: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(files as u64);
        }
    }

    fn files_linked(&self, _package: &str, files: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(files as u64);
        }
    }

    fn package_unlinked(&self, package: &str) {
        self.printer.detail(&format!("  removed {package}"));
        self.printer.object("unlinked", &Package { package });
    }

    fn package_done(&self, package: &str) {
        self.printer.detail(&format!("  linked {package}"));
        self.printer.object("linked", &Package { package });
    }

    fn compile_started(&self, _files: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message("compile");
        }
    }

    fn script_output(&self, package: &str, kind: &'static str, output: &str) {
        self.printer
            .detail(&format!("  {kind} of {package}: {}", output.trim_end()));
    }

    fn message(&self, package: &str, text: &str) {
        self.printer.say(&format!("{package}: {}", text.trim_end()));
        self.printer.object(
            "message",
            &Message {
                package,
                message: text,
            },
        );
    }

    fn warning(&self, warning: &LinkWarning) {
        self.printer.warn(&warning.to_string());
    }
}
