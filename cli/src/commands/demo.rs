//! `taipan demo`: the main job, on mirrors of our own, with no network.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use taipan_mock_servers::Fleet;

use crate::{
    args::DemoArgs,
    error::AppError,
    exit::Exit,
    interrupt::Interrupt,
    printer::{Printer, bytes, table},
};

/// What the channel is called. Nothing listens there: only its mirrors have its files.
const CHANNEL: &str = "https://demo.taipan.invalid/channel";

/// What is installed: a program, what it reads, and one package of each kind.
const SPECS: [&str; 4] = ["taipan-demo", "demo-corpus", "demo-lib", "demo-legacy"];

/// Starts the mirrors, and runs this very program against them as a user would.
#[expect(
    clippy::too_many_lines,
    reason = "it reads like what is shown, from top to bottom"
)]
pub(crate) async fn run(
    printer: &Printer,
    args: &DemoArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| AppError::Demo(format!("{what}: {error}"))
    };
    let temporary = tempfile::tempdir().map_err(failed("cannot make a temporary directory"))?;
    let work = temporary.path();
    let prefix = match &args.keep {
        Some(path) => path.clone(),
        None => work.join("environment"),
    };
    let fleet = Fleet::demo()
        .await
        .map_err(failed("cannot start the mirrors"))?;
    printer.say("Six mirrors of one channel run in this process:");
    let rows: Vec<Vec<String>> = fleet
        .mirrors()
        .iter()
        .map(|mirror| {
            vec![
                mirror.name.to_owned(),
                mirror.location.url(),
                mirror.description.to_owned(),
            ]
        })
        .collect();
    printer.say(&table(&rows, &[1, 2]));
    let write = |name: &str, text: String| -> Result<PathBuf, AppError> {
        let path = work.join(name);
        std::fs::write(&path, text).map_err(failed("cannot write a mirrors file"))?;
        Ok(path)
    };
    let mirrors = write("mirrors.toml", fleet.mirrors_toml(CHANNEL))?;
    // The bad ones first, so that they cannot be overlooked.
    let worst = [
        ("corrupt", 0),
        ("dead", 0),
        ("oci", 1),
        ("s3", 1),
        ("slow", 2),
    ];
    let worst = write("worst-first.toml", fleet.some_mirrors_toml(CHANNEL, &worst))?;

    let program = std::env::current_exe().map_err(failed("cannot find this program"))?;
    let steps = async {
        let create = |prefix: &Path, mirrors: &Path| -> Vec<PathBuf> {
            let mut arguments: Vec<PathBuf> = vec!["create".into(), "-p".into(), prefix.into()];
            arguments.extend(["-c", CHANNEL, "--mirrors"].map(PathBuf::from));
            arguments.push(mirrors.to_owned());
            arguments.extend(SPECS.map(PathBuf::from));
            arguments
        };
        step(
            printer,
            &program,
            &create(&prefix, &mirrors),
            work,
            "cache",
            &fleet,
        )
        .await?;
        let list = ["list".into(), "-p".into(), prefix.clone()];
        step(printer, &program, &list, work, "cache", &fleet).await?;
        step(
            printer,
            &prefix.join("bin/taipan-demo"),
            &[],
            work,
            "cache",
            &fleet,
        )
        .await?;

        printer.say(
            "\nOnce more, with an empty cache and only bad mirrors in the first place: what they \
             cannot give, or give wrong, comes from the registry and the bucket.",
        );
        let second = work.join("second");
        step(
            printer,
            &program,
            &create(&second, &worst),
            work,
            "cache-2",
            &fleet,
        )
        .await?;
        step(
            printer,
            &second.join("bin/taipan-demo"),
            &[],
            work,
            "cache-2",
            &fleet,
        )
        .await
    };
    let result = interrupt.or(steps).await.ok_or(AppError::Interrupted)?;
    if result.is_ok() {
        printer.say("\nWhat the mirrors saw:");
        printer.say(&seen(&fleet));
        if args.keep.is_some() {
            printer.say(&format!("\nThe environment is at {}.", prefix.display()));
        }
    }
    fleet.shutdown().await;
    result.map(|()| Exit::Done)
}

/// Runs one command with the streams of this one.
async fn step(
    printer: &Printer,
    program: &Path,
    arguments: &[PathBuf],
    work: &Path,
    cache: &str,
    fleet: &Fleet,
) -> Result<(), AppError> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let line: Vec<String> = arguments.iter().map(|a| a.display().to_string()).collect();
    printer.say(&format!("\n$ {name} {}", line.join(" ")));
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        // Caches and settings of its own: the demonstration leaves the user's alone.
        .env("TAIPAN_CACHE_DIR", work.join(cache))
        .env("TAIPAN_CONFIG", work.join("config.toml"))
        .env("DOCKER_CONFIG", work)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", work.join("no-aws-config"))
        .env("AWS_SHARED_CREDENTIALS_FILE", work.join("no-aws-credentials"))
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("TAIPAN_MIRRORS")
        .envs(fleet.environment())
        .kill_on_drop(true);
    let _ = std::fs::File::create(work.join("config.toml"));
    let status = command.status().await;
    let status = status.map_err(|error| AppError::Demo(format!("cannot run {name}: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(AppError::Demo(format!("{name} ended with {status}")))
    }
}

/// The servers' own view, which need not agree with what a client says of itself.
fn seen(fleet: &Fleet) -> String {
    let head = ["mirror", "requests", "sent", "answers"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for mirror in fleet.mirrors() {
        let requests = mirror.requests();
        let sent: u64 = requests.iter().map(|request| request.bytes_sent).sum();
        let mut answers = std::collections::BTreeMap::<String, usize>::new();
        for request in &requests {
            let answer = request
                .status
                .map_or_else(|| "none".to_owned(), |s| s.to_string());
            *answers.entry(answer).or_default() += 1;
        }
        let answers: Vec<String> = answers
            .iter()
            .map(|(status, count)| format!("{count} × {status}"))
            .collect();
        let answers = match mirror.server() {
            Some(_) => answers.join(", "),
            None => "connections refused".to_owned(),
        };
        rows.push(vec![
            mirror.name.to_owned(),
            requests.len().to_string(),
            bytes(sent),
            answers,
        ]);
    }
    table(&rows, &[3])
}
