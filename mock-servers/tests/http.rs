//! The HTTP server against a foreign client, and every fault once.

use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, Rule, Script, Site};

fn content() -> Vec<u8> {
    (0..100_000_u32)
        .map(|n| u8::try_from(n * 7 % 251).unwrap())
        .collect()
}

async fn start() -> HttpServer {
    let site = Site::new();
    site.insert("dir/file.bin", content());
    site.insert("empty", "");
    HttpServer::start(site).await.unwrap()
}

/// No proxies: the address is on loopback whatever the environment says.
fn client() -> Client {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

async fn get(server: &HttpServer, path: &str) -> Response {
    client()
        .get(format!("{}{path}", server.url()))
        .send()
        .await
        .unwrap()
}

async fn get_range(server: &HttpServer, range: &str) -> Response {
    let request = client().get(format!("{}dir/file.bin", server.url()));
    request.header("range", range).send().await.unwrap()
}

fn header(response: &Response, name: &str) -> String {
    response
        .headers()
        .get(name)
        .map_or(String::new(), |value| value.to_str().unwrap().to_owned())
}

/// What arrives before the body breaks off.
async fn partial(mut response: Response) -> (Vec<u8>, Option<reqwest::Error>) {
    let mut got = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => got.extend_from_slice(&piece),
            Ok(None) => return (got, None),
            Err(error) => return (got, Some(error)),
        }
    }
}

fn faulty(server: &HttpServer, fault: Fault) {
    let script = Script::new()
        .rule(Rule::once(Matcher::suffix("file.bin"), fault))
        .strict();
    server.set_behaviour(Behaviour::new().with_script(script));
}

#[tokio::test]
async fn files_ranges_and_validators_are_served() {
    let server = start().await;
    let whole = get(&server, "dir/file.bin").await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(header(&whole, "content-length"), "100000");
    assert_eq!(header(&whole, "accept-ranges"), "bytes");
    let (etag, modified) = (header(&whole, "etag"), header(&whole, "last-modified"));
    assert!(etag.starts_with('"'));
    assert_eq!(whole.bytes().await.unwrap(), content());

    for (range, expected) in [
        ("bytes=10-19", 10..20),
        ("bytes=99990-", 99_990..100_000),
        ("bytes=-5", 99_995..100_000),
        ("bytes=99999-200000", 99_999..100_000),
    ] {
        let part = get_range(&server, range).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        let shown = format!("bytes {}-{}/100000", expected.start, expected.end - 1);
        assert_eq!(header(&part, "content-range"), shown);
        assert_eq!(part.bytes().await.unwrap(), content()[expected]);
    }
    let beyond = get_range(&server, "bytes=100000-").await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&beyond, "content-range"), "bytes */100000");

    let url = format!("{}dir/file.bin", server.url());
    let with = |name: &'static str, value: String| {
        client()
            .get(&url)
            .header("range", "bytes=0-9")
            .header(name, value)
            .send()
    };
    let status = |name, value: &str| {
        let sent = with(name, value.to_owned());
        async { sent.await.unwrap().status().as_u16() }
    };
    assert_eq!(status("if-none-match", &etag).await, 304);
    assert_eq!(status("if-none-match", "\"other\"").await, 206);
    assert_eq!(status("if-modified-since", &modified).await, 304);
    assert_eq!(status("if-range", &etag).await, 206);
    assert_eq!(status("if-range", &modified).await, 206);
    assert_eq!(status("if-range", "\"other\"").await, 200);
    assert_eq!(status("if-match", "\"other\"").await, 412);

    let head = client().head(&url).send().await.unwrap();
    assert_eq!(header(&head, "content-length"), "100000");
    assert_eq!(head.bytes().await.unwrap().len(), 0);
    assert_eq!(get(&server, "empty").await.bytes().await.unwrap().len(), 0);
    assert_eq!(
        get(&server, "missing").await.status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        client()
            .put(&url)
            .body("x")
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        405
    );
}

