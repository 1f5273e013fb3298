//! The table of what each mirror sent in this run.

use serde::Serialize;
use taipan_channel::MirroredChannel;
use taipan_mirrors::{Class, MirrorReport};
use taipan_transfer::MirrorSet;

use crate::printer::{Printer, bytes, rate, table};

/// The JSON object of a mirror.
#[derive(Serialize)]
struct MirrorObject<'a> {
    /// `None` when the mirror is not one of a channel.
    channel: Option<&'a str>,
    #[serde(flatten)]
    report: &'a MirrorReport,
}

/// Prints all mirrors of the channels: a table per channel that has several, or with `--verbose`
/// any; and JSON objects.
pub(crate) fn show(printer: &Printer, channels: &[MirroredChannel]) {
    for MirroredChannel { channel, mirrors } in channels {
        let reports = mirrors.reports();
        for report in &reports {
            let channel = Some(channel.name());
            printer.object("mirror", &MirrorObject { channel, report });
        }
        let is_shown = reports.len() > 1 || printer.is_verbose();
        if is_shown && reports.iter().any(|report| requests(report) > 0) {
            printer.say(&format!("Mirrors of {channel}:"));
            printer.say(&render(&reports));
        }
    }
}

/// Prints the mirrors that received requests, of all sets in one table. A set comes with the name
/// of its channel, if it has one.
pub(super) fn show_used<'a>(
    printer: &Printer,
    sets: impl Iterator<Item = (Option<&'a str>, &'a MirrorSet)>,
) {
    let mut used = Vec::new();
    for (channel, mirrors) in sets {
        for report in mirrors.reports() {
            if requests(&report) > 0 {
                let report = &report;
                printer.object("mirror", &MirrorObject { channel, report });
                used.push(report.clone());
            }
        }
    }
    if !used.is_empty() {
        printer.say(&render(&used));
    }
}

fn requests(report: &MirrorReport) -> u64 {
    report.counts.total() + report.cancelled
}

fn render(reports: &[MirrorReport]) -> String {
    let head = [
        "mirror",
        "requests",
        "bytes",
        "throughput",
        "first byte",
        "outcome",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for report in reports {
        let requests = requests(report);
        rows.push(vec![
            report.location.clone(),
            requests.to_string(),
            bytes(report.bytes),
            rate(report.rate),
            report
                .first_byte
                .filter(|_| requests > 0)
                .map_or_else(|| "-".to_owned(), |time| format!("{} ms", time.as_millis())),
            outcome(report),
        ]);
    }
    table(&rows, &[5])
}

fn outcome(report: &MirrorReport) -> String {
    if requests(report) == 0 {
        return "not used".to_owned();
    }
    let mut parts: Vec<String> = Class::ALL
        .iter()
        .filter(|class| report.counts.get(**class) > 0)
        .map(|class| format!("{} {class}", report.counts.get(*class)))
        .collect();
    if report.cancelled > 0 {
        parts.push(format!("{} cancelled", report.cancelled));
    }
    if report.quarantined {
        parts.push("quarantined".to_owned());
    }
    parts.join(", ")
}
