//! Credentials of buckets that come from a service of the machine.

use taipan_mock_servers::{HttpServer, S3Keys, S3Server, Site};
use taipan_tests::Sandbox;

const CHANNEL: &str = "https://channel.invalid/files";

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_container_are_fetched_from_its_credential_service() {
    let site = Site::new();
    site.insert("dir/file", &b"content"[..]);
    let keys = S3Keys::new("ACCESS", "very secret").with_session_token("session");
    let bucket = S3Server::builder().bucket("bucket", site).keys(keys);
    let bucket = bucket.start().await.unwrap();
    let service = Site::new();
    let answer = r#"{"AccessKeyId": "ACCESS", "SecretAccessKey": "very secret", "Token": "session",
        "Expiration": "2999-01-01T00:00:00Z"}"#;
    service.insert("keys", answer.as_bytes());
    let service = HttpServer::start(service).await.unwrap();

    let mut sandbox = Sandbox::new();
    let url = format!("{}keys", service.url());
    sandbox.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url);
    let mirror = format!(
        "url = \"s3://bucket\", endpoint = \"{}\", region = \"us-east-1\", path-style = true",
        bucket.endpoint()
    );
    let text = format!("[[channel]]\nurl = \"{CHANNEL}\"\nmirrors = [{{ {mirror} }}]\n");
    sandbox.write("m.toml", &text);
    let arguments = ["fetch", "-c", CHANNEL, "--mirrors", "m.toml", "dir/file"];
    sandbox.run(&arguments).expect(0);
    assert_eq!(std::fs::read(sandbox.path("file")).unwrap(), b"content");
    assert_eq!(service.requests().len(), 1);
}
