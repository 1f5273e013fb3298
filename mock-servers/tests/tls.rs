//! TLS, HTTP/2 and the port, as a client that is not ours sees them.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Certificate, Client, ClientBuilder, Version};
use taipan_mock_servers::{
    Behaviour, Fault, HttpServer, Identity, Matcher, Rule, Script, Site, TestCa, Tls,
};

fn content() -> Bytes {
    (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect()
}

async fn start(tls: Tls) -> HttpServer {
    let site = Site::new();
    site.insert("file", content());
    HttpServer::builder(site).tls(tls).start().await.unwrap()
}

fn trusting(ca: &TestCa) -> ClientBuilder {
    let root = Certificate::from_pem(ca.pem().as_bytes()).unwrap();
    Client::builder().no_proxy().tls_certs_only([root])
}

async fn get(client: &Client, server: &HttpServer) -> reqwest::Result<Bytes> {
    let url = format!("{}file", server.url());
    client.get(url).send().await?.bytes().await
}

#[tokio::test]
async fn the_client_chooses_the_version_among_those_offered() {
    let ca = TestCa::new();
    let both = start(Tls::new(&ca.server())).await;
    let old = start(Tls::new(&ca.server()).http1_only()).await;
    assert!(both.url().starts_with("https://127.0.0.1:"));
    let client = trusting(&ca).build().unwrap();
    let client_h1 = trusting(&ca).http1_only().build().unwrap();
    for (client, server, version) in [
        (&client, &both, Version::HTTP_2),
        (&client_h1, &both, Version::HTTP_11),
        (&client, &old, Version::HTTP_11),
    ] {
        server.clear_requests();
        assert_eq!(get(client, server).await.unwrap(), content());
        let request = server.requests().pop().unwrap();
        assert_eq!(request.version, version);
        assert_eq!(request.header("host"), Some(&*server.address().to_string()));
        assert_eq!(request.bytes_sent, content().len() as u64);
    }
}

#[tokio::test]
async fn invalid_certificates_are_refused() {
    let ca = TestCa::new();
    let client = trusting(&ca).build().unwrap();
    let server = start(Tls::new(&ca.server())).await;
    let bad = [
        Identity::self_signed(),
        ca.server_for(&["elsewhere.example"]),
        ca.expired(),
        ca.client("a client"),
        TestCa::new().server(),
    ];
    for (failed, identity) in (1..).zip(&bad) {
        server.set_tls(Tls::new(identity));
        let error = get(&client, &server).await.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        // The server learns of it by the alert of the client.
        server
            .wait_until(|_| server.failed_handshakes() == failed)
            .await;
    }
    assert!(server.requests().is_empty());
    server.set_tls(Tls::new(&ca.server()));
    assert_eq!(get(&client, &server).await.unwrap(), content());
}

#[tokio::test]
async fn a_client_certificate_is_required() {
    let (ca, clients) = (TestCa::new(), TestCa::new());
    let tls = Tls::with_client_certificates(&ca.server(), &clients);
    let server = start(tls).await;
    let showing = |identity: &Identity| {
        let pem = [identity.certificate_pem(), identity.key_pem()].concat();
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).unwrap();
        trusting(&ca).identity(identity).build().unwrap()
    };
    let nobody = trusting(&ca).build().unwrap();
    get(&nobody, &server).await.unwrap_err();
    let stranger = showing(&TestCa::new().client("a stranger"));
    get(&stranger, &server).await.unwrap_err();
    assert!(server.requests().is_empty());
    let known = showing(&clients.client("somebody"));
    assert_eq!(get(&known, &server).await.unwrap(), content());
}

/// What arrives of a response before it breaks off.
async fn partial(client: &Client, server: &HttpServer) -> (usize, bool) {
    let url = format!("{}file", server.url());
    let Ok(mut response) = client.get(url).send().await else {
        return (0, true);
    };
    let mut length = 0;
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => length += piece.len(),
            Ok(None) => return (length, false),
            Err(_) => return (length, true),
        }
    }
}

