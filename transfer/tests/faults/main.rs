//! The fault matrix: the outcome of each fault, by protocol and phase.
//!
//! Each cell of the matrix is a fetch of one file with real sockets through the public API, from the
//! faulty mirror alone or with a second mirror that is sound. In no cell does a wrong file have the
//! final name, and the outcome is that of `expected`. The outcomes are compared with
//! `docs/faults.md`.

#[path = "../common/mod.rs"]
mod common;

mod cell;
mod document;
mod expected;
mod fault;
mod place;
mod run;

use std::{path::Path, sync::Arc};

use cell::{Cell, Company, Phase, Protocol};
use fault::Fault;
use run::Files;
use tokio::{sync::Semaphore, task::JoinSet};

/// The sizes of the files, in bytes, each with its title. They are multiples of eight, because faults
/// begin at a quarter, a half and three quarters. Half of a file is more than one of the pieces of
/// 256 KiB in which a file is read from disk.
const SIZES: [(usize, &str); 2] = [
    (768 << 10, "768 KiB: fetched by one request"),
    (4 << 20, "4 MiB: fetched in segments"),
];

/// How many cells run at a time: of those that mostly wait for a timeout, and of others. The latter
/// are few, so that sound mirrors respond within their timeouts on a busy machine.
const AT_ONCE: (usize, usize) = (20, 6);

/// Set to rewrite the document.
const BLESS: &str = "TAIPAN_BLESS";

fn cells(size: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    for protocol in Protocol::ALL {
        for fault in Fault::ALL {
            for phase in Phase::ALL {
                for company in Company::ALL {
                    cells.push(Cell {
                        size,
                        protocol,
                        fault,
                        phase,
                        company,
                    });
                }
            }
        }
    }
    cells
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_fault_has_the_expected_outcome() {
    let (mut wrong, mut results, mut tasks) = (Vec::new(), Vec::new(), JoinSet::new());
    let waiting = Arc::new(Semaphore::new(AT_ONCE.0));
    let working = Arc::new(Semaphore::new(AT_ONCE.1));
    for (size, _) in SIZES {
        let files = Arc::new(Files::new(size));
        let mut cells = cells(size);
        // The slowest cells begin first.
        cells.sort_by_key(|cell| (cell.fault != Fault::Stalled, cell.phase));
        for cell in cells {
            if let Err(why) = expected::applicable(&cell) {
                results.push((cell, Err(why)));
                continue;
            }
            let slots = if cell.fault.is_slow() {
                &waiting
            } else {
                &working
            };
            let (slots, files) = (Arc::clone(slots), Arc::clone(&files));
            tasks.spawn(async move {
                let _slot = slots.acquire().await.expect("it is never closed");
                let seen = run::run(&cell, &files).await;
                (cell, seen)
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        let (cell, seen) = done.expect("a cell reports and does not panic");
        match seen.and_then(|seen| expected::check(&cell, &seen).map(|()| seen)) {
            Ok(seen) => results.push((cell, Ok(seen))),
            Err(why) => wrong.push(format!("{cell}: {why}")),
        }
    }
    let mut text = document::HEAD.to_owned();
    for (size, name) in SIZES {
        text.push_str(&document::tables(size, name, &results));
    }
    wrong.sort();
    assert!(
        wrong.is_empty(),
        "{} cells have another outcome than expected:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some(difference) = document::difference(&written, &text) {
        panic!(
            "docs/faults.md differs from the outcomes:\n{difference}\nIf the outcomes are right, \
             run `{BLESS}=1 cargo test -p taipan-transfer --test faults` and commit the document."
        );
    }
}
