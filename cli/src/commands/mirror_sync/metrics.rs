//! Metrics of a sync in the text format of Prometheus, for its textfile collector.

use std::{fmt::Write as _, io::Write as _, path::Path, time::SystemTime};

use taipan_channel::{DestinationOutcome, MirroredChannel, SubdirReport};
use taipan_transfer::Outlet;

use crate::error::AppError;

/// Writes the metrics to a file that appears whole. The time of the last success of a destination that failed this time is taken
/// from the file that it replaces.
pub(super) fn write(
    path: &Path,
    channel: &MirroredChannel,
    outlets: &[Outlet],
    reports: &[SubdirReport],
    is_good: &[bool],
) -> Result<(), AppError> {
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let text = text(&before, channel, outlets, reports, is_good);
    let failed = |source| AppError::WriteFile {
        path: path.to_owned(),
        source,
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    // The collector runs as another user.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn text(
    before: &str,
    channel: &MirroredChannel,
    outlets: &[Outlet],
    reports: &[SubdirReport],
    is_good: &[bool],
) -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_secs());
    let mut out = String::new();
    let name = channel.channel.name();
    let mut metric = |name: &str, help: &str, values: Vec<(String, String)>| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in values {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    };
    let each =
        |value: &dyn Fn(&taipan_channel::DestinationReport, &SubdirReport) -> Option<String>| {
            let mut values = Vec::new();
            for report in reports {
                for it in &report.destinations {
                    if let Some(value) = value(it, report) {
                        let labels = labels(name, Some(&report.subdir), &it.location);
                        values.push((labels, value));
                    }
                }
            }
            values
        };
    metric(
        "taipan_mirror_packages",
        "Packages that the published index names.",
        each(&|it, _| Some(it.packages.to_string())),
    );
    metric(
        "taipan_mirror_sent_packages",
        "Packages sent by the last run.",
        each(&|it, _| Some(it.sent.to_string())),
    );
    metric(
        "taipan_mirror_sent_bytes",
        "Bytes sent by the last run.",
        each(&|it, _| Some(it.sent_bytes.to_string())),
    );
    metric(
        "taipan_mirror_left_out_packages",
        "Packages that could not be copied, or were postponed.",
        each(&|it, _| Some((it.failures.len() + it.postponed).to_string())),
    );
    metric(
        "taipan_mirror_failed",
        "Whether the last run failed.",
        each(&|it, _| {
            let failed = matches!(it.outcome, DestinationOutcome::Failed(_));
            Some(u8::from(failed).to_string())
        }),
    );
    metric(
        "taipan_mirror_source_index_age_seconds",
        "Age of the source index, by its Last-Modified.",
        each(&|_, report| Some(now.saturating_sub(report.source_time?).to_string())),
    );
    metric(
        "taipan_mirror_index_age_seconds",
        "Age of the source index that the published index was made of, by its Last-Modified.",
        each(&|it, _| Some(now.saturating_sub(it.index_time?).to_string())),
    );
    metric(
        "taipan_mirror_last_run_timestamp_seconds",
        "When the last run ended.",
        each(&|_, _| Some(now.to_string())),
    );
    let success = "taipan_mirror_last_success_timestamp_seconds";
    let successes = outlets.iter().zip(is_good).filter_map(|(outlet, is_good)| {
        let labels = labels(name, None, &outlet.location().to_string());
        if *is_good {
            return Some((labels, now.to_string()));
        }
        let start = format!("{success}{{{labels}}} ");
        let value = before.lines().find_map(|line| line.strip_prefix(&start))?;
        Some((labels, value.to_owned()))
    });
    metric(
        success,
        "When a run last succeeded for all subdirs.",
        successes.collect(),
    );
    out
}

fn labels(channel: &str, subdir: Option<&str>, destination: &str) -> String {
    let escaped = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        text.replace('\n', "\\n")
    };
    let (channel, destination) = (escaped(channel), escaped(destination));
    match subdir {
        Some(subdir) => {
            let subdir = escaped(subdir);
            format!("channel=\"{channel}\",subdir=\"{subdir}\",destination=\"{destination}\"")
        }
        None => format!("channel=\"{channel}\",destination=\"{destination}\""),
    }
}
