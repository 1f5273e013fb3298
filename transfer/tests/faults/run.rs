//! One cell: the mirrors, the fetch, and the outcome.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use bytes::Bytes;
use taipan_mirrors::{Class, SelectorConfig};
use taipan_mock_servers::{Behaviour, Script, TestCa};
use taipan_transfer::{
    Attempt, Engine, EngineOptions, Event, Expected, FetchError, Job, MirrorSet, Observer,
};

use crate::{
    cell::{Cell, Company, Phase, Protocol},
    common::{content, expected, in_order},
    fault::{self, Fault},
    place::{self, Addresses, Place},
};

/// The file to fetch, its replacement, and what is known of it.
pub(crate) struct Files {
    file: Bytes,
    next: Bytes,
    known: Expected,
}

impl Files {
    pub(crate) fn new(size: usize) -> Self {
        let file = content(size);
        Self {
            next: file.iter().map(|byte| byte.wrapping_add(1)).collect(),
            known: expected(&file),
            file,
        }
    }
}

/// The outcome of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `Ok` if the right file is there; else the class of each attempt and the variant of its error.
    pub(crate) end: Result<(), Vec<(Class, String)>>,
    /// The wasted bytes.
    pub(crate) wasted: u64,
}

/// A cell that takes longer is assumed to hang.
const CELL_TIMEOUT: Duration = Duration::from_secs(45);

static CA: LazyLock<Arc<TestCa>> = LazyLock::new(|| Arc::new(TestCa::new()));

/// The mirrors of a cell, and the observer that makes faults begin and end.
struct Stage {
    cell: Cell,
    /// The mirrors, in the order in which they are chosen.
    places: Vec<Place>,
    /// The index of the mirror with the fault.
    faulty: usize,
    /// The final path of the file.
    path: PathBuf,
    so_far: Mutex<SoFar>,
}

#[derive(Default)]
struct SoFar {
    /// How many attempts have failed.
    failures: usize,
    /// Whether bytes of the first body have arrived.
    flowing: bool,
    has_begun: bool,
    /// Violations of what holds for every cell.
    violations: Vec<String>,
}

impl Stage {
    fn alone(&self) -> bool {
        self.cell.company == Company::Alone
    }

    /// Whether the observer makes the fault, and not the script of a server.
    fn is_manual(&self) -> bool {
        self.cell.protocol == Protocol::File
            || matches!(
                self.cell.fault,
                Fault::Refused
                    | Fault::NoName
                    | Fault::BadCertificate
                    | Fault::Replaced
                    | Fault::HalfSynced
            )
    }

    /// Whether the first body breaks off in the middle, before the fault begins.
    fn breaks_off(&self) -> bool {
        match self.cell.phase {
            Phase::First => false,
            Phase::Middle => !self.cell.fault.is_of_body(),
            Phase::Resumed => true,
        }
    }

    fn begin_fault(&self, so_far: &mut SoFar) {
        if self.is_manual() && !std::mem::replace(&mut so_far.has_begun, true) {
            self.places[self.faulty].begin_fault();
        }
    }
}

