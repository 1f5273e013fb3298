//! The contract of all servers and protocols.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use taipan_mirrors::{Class, Location, Mirror, Provenance, SelectorConfig};
use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, Rule, Site};
use taipan_transfer::{
    Backend, BackendError, ByteRange, Engine, EngineOptions, FetchError, GetRequest, GetResponse,
    HttpBackend, HttpClient, HttpOptions, Job, MemorySink, MirrorSet, OciBackend, Ranges,
    S3Backend, Silent, Target,
};

use crate::fixtures::{self, File};

const LIMIT: usize = 64 << 20;

/// A mirror: its location and its backend.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    location: Location,
    backend: Arc<dyn Backend>,
}

impl Place {
    /// The mirror at a location, with the default credentials of its protocol.
    pub(crate) fn new(location: Location) -> Self {
        let client = client();
        let connect = Duration::from_secs(10);
        let backend: Arc<dyn Backend> = match location.clone() {
            Location::Http(url) => Arc::new(HttpBackend::new(client, url)),
            Location::S3(bucket) => Arc::new(S3Backend::new(bucket, connect)),
            Location::Oci(registry) => Arc::new(OciBackend::new(registry, client)),
            Location::File(_) => unreachable!("no server is needed for a directory"),
        };
        Self { location, backend }
    }

    /// A bucket, read with these keys.
    pub(crate) fn with_keys(location: Location, access: &str, secret: &str) -> Self {
        let Location::S3(bucket) = location.clone() else {
            panic!("{location} is no bucket");
        };
        let backend = S3Backend::new(bucket, Duration::from_secs(10));
        let backend = Arc::new(backend.with_keys(access, secret, None));
        Self { location, backend }
    }

    fn set(&self) -> MirrorSet {
        set(std::slice::from_ref(self))
    }
}

fn client() -> HttpClient {
    let options = HttpOptions {
        // Independent of the environment.
        no_proxy: vec!["127.0.0.1".to_owned()],
        ..HttpOptions::default()
    };
    HttpClient::new(&options).unwrap()
}

pub(crate) fn engine() -> Engine {
    Engine::new(EngineOptions::default(), Arc::new(Silent))
}

/// Mirrors in order of priority.
pub(crate) fn set(places: &[Place]) -> MirrorSet {
    let mirror = |(priority, place): (i32, &Place)| {
        Mirror::new(place.location.clone(), Provenance::Upstream).with_priority(priority)
    };
    let mirrors = (0..).zip(places).map(mirror).collect();
    let backends = places.iter().map(|place| Arc::clone(&place.backend));
    // A short timeout for a mirror that is down.
    let config = SelectorConfig {
        backoff: Duration::from_millis(20),
        patience: Duration::from_millis(100),
        ..SelectorConfig::default()
    };
    MirrorSet::with_backends(mirrors, backends.collect(), config)
}

pub(crate) fn job(file: &File) -> Job {
    Job::content(file.name, file.target(), file.expected())
}

/// Checks a server with all files and read access.
pub(crate) async fn serves(place: &Place) {
    every_file_arrives(place).await;
    ranges_are_exact(place).await;
    a_truncated_body_is_resumed(place).await;
    a_missing_file_is_absent(place).await;
}

async fn every_file_arrives(place: &Place) {
    let dir = tempfile::tempdir().unwrap();
    for file in fixtures::all() {
        let path = dir.path().join(file.name);
        let fetched = engine().fetch_file(&place.set(), &job(&file), &path).await;
        let fetched = fetched.unwrap();
        let (digest, length) = fetched.file.unwrap();
        assert_eq!(Some(digest), file.expected().sha256, "{}", file.name);
        assert_eq!(length, file.bytes.len() as u64, "{}", file.name);
        // The last bytes of a large file may be requested twice.
        let most = file.bytes.len() as u64 / 5;
        assert!(fetched.wasted <= most, "{}: {}", file.name, fetched.wasted);
        assert!(fetched.attempts.is_empty(), "{:?}", fetched.attempts);
        assert!(std::fs::read(path).unwrap() == file.bytes, "{}", file.name);
    }
    let mut left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["empty.bin", "large.bin", "note.txt"]);
}

/// One request without the engine.
async fn get(
    place: &Place,
    file: &File,
    range: ByteRange,
) -> Result<(u64, Option<u64>, Vec<u8>), BackendError> {
    let target = file.target();
    let request = GetRequest {
        target: &target,
        expected: file.expected(),
        ranges: Ranges::One(range),
        validators: None,
        if_range: None,
    };
    match place.backend.get(request).await? {
        GetResponse::Body {
            start, total, body, ..
        } => {
            let pieces: Vec<Bytes> = body.try_collect().await?;
            Ok((start, total, pieces.concat()))
        }
        other => panic!("not the file: {other:?}"),
    }
}

async fn ranges_are_exact(place: &Place) {
    let file = fixtures::large();
    let length = file.bytes.len();
    for (from, to) in [(0, 1), (7_000_001, 7_300_000), (length - 5, length)] {
        let range = ByteRange::new(from as u64, to as u64).unwrap();
        let (start, total, bytes) = get(place, &file, range).await.unwrap();
        assert_eq!(
            (start, total),
            (from as u64, Some(length as u64)),
            "{range}"
        );
        assert!(bytes == file.bytes[from..to], "{range}");
    }
    let tail = ByteRange::from(length as u64 - 10);
    let (start, _, bytes) = get(place, &file, tail).await.unwrap();
    assert_eq!(start, length as u64 - 10);
    assert!(bytes == file.bytes[length - 10..]);
    let beyond = get(place, &file, ByteRange::from(length as u64)).await;
    assert!(
        matches!(beyond, Err(BackendError::BeyondEnd { .. })),
        "{beyond:?}"
    );
}

