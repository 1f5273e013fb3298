//! `taipan mirror list` and `taipan mirror probe`, and mirror lists of all kinds.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use taipan_mock_servers::{Behaviour, DemoChannel, Fault, Fleet, HttpServer, RefusingServer, Site};
use taipan_tests::{
    CHANNEL, Finished, Sandbox, always, bytes_sent, demo_channel, finish, mirrors_file, serve,
    signal,
};

fn channel() -> DemoChannel {
    demo_channel(200_000)
}

/// A file that begins like one of zstd and is large enough to measure the throughput.
fn large_repodata() -> Vec<u8> {
    let mut bytes = vec![0x28, 0xB5, 0x2F, 0xFD];
    bytes.extend((0..400_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    bytes
}

fn latency_ms(n: u64) -> Behaviour {
    Behaviour::new().with_latency(Duration::from_millis(n))
}

fn probe(sandbox: &Sandbox, more: &[&str]) -> Finished {
    let arguments = ["mirror", "probe", "-c", CHANNEL, "--mirrors", "m.toml"];
    sandbox.run(&[&arguments, more].concat())
}

fn list(sandbox: &Sandbox, more: &[&str]) -> Finished {
    let arguments = ["mirror", "list", "-c", CHANNEL, "--mirrors", "m.toml"];
    sandbox.run(&[&arguments, more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_different_mirrors_are_ranked_by_their_measurements() {
    let site = channel().site();
    site.insert("noarch/repodata.json.zst", large_repodata());
    let near = serve(&site, latency_ms(2)).await;
    let far = serve(&site, latency_ms(120)).await;
    // Behind: the same files, but the repodata is shorter and older.
    let old_site = site.half(|_| true);
    let day = Duration::from_hours(24);
    for path in old_site.paths() {
        if path.ends_with("repodata.json.zst") {
            let bytes = old_site.get(&path).unwrap();
            let shorter = bytes.slice(..bytes.len() - 1);
            old_site.insert_at(&path, shorter, std::time::SystemTime::now() - day);
        }
    }
    let old = serve(&old_site, latency_ms(1)).await;
    let stalled = serve(&site, always(Fault::Stall { after: 1 })).await;
    let dead = RefusingServer::start().unwrap();
    let mut sandbox = Sandbox::new();
    let urls = [dead.url(), stalled.url(), far.url(), old.url(), near.url()];
    let bare = urls.clone().map(|url| url.trim_end_matches('/').to_owned());
    sandbox.write("m.toml", &mirrors_file(&urls));

    let finished = probe(&sandbox, &["--json"]).expect(0);
    let ranked = finished.objects_of("ranked");
    let verdicts: Vec<(&str, &str)> = ranked
        .iter()
        .map(|row| {
            let mirror = row["mirror"].as_str().unwrap().trim_end_matches('/');
            (mirror, row["verdict"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        verdicts,
        [
            (bare[4].as_str(), "good"),
            (bare[2].as_str(), "good"),
            (bare[3].as_str(), "behind"),
            (bare[1].as_str(), "stalled"),
            (bare[0].as_str(), "dead"),
        ]
    );
    assert_eq!(ranked[0]["place"], 1);
    assert_eq!(ranked[0]["freshness"], "current");
    assert_eq!(ranked[2]["freshness"], "behind");
    assert_eq!(ranked[4]["place"], Value::Null);
    assert!(
        ranked[4]["cause"]
            .as_str()
            .unwrap()
            .contains("Connection refused")
    );
    let far_byte = ranked[1]["first_byte_seconds"].as_f64().unwrap();
    assert!(far_byte >= 0.12, "{far_byte}");
    assert!(ranked[0]["rate"].as_f64().unwrap() > 0.0);
    let rounds = finished.objects_of("probe");
    assert_eq!(rounds[0]["serving"], 3);
    assert_eq!(rounds[0]["sample"], "noarch/repodata.json.zst");
    assert!(rounds[0]["seconds"].is_f64());
    // At most twice the sample, its end and one byte for its length.
    let sent = bytes_sent(&near.requests());
    assert!(sent <= 2 * 131_072 + 64 + 1, "{sent}");

    // The measurements are saved: usable mirrors are not measured again without --all.
    let listed = list(&sandbox, &["--json"]).expect(0).objects();
    let by_url: BTreeMap<&str, &Value> = listed
        .iter()
        .map(|o| (o["location"].as_str().unwrap().trim_end_matches('/'), o))
        .collect();
    let near_line = by_url[bare[4].as_str()];
    assert_eq!(near_line["last"]["class"], "ok");
    assert!(near_line["rate"].as_f64().unwrap() > 0.0);
    assert_eq!(by_url[bare[0].as_str()]["last"]["class"], "unwell");
    // A proxy makes another network, for which there are no measurements.
    sandbox.set("ALL_PROXY", "http://proxy.invalid:3128");
    for line in list(&sandbox, &["--json"]).expect(0).objects() {
        assert_eq!((&line["last"], &line["rate"]), (&Value::Null, &Value::Null));
    }
    sandbox.set("ALL_PROXY", "");
    let before = near.requests().len();
    let again = probe(&sandbox, &["--json"]).expect(0);
    let verdicts: Vec<Value> = again
        .objects_of("ranked")
        .iter()
        .map(|row| row["verdict"].clone())
        .collect();
    assert_eq!(verdicts, ["recent", "recent", "behind", "stalled", "dead"]);
    // One request for the length of the sample, and one for its end.
    assert!(near.requests().len() <= before + 2);
    let all = probe(&sandbox, &["--json", "--all"]).expect(0);
    assert_eq!(all.objects_of("ranked")[0]["verdict"], "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_of_every_protocol_are_probed() {
    let fleet = Fleet::start(channel()).await.unwrap();
    let sandbox = Sandbox::of_fleet(&fleet);
    sandbox.write("m.toml", &fleet.mirrors_toml(CHANNEL));
    let ranked = probe(&sandbox, &["--json"]).expect(0).objects_of("ranked");
    let verdicts: Vec<&str> = ranked
        .iter()
        .map(|row| row["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["good", "good", "good", "good", "good", "dead"]);
    let text = probe(&sandbox, &["--all"]).expect(0);
    let head = text.stdout.lines().nth(1).unwrap();
    for part in [
        "latency",
        "first byte",
        "throughput",
        "freshness",
        "verdict",
        "mirror",
    ] {
        assert!(head.contains(part), "{head}");
    }
    assert!(text.stdout.contains("oci+http://"), "{}", text.stdout);
    assert!(
        text.stderr.contains("5 of 6 mirrors are usable"),
        "{}",
        text.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_usable_mirror_the_probe_prints_the_cause_of_each() {
    let empty = serve(&Site::new(), Behaviour::new()).await;
    let page = serve(&channel().site(), always(Fault::Html)).await;
    let dead = RefusingServer::start().unwrap();
    let sandbox = Sandbox::new();
    sandbox.write(
        "m.toml",
        &mirrors_file(&[empty.url(), page.url(), dead.url()]),
    );
    let finished = probe(&sandbox, &[]).expect(4);
    for part in [
        "not here",
        "404 Not Found",
        "corrupt",
        "login page",
        "dead",
        "refused",
    ] {
        assert!(
            finished.stdout.contains(part),
            "`{part}`: {}",
            finished.stdout
        );
    }
    assert!(
        finished
            .stderr
            .contains(&format!("no usable mirror of {CHANNEL}")),
        "{}",
        finished.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_probe_ends_at_once() {
    let hang = serve(&channel().site(), always(Fault::Hang)).await;
    let sandbox = Sandbox::new();
    sandbox.write("m.toml", &mirrors_file(&[hang.url()]));
    let arguments = ["mirror", "probe", "--mirrors", "m.toml", "--timeout", "300"];
    let child = sandbox.start(&arguments);
    hang.wait_until(|requests| !requests.is_empty()).await;
    signal(&child, "INT");
    let finished = finish(child).expect(130);
    assert!(
        finished.stderr.contains("interrupted"),
        "{}",
        finished.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_merged_list_shows_where_each_mirror_was_named() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "m.toml",
        &format!(
            "[[channel]]\nurl = \"{CHANNEL}\"\nmirrors = [\n  \"https://a.example/demo\",\n  {{ url = \
             \"s3://bucket/demo\", priority = 1, weight = 0.5, country = \"DE\", max-connections = 4 }},\n]\n\
             [[channel]]\nurl = \"other\"\nmirrors = [\"oci://r.example/other\"]\n"
        ),
    );
    sandbox.write(
        "plain.txt",
        "https://b.example/demo\nhttps://A.example/demo/\n",
    );
    let arguments = [
        "mirror",
        "list",
        "-c",
        CHANNEL,
        "--mirrors",
        "m.toml",
        "--mirrors",
        "plain.txt",
    ];
    let finished = sandbox.run(&arguments).expect(0);
    insta::assert_snapshot!("merged", finished.stdout);
    let verbose = sandbox.run(&[&arguments[..], &["-v"]].concat()).expect(0);
    insta::assert_snapshot!("merged_verbose", verbose.stdout);
    // Without -c: all channels of the lists.
    let all = sandbox
        .run(&["mirror", "list", "--mirrors", "m.toml", "--json"])
        .expect(0);
    let channels: Vec<String> = all
        .objects()
        .iter()
        .map(|o| o["channel"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(channels, [CHANNEL, CHANNEL, "other"]);
    insta::assert_snapshot!("merged_json", all.stdout);
    // A channel without a list is its own mirror.
    let own = sandbox
        .run(&["mirror", "list", "-c", "conda-forge", "--json"])
        .expect(0);
    assert_eq!(own.objects()[0]["origin"], "upstream");
}

/// A mirror list of each kind, with this URL as the mirror of the channel.
fn lists_of_each_kind(url: &str) -> Vec<(&'static str, String)> {
    let url = url.trim_end_matches('/');
    vec![
        ("m.toml", mirrors_file(&[url.to_owned()])),
        ("plain", format!("# a comment\n{url}\nftp://a.example/x\n")),
        (
            "servers",
            format!("Server = {}\n", url.replace("demo", "$channel")),
        ),
        (
            "metalink3",
            format!(
                "<?xml version=\"1.0\"?><metalink version=\"3.0\" xmlns=\"http://www.metalinker.org/\"><files>\
                 <file name=\"repodata.json.zst\"><resources><url type=\"http\" preference=\"90\">\
                 {url}/noarch/repodata.json.zst</url></resources></file></files></metalink>"
            ),
        ),
        (
            "metalink4",
            format!(
                "<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"><file name=\"repodata.json\">\
                 <url priority=\"1\">{url}/linux-64/repodata.json</url></file></metalink>"
            ),
        ),
        (
            "condarc",
            format!("channels:\n  - {CHANNEL}\nmirrored_channels:\n  {CHANNEL}:\n    - {url}\n"),
        ),
        (
            "pixi.toml",
            format!(
                "tls-no-verify = false\n[mirrors]\n\"https://channel.invalid\" = [\"{}\"]\n",
                url.replace("/demo", "")
            ),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_any_kind_is_read_from_a_file_and_from_a_url() {
    let site = channel().site();
    let mirror = HttpServer::builder(site)
        .prefix("demo")
        .start()
        .await
        .unwrap();
    let lists = Site::new();
    let web = serve(&lists, Behaviour::new()).await;
    for (name, text) in lists_of_each_kind(&mirror.url()) {
        let sandbox = Sandbox::new();
        let text = if name == "servers" {
            // The name of this channel is its URL; another test covers the variable.
            text.replace("$channel", "demo")
        } else {
            text
        };
        lists.insert(name, text.clone().into_bytes());
        sandbox.write(name, &text);
        let url = format!("{}{name}", web.url());
        for (place, said) in [
            (name.to_owned(), name.to_owned()),
            (url.clone(), format!("discovered at {url}")),
        ] {
            let finished = sandbox
                .run(&[
                    "mirror",
                    "list",
                    "-c",
                    CHANNEL,
                    "--mirrors",
                    &place,
                    "--json",
                ])
                .expect(0);
            let of_mirror = finished.objects_of("mirror");
            assert_eq!(of_mirror.len(), 1, "{place}: {}", finished.stdout);
            assert_eq!(
                of_mirror[0]["location"]
                    .as_str()
                    .unwrap()
                    .trim_end_matches('/'),
                mirror.url().trim_end_matches('/'),
                "{place}"
            );
            let origin = of_mirror[0]["origin"].as_str().unwrap();
            assert!(origin.starts_with(&format!("{said}:")), "{origin}");
        }
        // The mirror is used.
        mirror.clear_requests();
        sandbox
            .run(&[
                "create",
                "-p",
                "env",
                "-c",
                CHANNEL,
                "--mirrors",
                &url,
                "demo-corpus",
            ])
            .expect(0);
        assert!(!mirror.requests().is_empty(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_channel_variable_is_replaced_and_the_environment_names_several_lists() {
    let mut sandbox = Sandbox::new();
    sandbox.write("my lists.txt", "https://a.example:8443/pub/$channel\n");
    sandbox.write(
        "more.toml",
        "[[channel]]\nurl = \"two\"\nmirrors = [\"https://b.example/2\"]\n",
    );
    sandbox.set("TAIPAN_MIRRORS", "my lists.txt; more.toml");
    let objects = sandbox
        .run(&["mirror", "list", "-c", "one", "-c", "two", "--json"])
        .expect(0)
        .objects();
    let locations: Vec<&str> = objects
        .iter()
        .map(|o| o["location"].as_str().unwrap())
        .collect();
    assert_eq!(
        locations,
        [
            "https://a.example:8443/pub/one",
            "https://a.example:8443/pub/two",
            "https://b.example/2"
        ]
    );
    // Paths in the configuration file are relative to it.
    let dir = sandbox.path("conf");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("config.toml"), "mirrors = [\"l.txt\"]\n").unwrap();
    std::fs::write(dir.join("l.txt"), "https://c.example/c\n").unwrap();
    sandbox.set("TAIPAN_MIRRORS", "");
    let objects = sandbox
        .run(&[
            "mirror",
            "list",
            "-c",
            "one",
            "--json",
            "--config",
            "conf/config.toml",
        ])
        .expect(0)
        .objects();
    assert_eq!(objects[0]["location"], "https://c.example/c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_fetched_is_replaced_by_its_cached_copy() {
    let lists = Site::new();
    lists.insert("l.txt", b"https://a.example/demo\n".to_vec());
    let web = serve(&lists, Behaviour::new()).await;
    let sandbox = Sandbox::new();
    let url = format!("{}l.txt", web.url());
    let arguments = ["mirror", "list", "-c", CHANNEL, "--mirrors", &url];
    sandbox.run(&arguments).expect(0);
    let behaviours = [
        ("503", Fault::status(503)),
        ("markup", Fault::Html),
        ("Connection reset", Fault::Reset { after: None }),
    ];
    for (part, fault) in behaviours {
        web.set_behaviour(always(fault));
        let finished = sandbox.run(&arguments).expect(0);
        assert!(finished.stdout.contains("https://a.example/demo"));
        assert!(
            finished
                .stderr
                .contains("the copy of an earlier run is used")
        );
        assert!(
            finished.stderr.contains(part) || part == "Connection reset",
            "{}",
            finished.stderr
        );
        // Without a cached copy the command fails.
        let other = Sandbox::new();
        let code = if part == "markup" { 2 } else { 4 };
        let finished = other.run(&arguments).expect(code);
        assert!(finished.stderr.contains(&url), "{}", finished.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_list_is_refused_with_file_and_line() {
    let site = Site::new();
    let long = b"https://a.example/demo\n".repeat(400_000);
    site.insert("long", long);
    site.insert("m.toml", mirrors_file(&["/etc".to_owned()]).into_bytes());
    let web = serve(&site, Behaviour::new()).await;
    let sandbox = Sandbox::new();
    for (name, text) in [
        (
            "bad.toml",
            "[[channel]]\nurl = \"c\"\nmirrors = [\"ftp://a.example\"]\n",
        ),
        ("page.html", "<!DOCTYPE html>\n<title>Log in</title>\n"),
        ("other.yml", "- provider: x\n  url: https://a.example\n"),
        ("empty.txt", "# nothing\n"),
        (
            "cut.xml",
            "<?xml version=\"1.0\"?>\n<metalink version=\"3.0\"><files>\n<file name=\"a\">",
        ),
        (
            "repomd.xml",
            "<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"><file name=\"repomd.xml\"><url>https://a.example/repodata/repomd.xml</url></file></metalink>",
        ),
        (
            "condarc",
            "mirrored_channels:\n  one:\n    - gopher://a.example\n",
        ),
        ("table.toml", "[mirrors]\n\"https://a.example\" = 3\n"),
        ("plain.txt", "https://a.example/demo\n"),
    ] {
        sandbox.write(name, text);
    }
    let long = format!("{}long", web.url());
    let toml = format!("{}m.toml", web.url());
    let mut errors = String::new();
    for (place, more, code) in [
        ("bad.toml", None, 2),
        ("page.html", None, 2),
        ("other.yml", None, 2),
        ("empty.txt", None, 2),
        ("cut.xml", None, 2),
        ("repomd.xml", None, 2),
        ("condarc", None, 2),
        ("table.toml", None, 2),
        ("no-such-file", None, 2),
        ("s3://bucket/list", None, 2),
        ("plain.txt", Some("two"), 2),
        (long.as_str(), None, 4),
        (toml.as_str(), None, 2),
    ] {
        let mut arguments = vec!["mirror", "list", "-c", CHANNEL, "--mirrors", place];
        arguments.extend(more.iter().flat_map(|name| ["-c", *name]));
        let finished = sandbox.run(&arguments).expect(code);
        errors.push_str(&finished.stderr.replace(&web.url(), "WEB/"));
    }
    insta::assert_snapshot!(errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_mirror_behind_many_silent_ones_is_found_in_the_time_promised() {
    let server = serve(&demo_channel(10_000).site(), Behaviour::new()).await;
    // They accept connections, and never respond.
    let silent: Vec<std::net::TcpListener> = (0..150)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut urls: Vec<String> = silent
        .iter()
        .map(|listener| format!("http://{}/c", listener.local_addr().unwrap()))
        .collect();
    urls.push(server.url());
    let sandbox = Sandbox::new();
    sandbox.write("m.toml", &mirrors_file(&urls));
    let arguments = ["mirror", "probe", "-c", CHANNEL, "--mirrors", "m.toml"];
    let finished = sandbox.run(&arguments).expect(0);
    let good = finished
        .stdout
        .lines()
        .find(|line| line.contains(&urls[150]))
        .unwrap();
    assert!(
        good.contains("good") && good.trim_start().starts_with('1'),
        "{good}"
    );
    // The others are summarised: 30 rows and their causes.
    assert!(
        finished.stdout.contains("and 121 dead"),
        "{}",
        finished.stdout
    );
    assert!(finished.stdout.lines().count() < 80, "{}", finished.stdout);
    // What is known comes first: the good mirror is asked at once.
    let json = sandbox
        .run(&[&arguments[..], &["--all", "--json"]].concat())
        .expect(0);
    let first = &json.objects_of("probed")[0];
    assert_eq!(
        first["mirror"],
        urls[150].trim_end_matches('/').to_owned() + "/",
        "{first}"
    );
}
