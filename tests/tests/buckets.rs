//! S3 services that say things which mock servers do not.

use taipan_tests::{
    CHANNEL, Finished, Head, RawServer, Sandbox, mirrors_file_of, response, target,
};

const BODY: &[u8] = b"content\n";

fn denied(code: &str, inner: &str) -> Vec<u8> {
    let status = if code == "AuthorizationHeaderMalformed" {
        "400 Bad Request"
    } else {
        "403 Forbidden"
    };
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message>{inner}</Error>"
    );
    response(status, &["Content-Type: application/xml"], body.as_bytes())
}

fn authorization(head: &Head) -> Option<&str> {
    let mut lines = head.iter().filter_map(|line| line.split_once(": "));
    lines
        .find(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        .map(|(_, value)| value)
}

fn with_keys(mut sandbox: Sandbox) -> Sandbox {
    sandbox.set("AWS_ACCESS_KEY_ID", "AK");
    sandbox.set("AWS_SECRET_ACCESS_KEY", "hunter2");
    sandbox.set("AWS_REGION", "eu-central-1");
    sandbox
}

/// A mirror in a bucket at this endpoint, as in a mirrors file.
fn mirror(endpoint: &str, priority: u32) -> String {
    format!(
        "{{ url = \"s3://bucket/p\", endpoint = \"{endpoint}\", path-style = true, priority = {priority} }}"
    )
}

fn fetch_from(sandbox: &Sandbox, mirrors: &[String]) -> Finished {
    sandbox.write("m.toml", &mirrors_file_of(mirrors));
    sandbox.run(&[
        "fetch",
        "-c",
        CHANNEL,
        "--no-repodata",
        "--mirrors",
        "m.toml",
        "noarch/a.json",
        "-o",
        "out",
    ])
}

fn fetch(sandbox: &Sandbox, endpoint: &str) -> Finished {
    fetch_from(sandbox, &[mirror(endpoint, 0)])
}

#[test]
fn the_region_is_taken_from_the_body_of_an_error() {
    let server = RawServer::start("127.0.0.1", |head| {
        if authorization(head)
            .unwrap_or_default()
            .contains("/eu-west-3/")
        {
            response("200 OK", &[], BODY)
        } else {
            denied("AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>")
        }
    })
    .unwrap();
    let sandbox = with_keys(Sandbox::new());
    fetch(&sandbox, &server.url).expect(0);
    assert_eq!(std::fs::read(sandbox.path("out")).unwrap(), BODY);
    assert_eq!(server.take().len(), 2);
}

#[test]
fn a_redirect_that_has_only_a_location_is_followed_for_one_request() {
    let other = RawServer::start("127.0.0.1", |head| {
        let is_signed = authorization(head).is_some();
        response(
            if is_signed {
                "200 OK"
            } else {
                "400 Bad Request"
            },
            &[],
            BODY,
        )
    })
    .unwrap();
    let url = other.url.clone();
    let server = RawServer::start("127.0.0.1", move |head| {
        let location = format!("Location: {url}{}", target(head));
        response("307 Temporary Redirect", &[&location], b"")
    })
    .unwrap();
    let sandbox = with_keys(Sandbox::new());
    fetch(&sandbox, &server.url).expect(0);
    assert!(other.take_targets()[0].starts_with("/bucket/p/noarch/a.json"));
    // Not to another bucket.
    let url = other.url.clone();
    let server = RawServer::start("127.0.0.1", move |_| {
        let location = format!("Location: {url}/login");
        response("307 Temporary Redirect", &[&location], b"")
    })
    .unwrap();
    fetch(&sandbox, &server.url).expect(4);
    assert!(other.take().is_empty());
}

#[test]
fn an_endpoint_may_have_a_path() {
    let server = RawServer::start("127.0.0.1", |_| response("200 OK", &[], BODY)).unwrap();
    let sandbox = with_keys(Sandbox::new());
    for path in ["/gateway/s3", "/gateway/s3/"] {
        fetch(&sandbox, &format!("{}{path}", server.url)).expect(0);
        assert!(server.take_targets()[0].starts_with("/gateway/s3/bucket/p/noarch/a.json"));
    }
}

#[test]
fn without_keys_or_with_keys_of_another_service_the_hint_is_anonymous() {
    let server = RawServer::start("127.0.0.1", |_| denied("InvalidAccessKeyId", "")).unwrap();
    let without = fetch(&Sandbox::new(), &server.url).expect(4);
    assert!(server.take().is_empty());
    let foreign = fetch(&with_keys(Sandbox::new()), &server.url).expect(4);
    assert_eq!(server.take().len(), 1);
    for finished in [without, foreign] {
        let lines = finished
            .stderr
            .lines()
            .filter(|line| line.contains("denied:"));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(lines.len(), 1, "{}", finished.stderr);
        assert!(lines[0].contains("anonymous = true"), "{}", lines[0]);
        assert!(!finished.stderr.contains("hunter2"));
        // The place is named once.
        assert_eq!(
            lines[0].matches("s3://bucket/p/noarch/a.json").count(),
            1,
            "{}",
            lines[0]
        );
        assert!(
            finished.stderr.contains("cannot fetch noarch/a.json"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn mirrors_with_one_name_are_told_apart_by_their_endpoints() {
    let good = RawServer::start("127.0.0.1", |_| response("200 OK", &[], BODY)).unwrap();
    let bad = RawServer::start("127.0.0.1", |_| denied("AccessDenied", "")).unwrap();
    let sandbox = with_keys(Sandbox::new());
    let mirrors = [mirror(&bad.url, 0), mirror(&good.url, 1)];
    let finished = fetch_from(&sandbox, &mirrors).expect(0);
    for server in [&good, &bad] {
        let row = format!("s3://bucket/p at {}", server.url);
        assert!(finished.stderr.contains(&row), "{}", finished.stderr);
    }
}
