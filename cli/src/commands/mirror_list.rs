//! `taipan mirror list`.

use std::time::Duration;

use serde::Serialize;
use taipan_channel::MirroredChannel;
use taipan_mirrors::{Circuit, Mirror, MirrorReport, Request, Time};

use crate::{
    args::SourceArgs,
    context::{ChannelSelection, Context},
    error::AppError,
    exit::Exit,
    interrupt::Interrupt,
    printer::{Printer, rate, table},
    settings::Settings,
};

/// The size of the request that `--verbose` explains, in bytes: that of a typical package.
const TYPICAL_SIZE: u64 = 256 * 1024;

/// Shows the merged mirrors of channels with the measurements of earlier runs. Sends no requests to
/// mirrors.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Printer,
    source: &SourceArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let wanted = if source.channels.is_empty() {
        ChannelSelection::Listed
    } else {
        ChannelSelection::Settings
    };
    let context = interrupt.or(Context::new(settings, wanted, printer)).await;
    let context = context.ok_or(AppError::Interrupted)??;
    for (index, channel) in context.channels.iter().enumerate() {
        if index > 0 {
            printer.data("");
        }
        show(printer, channel);
        if printer.is_closed() {
            break;
        }
    }
    Ok(Exit::Done)
}

fn show(printer: &Printer, channel: &MirroredChannel) {
    #[derive(Serialize)]
    struct MirrorObject<'a> {
        channel: &'a str,
        #[serde(flatten)]
        report: &'a MirrorReport,
        max_connections: Option<u32>,
        /// The rest of the delay that the mirror requested.
        throttled_seconds: Option<u64>,
        state: &'static str,
        why: &'a str,
    }
    let MirroredChannel { channel, mirrors } = channel;
    let (list, reasons, now) = mirrors.with_selector(|selector, now| {
        // An empty path, which no mirror is known to lack.
        let request = Request::content("").with_bytes(TYPICAL_SIZE);
        let explained = selector.explain(&request, now);
        let first = selector
            .mirrors()
            .iter()
            .map(|mirror| mirror.priority)
            .min();
        let reason = |(why, mirror): (String, &Mirror)| match first {
            Some(first) if mirror.priority > first => {
                format!("after the mirrors with a lower priority number; {why}")
            }
            _ => why,
        };
        let reasons: Vec<String> = explained
            .into_iter()
            .map(|(_, why)| why.to_string())
            .zip(selector.mirrors())
            .map(reason)
            .collect();
        (selector.mirrors().to_vec(), reasons, now)
    });
    let reports = mirrors.reports();
    printer.data(&format!("Mirrors of {channel}:"));
    let mut names = Vec::new();
    let head = [
        "",
        "priority",
        "weight",
        "country",
        "limit",
        "first byte",
        "throughput",
        "failed",
        "state",
        "last",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (number, ((mirror, report), why)) in (1..).zip(list.iter().zip(&reports).zip(&reasons)) {
        let state = state(report, now);
        names.push(vec![
            number.to_string(),
            report.location.clone(),
            report.provenance.clone(),
        ]);
        rows.push(row(number, mirror, report, state, now));
        printer.object(
            "mirror",
            &MirrorObject {
                channel: channel.name(),
                report,
                max_connections: mirror.max_connections,
                throttled_seconds: report.throttled_until.map(|at| at.since(now).as_secs()),
                state,
                why,
            },
        );
    }
    printer.data(&table(&names, &[1, 2]));
    printer.data("");
    printer.data(&table(&rows, &[8, 9]));
    if printer.is_verbose() {
        printer.data("\nFor a request of 256 kB:");
        let reasons: Vec<Vec<String>> = (1..)
            .zip(reasons)
            .map(|(number, why): (usize, String)| vec![number.to_string(), why])
            .collect();
        printer.data(&table(&reasons, &[1]));
    }
}

fn row(
    number: usize,
    mirror: &Mirror,
    report: &MirrorReport,
    state: &'static str,
    now: Time,
) -> Vec<String> {
    let dash = || "-".to_owned();
    let first_byte = report.first_byte.map_or_else(dash, milliseconds);
    let failed = match report.last {
        Some(_) => format!("{:.0} %", report.failure_share * 100.0),
        None => dash(),
    };
    let last = report.last.map_or_else(dash, |last| {
        format!("{}, {} ago", last.class, age(now.since(last.at)))
    });
    vec![
        number.to_string(),
        mirror.priority.to_string(),
        mirror.weight.to_string(),
        mirror.country.clone().unwrap_or_else(dash),
        mirror.max_connections.map_or_else(dash, |n| n.to_string()),
        first_byte,
        rate(report.rate),
        failed,
        state.to_owned(),
        last,
    ]
}

/// The state of a mirror in one word.
fn state(report: &MirrorReport, now: Time) -> &'static str {
    if report.quarantined {
        "quarantined"
    } else if report.denied {
        "denied"
    } else if report.throttled_until.is_some_and(|until| until > now) {
        "throttled"
    } else if report.circuit == Circuit::Open {
        "backoff"
    } else if report.circuit == Circuit::HalfOpen {
        "half-open"
    } else if report.behind {
        "behind"
    } else if report.last.is_none() {
        "new"
    } else {
        "ready"
    }
}

/// A duration in milliseconds.
pub(super) fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// A duration in the largest suitable unit.
fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds @ 100..=5_999 => format!("{} min", seconds / 60),
        seconds @ 6_000..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_in_the_unit_that_fits() {
        let ages = [0, 99, 100, 5_999, 6_000, 172_799, 172_800].map(Duration::from_secs);
        let expected = ["0 s", "99 s", "1 min", "99 min", "1 h", "47 h", "2 days"];
        assert_eq!(ages.map(age), expected);
    }
}
