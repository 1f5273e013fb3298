//! The content of a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::route;
use crate::content::Content;
use crate::site::{Object, Site};

#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    /// As pushed; the digest is that of these bytes.
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Default)]
struct Repository {
    blobs: BTreeSet<String>,
    manifests: BTreeMap<String, Manifest>,
    tags: BTreeMap<String, String>,
}

/// All repositories share the blobs; each lists its own.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// At `sha256/HEX`, so that another server can serve them.
    pub(crate) blobs: Site,
    repositories: Mutex<BTreeMap<String, Repository>>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn blob_path(digest: &str) -> Option<String> {
    route::sha256_hex(digest).map(|hex| format!("sha256/{hex}"))
}

impl Store {
    pub(crate) fn exists(&self, repository: &str) -> bool {
        self.lock().contains_key(repository)
    }

    /// Adds a blob whose digest the caller has verified.
    pub(crate) fn add_blob(&self, repository: &str, digest: &str, content: Content) {
        let Some(path) = blob_path(digest) else {
            return;
        };
        if !self.blobs.contains(&path) {
            let object = Object {
                content,
                etag: format!("\"{digest}\""),
                modified: std::time::SystemTime::now(),
                headers: Vec::new(),
            };
            self.blobs.put(&path, object);
        }
        self.lock()
            .entry(repository.to_owned())
            .or_default()
            .blobs
            .insert(digest.to_owned());
    }

    /// Adds bytes; returns their digest.
    pub(crate) fn add_bytes(&self, repository: &str, bytes: Bytes) -> String {
        let digest = digest(&bytes);
        self.add_blob(repository, &digest, Content::Memory(bytes));
        digest
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Object> {
        if !self.lock().get(repository)?.blobs.contains(digest) {
            return None;
        }
        self.blobs.object(&blob_path(digest)?)
    }

    /// Adds a blob of one repository to another; returns whether the source has it.
    pub(crate) fn mount(&self, repository: &str, from: &str, digest: &str) -> bool {
        let mut repositories = self.lock();
        let there = repositories
            .get(from)
            .is_some_and(|source| source.blobs.contains(digest));
        if there {
            let target = repositories.entry(repository.to_owned()).or_default();
            target.blobs.insert(digest.to_owned());
        }
        there
    }

    /// Removes a blob from this repository; others keep it.
    pub(crate) fn remove_blob(&self, repository: &str, digest: &str) -> bool {
        self.lock()
            .get_mut(repository)
            .is_some_and(|found| found.blobs.remove(digest))
    }

    /// A manifest by tag or digest, with its digest.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Manifest)> {
        let repositories = self.lock();
        let found = repositories.get(repository)?;
        let digest = found.tags.get(reference).map_or(reference, String::as_str);
        Some((digest.to_owned(), found.manifests.get(digest)?.clone()))
    }

    /// Adds a manifest, with a tag unless the reference is a digest; returns its digest.
    pub(crate) fn add_manifest(
        &self,
        repository: &str,
        reference: &str,
        manifest: Manifest,
    ) -> String {
        let digest = digest(&manifest.bytes);
        let mut repositories = self.lock();
        let found = repositories.entry(repository.to_owned()).or_default();
        found.manifests.insert(digest.clone(), manifest);
        if route::sha256_hex(reference).is_none() {
            found.tags.insert(reference.to_owned(), digest.clone());
        }
        digest
    }

    /// Removes a manifest by digest, and its tags.
    pub(crate) fn remove_manifest(&self, repository: &str, digest: &str) -> bool {
        let mut repositories = self.lock();
        let Some(found) = repositories.get_mut(repository) else {
            return false;
        };
        found.tags.retain(|_, target| target != digest);
        found.manifests.remove(digest).is_some()
    }

    pub(crate) fn tags(&self, repository: &str) -> Option<Vec<String>> {
        Some(self.lock().get(repository)?.tags.keys().cloned().collect())
    }

    pub(crate) fn repositories(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The manifests whose `subject` is this one.
    pub(crate) fn referrers(&self, repository: &str, subject: &str) -> Vec<(String, Manifest)> {
        let repositories = self.lock();
        let Some(found) = repositories.get(repository) else {
            return Vec::new();
        };
        found
            .manifests
            .iter()
            .filter(|(_, manifest)| {
                serde_json::from_slice::<Value>(&manifest.bytes)
                    .is_ok_and(|value| value["subject"]["digest"] == subject)
            })
            .map(|(digest, manifest)| (digest.clone(), manifest.clone()))
            .collect()
    }

    /// The first config or layer of a manifest that the repository lacks.
    pub(crate) fn missing_blob(&self, repository: &str, manifest: &Value) -> Option<String> {
        let repositories = self.lock();
        let found = repositories.get(repository);
        let layers = manifest["layers"].as_array().into_iter().flatten();
        layers
            .chain([&manifest["config"]])
            .filter_map(|descriptor| descriptor["digest"].as_str())
            .find(|digest| !found.is_some_and(|found| found.blobs.contains(*digest)))
            .map(str::to_owned)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Repository>> {
        self.repositories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
