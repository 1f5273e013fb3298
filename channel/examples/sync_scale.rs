//! How a sync behaves with a very large channel: a subdir of N small artifacts, whose source and destination are in this process
//! and cost nothing.
//!
//! Prints the time of the plan, of the whole first run per artifact, of a run with an unchanged index (by validators, and by its
//! text), and the peak memory. usage: `sync_scale [N]`

#![expect(clippy::print_stdout, reason = "its results")]

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use taipan_channel::{
    Channel, Filter, MirroredChannel, SyncEvent, SyncObserver, SyncOptions, sync_subdir,
};
use taipan_mirrors::{Location, Mirror, Provenance, SelectorConfig};
use taipan_transfer::{
    Backend, BackendError, Content, Deletion, Destination, Engine, EngineOptions, Expected,
    GetRequest, GetResponse, Held, HttpClient, HttpOptions, Listing, MirrorSet, NewFile, Outlet,
    OutletOptions, PutOptions, Sending, Sha256, Silent, Stored, Target, Validators,
};

/// The bytes of an artifact: its name.
fn artifact(name: &str) -> Bytes {
    Bytes::from(format!("artifact {name}"))
}

fn index(count: usize) -> String {
    let mut text = String::with_capacity(count * 320);
    text.push_str("{\"info\":{\"subdir\":\"noarch\"},\"packages\":{},\"packages.conda\":{");
    for number in 0..count {
        let name = format!(
            "package-{:06}-1.{}.0-pyh{:07}_0.conda",
            number / 8,
            number % 8,
            number
        );
        let bytes = artifact(&name);
        let comma = if number > 0 { "," } else { "" };
        write!(
            text,
            "{comma}\n\"{name}\":{{\"build\":\"pyh{number:07}_0\",\"build_number\":0,\"depends\":[\"python >=3.9\",\
             \"numpy >=1.21,<3\"],\"license\":\"BSD-3-Clause\",\"name\":\"package-{:06}\",\"noarch\":\"python\",\
             \"sha256\":\"{}\",\"size\":{},\"subdir\":\"noarch\",\"timestamp\":1700000000000,\
             \"version\":\"1.{}.0\"}}",
            number / 8,
            Sha256::of(&bytes),
            bytes.len(),
            number % 8
        )
        .expect("a String takes all that is written");
    }
    text.push_str("}}\n");
    text
}

/// A source whose artifacts are made when they are asked for.
#[derive(Debug)]
struct Source {
    index: Bytes,
    /// Whether it confirms validators.
    confirms: bool,
}

fn response(bytes: Bytes, etag: &str) -> GetResponse {
    let total = Some(bytes.len() as u64);
    GetResponse::Body {
        start: 0,
        end: None,
        total,
        validators: Validators {
            etag: Some(etag.to_owned()),
            last_modified: None,
        },
        duplicates: None,
        body: stream::iter([Ok(bytes)]).boxed(),
    }
}

#[async_trait]
impl Backend for Source {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let path = &request.target.path;
        if path == "noarch/repodata.json.zst" {
            if self.confirms && request.validators.is_some() {
                return Ok(GetResponse::NotModified);
            }
            return Ok(response(self.index.clone(), "\"index\""));
        }
        match path.strip_prefix("noarch/") {
            Some(name) if name.ends_with(".conda") => Ok(response(artifact(name), "\"a\"")),
            _ => Err(BackendError::NotFound { url: path.clone() }),
        }
    }

    fn has_multi_range(&self) -> bool {
        false
    }

    fn describe(&self, target: &Target) -> String {
        format!("https://source.invalid/{}", target.path)
    }
}

/// A destination that keeps indexes and states, and counts artifacts.
#[derive(Debug, Default)]
struct Sink {
    files: Mutex<HashMap<String, Bytes>>,
    artifacts: AtomicUsize,
}

#[async_trait]
impl Backend for Sink {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let path = &request.target.path;
        let files = self.files.lock().expect("no thread has panicked");
        match files.get(path) {
            Some(bytes) => Ok(response(bytes.clone(), "\"f\"")),
            None => Err(BackendError::NotFound { url: path.clone() }),
        }
    }

    fn has_multi_range(&self) -> bool {
        false
    }

    fn describe(&self, target: &Target) -> String {
        format!("sink:{}", target.path)
    }
}

#[async_trait]
impl Destination for Sink {
    async fn look(&self, target: &Target, _: &Expected) -> Result<Option<Held>, BackendError> {
        let files = self.files.lock().expect("no thread has panicked");
        Ok(files.get(&target.path).map(|_| Held::default()))
    }

