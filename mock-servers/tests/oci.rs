//! The registry: content, uploads, tokens, and the channel layout.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use taipan_mock_servers::{
    BearerAuth, Behaviour, DemoChannel, DemoOptions, Fault, HttpServer, Matcher, OciAuth,
    OciServer, PackageBuilder, Rule, channel_site,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn client() -> Client {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

fn digest(bytes: impl AsRef<[u8]>) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn header(response: &Response, name: &str) -> String {
    response
        .headers()
        .get(name)
        .map_or(String::new(), |value| value.to_str().unwrap().to_owned())
}

/// Sends to a path or an address, as locations may be either.
async fn send(
    server: &OciServer,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let url = match target.strip_prefix('/') {
        Some(path) => format!("{}{path}", server.url()),
        None => target.to_owned(),
    };
    let mut request = client().request(method, url).body(body.to_vec());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn get(server: &OciServer, target: &str, headers: &[(&str, &str)]) -> Response {
    send(server, Method::GET, target, headers, b"").await
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    (
        status,
        body["errors"][0]["code"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn blobs_are_pushed_pulled_and_mounted() {
    let server = OciServer::start().await.unwrap();
    let data = b"some layer";
    let config = b"{}";
    for bytes in [&data[..], &config[..]] {
        let start = send(
            &server,
            Method::POST,
            "/v2/ns/repo/blobs/uploads/",
            &[],
            b"",
        )
        .await;
        assert_eq!(start.status(), StatusCode::ACCEPTED);
        let target = format!("{}&digest={}", header(&start, "location"), digest(bytes));
        let done = send(&server, Method::PUT, &target, &[], bytes).await;
        assert_eq!(done.status(), StatusCode::CREATED);
        assert_eq!(header(&done, "docker-content-digest"), digest(bytes));
    }
    let blob = format!("/v2/ns/repo/blobs/{}", digest(data));
    let part = get(&server, &blob, &[("range", "bytes=5-")]).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.text().await.unwrap(), "layer");
    let head = send(&server, Method::HEAD, &blob, &[], b"").await;
    assert_eq!(header(&head, "content-length"), "10");
    // Another repository does not have it, until it is mounted there.
    let other = format!("/v2/other/blobs/{}", digest(data));
    assert_eq!(
        code(get(&server, &other, &[]).await).await,
        (404, "BLOB_UNKNOWN".to_owned())
    );
    let mount = format!(
        "/v2/other/blobs/uploads/?mount={}&from=ns/repo",
        digest(data)
    );
    assert_eq!(
        send(&server, Method::POST, &mount, &[], b"")
            .await
            .status()
            .as_u16(),
        201
    );
    assert_eq!(
        get(&server, &other, &[]).await.text().await.unwrap(),
        "some layer"
    );
    let nowhere = format!(
        "/v2/other/blobs/uploads/?mount={}&from=nowhere",
        digest("x")
    );
    assert_eq!(
        send(&server, Method::POST, &nowhere, &[], b"")
            .await
            .status()
            .as_u16(),
        202
    );
    assert_eq!(
        send(&server, Method::DELETE, &blob, &[], b"")
            .await
            .status()
            .as_u16(),
        202
    );
    assert_eq!(get(&server, &blob, &[]).await.status().as_u16(), 404);
    let bad_name = get(&server, "/v2/Bad__Name/tags/list", &[]).await;
    assert_eq!(bad_name.status().as_u16(), 404);
}

#[tokio::test]
async fn manifests_are_checked_and_sent_only_to_clients_that_accept_them() {
    let server = OciServer::start().await.unwrap();
    let data = b"some layer";
    let config = b"{}";
    server.add_blob("ns/repo", &data[..]);
    server.add_blob("ns/repo", &config[..]);
    let manifest = |layer: &str| {
        format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{{\"digest\":\"{}\"}},\
             \"layers\":[{{\"digest\":\"{layer}\"}}]}}",
            digest(config)
        )
    };
    let path = "/v2/ns/repo/manifests/v1";
    let typed = [("content-type", MANIFEST)];
    let dangling = manifest(&digest("missing"));
    let refused = send(&server, Method::PUT, path, &typed, dangling.as_bytes()).await;
    assert_eq!(
        code(refused).await,
        (400, "MANIFEST_BLOB_UNKNOWN".to_owned())
    );
    let right = manifest(&digest(data));
    let pushed = send(&server, Method::PUT, path, &typed, right.as_bytes()).await;
    assert_eq!(pushed.status(), StatusCode::CREATED);
    let by_digest = format!("/v2/ns/repo/manifests/{}", digest(&right));
    for path in [path, &by_digest] {
        assert_eq!(
            get(&server, path, &[]).await.status().as_u16(),
            404,
            "no Accept, no manifest"
        );
        let accept = format!("application/x-other, {MANIFEST};q=0.5");
        let found = get(&server, path, &[("accept", &accept)]).await;
        assert_eq!(header(&found, "docker-content-digest"), digest(&right));
        assert_eq!(header(&found, "content-type"), MANIFEST);
        assert_eq!(found.text().await.unwrap(), right);
    }
    let wrong = format!("/v2/ns/repo/manifests/{}", digest("other"));
    let refused = send(&server, Method::PUT, &wrong, &typed, right.as_bytes()).await;
    assert_eq!(code(refused).await, (400, "DIGEST_INVALID".to_owned()));

    let by_tag = send(&server, Method::DELETE, path, &[], b"").await;
    assert_eq!(code(by_tag).await, (400, "UNSUPPORTED".to_owned()));
    assert_eq!(
        send(&server, Method::DELETE, &by_digest, &[], b"")
            .await
            .status()
            .as_u16(),
        202
    );
    let gone = get(&server, path, &[("accept", MANIFEST)]).await;
    assert_eq!(code(gone).await, (404, "MANIFEST_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn chunks_must_come_in_order_to_the_newest_location() {
    let server = OciServer::builder()
        .absolute_locations()
        .max_chunk(6)
        .start()
        .await
        .unwrap();
    let start = send(&server, Method::POST, "/v2/r/blobs/uploads/", &[], b"").await;
    let first = header(&start, "location");
    assert!(first.starts_with("http://"));
    let chunk = async |target: &str, range: &str, data: &[u8]| {
        send(
            &server,
            Method::PATCH,
            target,
            &[("content-range", range)],
            data,
        )
        .await
    };
    let early = chunk(&first, "3-5", b"def").await;
    assert_eq!(early.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let done = chunk(&first, "0-2", b"abc").await;
    assert_eq!(
        (done.status().as_u16(), header(&done, "range").as_str()),
        (202, "0-2")
    );
    let second = header(&done, "location");
    assert_eq!(
        code(chunk(&first, "3-5", b"def").await).await.1,
        "BLOB_UPLOAD_UNKNOWN"
    );
    assert_eq!(chunk(&second, "3-99", b"def").await.status().as_u16(), 416);
    assert_eq!(
        chunk(&second, "3-9", b"defghij").await.status().as_u16(),
        416,
        "too large"
    );

    // A chunk that breaks off leaves what arrived, and the status tells how much.
    let cut = Rule::once(Matcher::method("PATCH"), Fault::Truncate { after: 2 });
    server.set_behaviour(Behaviour::new().with_rule(cut));
    let broken = client()
        .patch(&second)
        .header("content-range", "3-7")
        .body("defgh")
        .send();
    assert!(broken.await.is_err());
    let status = get(&server, &second, &[]).await;
    assert_eq!(
        (status.status().as_u16(), header(&status, "range").as_str()),
        (204, "0-4")
    );
    let done = chunk(&header(&status, "location"), "5-7", b"fgh").await;
    assert_eq!(done.status().as_u16(), 202);
    let last = header(&done, "location");
    let wrong = format!("{last}&digest={}", digest("other"));
    let right = format!("{last}&digest={}", digest("abcdefgh!"));
    assert_eq!(
        send(&server, Method::PUT, &right, &[], b"!")
            .await
            .status()
            .as_u16(),
        201
    );
    assert_eq!(
        code(send(&server, Method::PUT, &wrong, &[], b"").await)
            .await
            .0,
        404
    );

    let single = format!("/v2/r/blobs/uploads/?digest={}", digest("single"));
    let bad = send(&server, Method::POST, &single, &[], b"other").await;
    assert_eq!(code(bad).await, (400, "DIGEST_INVALID".to_owned()));
    assert_eq!(
        send(&server, Method::POST, &single, &[], b"single")
            .await
            .status()
            .as_u16(),
        201
    );
}

#[tokio::test]
async fn tags_come_in_pages_with_links() {
    let server = OciServer::builder().max_tags(3).start().await.unwrap();
    for tag in ["e", "a", "c", "b", "d"] {
        server.add_manifest("r", tag, MANIFEST, "{}");
    }
    let mut next = "/v2/r/tags/list?n=2".to_owned();
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = get(&server, &next, &[]).await;
        let link = header(&page, "link");
        let body: Value = serde_json::from_slice(&page.bytes().await.unwrap()).unwrap();
        let tags = body["tags"].as_array().unwrap();
        assert!(tags.len() <= 2);
        seen.extend(tags.iter().map(|tag| tag.as_str().unwrap().to_owned()));
        let Some(target) = link.strip_suffix(">; rel=\"next\"") else {
            break;
        };
        next = target.trim_start_matches('<').to_owned();
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    assert!(!header(&get(&server, "/v2/r/tags/list", &[]).await, "link").is_empty());
    let unknown = get(&server, "/v2/none/tags/list", &[]).await;
    assert_eq!(code(unknown).await, (404, "NAME_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn referrers_are_off_until_switched_on() {
    let subject = digest("subject");
    let referrer = format!(
        "{{\"schemaVersion\":2,\"artifactType\":\"application/x-sig\",\
         \"subject\":{{\"digest\":\"{subject}\"}},\"layers\":[]}}"
    );
    let path = format!("/v2/r/referrers/{subject}");
    let put = async |server: &OciServer| {
        let typed = [("content-type", MANIFEST)];
        send(
            server,
            Method::PUT,
            "/v2/r/manifests/sig",
            &typed,
            referrer.as_bytes(),
        )
        .await
    };
    let off = OciServer::start().await.unwrap();
    assert_eq!(header(&put(&off).await, "oci-subject"), "");
    assert_eq!(get(&off, &path, &[]).await.status().as_u16(), 404);

    let on = OciServer::builder().referrers().start().await.unwrap();
    assert_eq!(header(&put(&on).await, "oci-subject"), subject);
    let found = get(
        &on,
        &format!("{path}?artifactType=application%2Fx-sig"),
        &[],
    )
    .await;
    assert_eq!(header(&found, "oci-filters-applied"), "artifactType");
    let index: Value = serde_json::from_slice(&found.bytes().await.unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest(&referrer));
    let other = get(&on, &format!("{path}?artifactType=other"), &[]).await;
    assert!(!other.text().await.unwrap().contains("sha256:"));
}

/// Follows a challenge as the documentation of the token protocol says.
async fn token(challenge: &str, credentials: Option<(&str, &str)>) -> Response {
    let fields = challenge.strip_prefix("Bearer ").unwrap();
    let field = |name: &str| {
        let start = fields.split(&format!("{name}=\"")).nth(1);
        start.map(|rest| rest.split('"').next().unwrap().to_owned())
    };
    let scope = field("scope").unwrap_or_default();
    let url = format!(
        "{}?service={}&scope={scope}",
        field("realm").unwrap(),
        field("service").unwrap()
    );
    let mut request = client().get(url);
    if let Some((user, password)) = credentials {
        request = request.basic_auth(user, Some(password));
    }
    request.send().await.unwrap()
}

async fn bearer(response: Response) -> String {
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    format!("Bearer {}", body["token"].as_str().unwrap())
}

#[tokio::test]
async fn tokens_have_a_scope_and_a_lifetime() {
    let auth = BearerAuth::new()
        .with_credentials("me", "pw")
        .with_lifetime(Duration::from_mins(1))
        .forbidding_unknown_repositories();
    let server = OciServer::builder()
        .auth(OciAuth::Bearer(auth))
        .start()
        .await
        .unwrap();
    let blob = server.add_blob("a/b", "data");
    server.add_blob("a/c", "data");
    let (path, other) = (
        format!("/v2/a/b/blobs/{blob}"),
        format!("/v2/a/c/blobs/{blob}"),
    );

    let refused = get(&server, &path, &[]).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = header(&refused, "www-authenticate");
    assert!(
        challenge.ends_with("scope=\"repository:a/b:pull\""),
        "{challenge}"
    );
    assert_eq!(code(refused).await.1, "UNAUTHORIZED");
    let pull = bearer(token(&challenge, None).await).await;
    let with = [("authorization", pull.as_str())];
    assert_eq!(
        get(&server, &path, &with).await.text().await.unwrap(),
        "data"
    );
    let elsewhere = get(&server, &other, &with).await;
    assert!(header(&elsewhere, "www-authenticate").contains("insufficient_scope"));
    assert_eq!(get(&server, "/v2/", &with).await.status().as_u16(), 200);
    assert_eq!(get(&server, "/v2/", &[]).await.status().as_u16(), 401);

    // An anonymous token never allows pushing; one with credentials does.
    let start = "/v2/a/b/blobs/uploads/";
    let refused = send(&server, Method::POST, start, &with, b"").await;
    let challenge = header(&refused, "www-authenticate");
    assert!(challenge.contains("repository:a/b:pull,push"));
    let anonymous = bearer(token(&challenge, None).await).await;
    let with = [("authorization", anonymous.as_str())];
    assert_eq!(
        send(&server, Method::POST, start, &with, b"")
            .await
            .status()
            .as_u16(),
        401
    );
    assert_eq!(
        token(&challenge, Some(("me", "wrong")))
            .await
            .status()
            .as_u16(),
        401
    );
    let push = bearer(token(&challenge, Some(("me", "pw"))).await).await;
    let with = [("authorization", push.as_str())];
    assert_eq!(
        send(&server, Method::POST, start, &with, b"")
            .await
            .status()
            .as_u16(),
        202
    );

    server.expire_tokens();
    let expired = get(&server, &path, &with).await;
    assert!(header(&expired, "www-authenticate").contains("invalid_token"));

    let unknown = get(&server, "/v2/no/such/manifests/x", &[]).await;
    let denied = token(&header(&unknown, "www-authenticate"), None).await;
    assert_eq!(code(denied).await, (403, "DENIED".to_owned()));
}

#[tokio::test]
async fn basic_credentials_are_checked() {
    let auth = OciAuth::Basic {
        user: "me".to_owned(),
        password: "pw".to_owned(),
    };
    let server = OciServer::builder().auth(auth).start().await.unwrap();
    let url = format!("{}v2/", server.url());
    let refused = client().get(&url).send().await.unwrap();
    assert!(header(&refused, "www-authenticate").starts_with("Basic "));
    let allowed = client()
        .get(&url)
        .basic_auth("me", Some("pw"))
        .send()
        .await
        .unwrap();
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(get(&server, "/token", &[]).await.status().as_u16(), 404);
}

#[tokio::test]
async fn blobs_may_lie_on_another_host() {
    let server = OciServer::start().await.unwrap();
    let blob = server.add_blob("r", "elsewhere");
    let storage = HttpServer::builder(server.blobs())
        .prefix("data")
        .start()
        .await
        .unwrap();
    server.redirect_blobs(Some(storage.url()));
    let redirect = get(&server, &format!("/v2/r/blobs/{blob}"), &[]).await;
    assert_eq!(redirect.status(), StatusCode::TEMPORARY_REDIRECT);
    let there = client()
        .get(header(&redirect, "location"))
        .send()
        .await
        .unwrap();
    assert_eq!(there.text().await.unwrap(), "elsewhere");
    assert_eq!(storage.requests()[0].authorization, None);
}

#[tokio::test]
async fn a_channel_is_published_in_the_layout_of_clients() {
    let options = DemoOptions::default().with_corpus_bytes(1000).with_chain(1);
    let mut packages = DemoChannel::build(&options).packages().to_vec();
    packages.push(
        PackageBuilder::new("_libdemo_mutex", "1!2.0+3")
            .build_string("a=b", 0)
            .build(),
    );
    let site = channel_site(&packages);
    site.remove("noarch/demo-legacy-0.9-py_1.tar.bz2");
    let server = OciServer::start().await.unwrap();
    let published = server.publish(&site, "ns").unwrap();
    assert_eq!(published.missing, ["noarch/demo-legacy-0.9-py_1.tar.bz2"]);
    let mutex = "ns/linux-64/zzz_libdemo_mutex";
    assert!(
        published
            .packages
            .contains(&format!("{mutex}:1__e__2.0__p__3-a__eq__b"))
    );

    let accept = [("accept", MANIFEST)];
    let path = "/v2/ns/noarch/demo-corpus/manifests/2024.1-0";
    let manifest: Value =
        serde_json::from_slice(&get(&server, path, &accept).await.bytes().await.unwrap()).unwrap();
    let types: Vec<&str> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["mediaType"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "application/vnd.conda.package.v2",
            "application/vnd.conda.info.v1.tar+gzip",
            "application/vnd.conda.info.index.v1+json"
        ]
    );
    let corpus = packages
        .iter()
        .find(|package| package.name == "demo-corpus")
        .unwrap();
    let layer = &manifest["layers"][0];
    assert_eq!(layer["digest"], format!("sha256:{}", corpus.sha256()));
    assert_eq!(
        layer["annotations"]["org.opencontainers.image.title"],
        corpus.file_name
    );
    assert_eq!(layer["annotations"]["org.conda.md5"], corpus.record["md5"]);
    assert_eq!(manifest["config"]["digest"], digest("{}"));
    let index = manifest["layers"][2]["digest"].as_str().unwrap();
    let index = get(
        &server,
        &format!("/v2/ns/noarch/demo-corpus/blobs/{index}"),
        &[],
    )
    .await;
    let index: Value = serde_json::from_slice(&index.bytes().await.unwrap()).unwrap();
    assert_eq!(index["name"], "demo-corpus");

    let path = "/v2/ns/linux-64/repodata.json/manifests/latest";
    let manifest: Value =
        serde_json::from_slice(&get(&server, path, &accept).await.bytes().await.unwrap()).unwrap();
    let repodata = manifest["layers"][0]["digest"].as_str().unwrap();
    let path = format!("/v2/ns/linux-64/repodata.json/blobs/{repodata}");
    let bytes = get(&server, &path, &[]).await.bytes().await.unwrap();
    assert_eq!(bytes, site.get("linux-64/repodata.json").unwrap());
    assert_eq!(
        manifest["layers"][1]["mediaType"],
        "application/vnd.conda.repodata.v1+json+zst"
    );
}
