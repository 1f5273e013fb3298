//! The table of what each mirror did.

use serde::Serialize;
use taipan_channel::MirroredChannel;
use taipan_mirrors::{Class, MirrorReport};
use taipan_transfer::MirrorSet;

use crate::printer::{Printer, bytes, rate, table};

/// Shows what each mirror did: always in JSON, in text when there was more than one to choose from
/// or when the user wants to know more.
pub(crate) fn show(printer: &Printer, channels: &[MirroredChannel]) {
    #[derive(Serialize)]
    struct Report<'a> {
        channel: &'a str,
        #[serde(flatten)]
        report: &'a MirrorReport,
    }
    for MirroredChannel { channel, mirrors } in channels {
        let reports = mirrors.reports();
        for report in &reports {
            printer.object(
                "mirror",
                &Report {
                    channel: channel.name(),
                    report,
                },
            );
        }
        if reports.len() < 2 && !printer.is_verbose() {
            continue;
        }
        if reports
            .iter()
            .all(|report| report.counts.total() == 0 && report.cancelled == 0)
        {
            continue;
        }
        printer.say(&format!("Mirrors of {channel}:"));
        printer.say(&render(&reports));
    }
}

/// Shows what each mirror of these sets did that was asked at all, in one table. A set may be that of a
/// channel.
pub(super) fn show_asked<'a>(
    printer: &Printer,
    sets: impl Iterator<Item = (Option<&'a str>, &'a MirrorSet)>,
) {
    #[derive(Serialize)]
    struct Report<'a> {
        channel: Option<&'a str>,
        #[serde(flatten)]
        report: &'a MirrorReport,
    }
    let mut asked = Vec::new();
    for (channel, mirrors) in sets {
        for report in mirrors.reports() {
            if report.counts.total() + report.cancelled > 0 {
                let report = &report;
                printer.object("mirror", &Report { channel, report });
                asked.push(report.clone());
            }
        }
    }
    if !asked.is_empty() {
        printer.say(&render(&asked));
    }
}

/// One row per mirror: requests, bytes, speed, outcomes.
pub(crate) fn render(reports: &[MirrorReport]) -> String {
    let head = [
        "mirror",
        "requests",
        "bytes",
        "speed",
        "first byte",
        "outcome",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for report in reports {
        let requests = report.counts.total() + report.cancelled;
        rows.push(vec![
            report.location.clone(),
            requests.to_string(),
            bytes(report.bytes),
            rate(report.rate),
            report
                .first_byte
                .filter(|_| requests > 0)
                .map_or_else(|| "-".to_owned(), |time| format!("{} ms", time.as_millis())),
            outcome(report, requests),
        ]);
    }
    table(&rows, &[5])
}

fn outcome(report: &MirrorReport, requests: u64) -> String {
    if requests == 0 {
        return "not asked".to_owned();
    }
    let mut parts: Vec<String> = Class::ALL
        .iter()
        .filter(|class| report.counts.get(**class) > 0)
        .map(|class| format!("{} {class}", report.counts.get(*class)))
        .collect();
    if report.cancelled > 0 {
        parts.push(format!("{} left", report.cancelled));
    }
    if report.quarantined {
        parts.push("quarantined".to_owned());
    }
    parts.join(", ")
}
