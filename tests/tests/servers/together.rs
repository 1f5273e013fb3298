//! Servers of several protocols as mirrors of the same files.

use async_trait::async_trait;
use bytes::Bytes;
use taipan_mirrors::{Class, Location};
use taipan_mock_servers::OciServer;
use taipan_tests::{
    CHANNEL, DockerRegistry, Nginx, RegistryAccess, Sandbox, demo_channel, expect_demo_runs,
    mirrors_file_of,
};
use taipan_transfer::{MemorySink, Sink, SinkError};

use crate::{
    bucket::{BUCKET, Bucket},
    channel, contract,
    contract::Place,
    fixtures::{self, NAMESPACE, Push},
    nginx::http,
    registry::{push_all, registry},
    who::{ACCESS_KEY, PASSWORD, SECRET_KEY, USER, USERS, basic, docker_config},
};

/// A sink that stops a server after a number of bytes.
struct StoppingSink<F: FnOnce() + Send> {
    inner: MemorySink,
    left: usize,
    plug: Option<F>,
}

#[async_trait]
impl<F: FnOnce() + Send> Sink for StoppingSink<F> {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError> {
        self.left = self.left.saturating_sub(bytes.len());
        if self.left == 0
            && let Some(pull) = self.plug.take()
        {
            pull();
        }
        self.inner.write(bytes).await
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.inner.restart().await
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        self.inner.finish().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_of_three_protocols_fail_over() {
    let dir = fixtures::directory();
    let root = tempfile::tempdir().unwrap();
    let files = fixtures::all();
    for file in &files {
        fixtures::write(&root.path().join(BUCKET), file);
    }
    let Some(nginx) = Nginx::serve(dir.path()) else {
        return;
    };
    let Some(images) = DockerRegistry::start(RegistryAccess::Open) else {
        return;
    };
    let host = images.host();
    push_all(&Push {
        host: &host,
        authorization: None,
    })
    .await;
    let bucket = Bucket::serve(root.path(), Some((ACCESS_KEY, SECRET_KEY))).await;
    let keyed = Place::with_keys(Location::S3(bucket.location()), ACCESS_KEY, SECRET_KEY);
    let mirrors = contract::set(&[registry(&host), keyed, http(&nginx.url())]);
    let engine = contract::engine();

    // The registry is stopped while it sends, long before the end of the file is in a buffer.
    let large = fixtures::large();
    let mut sink = StoppingSink {
        inner: MemorySink::new(large.bytes.len()),
        left: 1_000_000,
        plug: Some(move || drop(images)),
    };
    let job = contract::job(&large);
    let fetched = engine.fetch(&mirrors, &job, &mut sink).await.unwrap();
    assert!(sink.inner.into_bytes() == large.bytes);
    assert!(sink.plug.is_none());
    assert!(fetched.url.starts_with("s3://"), "{}", fetched.url);
    let dead = |name: &str| name.starts_with("oci://");
    assert!(
        fetched.attempts.iter().any(|it| dead(&it.name)),
        "{:?}",
        fetched.attempts
    );
    assert!(fetched.attempts.iter().all(|it| it.class == Class::Unwell));

    let take = async |file: &fixtures::File| {
        let mut sink = MemorySink::new(file.bytes.len());
        let job = contract::job(file);
        let fetched = engine.fetch(&mirrors, &job, &mut sink).await.unwrap();
        assert!(sink.into_bytes() == file.bytes, "{}", file.name);
        fetched
    };
    // Then two mirrors are left, and then one.
    for file in &files {
        let fetched = take(file).await;
        assert!(!dead(&fetched.url), "{}", fetched.url);
    }
    drop(bucket);
    for file in &files {
        let fetched = take(file).await;
        assert!(fetched.url.starts_with(&nginx.url()), "{}", fetched.url);
    }
    drop(nginx);
    let mut sink = MemorySink::new(large.bytes.len());
    let error = engine.fetch(&mirrors, &job, &mut sink).await.unwrap_err();
    assert!(!error.is_absent(), "{error}");
    let text = error.to_string();
    for kind in ["oci://", "s3://", "http://"] {
        assert!(text.contains(kind), "{kind}: {text}");
    }
    assert!(!text.contains(SECRET_KEY), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_created_from_each_server_alone() {
    let site = demo_channel(2_000_000).site();
    let dir = tempfile::tempdir().unwrap();
    channel::write(&site, &dir.path().join(BUCKET));
    let Some(nginx) = Nginx::serve(&dir.path().join(BUCKET)) else {
        return;
    };
    let Some(images) = DockerRegistry::start(RegistryAccess::Htpasswd { users: USERS }) else {
        return;
    };
    let layout = OciServer::start().await.unwrap();
    layout.publish(&site, NAMESPACE).unwrap();
    let host = images.host();
    let push = Push {
        host: &host,
        authorization: Some(format!("Basic {}", basic(USER, PASSWORD))),
    };
    channel::copy(&layout, &push).await;
    let bucket = Bucket::serve(dir.path(), Some((ACCESS_KEY, SECRET_KEY))).await;

    let s3 = format!(
        "{{ url = \"s3://{BUCKET}\", endpoint = \"{}\", region = \"us-east-1\", path-style = true }}",
        bucket.endpoint()
    );
    for mirror in [
        format!("\"{}\"", nginx.url()),
        format!("\"oci+http://{host}/{NAMESPACE}\""),
        s3,
    ] {
        let mut sandbox = Sandbox::new();
        sandbox.set("AWS_ACCESS_KEY_ID", ACCESS_KEY);
        sandbox.set("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        docker_config(&sandbox.path(""), &host, Some(PASSWORD));
        sandbox.write("mirrors.toml", &mirrors_file_of(&[mirror]));
        let create = ["create", "-p", "env", "-c", CHANNEL];
        let rest = ["--mirrors", "mirrors.toml", "taipan-demo", "demo-legacy"];
        let finished = sandbox.run(&[&create[..], &rest].concat()).expect(0);
        expect_demo_runs(&sandbox.path("env"));
        let printed = finished.stdout + &finished.stderr;
        for secret in [PASSWORD, SECRET_KEY] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