#[tokio::test]
async fn faults_replace_or_change_the_response() {
    let server = start().await;
    let whole = content();

    faulty(&server, Fault::status(503));
    assert_eq!(get(&server, "dir/file.bin").await.status().as_u16(), 503);
    server.verify().unwrap();

    faulty(
        &server,
        Fault::RetryAfter {
            code: 429,
            seconds: 7,
        },
    );
    let later = get(&server, "dir/file.bin").await;
    assert_eq!(
        (
            later.status().as_u16(),
            header(&later, "retry-after").as_str()
        ),
        (429, "7")
    );

    faulty(&server, Fault::Corrupt { at: 50_000 });
    let got = get(&server, "dir/file.bin").await.bytes().await.unwrap();
    assert_eq!(got[50_000], whole[50_000] ^ 1);
    assert_eq!(
        (&got[..50_000], &got[50_001..]),
        (&whole[..50_000], &whole[50_001..])
    );
    faulty(&server, Fault::Corrupt { at: 50_000 });
    let got = get_range(&server, "bytes=49999-50001")
        .await
        .bytes()
        .await
        .unwrap();
    assert_eq!(got[..], [whole[49_999], whole[50_000] ^ 1, whole[50_001]]);
    faulty(&server, Fault::Corrupt { at: 50_000 });
    let got = get_range(&server, "bytes=0-49999")
        .await
        .bytes()
        .await
        .unwrap();
    assert_eq!(got, whole[..50_000]);

    faulty(&server, Fault::IgnoreRange);
    let response = get_range(&server, "bytes=5-9").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.bytes().await.unwrap(), whole);

    faulty(&server, Fault::WrongRange);
    let response = get_range(&server, "bytes=5-9").await;
    assert_eq!(header(&response, "content-range"), "bytes 6-10/100000");
    assert_eq!(response.bytes().await.unwrap(), whole[6..11]);

    faulty(&server, Fault::ChangedEtag);
    let changed = header(&get(&server, "dir/file.bin").await, "etag");
    server.set_behaviour(Behaviour::new());
    let right = header(&get(&server, "dir/file.bin").await, "etag");
    assert_ne!(changed, right);

    faulty(
        &server,
        Fault::Redirect {
            to: "http://127.0.0.1:9/x/".to_owned(),
        },
    );
    let response = get(&server, "dir/file.bin?a=b").await;
    assert_eq!(response.status().as_u16(), 307);
    assert_eq!(
        header(&response, "location"),
        "http://127.0.0.1:9/x/dir/file.bin?a=b"
    );

    faulty(&server, Fault::Html);
    let response = get(&server, "dir/file.bin").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(header(&response, "content-type").starts_with("text/html"));

    faulty(&server, Fault::Gzip);
    let response = get(&server, "dir/file.bin").await;
    assert_eq!(header(&response, "content-encoding"), "gzip");
    let packed = response.bytes().await.unwrap();
    assert_eq!(packed[..3], [0x1f, 0x8b, 8]);
    assert_eq!(packed[15..65_550], whole[..65_535]);
    server.verify().unwrap();
}

#[tokio::test]
async fn faults_truncate_the_body() {
    let server = start().await;
    let whole = content();
    faulty(&server, Fault::Truncate { after: 70_001 });
    let response = get(&server, "dir/file.bin").await;
    assert_eq!(header(&response, "content-length"), "100000");
    let (got, error) = partial(response).await;
    assert!(error.is_some());
    assert_eq!(got, whole[..70_001]);

    faulty(&server, Fault::Truncate { after: 0 });
    let (got, error) = partial(get(&server, "dir/file.bin").await).await;
    assert!(error.is_some() && got.is_empty());

    faulty(&server, Fault::Reset { after: Some(1_000) });
    let (got, error) = partial(get(&server, "dir/file.bin").await).await;
    assert_eq!(got, whole[..1_000]);
    assert!(caused_by_reset(&error.unwrap()));

    faulty(&server, Fault::Reset { after: None });
    let url = format!("{}dir/file.bin", server.url());
    assert!(caused_by_reset(
        &client().get(&url).send().await.unwrap_err()
    ));

    faulty(&server, Fault::WrongLength { delta: 3 });
    let response = get(&server, "dir/file.bin").await;
    assert_eq!(header(&response, "content-length"), "100003");
    let (got, error) = partial(response).await;
    assert!(error.is_some());
    assert_eq!(got, whole);
    faulty(&server, Fault::WrongLength { delta: -3 });
    let (got, error) = partial(get(&server, "dir/file.bin").await).await;
    assert!(error.is_none());
    assert_eq!(got, whole[..99_997]);
    server.verify().unwrap();
}

