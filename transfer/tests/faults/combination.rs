//! Faults together with settings of the engine, on several mirrors.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use taipan_mirrors::{Class, Location, Mirror, Provenance, SelectorConfig};
use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, Rule, Site};
use taipan_transfer::{Engine, EngineOptions, Job, MirrorSet, Silent, Target};
use taipan_zchunk::{Boundaries, WriterOptions, write_to_vec};

use crate::common::{client, content, expected};

const NAME: &str = "file.bin";

/// A row of the document: what is combined, and the outcome.
type Row = (&'static str, &'static str);

/// Runs all combinations; an error is an outcome that must not be.
pub(crate) async fn run() -> Result<Vec<Row>, String> {
    Ok(vec![
        offline_and_corrupt().await?,
        rate_limit_and_zchunk().await?,
        throttled_and_several_ranges().await?,
    ])
}

fn set(locations: &[String]) -> MirrorSet {
    let mirror = |location: &String| {
        let location = Location::parse(location).unwrap();
        Mirror::new(location, Provenance::CommandLine)
    };
    let mirrors = locations.iter().map(mirror).collect();
    MirrorSet::new(mirrors, SelectorConfig::default(), &client())
}

fn engine(options: EngineOptions) -> Engine {
    Engine::new(options, Arc::new(Silent))
}

async fn server(path: &str, bytes: &Bytes, behaviour: Behaviour) -> HttpServer {
    let site = Site::new();
    site.insert(path, bytes.clone());
    let builder = HttpServer::builder(site).behaviour(behaviour);
    builder.start().await.unwrap()
}

fn require(holds: bool, what: &str) -> Result<(), String> {
    holds.then_some(()).ok_or_else(|| what.to_owned())
}

async fn offline_and_corrupt() -> Result<Row, String> {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(4 << 20));
    let mut wrong = bytes.to_vec();
    // A byte in each megabyte, so that every share of the mirror is wrong.
    (0..4).for_each(|megabyte| wrong[(megabyte << 20) + 1000] ^= 1);
    let local = |name: &str, bytes: &[u8]| -> String {
        let root = dir.path().join(name);
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join(NAME), bytes).unwrap();
        format!("file://{}", root.display())
    };
    let remote = server(NAME, &bytes, Behaviour::new()).await;
    let mirrors = set(&[local("wrong", &wrong), local("right", &bytes), remote.url()]);
    let engine = engine(EngineOptions {
        offline: true,
        ..EngineOptions::default()
    });
    let path = dir.path().join(NAME);
    let job = Job::content("file", Target::path(NAME), expected(&bytes));
    let fetched = engine.fetch_file(&mirrors, &job, &path).await;
    fetched.map_err(|error| format!("offline: {error}"))?;
    require(
        std::fs::read(&path).unwrap() == bytes,
        "offline: a wrong file",
    )?;
    require(
        remote.requests().is_empty(),
        "offline: a remote mirror received a request",
    )?;
    Ok((
        "offline; a local mirror with flipped bytes, a sound local mirror, a sound remote mirror",
        "ok, no request to the remote mirror",
    ))
}

/// A zchunk file, and an older one that lacks 24 of its chunks.
fn versions(dir: &Path) -> (PathBuf, Bytes) {
    let new = content(1_000_000).to_vec();
    let mut old = new.clone();
    (0..24).for_each(|place| old[place * 40_000 + 5] ^= 1);
    let pack = |bytes: &[u8]| {
        let options = WriterOptions {
            boundaries: Boundaries::Manual { max: 20_000 },
            ..WriterOptions::default()
        };
        write_to_vec(bytes, options).unwrap().0
    };
    let path = dir.join("old.zck");
    std::fs::write(&path, pack(&old)).unwrap();
    (path, pack(&new).into())
}

async fn rate_limit_and_zchunk() -> Result<Row, String> {
    const LIMIT: u64 = 500_000;
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = versions(dir.path());
    let server = server("x.zck", &new, Behaviour::new()).await;
    let engine = engine(EngineOptions {
        rate_limit: Some(LIMIT),
        ..EngineOptions::default()
    });
    let job = Job::metadata("x.zck", Target::path("x.zck"));
    let begun = Instant::now();
    let fetched = engine
        .fetch_zchunk(
            &set(&[server.url()]),
            &job,
            &[old],
            &dir.path().join("x.zck"),
        )
        .await
        .map_err(|error| format!("rate limit: {error}"))?;
    let delta = fetched.delta.ok_or("rate limit: no delta")?;
    let bytes = delta.header_bytes + delta.fetched_bytes;
    // The burst of the limiter is a tenth of a second.
    let least =
        Duration::from_millis(bytes * 1000 / LIMIT).saturating_sub(Duration::from_millis(150));
    require(
        begun.elapsed() >= least,
        "rate limit: faster than the limit",
    )?;
    Ok((
        "rate limit; new chunks of a zchunk file",
        "ok, header and chunks within the limit",
    ))
}

async fn throttled_and_several_ranges() -> Result<Row, String> {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = versions(dir.path());
    let refusal = Fault::RetryAfter {
        code: 429,
        seconds: 2,
    };
    // The header, then the request for several ranges.
    let behaviour = Behaviour::new()
        .with_rule(Rule::once(Matcher::Ranged(true), Fault::None))
        .with_rule(Rule::once(Matcher::Ranged(true), refusal));
    let server = server("x.zck", &new, behaviour).await;
    let job = Job::metadata("x.zck", Target::path("x.zck"));
    let begun = Instant::now();
    let path = dir.path().join("x.zck");
    let fetched = engine(EngineOptions::default())
        .fetch_zchunk(&set(&[server.url()]), &job, &[old], &path)
        .await
        .map_err(|error| format!("429: {error}"))?;
    require(std::fs::read(&path).unwrap() == new, "429: a wrong file")?;
    let several = server.requests()[1]
        .range()
        .is_some_and(|it| it.contains(','));
    require(several, "429: the second request is not for several ranges")?;
    let classes: Vec<Class> = fetched.attempts.iter().map(|it| it.class).collect();
    require(
        classes == [Class::Throttled],
        "429: the attempt is not listed",
    )?;
    require(
        begun.elapsed() >= Duration::from_secs(2),
        "429: Retry-After was not obeyed",
    )?;
    Ok((
        "429 with Retry-After in response to several ranges; one mirror",
        "ok, one throttled attempt, resumed after the delay",
    ))
}
