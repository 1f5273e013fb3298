//! The main job from mirrors of every kind, in process: what goes wrong costs time, and never the
//! install.

use std::{os::unix::process::ExitStatusExt as _, path::Path, process::Command, time::Duration};

use taipan_mock_servers::{
    Behaviour, DemoChannel, DemoOptions, Fault, Fleet, HttpServer, Matcher, RefusingServer, Rule,
    Site,
};
use taipan_tests::{Finished, Sandbox, finish};

/// Nothing listens there: all files come from mirrors.
const CHANNEL: &str = "https://channel.invalid/demo";

fn channel() -> DemoChannel {
    DemoChannel::build(&DemoOptions::default().with_corpus_bytes(2_000_000))
}

async fn server(site: &Site, behaviour: Behaviour) -> HttpServer {
    HttpServer::builder(site.clone())
        .behaviour(behaviour)
        .start()
        .await
        .unwrap()
}

/// A mirrors file with these mirrors, each asked before the next as long as it serves.
fn mirrors(sandbox: &Sandbox, urls: &[String]) {
    let list: Vec<String> = urls
        .iter()
        .enumerate()
        .map(|(priority, url)| format!("{{ url = \"{url}\", priority = {priority} }}"))
        .collect();
    let text = format!(
        "[[channel]]\nurl = \"{CHANNEL}\"\nmirrors = [{}]\n",
        list.join(", ")
    );
    sandbox.write("mirrors.toml", &text);
}

fn create(sandbox: &Sandbox, specs: &[&str]) -> Finished {
    sandbox.run(
        &[
            &[
                "create",
                "-p",
                "env",
                "-c",
                CHANNEL,
                "--mirrors",
                "mirrors.toml",
            ],
            specs,
        ]
        .concat(),
    )
}

