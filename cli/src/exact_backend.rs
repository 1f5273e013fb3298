//! A mirror of which one file is known by its own URL.

use std::sync::Arc;

use async_trait::async_trait;
use taipan_mirrors::Location;
use taipan_transfer::{
    Backend, BackendError, FileBackend, GetRequest, GetResponse, HttpBackend, HttpClient, Target,
};

/// Whatever is asked for, it gives the file of this name in this directory: in a metalink every URL
/// may have a name of its own.
#[derive(Debug)]
pub(crate) struct ExactBackend {
    directory: Box<dyn Backend>,
    target: Target,
}

impl ExactBackend {
    /// The file `name` in a directory; `None` for places that have none.
    pub(crate) fn in_directory(
        directory: &Location,
        name: String,
        client: &HttpClient,
    ) -> Option<Arc<dyn Backend>> {
        let directory: Box<dyn Backend> = match directory {
            Location::Http(url) => Box::new(HttpBackend::new(client.clone(), url.clone())),
            Location::File(path) => Box::new(FileBackend::new(path)),
            Location::S3(_) | Location::Oci(_) => return None,
        };
        Some(Arc::new(Self {
            directory,
            target: Target::path(name),
        }))
    }
}

#[async_trait]
impl Backend for ExactBackend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        let target = &self.target;
        self.directory.get(GetRequest { target, ..request }).await
    }

    fn describe(&self, _: &Target) -> String {
        self.directory.describe(&self.target)
    }
}
