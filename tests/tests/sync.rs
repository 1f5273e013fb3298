//! `taipan mirror sync`, `verify` and `status`, with servers in this process.

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::Value;
use taipan_mock_servers::{
    Behaviour, DemoChannel, Fault, HttpServer, Matcher, OciServer, Rule, S3Keys, S3Server, Site,
};
use taipan_tests::{Finished, Sandbox, demo_channel, expect_demo_runs, finish};

fn channel() -> DemoChannel {
    demo_channel(300_000)
}

/// A bucket, a registry and a directory.
struct Destinations {
    bucket: Site,
    s3: S3Server,
    oci: OciServer,
}

impl Destinations {
    async fn start() -> Self {
        let bucket = Site::new();
        let s3 = S3Server::builder().bucket("bucket", bucket.clone());
        let s3 = s3.keys(S3Keys::new("key", "secret")).start();
        Self {
            bucket,
            s3: s3.await.unwrap(),
            oci: OciServer::start().await.unwrap(),
        }
    }

    fn sandbox(&self) -> Sandbox {
        let mut sandbox = Sandbox::new();
        sandbox.set("AWS_ENDPOINT_URL", &self.s3.endpoint());
        sandbox.set("AWS_ACCESS_KEY_ID", "key");
        sandbox.set("AWS_SECRET_ACCESS_KEY", "secret");
        sandbox
    }

    /// Their URLs: that of the directory is below the sandbox.
    fn urls(&self, sandbox: &Sandbox) -> [String; 3] {
        [
            format!("file://{}", sandbox.path("mirror").display()),
            "s3://bucket/a/channel".to_owned(),
            format!("oci+http://{}/a/channel", self.oci.host()),
        ]
    }
}

fn sync(sandbox: &Sandbox, source: &str, destinations: &[String], more: &[&str]) -> Finished {
    let mut arguments = vec!["mirror", "sync", source, "--json"];
    arguments.extend(destinations.iter().map(String::as_str));
    arguments.extend(more);
    sandbox.run(&arguments)
}

/// The files that the index of a directory names.
fn named(root: &Path, subdir: &str) -> BTreeSet<String> {
    let text = std::fs::read(root.join(subdir).join("repodata.json")).unwrap();
    let index: Value = serde_json::from_slice(&text).unwrap();
    let maps = ["packages", "packages.conda"].map(|map| index[map].as_object().unwrap().clone());
    maps.into_iter().flatten().map(|(file, _)| file).collect()
}

/// What a package is in the index of a site.
fn remove(site: &Site, subdir: &str, file: &str) {
    edit(site, subdir, |records| {
        records.remove(file);
    });
}