/// Records the ranges of requests to a backend.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Backend>,
    starts: Mutex<Vec<u64>>,
}

#[async_trait]
impl Backend for Watched {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let start = match request.ranges {
            Ranges::One(range) => range.start(),
            _ => 0,
        };
        self.starts.lock().unwrap().push(start);
        self.inner.get(request).await
    }

    fn has_multi_range(&self) -> bool {
        self.inner.has_multi_range()
    }

    fn describe(&self, target: &Target) -> String {
        self.inner.describe(target)
    }
}

async fn a_truncated_body_is_resumed(place: &Place) {
    const CUT: u64 = 5_000_003;
    let file = fixtures::large();
    let site = Site::new();
    site.insert(&file.target().path, file.bytes.clone());
    let breaks = Rule::always(Matcher::Any, Fault::Truncate { after: CUT });
    let server = HttpServer::builder(site)
        .behaviour(Behaviour::new().with_rule(breaks))
        .start()
        .await
        .unwrap();
    let broken = Place::new(Location::parse(&server.url()).unwrap());
    let watched = Arc::new(Watched {
        inner: Arc::clone(&place.backend),
        starts: Mutex::default(),
    });
    let sound = Place {
        backend: watched.clone(),
        ..place.clone()
    };
    let mut sink = MemorySink::new(LIMIT);
    let mirrors = set(&[broken, sound]);
    let fetched = engine().fetch(&mirrors, &job(&file), &mut sink).await;
    let fetched = fetched.unwrap();
    assert!(sink.into_bytes() == file.bytes);
    let given: Vec<u64> = fetched.attempts.iter().map(|it| it.bytes).collect();
    assert!(
        given.iter().any(|bytes| (1..=CUT).contains(bytes)),
        "{:?}",
        fetched.attempts
    );
    // The file was resumed, not fetched again from its beginning.
    let starts = watched.starts.lock().unwrap().clone();
    assert!(!starts.is_empty());
    assert!(starts.iter().all(|start| *start > 0), "{starts:?}");
    assert!(starts.contains(&CUT), "{starts:?}");
}

async fn a_missing_file_is_absent(place: &Place) {
    let job = Job {
        target: fixtures::target("missing.bin"),
        ..job(&fixtures::large())
    };
    let mut sink = MemorySink::new(LIMIT);
    let error = engine().fetch(&place.set(), &job, &mut sink).await;
    let error = error.unwrap_err();
    assert!(error.is_absent(), "{error}");
    let job = Job::metadata("missing", fixtures::target("missing.bin"));
    let error = engine().fetch(&place.set(), &job, &mut sink).await;
    let error = error.unwrap_err();
    assert!(error.is_absent(), "{error}");
    assert!(sink.into_bytes().is_empty());
}

/// Whether a server evaluates the entity tags that it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditions {
    Kept,
    Ignored,
}

/// Checks that a file is fetched again only when it has changed. `replace` puts its second edition on the
/// server.
pub(crate) async fn validates(place: &Place, conditions: Conditions, replace: impl AsyncFn(&File)) {
    let (first, second) = (fixtures::note(), fixtures::second_edition());
    let mut job = Job::metadata(first.name, first.target());
    let get = async |job: &Job| {
        let mut sink = MemorySink::new(LIMIT);
        let fetched = engine().fetch(&place.set(), job, &mut sink).await.unwrap();
        (fetched, sink.into_bytes())
    };
    let (fetched, bytes) = get(&job).await;
    assert_eq!(bytes, first.bytes);
    let tag = fetched.validators.etag.clone().expect("it gives a tag");
    job.validators.insert(fetched.url, fetched.validators);

    let (fetched, bytes) = get(&job).await;
    match conditions {
        Conditions::Kept => {
            assert_eq!(fetched.file, None);
            assert_eq!(bytes, b"");
        }
        Conditions::Ignored => assert_eq!(bytes, first.bytes),
    }
    assert_eq!(fetched.validators.etag.as_ref(), Some(&tag));

    replace(&second).await;
    let (fetched, bytes) = get(&job).await;
    assert_eq!(bytes, second.bytes);
    assert_ne!(fetched.validators.etag, Some(tag));
}

/// Checks that every request fails with this class, and that no error contains the secrets.
pub(crate) async fn refuses(place: &Place, class: Class, secrets: &[&str]) {
    let jobs = [
        job(&fixtures::large()),
        Job::metadata("note", fixtures::note().target()),
    ];
    for job in jobs {
        let mut sink = MemorySink::new(LIMIT);
        let error = engine().fetch(&place.set(), &job, &mut sink).await;
        let error = error.unwrap_err();
        let FetchError::Exhausted { attempts, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(!attempts.is_empty(), "{error}");
        let classes: Vec<Class> = attempts.iter().map(|attempt| attempt.class).collect();
        assert!(classes.iter().all(|it| *it == class), "{error}");
        let text = format!("{error}\n{error:?}");
        for secret in secrets {
            assert!(!text.contains(secret), "`{secret}` is in {text}");
        }
        assert!(sink.into_bytes().is_empty());
    }
}
