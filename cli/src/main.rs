//! The `taipan` binary: settings, commands, output. It must not contain what the libraries are for:
//! choosing mirrors, transfers, channels, environments.

#![allow(
    rustdoc::bare_urls,
    reason = "doc comments of arguments are help texts"
)]

mod amounts;
mod args;
mod auth;
mod commands;
mod condarc;
mod context;
mod destinations;
mod environment;
mod error;
mod error_chain;
mod error_report;
mod exit;
mod fetch_argument;
mod file_url;
mod http;
mod interrupt;
mod list_location;
mod mirror_lists;
mod network;
mod printer;
mod progress;
mod rate_limit;
mod settings;
mod stdout_sink;
mod sync_progress;

use std::{io::IsTerminal as _, path::Path, process::ExitCode, sync::Arc, time::Duration};

use clap::{
    CommandFactory as _, Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, MirrorCommand};
use environment::Environment;
use error::AppError;
use exit::Exit;
use interrupt::Interrupt;
use printer::{Mode, Printer};
use settings::{Given, Settings};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = without_misleading_tips(error);
            // Help and version are errors of clap, too. A failed write cannot be reported.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
                _ => Exit::Usage,
            }
            .into();
        }
    };
    let mode = match (cli.global.json, cli.global.quiet) {
        (true, _) => Mode::Json,
        (false, true) => Mode::Quiet,
        (false, false) => Mode::Text,
    };
    log_to_stderr(cli.global.verbose);
    let printer = Arc::new(Printer::new(mode, cli.global.verbose > 0));
    let exit = match run(&cli, &printer) {
        Ok(exit) => exit,
        // The reader has closed the pipe, as in `taipan list | head`.
        Err(_) if printer.is_closed() => Exit::Done,
        Err(error) => {
            error.print(&printer);
            error.exit()
        }
    };
    exit.into()
}

/// clap suggests `demo` for `remove`. A suggestion is kept if it is one slip of a finger away.
fn without_misleading_tips(mut error: clap::Error) -> clap::Error {
    let (Some(ContextValue::String(typed)), Some(suggested)) = (
        error.get(ContextKind::InvalidSubcommand),
        error.get(ContextKind::SuggestedSubcommand),
    ) else {
        return error;
    };
    let suggested = match suggested {
        ContextValue::String(name) => vec![name.clone()],
        ContextValue::Strings(names) => names.clone(),
        _ => return error,
    };
    let is_near = |name: &String| strsim::damerau_levenshtein(name, typed) <= 1;
    let near: Vec<String> = suggested.into_iter().filter(is_near).collect();
    error.remove(ContextKind::SuggestedSubcommand);
    if !near.is_empty() {
        error.insert(
            ContextKind::SuggestedSubcommand,
            ContextValue::Strings(near),
        );
    }
    error
}

fn run(cli: &Cli, printer: &Arc<Printer>) -> Result<Exit, AppError> {
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "taipan", &mut script);
        printer.data(String::from_utf8_lossy(&script).trim_end());
        return Ok(Exit::Done);
    }
    if let Command::Auth(command) = &cli.command {
        return commands::auth::run(printer, command);
    }
    let given = Given::of(&cli.command);
    let settings = Settings::resolve(&cli.global, given, &Environment::current())?;
    if !matches!(cli.command, Command::List(_) | Command::Zck(_)) {
        settings.warnings.iter().for_each(|it| printer.warn(it));
    }
    // Two worker threads suffice for thousands of connections; extraction, hashing and linking have
    // their own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(AppError::Runtime)?;
    let interrupt = Interrupt::new();
    let result = runtime.block_on(async {
        interrupt.listen();
        match &cli.command {
            Command::Create(args) => {
                commands::install::run(&settings, printer, args, true, &interrupt).await
            }
            Command::Install(args) => {
                commands::install::run(&settings, printer, args, false, &interrupt).await
            }
            Command::List(args) => commands::list::run(&settings, printer, args),
            Command::Info(args) => commands::info::run(&settings, printer, args),
            Command::Fetch(args) => {
                commands::fetch::run(&settings, printer, args, &interrupt).await
            }
            Command::Mirror(MirrorCommand::List { source }) => {
                commands::mirror_list::run(&settings, printer, source, &interrupt).await
            }
            Command::Mirror(MirrorCommand::Probe(args)) => {
                commands::mirror_probe::run(&settings, printer, args, &interrupt).await
            }
            Command::Mirror(MirrorCommand::Sync(args)) if args.sync_file.is_some() => {
                Box::pin(sync_all(cli, args, printer, &interrupt)).await
            }
            Command::Mirror(MirrorCommand::Sync(args)) => {
                Box::pin(commands::mirror_sync::run(
                    &settings, printer, args, &interrupt,
                ))
                .await
            }
            Command::Mirror(MirrorCommand::Verify(args)) => {
                Box::pin(commands::mirror_status::verify(
                    &settings, printer, args, &interrupt,
                ))
                .await
            }
            Command::Mirror(MirrorCommand::Status(args)) => {
                Box::pin(commands::mirror_status::run(
                    &settings, printer, args, &interrupt,
                ))
                .await
            }
            Command::Upload(args) => {
                Box::pin(commands::upload::run(&settings, printer, args, &interrupt)).await
            }
            Command::Index(args) => {
                Box::pin(commands::index::run(&settings, printer, args, &interrupt)).await
            }
            #[cfg(feature = "demo")]
            Command::Demo(args) => commands::demo::run(printer, args, &interrupt).await,
            Command::Zck(command) => commands::zck::run(printer, command),
            Command::Auth(_) | Command::Completion { .. } => Ok(Exit::Done),
        }
    });
    // Blocking work gets time to notice its cancellation and to remove temporary files. Work that
    // waits for another process may not notice.
    runtime.shutdown_timeout(Duration::from_secs(10));
    result
}

/// Carries out the syncs of a file. One that fails does not keep the others.
async fn sync_all(
    cli: &Cli,
    args: &args::SyncArgs,
    printer: &Arc<Printer>,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let file = args.sync_file.as_deref().unwrap_or(Path::new(""));
    let mut exits = Vec::new();
    for args in args::sync_file::read(file)? {
        printer.say(&format!("{}:", args.source));
        let command = Command::Mirror(MirrorCommand::Sync(Box::new(args)));
        let settings =
            Settings::resolve(&cli.global, Given::of(&command), &Environment::current())?;
        let Command::Mirror(MirrorCommand::Sync(args)) = &command else {
            continue;
        };
        let sync = commands::mirror_sync::run(&settings, printer, args, interrupt);
        match Box::pin(sync).await {
            Ok(exit) => exits.push(exit),
            Err(error @ AppError::Interrupted) => return Err(error),
            Err(error) => {
                error.print(printer);
                exits.push(error.exit());
            }
        }
    }
    Ok(Exit::worst(exits))
}

/// Starts the log: `-vv`, or for example `TAIPAN_LOG=taipan_transfer=debug`.
fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 | 1 => "error",
        // A target is matched by how it begins, so this means all of our crates.
        2 => "taipan=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("TAIPAN_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
