//! `taipan fetch`.

mod addressed_sets;
mod digests;
mod download;
mod file;
mod metalink;
mod naming;
mod output;
mod report;

use std::{path::Path, str::FromStr, sync::Arc};

use taipan_transfer::{Expected, ParseDigestError};

use crate::{
    args::FetchArgs,
    context::{ChannelSelection, Context},
    error::AppError,
    exit::Exit,
    fetch_argument::FetchArgument,
    interrupt::Interrupt,
    printer::Printer,
    settings::Settings,
};
use digests::look_up_digests;
use download::Downloader;
use file::RequestedFile;
use naming::Resolver;
use report::Report;

/// Fetches files and reports the result of each and what each mirror sent.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &FetchArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    if is_stdout(args) && printer.is_json() {
        return Err(AppError::JsonOnStdout);
    }
    let expected = parse_digests(args)?;
    if args.insecure {
        printer.warn("certificates of servers are not checked (--insecure)");
    }
    let arguments = parse_arguments(args)?;
    let wanted = ChannelSelection::AndListed(naming::channels_of(&arguments, args, settings));
    let context = interrupt.or(Context::new(settings, wanted, printer)).await;
    let context = context.ok_or(AppError::Interrupted)??;
    let mut resolver = Resolver::new(settings, printer, args, &context);
    let work = fetch(&mut resolver, arguments, expected);
    let result = interrupt.or(work).await;
    // Also after an interruption: the measurements remain valid.
    context.save_with(&resolver.mirror_sets());
    result.ok_or(AppError::Interrupted)?
}

async fn fetch(
    resolver: &mut Resolver<'_>,
    arguments: Vec<FetchArgument>,
    expected: Expected,
) -> Result<Exit, AppError> {
    let Resolver {
        settings,
        printer,
        args,
        context,
        ..
    } = *resolver;
    let mut files = resolver.resolve(arguments).await?;
    expect_single_file(args, files.len())?;
    if let (Some(file), true) = (files.first_mut(), expected.is_content_addressed()) {
        file.job.expected = Expected {
            size: file.job.expected.size,
            ..expected
        };
    }
    if !is_stdout(args) {
        output::assign(&mut files, args)?;
    }
    resolver.add_duplicates(&mut files).await;
    if !args.no_repodata {
        look_up_digests(&mut files, settings, printer, context).await;
    }
    report_unverified(printer, &files);
    let downloader = Downloader::new(printer, context, &args.delta_from);
    let outcomes = downloader.fetch_all(&files).await;
    let report = Report::new(printer, context, resolver.mirror_sets());
    Ok(report.show(&files, &outcomes))
}

fn is_stdout(args: &FetchArgs) -> bool {
    args.output.as_deref() == Some(Path::new("-"))
}

/// The digests of the command line.
fn parse_digests(args: &FetchArgs) -> Result<Expected, AppError> {
    fn parse<T: FromStr<Err = ParseDigestError>>(
        option: &'static str,
        text: Option<&str>,
    ) -> Result<Option<T>, AppError> {
        let digest = text.map(str::parse).transpose();
        digest.map_err(|source| AppError::Digest { option, source })
    }
    Ok(Expected {
        sha256: parse("--sha256", args.sha256.as_deref())?,
        sha512: parse("--sha512", args.sha512.as_deref())?,
        md5: parse("--md5", args.md5.as_deref())?,
        ..Expected::default()
    })
}

fn parse_arguments(args: &FetchArgs) -> Result<Vec<FetchArgument>, AppError> {
    let in_channel = !args.source.channels.is_empty();
    let parse = |text: &String| FetchArgument::parse(text, args.metalink, in_channel);
    Ok(args
        .arguments
        .iter()
        .map(parse)
        .collect::<Result<Vec<_>, _>>()?)
}

/// Refuses options for a single file when there are several.
fn expect_single_file(args: &FetchArgs, count: usize) -> Result<(), AppError> {
    let option = match args {
        FetchArgs {
            sha256: Some(_), ..
        } => "--sha256",
        FetchArgs {
            sha512: Some(_), ..
        } => "--sha512",
        FetchArgs { md5: Some(_), .. } => "--md5",
        FetchArgs {
            output: Some(_), ..
        } => "--output",
        _ => return Ok(()),
    };
    if count == 1 {
        return Ok(());
    }
    Err(AppError::OneFile { option, count })
}

fn report_unverified(printer: &Printer, files: &[RequestedFile]) {
    for RequestedFile { job, .. } in files {
        if !job.expected.is_content_addressed() {
            let label = &job.label;
            printer.detail(&format!("  {label}: not verified: no digest is known"));
        }
    }
}
