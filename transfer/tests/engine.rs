//! The engine with real servers on loopback: every fault costs time, and no file is lost.

mod common;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{client, content, expected, http, in_order, publish, short_timeouts, target};
use taipan_mirrors::{Class, Location, SelectorConfig};
use taipan_mock_servers::{
    BearerAuth, Behaviour, Fault, HttpServer, Matcher, OciAuth, OciServer, RefusingServer, Rule,
    S3Server, Site,
};
use taipan_transfer::{
    Attempt, BackendError, Engine, EngineOptions, Event, Expected, FetchError, Fetched, FileSink,
    Job, MemorySink, MirrorSet, Observer, Silent, Sink, SinkError, Target,
};

const PATH: &str = "dir/file.bin";
const LENGTH: usize = 200_000;
const CUT: u64 = 70_000;

fn engine() -> Engine {
    Engine::new(EngineOptions::default(), Arc::new(Silent))
}

fn site(bytes: &Bytes) -> Site {
    let site = Site::new();
    site.insert(PATH, bytes.clone());
    site
}

async fn server(bytes: &Bytes, rule: Option<Rule>) -> HttpServer {
    let mut behaviour = Behaviour::new();
    if let Some(rule) = rule {
        behaviour = behaviour.with_rule(rule);
    }
    let builder = HttpServer::builder(site(bytes)).behaviour(behaviour);
    builder.start().await.unwrap()
}

fn set<'a>(servers: impl IntoIterator<Item = &'a HttpServer>) -> MirrorSet {
    let places = servers.into_iter().map(|server| http(&server.url()));
    MirrorSet::new(in_order(places), short_timeouts(), &client())
}

fn job(bytes: &[u8]) -> Job {
    Job::content("the file", Target::path(PATH), expected(bytes))
}

async fn fetch(set: &MirrorSet, job: &Job) -> (Result<Fetched, FetchError>, Vec<u8>) {
    let mut sink = MemorySink::new(1 << 30);
    let result = engine().fetch(set, job, &mut sink).await;
    (result, sink.into_bytes())
}

fn classes(attempts: &[Attempt]) -> Vec<Class> {
    attempts.iter().map(|attempt| attempt.class).collect()
}

fn ranges(server: &HttpServer) -> Vec<Option<String>> {
    let requests = server.requests();
    requests
        .iter()
        .map(|r| r.range().map(str::to_owned))
        .collect()
}

fn assert_idle(set: &MirrorSet) {
    assert!(set.reports().iter().all(|report| report.in_flight == 0));
}

/// The faults of a first request: each with the class of the failure, if it is one, and the number
/// of bytes after which the next mirror resumes.
fn first_requests(own_url: &str) -> Vec<(Fault, Option<Class>, u64)> {
    let retry = |code| Fault::RetryAfter { code, seconds: 1 };
    vec![
        (Fault::None, None, 0),
        (Fault::status(400), Some(Class::Unwell), 0),
        (Fault::status(401), Some(Class::Denied), 0),
        (Fault::status(403), Some(Class::NotHere), 0),
        (Fault::status(404), Some(Class::NotHere), 0),
        (Fault::status(500), Some(Class::Unwell), 0),
        (Fault::status(503), Some(Class::Unwell), 0),
        (retry(429), Some(Class::Throttled), 0),
        (retry(503), Some(Class::Throttled), 0),
        (Fault::Truncate { after: 0 }, Some(Class::Unwell), 0),
        (Fault::Truncate { after: CUT }, Some(Class::Unwell), CUT),
        (Fault::Reset { after: None }, Some(Class::Unwell), 0),
        (Fault::Reset { after: Some(CUT) }, Some(Class::Unwell), CUT),
        (Fault::Stall { after: 0 }, Some(Class::Unwell), 0),
        (Fault::Stall { after: CUT }, Some(Class::Unwell), CUT),
        // The request is hedged before it counts as a failure.
        (Fault::Hang, None, 0),
        (Fault::SlowFirstByte(Duration::from_millis(30)), None, 0),
        (Fault::Corrupt { at: CUT }, Some(Class::Corrupt), 0),
        (Fault::IgnoreRange, None, 0),
        (Fault::WrongRange, None, 0),
        (Fault::WrongLength { delta: 5 }, Some(Class::Corrupt), 0),
        (Fault::WrongLength { delta: -5 }, Some(Class::Corrupt), 0),
        (Fault::ChangedEtag, None, 0),
        (Fault::Html, Some(Class::Corrupt), 0),
        (Fault::Gzip, Some(Class::Unwell), 0),
        (
            Fault::Redirect {
                to: own_url.to_owned(),
            },
            Some(Class::Unwell),
            0,
        ),
    ]
}

