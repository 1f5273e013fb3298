//! `taipan index`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use taipan_channel::{BuildReport, IndexBuilder, PackageReader};
use taipan_package::{CancelFlag, inspect};

use crate::{
    args::IndexArgs,
    context::{ChannelSelection, Context},
    destinations::outlets,
    error::AppError,
    error_chain::causes,
    exit::Exit,
    interrupt::Interrupt,
    printer::{Printer, table},
    settings::Settings,
    sync_progress::Requests,
};

/// Reads archives by extracting them into a temporary directory.
struct Archives {
    work: PathBuf,
    cancel: CancelFlag,
}

impl PackageReader for Archives {
    fn read(&self, path: &Path) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
        match inspect(path, &self.work, &self.cancel) {
            Ok(inspected) => Ok((inspected.index, inspected.run_exports)),
            Err(error) => {
                let texts = std::iter::once(error.to_string()).chain(causes(&error));
                Err(texts.collect::<Vec<String>>().join(": "))
            }
        }
    }
}

/// Makes the index of each subdir of a channel.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &IndexArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let work = tempfile::Builder::new().prefix("taipan-index-").tempdir();
    let work = work.map_err(|source| AppError::WriteFile {
        path: std::env::temp_dir(),
        source,
    })?;
    let build = async {
        let none = ChannelSelection::AndListed(Vec::new());
        let context = Context::new(settings, none, printer).await?;
        let texts = std::slice::from_ref(&args.destination);
        let outlet = outlets(texts, &args.places, 16, &context.client)?.remove(0);
        let engine = context.engine(Arc::new(Requests(Arc::clone(printer))));
        let builder = IndexBuilder {
            engine: &engine,
            outlet: &outlet,
            reader: Arc::new(Archives {
                work: work.path().to_owned(),
                cancel: CancelFlag::from(Arc::clone(interrupt.flag())),
            }),
            work: work.path(),
            dry_run: args.dry_run,
        };
        let subdirs = if args.subdirs.is_empty() {
            builder.subdirs().await?
        } else {
            args.subdirs.clone()
        };
        let mut reports = Vec::new();
        for subdir in &subdirs {
            reports.push(builder.build(subdir).await?);
        }
        Ok::<_, AppError>(reports)
    };
    let reports = interrupt.or(Box::pin(build)).await;
    let reports = reports.ok_or(AppError::Interrupted)??;
    show(printer, args, &reports);
    let is_whole = reports.iter().all(|report| report.refused.is_empty());
    Ok(if is_whole { Exit::Done } else { Exit::Partial })
}

fn show(printer: &Printer, args: &IndexArgs, reports: &[BuildReport]) {
    #[derive(Serialize)]
    struct Indexed<'a> {
        subdir: &'a str,
        packages: usize,
        added: &'a [String],
        replaced: &'a [String],
        removed: &'a [String],
        refused: Vec<Refused<'a>>,
        changed: bool,
    }
    #[derive(Serialize)]
    struct Refused<'a> {
        file: &'a str,
        problem: &'a str,
    }
    let head = [
        "subdir", "packages", "added", "replaced", "removed", "left out", "index",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for report in reports {
        let index = match (report.is_changed, args.dry_run) {
            (false, _) => "unchanged",
            (true, false) => "written",
            (true, true) => "would be written",
        };
        let refused = report.refused.iter();
        rows.push(vec![
            report.subdir.clone(),
            report.packages.to_string(),
            report.added.len().to_string(),
            report.replaced.len().to_string(),
            report.removed.len().to_string(),
            report.refused.len().to_string(),
            index.to_owned(),
        ]);
        printer.object(
            "indexed",
            &Indexed {
                subdir: &report.subdir,
                packages: report.packages,
                added: &report.added,
                replaced: &report.replaced,
                removed: &report.removed,
                refused: refused
                    .map(|(file, problem)| Refused { file, problem })
                    .collect(),
                changed: report.is_changed && !args.dry_run,
            },
        );
    }
    printer.data(&table(&rows, &[6]));
    for report in reports {
        for (file, problem) in &report.refused {
            let subdir = &report.subdir;
            printer.warn(&format!("{subdir}/{file} is left out: {problem}"));
        }
    }
}
