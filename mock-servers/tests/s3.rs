//! The S3 server: real signatures, uploads and listings.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::{Client, Method, Response};
use sha2::{Digest as _, Sha256};
use taipan_mock_servers::{Behaviour, Fault, Matcher, Rule, S3Keys, S3Server, Site};

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

/// A signer written against the documentation of the algorithm, apart from the server's.
struct Signer {
    access_key: &'static str,
    secret_key: &'static str,
    host: String,
}

fn sha(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    assert!(key.len() <= 64, "longer keys do not occur here");
    let pad = |with: u8| -> Vec<u8> {
        (0..64)
            .map(|at| key.get(at).copied().unwrap_or(0) ^ with)
            .collect()
    };
    let inner = Sha256::digest([pad(0x36), text.into()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

/// `YYYYMMDDTHHMMSSZ`, counted year by year and month by month.
fn now(offset_seconds: i64) -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let seconds = seconds.checked_add_signed(offset_seconds).unwrap();
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!(
        "{year:04}{:02}{:02}T{hour:02}{minute:02}{second:02}Z",
        month + 1,
        days + 1
    )
}

impl Signer {
    fn new(server: &S3Server) -> Self {
        Self {
            access_key: "AKID",
            secret_key: "secret",
            host: server.address().to_string(),
        }
    }

    fn key(&self, day: &str) -> Vec<u8> {
        let mut key = mac(format!("AWS4{}", self.secret_key).as_bytes(), day);
        for part in ["eu-west-1", "s3", "aws4_request"] {
            key = mac(&key, part);
        }
        key
    }

    /// The value of `Authorization`, and the signature alone. Path and query must be encoded and
    /// sorted already.
    fn sign(
        &self,
        method: &str,
        path: &str,
        query: &str,
        date: &str,
        payload: &str,
    ) -> (String, String) {
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{}\nx-amz-content-sha256:{payload}\n\
             x-amz-date:{date}\n\nhost;x-amz-content-sha256;x-amz-date\n{payload}",
            self.host
        );
        let scope = format!("{}/eu-west-1/s3/aws4_request", &date[..8]);
        let text = format!(
            "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
            sha(canonical.as_bytes())
        );
        let signature = hex::encode(mac(&self.key(&date[..8]), &text));
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}",
            self.access_key
        );
        (value, signature)
    }

    async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &[(&str, &str)],
        payload_hash: Option<&str>,
        body: Vec<u8>,
    ) -> Response {
        let date = now(0);
        let (path, query) = path_and_query
            .split_once('?')
            .unwrap_or((path_and_query, ""));
        let hash = payload_hash.map_or_else(|| sha(&body), str::to_owned);
        let (value, _) = self.sign(method.as_str(), path, query, &date, &hash);
        let mut request = client()
            .request(method, format!("http://{}{path_and_query}", self.host))
            .header("x-amz-date", date)
            .header("x-amz-content-sha256", hash)
            .header("authorization", value)
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, &[], None, Vec::new()).await
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        self.send(Method::PUT, path, headers, None, body.into())
            .await
            .status()
            .as_u16()
    }
}

async fn start(site: &Site) -> S3Server {
    S3Server::builder()
        .bucket("bucket", site.clone())
        .keys(S3Keys::new("AKID", "secret"))
        .min_part_size(4)
        .start()
        .await
        .unwrap()
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let code = text
        .split("<Code>")
        .nth(1)
        .and_then(|rest| rest.split('<').next());
    (status, code.unwrap_or("").to_owned())
}