#[tokio::test]
async fn every_fault_of_the_first_request_is_survived() {
    let bytes = content(LENGTH);
    let sound = server(&bytes, None).await;
    let faulty = server(&bytes, None).await;
    for (fault, class, kept) in first_requests(&faulty.url()) {
        let name = format!("{fault:?}");
        let is_raced = matches!(fault, Fault::Hang);
        sound.clear_requests();
        faulty.set_behaviour(Behaviour::new().with_rule(Rule::always(Matcher::Any, fault)));
        let set = set([&faulty, &sound]);
        let (result, got) = fetch(&set, &job(&bytes)).await;
        let fetched = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(got == bytes, "{name}: wrong bytes");
        assert_eq!(classes(&fetched.attempts), Vec::from_iter(class), "{name}");
        let expected = match (class, kept) {
            (None, _) if !is_raced => vec![],
            (None, _) | (Some(_), 0) => vec![None],
            (Some(_), kept) => vec![Some(format!("bytes={kept}-"))],
        };
        assert_eq!(ranges(&sound), expected, "{name}");
        if let Some(attempt) = fetched.attempts.first() {
            assert!(attempt.name.starts_with(&faulty.url()), "{name}");
            assert_eq!(attempt.bytes.saturating_sub(fetched.wasted), kept, "{name}");
        }
        assert_idle(&set);
    }
}

#[tokio::test]
async fn a_fault_of_a_resumed_request_loses_no_bytes() {
    let retry = Fault::RetryAfter {
        code: 429,
        seconds: 1,
    };
    let end = LENGTH as u64 - 5;
    let more = CUT + 30_000;
    // The fault, the class of the failure if it is one, and the byte at which the third mirror
    // resumes.
    let cases = [
        (Fault::None, None, None),
        (Fault::status(401), Some(Class::Denied), Some(CUT)),
        (Fault::status(404), Some(Class::NotHere), Some(CUT)),
        (Fault::status(416), Some(Class::Unwell), Some(CUT)),
        (Fault::status(500), Some(Class::Unwell), Some(CUT)),
        (retry, Some(Class::Throttled), Some(CUT)),
        (
            Fault::Truncate { after: 30_000 },
            Some(Class::Unwell),
            Some(more),
        ),
        (Fault::Reset { after: None }, Some(Class::Unwell), Some(CUT)),
        (
            Fault::Reset {
                after: Some(30_000),
            },
            Some(Class::Unwell),
            Some(more),
        ),
        (
            Fault::Stall { after: 30_000 },
            Some(Class::Unwell),
            Some(more),
        ),
        // The request is hedged before it counts as a failure.
        (Fault::Hang, None, Some(CUT)),
        (Fault::WrongRange, Some(Class::Unwell), Some(CUT)),
        (
            Fault::WrongLength { delta: -5 },
            Some(Class::Unwell),
            Some(end),
        ),
        // All bytes arrive, so that the wrong length does not matter.
        (Fault::WrongLength { delta: 5 }, None, None),
        (Fault::ChangedEtag, None, None),
        (Fault::Html, Some(Class::Corrupt), Some(CUT)),
        (Fault::Gzip, Some(Class::Unwell), Some(CUT)),
    ];
    let bytes = content(LENGTH);
    let cut = Rule::always(Matcher::Any, Fault::Truncate { after: CUT });
    let first = server(&bytes, Some(cut)).await;
    let second = server(&bytes, None).await;
    let third = server(&bytes, None).await;
    for (fault, class, offset) in cases {
        let name = format!("{fault:?}");
        second.clear_requests();
        third.clear_requests();
        second.set_behaviour(Behaviour::new().with_rule(Rule::always(Matcher::Any, fault)));
        let set = set([&first, &second, &third]);
        let (result, got) = fetch(&set, &job(&bytes)).await;
        let fetched = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(got == bytes, "{name}: wrong bytes");
        let mut expected = vec![Class::Unwell];
        expected.extend(class);
        assert_eq!(classes(&fetched.attempts), expected, "{name}");
        assert_eq!(fetched.wasted, 0, "{name}");
        assert_eq!(
            ranges(&second)[0].as_deref(),
            Some("bytes=70000-"),
            "{name}"
        );
        let requested = offset.map(|offset| Some(format!("bytes={offset}-")));
        assert_eq!(ranges(&third), Vec::from_iter(requested), "{name}");
        assert_idle(&set);
    }
}

