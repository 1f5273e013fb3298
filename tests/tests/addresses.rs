//! `taipan fetch`: URLs are requested as they are written.

use taipan_tests::{RawServer, Sandbox, response};

const BODY: &[u8] = b"content\n";

/// A server that answers every request with [`BODY`].
fn start(host: &str) -> std::io::Result<RawServer> {
    RawServer::start(host, |_| response("200 OK", &[], BODY))
}

#[test]
fn the_path_and_the_query_arrive_as_they_are_written() {
    let server = start("127.0.0.1").unwrap();
    let sandbox = Sandbox::new();
    for target in [
        "/d%2Bir/a%2Bb.txt",
        "/a+b%40c%3Ad%26e%25.txt",
        "/o/images%2Fcat.jpg?alt=media&token=t0k",
        "/pub//file.bin",
        "//pub///file.bin",
        "/download/?file=x.iso",
        "/?id=17",
        "/caf%E9.txt",
        "/get?p=a+b%2Bc/d&x=%20",
    ] {
        let url = format!("{}{target}", server.url);
        sandbox.run(&["fetch", &url, "-o", "out"]).expect(0);
        assert_eq!(
            server.take_targets().first().map(String::as_str),
            Some(target)
        );
        assert_eq!(std::fs::read(sandbox.path("out")).unwrap(), BODY);
    }
    // Without a name in the URL one is asked for.
    let url = format!("{}/download/?file=x.iso", server.url);
    let finished = sandbox.run(&["fetch", &url]).expect(2);
    assert!(finished.stderr.contains("--output"), "{}", finished.stderr);
    assert!(server.take_targets().is_empty());
}

#[test]
fn two_urls_that_differ_only_in_the_query_are_two_files() {
    let server = start("127.0.0.1").unwrap();
    let sandbox = Sandbox::new();
    for id in ["1", "2"] {
        let url = format!("{}/get?id={id}", server.url);
        sandbox.run(&["fetch", &url, "-o", id]).expect(0);
        let targets = server.take_targets();
        assert!(
            targets
                .iter()
                .all(|target| *target == format!("/get?id={id}"))
        );
    }
}

#[test]
fn an_ipv6_literal_is_a_host() {
    let Ok(server) = start("::1") else {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    };
    let sandbox = Sandbox::new();
    let url = format!("{}/f.bin", server.url);
    sandbox.run(&["fetch", &url]).expect(0);
    assert_eq!(std::fs::read(sandbox.path("f.bin")).unwrap(), BODY);
}

fn metalink(sandbox: &Sandbox, files: &str) {
    let text = format!("<metalink xmlns='urn:ietf:params:xml:ns:metalink'>{files}</metalink>");
    sandbox.write("m.meta4", &text);
}

#[test]
fn one_file_of_a_metalink_that_cannot_be_had_does_not_keep_the_others() {
    let server = start("127.0.0.1").unwrap();
    let sandbox = Sandbox::new();
    let url = &server.url;
    metalink(
        &sandbox,
        &format!(
            "<file name='one'><url>ftp://a.example/one</url></file>\
             <file name='two'><url>{url}/a%2Fb?n=2</url></file>"
        ),
    );
    let finished = sandbox.run(&["fetch", "m.meta4"]).expect(4);
    assert!(
        finished.stderr.contains("mirror of one"),
        "{}",
        finished.stderr
    );
    assert_eq!(std::fs::read(sandbox.path("two")).unwrap(), BODY);
    assert!(!sandbox.path("one").exists());
    assert_eq!(
        server.take_targets().first().map(String::as_str),
        Some("/a%2Fb?n=2")
    );
}

