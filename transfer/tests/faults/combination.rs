//! Faults together with settings of the engine, on several mirrors.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use taipan_mirrors::{Class, Location, Mirror, Provenance, SelectorConfig};
use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, Rule, Site};
use taipan_transfer::{Engine, EngineOptions, Fetched, Job, MirrorSet, Silent, Target};
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
        closed_kept_connections().await?,
        limited_connections().await?,
        replaced_in_place().await?,
        no_ranges_and_zchunk().await?,
        short_ranges().await?,
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

fn classes(fetched: &Fetched) -> Vec<Class> {
    fetched.attempts.iter().map(|it| it.class).collect()
}

async fn closed_kept_connections() -> Result<Row, String> {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(10_000));
    // Every other request meets a closed connection.
    let mut behaviour = Behaviour::new().with_rule(Rule::once(Matcher::Any, Fault::None));
    for _ in 0..9 {
        let closed = Fault::Reset { after: None };
        behaviour = behaviour
            .with_rule(Rule::once(Matcher::Any, closed))
            .with_rule(Rule::once(Matcher::Any, Fault::None));
    }
    let server = server(NAME, &bytes, behaviour).await;
    let (engine, mirrors) = (engine(EngineOptions::default()), set(&[server.url()]));
    for _ in 0..10 {
        let job = Job::content("file", Target::path(NAME), expected(&bytes));
        let fetched = engine
            .fetch_file(&mirrors, &job, &dir.path().join(NAME))
            .await;
        let fetched = fetched.map_err(|error| format!("kept connections: {error}"))?;
        require(
            classes(&fetched).is_empty(),
            "kept connections: an attempt failed",
        )?;
    }
    server
        .verify()
        .map_err(|_| "kept connections: too few requests")?;
    Ok((
        "the server closes each kept connection when the next request arrives on it; one mirror",
        "ok, no failed attempt: the request is sent once more",
    ))
}

async fn limited_connections() -> Result<Row, String> {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(8 << 20));
    let limit = Rule::always(Matcher::Any, Fault::Busy { most: 1 });
    let behaviour = Behaviour::new().with_rate(8 << 20).with_rule(limit);
    let server = server(NAME, &bytes, behaviour).await;
    let job = Job::content("file", Target::path(NAME), expected(&bytes));
    let path = dir.path().join(NAME);
    let fetched = engine(EngineOptions::default())
        .fetch_file(&set(&[server.url()]), &job, &path)
        .await
        .map_err(|error| format!("connection limit: {error}"))?;
    require(
        std::fs::read(&path).unwrap() == bytes,
        "connection limit: a wrong file",
    )?;
    let refused = server.requests().iter().any(|it| it.status == Some(503));
    require(refused, "connection limit: it was not reached")?;
    require(
        fetched.wasted == 0,
        "connection limit: bytes were fetched twice",
    )?;
    Ok((
        "503 beyond one request at a time; a file in segments, one mirror",
        "ok, with one connection, no bytes wasted",
    ))
}

async fn replaced_in_place() -> Result<Row, String> {
    let (dir, new) = (tempfile::tempdir().unwrap(), content(12 << 20));
    let old: Bytes = new.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into();
    let site = Site::new();
    site.insert(NAME, old);
    let behaviour = Behaviour::new().with_total_rate(6 << 20);
    let builder = HttpServer::builder(site.clone()).behaviour(behaviour);
    let server = builder.start().await.unwrap();
    let mirrors = set(&[server.url()]);
    let job = Job::content("file", Target::path(NAME), expected(&new));
    let path = dir.path().join(NAME);
    let engine = engine(EngineOptions::default());
    let fetch = engine.fetch_file(&mirrors, &job, &path);
    let replace = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        site.insert(NAME, new.clone());
    };
    let (fetched, ()) = tokio::join!(fetch, replace);
    let fetched = fetched.map_err(|error| format!("replaced: {error}"))?;
    require(
        std::fs::read(&path).unwrap() == new,
        "replaced: a wrong file",
    )?;
    require(
        !classes(&fetched).contains(&Class::Corrupt),
        "replaced: the mirror was accused",
    )?;
    Ok((
        "the file is replaced while its segments arrive, the digest is that of the new one; one mirror",
        "ok, the earlier bytes are fetched again, no mirror is accused",
    ))
}

async fn no_ranges_and_zchunk() -> Result<Row, String> {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = versions(dir.path());
    let whole = Rule::always(Matcher::Any, Fault::IgnoreRange);
    let server = server("x.zck", &new, Behaviour::new().with_rule(whole)).await;
    let job = Job::metadata("x.zck", Target::path("x.zck"));
    let path = dir.path().join("x.zck");
    engine(EngineOptions::default())
        .fetch_zchunk(&set(&[server.url()]), &job, &[old], &path)
        .await
        .map_err(|error| format!("no ranges: {error}"))?;
    require(
        std::fs::read(&path).unwrap() == new,
        "no ranges: a wrong file",
    )?;
    Ok((
        "a server without ranges; new chunks of a zchunk file, one mirror",
        "ok, the whole file is fetched",
    ))
}

async fn short_ranges() -> Result<Row, String> {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), content(4 << 20));
    let short = Rule::always(Matcher::Any, Fault::ShortRange { most: 300_000 });
    let server = server(NAME, &bytes, Behaviour::new().with_rule(short)).await;
    let job = Job::content("file", Target::path(NAME), expected(&bytes));
    let path = dir.path().join(NAME);
    let fetched = engine(EngineOptions::default())
        .fetch_file(&set(&[server.url()]), &job, &path)
        .await
        .map_err(|error| format!("short 206: {error}"))?;
    require(
        std::fs::read(&path).unwrap() == bytes && fetched.wasted == 0,
        "short 206: a wrong file, or wasted bytes",
    )?;
    require(classes(&fetched).is_empty(), "short 206: an attempt failed")?;
    Ok((
        "206 with less than the requested range; a file in segments, one mirror",
        "ok, no failed attempt, no bytes wasted",
    ))
}
