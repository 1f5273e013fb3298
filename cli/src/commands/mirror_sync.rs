//! `taipan mirror sync`.

mod filters;
mod metrics;
mod report;

use std::{path::Path, sync::Arc};

use taipan_channel::{
    DestinationOutcome, MirroredChannel, Prune, SubdirReport, SyncError, SyncObserver, SyncOptions,
    Worker, sync_subdir,
};
use taipan_mirrors::Location;
use taipan_transfer::{Engine, Outlet};

use crate::{
    args::{PruneChoice, SyncArgs},
    context::{ChannelSelection, Context},
    destinations::{DestinationError, outlets},
    error::{AppError, exit_of_sync},
    error_report::ErrorReport,
    exit::Exit,
    interrupt::Interrupt,
    printer::Printer,
    settings::Settings,
    sync_progress::{Requests, SyncProgress},
};
use filters::Filters;

/// The subdirs that channels have.
const SUBDIRS: [&str; 16] = [
    "noarch",
    "linux-64",
    "linux-aarch64",
    "linux-ppc64le",
    "linux-s390x",
    "linux-32",
    "linux-armv6l",
    "linux-armv7l",
    "linux-riscv64",
    "osx-64",
    "osx-arm64",
    "win-64",
    "win-arm64",
    "win-32",
    "emscripten-wasm32",
    "wasi-wasm32",
];

/// These subdirs, or all that channels have.
pub(super) fn named_or_all(named: &[String]) -> Vec<String> {
    if named.is_empty() {
        SUBDIRS.map(str::to_owned).to_vec()
    } else {
        named.to_vec()
    }
}

/// Copies a channel to all destinations, and reports what was done.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &SyncArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let mut filters = Filters::read(args)?;
    let wanted = ChannelSelection::AndListed(vec![args.source.clone()]);
    let context = interrupt.or(Context::new(settings, wanted, printer)).await;
    let context = context.ok_or(AppError::Interrupted)??;
    let jobs = u32::from(args.jobs);
    let outlets = outlets(&args.destinations, &args.places, jobs, &context.client)?;
    let source = Location::parse(context.channels[0].channel.base().as_str()).ok();
    for outlet in &outlets {
        if source
            .as_ref()
            .is_some_and(|source| is_same_place(source, outlet.location()))
        {
            let text = outlet.location().to_string();
            return Err(DestinationError::Source { text }.into());
        }
    }
    let names = outlets.iter().map(|it| it.location().to_string()).collect();
    let progress = SyncProgress::new(
        printer,
        names,
        args.report.as_deref(),
        args.new_files.as_deref(),
    )?;
    let work = tempfile::Builder::new().prefix("taipan-sync-").tempdir();
    let work = work.map_err(|source| AppError::WriteFile {
        path: std::env::temp_dir(),
        source,
    })?;
    let sync = Sync {
        args,
        engine: context.engine(Arc::new(Requests(Arc::clone(printer)))),
        source: &context.channels[0],
        context: &context,
        outlets: &outlets,
        observer: Arc::clone(&progress) as Arc<dyn SyncObserver>,
        work: work.path(),
    };
    let outcome = interrupt.or(Box::pin(sync.run(&mut filters))).await;
    context.save();
    drop(sync);
    let finished = SyncProgress::finish(progress);
    finished?;
    let reports = outcome.ok_or(AppError::Interrupted)??;
    report::show(printer, args, &context.channels[0], &reports);
    if let Some(path) = &args.metrics {
        metrics::write(
            path,
            &context.channels[0],
            &outlets,
            &reports,
            &sync_states(&reports),
        )?;
    }
    Ok(exit_of(&reports))
}

/// Whether two locations are of the same files, as far as their names tell.
fn is_same_place(source: &Location, destination: &Location) -> bool {
    match (source, destination) {
        (Location::S3(source), Location::S3(destination)) => {
            (&source.bucket, &source.prefix) == (&destination.bucket, &destination.prefix)
                && (source.endpoint.is_none() || source.endpoint == destination.endpoint)
        }
        _ => source == destination,
    }
}

/// When each destination was successful.
fn sync_states(reports: &[SubdirReport]) -> Vec<bool> {
    let count = reports
        .first()
        .map_or(0, |report| report.destinations.len());
    (0..count)
        .map(|number| {
            reports.iter().all(|report| {
                let outcome = &report.destinations[number].outcome;
                !matches!(outcome, DestinationOutcome::Failed(_))
            })
        })
        .collect()
}

struct Sync<'a> {
    args: &'a SyncArgs,
    engine: Engine,
    source: &'a MirroredChannel,
    context: &'a Context,
    outlets: &'a [Outlet],
    observer: Arc<dyn SyncObserver>,
    work: &'a Path,
}

impl Sync<'_> {
    async fn run(&self, filters: &mut Filters) -> Result<Vec<SubdirReport>, AppError> {
        let named = &self.args.subdirs;
        let subdirs = named_or_all(named);
        if self.args.with_dependencies {
            filters
                .close(&self.engine, self.source, &subdirs, self.context, self.work)
                .await?;
        }
        let mut reports = Vec::new();
        let started = std::time::Instant::now();
        let mut sent = 0;
        for subdir in &subdirs {
            let mut options = self.options();
            options.max_time =
                (options.max_time).map(|time| time.saturating_sub(started.elapsed()));
            options.max_bytes = options.max_bytes.map(|most| most.saturating_sub(sent));
            let report = sync_subdir(
                &self.engine,
                &self.context.client,
                self.source,
                subdir,
                self.outlets,
                filters.of(subdir),
                &options,
                Arc::clone(&self.observer),
            )
            .await;
            match report {
                Ok(report) => {
                    sent += report
                        .destinations
                        .iter()
                        .map(|it| it.sent_bytes)
                        .sum::<u64>();
                    reports.push(report);
                }
                Err(SyncError::NoSubdir { .. }) if named.is_empty() => {}
                // What fails here would fail everywhere.
                Err(error) => return Err(error.into()),
            }
        }
        if reports.is_empty() {
            let subdir = "index in any of the known subdirs".to_owned();
            return Err(SyncError::NoSubdir { subdir }.into());
        }
        Ok(reports)
    }

    fn options(&self) -> SyncOptions {
        let args = self.args;
        SyncOptions {
            prune: args.prune.map(|choice| Prune {
                grace: args.grace,
                removed: choice == PruneChoice::Removed,
            }),
            max_delete: args.max_delete,
            strict: args.strict,
            retry_failed: args.retry_failed,
            zck: args.zck,
            dry_run: args.dry_run,
            worker: args.worker.map(|(index, count)| Worker { index, count }),
            verify: args.verify,
            max_bytes: args.max_bytes,
            max_time: args.max_time,
            jobs: usize::from(args.jobs),
            ..SyncOptions::new(self.work)
        }
    }
}

/// The exit code: that of the worst destination.
fn exit_of(reports: &[SubdirReport]) -> Exit {
    let exits = reports.iter().flat_map(|report| &report.destinations);
    Exit::worst(exits.map(|it| match &it.outcome {
        DestinationOutcome::Failed(error) => exit_of_sync(error),
        _ if !it.failures.is_empty() || it.postponed > 0 => Exit::Partial,
        _ => Exit::Done,
    }))
}

/// An error as it is printed under a table.
pub(super) fn describe(error: &SyncError) -> String {
    ErrorReport::of_sync(error).to_string()
}
