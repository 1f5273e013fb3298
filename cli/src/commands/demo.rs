//! `taipan demo`: creates environments from embedded mirrors, without network.

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

/// The URL of the channel. It has no server: only the mirrors have its files.
const CHANNEL: &str = "https://demo.taipan.invalid/channel";

/// The installed packages: a program, its data, and one package of each kind.
const SPECS: [&str; 4] = ["taipan-demo", "demo-corpus", "demo-lib", "demo-legacy"];

/// Starts the mirrors and runs this program against them as a user would.
#[expect(
    clippy::too_many_lines,
    reason = "the steps of the demo, in their order"
)]
pub(crate) async fn run(
    printer: &Printer,
    args: &DemoArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let failed = |action| move |source| AppError::Demo { action, source };
    let temporary = tempfile::tempdir().map_err(failed("create a temporary directory"))?;
    let work = temporary.path();
    let prefix = match &args.keep {
        Some(path) => path.clone(),
        None => work.join("environment"),
    };
    let fleet = Fleet::demo().await.map_err(failed("start the mirrors"))?;
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
        std::fs::write(&path, text).map_err(failed("write a mirrors file"))?;
        Ok(path)
    };
    let mirrors = write("mirrors.toml", fleet.mirrors_toml(CHANNEL))?;
    // The failing mirrors have the highest priority, so that they are used.
    let worst = [
        ("corrupt", 0),
        ("dead", 0),
        ("oci", 1),
        ("s3", 1),
        ("slow", 2),
    ];
    let worst = write("worst-first.toml", fleet.some_mirrors_toml(CHANNEL, &worst))?;

    let copies = write("copies.toml", fleet.copies_toml(CHANNEL))?;
    write("config.json", fleet.docker_config())?;
    let endpoint = fleet.s3_endpoint().unwrap_or_default();
    let mut sync: Vec<PathBuf> = ["mirror", "sync", CHANNEL].map(PathBuf::from).into();
    sync.extend(fleet.copies().iter().map(|copy| PathBuf::from(copy.url())));
    let options = [
        "--subdir",
        "noarch",
        "--subdir",
        "linux-64",
        "--s3-endpoint",
        &endpoint,
    ];
    sync.extend(options.map(PathBuf::from));
    sync.push("--mirrors".into());
    sync.push(mirrors.clone());

    let program = std::env::current_exe().map_err(failed("find its own program"))?;
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
            "\nAgain, with an empty cache and only failing mirrors at the highest priority: files that \
             are missing or corrupt there come from the registry and the bucket.",
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
        .await?;

        printer.say(
            "\nThe channel is copied to a new place in the bucket and in the registry. Each package is \
             read once for both.",
        );
        step(printer, &program, &sync, work, "cache-3", &fleet).await?;
        printer.say("\nAn environment from these copies alone:");
        let third = work.join("third");
        let from_copies = create(&third, &copies);
        step(printer, &program, &from_copies, work, "cache-4", &fleet).await?;
        let demo = third.join("bin/taipan-demo");
        step(printer, &demo, &[], work, "cache-4", &fleet).await
    };
    let result = interrupt.or(steps).await.ok_or(AppError::Interrupted)?;
    if result.is_ok() {
        printer.say("\nThe requests that the mirrors received:");
        printer.say(&received(&fleet));
        if args.keep.is_some() {
            printer.say(&format!("\nThe environment is at {}.", prefix.display()));
        }
    }
    fleet.shutdown().await;
    result.map(|()| Exit::Done)
}

/// Runs one command on the standard streams of this process.
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
        // The demo has its own cache and configuration.
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
    let status = status.map_err(|source| AppError::Demo {
        action: "run a program",
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    Err(AppError::DemoStep {
        program: name.into_owned(),
        status,
    })
}

/// The requests as the servers recorded them.
fn received(fleet: &Fleet) -> String {
    let head = ["mirror", "requests", "sent", "responses"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for mirror in fleet.mirrors() {
        let requests = mirror.requests();
        let sent: u64 = requests.iter().map(|request| request.bytes_sent).sum();
        let mut responses = std::collections::BTreeMap::<String, usize>::new();
        for request in &requests {
            let status = request
                .status
                .map_or_else(|| "none".to_owned(), |s| s.to_string());
            *responses.entry(status).or_default() += 1;
        }
        let responses: Vec<String> = responses
            .iter()
            .map(|(status, count)| format!("{count} × {status}"))
            .collect();
        let responses = match mirror.server() {
            Some(_) => responses.join(", "),
            None => "connections refused".to_owned(),
        };
        rows.push(vec![
            mirror.name.to_owned(),
            requests.len().to_string(),
            bytes(sent),
            responses,
        ]);
    }
    table(&rows, &[3])
}
