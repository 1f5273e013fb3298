//! Mirrors on which files have other names.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use taipan_mirrors::Location;

use crate::{
    BackendError, HttpClient, Target,
    backend::{Backend, GetRequest, GetResponse, file::FileBackend, http::HttpBackend},
};

/// A directory in which files have other names than in the job: in a metalink every URL may have a
/// file name of its own.
#[derive(Debug)]
pub struct RenamedBackend {
    directory: Box<dyn Backend>,
    /// The name in the directory, by the path in the job.
    names: Mutex<HashMap<String, Target>>,
}

impl RenamedBackend {
    /// The backend for a directory; `None` for buckets and registries.
    pub fn in_directory(directory: &Location, client: &HttpClient) -> Option<Arc<Self>> {
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

    /// Sets the name of the file at `path`; returns `false` if it already has another one.
    pub fn name(&self, path: &str, name: &str) -> bool {
        // The map is consistent after every change.
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
impl Backend for RenamedBackend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let target = &self.target(request.target);
        self.directory.get(GetRequest { target, ..request }).await
    }

    fn has_multi_range(&self) -> bool {
        self.directory.has_multi_range()
    }

    fn describe(&self, target: &Target) -> String {
        self.directory.describe(&self.target(target))
    }
}
