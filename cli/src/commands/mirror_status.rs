//! `taipan mirror status` and `taipan mirror verify`.

use std::sync::Arc;

use serde::Serialize;
use taipan_channel::{MirrorState, read_status, verify_mirror};
use taipan_transfer::{Engine, Outlet};

use super::mirror_sync::named_or_all;
use crate::{
    args::MirrorPlaceArgs,
    context::{ChannelSelection, Context},
    destinations::outlets,
    error::AppError,
    exit::Exit,
    interrupt::Interrupt,
    printer::{Printer, bytes, table},
    settings::Settings,
    sync_progress::Requests,
};

/// How many problems are printed.
const SHOWN: usize = 20;

struct Place {
    engine: Engine,
    outlet: Outlet,
    subdirs: Vec<String>,
}

impl Place {
    async fn open(
        settings: &Settings,
        printer: &Arc<Printer>,
        args: &MirrorPlaceArgs,
    ) -> Result<Self, AppError> {
        let none = ChannelSelection::AndListed(Vec::new());
        let context = Context::new(settings, none, printer).await?;
        let texts = std::slice::from_ref(&args.destination);
        let mut outlets = outlets(texts, &args.places, 64, &context.client)?;
        let subdirs = named_or_all(&args.subdirs);
        Ok(Self {
            engine: context.engine(Arc::new(Requests(Arc::clone(printer)))),
            outlet: outlets.remove(0),
            subdirs,
        })
    }

    fn name(&self) -> String {
        self.outlet.location().to_string()
    }
}

/// Shows the state of a mirror. It is not compared with anything.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &MirrorPlaceArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let work = async {
        let place = Place::open(settings, printer, args).await?;
        let mut states = Vec::new();
        for subdir in &place.subdirs {
            if let Some(state) = read_status(&place.engine, &place.outlet, subdir).await? {
                states.push((subdir.clone(), state));
            }
        }
        if states.is_empty() {
            return Err(AppError::NoMirror {
                place: place.name(),
                subdirs: place.subdirs.clone(),
            });
        }
        Ok(states)
    };
    let states = interrupt
        .or(Box::pin(work))
        .await
        .ok_or(AppError::Interrupted)??;
    show_states(printer, &states);
    Ok(Exit::Done)
}

fn show_states(printer: &Printer, states: &[(String, MirrorState)]) {
    #[derive(Serialize)]
    struct Status<'a> {
        subdir: &'a str,
        #[serde(flatten)]
        state: &'a MirrorState,
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_secs());
    let ago = |at: u64| match now.saturating_sub(at) {
        _ if at == 0 => "-".to_owned(),
        seconds @ 0..=99 => format!("{seconds} s ago"),
        seconds @ 100..=5_999 => format!("{} min ago", seconds / 60),
        seconds @ 6_000..=172_799 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    };
    let head = [
        "subdir",
        "packages",
        "size",
        "left out",
        "to be deleted",
        "published",
        "source index",
        "source",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (subdir, state) in states {
        rows.push(vec![
            subdir.clone(),
            state.packages.to_string(),
            bytes(state.bytes),
            state.failures.len().to_string(),
            state.graves.len().to_string(),
            ago(state.published),
            state.source_time.map_or_else(|| "-".to_owned(), ago),
            state.source.first().cloned().unwrap_or_default(),
        ]);
        printer.object("mirror-status", &Status { subdir, state });
    }
    printer.data(&table(&rows, &[7]));
    for (subdir, state) in states {
        for (file, failure) in state.failures.iter().take(SHOWN) {
            let (problem, tries) = (&failure.problem, failure.tries);
            printer.data(&format!(
                "  {subdir}/{file} is left out after {tries} tries: {problem}"
            ));
        }
    }
}

/// Looks at every package that the index of a mirror names.
pub(crate) async fn verify(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &MirrorPlaceArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    #[derive(Serialize)]
    struct Verified<'a> {
        subdir: &'a str,
        packages: usize,
        missing: &'a [String],
        wrong: &'a [String],
        unknown: Vec<&'a str>,
    }
    let temporary = tempfile::tempdir().map_err(|source| AppError::WriteFile {
        path: std::env::temp_dir(),
        source,
    })?;
    let work = async {
        let place = Place::open(settings, printer, args).await?;
        let mut reports = Vec::new();
        for subdir in &place.subdirs {
            let verified =
                verify_mirror(&place.engine, &place.outlet, subdir, temporary.path()).await?;
            if let Some(report) = verified {
                reports.push((subdir.clone(), report));
            }
        }
        if reports.is_empty() {
            return Err(AppError::NoMirrorIndex {
                place: place.name(),
                subdirs: place.subdirs.clone(),
            });
        }
        Ok(reports)
    };
    let reports = interrupt
        .or(Box::pin(work))
        .await
        .ok_or(AppError::Interrupted)??;
    let head = ["subdir", "packages", "missing", "wrong", "unknown"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut problems = Vec::new();
    let mut is_good = true;
    for (subdir, report) in &reports {
        is_good &= report.is_good();
        rows.push(vec![
            subdir.clone(),
            report.packages.to_string(),
            report.missing.len().to_string(),
            report.wrong.len().to_string(),
            report.unknown.len().to_string(),
        ]);
        printer.object(
            "mirror-verified",
            &Verified {
                subdir,
                packages: report.packages,
                missing: &report.missing,
                wrong: &report.wrong,
                unknown: report
                    .unknown
                    .iter()
                    .map(|(path, _)| path.as_str())
                    .collect(),
            },
        );
        problems.extend(
            report
                .missing
                .iter()
                .map(|path| format!("{path} is not there")),
        );
        problems.extend(
            report
                .wrong
                .iter()
                .map(|path| format!("{path} has other content")),
        );
        let unknown = report.unknown.iter();
        problems.extend(
            unknown.map(|(path, problem)| format!("{path} cannot be looked at: {problem}")),
        );
    }
    printer.data(&table(&rows, &[]));
    for problem in problems.iter().take(SHOWN) {
        printer.warn(problem);
    }
    if problems.len() > SHOWN {
        printer.warn(&format!(
            "and {} more; --json prints all",
            problems.len() - SHOWN
        ));
    }
    Ok(if is_good {
        Exit::Done
    } else {
        Exit::Verification
    })
}
