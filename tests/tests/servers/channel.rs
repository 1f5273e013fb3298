//! A channel on real servers.

use std::path::Path;

use serde_json::Value;
use taipan_mock_servers::{OciServer, Site};

use crate::fixtures::{MANIFEST, Push};

/// Writes a site to a directory.
pub(crate) fn write(site: &Site, root: &Path) {
    for path in site.paths() {
        let file = root.join(&path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, site.get(&path).unwrap()).unwrap();
    }
}

/// Copies all tagged manifests and their blobs.
pub(crate) async fn copy(from: &OciServer, to: &Push<'_>) {
    let client = reqwest::Client::new();
    let get = async |path: &str| {
        let url = format!("{}{path}", from.url());
        let request = client.get(&url).header("accept", MANIFEST);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{url}: {answer:?}");
        let kind = answer.headers().get("content-type").cloned();
        (kind, answer.bytes().await.unwrap())
    };
    let repositories = from.repositories();
    assert!(!repositories.is_empty());
    for repository in repositories {
        let (_, tags) = get(&format!("v2/{repository}/tags/list")).await;
        let tags: Value = serde_json::from_slice(&tags).unwrap();
        for tag in tags["tags"].as_array().unwrap() {
            let tag = tag.as_str().unwrap();
            let (kind, manifest) = get(&format!("v2/{repository}/manifests/{tag}")).await;
            let parsed: Value = serde_json::from_slice(&manifest).unwrap();
            let layers = parsed["layers"].as_array().unwrap().iter();
            for blob in layers.chain([&parsed["config"]]) {
                let digest = blob["digest"].as_str().unwrap();
                let (_, bytes) = get(&format!("v2/{repository}/blobs/{digest}")).await;
                assert_eq!(to.blob(&repository, &bytes).await, digest);
            }
            let kind = kind.unwrap();
            to.manifest(&repository, tag, kind.to_str().unwrap(), manifest)
                .await;
        }
    }
}