#[tokio::test]
async fn known_bytes_are_skipped_when_a_server_ignores_the_range() {
    let bytes = content(LENGTH);
    let cut = Rule::always(Matcher::Any, Fault::Truncate { after: CUT });
    let first = server(&bytes, Some(cut)).await;
    let second = server(&bytes, Some(Rule::always(Matcher::Any, Fault::IgnoreRange))).await;
    let (result, got) = fetch(&set([&first, &second]), &job(&bytes)).await;
    assert_eq!(result.unwrap().wasted, CUT);
    assert!(got == bytes);
}

#[tokio::test]
async fn without_a_digest_another_mirror_restarts_the_file() {
    let bytes = content(LENGTH);
    let cut = Rule::once(Matcher::Any, Fault::Truncate { after: CUT });
    let first = server(&bytes, Some(cut)).await;
    let second = server(&bytes, None).await;
    let job = Job::metadata("index", Target::path(PATH));
    let (result, got) = fetch(&set([&first, &second]), &job).await;
    let fetched = result.unwrap();
    assert!(got == bytes);
    assert_eq!((fetched.wasted, ranges(&second)), (CUT, vec![None]));
    assert!(fetched.validators.etag.is_some());
}

#[tokio::test]
async fn a_mirror_with_wrong_bytes_in_the_second_half_is_found() {
    let bytes = content(LENGTH);
    let cut = Rule::once(Matcher::Any, Fault::Truncate { after: CUT });
    let first = server(&bytes, Some(cut)).await;
    let liar = Rule::always(Matcher::Any, Fault::Corrupt { at: 150_000 });
    let second = server(&bytes, Some(liar)).await;
    let set = set([&first, &second]);
    let (result, got) = fetch(&set, &job(&bytes)).await;
    let fetched = result.unwrap();
    assert!(got == bytes);
    assert_eq!(
        classes(&fetched.attempts)[..2],
        [Class::Unwell, Class::Corrupt]
    );
    assert!(!set.reports()[0].quarantined, "{:?}", fetched.attempts);
    // The last request was for the whole file.
    assert_eq!(ranges(&first).last(), Some(&None));
}

#[tokio::test]
async fn wrong_bytes_from_all_mirrors_are_an_error_of_their_own() {
    let bytes = content(LENGTH);
    let liar = Rule::always(Matcher::Any, Fault::Corrupt { at: 9 });
    let server = server(&bytes, Some(liar)).await;
    let (result, _) = fetch(&set([&server]), &job(&bytes)).await;
    let error = result.unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    assert_eq!(
        server.requests().len(),
        1,
        "no second request after wrong bytes"
    );
}

