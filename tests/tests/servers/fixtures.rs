//! The files of every server, and pushing them to a registry.

use std::path::Path;

use bytes::Bytes;
use taipan_transfer::{Expected, OciTarget, Sha256, Target};

/// The media type of the layers.
const LAYER: &str = "application/x.taipan.test";
/// The media type of the manifests.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The prefix of the files on web servers and in buckets.
pub(crate) const PREFIX: &str = "some/files";
/// The namespace of the files in registries.
pub(crate) const NAMESPACE: &str = "some/space";

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// The name, which is also the repository.
    pub(crate) name: &'static str,
    pub(crate) bytes: Bytes,
}

impl File {
    pub(crate) fn target(&self) -> Target {
        target(self.name)
    }

    pub(crate) fn expected(&self) -> Expected {
        Expected {
            size: Some(self.bytes.len() as u64),
            sha256: Some(Sha256::of(&self.bytes)),
            ..Expected::default()
        }
    }
}

pub(crate) fn target(name: &str) -> Target {
    Target::path(format!("{PREFIX}/{name}")).with_oci(OciTarget {
        repository: name.to_owned(),
        tag: "latest".to_owned(),
        media_type: LAYER.to_owned(),
    })
}

/// A file that exceeds the buffers of sockets and servers.
pub(crate) fn large() -> File {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    // Not periodic, so that a shifted range differs.
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let bytes: Vec<u8> = bytes.take(20_000_000 / 8).flatten().collect();
    File {
        name: "large.bin",
        bytes: bytes.into(),
    }
}

pub(crate) fn empty() -> File {
    File {
        name: "empty.bin",
        bytes: Bytes::new(),
    }
}

/// A file that changes.
pub(crate) fn note() -> File {
    File {
        name: "note.txt",
        bytes: Bytes::from_static(b"the first edition\n"),
    }
}

pub(crate) fn second_edition() -> File {
    File {
        bytes: Bytes::from_static(b"the second edition, which is longer\n"),
        ..note()
    }
}

pub(crate) fn all() -> [File; 3] {
    [large(), empty(), note()]
}

/// Writes a file below the root of a web server or bucket.
pub(crate) fn write(root: &Path, file: &File) {
    let path = root.join(file.target().path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, &file.bytes).unwrap();
}

/// A directory with all files, as a web server serves it.
pub(crate) fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in all() {
        write(dir.path(), &file);
    }
    dir
}

/// Access to a registry for pushing.
#[derive(Debug, Clone)]
pub(crate) struct Push<'a> {
    pub(crate) host: &'a str,
    /// The value of the `Authorization` header.
    pub(crate) authorization: Option<String>,
}

impl Push<'_> {
    /// Pushes a file to its repository: the blob and a manifest.
    pub(crate) async fn file(&self, file: &File) {
        let repository = format!("{NAMESPACE}/{}", file.name);
        let digest = self.blob(&repository, &file.bytes).await;
        let config = self.blob(&repository, &Bytes::from_static(b"{}")).await;
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}",
            "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},
            "layers":[{{"mediaType":"{LAYER}","digest":"{digest}","size":{}}}]}}"#,
            file.bytes.len()
        );
        self.manifest(&repository, "latest", MANIFEST, manifest.into())
            .await;
    }

    /// Uploads a blob in one request (OCI distribution spec, "POST then PUT"); returns its digest.
    pub(crate) async fn blob(&self, repository: &str, bytes: &Bytes) -> String {
        let base: reqwest::Url = format!("http://{}/", self.host).parse().unwrap();
        let start = base.join(&format!("v2/{repository}/blobs/uploads/"));
        let answer = self.send(reqwest::Method::POST, start.unwrap(), "", Bytes::new());
        let answer = answer.await;
        let location = answer.headers()["location"].to_str().unwrap();
        let mut location = base.join(location).unwrap();
        let digest = format!("sha256:{}", Sha256::of(bytes));
        location.query_pairs_mut().append_pair("digest", &digest);
        let kind = "application/octet-stream";
        self.send(reqwest::Method::PUT, location, kind, bytes.clone())
            .await;
        digest
    }

    pub(crate) async fn manifest(&self, repository: &str, tag: &str, kind: &str, bytes: Bytes) {
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.host);
        self.send(reqwest::Method::PUT, url.parse().unwrap(), kind, bytes)
            .await;
    }

    async fn send(
        &self,
        method: reqwest::Method,
        url: reqwest::Url,
        kind: &str,
        body: Bytes,
    ) -> reqwest::Response {
        let mut request = reqwest::Client::new()
            .request(method, url.clone())
            .body(body);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let answer = request.send().await.unwrap();
        if !answer.status().is_success() {
            let status = answer.status();
            panic!("{url} answered {status}: {}", answer.text().await.unwrap());
        }
        answer
    }
}