    async fn put(
        &self,
        files: &[NewFile],
        _: PutOptions,
        _: &Arc<Sending>,
    ) -> Result<Vec<Stored>, BackendError> {
        for file in files {
            if file.target.path.ends_with(".conda") {
                self.artifacts.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let bytes = match &file.content {
                Content::Bytes(bytes) => bytes.clone(),
                Content::File { path, .. } => std::fs::read(path)
                    .map_err(|source| BackendError::Read {
                        path: path.clone(),
                        source,
                    })?
                    .into(),
            };
            // The uncompressed form is not read again.
            if !file.target.path.ends_with("repodata.json") {
                let mut files = self.files.lock().expect("no thread has panicked");
                files.insert(file.target.path.clone(), bytes);
            }
        }
        Ok(vec![Stored::default(); files.len()])
    }

    async fn delete(&self, targets: &[Target]) -> Result<Vec<Deletion>, BackendError> {
        let mut files = self.files.lock().expect("no thread has panicked");
        for target in targets {
            files.remove(&target.path);
        }
        Ok(vec![Deletion::Done; targets.len()])
    }

    async fn list(&self, _: &str, _: Option<&str>) -> Result<Option<Listing>, BackendError> {
        Ok(None)
    }

    async fn tags(&self, _: &str) -> Result<Option<Vec<String>>, BackendError> {
        Ok(None)
    }

    async fn honours_conditions(&self) -> Result<bool, BackendError> {
        Ok(false)
    }

    async fn sweep(&self, _: Duration) -> Result<usize, BackendError> {
        Ok(0)
    }

    fn describe(&self, target: &Target) -> String {
        Backend::describe(self, target)
    }
}

/// When the plan was made.
#[derive(Default)]
struct Planned(Mutex<Option<Instant>>);

impl SyncObserver for Planned {
    fn event(&self, event: &SyncEvent<'_>) {
        if let SyncEvent::Planned { .. } = event {
            *self.0.lock().expect("no thread has panicked") = Some(Instant::now());
        }
    }
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or("VmHWM: unknown").replace(['\t', ' '], "")
}

/// Forgets the peak so far.
fn reset_peak() {
    // Without the permission the peak includes what was before.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = std::env::args()
        .nth(1)
        .map_or(Ok(500_000), |text| text.parse())?;
    let text = index(count);
    let length = text.len();
    let compressed = Bytes::from(zstd::encode_all(text.as_bytes(), 3)?);
    drop(text);
    println!("{count} artifacts, index of {} MB", length / 1_000_000);
    let work = tempfile::tempdir()?;
    let engine = Engine::new(EngineOptions::default(), Arc::new(Silent));
    let client = HttpClient::new(&HttpOptions::default())?;
    let sink = Arc::new(Sink::default());
    let place = Location::parse("file:///sink")?;
    let options = OutletOptions::default();
    let outlet = Outlet::with_parts(
        place,
        &options,
        Arc::clone(&sink) as _,
        Arc::clone(&sink) as _,
    );
    let alias = "https://source.invalid".parse()?;
    for (what, confirms) in [("first run", true), ("304", true), ("same text", false)] {
        let source = Source {
            index: compressed.clone(),
            confirms,
        };
        let mirror = Mirror::new(
            Location::parse("https://source.invalid")?,
            Provenance::Upstream,
        );
        let backends: Vec<Arc<dyn Backend>> = vec![Arc::new(source)];
        let config = SelectorConfig::default();
        let channel = MirroredChannel {
            channel: Channel::parse("https://source.invalid", &alias, work.path())?,
            mirrors: MirrorSet::with_backends(vec![mirror], backends, config),
        };
        let planned = Arc::new(Planned::default());
        reset_peak();
        let began = Instant::now();
        let options = SyncOptions::new(work.path());
        let report = sync_subdir(
            &engine,
            &client,
            &channel,
            "noarch",
            std::slice::from_ref(&outlet),
            &Filter::all(),
            &options,
            Arc::clone(&planned) as _,
        )
        .await?;
        let took = began.elapsed();
        let plan = planned
            .0
            .lock()
            .expect("no thread has panicked")
            .map(|at| at - began);
        let sent = report.destinations[0].sent;
        println!(
            "{what}: {:?}, {:.2} s in all, plan {:.2} s, {sent} sent, {:.1} µs per artifact, {}",
            report.destinations[0].outcome,
            took.as_secs_f64(),
            plan.unwrap_or_default().as_secs_f64(),
            took.as_secs_f64() * 1e6 / f64::from(u32::try_from(sent.max(1))?),
            peak_memory()
        );
    }
    assert_eq!(sink.artifacts.load(Ordering::Relaxed), count);
    Ok(())
}