#[tokio::test]
async fn retry_after_delays_the_next_request() {
    let bytes = content(1000);
    let busy = Fault::RetryAfter {
        code: 429,
        seconds: 1,
    };
    let server = server(&bytes, Some(Rule::once(Matcher::Any, busy))).await;
    let started = Instant::now();
    let (result, _) = fetch(&set([&server]), &job(&bytes)).await;
    assert_eq!(classes(&result.unwrap().attempts), [Class::Throttled]);
    let requests = server.requests();
    assert!(requests[1].started - requests[0].started >= Duration::from_secs(1));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn when_all_fail_the_error_lists_every_attempt() {
    let bytes = content(1000);
    let dead = RefusingServer::start().unwrap();
    let mut servers = Vec::new();
    for fault in [
        Fault::status(404),
        Fault::status(500),
        Fault::RetryAfter {
            code: 503,
            seconds: 1,
        },
        Fault::status(401),
        Fault::Corrupt { at: 9 },
        Fault::Truncate { after: 0 },
        Fault::Stall { after: 0 },
        Fault::Html,
        Fault::Gzip,
    ] {
        servers.push(server(&bytes, Some(Rule::always(Matcher::Any, fault))).await);
    }
    let mut places: Vec<Location> = servers.iter().map(|s| http(&s.url())).collect();
    places.insert(0, http(&dead.url()));
    let config = SelectorConfig {
        attempts_per_mirror: 1,
        ..short_timeouts()
    };
    let set = MirrorSet::new(in_order(places), config, &client());
    let engine = engine();
    let mut sink = MemorySink::new(1 << 20);
    let error = engine
        .fetch(&set, &job(&bytes), &mut sink)
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Exhausted { .. }));
    assert!(!error.is_absent() && !error.is_corrupt());
    insta::with_settings!({filters => vec![
        (r"127\.0\.0\.1:\d+", "HOST"),
        (r"[0-9a-f]{64}", "DIGEST"),
        (r"for \d+\.\d s", "for N s"),
    ]}, {
        insta::assert_snapshot!("every_attempt", [vec![error.to_string()], error.details()].concat().join("\n"));
    });
}

#[tokio::test]
async fn a_file_that_no_mirror_has_is_absent() {
    let server = server(&content(10), None).await;
    let job = Job::metadata("index", Target::path("no/such"));
    let (result, _) = fetch(&set([&server]), &job).await;
    assert!(result.unwrap_err().is_absent());
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let bytes = content(1000);
    let other = server(&bytes, None).await;
    let away = Fault::Redirect { to: other.url() };
    let first = server(&bytes, Some(Rule::always(Matcher::Any, away))).await;
    let place = http(&first.url().replace("http://", "http://user:secret@"));
    let set = MirrorSet::new(in_order([place]), short_timeouts(), &client());
    let (result, got) = fetch(&set, &job(&bytes)).await;
    let fetched = result.unwrap();
    assert!(got == bytes && !fetched.url.contains("secret"));
    assert_eq!(first.requests()[0].authorization.as_deref(), Some("Basic"));
    assert_eq!(other.requests()[0].authorization, None);
}

async fn registry(lifetime: Duration) -> OciServer {
    let auth = OciAuth::Bearer(BearerAuth::new().with_lifetime(lifetime));
    OciServer::builder().auth(auth).start().await.unwrap()
}

fn oci_set(server: &OciServer) -> MirrorSet {
    let place = Location::Oci(common::oci(server));
    MirrorSet::new(in_order([place]), short_timeouts(), &client())
}

#[tokio::test]
async fn a_token_does_not_follow_a_redirect_to_a_blob_store() {
    let bytes = content(1000);
    let registry = registry(Duration::from_mins(5)).await;
    publish(&registry, "pkg", &bytes);
    let blobs = HttpServer::start(registry.blobs()).await.unwrap();
    registry.redirect_blobs(Some(blobs.url()));
    let job = Job::content("the file", target(PATH, "pkg"), expected(&bytes));
    let (result, got) = fetch(&oci_set(&registry), &job).await;
    result.unwrap();
    assert!(got == bytes);
    let blob = |r: &taipan_mock_servers::RequestLog| r.path.contains("/blobs/");
    let blob_request = registry.requests().into_iter().find(blob).unwrap();
    assert_eq!(blob_request.authorization.as_deref(), Some("Bearer"));
    assert_eq!(blobs.requests()[0].authorization, None);
}