#[tokio::test]
async fn signatures_are_verified() {
    let site = Site::new();
    site.insert("dir/a b+ü.txt", "hello");
    let server = start(&site).await;
    let signer = Signer::new(&server);
    let path = "/bucket/dir/a%20b%2B%C3%BC.txt";

    assert_eq!(signer.get(path).await.text().await.unwrap(), "hello");
    let plain = client()
        .get(format!("{}{path}", server.endpoint()))
        .send()
        .await
        .unwrap();
    assert_eq!(code(plain).await, (403, "AccessDenied".to_owned()));

    let mut wrong = Signer::new(&server);
    wrong.secret_key = "guess";
    assert_eq!(
        code(wrong.get(path).await).await,
        (403, "SignatureDoesNotMatch".to_owned())
    );
    let mut stranger = Signer::new(&server);
    stranger.access_key = "OTHER";
    assert_eq!(
        code(stranger.get(path).await).await,
        (403, "InvalidAccessKeyId".to_owned())
    );

    // A signature is for one path and one moment.
    for (date, path, expected) in [
        (now(0), "/bucket/other", "SignatureDoesNotMatch"),
        (now(-3_600), path, "RequestTimeTooSkewed"),
        (now(3_600), path, "RequestTimeTooSkewed"),
    ] {
        let other = if expected == "SignatureDoesNotMatch" {
            "/bucket/x"
        } else {
            path
        };
        let hash = sha(b"");
        let (value, _) = signer.sign("GET", other, "", &date, &hash);
        let request = client()
            .get(format!("{}{path}", server.endpoint()))
            .header("x-amz-date", date)
            .header("x-amz-content-sha256", hash)
            .header("authorization", value);
        assert_eq!(code(request.send().await.unwrap()).await.1, expected);
    }

    // The body must be the one that was signed.
    let response = signer
        .send(
            Method::PUT,
            "/bucket/new",
            &[],
            Some(&sha(b"this")),
            b"that".to_vec(),
        )
        .await;
    assert_eq!(
        code(response).await,
        (400, "XAmzContentSHA256Mismatch".to_owned())
    );
    assert!(!site.contains("new"));
    let gibberish = client().get(format!("{}{path}", server.endpoint()));
    let gibberish = gibberish.header("authorization", "AWS4-HMAC-SHA256 Credential=é");
    assert_eq!(gibberish.send().await.unwrap().status().as_u16(), 400);
}

#[tokio::test]
async fn presigned_urls_work_until_they_expire() {
    let site = Site::new();
    site.insert("k", "hello");
    let server = start(&site).await;
    let signer = Signer::new(&server);
    let address = |date: String| {
        let scope = format!("{}%2Feu-west-1%2Fs3%2Faws4_request", &date[..8]);
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F{scope}&X-Amz-Date={date}\
             &X-Amz-Expires=300&X-Amz-SignedHeaders=host"
        );
        let canonical = format!(
            "GET\n/bucket/k\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
            signer.host
        );
        let text = format!(
            "AWS4-HMAC-SHA256\n{date}\n{}\n{}",
            scope.replace("%2F", "/"),
            sha(canonical.as_bytes())
        );
        let signature = hex::encode(mac(&signer.key(&date[..8]), &text));
        format!(
            "{}/bucket/k?{query}&X-Amz-Signature={signature}",
            server.endpoint()
        )
    };
    let get = |date| client().get(address(date)).send();
    assert_eq!(get(now(-60)).await.unwrap().text().await.unwrap(), "hello");
    assert_eq!(
        code(get(now(-400)).await.unwrap()).await,
        (403, "AccessDenied".to_owned())
    );
    let forged = client().get(address(now(0)).replace("Expires=300", "Expires=900"));
    assert_eq!(
        code(forged.send().await.unwrap()).await.1,
        "SignatureDoesNotMatch"
    );
}

#[tokio::test]
async fn objects_are_put_conditionally_and_read_in_ranges() {
    let site = Site::new();
    let server = start(&site).await;
    let signer = Signer::new(&server);
    let meta = [
        ("x-amz-meta-package-sha256", "abc"),
        ("content-type", "text/x-demo"),
    ];
    assert_eq!(signer.put("/bucket/k", &meta, "one").await, 200);
    assert_eq!(
        signer
            .put("/bucket/k", &[("if-none-match", "*")], "two")
            .await,
        412
    );
    assert_eq!(
        signer
            .put("/bucket/k", &[("if-match", "\"other\"")], "two")
            .await,
        412
    );
    assert_eq!(
        signer
            .put("/bucket/none", &[("if-match", "\"other\"")], "two")
            .await,
        404
    );
    let first = signer.get("/bucket/k").await;
    assert_eq!(first.headers()["x-amz-meta-package-sha256"], "abc");
    assert_eq!(first.headers()["content-type"], "text/x-demo");
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    // The MD5 of the three bytes.
    assert_eq!(etag, "\"f97c5d29941bfb1b2fdab0874906ab82\"");
    assert_eq!(first.text().await.unwrap(), "one");
    let not_modified = signer
        .send(
            Method::GET,
            "/bucket/k",
            &[("if-none-match", &etag)],
            None,
            vec![],
        )
        .await;
    assert_eq!(not_modified.status().as_u16(), 304);
    assert_eq!(
        signer
            .put("/bucket/k", &[("if-match", &etag)], "second")
            .await,
        200
    );
    let part = signer
        .send(
            Method::GET,
            "/bucket/k",
            &[("range", "bytes=-3")],
            None,
            vec![],
        )
        .await;
    assert_eq!(
        (part.status().as_u16(), part.text().await.unwrap().as_str()),
        (206, "ond")
    );
    let beyond = signer
        .send(
            Method::GET,
            "/bucket/k",
            &[("range", "bytes=9-")],
            None,
            vec![],
        )
        .await;
    assert_eq!(code(beyond).await, (416, "InvalidRange".to_owned()));

    assert_eq!(
        signer
            .put("/bucket/m", &[("content-md5", "AAAA")], "x")
            .await,
        400
    );
    let wrong = [("x-amz-checksum-sha256", "AAAA")];
    assert_eq!(signer.put("/bucket/m", &wrong, "x").await, 400);
    assert_eq!(signer.put("/nobucket/m", &[], "x").await, 404);

    let gone = signer
        .send(Method::DELETE, "/bucket/k", &[], None, vec![])
        .await;
    assert_eq!(gone.status().as_u16(), 204);
    assert_eq!(
        code(signer.get("/bucket/k").await).await,
        (404, "NoSuchKey".to_owned())
    );
    assert_eq!(
        code(signer.get("/other/k").await).await,
        (404, "NoSuchBucket".to_owned())
    );
}

