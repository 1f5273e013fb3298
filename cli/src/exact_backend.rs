//! A mirror of which files are known by their own URLs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use taipan_mirrors::Location;
use taipan_transfer::{
    Backend, BackendError, FileBackend, GetRequest, GetResponse, HttpBackend, HttpClient, Target,
};

/// A directory in which files may have other names than those that they are asked for by: in a
/// metalink every URL may have a name of its own.
#[derive(Debug)]
pub(crate) struct ExactBackend {
    directory: Box<dyn Backend>,
    /// The path in the directory by the path that is asked for.
    names: Mutex<HashMap<String, Target>>,
}

impl ExactBackend {
    /// A directory; `None` for places that have none.
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

    /// What is asked for by `path` is called `name` here. Whether nothing else is.
    pub(crate) fn name(&self, path: &str, name: &str) -> bool {
        // The map is whole between any two of its changes.
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

    fn has_multi_range(&self) -> bool {
        self.directory.has_multi_range()
    }

    fn describe(&self, target: &Target) -> String {
        self.directory.describe(&self.target(target))
    }
}
