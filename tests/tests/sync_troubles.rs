//! Syncs in trouble, while a checker reads what is published: at every moment an index names only what is there and right.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use taipan_mock_servers::{
    Behaviour, Fault, HttpServer, Matcher, OciServer, Rule, S3Keys, S3Server, Site,
};
use taipan_tests::{Sandbox, demo_channel, finish};
use taipan_transfer::Sha256;

const SUBDIRS: [&str; 2] = ["noarch", "linux-64"];

/// Reads published indexes all the time, until it is told to stop.
struct Checker {
    ends: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    thread: JoinHandle<Result<(), String>>,
}

/// Reads a file of a mirror; `None` if it is not there.
type Read = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send>;

impl Checker {
    fn start(place: &'static str, read: Read) -> Self {
        let (ends, looks) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let thread = std::thread::spawn({
            let (ends, looks) = (Arc::clone(&ends), Arc::clone(&looks));
            move || {
                while !ends.load(Ordering::Relaxed) {
                    for subdir in SUBDIRS {
                        check(&read, subdir).map_err(|error| format!("{place}: {error}"))?;
                    }
                    looks.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        Self {
            ends,
            looks,
            thread,
        }
    }

    fn stop(self) {
        self.ends.store(true, Ordering::Relaxed);
        let result = self.thread.join().unwrap();
        assert_eq!(result, Ok(()));
        assert!(
            self.looks.load(Ordering::Relaxed) > 3,
            "it looked too rarely"
        );
    }
}

/// The published index names only what is there and right. If it changed while files were read, the old one says nothing.
fn check(read: &Read, subdir: &str) -> Result<(), String> {
    let path = format!("{subdir}/repodata.json");
    let Some(text) = read(&path) else {
        return Ok(());
    };
    let index: Value = serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))?;
    for map in ["packages", "packages.conda"] {
        for (file, record) in index[map].as_object().unwrap() {
            let bytes = read(&format!("{subdir}/{file}"));
            let is_right = bytes.as_ref().is_some_and(|bytes| {
                record["sha256"] == Sha256::of(bytes).to_string() && record["size"] == bytes.len()
            });
            if !is_right && read(&path).as_ref() == Some(&text) {
                let length = bytes.map(|bytes| bytes.len());
                return Err(format!(
                    "{subdir}/{file} of {length:?} bytes is not {record}"
                ));
            }
        }
    }
    Ok(())
}

fn of_directory(root: PathBuf) -> Read {
    Box::new(move |path| std::fs::read(root.join(path)).ok())
}

fn of_bucket(site: Site) -> Read {
    Box::new(move |path| site.get(&format!("c/{path}")).map(|bytes| bytes.to_vec()))
}

struct Mirrors {
    source: HttpServer,
    site: Site,
    bucket: Site,
    s3: S3Server,
    oci: OciServer,
    sandbox: Sandbox,
    urls: Vec<String>,
}

impl Mirrors {
    async fn start() -> Self {
        let site = demo_channel(100_000).site();
        let source = HttpServer::start(site.clone()).await.unwrap();
        let bucket = Site::new();
        let s3 = S3Server::builder().bucket("bucket", bucket.clone());
        let s3 = s3.keys(S3Keys::new("key", "secret")).start().await.unwrap();
        let oci = OciServer::start().await.unwrap();
        let mut sandbox = Sandbox::new();
        sandbox.set("AWS_ENDPOINT_URL", &s3.endpoint());
        sandbox.set("AWS_ACCESS_KEY_ID", "key");
        sandbox.set("AWS_SECRET_ACCESS_KEY", "secret");
        let urls = vec![
            format!("file://{}", sandbox.path("mirror").display()),
            "s3://bucket/c".to_owned(),
            format!("oci+http://{}/c", oci.host()),
        ];
        Self {
            source,
            site,
            bucket,
            s3,
            oci,
            sandbox,
            urls,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["mirror".to_owned(), "sync".to_owned(), self.source.url()];
        arguments.extend(self.urls.iter().cloned());
        arguments.push("--max-delete=100".to_owned());
        arguments
    }

    fn checkers(&self) -> [Checker; 2] {
        [
            Checker::start("directory", of_directory(self.sandbox.path("mirror"))),
            Checker::start("bucket", of_bucket(self.bucket.clone())),
        ]
    }

    /// Everything arrives in the end, and is verified.
    fn settle(&self) {
        self.s3.set_behaviour(Behaviour::new());
        self.oci.set_behaviour(Behaviour::new());
        let arguments = self.arguments();
        let again = [&arguments[..], &["--retry-failed".to_owned()]].concat();
        self.sandbox.run(&again).expect(0);
        for url in &self.urls {
            self.sandbox.run(&["mirror", "verify", url]).expect(0);
        }
        for subdir in SUBDIRS {
            let names = |text: Vec<u8>| -> BTreeSet<String> {
                let index: Value = serde_json::from_slice(&text).unwrap();
                let maps = ["packages", "packages.conda"]
                    .map(|map| index[map].as_object().unwrap().clone());
                maps.into_iter()
                    .flatten()
                    .map(|(file, record)| format!("{file} {}", record["sha256"]))
                    .collect()
            };
            let path = format!("{subdir}/repodata.json");
            let wanted = names(self.site.get(&path).unwrap().to_vec());
            assert_eq!(
                names(std::fs::read(self.sandbox.path("mirror").join(&path)).unwrap()),
                wanted
            );
            assert_eq!(
                names(self.bucket.get(&format!("c/{path}")).unwrap().to_vec()),
                wanted
            );
        }
    }
}

/// Removes a package of the source and replaces another one under its name.
fn change(site: &Site, round: usize) {
    let path = "noarch/repodata.json";
    let mut index: Value = serde_json::from_slice(&site.get(path).unwrap()).unwrap();
    let records = index["packages.conda"].as_object_mut().unwrap();
    let files: Vec<String> = records.keys().cloned().collect();
    let gone = &files[round % files.len()];
    records.remove(gone);
    let changed = &files[(round + 3) % files.len()];
    if let Some(record) = records.get_mut(changed) {
        let file = format!("noarch/{changed}");
        let mut bytes = site.get(&file).unwrap().to_vec();
        bytes.extend_from_slice(format!("build {round}").as_bytes());
        record["sha256"] = Sha256::of(&bytes).to_string().into();
        record["size"] = bytes.len().into();
        record.as_object_mut().unwrap().remove("md5");
        site.insert(&file, bytes);
    }
    site.insert(path, index.to_string());
    site.remove(&format!("{path}.zst"));
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_at_once_harm_nothing() {
    let mirrors = Mirrors::start().await;
    let slow = Behaviour::new().with_latency(Duration::from_millis(3));
    mirrors.s3.set_behaviour(slow.clone());
    mirrors.oci.set_behaviour(slow);
    let checkers = mirrors.checkers();
    for round in 0..3 {
        let children: Vec<_> = (0..3)
            .map(|_| mirrors.sandbox.start(&mirrors.arguments()))
            .collect();
        let ends: Vec<_> = children.into_iter().map(finish).collect();
        // One that finds that another has published meanwhile publishes nothing, and says so.
        for end in &ends {
            let is_told = end.stderr.contains("at the same time");
            assert!(
                end.code == Some(0) || is_told,
                "{:?} {}",
                end.code,
                end.stderr
            );
        }
        change(&mirrors.site, round);
    }
    mirrors.settle();
    checkers.into_iter().for_each(Checker::stop);
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_that_fail_at_random_get_everything_in_the_end() {
    let mirrors = Mirrors::start().await;
    let checkers = mirrors.checkers();
    // Pseudo-random numbers, the same in each run.
    let mut state = 7_u64;
    let mut random = |most: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    for round in 0..6 {
        let faults = |random: &mut dyn FnMut(u64) -> u64| {
            let mut behaviour = Behaviour::new().with_latency(Duration::from_millis(1));
            for _ in 0..4 {
                let fault = match random(4) {
                    0 => Fault::status(503),
                    1 => Fault::RetryAfter {
                        code: 429,
                        seconds: 1,
                    },
                    2 => Fault::Reset { after: None },
                    _ => Fault::status(500),
                };
                let method = ["PUT", "POST", "GET", "HEAD"][usize::try_from(random(4)).unwrap()];
                let place = format!("link-{:02}", 1 + random(12));
                let matcher = Matcher::method(method).and(Matcher::contains(place));
                behaviour = behaviour.with_rule(Rule::times(1, matcher, fault));
            }
            behaviour
        };
        mirrors.s3.set_behaviour(faults(&mut random));
        mirrors.oci.set_behaviour(faults(&mut random));
        let child = mirrors.sandbox.start(&mirrors.arguments());
        // The source changes while it is copied.
        tokio::time::sleep(Duration::from_millis(30 * random(8))).await;
        change(&mirrors.site, round);
        let end = finish(child);
        // 6: published, with packages left out, since the source has replaced them.
        assert!(
            matches!(end.code, Some(0 | 1 | 6)),
            "{:?} {}",
            end.code,
            end.stderr
        );
    }
    mirrors.settle();
    checkers.into_iter().for_each(Checker::stop);
}

/// The checker itself finds what is wrong.
#[test]
fn the_checker_finds_missing_and_wrong_files() {
    let directory = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(""))).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let record = serde_json::json!({"sha256": Sha256::of(b"right").to_string(), "size": 5});
    let index = serde_json::json!({"packages": {}, "packages.conda": {"a-1-0.conda": record}});
    write("noarch/repodata.json", &index.to_string());
    let read = of_directory(directory.path().to_owned());
    assert!(check(&read, "noarch").unwrap_err().contains("a-1-0.conda"));
    write("noarch/a-1-0.conda", "wrong");
    assert!(check(&read, "noarch").is_err());
    write("noarch/a-1-0.conda", "right");
    assert_eq!(check(&read, "noarch"), Ok(()));
}