#[tokio::test]
async fn streamed_uploads_are_decoded_and_their_signatures_checked() {
    let site = Site::new();
    let server = start(&site).await;
    let signer = Signer::new(&server);
    // The check value of CRC-32, in base64.
    let trailer = |sum: &str| {
        format!("5\r\n12345\r\n4\r\n6789\r\n0\r\nx-amz-checksum-crc32:{sum}\r\n\r\n").into_bytes()
    };
    let unsigned = Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    let headers = [
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "9"),
    ];
    let put = |body| signer.send(Method::PUT, "/bucket/k", &headers, unsigned, body);
    assert_eq!(put(trailer("y/Q5Jg==")).await.status().as_u16(), 200);
    assert_eq!(site.get("k").unwrap(), "123456789");
    assert_eq!(
        code(put(trailer("AAAAAA==")).await).await,
        (400, "BadDigest".to_owned())
    );
    assert_eq!(
        code(put(b"9\r\n123".to_vec()).await).await,
        (400, "IncompleteBody".to_owned())
    );

    let kind = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    let date = now(0);
    let (value, seed) = signer.sign("PUT", "/bucket/s", "", &date, kind);
    let scope = format!("{}/eu-west-1/s3/aws4_request", &date[..8]);
    let mut previous = seed;
    let mut body = Vec::new();
    for data in ["hello ", "world", ""] {
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{scope}\n{previous}\n{}\n{}",
            sha(b""),
            sha(data.as_bytes())
        );
        previous = hex::encode(mac(&signer.key(&date[..8]), &text));
        body.extend(format!("{:x};chunk-signature={previous}\r\n{data}\r\n", data.len()).bytes());
    }
    let put = |body: Vec<u8>| {
        let request = client().put(format!("{}/bucket/s", server.endpoint()));
        let request = request
            .header("x-amz-date", &date)
            .header("x-amz-content-sha256", kind);
        request.header("authorization", &value).body(body).send()
    };
    assert_eq!(put(body.clone()).await.unwrap().status().as_u16(), 200);
    assert_eq!(site.get("s").unwrap(), "hello world");
    let at = body.windows(5).position(|bytes| bytes == b"world").unwrap();
    body[at] = b'W';
    let refused = code(put(body).await.unwrap()).await;
    assert_eq!(refused, (403, "SignatureDoesNotMatch".to_owned()));
}

#[tokio::test]
async fn multipart_uploads_are_assembled() {
    let site = Site::new();
    let server = start(&site).await;
    let signer = Signer::new(&server);
    let created = signer
        .send(Method::POST, "/bucket/big?uploads=", &[], None, vec![])
        .await;
    let text = created.text().await.unwrap();
    let id = text
        .split("<UploadId>")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap()
        .to_owned();
    let mut etags = Vec::new();
    for (number, data) in [(1, "aaaaa"), (2, "bbb"), (3, "cc")] {
        let path = format!("/bucket/big?partNumber={number}&uploadId={id}");
        let part = signer
            .send(Method::PUT, &path, &[], None, data.into())
            .await;
        etags.push(part.headers()["etag"].to_str().unwrap().to_owned());
    }
    let listed = signer
        .get(&format!("/bucket/big?uploadId={id}"))
        .await
        .text()
        .await
        .unwrap();
    assert_eq!(listed.matches("<PartNumber>").count(), 3);
    let complete = |numbers: &'static [usize], headers: &'static [(&str, &str)]| {
        let parts: Vec<String> = numbers
            .iter()
            .map(|number| {
                let etag = etags[number - 1].replace('"', "&quot;");
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
            })
            .collect();
        let parts = parts.concat();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let path = format!("/bucket/big?uploadId={id}");
        let signer = &signer;
        async move {
            code(
                signer
                    .send(Method::POST, &path, headers, None, body.into())
                    .await,
            )
            .await
        }
    };
    assert_eq!(complete(&[1, 1], &[]).await.1, "InvalidPartOrder");
    // The second part is too small to stand before another.
    assert_eq!(complete(&[1, 2, 3], &[]).await.1, "EntityTooSmall");
    site.insert("big", "in the way");
    assert_eq!(complete(&[1, 3], &[("if-none-match", "*")]).await.0, 412);
    assert_eq!(complete(&[1, 3], &[]).await.0, 200);
    assert_eq!(site.get("big").unwrap(), "aaaaacc");
    let head = signer
        .send(Method::HEAD, "/bucket/big", &[], None, vec![])
        .await;
    assert!(head.headers()["etag"].to_str().unwrap().ends_with("-2\""));
    assert_eq!(complete(&[1, 3], &[]).await.1, "NoSuchUpload");
}