#[track_caller]
fn greets(prefix: &Path) {
    let output = Command::new(prefix.join("bin/taipan-demo"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&prefix.display().to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_comes_from_six_mirrors_of_which_two_are_bad() {
    let fleet = Fleet::start(channel()).await.unwrap();
    let mut sandbox = Sandbox::new();
    for (name, value) in fleet.environment() {
        sandbox.set(name, &value);
    }
    sandbox.write("mirrors.toml", &fleet.mirrors_toml(CHANNEL));
    create(
        &sandbox,
        &["taipan-demo", "demo-corpus", "demo-lib", "demo-legacy"],
    )
    .expect(0);
    greets(&sandbox.path("env"));
    let list = sandbox.run(&["list", "-p", "env", "--json"]).expect(0);
    let names: Vec<_> = list
        .objects()
        .iter()
        .map(|o| o["name"].as_str().unwrap().to_owned())
        .collect();
    for name in [
        "demo-corpus",
        "demo-greetings",
        "demo-legacy",
        "demo-lib",
        "taipan-demo",
    ] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_mirror_alone_is_enough() {
    for name in ["fast", "s3", "oci"] {
        let fleet = Fleet::start(channel()).await.unwrap();
        let mut sandbox = Sandbox::new();
        for (name, value) in fleet.environment() {
            sandbox.set(name, &value);
        }
        sandbox.write(
            "mirrors.toml",
            &fleet.some_mirrors_toml(CHANNEL, &[(name, 0)]),
        );
        create(&sandbox, &["taipan-demo", "demo-corpus", "demo-legacy"]).expect(0);
        greets(&sandbox.path("env"));
        assert!(!fleet.mirror(name).unwrap().requests().is_empty(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_first_mirror_costs_time_and_not_the_install() {
    let site = channel().site();
    let packages = || Matcher::suffix(".conda");
    let faults = [
        (
            "500",
            Behaviour::new().with_rule(Rule::always(Matcher::Any, Fault::status(500))),
        ),
        (
            "404",
            Behaviour::new().with_rule(Rule::always(packages(), Fault::status(404))),
        ),
        (
            "cut",
            Behaviour::new().with_rule(Rule::always(packages(), Fault::Truncate { after: 900 })),
        ),
        (
            "reset",
            Behaviour::new().with_rule(Rule::always(packages(), Fault::Reset { after: Some(900) })),
        ),
        (
            "wrong bytes",
            Behaviour::new().with_rule(Rule::always(packages(), Fault::Corrupt { at: 700 })),
        ),
        (
            "HTML",
            Behaviour::new().with_rule(Rule::always(Matcher::Any, Fault::Html)),
        ),
        (
            "encoded",
            Behaviour::new().with_rule(Rule::always(packages(), Fault::Gzip)),
        ),
        (
            "wrong length",
            Behaviour::new().with_rule(Rule::always(packages(), Fault::WrongLength { delta: -3 })),
        ),
    ];
    for (name, behaviour) in faults {
        let bad = server(&site, behaviour).await;
        let good = server(&site, Behaviour::new()).await;
        let sandbox = Sandbox::new();
        mirrors(&sandbox, &[bad.url(), good.url()]);
        let finished = create(&sandbox, &["--json", "taipan-demo", "demo-corpus"]);
        assert_eq!(finished.code, Some(0), "{name}: {finished:?}");
        greets(&sandbox.path("env"));
        let failed = finished
            .objects()
            .iter()
            .any(|object| object["type"] == "attempt-failed");
        assert!(failed, "{name}: the bad mirror was never asked");
        assert_eq!(
            sandbox.unfinished(),
            Vec::<std::path::PathBuf>::new(),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_fail_the_error_lists_every_attempt() {
    let site = channel().site();
    let broken = server(
        &site,
        Behaviour::new().with_rule(Rule::always(Matcher::Any, Fault::status(500))),
    )
    .await;
    let empty = server(&Site::new(), Behaviour::new()).await;
    let refusing = RefusingServer::start().unwrap();
    let sandbox = Sandbox::new();
    mirrors(&sandbox, &[broken.url(), empty.url(), refusing.url()]);
    let finished = create(&sandbox, &["taipan-demo"]).expect(4);
    for part in [
        "500 Internal Server Error".to_owned(),
        "404 Not Found".to_owned(),
        "Connection refused".to_owned(),
        "unwell".to_owned(),
        "not here".to_owned(),
        broken.url(),
        empty.url(),
        refusing.url(),
    ] {
        assert!(
            finished.stderr.contains(&part),
            "`{part}` is not in: {}",
            finished.stderr
        );
    }
    assert!(!sandbox.path("env").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_everywhere_are_a_verification_failure() {
    let site = channel().site();
    let corrupt = || {
        Behaviour::new().with_rule(Rule::always(
            Matcher::contains("demo-corpus"),
            Fault::Corrupt { at: 1_000_000 },
        ))
    };
    let one = server(&site, corrupt()).await;
    let two = server(&site, corrupt()).await;
    let sandbox = Sandbox::new();
    mirrors(&sandbox, &[one.url(), two.url()]);
    let finished = create(&sandbox, &["demo-corpus"]).expect(5);
    assert!(finished.stderr.contains("sha256"), "{}", finished.stderr);
    assert!(!sandbox.path("env").exists());
    assert_eq!(sandbox.unfinished(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn repodata_that_is_none_is_named_as_such() {
    let good = channel().site();
    let html = Behaviour::new().with_rule(Rule::always(Matcher::Any, Fault::Html));
    let cut =
        Behaviour::new().with_rule(Rule::always(Matcher::Any, Fault::Truncate { after: 100 }));
    let shortened = Site::new();
    let text = good.get("noarch/repodata.json").unwrap();
    for subdir in ["noarch", "linux-64"] {
        shortened.insert(
            &format!("{subdir}/repodata.json"),
            text.slice(..text.len() / 2),
        );
    }
    let nothing = Site::new();
    for (name, server, code, part) in [
        ("HTML", server(&good, html).await, 5, "web page"),
        ("cut", server(&good, cut).await, 4, "broke off"),
        (
            "shortened",
            server(&shortened, Behaviour::new()).await,
            5,
            "cut short",
        ),
        (
            "nothing",
            server(&nothing, Behaviour::new()).await,
            4,
            "has repodata",
        ),
    ] {
        let sandbox = Sandbox::new();
        let finished = sandbox.run(&["create", "-p", "env", "-c", &server.url(), "taipan-demo"]);
        assert_eq!(finished.code, Some(code), "{name}: {}", finished.stderr);
        assert!(
            finished.stderr.contains(part),
            "{name}: {}",
            finished.stderr
        );
        assert!(!sandbox.path("env").exists(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_channel_has_no_packages_and_says_so() {
    let site = Site::new();
    let empty =
        r#"{"info":{"subdir":"noarch"},"packages":{},"packages.conda":{},"repodata_version":1}"#;
    site.insert("noarch/repodata.json", empty.as_bytes().to_vec());
    let server = server(&site, Behaviour::new()).await;
    let sandbox = Sandbox::new();
    let finished = sandbox
        .run(&["create", "-p", "env", "-c", &server.url(), "numpy"])
        .expect(3);
    assert!(
        finished.stderr.contains("numpy is not in"),
        "{}",
        finished.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_repodata_is_not_fetched_again_and_an_unreachable_one_is_not_needed() {
    let site = channel().site();
    let server = server(&site, Behaviour::new()).await;
    let sandbox = Sandbox::new();
    mirrors(&sandbox, &[server.url()]);
    create(&sandbox, &["taipan-demo"]).expect(0);
    server.clear_requests();
    let again = sandbox
        .run(&[
            "install",
            "--json",
            "-p",
            "env",
            "-c",
            CHANNEL,
            "--mirrors",
            "mirrors.toml",
            "demo-corpus",
        ])
        .expect(0);
    let statuses: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.path.contains("repodata"))
        .map(|request| request.status)
        .collect();
    assert_eq!(statuses, [Some(304), Some(304)]);
    let freshness: Vec<_> = again
        .objects()
        .iter()
        .filter(|o| o["type"] == "repodata")
        .map(|o| o["freshness"].clone())
        .collect();
    assert_eq!(freshness, ["unchanged", "unchanged"]);
    server.shutdown().await;
    // With packages and repodata here, nobody needs to be reachable.
    let stale = sandbox
        .run(&[
            "create",
            "-p",
            "other",
            "-c",
            CHANNEL,
            "--mirrors",
            "mirrors.toml",
            "taipan-demo",
            "demo-corpus",
        ])
        .expect(0);
    assert!(stale.stderr.contains("cached copy"), "{}", stale.stderr);
    greets(&sandbox.path("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_leaves_nothing_and_the_next_run_succeeds() {
    let site = channel().site();
    let slow = Behaviour::new().with_rule(Rule::always(
        Matcher::contains("demo-corpus"),
        Fault::Stall { after: 500_000 },
    ));
    let server = server(&site, slow).await;
    let sandbox = Sandbox::new();
    mirrors(&sandbox, &[server.url()]);
    let arguments = [
        "create",
        "-p",
        "env",
        "-c",
        CHANNEL,
        "--mirrors",
        "mirrors.toml",
        "demo-corpus",
        "taipan-demo",
    ];
    for signal in ["-INT", "-TERM"] {
        server.clear_requests();
        let child = sandbox.start(&arguments);
        server
            .wait_until(|requests| {
                requests
                    .iter()
                    .any(|r| r.path.contains("demo-corpus") && r.bytes_sent > 400_000)
            })
            .await;
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        let finished = finish(child).expect(130);
        assert!(
            finished.stderr.contains("interrupted"),
            "{}",
            finished.stderr
        );
        assert!(!sandbox.path("env").exists());
        assert_eq!(sandbox.unfinished(), Vec::<std::path::PathBuf>::new());
    }
    server.set_behaviour(Behaviour::new());
    sandbox.run(&arguments).expect(0);
    greets(&sandbox.path("env"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_repaired_by_the_next() {
    let site = channel().site();
    let server = server(&site, Behaviour::new().with_rate(4_000_000)).await;
    let arguments = |sandbox: &Sandbox| {
        mirrors(sandbox, &[server.url()]);
        [
            "create",
            "-p",
            "env",
            "-c",
            CHANNEL,
            "--mirrors",
            "mirrors.toml",
            "demo-corpus",
            "taipan-demo",
        ]
    };
    // From before the first request to after the last file.
    for delay in [0, 40, 120, 250, 400, 550, 620, 700, 800] {
        let sandbox = Sandbox::new();
        let arguments = arguments(&sandbox);
        let mut child = sandbox.start(&arguments);
        // The moment of the kill is what varies here, so this waits for time and not for events.
        tokio::time::sleep(Duration::from_millis(delay)).await;
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.signal().is_none() {
            // It was through already.
            greets(&sandbox.path("env"));
            continue;
        }
        let again = sandbox.run(&arguments);
        // Killed after the commit, the environment is there and whole.
        if again.code == Some(2) {
            assert!(
                again.stderr.contains("is an environment already"),
                "{}",
                again.stderr
            );
        } else {
            again.expect(0);
        }
        greets(&sandbox.path("env"));
        assert_eq!(sandbox.unfinished(), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_does_nothing_and_quiet_says_nothing() {
    let site = channel().site();
    let server = server(&site, Behaviour::new()).await;
    let sandbox = Sandbox::new();
    mirrors(&sandbox, &[server.url()]);
    let dry = create(&sandbox, &["--dry-run", "--json", "taipan-demo"]).expect(0);
    assert!(!sandbox.path("env").exists());
    let plan = dry
        .objects()
        .into_iter()
        .find(|o| o["type"] == "plan")
        .unwrap();
    assert!(
        plan["link"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line["name"] == "taipan-demo")
    );
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.path.contains("repodata"))
    );
    let quiet = create(&sandbox, &["--quiet", "taipan-demo"]).expect(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_url_is_used_and_never_shown() {
    let site = channel().site();
    let server = HttpServer::builder(site)
        .basic_auth("reader", "hunter2")
        .start()
        .await
        .unwrap();
    let with = server.url().replace("http://", "http://reader:hunter2@");
    let sandbox = Sandbox::new();
    mirrors(&sandbox, std::slice::from_ref(&with));
    let text = create(&sandbox, &["-vv", "taipan-demo"]).expect(0);
    greets(&sandbox.path("env"));
    let as_channel = sandbox
        .run(&["create", "-vv", "-p", "two", "-c", &with, "taipan-demo"])
        .expect(0);
    let wrong = with.replace("hunter2", "hunter3");
    let refused = sandbox
        .run(&[
            "create", "-vv", "-p", "three", "-c", &wrong, "--json", "demo-lib",
        ])
        .expect(4);
    let listed = sandbox.run(&["list", "-p", "two", "--json"]).expect(0);
    let records: String = std::fs::read_dir(sandbox.path("two/conda-meta"))
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .collect();
    for finished in [text, as_channel, refused, listed] {
        assert!(!finished.stdout.contains("hunter"), "{}", finished.stdout);
        assert!(!finished.stderr.contains("hunter"), "{}", finished.stderr);
    }
    assert!(!records.contains("hunter"));
}
