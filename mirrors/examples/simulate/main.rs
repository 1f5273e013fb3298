//! Compares ways to choose mirrors, on models of mirrors and clients.
//!
//! ```sh
//! cargo run --release -p taipan-mirrors --example simulate -- --seeds 100 --html page.html
//! ```
//!
//! Every run is a function of the scenario, the policy and the seed.

mod clairvoyant;
mod client;
mod draw;
mod engine;
mod flow;
mod page;
mod policy;
mod scenario;
mod table;
mod world;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::{Outcome, simulate};
use crate::policy::Name;
use crate::scenario::Scenario;
use crate::table::{Row, summarise};

const USAGE: &str =
    "usage: simulate [--scenario FILE]... [--policy NAME]... [--seeds N] [--first-seed N]
                [--threads N] [--json] [--html FILE]

Without --scenario, all of mirrors/scenarios. Policies: clairvoyant, taipan, first, ratio,
connect, random, round-robin; the clairvoyant is always among them.";

#[derive(Debug)]
struct Options {
    scenarios: Vec<PathBuf>,
    policies: Vec<Name>,
    seeds: u64,
    first_seed: u64,
    threads: usize,
    json: bool,
    html: Option<PathBuf>,
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        scenarios: Vec::new(),
        policies: Vec::new(),
        seeds: 20,
        first_seed: 0,
        threads: 1,
        json: false,
        html: None,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        let number = |text: String| text.parse().map_err(|_| format!("not a number: {text}"));
        match arg.as_str() {
            "--scenario" => options.scenarios.push(value()?.into()),
            "--policy" => {
                let text = value()?;
                let name = Name::ALL.into_iter().find(|name| name.text() == text);
                options
                    .policies
                    .push(name.ok_or(format!("no such policy: {text}"))?);
            }
            "--seeds" => options.seeds = number(value()?)?,
            "--first-seed" => options.first_seed = number(value()?)?,
            "--threads" => {
                options.threads = usize::try_from(number(value()?)?).unwrap_or(1).clamp(1, 64);
            }
            "--json" => options.json = true,
            "--html" => options.html = Some(value()?.into()),
            _ => return Err(format!("{USAGE}\n\nnot understood: {arg}")),
        }
    }
    if options.seeds == 0 {
        return Err("at least one seed is wanted".to_owned());
    }
    if options.policies.is_empty() {
        options.policies = Name::ALL.to_vec();
    } else if !options.policies.contains(&Name::Clairvoyant) {
        options.policies.insert(0, Name::Clairvoyant);
    }
    if options.scenarios.is_empty() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let entries =
            std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        options.scenarios = entries.flatten().map(|entry| entry.path()).collect();
        options
            .scenarios
            .retain(|path| path.extension().is_some_and(|e| e == "toml"));
        options.scenarios.sort();
    }
    Ok(options)
}

/// The outcomes of all seeds, in the order of the seeds.
fn run(scenario: &Scenario, name: Name, options: &Options) -> Vec<Outcome> {
    let count = usize::try_from(options.seeds).unwrap_or(usize::MAX);
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![Outcome::default(); count]);
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let outcome = simulate(scenario, name, options.first_seed + index as u64);
                    outcomes.lock().expect("no panic among the runs")[index] = outcome;
                }
            });
        }
    });
    outcomes.into_inner().expect("no panic among the runs")
}

fn simulate_all(options: &Options) -> Result<(), String> {
    let mut out = io::stdout();
    let mut say = |text: String| writeln!(out, "{text}").map_err(|e| e.to_string());
    let mut rows: Vec<(Scenario, Vec<Row>)> = Vec::new();
    for path in &options.scenarios {
        let scenario = Scenario::read(path)?;
        let mut of_this: Vec<Row> = Vec::new();
        for &name in &options.policies {
            let row = summarise(
                &scenario,
                name,
                &run(&scenario, name, options),
                of_this.first(),
            );
            if options.json {
                say(row.to_json())?;
            }
            of_this.push(row);
        }
        if !options.json {
            say(table::render(&scenario, &of_this))?;
        }
        rows.push((scenario, of_this));
    }
    if !options.json {
        say(table::verdict(&rows))?;
    }
    if let Some(path) = &options.html {
        let text = page::render(&rows, options.seeds);
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match options(std::env::args().skip(1)).and_then(|options| simulate_all(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nothing more can be done when even this cannot be said.
            let _ = writeln!(io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}
