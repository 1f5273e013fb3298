//! A destination with everything that requests to it need.

use std::{sync::Arc, time::Duration};

use taipan_mirrors::{Location, Mirror, MirrorId, Provenance, SelectorConfig};

use super::{Destination, file::FileDestination, oci::OciDestination, s3::S3Destination};
use crate::{
    Backend, FileBackend, HttpClient, MirrorSet, OciBackend, S3Backend, backend::oci_token::Access,
};

/// How long a connection to a destination may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The options of an outlet.
#[derive(Debug, Clone)]
pub struct OutletOptions {
    /// The most files that are sent at a time. The number in use grows while that adds throughput, and shrinks when the
    /// server asks for less.
    pub most_connections: u32,
    /// The maximum number of requests per minute, for registries that count them.
    pub requests_per_minute: Option<u32>,
    /// How often a file is sent again after a failure that may pass.
    pub retries: u32,
}

impl Default for OutletOptions {
    fn default() -> Self {
        Self {
            most_connections: 64,
            requests_per_minute: None,
            retries: 5,
        }
    }
}

/// A place that files are sent to and read back from. Cheap to clone; clones share their connections and what they learn.
#[derive(Debug, Clone)]
pub struct Outlet {
    mirrors: MirrorSet,
    destination: Arc<dyn Destination>,
    location: Location,
    retries: u32,
}

impl Outlet {
    /// The destination at a location. `None` for a web server: HTTP has no uploads that servers agree on.
    pub fn new(location: Location, options: &OutletOptions, client: &HttpClient) -> Option<Self> {
        let (backend, destination): (Arc<dyn Backend>, Arc<dyn Destination>) =
            match location.clone() {
                Location::Http(_) => return None,
                Location::S3(bucket) => {
                    let backend = Arc::new(S3Backend::new(bucket, CONNECT).with_client(client));
                    (
                        Arc::clone(&backend) as _,
                        Arc::new(S3Destination::new(backend)),
                    )
                }
                Location::Oci(registry) => {
                    let backend = OciBackend::with_access(registry, client.clone(), Access::Write);
                    let backend = Arc::new(backend);
                    let limit = options.requests_per_minute;
                    let destination = OciDestination::new(Arc::clone(&backend), limit);
                    (backend, Arc::new(destination))
                }
                Location::File(root) => (
                    Arc::new(FileBackend::new(&root)),
                    Arc::new(FileDestination::new(root)),
                ),
            };
        Some(Self::with_parts(location, options, backend, destination))
    }

    /// An outlet of these parts.
    pub fn with_parts(
        location: Location,
        options: &OutletOptions,
        backend: Arc<dyn Backend>,
        destination: Arc<dyn Destination>,
    ) -> Self {
        let config = SelectorConfig {
            max_connections: options.most_connections,
            ..SelectorConfig::default()
        };
        let mirror = Mirror::new(location.clone(), Provenance::CommandLine);
        Self {
            mirrors: MirrorSet::with_backends(vec![mirror], vec![backend], config),
            destination,
            location,
            retries: options.retries,
        }
    }

    /// Sets how often a file is sent again after a failure that may pass.
    #[must_use]
    pub fn with_retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// The same place as a mirror, for reading.
    pub fn mirrors(&self) -> &MirrorSet {
        &self.mirrors
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Whether it is a registry, in which files are layers of manifests.
    pub fn is_registry(&self) -> bool {
        matches!(self.location, Location::Oci(_))
    }

    pub(crate) fn destination(&self) -> &Arc<dyn Destination> {
        &self.destination
    }

    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// Its number in its own set of mirrors.
    pub(crate) fn mirror(&self) -> Option<MirrorId> {
        self.mirrors.ids().next()
    }
}