impl Observer for Stage {
    fn event(&self, event: &Event<'_>) {
        let mut so_far = self.so_far.lock().unwrap();
        // Before the fetch is done, the final name does not exist.
        if !matches!(event, Event::Done { .. }) && self.path.exists() {
            so_far
                .violations
                .push(format!("the final name exists at {event:?}"));
        }
        let breaks_off = self.breaks_off();
        // A file on disk can be truncated within a body only after that has begun.
        let in_body = self.cell.protocol == Protocol::File && self.cell.fault == Fault::Truncated;
        match event {
            Event::Progress { .. } => {
                let first = !std::mem::replace(&mut so_far.flowing, true);
                if first && breaks_off {
                    self.places[0].break_off();
                } else if first || (in_body && so_far.failures == 1) {
                    self.begin_fault(&mut so_far);
                }
            }
            Event::AttemptFailed { .. } => {
                so_far.failures += 1;
                match so_far.failures {
                    1 if breaks_off => {
                        self.places[0].mend();
                        if !in_body {
                            self.begin_fault(&mut so_far);
                        }
                    }
                    2 if self.cell.phase == Phase::Resumed && self.alone() => {
                        self.places[0].end_fault();
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

fn variant(attempt: &Attempt) -> String {
    let text = format!("{:?}", attempt.error);
    let end = text.find(|c: char| !c.is_ascii_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}

/// Runs a cell. An error is an outcome that is wrong for every cell.
pub(crate) async fn run(cell: &Cell, files: &Files) -> Result<Seen, String> {
    let Files { file, next, known } = files;
    let (elsewhere, url) = place::elsewhere(file).await;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = dir.path().join("file.bin");
    let stage = Arc::new(stage(cell, files, &url, path.clone()).await);

    let (locations, backends): (Vec<_>, Vec<_>) = stage.places.iter().map(Place::backend).unzip();
    let config = SelectorConfig {
        backoff: Duration::from_millis(20),
        patience: Duration::from_millis(100),
        idle_timeout: cell.fault.idle_timeout(),
        ..SelectorConfig::default()
    };
    let set = MirrorSet::with_backends(in_order(locations), backends, config);
    let job = match cell.fault {
        Fault::Replaced => Job::metadata("the file", place::target()),
        _ => Job::content("the file", place::target(), *known),
    };
    let observer = Arc::clone(&stage) as Arc<dyn Observer>;
    let engine = Engine::new(EngineOptions::default(), observer);
    let result = tokio::time::timeout(CELL_TIMEOUT, engine.fetch_file(&set, &job, &path))
        .await
        .map_err(|_| "it hangs".to_owned())?;

    let seen = match result {
        Ok(fetched) => {
            let bytes = std::fs::read(&path).map_err(|error| format!("no file: {error}"))?;
            let replaced = cell.fault == Fault::Replaced && bytes == *next;
            if bytes != *file && !replaced {
                return Err("a wrong file was fetched".to_owned());
            }
            let reported = fetched
                .file
                .map(|(sha256, length)| (sha256.to_string(), length));
            let is = (
                taipan_transfer::Sha256::of(&bytes).to_string(),
                bytes.len() as u64,
            );
            if reported != Some(is) {
                return Err(format!("the result names another file: {reported:?}"));
            }
            if names(dir.path()) != ["file.bin"] {
                return Err(format!("files are left over: {:?}", names(dir.path())));
            }
            Seen {
                end: Ok(()),
                wasted: fetched.wasted,
            }
        }
        Err(FetchError::Exhausted { attempts, .. }) => {
            if path.exists() {
                return Err("the final name exists although the fetch failed".to_owned());
            }
            Seen {
                end: Err(attempts.iter().map(|a| (a.class, variant(a))).collect()),
                wasted: attempts.iter().map(|attempt| attempt.bytes).sum(),
            }
        }
        Err(error) => return Err(format!("another error: {error}")),
    };
    let in_flight: u32 = set.reports().iter().map(|report| report.in_flight).sum();
    if in_flight > 0 {
        return Err(format!("{in_flight} requests are still under way"));
    }
    scripts_ran(cell, &stage)?;
    for request in elsewhere.requests() {
        if request.authorization.is_some() {
            return Err("credentials were sent to another host".to_owned());
        }
    }
    let violations = std::mem::take(&mut stage.so_far.lock().unwrap().violations);
    match violations.first() {
        Some(violation) => Err(violation.clone()),
        None => Ok(seen),
    }
}

async fn stage(cell: &Cell, files: &Files, url: &str, path: PathBuf) -> Stage {
    let start = || Place::start(*cell, &CA, files.file.clone(), files.next.clone());
    let mut places = vec![start().await];
    if cell.company == Company::Second {
        places.push(start().await);
    }
    // With a second mirror, a body breaks off on the first one, and the faulty one resumes it.
    let faulty = match (cell.phase, cell.company) {
        (Phase::Resumed, Company::Second) => 1,
        _ => 0,
    };
    let script = |index: usize, place: &Place| {
        let Some(server) = place.server() else {
            return;
        };
        let at = Addresses {
            own: server.url(),
            elsewhere: url.to_owned(),
        };
        let mut rules = if index == faulty {
            cell.fault.rules(cell, &at)
        } else {
            Vec::new()
        };
        if cell.phase != Phase::First && index == 0 && rules.is_empty() {
            rules.push(fault::broken(cell));
        }
        let script = rules.into_iter().fold(Script::new(), Script::rule);
        server.set_behaviour(Behaviour::new().with_script(script));
    };
    for (index, place) in places.iter().enumerate() {
        script(index, place);
    }
    let stage = Stage {
        cell: *cell,
        places,
        faulty,
        path,
        so_far: Mutex::default(),
    };
    if cell.phase == Phase::First || faulty == 1 {
        stage.begin_fault(&mut stage.so_far.lock().unwrap());
    }
    stage
}

/// Checks that the fault happened: a cell without its fault proves nothing.
fn scripts_ran(cell: &Cell, stage: &Stage) -> Result<(), String> {
    let so_far = stage.so_far.lock().unwrap();
    for place in &stage.places {
        if let Some(server) = place.server() {
            server.verify().map_err(|error| error.to_string())?;
        }
    }
    // With a sound mirror, the faulty one need not receive another request, and the body of a segment
    // that another mirror takes over does not break off.
    if cell.phase == Phase::Middle && !stage.alone() {
        return Ok(());
    }
    if stage.is_manual() {
        let never = || "the fault did not begin".to_owned();
        return so_far.has_begun.then_some(()).ok_or_else(never);
    }
    let requests = stage.places[stage.faulty]
        .server()
        .map(taipan_mock_servers::Server::requests);
    let has_fault = requests
        .unwrap_or_default()
        .iter()
        .any(|r| r.fault.is_some());
    if has_fault {
        return Ok(());
    }
    Err("no request had the fault".to_owned())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}
