//! A mirror on which files have other names than their target.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use taipan_mirrors::Location;
use taipan_transfer::{
    Backend, BackendError, FileBackend, GetRequest, GetResponse, HttpBackend, HttpClient, Target,
};

/// A directory whose files may have other names than the path of the target: each URL of a metalink
/// may end in a name of its own.
#[derive(Debug)]
pub(crate) struct ExactBackend {
    directory: Box<dyn Backend>,
    /// The target below the directory, by the path of the requested target.
    names: Mutex<HashMap<String, Target>>,
}

impl ExactBackend {
    /// `None` for a location that is not a directory.
    pub(crate) fn in_directory(directory: &Location, client: &HttpClient) -> Option<Arc<Self>> {
        let directory: Box<dyn Backend> = match directory {
            Location::Http(url) => Box::new(HttpBackend::new(client.clone(), url.clone())),
            Location::File(path) => Box::new(FileBackend::new(path)),
            Location::S3(_) | Location::Oci(_) => return None,
        };
        Some(Arc::new(Self {
            directory,
            names: Mutex::default(),
        }))
    }

    /// Maps `path` to the file `name`. Returns `false` when it is already mapped to another file.
    pub(crate) fn name(&self, path: &str, name: &str) -> bool {
        // Each change of the map is complete, so a poisoned lock is valid.
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let target = Target::path(name);
        names
            .entry(path.to_owned())
            .or_insert_with(|| target.clone())
            == &target
    }

    fn target(&self, target: &Target) -> Target {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&target.path).unwrap_or(target).clone()
    }
}

#[async_trait]
impl Backend for ExactBackend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let target = &self.target(request.target);
        self.directory.get(GetRequest { target, ..request }).await
    }

    async fn get_ranges(
        &self,
        target: &Target,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Option<Vec<(u64, bytes::Bytes)>>, BackendError> {
        self.directory
            .get_ranges(&self.target(target), ranges)
            .await
    }

    fn describe(&self, target: &Target) -> String {
        self.directory.describe(&self.target(target))
    }
}
