//! Environments from mirrors of all protocols in this process, with all kinds of faults.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    process::Child,
};

use taipan_mock_servers::{
    Behaviour, DemoChannel, Fault, Fleet, HttpServer, Matcher, RefusingServer, Rule, Site,
};
use taipan_tests::{
    CHANNEL, Finished, Sandbox, always, bytes_sent, demo_channel, expect_demo_runs, finish,
    mirrors_file_in_order, serve, signal, start_until_sent,
};

fn channel() -> DemoChannel {
    demo_channel(2_000_000)
}

/// Writes a mirrors file with these mirrors, the first with the highest priority.
fn mirrors(sandbox: &Sandbox, urls: &[String]) {
    sandbox.write("mirrors.toml", &mirrors_file_in_order(urls));
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

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_created_from_six_mirrors_two_of_them_failing() {
    let fleet = Fleet::start(channel()).await.unwrap();
    let sandbox = Sandbox::of_fleet(&fleet);
    sandbox.write("mirrors.toml", &fleet.mirrors_toml(CHANNEL));
    create(
        &sandbox,
        &["taipan-demo", "demo-corpus", "demo-lib", "demo-legacy"],
    )
    .expect(0);
    expect_demo_runs(&sandbox.path("env"));
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
async fn each_protocol_alone_suffices() {
    for name in ["fast", "s3", "oci"] {
        let fleet = Fleet::start(channel()).await.unwrap();
        let sandbox = Sandbox::of_fleet(&fleet);
        sandbox.write(
            "mirrors.toml",
            &fleet.some_mirrors_toml(CHANNEL, &[(name, 0)]),
        );
        create(&sandbox, &["taipan-demo", "demo-corpus", "demo-legacy"]).expect(0);
        expect_demo_runs(&sandbox.path("env"));
        assert!(!fleet.mirror(name).unwrap().requests().is_empty(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_first_mirror_does_not_fail_the_install() {
    let site = channel().site();
    let packages = || Matcher::suffix(".conda");
    let faults = [
        ("500", always(Fault::status(500))),
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
        ("HTML", always(Fault::Html)),
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
        let bad = serve(&site, behaviour).await;
        let good = serve(&site, Behaviour::new()).await;
        let sandbox = Sandbox::new();
        mirrors(&sandbox, &[bad.url(), good.url()]);
        let finished = create(&sandbox, &["--json", "taipan-demo", "demo-corpus"]);
        assert_eq!(finished.code, Some(0), "{name}: {finished:?}");
        expect_demo_runs(&sandbox.path("env"));
        let failed = finished
            .objects()
            .iter()
            .any(|object| object["type"] == "attempt-failed");
        assert!(failed, "{name}: the failing mirror got no request");
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
    let broken = serve(&site, always(Fault::status(500))).await;
    let empty = serve(&Site::new(), Behaviour::new()).await;
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
    let one = serve(&site, corrupt()).await;
    let two = serve(&site, corrupt()).await;
    let sandbox = Sandbox::new();
    mirrors(&sandbox, &[one.url(), two.url()]);
    let finished = create(&sandbox, &["demo-corpus"]).expect(5);
    assert!(finished.stderr.contains("sha256"), "{}", finished.stderr);
    assert!(!sandbox.path("env").exists());
    assert_eq!(sandbox.unfinished(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_repodata_is_reported_with_its_cause() {
    let good = channel().site();
    let html = always(Fault::Html);
    let cut = always(Fault::Truncate { after: 100 });
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
        ("HTML", serve(&good, html).await, 5, "web page"),
        (
            "cut",
            serve(&good, cut).await,
            4,
            "failed before the end of the body",
        ),
        (
            "shortened",
            serve(&shortened, Behaviour::new()).await,
            5,
            "truncated",
        ),
        (
            "nothing",
            serve(&nothing, Behaviour::new()).await,
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
async fn a_package_that_is_missing_from_an_empty_channel_is_named() {
    let site = Site::new();
    let empty =
        r#"{"info":{"subdir":"noarch"},"packages":{},"packages.conda":{},"repodata_version":1}"#;
    site.insert("noarch/repodata.json", empty.as_bytes().to_vec());
    let server = serve(&site, Behaviour::new()).await;
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
async fn repodata_is_revalidated_and_the_cached_copy_replaces_unreachable_mirrors() {
    let site = channel().site();
    let server = serve(&site, Behaviour::new()).await;
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
    // With packages and repodata in the cache, no mirror is needed.
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
    assert!(
        stale.stderr.contains("using the cached repodata"),
        "{}",
        stale.stderr
    );
    expect_demo_runs(&sandbox.path("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_leaves_nothing_and_the_next_run_succeeds() {
    let site = channel().site();
    let slow = Behaviour::new().with_rule(Rule::always(
        Matcher::contains("demo-corpus"),
        Fault::Stall { after: 500_000 },
    ));
    let server = serve(&site, slow).await;
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
    for name in ["INT", "TERM"] {
        server.clear_requests();
        let child = sandbox.start(&arguments);
        server
            .wait_until(|requests| {
                requests
                    .iter()
                    .any(|r| r.path.contains("demo-corpus") && r.bytes_sent > 400_000)
            })
            .await;
        signal(&child, name);
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
    expect_demo_runs(&sandbox.path("env"));
}

/// When a run is killed.
#[derive(Debug)]
enum Moment {
    /// After the mirror has sent this many bytes.
    Sent(u64),
    /// After a JSON object of this type was printed.
    Printed(&'static str),
}

impl Moment {
    /// Starts the command, and returns at this moment or when the process has ended.
    async fn start(&self, sandbox: &Sandbox, arguments: &[&str], server: &HttpServer) -> Child {
        match self {
            Self::Sent(bytes) => start_until_sent(sandbox, arguments, &[server], *bytes).await,
            Self::Printed(kind) => {
                let mut child = sandbox.start(arguments);
                let lines = BufReader::new(child.stdout.take().unwrap()).lines();
                let tag = format!("\"type\":\"{kind}\"");
                let wait = move || {
                    lines
                        .map_while(Result::ok)
                        .find(|line| line.contains(&tag))
                        .expect("the object is printed");
                };
                tokio::task::spawn_blocking(wait).await.unwrap();
                child
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_repaired_by_the_next() {
    let site = channel().site();
    // What the server sends must not pile up in the buffers of sockets, where it counts as sent.
    let server = serve(&site, Behaviour::new().with_total_rate(4_000_000)).await;
    let arguments = [
        "create",
        "--json",
        "-p",
        "env",
        "-c",
        CHANNEL,
        "--mirrors",
        "mirrors.toml",
        "demo-corpus",
        "taipan-demo",
    ];
    let sandbox_with_mirror = || {
        let sandbox = Sandbox::new();
        mirrors(&sandbox, &[server.url()]);
        sandbox
    };
    sandbox_with_mirror().run(&arguments).expect(0);
    let total = bytes_sent(&server.requests());

    // From the first byte to the last one, and then in the transaction.
    let moments = (0..=6).map(|sixth| Moment::Sent(total * sixth / 6));
    for moment in moments.chain(["plan", "linked", "done"].map(Moment::Printed)) {
        let sandbox = sandbox_with_mirror();
        server.clear_requests();
        let mut child = moment.start(&sandbox, &arguments, &server).await;
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.signal().is_some() {
            let again = sandbox.run(&arguments);
            // After the commit the environment is complete, and the next change cleans up.
            if again.code == Some(2) {
                let error = "is already an environment";
                assert!(again.stderr.contains(error), "{}", again.stderr);
                let mut install = arguments;
                install[0] = "install";
                sandbox.run(&install).expect(0);
            } else {
                again.expect(0);
            }
        } else {
            assert!(status.success(), "{moment:?}: {status}");
        }
        expect_demo_runs(&sandbox.path("env"));
        assert_eq!(
            sandbox.unfinished(),
            Vec::<std::path::PathBuf>::new(),
            "{moment:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_and_quiet_prints_nothing() {
    let site = channel().site();
    let server = serve(&site, Behaviour::new()).await;
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
async fn a_password_in_a_url_is_used_and_never_printed() {
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
    expect_demo_runs(&sandbox.path("env"));
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
