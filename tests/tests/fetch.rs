//! `taipan fetch`: files by path, URL and metalink, from mirrors of all protocols.

use std::{fmt::Write as _, process::Command};

use taipan_mock_servers::{
    Behaviour, DemoChannel, Fault, Fleet, Matcher, RefusingServer, Rule, Site,
};
use taipan_tests::{
    CHANNEL, Finished, Sandbox, always, bytes_sent, demo_channel, finish, serve, signal,
};

fn channel() -> DemoChannel {
    demo_channel(500_000)
}

/// Content without repetitions.
fn content() -> Vec<u8> {
    (0..300_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect()
}

fn fetch(sandbox: &Sandbox, arguments: &[&str]) -> Finished {
    sandbox.run(&[&["fetch"], arguments].concat())
}

/// The names in the sandbox without the cache and the mirrors file.
fn names(sandbox: &Sandbox) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(sandbox.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "cache" && name != "m.toml")
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_fetched_verified_and_not_fetched_again() {
    let site = Site::new();
    site.insert("dir/a file.bin", content());
    let server = serve(&site, Behaviour::new()).await;
    let url = format!("{}dir/a%20file.bin", server.url());
    let sandbox = Sandbox::new();
    let plain = fetch(&sandbox, &[&url]).expect(0);
    assert!(plain.stderr.contains("not verified"), "{}", plain.stderr);
    assert_eq!(
        std::fs::read(sandbox.path("a file.bin")).unwrap(),
        content()
    );
    let sum = Command::new("sha256sum")
        .arg(sandbox.path("a file.bin"))
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let sum = sum
        .split_ascii_whitespace()
        .next()
        .unwrap()
        .trim_start_matches('\\');

    let args = [url.as_str(), "--sha256", sum, "-o", "other", "--json"];
    let finished = fetch(&sandbox, &args).expect(0);
    let file = &finished.objects_of("file")[0];
    assert_eq!(
        (&file["status"], &file["verified"]),
        (&"fetched".into(), &true.into())
    );
    assert_eq!(
        (&file["sha256"], &file["bytes"]),
        (&sum.into(), &300_000.into())
    );
    let by_mirror = finished.objects_of("mirror");
    assert_eq!(
        (by_mirror.len(), &by_mirror[0]["bytes"]),
        (1, &300_000.into())
    );
    // The file is present.
    server.clear_requests();
    let finished = fetch(&sandbox, &args).expect(0);
    assert_eq!(finished.objects_of("file")[0]["status"], "present");
    assert!(server.requests().is_empty());
    // A present file with another digest is replaced.
    sandbox.write("other", "something else");
    fetch(&sandbox, &args).expect(0);
    assert_eq!(std::fs::read(sandbox.path("other")).unwrap(), content());

    // Digest mismatch: the output file is not created, and an existing one is kept.
    let wrong = "0".repeat(64);
    let finished = fetch(&sandbox, &[&url, "--sha256", &wrong, "-o", "other"]).expect(5);
    assert!(finished.stderr.contains("sha256"), "{}", finished.stderr);
    assert_eq!(std::fs::read(sandbox.path("other")).unwrap(), content());
    fetch(&sandbox, &[&url, "--sha256", &wrong, "-o", "third"]).expect(5);
    assert!(!sandbox.path("third").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_come_from_any_mirror_and_are_verified_by_repodata() {
    let fleet = Fleet::start(channel()).await.unwrap();
    let package = fleet.channel().package("demo-corpus").unwrap().clone();
    let sandbox = Sandbox::of_fleet(&fleet);
    // Each protocol alone, with a path and with a URL below the channel.
    for (name, argument) in [
        ("fast", package.path()),
        ("s3", format!("{CHANNEL}/{}", package.path())),
        ("oci", package.path()),
    ] {
        sandbox.write("m.toml", &fleet.some_mirrors_toml(CHANNEL, &[(name, 0)]));
        let args = [
            "-c",
            CHANNEL,
            "--mirrors",
            "m.toml",
            "-d",
            name,
            "--json",
            &argument,
        ];
        let file = &fetch(&sandbox, &args).expect(0).objects_of("file")[0];
        assert_eq!(file["sha256"], package.sha256(), "{name}");
        assert_eq!(file["verified"], true, "{name}");
        let path = sandbox
            .path(name)
            .join(package.path().rsplit('/').next().unwrap());
        assert_eq!(std::fs::read(path).unwrap(), package.bytes[..], "{name}");
    }
    // A registry needs the repodata also when the digest is given; and a plain list applies to the
    // requested channel, whatever other lists name.
    sandbox.write("m.toml", &fleet.some_mirrors_toml(CHANNEL, &[("oci", 0)]));
    let name = package.path();
    let digest = package.sha256();
    let args = [
        "-c",
        CHANNEL,
        "--mirrors",
        "m.toml",
        "-o",
        "again",
        "--sha256",
        &digest,
        &name,
    ];
    fetch(&sandbox, &args).expect(0);
    assert_eq!(
        std::fs::read(sandbox.path("again")).unwrap(),
        package.bytes[..]
    );
    sandbox.write("plain", &fleet.mirror("fast").unwrap().location.url());
    let named = [
        "-c",
        "https://other.invalid/x",
        "--mirrors",
        "plain",
        "--mirrors",
        "m.toml",
    ];
    let args = [&named[..], &["-o", "other", &name]].concat();
    fetch(&sandbox, &args).expect(0);
    assert_eq!(
        std::fs::read(sandbox.path("other")).unwrap(),
        package.bytes[..]
    );
    // The corrupt mirror first: the file comes from the next one, and the table shows the attempt.
    let chosen = [("corrupt", 0), ("dead", 0), ("fast", 1)];
    sandbox.write("m.toml", &fleet.some_mirrors_toml(CHANNEL, &chosen));
    let path = package.path();
    let args = [
        "-c",
        CHANNEL,
        "--mirrors",
        "m.toml",
        "-o",
        "file",
        path.as_str(),
    ];
    let finished = fetch(&sandbox, &args).expect(0);
    for part in ["1 corrupt", "Failed attempts:", "verified"] {
        assert!(
            finished.stderr.contains(part),
            "`{part}`: {}",
            finished.stderr
        );
    }
    assert_eq!(
        std::fs::read(sandbox.path("file")).unwrap(),
        package.bytes[..]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_files_of_a_channel_are_fetched_in_one_run() {
    let channel = channel();
    let server = serve(&channel.site(), Behaviour::new()).await;
    let corpus = channel.package("demo-corpus").unwrap();
    let library = channel.package("demo-lib").unwrap();
    let sandbox = Sandbox::new();
    // The URL of the channel, also as the alias of names.
    let alias = server.url();
    let first = format!("{}{}", server.url(), corpus.path());
    let finished = fetch(
        &sandbox,
        &[
            "--channel-alias",
            &alias,
            "-c",
            &alias,
            "-d",
            "out",
            &first,
            &library.path(),
            "noarch/repodata.json",
            "--json",
        ],
    )
    .expect(0);
    let files = finished.objects_of("file");
    let verified: Vec<bool> = files
        .iter()
        .map(|f| f["verified"].as_bool().unwrap())
        .collect();
    assert_eq!(verified, [true, true, false]);
    for package in [corpus, library] {
        let name = package.path();
        let path = sandbox.path("out").join(name.rsplit('/').next().unwrap());
        assert_eq!(std::fs::read(path).unwrap(), package.bytes[..]);
    }
    let repodata = std::fs::read(sandbox.path("out/repodata.json")).unwrap();
    assert_eq!(
        repodata,
        channel.site().get("noarch/repodata.json").unwrap()[..]
    );
    // A local channel without -c; one of two files is missing.
    let local = sandbox.path("local/noarch");
    std::fs::create_dir_all(&local).unwrap();
    std::fs::write(local.join("here.txt"), "here").unwrap();
    let finished = fetch(
        &sandbox,
        &["./local/noarch/here.txt", "./local/noarch/gone.txt"],
    )
    .expect(4);
    assert_eq!(std::fs::read(sandbox.path("here.txt")).unwrap(), b"here");
    assert!(finished.stderr.contains("gone.txt"), "{}", finished.stderr);
    assert!(!sandbox.path("gone.txt").exists());
}

fn metalink(sha256: &str, urls: &[String]) -> String {
    let mut text = format!(
        "<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"><file name=\"sub/file.bin\"><size>300000</size>\
         <hash type=\"sha-256\">{sha256}</hash>"
    );
    for (index, url) in (1..).zip(urls) {
        write!(text, "<url priority=\"{index}\">{url}</url>").unwrap();
    }
    text + "</file></metalink>"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metalink_names_files_digests_and_mirrors() {
    let site = Site::new();
    site.insert("a/file.bin", content());
    // Another mirror has the file under another name.
    site.insert("b/other-name", content());
    let good = serve(&site, Behaviour::new()).await;
    let broken = serve(&site, always(Fault::Truncate { after: 100_000 })).await;
    let liar = serve(&site, always(Fault::Corrupt { at: 5 })).await;
    let dead = RefusingServer::start().unwrap();
    let sha256 = {
        let sandbox = Sandbox::new();
        let url = format!("{}a/file.bin", good.url());
        let finished = fetch(&sandbox, &[&url, "--json"]).expect(0);
        finished.objects_of("file")[0]["sha256"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let urls = [
        format!("{}a/file.bin", broken.url()),
        format!("{}a/file.bin", liar.url()),
        format!("{}a/file.bin", dead.url()),
        format!("{}b/other-name", good.url()),
    ];
    let text = metalink(&sha256, &urls);
    site.insert("list.meta4", text.clone().into_bytes());
    let sandbox = Sandbox::new();
    sandbox.write("list.meta4", &text);
    for (place, dir) in [
        ("list.meta4".to_owned(), "one"),
        (format!("{}list.meta4", good.url()), "two"),
    ] {
        let finished = fetch(&sandbox, &[&place, "-d", dir, "--json"]).expect(0);
        let file = &finished.objects_of("file")[0];
        assert_eq!(
            (&file["verified"], &file["file"]),
            (&true.into(), &"sub/file.bin".into())
        );
        let path = sandbox.path(dir).join("sub/file.bin");
        assert_eq!(std::fs::read(path).unwrap(), content(), "{place}");
        let entries = std::fs::read_dir(sandbox.path(dir).join("sub")).unwrap();
        assert_eq!(entries.count(), 1, "{place}");
    }
    // No mirror has the content with the digest of the metalink.
    sandbox.write("wrong.meta4", &metalink(&"1".repeat(64), &urls[3..]));
    fetch(&sandbox, &["wrong.meta4", "-d", "three"]).expect(5);
    assert!(!sandbox.path("three/sub/file.bin").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn stdout_gets_the_bytes_in_order_before_verification() {
    let site = Site::new();
    site.insert("f", "line\n".repeat(50_000).into_bytes());
    let text = "line\n".repeat(50_000);
    let good = serve(&site, Behaviour::new()).await;
    // The first body is truncated; the file restarts, and no byte is written twice.
    let once =
        Behaviour::new().with_rule(Rule::once(Matcher::Any, Fault::Truncate { after: 70_000 }));
    let flaky = serve(&site, once).await;
    let sandbox = Sandbox::new();
    for server in [&good, &flaky] {
        let finished = fetch(&sandbox, &[&format!("{}f", server.url()), "-o", "-"]).expect(0);
        assert_eq!(finished.stdout.len(), text.len());
        assert!(finished.stdout == text);
    }
    let wrong = "2".repeat(64);
    let finished = fetch(
        &sandbox,
        &[&format!("{}f", good.url()), "-o", "-", "--sha256", &wrong],
    )
    .expect(5);
    assert!(finished.stdout.starts_with("line\n"));
    assert!(finished.stderr.contains("sha256"), "{}", finished.stderr);
    assert_eq!(names(&sandbox), Vec::<String>::new());
    fetch(&sandbox, &["https://a.invalid/f", "-o", "-", "--json"]).expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_an_error_and_an_exit_code() {
    let site = Site::new();
    site.insert("a/f", content());
    site.insert("b/f", content());
    let server = serve(&site, Behaviour::new()).await;
    let dead = RefusingServer::start().unwrap();
    let sandbox = Sandbox::new();
    let at = |path: &str| format!("{}{path}", server.url());
    let (one, two) = (at("a/f"), at("b/f"));
    std::fs::create_dir(sandbox.path("dir")).unwrap();
    sandbox.write("in-the-way", "");
    sandbox.write(
        "none.meta4",
        "<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"></metalink>",
    );
    let mut errors = String::new();
    for (arguments, code) in [
        (vec![at("gone")], 4),
        (vec![format!("{}f", dead.url())], 4),
        (vec![one.clone(), two.clone()], 2),
        (vec![one.clone(), two.clone(), "-o".into(), "x".into()], 2),
        (vec![one.clone(), "-o".into(), "dir".into()], 2),
        (vec![one.clone(), "-d".into(), "in-the-way".into()], 1),
        (vec![one.clone(), "--sha256".into(), "abc".into()], 2),
        (vec!["oci://r.invalid/n/f".into()], 2),
        (vec!["https://a.invalid/".into()], 2),
        (vec!["none.meta4".into()], 2),
        (vec!["no-such.meta4".into()], 2),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let finished = fetch(&sandbox, &arguments).expect(code);
        let error = finished.stderr.find("error:").unwrap();
        let said = finished.stderr[error..]
            .replace(&server.url(), "SERVER/")
            .replace(&dead.url(), "DEAD/");
        writeln!(errors, "{said}").unwrap();
    }
    insta::assert_snapshot!(errors);
    assert_eq!(names(&sandbox), ["dir", "in-the-way", "none.meta4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_fetch_leaves_no_output_file() {
    let site = Site::new();
    site.insert("f", content());
    let server = serve(&site, always(Fault::Stall { after: 100_000 })).await;
    let sandbox = Sandbox::new();
    let child = sandbox.start(&["fetch", &format!("{}f", server.url())]);
    server
        .wait_until(|requests| requests.iter().any(|r| r.bytes_sent > 90_000))
        .await;
    signal(&child, "INT");
    let finished = finish(child).expect(130);
    assert!(
        finished.stderr.contains("interrupted"),
        "{}",
        finished.stderr
    );
    assert!(!sandbox.path("f").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_connections_and_offline_are_respected() {
    let site = Site::new();
    let large: Vec<u8> = content().repeat(20);
    site.insert("large", large.clone());
    site.insert("list.meta4", metalink(&"3".repeat(64), &[]).into_bytes());
    let server = serve(&site, Behaviour::new().with_rate(20_000_000)).await;
    let url = format!("{}large", server.url());
    let sandbox = Sandbox::new();
    let first = fetch(&sandbox, &[&url, "--json"]).expect(0);
    let sha256 = first.objects_of("file")[0]["sha256"]
        .as_str()
        .unwrap()
        .to_owned();

    server.clear_requests();
    let one = ["-o", "one", "--sha256", &sha256, "--connections", "1"];
    fetch(&sandbox, &[&[url.as_str()], &one[..]].concat()).expect(0);
    assert_eq!(std::fs::read(sandbox.path("one")).unwrap(), large);
    let mut requests = server.requests();
    requests.sort_by_key(|request| request.started);
    for pair in requests.windows(2) {
        assert!(
            pair[0].finished.is_some_and(|end| end <= pair[1].started),
            "{pair:?}"
        );
    }

    // 6 MB at 6 MB/s.
    let slow = ["-o", "slow", "--limit-rate", "6M", "--json"];
    let finished = fetch(&sandbox, &[&[url.as_str()], &slow[..]].concat()).expect(0);
    let seconds = finished.objects_of("file")[0]["seconds"].as_f64().unwrap();
    assert!(seconds > 0.5, "{seconds}");

    server.clear_requests();
    let finished = fetch(&sandbox, &[&url, "--offline", "-o", "none"]).expect(4);
    assert!(finished.stderr.contains("offline"), "{}", finished.stderr);
    let list = format!("{}list.meta4", server.url());
    let finished = fetch(&sandbox, &[&list, "--offline"]).expect(4);
    assert!(finished.stderr.contains("offline"), "{}", finished.stderr);
    assert!(server.requests().is_empty());
    let local = format!("file://{}", sandbox.path("one").display());
    fetch(
        &sandbox,
        &[&local, "--offline", "-o", "copy", "--sha256", &sha256],
    )
    .expect(0);
    assert_eq!(std::fs::read(sandbox.path("copy")).unwrap(), large);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_fetch_resumes() {
    let site = Site::new();
    let large: Vec<u8> = content().repeat(20);
    site.insert("large", large.clone());
    let server = serve(&site, Behaviour::new()).await;
    let url = format!("{}large", server.url());
    let sandbox = Sandbox::new();
    let finished = fetch(&sandbox, &[&url, "-o", "first", "--json"]).expect(0);
    let sha256 = finished.objects_of("file")[0]["sha256"]
        .as_str()
        .unwrap()
        .to_owned();
    let arguments = ["fetch", &url, "--sha256", &sha256, "--json", "-v"];

    // Interrupted after half of the file.
    server.set_behaviour(always(Fault::Drip { rate: 2_000_000 }));
    server.clear_requests();
    let child = sandbox.start(&arguments);
    let half = large.len() as u64 / 2;
    server
        .wait_until(|requests| bytes_sent(requests) > half)
        .await;
    signal(&child, "INT");
    finish(child).expect(130);
    assert!(!sandbox.path("large").exists());

    server.set_behaviour(Behaviour::new());
    let finished = sandbox.run(&arguments).expect(0);
    assert_eq!(std::fs::read(sandbox.path("large")).unwrap(), large);
    let resumed = finished.objects_of("resumed");
    let kept = resumed[0]["bytes"].as_u64().unwrap();
    assert!(kept > 0 && kept < large.len() as u64, "{kept}");
    // The partial is gone.
    assert_eq!(names(&sandbox), ["first", "large"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_new_chunks_of_a_zchunk_file_are_fetched() {
    let sandbox = Sandbox::new();
    let mut text: Vec<u8> = Vec::new();
    for number in 0..60_000_u32 {
        text.extend_from_slice(format!("{}\n", number.wrapping_mul(2_654_435_761)).as_bytes());
    }
    let pack = |text: &[u8]| {
        std::fs::write(sandbox.path("text"), text).unwrap();
        sandbox
            .run(&["zck", "create", "text", "-o", "packed.zck"])
            .expect(0);
        std::fs::read(sandbox.path("packed.zck")).unwrap()
    };
    let site = Site::new();
    let server = serve(&site, Behaviour::new()).await;
    let url = format!("{}x.zck", server.url());
    let old = pack(&text);
    site.insert("x.zck", old.clone());
    fetch(&sandbox, &[&url]).expect(0);
    assert!(std::fs::read(sandbox.path("x.zck")).unwrap() == old);

    text[300_000] ^= 1;
    let new = pack(&text);
    site.insert("x.zck", new.clone());
    server.clear_requests();
    let finished = fetch(&sandbox, &[&url]).expect(0);
    assert!(finished.stderr.contains(" reused, "), "{}", finished.stderr);
    assert!(std::fs::read(sandbox.path("x.zck")).unwrap() == new);
    let ranges = server.requests();
    assert!(ranges.iter().all(|request| request.range().is_some()));
    assert_eq!(ranges.len(), 2, "the header, and one range");

    // With chunks of another file.
    std::fs::write(sandbox.path("old.zck"), &old).unwrap();
    server.clear_requests();
    fetch(&sandbox, &[&url, "--delta-from", "old.zck", "-o", "y.zck"]).expect(0);
    assert!(std::fs::read(sandbox.path("y.zck")).unwrap() == new);
    assert_eq!(server.requests().len(), 2);
}

/// Fetches a zchunk file with 24 small new chunks from a server.
fn fetch_many_chunks(sandbox: &Sandbox, dir: &std::path::Path, url: &str) -> Finished {
    let mut text: Vec<u8> = Vec::new();
    for number in 0..600_000_u32 {
        text.extend_from_slice(format!("{}\n", number.wrapping_mul(2_654_435_761)).as_bytes());
    }
    for (name, changes) in [("old.zck", 0), ("new.zck", 24)] {
        for change in 0..changes {
            text[100_000 + change * 250_000] ^= 1;
        }
        std::fs::write(sandbox.path("text"), &text).unwrap();
        sandbox
            .run(&["zck", "create", "text", "-o", name])
            .expect(0);
    }
    std::fs::copy(sandbox.path("new.zck"), dir.join("x.zck")).unwrap();
    let from = format!("{}/x.zck", url.trim_end_matches('/'));
    let finished = fetch(
        sandbox,
        &[&from, "--delta-from", "old.zck", "-o", "got.zck"],
    )
    .expect(0);
    let read = |name: &str| std::fs::read(sandbox.path(name)).unwrap();
    assert!(read("got.zck") == read("new.zck"));
    finished
}

#[test]
fn many_small_ranges_are_fetched_in_one_response() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = taipan_tests::Nginx::serve(dir.path()) else {
        return;
    };
    fetch_many_chunks(&Sandbox::new(), dir.path(), &server.url());
    let log = server.access_log();
    assert!(log.lines().count() <= 3, "{log}");
    assert!(log.contains(" 206 "), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_multi_range_support_each_range_has_a_request() {
    let (dir, sandbox) = (tempfile::tempdir().unwrap(), Sandbox::new());
    let site = Site::from_dir(dir.path());
    let server = serve(&site, Behaviour::new()).await;
    fetch_many_chunks(&sandbox, dir.path(), &server.url());
    let requests = server.requests();
    let is_multi_range = |range: &str| range.contains(',');
    let multi_range = requests
        .iter()
        .filter(|r| r.range().is_some_and(is_multi_range));
    assert_eq!(multi_range.count(), 1, "only one attempt");
    assert!(requests.len() > 20, "{}", requests.len());
}