fn edit(site: &Site, subdir: &str, change: impl Fn(&mut serde_json::Map<String, Value>)) {
    let path = format!("{subdir}/repodata.json");
    let mut index: Value = serde_json::from_slice(&site.get(&path).unwrap()).unwrap();
    for map in ["packages", "packages.conda"] {
        let records = index[map].as_object_mut().unwrap();
        if !records.is_empty() {
            change(records);
        }
    }
    site.insert(&path, index.to_string());
    site.remove(&format!("{path}.zst"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_copied_to_all_destinations_and_installs_from_each() {
    let site = channel().site();
    let source = HttpServer::start(site.clone()).await.unwrap();
    let destinations = Destinations::start().await;
    let sandbox = destinations.sandbox();
    let urls = destinations.urls(&sandbox);
    let lines = sync(&sandbox, &source.url(), &urls, &[])
        .expect(0)
        .objects_of("mirror-sync");
    assert_eq!(lines.len(), 2 * urls.len());
    for line in &lines {
        assert_eq!(line["outcome"], "published");
        assert_eq!(line["sent"], line["packages"]);
    }
    // One read for three destinations.
    let packages = source.requests();
    let packages: Vec<&str> = (packages.iter().map(|it| it.path.as_str()))
        .filter(|path| path.ends_with(".conda") || path.ends_with(".tar.bz2"))
        .collect();
    let distinct: BTreeSet<&str> = packages.iter().copied().collect();
    assert_eq!(packages.len(), distinct.len(), "{packages:?}");
    for subdir in ["noarch", "linux-64"] {
        let whole = site.get(&format!("{subdir}/repodata.json")).unwrap();
        let copy = std::fs::read(sandbox.path("mirror").join(subdir).join("repodata.json"));
        assert!(
            copy.unwrap() == whole,
            "the index is the same, byte by byte"
        );
    }
    for (number, url) in urls.iter().enumerate() {
        let prefix = sandbox.path(&format!("env-{number}"));
        let cache = sandbox.path(&format!("cache-{number}"));
        let (prefix_text, cache) = (prefix.display().to_string(), cache.display().to_string());
        let create = [
            "create",
            "-p",
            &prefix_text,
            "-c",
            url,
            "--cache-dir",
            &cache,
            "taipan-demo",
        ];
        sandbox.run(&create).expect(0);
        expect_demo_runs(&prefix);
        let verified = sandbox.run(&["mirror", "verify", url]);
        verified.expect(0);
        let status = sandbox.run(&["mirror", "status", url, "--json"]).expect(0);
        assert_eq!(status.objects_of("mirror-status").len(), 2);
    }
    // Nothing has changed: at most three requests per subdir and destination, and no listing.
    for server in [
        &*source as &taipan_mock_servers::Server,
        &destinations.s3,
        &destinations.oci,
    ] {
        server.clear_requests();
    }
    let subdirs = ["--subdir", "noarch", "--subdir", "linux-64"];
    let lines = sync(&sandbox, &source.url(), &urls, &subdirs)
        .expect(0)
        .objects_of("mirror-sync");
    assert!(
        lines.iter().all(|line| line["outcome"] == "unchanged"),
        "{lines:?}"
    );
    assert!(source.requests().iter().all(|it| it.status == Some(304)));
    assert_eq!(source.requests().len(), 2);
    assert!(
        destinations.s3.requests().len() <= 2 * 2,
        "{:?}",
        destinations.s3.requests()
    );
    // The registry is asked once whether it wants a token.
    assert!(destinations.oci.requests().len() <= 2 * 2 + 1);
    let is_listing =
        |query: &Option<String>| query.as_deref().is_some_and(|it| it.contains("list"));
    assert!(
        !destinations
            .s3
            .requests()
            .iter()
            .any(|it| is_listing(&it.query))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zchunk_form_is_published_and_kept_up_to_date() {
    let site = channel().site();
    let source = HttpServer::start(site.clone()).await.unwrap();
    let destinations = Destinations::start().await;
    let sandbox = destinations.sandbox();
    let urls = destinations.urls(&sandbox);
    let compare = || {
        let subdir = sandbox.path("mirror").join("noarch");
        let zck = std::fs::read(subdir.join("repodata.json.zck")).unwrap();
        let plain = std::fs::read(subdir.join("repodata.json")).unwrap();
        let plain: Value = serde_json::from_slice(&plain).unwrap();
        assert_eq!(sandbox.document_in_zck(&zck), plain);
        let in_bucket = destinations
            .bucket
            .get("a/channel/noarch/repodata.json.zck");
        assert!(in_bucket.unwrap()[..] == zck[..]);
        zck
    };
    sync(&sandbox, &source.url(), &urls, &[]).expect(0);
    assert!(!sandbox.path("mirror/noarch/repodata.json.zck").exists());
    // It is added to a mirror that is otherwise up to date.
    sync(&sandbox, &source.url(), &urls, &["--zck"]).expect(0);
    let first = compare();
    let file = named(&sandbox.path("mirror"), "noarch")
        .pop_first()
        .unwrap();
    remove(&site, "noarch", &file);
    sync(&sandbox, &source.url(), &urls, &["--max-delete", "50"]).expect(0);
    assert_ne!(compare(), first);
    // A run without changes publishes nothing.
    for line in sync(&sandbox, &source.url(), &urls, &["--zck"])
        .expect(0)
        .objects_of("mirror-sync")
    {
        assert_eq!(line["outcome"], "unchanged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_not_copied_to_where_it_comes_from() {
    let source = HttpServer::start(channel().site()).await.unwrap();
    let sandbox = Sandbox::new();
    let url = |name: &str| format!("file://{}", sandbox.path(name).display());
    let copy = |from: &str, to: &str| sync(&sandbox, from, &[to.to_owned()], &[]);
    copy(&source.url(), &url("first")).expect(0);
    copy(&url("first"), &url("second")).expect(0);
    copy(&url("second"), &url("third")).expect(0);
    for from in ["second", "third"] {
        let finished = copy(&url(from), &url("first")).expect(2);
        for line in finished.objects_of("mirror-sync") {
            assert_eq!(line["outcome"], "failed");
            let problem = line["problem"].as_str().unwrap();
            assert!(
                problem.contains("is a mirror of this destination"),
                "{problem}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_left_out_and_tried_again() {
    let site = channel().site();
    let source = HttpServer::start(site.clone()).await.unwrap();
    let sandbox = Sandbox::new();
    let url = [format!("file://{}", sandbox.path("mirror").display())];
    let missing = Matcher::contains("demo-corpus");
    let corrupt = Matcher::contains("demo-lib");
    let faults = Behaviour::new()
        .with_rule(Rule::always(missing, Fault::status(404)))
        .with_rule(Rule::always(corrupt, Fault::Corrupt { at: 100 }));
    source.set_behaviour(faults);
    let report = sandbox.path("report.jsonl").display().to_string();
    let new = sandbox.path("new.txt").display().to_string();
    let metrics = sandbox.path("metrics.prom").display().to_string();
    let files = [
        "--report",
        &report,
        "--new-files",
        &new,
        "--metrics",
        &metrics,
    ];
    let finished = sync(&sandbox, &source.url(), &url, &files).expect(6);
    let failed: usize = (finished.objects_of("mirror-sync").iter())
        .map(|line| usize::try_from(line["failed"].as_u64().unwrap()).unwrap())
        .sum();
    assert!(failed >= 2, "{failed}");
    for subdir in ["noarch", "linux-64"] {
        for file in named(&sandbox.path("mirror"), subdir) {
            assert!(
                !file.starts_with("demo-corpus") && !file.starts_with("demo-lib"),
                "{file}"
            );
            assert!(sandbox.path("mirror").join(subdir).join(file).is_file());
        }
    }
    let report = std::fs::read_to_string(report).unwrap();
    assert_eq!(report.matches("\"failed\"").count(), failed, "{report}");
    let sent = report.matches("\"sent\"").count();
    assert_eq!(std::fs::read_to_string(new).unwrap().lines().count(), sent);
    let metrics = std::fs::read_to_string(metrics).unwrap();
    assert!(
        metrics.contains("taipan_mirror_left_out_packages{"),
        "{metrics}"
    );
    for name in [
        "last_success_timestamp_seconds",
        "source_index_age_seconds",
        "index_age_seconds",
    ] {
        assert!(
            metrics.contains(&format!("\ntaipan_mirror_{name}{{")),
            "{metrics}"
        );
    }

    // The source is good again. The next run waits; one that is told to does not.
    source.set_behaviour(Behaviour::new());
    sync(&sandbox, &source.url(), &url, &[]).expect(6);
    sync(&sandbox, &source.url(), &url, &["--retry-failed"]).expect(0);
    let all: usize = ["noarch", "linux-64"]
        .map(|it| named(&sandbox.path("mirror"), it).len())
        .iter()
        .sum();
    assert_eq!(all, sent + failed);
    sandbox.run(&["mirror", "verify", &url[0]]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_publishes_all_or_nothing() {
    let source = HttpServer::start(channel().site()).await.unwrap();
    source.set_behaviour(Behaviour::new().with_rule(Rule::always(
        Matcher::contains("demo-corpus"),
        Fault::status(404),
    )));
    let sandbox = Sandbox::new();
    let url = [format!("file://{}", sandbox.path("mirror").display())];
    sync(&sandbox, &source.url(), &url, &["--strict"]).expect(1);
    let published = ["noarch", "linux-64"].map(|subdir| {
        sandbox
            .path("mirror")
            .join(subdir)
            .join("repodata.json")
            .is_file()
    });
    assert!(published.contains(&false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_source_drops_is_deleted_after_the_grace() {
    let site = channel().site();
    let source = HttpServer::start(site.clone()).await.unwrap();
    let destinations = Destinations::start().await;
    let sandbox = destinations.sandbox();
    let urls = destinations.urls(&sandbox);
    sync(&sandbox, &source.url(), &urls, &[]).expect(0);
    let file = named(&sandbox.path("mirror"), "noarch")
        .pop_first()
        .unwrap();
    let copy = sandbox.path("mirror").join("noarch").join(&file);
    remove(&site, "noarch", &file);
    // A source that lists much less is not believed.
    let finished = sync(
        &sandbox,
        &source.url(),
        &urls,
        &["--subdir", "noarch", "--prune"],
    );
    let finished = finished.expect(1);
    assert!(
        finished.stdout.contains("nothing was changed"),
        "{}",
        finished.stdout
    );
    assert!(named(&sandbox.path("mirror"), "noarch").contains(&file));
    // When that is meant, the index changes at once and the file stays.
    let meant = ["--subdir", "noarch", "--prune", "--max-delete", "100"];
    sync(&sandbox, &source.url(), &urls, &meant).expect(0);
    assert!(!named(&sandbox.path("mirror"), "noarch").contains(&file));
    assert!(copy.is_file());
    assert!(
        destinations
            .bucket
            .contains(&format!("a/channel/noarch/{file}"))
    );
    let now = [&meant[..], &["--grace", "0"]].concat();
    let lines = sync(&sandbox, &source.url(), &urls, &now)
        .expect(0)
        .objects_of("mirror-sync");
    for line in &lines {
        assert_eq!(
            (&line["deleted"], &line["waiting_for_deletion"]),
            (&1.into(), &0.into())
        );
    }
    assert!(!copy.exists());
    assert!(
        !destinations
            .bucket
            .contains(&format!("a/channel/noarch/{file}"))
    );
    // A source that is away, empty or a web page changes nothing.
    for broken in [
        &b""[..],
        b"<html>login</html>",
        b"{\"packages\":{}",
        b"{\"packages\":{}}",
    ] {
        site.insert("noarch/repodata.json", broken.to_vec());
        let code = sync(
            &sandbox,
            &source.url(),
            &urls,
            &["--subdir", "noarch", "--prune"],
        );
        assert_ne!(code.code, Some(0), "{}", String::from_utf8_lossy(broken));
        assert!(!named(&sandbox.path("mirror"), "noarch").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_at_the_source_is_replaced_everywhere() {
    let site = channel().site();
    let source = HttpServer::start(site.clone()).await.unwrap();
    let destinations = Destinations::start().await;
    let sandbox = destinations.sandbox();
    let urls = destinations.urls(&sandbox);
    sync(&sandbox, &source.url(), &urls, &[]).expect(0);
    let file = named(&sandbox.path("mirror"), "noarch")
        .pop_first()
        .unwrap();
    let path = format!("noarch/{file}");
    let mut bytes = site.get(&path).unwrap().to_vec();
    bytes.extend_from_slice(b"another build");
    let (sha256, length) = (taipan_transfer::Sha256::of(&bytes).to_string(), bytes.len());
    site.insert(&path, bytes.clone());
    edit(&site, "noarch", |records| {
        if let Some(record) = records.get_mut(&file) {
            record["sha256"] = sha256.clone().into();
            record["size"] = length.into();
            record.as_object_mut().unwrap().remove("md5");
        }
    });
    let lines = sync(&sandbox, &source.url(), &urls, &["--subdir", "noarch"]).expect(0);
    for line in lines.objects_of("mirror-sync") {
        assert_eq!(line["sent"], 1, "{line}");
    }
    assert!(std::fs::read(sandbox.path("mirror").join(&path)).unwrap() == bytes);
    for url in &urls {
        sandbox
            .run(&["mirror", "verify", url, "--subdir", "noarch"])
            .expect(0);
    }
    // What others damage is found and sent again, part by part.
    std::fs::write(sandbox.path("mirror").join(&path), b"damaged").unwrap();
    sandbox.run(&["mirror", "verify", &urls[0]]).expect(5);
    for _ in 0..30 {
        sync(
            &sandbox,
            &source.url(),
            &urls[..1],
            &["--subdir", "noarch", "--verify"],
        )
        .expect(0);
    }
    sandbox.run(&["mirror", "verify", &urls[0]]).expect(0);
}

/// At every moment the index of a destination names only what is there, and a rerun sends what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_is_killed_is_continued_by_the_next() {
    let kills: u64 = match std::env::var("TAIPAN_SYNC_KILLS") {
        Ok(text) => text.parse().expect("TAIPAN_SYNC_KILLS is a number"),
        Err(_) => 8,
    };
    let site = channel().site();
    let source = HttpServer::start(site.clone()).await.unwrap();
    let destinations = Destinations::start().await;
    let sandbox = destinations.sandbox();
    let urls = destinations.urls(&sandbox);
    let slow = Behaviour::new().with_latency(Duration::from_millis(4));
    destinations.s3.set_behaviour(slow.clone());
    destinations.oci.set_behaviour(slow);
    let mut arguments = vec!["mirror".to_owned(), "sync".to_owned(), source.url()];
    arguments.extend(urls.clone());
    for kill in 0..kills {
        let mut child = sandbox.start(&arguments);
        // Different moments, from the first request to the last.
        tokio::time::sleep(Duration::from_millis(20 + (kill * 131) % 400)).await;
        let _ = child.kill();
        finish(child);
        for url in &urls {
            let verified = sandbox.run(&["mirror", "verify", url]);
            // There is no index yet, or a right one.
            assert!(
                matches!(verified.code, Some(0 | 1)),
                "{url}: {}",
                verified.stderr
            );
            assert!(verified.code == Some(0) || verified.stderr.contains("has no index"));
        }
    }
    let lines = sync(&sandbox, &source.url(), &urls, &[])
        .expect(0)
        .objects_of("mirror-sync");
    for line in &lines {
        let count = |key: &str| line[key].as_u64().unwrap();
        assert!(
            count("sent") + count("found") <= count("packages"),
            "{line}"
        );
    }
    for url in &urls {
        sandbox.run(&["mirror", "verify", url]).expect(0);
    }
    let lines = sync(&sandbox, &source.url(), &urls, &[])
        .expect(0)
        .objects_of("mirror-sync");
    assert!(lines.iter().all(|line| line["outcome"] == "unchanged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_stops_at_its_limits_and_the_next_continues() {
    let source = HttpServer::start(channel().site()).await.unwrap();
    let sandbox = Sandbox::new();
    let url = [format!("file://{}", sandbox.path("mirror").display())];
    let noarch = ["--subdir", "noarch"];
    let limited = [&noarch[..], &["--max-bytes", "1", "--jobs", "1"]].concat();
    let lines = sync(&sandbox, &source.url(), &url, &limited)
        .expect(6)
        .objects_of("mirror-sync");
    assert_eq!(lines[0]["sent"], 1);
    assert!(lines[0]["postponed"].as_u64().unwrap() > 0);
    assert_eq!(named(&sandbox.path("mirror"), "noarch").len(), 1);
    sync(&sandbox, &source.url(), &url, &noarch).expect(0);
    sandbox.run(&["mirror", "verify", &url[0]]).expect(0);
    let none = [&noarch[..], &["--max-time", "0"]].concat();
    sync(&sandbox, &source.url(), &url, &none).expect(0);
}

/// Three workers, one of which is killed, and the source changes meanwhile: all work from one index, and the last publishes.
#[tokio::test(flavor = "multi_thread")]
async fn workers_share_a_sync() {
    let site = channel().site();
    let source = HttpServer::start(site.clone()).await.unwrap();
    let destinations = Destinations::start().await;
    let sandbox = destinations.sandbox();
    for url in destinations.urls(&sandbox) {
        let url = [url];
        let worker = |share: &str, code: i32| {
            let arguments = ["--subdir", "noarch", "--worker", share];
            sync(&sandbox, &source.url(), &url, &arguments)
                .expect(code)
                .objects_of("mirror-sync")
        };
        let first = worker("0/3", 0);
        assert_eq!(first[0]["outcome"], "share done");
        let arguments = [
            "mirror",
            "sync",
            &source.url(),
            &url[0],
            "--subdir",
            "noarch",
            "--worker",
            "1/3",
        ];
        let mut killed = sandbox.start(&arguments);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let _ = killed.kill();
        finish(killed);
        // What was begun is finished, whatever the source lists now.
        let index = site.get("noarch/repodata.json").unwrap();
        let file = site
            .paths()
            .into_iter()
            .find(|it| it.starts_with("noarch/demo-link-03"))
            .unwrap();
        remove(&site, "noarch", file.strip_prefix("noarch/").unwrap());
        let second = worker("2/3", 0);
        // The killed one may have been done before.
        if second[0]["outcome"] != "published" {
            assert_eq!(worker("1/3", 0)[0]["outcome"], "published");
        }
        let verified = sandbox
            .run(&["mirror", "verify", &url[0], "--json"])
            .expect(0);
        let packages = verified.objects_of("mirror-verified")[0]["packages"].as_u64();
        let whole: Value = serde_json::from_slice(&index).unwrap();
        let count = ["packages", "packages.conda"].map(|map| whole[map].as_object().unwrap().len());
        assert_eq!(packages, Some(count.iter().sum::<usize>() as u64));
        site.insert("noarch/repodata.json", index);
        sync(&sandbox, &source.url(), &url, &["--subdir", "noarch"]).expect(0);
    }
    for wrong in ["3/3", "x", "1", "-1/2", "0/0"] {
        let url = [format!("file://{}", sandbox.path("no").display())];
        sync(
            &sandbox,
            &source.url(),
            &url,
            &[&format!("--worker={wrong}")],
        )
        .expect(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_choose_what_is_copied() {
    let source = HttpServer::start(channel().site()).await.unwrap();
    let sandbox = Sandbox::new();
    let mirror = |name: &str| [format!("file://{}", sandbox.path(name).display())];
    let names = |name: &str| -> BTreeSet<String> {
        let files = ["noarch", "linux-64"].map(|subdir| named(&sandbox.path(name), subdir));
        let name = |file: String| file.rsplitn(3, '-').nth(2).unwrap().to_owned();
        files.into_iter().flatten().map(name).collect()
    };
    sync(
        &sandbox,
        &source.url(),
        &mirror("one"),
        &["--include", "demo-lib"],
    )
    .expect(0);
    assert_eq!(names("one"), BTreeSet::from(["demo-lib".to_owned()]));
    let closure = ["--include", "taipan-demo", "--with-dependencies"];
    sync(&sandbox, &source.url(), &mirror("closed"), &closure).expect(0);
    assert!(names("closed").is_superset(&["taipan-demo", "demo-lib"].map(str::to_owned).into()));
    sync(
        &sandbox,
        &source.url(),
        &mirror("rest"),
        &["--exclude", "demo-*"],
    )
    .expect(0);
    assert!(names("rest").iter().all(|name| !name.starts_with("demo-")));
    let file = named(&sandbox.path("one"), "linux-64")
        .into_iter()
        .chain(named(&sandbox.path("one"), "noarch"))
        .next()
        .unwrap();
    let subdir = if sandbox.path("one").join("noarch").join(&file).is_file() {
        "noarch"
    } else {
        "linux-64"
    };
    let lock = sandbox.write(
        "lock.txt",
        &format!("@EXPLICIT\nhttps://x.example/c/{subdir}/{file}#00\n"),
    );
    sync(
        &sandbox,
        &source.url(),
        &mirror("locked"),
        &["--lock", &lock.display().to_string()],
    )
    .expect(0);
    assert_eq!(
        named(&sandbox.path("locked"), subdir),
        BTreeSet::from([file])
    );
    let empty = sandbox
        .write("empty.txt", "nothing\n")
        .display()
        .to_string();
    for wrong in [
        &["--lock", &empty][..],
        &["--include", "x["],
        &["--exclude-newer", "soon"],
        &["--with-dependencies"],
        &["--max-delete", "200"],
    ] {
        sync(&sandbox, &source.url(), &mirror("no"), wrong).expect(2);
    }
    assert!(!sandbox.path("no").exists());
    let dry = sync(&sandbox, &source.url(), &mirror("dry"), &["--dry-run"]).expect(0);
    assert!(dry.objects_of("mirror-sync")[0]["sent"].as_u64().unwrap() > 0);
    assert!(!sandbox.path("dry").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_fails_does_not_stop_the_others() {
    let source = HttpServer::start(channel().site()).await.unwrap();
    let destinations = Destinations::start().await;
    let mut sandbox = destinations.sandbox();
    let urls = [
        format!("file://{}", sandbox.path("mirror").display()),
        "s3://missing/x".to_owned(),
    ];
    let finished = sync(&sandbox, &source.url(), &urls, &[]).expect(1);
    assert!(
        finished.stdout.contains("the bucket does not exist"),
        "{}",
        finished.stdout
    );
    sandbox.run(&["mirror", "verify", &urls[0]]).expect(0);
    // Wrong keys: what failed, and no secret.
    sandbox.set("AWS_SECRET_ACCESS_KEY", "hunter2");
    let s3 = ["s3://bucket/x".to_owned()];
    let finished = sync(&sandbox, &source.url(), &s3, &[]);
    assert_ne!(finished.code, Some(0));
    let all = format!("{}{}", finished.stdout, finished.stderr);
    assert!(
        all.contains("SignatureDoesNotMatch") && !all.contains("hunter2"),
        "{all}"
    );
    // A registry that wants to know who pushes.
    let auth = taipan_mock_servers::OciAuth::Bearer(taipan_mock_servers::BearerAuth::new());
    let registry = OciServer::builder().auth(auth).start().await.unwrap();
    let oci = [format!("oci+http://{}/x", registry.host())];
    let finished = sync(&sandbox, &source.url(), &oci, &[]).expect(1);
    assert!(
        finished.stdout.contains("authentication"),
        "{}",
        finished.stdout
    );
    for (place, code) in [
        ("https://x.example/y", 2),
        ("ftp://x", 2),
        ("oci://UPPER/../x", 2),
    ] {
        sync(&sandbox, &source.url(), &[place.to_owned()], &[]).expect(code);
    }
    // A copy of itself.
    sync(&sandbox, &urls[0], &urls[..1], &[]).expect(2);
    let twice = [urls[0].clone(), urls[0].clone()];
    sync(&sandbox, &source.url(), &twice, &[]).expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_sync_leaves_nothing_incomplete() {
    let source = HttpServer::start(channel().site()).await.unwrap();
    let sandbox = Sandbox::new();
    let url = format!("file://{}", sandbox.path("mirror").display());
    let arguments = ["mirror", "sync", &source.url(), &url, "--limit-rate", "50k"];
    let child = sandbox.start(&arguments);
    // Until the first package is being written.
    let directory = sandbox.path("mirror").join("noarch");
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(&directory).into_iter().flatten();
        entries
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    for _ in 0..1000 {
        if names().iter().any(|name| name.starts_with(".taipan-new")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    taipan_tests::signal(&child, "INT");
    finish(child).expect(130);
    assert!(
        names().iter().all(|name| !name.starts_with(".taipan-new")),
        "{:?}",
        names()
    );
    sync(&sandbox, &source.url(), std::slice::from_ref(&url), &[]).expect(0);
    sandbox.run(&["mirror", "verify", &url]).expect(0);
}

/// An index without anything empties no mirror, also when the filters changed; a locked file that is not there is named.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_index_is_never_believed() {
    let site = channel().site();
    let source = HttpServer::start(site.clone()).await.unwrap();
    let sandbox = Sandbox::new();
    let place = format!("file://{}", sandbox.path("mirror").display());
    let urls = [place];
    sync(&sandbox, &source.url(), &urls, &["--subdir", "noarch"]).expect(0);
    let before = named(&sandbox.path("mirror"), "noarch");
    let empty = r#"{"info":{"subdir":"noarch"},"packages":{},"packages.conda":{}}"#;
    site.insert("noarch/repodata.json", empty);
    site.remove("noarch/repodata.json.zst");
    let more = [
        "--subdir",
        "noarch",
        "--exclude",
        "none-such",
        "--prune",
        "--grace",
        "0s",
    ];
    sync(&sandbox, &source.url(), &urls, &more).expect(1);
    assert_eq!(named(&sandbox.path("mirror"), "noarch"), before);

    let lock = sandbox.write(
        "lock.txt",
        "@EXPLICIT\nhttps://h.example/c/noarch/none-such-1-0.conda\n",
    );
    let site = channel().site();
    let source = HttpServer::start(site).await.unwrap();
    let lock = lock.display().to_string();
    let place = [format!("file://{}", sandbox.path("locked").display())];
    let finished = sandbox.run(&[
        "mirror",
        "sync",
        &source.url(),
        &place[0],
        "--subdir",
        "noarch",
        "--lock",
        &lock,
    ]);
    assert!(
        finished
            .stderr
            .contains("noarch/none-such-1-0.conda is in a lock file"),
        "{}",
        finished.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_dates_and_files_of_names_choose_what_is_copied() {
    let source = HttpServer::start(channel().site()).await.unwrap();
    let sandbox = Sandbox::new();
    let copied = |name: &str, more: &[&str]| -> BTreeSet<String> {
        let place = [format!("file://{}", sandbox.path(name).display())];
        let more = [&["--subdir", "noarch"], more].concat();
        sync(&sandbox, &source.url(), &place, &more).expect(0);
        named(&sandbox.path(name), "noarch")
    };
    let of = |files: &BTreeSet<String>, name: &str| -> Vec<String> {
        let files = files.iter().filter(|file| file.starts_with(name));
        files.cloned().collect()
    };
    let all = copied("all", &[]);
    assert_eq!(of(&all, "demo-greetings").len(), 3);
    let newest = copied("newest", &["--newest", "1"]);
    assert_eq!(
        of(&newest, "demo-greetings"),
        ["demo-greetings-2.0-0.conda"]
    );
    assert_eq!(of(&newest, "demo-link").len(), 12);
    let newest = copied("two", &["--newest", "2"]);
    assert_eq!(
        of(&newest, "demo-greetings"),
        ["demo-greetings-1.1-0.conda", "demo-greetings-2.0-0.conda"]
    );

    // The builds of 1.0 and 1.1 are from September 2023 or before, that of 2.0 is from January 2024.
    let older = copied("older", &["--exclude-newer", "2023-12-01"]);
    assert_eq!(
        of(&older, "demo-greetings"),
        ["demo-greetings-1.0-0.conda", "demo-greetings-1.1-0.conda"]
    );

    let list = sandbox.write("names.txt", "# comment\ndemo-greetings\n\ndemo-lib # why\n");
    let only = copied("only", &["--only-names-in", &list.display().to_string()]);
    assert!(
        only.iter()
            .all(|file| file.starts_with("demo-greetings") || file.starts_with("demo-lib-"))
    );
    assert_eq!(of(&only, "demo-greetings").len(), 3);
    let list = sandbox.write("excluded.txt", "demo-link-*\ndemo-greetings <2\n");
    let rest = copied("rest", &["--exclude-file", &list.display().to_string()]);
    let expected: BTreeSet<String> = all
        .iter()
        .filter(|file| !file.starts_with("demo-link-") && !file.starts_with("demo-greetings-1"))
        .cloned()
        .collect();
    assert_eq!(rest, expected);
}

/// Packages may be kept for good by caches, indexes not; a bucket knows the digest of what it has.
#[tokio::test(flavor = "multi_thread")]
async fn objects_have_types_cache_headers_and_digests() {
    let source = HttpServer::start(channel().site()).await.unwrap();
    let destinations = Destinations::start().await;
    let sandbox = destinations.sandbox();
    let place = ["s3://bucket/a".to_owned()];
    sync(
        &sandbox,
        &source.url(),
        &place,
        &["--subdir", "noarch", "--zck"],
    )
    .expect(0);
    let puts = destinations.s3.requests();
    let of = |end: &str| {
        let put = puts
            .iter()
            .find(|it| it.method == "PUT" && it.path.ends_with(end));
        put.unwrap_or_else(|| panic!("no {end}")).clone()
    };
    for (end, kind, cache) in [
        (
            ".conda",
            "application/octet-stream",
            "public, max-age=31536000, immutable",
        ),
        ("repodata.json", "application/json", "public, max-age=300"),
        (
            "repodata.json.zst",
            "application/zstd",
            "public, max-age=300",
        ),
        (
            "repodata.json.zck",
            "application/octet-stream",
            "public, max-age=300",
        ),
        ("state.json", "application/json", "no-cache"),
    ] {
        let put = of(end);
        assert_eq!(put.header("content-type"), Some(kind), "{end}");
        assert_eq!(put.header("cache-control"), Some(cache), "{end}");
        let stored = destinations
            .bucket
            .get(put.path.strip_prefix("/bucket/").unwrap())
            .unwrap();
        let digest = taipan_transfer::Sha256::of(&stored).to_string();
        assert_eq!(put.header("x-amz-meta-sha256"), Some(&*digest), "{end}");
    }
}