fn caused_by_reset(error: &reqwest::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionReset
        {
            return true;
        }
        source = error.source();
    }
    false
}

#[tokio::test]
async fn a_stall_and_a_hang_last_until_the_client_disconnects() {
    let server = start().await;
    faulty(&server, Fault::Stall { after: 500 });
    let mut response = get(&server, "dir/file.bin").await;
    let mut got = Vec::new();
    while got.len() < 500 {
        got.extend_from_slice(&response.chunk().await.unwrap().unwrap());
    }
    assert_eq!(got, content()[..500]);
    let more = tokio::time::timeout(Duration::from_millis(50), response.chunk()).await;
    assert!(more.is_err(), "a stalled body neither goes on nor ends");
    drop(response);
    server.wait_until(|log| log[0].finished.is_some()).await;
    let entry = &server.requests()[0];
    assert_eq!(
        (entry.bytes_sent, entry.complete, entry.fault),
        (500, false, Some("stall"))
    );

    faulty(&server, Fault::Hang);
    let url = format!("{}dir/file.bin", server.url());
    let client = client();
    let waiting = tokio::time::timeout(Duration::from_millis(50), client.get(&url).send()).await;
    assert!(waiting.is_err());
    drop(client);
    server.wait_until(|log| log[1].finished.is_some()).await;
    assert_eq!(server.requests()[1].status, None);
    server.wait_until(|_| server.open_connections() == 0).await;
}

#[tokio::test]
async fn rates_and_delays_are_kept() {
    let server = start().await;
    let timed = |behaviour: Behaviour| {
        server.set_behaviour(behaviour);
        async {
            let start = Instant::now();
            assert_eq!(
                get(&server, "dir/file.bin").await.bytes().await.unwrap(),
                content()
            );
            start.elapsed().as_secs_f64()
        }
    };
    let delay = Duration::from_millis(120);
    // Upper bounds are generous, for a machine under load; lower ones are exact.
    for behaviour in [
        Behaviour::new().with_rate(500_000),
        Behaviour::new().with_total_rate(500_000),
        Behaviour::new().with_rule(Rule::once(Matcher::Any, Fault::Drip { rate: 500_000 })),
    ] {
        let took = timed(behaviour).await;
        assert!((0.14..1.5).contains(&took), "{took}");
    }
    assert!(timed(Behaviour::new().with_latency(delay)).await >= 0.12);
    let slow = Rule::once(Matcher::Any, Fault::SlowFirstByte(delay));
    assert!(timed(Behaviour::new().with_rule(slow)).await >= 0.12);
}

#[tokio::test]
async fn a_strict_script_fails_on_unexpected_requests_and_unused_rules() {
    let server = start().await;
    let script = Script::new()
        .rule(Rule::once(Matcher::suffix("empty"), Fault::None))
        .rule(Rule::times(
            2,
            Matcher::suffix("file.bin"),
            Fault::status(500),
        ))
        .strict();
    server.set_behaviour(Behaviour::new().with_script(script));
    get(&server, "dir/file.bin").await;
    get(&server, "empty").await;
    get(&server, "empty").await;
    let error = server.verify().unwrap_err();
    assert_eq!(error.unexpected, ["GET /empty"]);
    assert_eq!(error.unused.len(), 1);
    assert!(error.to_string().contains("used 1 of 2"), "{error}");
}

#[tokio::test]
async fn prefix_and_password_are_required() {
    let site = Site::new();
    site.insert("a b/ü", "here");
    let builder = HttpServer::builder(site)
        .prefix("/some/where/")
        .basic_auth("me", "p:w");
    let server = builder.start().await.unwrap();
    assert!(server.url().ends_with("/some/where/"));
    let url = format!("{}a%20b/%C3%BC", server.url());
    let refused = client().get(&url).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(header(&refused, "www-authenticate").starts_with("Basic"));
    let allowed = client()
        .get(&url)
        .basic_auth("me", Some("p:w"))
        .send()
        .await
        .unwrap();
    assert_eq!(allowed.text().await.unwrap(), "here");
    let log = server.requests();
    assert_eq!(log[0].authorization, None);
    assert_eq!(log[1].authorization.as_deref(), Some("Basic"));
    assert!(
        !format!("{log:?}").contains("bWU6"),
        "the log keeps no secrets"
    );
    assert_eq!(log[1].path, "/some/where/a b/ü");
}

