//! What a sync has done, as text and JSON.

use serde::Serialize;
use taipan_channel::{DestinationOutcome, MirroredChannel, SubdirReport};

use super::describe;
use crate::{
    args::SyncArgs,
    printer::{Printer, bytes, table},
};

/// How many failures of a destination are printed.
const SHOWN: usize = 10;

#[derive(Serialize)]
struct Line<'a> {
    channel: &'a str,
    subdir: &'a str,
    destination: &'a str,
    outcome: &'static str,
    packages: usize,
    sent: usize,
    sent_bytes: u64,
    found: usize,
    replaced: usize,
    dropped: usize,
    deleted: usize,
    waiting_for_deletion: usize,
    failed: usize,
    postponed: usize,
    problem: Option<String>,
}

/// Prints one line per subdir and destination, and the problems.
pub(super) fn show(
    printer: &Printer,
    args: &SyncArgs,
    channel: &MirroredChannel,
    reports: &[SubdirReport],
) {
    let head = [
        "subdir",
        "destination",
        "packages",
        "sent",
        "bytes",
        "outcome",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut problems = Vec::new();
    for report in reports {
        for it in &report.destinations {
            let (outcome, problem) = match &it.outcome {
                DestinationOutcome::Unchanged => ("unchanged", None),
                DestinationOutcome::Published => ("published", None),
                DestinationOutcome::Planned => ("planned", None),
                DestinationOutcome::ShareDone => ("share done", None),
                DestinationOutcome::Failed(error) => ("failed", Some(describe(error))),
            };
            let mut notes = vec![outcome.to_owned()];
            let mut note = |count: usize, what: &str| {
                if count > 0 {
                    notes.push(format!("{count} {what}"));
                }
            };
            note(it.failures.len(), "left out");
            note(it.postponed, "postponed");
            note(it.found, "found there");
            note(it.replaced, "replaced");
            note(it.dropped, "dropped");
            note(it.deleted, "deleted");
            note(it.graves, "to be deleted");
            rows.push(vec![
                report.subdir.clone(),
                it.location.clone(),
                it.packages.to_string(),
                it.sent.to_string(),
                bytes(it.sent_bytes),
                notes.join(", "),
            ]);
            for failure in it.failures.iter().take(SHOWN) {
                let (subdir, file) = (&report.subdir, &failure.file);
                problems.push(format!("{subdir}/{file} is left out: {}", failure.problem));
            }
            if it.failures.len() > SHOWN {
                let more = it.failures.len() - SHOWN;
                problems.push(format!("and {more} more; --report writes all"));
            }
            printer.object(
                "mirror-sync",
                &Line {
                    channel: channel.channel.name(),
                    subdir: &report.subdir,
                    destination: &it.location,
                    outcome,
                    packages: it.packages,
                    sent: it.sent,
                    sent_bytes: it.sent_bytes,
                    found: it.found,
                    replaced: it.replaced,
                    dropped: it.dropped,
                    deleted: it.deleted,
                    waiting_for_deletion: it.graves,
                    failed: it.failures.len(),
                    postponed: it.postponed,
                    problem: problem.clone(),
                },
            );
            problems.extend(problem);
        }
    }
    printer.data(&table(&rows, &[1, 5]));
    problems.dedup();
    for problem in problems {
        printer.warn(&problem);
    }
    if args.dry_run {
        printer.say("Nothing was changed (--dry-run).");
    }
}