#[tokio::test]
async fn an_expired_token_is_renewed_once() {
    let bytes = content(1000);
    let registry = registry(Duration::from_mins(5)).await;
    publish(&registry, "pkg", &bytes);
    let set = oci_set(&registry);
    let job = Job::content("the file", target(PATH, "pkg"), expected(&bytes));
    let tokens = || {
        let requests = registry.requests();
        requests.iter().filter(|r| r.path == "/token").count()
    };
    for (round, wanted) in [(0, 1), (1, 1), (2, 2)] {
        if round == 2 {
            registry.expire_tokens();
        }
        let (result, _) = fetch(&set, &job).await;
        assert!(result.unwrap().attempts.is_empty());
        assert_eq!(tokens(), wanted, "round {round}");
    }
}

#[tokio::test]
async fn a_file_is_resumed_across_protocols() {
    let bytes = content(LENGTH);
    let cut = |after| {
        Behaviour::new().with_rule(Rule::always(
            Matcher::contains("file"),
            Fault::Truncate { after },
        ))
    };
    let web = HttpServer::builder(site(&bytes))
        .behaviour(cut(50_000))
        .start()
        .await
        .unwrap();
    let bucket = S3Server::builder()
        .bucket("b", site(&bytes))
        .behaviour(cut(60_000));
    let bucket = bucket.start().await.unwrap();
    let registry = registry(Duration::from_mins(5)).await;
    publish(&registry, "pkg", &bytes);
    let places = [
        http(&web.url()),
        Location::S3(common::s3(&bucket.endpoint(), "b", "")),
        Location::Oci(common::oci(&registry)),
    ];
    let set = MirrorSet::new(in_order(places), short_timeouts(), &client());
    let job = Job::content("the file", target(PATH, "pkg"), expected(&bytes));
    let (result, got) = fetch(&set, &job).await;
    let fetched = result.unwrap();
    assert!(got == bytes);
    assert_eq!(fetched.wasted, 0);
    assert_eq!(bucket.requests()[0].range(), Some("bytes=50000-"));
    let last = registry.requests().pop().unwrap();
    assert_eq!(last.range(), Some("bytes=110000-"));
}

/// A sink that fails.
struct FailingSink {
    at_write: bool,
    reject: bool,
}

impl FailingSink {
    fn error(&self) -> SinkError {
        if self.reject {
            SinkError::Rejected("rejected by the test".into())
        } else {
            SinkError::Failed("full".into())
        }
    }
}

#[async_trait]
impl Sink for FailingSink {
    async fn write(&mut self, _: Bytes) -> Result<(), SinkError> {
        if self.at_write {
            Err(self.error())
        } else {
            Ok(())
        }
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        Err(self.error())
    }
}

#[tokio::test]
async fn a_sink_error_is_no_failure_of_the_mirror() {
    let bytes = content(LENGTH);
    for (at_write, reject) in [(true, true), (true, false), (false, true), (false, false)] {
        let (first, second) = (server(&bytes, None).await, server(&bytes, None).await);
        let set = set([&first, &second]);
        let mut sink = FailingSink { at_write, reject };
        let error = engine()
            .fetch(&set, &job(&bytes), &mut sink)
            .await
            .unwrap_err();
        assert!(matches!(error, FetchError::Sink { .. }), "{error}");
        assert_eq!((first.requests().len(), second.requests().len()), (1, 0));
        for report in set.reports() {
            assert!(!report.quarantined);
            let bad = [Class::Corrupt, Class::Unwell, Class::NotHere];
            assert!(bad.iter().all(|class| report.counts.get(*class) == 0));
        }
        assert_idle(&set);
    }
}