#[tokio::test]
async fn files_on_disk_are_served_like_those_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let big: Vec<u8> = content().repeat(20);
    std::fs::create_dir(dir.path().join("dir")).unwrap();
    std::fs::write(dir.path().join("dir/file.bin"), &big).unwrap();
    let server = HttpServer::start(Site::from_dir(dir.path())).await.unwrap();
    let whole = get(&server, "dir/file.bin").await;
    let etag = header(&whole, "etag");
    assert_eq!(whole.bytes().await.unwrap(), big);
    let part = get_range(&server, "bytes=1000000-1999998").await;
    assert_eq!(header(&part, "etag"), etag);
    assert_eq!(part.bytes().await.unwrap(), big[1_000_000..1_999_999]);

    faulty(&server, Fault::Corrupt { at: 1_500_000 });
    let damaged = get_range(&server, "bytes=1500000-1500000").await;
    assert_eq!(damaged.bytes().await.unwrap()[..], [big[1_500_000] ^ 1]);
    faulty(&server, Fault::Truncate { after: 1_234_567 });
    let (got, error) = partial(get(&server, "dir/file.bin").await).await;
    assert!(error.is_some());
    assert_eq!(got, big[..1_234_567]);
    server.verify().unwrap();
    server.set_behaviour(Behaviour::new());

    for path in [
        "../secret",
        "%2e%2e/secret",
        "dir",
        "dir/",
        "",
        "dir/file.bin/x",
    ] {
        assert_eq!(
            get(&server, path).await.status(),
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    std::fs::write(dir.path().join("dir/file.bin"), "new").unwrap();
    let changed = get(&server, "dir/file.bin").await;
    assert_ne!(header(&changed, "etag"), etag);
    assert_eq!(changed.text().await.unwrap(), "new");
}

#[tokio::test]
async fn the_log_has_requests_connections_and_bytes() {
    let server = start().await;
    let client = client();
    let url = format!("{}dir/file.bin", server.url());
    for range in ["bytes=0-9", "bytes=10-29"] {
        let request = client
            .get(&url)
            .header("range", range)
            .header("if-none-match", "\"x\"");
        request.send().await.unwrap().bytes().await.unwrap();
    }
    let log = server.requests();
    assert_eq!(server.connections(), 1, "connections are kept alive");
    assert_eq!(
        (log[0].range(), log[0].if_none_match()),
        (Some("bytes=0-9"), Some("\"x\""))
    );
    assert_eq!(
        (log[1].bytes_sent, log[1].status, log[1].complete),
        (20, Some(206), true)
    );
    server.clear_requests();
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn shutting_down_frees_the_port_even_while_bodies_stall() {
    let server = start().await;
    faulty(&server, Fault::Stall { after: 1 });
    let response = get(&server, "dir/file.bin").await;
    let address = server.address();
    server.shutdown().await;
    assert_eq!(server.open_connections(), 0);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert!(partial(response).await.1.is_some());

    let server = start().await;
    let address = server.address();
    drop(server);
    // The task ends when the runtime gets to it.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn invalid_requests_get_an_error() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = start().await;
    for text in [
        "nonsense\r\n\r\n",
        "GET /%zz%%/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nRange: bytes=18446744073709551615-\r\nConnection: close\r\n\r\n",
        "GET /dir/file.bin HTTP/1.1\r\nRange: bytes=\u{e9}\r\nConnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "PUT /x HTTP/1.1\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(server.address())
            .await
            .unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good a response as any to the worst of them.
        let _ = stream.read_to_end(&mut answer).await;
    }
    assert_eq!(
        get(&server, "dir/file.bin").await.bytes().await.unwrap(),
        content()
    );
}