#[tokio::test]
async fn listings_have_prefixes_delimiters_and_pages() {
    let site = Site::new();
    for key in ["a/1", "a/2", "a/sub/3", "b", "c&d", "e"] {
        site.insert(key, "xx");
    }
    let server = S3Server::builder()
        .bucket("bucket", site)
        .start()
        .await
        .unwrap();
    let list = async |query: &str| {
        let url = format!("{}/bucket?list-type=2&{query}", server.endpoint());
        client()
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    };
    let texts = |xml: &str, open: &str| -> Vec<String> {
        xml.split(open)
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap().to_owned())
            .collect()
    };
    let all = list("").await;
    assert_eq!(
        texts(&all, "<Key>"),
        ["a/1", "a/2", "a/sub/3", "b", "c&amp;d", "e"]
    );
    assert!(all.contains("<IsTruncated>false</IsTruncated>") && all.contains("<Size>2</Size>"));
    let below = list("prefix=a/&delimiter=/").await;
    assert_eq!(texts(&below, "<Key>"), ["a/1", "a/2"]);
    assert_eq!(texts(&below, "<CommonPrefixes><Prefix>"), ["a/sub/"]);
    assert_eq!(
        texts(&list("start-after=b").await, "<Key>"),
        ["c&amp;d", "e"]
    );
    assert_eq!(
        texts(&list("encoding-type=url&prefix=c").await, "<Key>"),
        ["c%26d"]
    );

    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("max-keys=2&delimiter=/{token}")).await;
        seen.extend(texts(&page, "<CommonPrefixes><Prefix>"));
        seen.extend(texts(&page, "<Key>"));
        match texts(&page, "<NextContinuationToken>").first() {
            Some(next) => token = format!("&continuation-token={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["a/", "b", "c&amp;d", "e"]);
    let none = list("max-keys=0").await;
    assert!(none.contains("<IsTruncated>false</IsTruncated>") && !none.contains("<Key>"));
    assert!(
        list("continuation-token=zz")
            .await
            .contains("InvalidRequest")
    );
}

#[tokio::test]
async fn buckets_are_found_in_the_host_and_open_ones_are_readable() {
    let site = Site::new();
    site.insert("k", "hello");
    let server = S3Server::builder()
        .bucket("bucket", site)
        .keys(S3Keys::new("AKID", "secret"))
        .anonymous_read()
        .start()
        .await
        .unwrap();
    let resolving = Client::builder()
        .no_proxy()
        .resolve("bucket.s3.test", server.address())
        .build()
        .unwrap();
    let url = format!("http://bucket.s3.test:{}/k", server.address().port());
    assert_eq!(
        resolving
            .get(&url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "hello"
    );
    assert_eq!(
        resolving
            .delete(&url)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        403
    );
}

#[tokio::test]
async fn a_truncated_upload_has_no_effect_and_a_lost_response_leaves_the_object() {
    let site = Site::new();
    let server = S3Server::builder()
        .bucket("bucket", site.clone())
        .start()
        .await
        .unwrap();
    let put = async |fault: Fault, key: &str| {
        server.set_behaviour(Behaviour::new().with_rule(Rule::once(Matcher::Any, fault)));
        let url = format!("{}/bucket/{key}", server.endpoint());
        let result = client().put(url).body(vec![1; 3_000_000]).send().await;
        server.verify().unwrap();
        result
    };
    assert!(put(Fault::Truncate { after: 1_000 }, "cut").await.is_err());
    assert!(
        put(Fault::Reset { after: Some(1_000) }, "reset")
            .await
            .is_err()
    );
    assert!(put(Fault::Reset { after: None }, "lost").await.is_err());
    let refused = put(Fault::status(503), "refused").await;
    assert!(refused.is_err() || refused.unwrap().status().as_u16() == 503);
    assert_eq!(site.paths(), ["lost"]);
}