#[tokio::test]
async fn without_a_digest_a_rejection_by_the_sink_leads_to_failover() {
    let bytes = content(LENGTH);
    for at_write in [true, false] {
        let (first, second) = (server(&bytes, None).await, server(&bytes, None).await);
        let mut sink = FailingSink {
            at_write,
            reject: true,
        };
        let job = Job::metadata("index", Target::path(PATH));
        let set = set([&first, &second]);
        let error = engine().fetch(&set, &job, &mut sink).await.unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn a_dropped_fetch_leaves_no_file_and_no_request() {
    let bytes = content(LENGTH);
    let stall = Rule::always(Matcher::Any, Fault::Stall { after: CUT });
    let server = server(&bytes, Some(stall)).await;
    let dir = tempfile::tempdir().unwrap();
    let set = MirrorSet::new(
        in_order([http(&server.url())]),
        SelectorConfig::default(),
        &client(),
    );
    let mut sink = FileSink::new(dir.path().join("file"));
    let (engine, job) = (engine(), job(&bytes));
    let under_way = server.wait_until(|log| log.first().is_some_and(|r| r.bytes_sent >= CUT));
    tokio::select! {
        result = engine.fetch(&set, &job, &mut sink) => panic!("{result:?}"),
        () = under_way => {}
    }
    drop(sink);
    assert_eq!(names(dir.path()), [""; 0]);
    assert_idle(&set);
    server.wait_until(|_| server.open_connections() == 0).await;
}

/// Records whether the file has its name before the job is done.
struct NameObserver {
    path: PathBuf,
    seen_too_early: Mutex<bool>,
}

impl Observer for NameObserver {
    fn event(&self, event: &Event<'_>) {
        if !matches!(event, Event::Done { .. }) && self.path.exists() {
            *self.seen_too_early.lock().unwrap() = true;
        }
    }
}

#[tokio::test]
async fn a_file_has_its_final_name_only_after_verification() {
    let bytes = content(LENGTH);
    let liar = server(
        &bytes,
        Some(Rule::always(Matcher::Any, Fault::Corrupt { at: 5 })),
    )
    .await;
    let sound = server(&bytes, None).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let watch = Arc::new(NameObserver {
        path: path.clone(),
        seen_too_early: Mutex::new(false),
    });
    let engine = Engine::new(
        EngineOptions::default(),
        Arc::clone(&watch) as Arc<dyn Observer>,
    );
    let mut sink = FileSink::new(&path);
    let alone = engine.fetch(&set([&liar]), &job(&bytes), &mut sink).await;
    assert!(alone.unwrap_err().is_corrupt());
    drop(sink);
    assert_eq!(names(dir.path()), [""; 0], "a wrong file is removed");
    // Two jobs at once, for the same path.
    let (mut one, mut two) = (FileSink::new(&path), FileSink::new(&path));
    let (set, job) = (set([&liar, &sound]), job(&bytes));
    let results = tokio::join!(
        engine.fetch(&set, &job, &mut one),
        engine.fetch(&set, &job, &mut two)
    );
    results.0.unwrap();
    results.1.unwrap();
    drop((one, two));
    assert_eq!(names(dir.path()), ["file"]);
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[tokio::test]
async fn a_file_of_unknown_length_is_verified_by_its_digest() {
    let bytes = content(LENGTH);
    let cut = Rule::always(Matcher::Ranged(false), Fault::Truncate { after: CUT });
    let server = server(&bytes, Some(cut)).await;
    let mut job = job(&bytes);
    job.expected = Expected {
        size: None,
        ..job.expected
    };
    let (result, got) = fetch(&set([&server]), &job).await;
    assert_eq!(classes(&result.unwrap().attempts), [Class::Unwell]);
    assert!(got == bytes);
}

#[tokio::test]
async fn an_unchanged_file_is_not_fetched_again() {
    let bytes = content(1000);
    let server = server(&bytes, None).await;
    let set = set([&server]);
    let mut job = Job::metadata("index", Target::path(PATH));
    let (result, _) = fetch(&set, &job).await;
    let first = result.unwrap();
    job.validators.insert(first.url, first.validators.clone());
    let (result, got) = fetch(&set, &job).await;
    let again = result.unwrap();
    assert!(again.file.is_none() && got.is_empty());
    assert_eq!(again.validators, first.validators);
}

#[tokio::test]
async fn a_304_to_an_unconditional_request_is_an_error() {
    let bytes = content(1000);
    let odd = Fault::status(304);
    let first = server(&bytes, Some(Rule::always(Matcher::Any, odd))).await;
    let second = server(&bytes, None).await;
    let (result, got) = fetch(&set([&first, &second]), &job(&bytes)).await;
    assert!(got == bytes);
    let attempts = result.unwrap().attempts;
    assert!(matches!(
        attempts[0].error,
        BackendError::UnexpectedNotModified { .. }
    ));
}
