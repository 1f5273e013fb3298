//! Helpers of the tests with real sockets.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use taipan_mirrors::{Location, Mirror, OciLocation, Provenance, S3Location, SelectorConfig};
use taipan_mock_servers::{OciServer, TestCa};
use taipan_transfer::{Expected, HttpClient, HttpOptions, OciTarget, ProxyChoice, Sha256, Target};

pub(crate) const LAYER: &str = "application/x.test.layer";
pub(crate) const NAMESPACE: &str = "name/space";

/// Pseudorandom bytes, so that a shifted range is detected.
pub(crate) fn content(length: usize) -> Bytes {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

pub(crate) fn expected(bytes: &[u8]) -> Expected {
    Expected {
        size: Some(bytes.len() as u64),
        sha256: Some(Sha256::of(bytes)),
        ..Expected::default()
    }
}

pub(crate) fn client() -> HttpClient {
    HttpClient::new(&HttpOptions::default()).unwrap()
}

/// Writes a file of this name with this text.
pub(crate) fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Options of a client that trusts an authority and uses no proxy.
pub(crate) fn trusting(dir: &Path, ca: &TestCa) -> HttpOptions {
    HttpOptions {
        roots: vec![file(dir, "root.pem", ca.pem())],
        proxy: ProxyChoice::Direct,
        ..HttpOptions::default()
    }
}

/// A selector with short timeouts, so that tests are quick.
pub(crate) fn short_timeouts() -> SelectorConfig {
    SelectorConfig {
        backoff: Duration::from_millis(20),
        patience: Duration::from_millis(100),
        idle_timeout: Duration::from_secs(1),
        ..SelectorConfig::default()
    }
}

/// Mirrors that are chosen in the order of the list.
pub(crate) fn in_order(locations: impl IntoIterator<Item = Location>) -> Vec<Mirror> {
    (0..)
        .zip(locations)
        .map(|(tier, location)| Mirror::new(location, Provenance::Upstream).with_priority(tier))
        .collect()
}

pub(crate) fn http(url: &str) -> Location {
    Location::parse(url).unwrap()
}

pub(crate) fn s3(endpoint: &str, bucket: &str, prefix: &str) -> S3Location {
    S3Location {
        endpoint: Some(endpoint.parse().unwrap()),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        anonymous: true,
        ..S3Location::new(bucket, prefix)
    }
}

pub(crate) fn oci(server: &OciServer) -> OciLocation {
    OciLocation {
        registry: server.host(),
        namespace: NAMESPACE.to_owned(),
        plain_http: true,
    }
}

/// Publishes a file in a registry: its blob, and a manifest that lists it.
pub(crate) fn publish(server: &OciServer, name: &str, bytes: &Bytes) -> String {
    let repository = format!("{NAMESPACE}/{name}");
    let digest = server.add_blob(&repository, bytes.clone());
    let config = server.add_blob(&repository, &b"{}"[..]);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}",
        "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},
        "layers":[{{"mediaType":"{LAYER}","digest":"{digest}","size":{}}}]}}"#,
        bytes.len()
    );
    server.add_manifest(&repository, "latest", kind, manifest);
    digest
}

/// The target of a file with this path, and this name in registries.
pub(crate) fn target(path: &str, name: &str) -> Target {
    Target::path(path).with_oci(OciTarget {
        repository: name.to_owned(),
        tag: "latest".to_owned(),
        media_type: LAYER.to_owned(),
    })
}

/// Runs one test of this file in a child process with an environment of its own.
pub(crate) async fn in_child(test: &str, environment: &[(&str, &str)]) {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]);
    for name in [
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ] {
        child.env_remove(name);
    }
    child.envs(environment.iter().copied()).env(CHILD, "1");
    let output = child
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        printed.contains("1 passed"),
        "there is no test `{test}`: {printed}"
    );
}

const CHILD: &str = "TAIPAN_CONTRACT_CHILD";

/// The URL of the server for a child process; `None` if this process is not a child.
pub(crate) fn child_url() -> Option<String> {
    std::env::var_os(CHILD)?;
    std::env::var("TAIPAN_CONTRACT_URL").ok()
}
