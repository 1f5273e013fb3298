//! The `taipan` binary: settings, commands, output. Everything it does is done by the libraries.

mod args;
mod commands;
mod context;
mod error;
mod exact_backend;
mod exit;
mod fetch_target;
mod freshness;
mod http;
mod interrupt;
mod mirror_lists;
mod network;
mod printer;
mod prober;
mod progress;
mod settings;
mod stdout_sink;

use std::{io::IsTerminal as _, process::ExitCode, sync::Arc, time::Duration};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, MirrorCommand, ProbeArgs};
use error::AppError;
use exit::Exit;
use interrupt::Interrupt;
use printer::{Mode, Printer};
use settings::{Given, Settings, TransferChoices};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way, too. There is nobody to tell when this fails.
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
        // Whoever read our output has gone, as in `taipan list | head`.
        Err(_) if printer.is_closed() => Exit::Done,
        Err(error) => {
            error.print(&printer);
            error.exit()
        }
    };
    exit.into()
}

fn run(cli: &Cli, printer: &Arc<Printer>) -> Result<Exit, AppError> {
    let given = match &cli.command {
        Command::Create(args) | Command::Install(args) => Given {
            places: Some(&args.places),
            jobs: args.jobs,
            install: Some(args),
            transfer: TransferChoices::default(),
        },
        Command::Mirror(
            MirrorCommand::List { places } | MirrorCommand::Probe(ProbeArgs { places, .. }),
        ) => Given {
            places: Some(places),
            ..Given::default()
        },
        Command::Fetch(args) => Given {
            places: Some(&args.places),
            jobs: args.jobs,
            install: None,
            transfer: TransferChoices {
                rate_limit: args.limit_rate,
                connections: args.connections.map(usize::from),
                offline: args.offline,
            },
        },
        _ => Given::default(),
    };
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "taipan", &mut script);
        printer.data(String::from_utf8_lossy(&script).trim_end());
        return Ok(Exit::Done);
    }
    let settings = Settings::resolve(&cli.global, given)?;
    // Two worker threads carry thousands of connections; unpacking, hashing and linking have
    // threads of their own.
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
            Command::List(args) => commands::list::run(printer, args),
            Command::Info(args) => commands::info::run(&settings, printer, args),
            Command::Fetch(args) => {
                commands::fetch::run(&settings, printer, args, &interrupt).await
            }
            Command::Mirror(MirrorCommand::List { places }) => {
                commands::mirror_list::run(&settings, printer, places, &interrupt).await
            }
            Command::Mirror(MirrorCommand::Probe(args)) => {
                commands::mirror_probe::run(&settings, printer, args, &interrupt).await
            }
            Command::Demo(args) => commands::demo::run(printer, args, &interrupt).await,
            Command::Zck(command) => commands::zck::run(printer, command),
            Command::Completion { .. } => Ok(Exit::Done),
        }
    });
    // Blocking work gets a moment to notice that it was cancelled, so that temporary files are
    // gone when the process is; what waits for another process may never notice.
    runtime.shutdown_timeout(Duration::from_secs(10));
    result
}

/// The log, for those who want to see every decision: `-vv`, or `TAIPAN_LOG=taipan_transfer=debug`.
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
