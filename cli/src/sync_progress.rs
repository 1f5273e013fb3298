//! What a sync shows while it runs, and writes to files.

use std::{
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use taipan_channel::{SyncEvent, SyncObserver};
use taipan_transfer::{Event, Observer};

use crate::{error::AppError, printer::Printer};

/// Shows the progress of a sync, and collects its report.
pub(crate) struct SyncProgress {
    printer: Arc<Printer>,
    bar: Option<ProgressBar>,
    destinations: Vec<String>,
    report: Option<Mutex<Lines>>,
    new_files: Option<Mutex<Lines>>,
}

/// A file that is written line by line, and gets its name at the end.
struct Lines {
    path: PathBuf,
    file: BufWriter<tempfile::NamedTempFile>,
}

impl Lines {
    fn create(path: &Path) -> Result<Self, AppError> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let file = tempfile::NamedTempFile::new_in(directory);
        let file = file.map_err(|source| AppError::WriteFile {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
        })
    }

    fn persist(self) -> Result<(), AppError> {
        let Self { path, file } = self;
        let failed = |source| AppError::WriteFile {
            path: path.clone(),
            source,
        };
        let file = file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

#[derive(Serialize)]
struct Artifact<'a> {
    path: &'a str,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    destinations: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

impl SyncProgress {
    pub(crate) fn new(
        printer: &Arc<Printer>,
        destinations: Vec<String>,
        report: Option<&Path>,
        new_files: Option<&Path>,
    ) -> Result<Arc<Self>, AppError> {
        let bar = printer.bars().map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            let style = ProgressStyle::with_template(
                "  {msg:28!} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} \
                 {decimal_bytes_per_sec} {eta}",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let lines = |path: Option<&Path>| path.map(Lines::create).transpose();
        Ok(Arc::new(Self {
            printer: Arc::clone(printer),
            bar,
            destinations,
            report: lines(report)?.map(Mutex::new),
            new_files: lines(new_files)?.map(Mutex::new),
        }))
    }

    /// Removes the bar, and gives the files their names.
    pub(crate) fn finish(this: Arc<Self>) -> Result<(), AppError> {
        if let Some(bar) = &this.bar {
            bar.finish_and_clear();
        }
        let Some(this) = Arc::into_inner(this) else {
            return Ok(());
        };
        for lines in [this.report, this.new_files].into_iter().flatten() {
            lines
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .persist()?;
        }
        Ok(())
    }

    fn names(&self, numbers: &[usize]) -> Vec<&str> {
        let name = |number: &usize| self.destinations.get(*number).map(String::as_str);
        numbers.iter().filter_map(name).collect()
    }

    fn artifact(&self, artifact: &Artifact<'_>) {
        self.printer.object("artifact", artifact);
        if let Some(lines) = &self.report {
            let line = serde_json::to_string(artifact).unwrap_or_default();
            write(lines, &line);
        }
    }
}

fn write(lines: &Mutex<Lines>, line: &str) {
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    // A failure shows when the file gets its name.
    let _ = writeln!(lines.file, "{line}");
}

impl SyncObserver for SyncProgress {
    fn event(&self, event: &SyncEvent<'_>) {
        match event {
            SyncEvent::Planned {
                subdir,
                packages,
                bytes,
            } => {
                if let Some(bar) = &self.bar {
                    bar.set_message((*subdir).to_owned());
                    bar.inc_length(*bytes);
                }
                if *packages > 0 {
                    let size = crate::printer::bytes(*bytes);
                    let text = format!("{subdir}: {packages} packages to send, {size}");
                    self.printer.say(&text);
                }
            }
            SyncEvent::Copied {
                path,
                bytes,
                sha256,
                sent,
                found,
            } => {
                if let Some(bar) = &self.bar {
                    bar.inc(*bytes);
                }
                for (action, numbers) in [("sent", sent), ("found", found)] {
                    if !numbers.is_empty() {
                        self.artifact(&Artifact {
                            path,
                            action,
                            bytes: Some(*bytes),
                            sha256: sha256.map(|it| it.to_string()),
                            destinations: self.names(numbers),
                            problem: None,
                        });
                    }
                }
                if !sent.is_empty() {
                    self.printer.detail(&format!("  {path}: sent"));
                    if let Some(lines) = &self.new_files {
                        write(lines, path);
                    }
                }
            }
            SyncEvent::Failed {
                path,
                destination,
                problem,
            } => {
                let destinations = match destination {
                    Some(number) => self.names(&[*number]),
                    None => Vec::new(),
                };
                self.artifact(&Artifact {
                    path,
                    action: "failed",
                    bytes: None,
                    sha256: None,
                    destinations,
                    problem: Some(problem),
                });
                self.printer.detail(&format!("  {path}: {problem}"));
            }
            SyncEvent::Deleted { path, destination } => {
                self.artifact(&Artifact {
                    path,
                    action: "deleted",
                    bytes: None,
                    sha256: None,
                    destinations: self.names(&[*destination]),
                    problem: None,
                });
                self.printer.detail(&format!("  {path}: deleted"));
            }
            SyncEvent::Warning { text } => self.printer.warn(text),
            _ => {}
        }
    }
}

/// Tells of each request with `--verbose`.
pub(crate) struct Requests(pub(crate) Arc<Printer>);

impl Observer for Requests {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Attempt { name, why, .. } => {
                self.0.detail(&format!("  request: {name} ({why})"));
            }
            Event::AttemptFailed {
                name, class, cause, ..
            } => self.0.detail(&format!("  {name}: {class}: {cause}")),
            Event::Waiting { delay, why, .. } => {
                let seconds = delay.as_secs_f64();
                self.0.detail(&format!("  waiting {seconds:.1} s: {why}"));
            }
            _ => {}
        }
    }
}