#[tokio::test]
async fn responses_are_truncated_in_both_versions() {
    let ca = TestCa::new();
    let server = start(Tls::new(&ca.server())).await;
    for client in [trusting(&ca), trusting(&ca).http1_only()] {
        let client = client.build().unwrap();
        for (fault, least) in [
            (Fault::Truncate { after: 40_000 }, 40_000),
            (
                Fault::Reset {
                    after: Some(40_000),
                },
                0,
            ),
            (Fault::Reset { after: None }, 0),
            (Fault::WrongLength { delta: 1 }, 0),
        ] {
            let rule = Rule::once(Matcher::Any, fault.clone());
            server.set_behaviour(Behaviour::new().with_rule(rule));
            let (length, failed) = partial(&client, &server).await;
            assert!(failed, "{fault:?}");
            assert!((least..=300_000).contains(&length), "{fault:?}: {length}");
            server.verify().unwrap();
            assert_eq!(partial(&client, &server).await, (300_000, false));
        }
    }
}

#[tokio::test]
async fn an_endless_response_ends_when_its_client_disconnects() {
    let ca = TestCa::new();
    let server = start(Tls::new(&ca.server())).await;
    for fault in [Fault::Stall { after: 1_000 }, Fault::Hang] {
        let rule = Rule::once(Matcher::Any, fault.clone());
        server.set_behaviour(Behaviour::new().with_rule(rule));
        server.clear_requests();
        let client = trusting(&ca).build().unwrap();
        let url = format!("{}file", server.url());
        let asking = client.get(url).send();
        let hangs = tokio::time::timeout(Duration::from_millis(200), async {
            asking.await.unwrap().bytes().await.unwrap();
        });
        hangs.await.expect_err("it was answered to the end");
        drop(client);
        server.wait_until(|log| log[0].finished.is_some()).await;
    }
}

#[tokio::test]
async fn a_closed_port_refuses_and_opens_again() {
    let site = Site::new();
    site.insert("file", content());
    let server = HttpServer::start(site).await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    for _ in 0..3 {
        assert_eq!(get(&client, &server).await.unwrap(), content());
        server.close_port().await;
        // The connection that stands is good for another request; a new one is refused.
        assert_eq!(get(&client, &server).await.unwrap(), content());
        let fresh = Client::builder().no_proxy().build().unwrap();
        assert!(get(&fresh, &server).await.unwrap_err().is_connect());
        server.open_port().await.unwrap();
        assert_eq!(get(&fresh, &server).await.unwrap(), content());
    }
}

#[tokio::test]
async fn a_strict_script_that_is_not_verified_fails_on_drop() {
    let dropping = tokio::spawn(async {
        let site = Site::new();
        site.insert("file", content());
        let server = HttpServer::start(site).await.unwrap();
        server.set_behaviour(Behaviour::new().with_script(Script::new().strict()));
        let client = Client::builder().no_proxy().build().unwrap();
        get(&client, &server).await.unwrap();
    });
    let error = dropping.await.unwrap_err();
    let panic = error.into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("unexpected request: GET /file"), "{text}");
}

#[tokio::test]
async fn the_clock_of_a_server_can_be_wrong() {
    let site = Site::new();
    site.insert("file", content());
    let server = HttpServer::start(site).await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    let mut dates = Vec::new();
    for seconds in [-86_400 * 400, 86_400 * 400] {
        let rule = Rule::once(Matcher::Any, Fault::ClockSkew { seconds });
        server.set_behaviour(Behaviour::new().with_rule(rule));
        let response = client.get(server.url()).send().await.unwrap();
        let date = response.headers()["date"].to_str().unwrap().to_owned();
        let year: i32 = date.split(' ').nth(3).unwrap().parse().unwrap();
        dates.push(year);
    }
    assert!((2..=3).contains(&(dates[1] - dates[0])), "{dates:?}");
}

#[tokio::test]
async fn a_response_slows_down_at_an_offset() {
    let site = Site::new();
    site.insert("file", content());
    let server = HttpServer::start(site).await.unwrap();
    let fault = Fault::SlowDown {
        after: 290_000,
        rate: 20_000,
    };
    server.set_behaviour(Behaviour::new().with_rule(Rule::once(Matcher::Any, fault)));
    let client = Client::builder().no_proxy().build().unwrap();
    let started = std::time::Instant::now();
    assert_eq!(get(&client, &server).await.unwrap(), content());
    let took = started.elapsed();
    assert!(took > Duration::from_millis(400), "{took:?}");
}
