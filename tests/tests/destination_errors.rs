//! What a user sees when a destination refuses: message, exit code, what was done, and that a later run goes on. No secret is
//! printed.

use taipan_mock_servers::{
    Behaviour, Fault, HttpServer, Matcher, OciAuth, OciServer, Rule, S3Keys, S3Server, Site,
};
use taipan_tests::{Finished, Sandbox, demo_channel};

const SECRET: &str = "hunter2";

struct Case {
    sandbox: Sandbox,
    source: HttpServer,
    bucket: S3Server,
}

impl Case {
    async fn new() -> Self {
        let source = HttpServer::start(demo_channel(20_000).site());
        let bucket = S3Server::builder().bucket("bucket", Site::new());
        let bucket = bucket.keys(S3Keys::new("key", SECRET)).start();
        let (source, bucket) = (source.await.unwrap(), bucket.await.unwrap());
        let mut sandbox = Sandbox::new();
        sandbox.set("AWS_ENDPOINT_URL", &bucket.endpoint());
        sandbox.set("AWS_ACCESS_KEY_ID", "key");
        sandbox.set("AWS_SECRET_ACCESS_KEY", SECRET);
        Self {
            sandbox,
            source,
            bucket,
        }
    }

    fn arguments(&self, destination: &str, more: &[&str]) -> Vec<String> {
        let source = self.source.url();
        let arguments = ["mirror", "sync", &source, destination, "--subdir", "noarch"];
        let arguments = arguments.iter().chain(more);
        arguments.map(|it| (*it).to_owned()).collect()
    }

    fn sync(&self, destination: &str, more: &[&str]) -> Finished {
        self.sandbox.run(&self.arguments(destination, more))
    }

    /// The next run sends what is missing.
    fn goes_on(&self, destination: &str) {
        self.sync(destination, &["--retry-failed"]).expect(0);
        self.sandbox
            .run(&["mirror", "verify", destination])
            .expect(0);
    }

    /// Exit code and output, without what differs from run to run.
    fn shown(&self, finished: &Finished, others: &[(&str, &str)]) -> String {
        let mut text = format!("{}\n{}", finished.stdout, finished.stderr);
        assert!(!text.contains(SECRET), "{text}");
        let home = self.sandbox.path("").display().to_string();
        let (source, endpoint) = (self.source.url(), self.bucket.endpoint());
        let own = [
            (&*source, "http://SOURCE/"),
            (&*endpoint, "http://BUCKET"),
            (&*home, "HOME/"),
        ];
        for (from, to) in own.iter().chain(others) {
            text = text.replace(from, to);
        }
        // The names of probes and the widths of tables differ.
        let line = |line: &str| {
            let words =
                line.split_whitespace()
                    .map(|word| match word.split_once("/.taipan/probe/") {
                        Some((place, _)) => format!("{place}/.taipan/probe/…"),
                        None => word.to_owned(),
                    });
            words.collect::<Vec<String>>().join(" ")
        };
        let lines: Vec<String> = text
            .lines()
            .map(line)
            .filter(|line| !line.is_empty())
            .collect();
        format!(
            "exit code {}\n{}",
            finished.code.unwrap_or(-1),
            lines.join("\n")
        )
    }
}

fn refusal(code: u16, name: &str, message: &str) -> Fault {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{name}</Code><Message>{message}</Message></Error>"
    );
    Fault::Status {
        code,
        headers: vec![("content-type".to_owned(), "application/xml".to_owned())],
        body: body.into(),
    }
}

fn always(matcher: Matcher, fault: Fault) -> Behaviour {
    Behaviour::new().with_rule(Rule::always(matcher, fault))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_refuses_is_explained() {
    let mut case = Case::new().await;
    let place = "s3://bucket/c";
    case.sandbox.set("AWS_SECRET_ACCESS_KEY", "hunter2-wrong");
    let finished = case.sync(place, &[]);
    insta::assert_snapshot!("wrong_credentials_of_a_bucket", case.shown(&finished, &[]));
    case.sandbox.set("AWS_SECRET_ACCESS_KEY", SECRET);
    let finished = case.sync("s3://none-such/c", &[]);
    insta::assert_snapshot!("missing_bucket", case.shown(&finished, &[]));
    let denied = refusal(403, "AccessDenied", "Access Denied");
    case.bucket
        .set_behaviour(always(Matcher::method("PUT"), denied));
    let finished = case.sync(place, &[]);
    insta::assert_snapshot!("keys_that_may_only_read", case.shown(&finished, &[]));
    // The session ends in the middle: what was sent before is found there by the next run.
    let expired = refusal(400, "ExpiredToken", "The provided token has expired.");
    let package = Matcher::method("PUT").and(Matcher::contains("demo-link-07"));
    case.bucket.set_behaviour(always(package, expired));
    let finished = case.sync(place, &[]).expect(1);
    assert!(finished.stdout.contains("failed"));
    let text = case.shown(&finished, &[]);
    let from = text.find("warning").unwrap();
    insta::assert_snapshot!("expired_session", &text[from..]);
    case.bucket.set_behaviour(Behaviour::new());
    case.goes_on(place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_by_an_hour_is_corrected() {
    let case = Case::new().await;
    for (place, seconds) in [("s3://bucket/slow", 3600), ("s3://bucket/fast", -3600)] {
        case.bucket
            .set_behaviour(always(Matcher::Any, Fault::ClockSkew { seconds }));
        case.sync(place, &[]).expect(0);
    }
    case.bucket.set_behaviour(Behaviour::new());
    case.goes_on("s3://bucket/slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_is_explained() {
    let case = Case::new().await;
    let auth = OciAuth::Basic {
        user: "me".to_owned(),
        password: SECRET.to_owned(),
    };
    let registry = OciServer::builder().auth(auth).start().await.unwrap();
    let place = format!("oci+http://{}/c", registry.host());
    let finished = case.sync(&place, &[]);
    let host = registry.host();
    let shown = case.shown(&finished, &[(&host, "REGISTRY")]);
    insta::assert_snapshot!("no_credentials_of_a_registry", shown);

    let registry = OciServer::start().await.unwrap();
    let host = registry.host();
    let place = format!("oci+http://{host}/c");
    case.sync(&place, &[]).expect(0);
    registry.set_behaviour(always(Matcher::method("DELETE"), Fault::status(405)));
    let prune = ["--include", "demo-link-01", "--prune", "--grace", "0s"];
    let finished = case.sync(&place, &prune);
    let shown = case.shown(&finished, &[(&host, "REGISTRY")]);
    insta::assert_snapshot!("a_registry_that_does_not_delete", shown);
    case.goes_on(&place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_explained() {
    let case = Case::new().await;
    let mirror = case.sandbox.path("mirror");
    std::fs::create_dir(&mirror).unwrap();
    let place = mirror.display().to_string();
    let Some(finished) =
        case.sandbox
            .run_with_little_space(&mirror, "200k", &case.arguments(&place, &[]))
    else {
        eprintln!("skipped: this user may not mount a file system in a namespace");
        return;
    };
    assert_eq!(finished.code, Some(1));
    let text = case.shown(&finished, &[]);
    // Which package is the first one without space depends on the order in which they come.
    let hint = text.lines().find(|line| line.starts_with("hint:")).unwrap();
    insta::assert_snapshot!("full_disk", hint);
    assert!(text.contains("cannot upload noarch/"), "{text}");
    case.goes_on(&place);
}