#[test]
fn any_digest_of_a_metalink_is_verified() {
    let server = start("127.0.0.1").unwrap();
    let sandbox = Sandbox::new();
    for (kind, digits) in [("sha-512", 128), ("sha-1", 40), ("md5", 32)] {
        let wrong = "0".repeat(digits);
        let url = &server.url;
        metalink(
            &sandbox,
            &format!(
                "<file name='one'><hash type='{kind}'>{wrong}</hash><url>{url}/one</url></file>"
            ),
        );
        let finished = sandbox.run(&["fetch", "m.meta4"]).expect(5);
        let name = kind.replace('-', "");
        assert!(finished.stderr.contains(&name), "{}", finished.stderr);
        assert!(!sandbox.path("one").exists());
    }
}

/// Whether a request has this header line.
fn has(head: &[String], line: &str) -> bool {
    head.iter().any(|it| it.eq_ignore_ascii_case(line))
}

#[test]
fn headers_of_the_command_line_go_to_the_servers_of_its_urls_only() {
    let other = start("127.0.0.1").unwrap();
    let url = other.url.clone();
    let server = RawServer::start("127.0.0.1", move |head| {
        if head[0].contains("/moved") {
            response("302 Found", &[&format!("Location: {url}/there")], b"")
        } else {
            response("200 OK", &[], BODY)
        }
    })
    .unwrap();
    let sandbox = Sandbox::new();
    let header = "Authorization: Bearer hunter2";
    for path in ["f", "moved"] {
        let url = format!("{}/{path}", server.url);
        let arguments = [
            "fetch", &url, "-o", "out", "-H", header, "-H", "X-Own: 1", "-v",
        ];
        let finished = sandbox.run(&arguments).expect(0);
        assert!(!finished.stderr.contains("hunter2"), "{}", finished.stderr);
        for head in server.take() {
            assert!(has(&head, header) && has(&head, "X-Own: 1"), "{head:?}");
        }
    }
    let heads = other.take();
    assert!(
        !heads.is_empty()
            && heads
                .iter()
                .all(|head| !has(head, header) && !has(head, "X-Own: 1"))
    );
    for bad in ["no header", "Range: bytes=0-1", "a b: c"] {
        let finished = sandbox
            .run(&["fetch", &server.url, "-o", "out", "-H", bad])
            .expect(2);
        assert!(
            finished.stderr.contains("`--header` number 1"),
            "{}",
            finished.stderr
        );
    }
    assert!(server.take().is_empty());
}

#[test]
fn retry_is_how_often_a_mirror_is_tried_again() {
    let server = RawServer::start("127.0.0.1", |_| {
        response("500 Internal Server Error", &[], b"")
    })
    .unwrap();
    let sandbox = Sandbox::new();
    let url = format!("{}/f", server.url);
    let mut counts = Vec::new();
    for retry in ["0", "1"] {
        // With a digest no request asks for other mirrors first.
        let digest = "0".repeat(128);
        sandbox
            .run(&["fetch", &url, "--retry", retry, "--sha512", &digest])
            .expect(4);
        counts.push(server.take().len());
    }
    assert_eq!(counts[1], counts[0] + 1, "{counts:?}");
}

#[test]
fn a_file_is_verified_by_any_digest_of_the_command_line() {
    let server = start("127.0.0.1").unwrap();
    let sandbox = Sandbox::new();
    let url = format!("{}/f", server.url);
    for (option, right) in [
        ("--md5", "f75b8179e4bbe7e2b4a074dcef62de95"),
        (
            "--sha256",
            "434728a410a78f56fc1b5899c3593436e61ab0c731e9072d95e96db290205e53",
        ),
    ] {
        let finished = sandbox
            .run(&["fetch", &url, option, right, "-o", "out"])
            .expect(0);
        assert!(finished.stderr.contains("verified"), "{}", finished.stderr);
        let wrong = "0".repeat(right.len());
        sandbox
            .run(&["fetch", &url, option, &wrong, "-o", "out2"])
            .expect(5);
        let finished = sandbox.run(&["fetch", &url, option, "12"]).expect(2);
        assert!(finished.stderr.contains(option), "{}", finished.stderr);
    }
}
