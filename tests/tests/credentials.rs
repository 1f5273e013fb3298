//! Credentials: those of buckets that come from a service of the machine, and those that `taipan auth` saves.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use taipan_mock_servers::{HttpServer, OciAuth, OciServer, S3Keys, S3Server, Site};
use taipan_tests::{Finished, Sandbox, demo_channel};

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

const SECRET: &str = "hunter2:ä";

fn login(sandbox: &Sandbox, server: &str, user: Option<&str>) -> Finished {
    let mut arguments = vec!["auth", "login", server, "--password-stdin"];
    if let Some(user) = user {
        arguments.extend(["--username", user]);
    }
    let finished = sandbox.run_with_input(&arguments, &format!("{SECRET}\n"));
    assert!(!format!("{}{}", finished.stdout, finished.stderr).contains("hunter2"));
    finished
}

/// A package of the demo channel as a file.
fn one_package(sandbox: &Sandbox) -> String {
    let site = demo_channel(20_000).site();
    let mut paths = site.paths().into_iter();
    let path = paths.find(|path| path.ends_with(".conda")).unwrap();
    let file = sandbox.path(path.rsplit('/').next().unwrap());
    std::fs::write(&file, site.get(&path).unwrap()).unwrap();
    file.display().to_string()
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_credentials_are_sent_to_their_web_server_alone() {
    let site = Site::new();
    site.insert("file", &b"content"[..]);
    let server = HttpServer::builder(site.clone()).basic_auth("me", SECRET);
    let server = server.start().await.unwrap();
    let other = HttpServer::start(site).await.unwrap();
    let sandbox = Sandbox::new();
    let url = format!("{}file", server.url());
    let fetch = || sandbox.run(&["fetch", &url, "-o", "-"]);
    fetch().expect(4);
    login(&sandbox, &server.url(), Some("me")).expect(0);
    assert_eq!(fetch().expect(0).stdout, "content");
    sandbox
        .run(&["fetch", &format!("{}file", other.url()), "-o", "-"])
        .expect(0);
    assert!(
        other
            .requests()
            .iter()
            .all(|it| it.header("authorization").is_none())
    );
    let file = sandbox.path(".config/taipan/credentials.json");
    assert_eq!(mode(&file), 0o600);
    let listed = sandbox.run(&["auth", "list", "--json"]).expect(0);
    assert!(!listed.stdout.contains("hunter2"));
    let host = server.url().replace("http://", "https://");
    let expected = json!({
        "type": "credentials", "server": host.trim_end_matches('/'), "user": "me",
        "place": file.display().to_string(),
    });
    assert_eq!(listed.objects_of("credentials"), [expected]);
    sandbox.run(&["auth", "logout", &server.url()]).expect(0);
    fetch().expect(4);
    let again = sandbox.run(&["auth", "logout", &server.url()]).expect(0);
    assert!(again.stderr.contains("no credentials"), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_credentials_of_a_registry_serve_uploads() {
    let auth = OciAuth::Basic {
        user: "me".to_owned(),
        password: SECRET.to_owned(),
    };
    let registry = OciServer::builder().auth(auth).start().await.unwrap();
    let sandbox = Sandbox::new();
    let file = one_package(&sandbox);
    let server = format!("oci+http://{}/a/channel", registry.host());
    let config = sandbox.write(
        "config.json",
        r#"{"other": {"kept": [1]}, "auths": {"x.example": {"auth": "YTpi"}}}"#,
    );
    let upload = || sandbox.run(&["upload", &file, "--to", &server]);
    assert_ne!(upload().code, Some(0));
    login(&sandbox, &server, None).expect(2);
    login(&sandbox, &server, Some("me")).expect(0);
    upload().expect(0);
    let text = std::fs::read_to_string(&config).unwrap();
    let saved: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (
            &saved["other"]["kept"][0],
            &saved["auths"]["x.example"]["auth"]
        ),
        (&json!(1), &json!("YTpi"))
    );
    assert_eq!(mode(&config), 0o600);
    let listed = sandbox
        .run(&["auth", "list", "--json"])
        .expect(0)
        .objects_of("credentials");
    let of =
        |server: &str| listed.iter().find(|it| it["server"] == server).unwrap()["user"].clone();
    assert_eq!(
        (
            of("oci://x.example"),
            of(&format!("oci://{}", registry.host()))
        ),
        (json!("a"), json!("me"))
    );
    sandbox.run(&["auth", "logout", &server]).expect(0);
    assert!(
        std::fs::read_to_string(&config)
            .unwrap()
            .contains("x.example")
    );
    assert_ne!(upload().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credential_helper_of_docker_is_used() {
    let auth = OciAuth::Basic {
        user: "me".to_owned(),
        password: SECRET.to_owned(),
    };
    let registry = OciServer::builder().auth(auth).start().await.unwrap();
    let mut sandbox = Sandbox::new();
    let helper = sandbox.write(
        "docker-credential-test",
        "#!/bin/sh\ncd \"$HOME\"\ncase $1 in\nstore) cat >held ;;\nget) [ -e held ] && cat held ;;\nerase) rm held ;;\n\
         list) [ -e held ] && printf '{\"%s\": \"me\"}' \"$REGISTRY\" || echo '{}' ;;\nesac\n",
    );
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let directory = helper.parent().unwrap().display().to_string();
    sandbox.set("PATH", &format!("{directory}:/usr/bin:/bin"));
    sandbox.set("REGISTRY", &registry.host());
    let config = sandbox.write("config.json", r#"{"credsStore": "test"}"#);
    let server = format!("oci+http://{}/a/channel", registry.host());
    login(&sandbox, &server, Some("me")).expect(0);
    assert!(!std::fs::read_to_string(&config).unwrap().contains("auth\""));
    let held: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("held")).unwrap()).unwrap();
    assert_eq!(
        held,
        json!({"ServerURL": registry.host(), "Username": "me", "Secret": SECRET})
    );
    let listed = sandbox
        .run(&["auth", "list", "--json"])
        .expect(0)
        .objects_of("credentials");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["place"], "docker-credential-test");
    let file = one_package(&sandbox);
    sandbox.run(&["upload", &file, "--to", &server]).expect(0);
    sandbox.run(&["auth", "logout", &server]).expect(0);
    assert!(!sandbox.path("held").exists());
    // A helper that fails, or is not there, is named.
    sandbox.write("config.json", r#"{"credsStore": "none-such"}"#);
    let failed = login(&sandbox, &server, Some("me")).expect(1);
    assert!(
        failed.stderr.contains("docker-credential-none-such"),
        "{}",
        failed.stderr
    );
}

#[test]
fn damaged_files_of_credentials_are_not_overwritten() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("credentials.json", "{ hunter2");
    let mut sandbox = sandbox;
    sandbox.set("TAIPAN_CREDENTIALS", &file.display().to_string());
    let failed = login(&sandbox, "https://a.example", None).expect(2);
    assert!(
        failed.stderr.contains("credentials.json"),
        "{}",
        failed.stderr
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{ hunter2");
    let empty = sandbox.run_with_input(
        &["auth", "login", "https://a.example", "--password-stdin"],
        "\n",
    );
    empty.expect(2);
    let asked = sandbox
        .run(&["auth", "login", "https://a.example"])
        .expect(2);
    assert!(
        asked.stderr.contains("--password-stdin"),
        "{}",
        asked.stderr
    );
}
