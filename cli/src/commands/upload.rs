//! `taipan upload`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use taipan_channel::{NewPackage, add_packages, new_package, package_file};
use taipan_package::{CancelFlag, inspect};
use taipan_transfer::{Condition, Content, Engine, Expected, NewFile, Outlet, PutOptions};

use crate::{
    args::UploadArgs,
    context::{ChannelSelection, Context},
    destinations::outlets,
    error::AppError,
    exit::Exit,
    interrupt::Interrupt,
    printer::{Printer, bytes, table},
    settings::Settings,
    sync_progress::Requests,
};

/// `Cache-Control` of packages.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A package that was opened and found sound.
struct Sound {
    path: PathBuf,
    package: NewPackage,
    content: Content,
}

/// What became of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Sent,
    Found,
    Skipped,
}

/// Checks packages, sends them, and adds them to the index.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &UploadArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let work = tempfile::Builder::new().prefix("taipan-upload-").tempdir();
    let work = work.map_err(|source| AppError::WriteFile {
        path: std::env::temp_dir(),
        source,
    })?;
    let upload = upload(settings, printer, args, interrupt, work.path());
    let result = interrupt.or(Box::pin(upload)).await;
    result.ok_or(AppError::Interrupted)?
}

async fn upload(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &UploadArgs,
    interrupt: &Interrupt,
    work: &Path,
) -> Result<Exit, AppError> {
    let none = ChannelSelection::AndListed(Vec::new());
    let context = Context::new(settings, none, printer).await?;
    let texts = std::slice::from_ref(&args.to);
    let outlet = outlets(texts, &args.places, 16, &context.client)?.remove(0);
    let engine = context.engine(Arc::new(Requests(Arc::clone(printer))));
    // All are checked before the first is sent.
    let mut sound = Vec::new();
    for path in &args.files {
        sound.push(open(path, args, interrupt, work, &outlet).await?);
    }
    let head = ["package", "subdir", "size", "outcome"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut to_index: BTreeMap<String, Vec<NewPackage>> = BTreeMap::new();
    let mut failure = None;
    for it in sound {
        let outcome = match send(&engine, &outlet, &it, args).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // What was sent before is indexed all the same.
                failure = Some(error);
                break;
            }
        };
        let (name, text) = match outcome {
            Outcome::Sent => ("sent", "sent"),
            Outcome::Found => ("found", "already there"),
            Outcome::Skipped => ("skipped", "skipped: another is there"),
        };
        show(printer, &it, name);
        rows.push(vec![
            it.package.file.clone(),
            it.package.subdir.clone(),
            bytes(it.content.size()),
            text.to_owned(),
        ]);
        if outcome != Outcome::Skipped {
            let packages = to_index.entry(it.package.subdir.clone()).or_default();
            packages.push(it.package);
        }
    }
    if args.index {
        for (subdir, packages) in &to_index {
            add_packages(&engine, &outlet, subdir, packages, work).await?;
        }
        // Clients expect it in every channel.
        if !to_index.is_empty() && !to_index.contains_key("noarch") {
            add_packages(&engine, &outlet, "noarch", &[], work).await?;
        }
    }
    if rows.len() > 1 {
        printer.data(&table(&rows, &[1, 3]));
    }
    match failure {
        Some(error) => Err(error),
        None if !args.index => {
            printer.say("The index is unchanged: use --index, or `taipan index`.");
            Ok(Exit::Done)
        }
        None => Ok(Exit::Done),
    }
}

fn show(printer: &Printer, it: &Sound, outcome: &str) {
    #[derive(Serialize)]
    struct Uploaded<'a> {
        file: &'a Path,
        path: String,
        outcome: &'a str,
        bytes: u64,
        sha256: Option<String>,
    }
    let NewPackage { subdir, file, .. } = &it.package;
    printer.object(
        "uploaded",
        &Uploaded {
            file: &it.path,
            path: format!("{subdir}/{file}"),
            outcome,
            bytes: it.content.size(),
            sha256: it.package.expected.sha256.map(|it| it.to_string()),
        },
    );
}

/// Opens an archive and compares what it says with its name and its files.
async fn open(
    path: &Path,
    args: &UploadArgs,
    interrupt: &Interrupt,
    work: &Path,
    outlet: &Outlet,
) -> Result<Sound, AppError> {
    let (archive, directory) = (path.to_owned(), work.to_owned());
    let cancel = CancelFlag::from(Arc::clone(interrupt.flag()));
    let inspected = tokio::task::spawn_blocking(move || inspect(&archive, &directory, &cancel));
    let inspected = match inspected.await {
        Ok(inspected) => inspected?,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let read = |error| AppError::ReadFile {
        path: path.to_owned(),
        source: std::io::Error::other(error),
    };
    let content = Content::file(path).await.map_err(read)?;
    let (sha256, md5) = content.digests().await.map_err(read)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let package = new_package(
        &file,
        &inspected.index,
        inspected.run_exports.as_deref(),
        (sha256, md5, content.size()),
        args.subdir.as_deref(),
    );
    let package = package.map_err(|problem| AppError::Record {
        path: path.to_owned(),
        problem,
    })?;
    if outlet.is_registry()
        && let (_, Err(source)) = package_file(&package.subdir, &package.file)
    {
        let file = package.file;
        return Err(AppError::Layout { file, source });
    }
    Ok(Sound {
        path: path.to_owned(),
        package,
        content,
    })
}

/// Sends a package, unless it is there.
async fn send(
    engine: &Engine,
    outlet: &Outlet,
    it: &Sound,
    args: &UploadArgs,
) -> Result<Outcome, AppError> {
    let NewPackage {
        subdir,
        file,
        expected,
        ..
    } = &it.package;
    let (target, _) = package_file(subdir, file);
    let held = engine.look(outlet, &target, expected).await?;
    let is_taken = held.is_some();
    match held {
        Some(held) if held.is(expected) => return Ok(Outcome::Found),
        Some(_) if args.skip_existing => return Ok(Outcome::Skipped),
        Some(_) if !args.force => {
            return Err(AppError::Exists {
                path: format!("{subdir}/{file}"),
                place: outlet.location().to_string(),
            });
        }
        _ => {}
    }
    let Expected { sha256, md5, .. } = *expected;
    let sha256 = sha256.expect("the digests were made before");
    let mut new = NewFile::known(target.clone(), it.content.clone(), sha256, md5);
    new = new.with_headers("application/octet-stream", Some(IMMUTABLE));
    if let Some(md5) = md5 {
        new.annotations = vec![
            ("org.opencontainers.image.title".to_owned(), file.clone()),
            ("org.conda.md5".to_owned(), md5.to_string()),
        ];
    }
    if !is_taken && !args.force && engine.honours_conditions(outlet).await? {
        new = new.with_condition(Condition::Absent);
    }
    // The other archive format of the same build is a layer of the same manifest.
    let options = PutOptions {
        keeps_other_layers: true,
    };
    let label = format!("{subdir}/{file}");
    match engine.put(outlet, &label, &[new], options).await {
        Ok(_) => Ok(Outcome::Sent),
        // Another program was quicker, or a first attempt of ours had its effect and its response was lost.
        Err(error) if error.is_conflict() => {
            let held = engine.look(outlet, &target, expected).await?;
            if held.is_some_and(|held| held.is(expected)) {
                return Ok(Outcome::Sent);
            }
            Err(AppError::Exists {
                path: label,
                place: outlet.location().to_string(),
            })
        }
        Err(error) => Err(error.into()),
    }
}
