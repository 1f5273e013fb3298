//! Mirrors on which each file has an address of its own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use taipan_mirrors::{Location, SafeUrl};
use url::Url;

use crate::{
    BackendError, HttpClient, Target,
    backend::{Backend, GetRequest, GetResponse, file::FileBackend, http::HttpBackend},
};

/// A directory whose files have addresses of their own: a URL that somebody gave is requested as it is written, and in a
/// metalink every URL may have a file name of its own.
#[derive(Debug)]
pub struct AddressedBackend {
    directory: Directory,
    /// The address by the path in the job.
    addresses: Mutex<HashMap<String, Url>>,
}

#[derive(Debug)]
enum Directory {
    Http(HttpBackend),
    File(FileBackend),
}

impl AddressedBackend {
    /// The backend for a directory; `None` for buckets and registries.
    pub fn in_directory(directory: &Location, client: &HttpClient) -> Option<Arc<Self>> {
        let directory = match directory {
            Location::Http(url) => Directory::Http(HttpBackend::new(client.clone(), url.clone())),
            Location::File(path) => Directory::File(FileBackend::new(path)),
            Location::S3(_) | Location::Oci(_) => return None,
        };
        Some(Arc::new(Self {
            directory,
            addresses: Mutex::default(),
        }))
    }

    /// Sets the address of the file at `path`; returns `false` if it already has another one.
    pub fn set_address(&self, path: &str, address: &Url) -> bool {
        // The map is consistent after every change.
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses
            .entry(path.to_owned())
            .or_insert_with(|| address.clone())
            == address
    }

    fn address(&self, target: &Target) -> Option<Url> {
        let addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.get(&target.path).cloned()
    }
}

#[async_trait]
impl Backend for AddressedBackend {
    async fn get(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        match (&self.directory, self.address(request.target)) {
            (Directory::Http(http), Some(url)) => http.get_url(url, request).await,
            (Directory::Http(http), None) => http.get(request).await,
            (Directory::File(file), Some(url)) => match url.to_file_path() {
                Ok(path) => file.get_path(path, request).await,
                Err(()) => Err(BackendError::BadPath {
                    path: request.target.path.clone(),
                    place: SafeUrl::from(url).to_string(),
                }),
            },
            (Directory::File(file), None) => file.get(request).await,
        }
    }

    fn has_multi_range(&self) -> bool {
        match &self.directory {
            Directory::Http(http) => http.has_multi_range(),
            Directory::File(file) => file.has_multi_range(),
        }
    }

    fn describe(&self, target: &Target) -> String {
        match (self.address(target), &self.directory) {
            (Some(url), _) => SafeUrl::from(url).to_string(),
            (None, Directory::Http(http)) => http.describe(target),
            (None, Directory::File(file)) => file.describe(target),
        }
    }
}
