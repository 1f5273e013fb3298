//! The mirrors: servers of each kind, and directories, with the faults that are not part of a
//! response.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use taipan_mirrors::{Location, OciLocation};
use taipan_mock_servers::{
    BearerAuth, HttpServer, Identity, OciAuth, OciServer, S3Keys, S3Server, Server, Site, TestCa,
    Tls,
};
use taipan_transfer::{
    Backend, FileBackend, HttpBackend, HttpClient, OciBackend, S3Backend, Sha256,
};
use url::Url;

use crate::{
    cell::{Cell, Phase, Protocol},
    common,
    fault::Fault,
};

pub(crate) const PATH: &str = "dir/file.bin";
/// The name of the file in a registry.
pub(crate) const NAME: &str = "file";
/// The host name of the servers, for cells with a DNS lookup.
const HOST: &str = "mirror.test";

/// The targets of redirects.
pub(crate) struct Addresses {
    /// The server itself, with a slash at its end.
    pub(crate) own: String,
    /// The file on another server.
    pub(crate) elsewhere: String,
}

/// Resolves names, unless the flag is set.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<AtomicBool>);

impl Resolve for Names {
    fn resolve(&self, _: Name) -> Resolving {
        let gone = self.0.load(Ordering::SeqCst);
        Box::pin(async move {
            if gone {
                let error = io::Error::other("there is no such name");
                return Err(Box::new(error) as Box<dyn std::error::Error + Send + Sync>);
            }
            let here = SocketAddr::from(([127, 0, 0, 1], 0));
            Ok(Box::new(std::iter::once(here)) as Addrs)
        })
    }
}

enum Kind {
    Http(HttpServer, Site),
    S3(S3Server, Site),
    Oci(OciServer),
    File(tempfile::TempDir),
}

/// One mirror.
pub(crate) struct Place {
    kind: Kind,
    cell: Cell,
    names: Names,
    ca: Arc<TestCa>,
    /// The file, and its replacement.
    file: Bytes,
    next: Bytes,
}

impl Place {
    pub(crate) async fn start(cell: Cell, ca: &Arc<TestCa>, file: Bytes, next: Bytes) -> Self {
        let tls = (cell.fault == Fault::BadCertificate).then(|| Tls::new(&ca.server()));
        let secret = cell.fault == Fault::RedirectWithCredentials;
        let signed = secret || cell.fault == Fault::ClockSkew;
        let kind = match cell.protocol {
            Protocol::Http => {
                let site = Site::new();
                let mut builder = HttpServer::builder(site.clone());
                if let Some(tls) = tls {
                    builder = builder.tls(tls);
                }
                if secret {
                    builder = builder.basic_auth("me", "secret");
                }
                Kind::Http(builder.start().await.unwrap(), site)
            }
            Protocol::S3 => {
                let site = Site::new();
                let mut builder = S3Server::builder().bucket("bucket", site.clone());
                if let Some(tls) = tls {
                    builder = builder.tls(tls);
                }
                if signed {
                    builder = builder.keys(S3Keys::new("ACCESS", "secret"));
                }
                Kind::S3(builder.start().await.unwrap(), site)
            }
            Protocol::Oci => {
                let mut builder = OciServer::builder();
                if let Some(tls) = tls {
                    builder = builder.tls(tls);
                }
                if secret {
                    builder = builder.auth(OciAuth::Bearer(BearerAuth::new()));
                }
                Kind::Oci(builder.start().await.unwrap())
            }
            Protocol::File => Kind::File(tempfile::tempdir().unwrap()),
        };
        let place = Self {
            kind,
            cell,
            names: Names::default(),
            ca: Arc::clone(ca),
            file,
            next,
        };
        place.put(&place.file);
        place
    }

    pub(crate) fn server(&self) -> Option<&Server> {
        match &self.kind {
            Kind::Http(server, _) => Some(server),
            Kind::S3(server, _) => Some(server),
            Kind::Oci(server) => Some(server),
            Kind::File(_) => None,
        }
    }

    /// The client and the backend that read from it.
    pub(crate) fn backend(&self) -> (Location, Arc<dyn Backend>) {
        let root = reqwest::Certificate::from_pem(self.ca.pem().as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([root])
            .dns_resolver(self.names.clone())
            .connect_timeout(Duration::from_secs(5))
            .build()
            .unwrap();
        let client = HttpClient::from(client);
        let named = self.cell.fault == Fault::NoName;
        let rename = |text: String| {
            if named {
                text.replace("127.0.0.1", HOST)
            } else {
                text
            }
        };
        match &self.kind {
            Kind::Http(server, _) => {
                let mut url: Url = rename(server.url()).parse().unwrap();
                let location = Location::parse(url.as_str()).unwrap();
                if self.cell.fault == Fault::RedirectWithCredentials {
                    url.set_username("me").unwrap();
                    url.set_password(Some("secret")).unwrap();
                }
                (location, Arc::new(HttpBackend::new(client, url)))
            }
            Kind::S3(server, _) => {
                let mut location = common::s3(&rename(server.endpoint()), "bucket", "");
                location.anonymous = server.keys().is_none();
                let mut backend =
                    S3Backend::new(location.clone(), Duration::from_secs(5)).with_client(&client);
                if server.keys().is_some() {
                    backend = backend.with_keys("ACCESS", "secret", None);
                }
                (Location::S3(location), Arc::new(backend))
            }
            Kind::Oci(server) => {
                let location = OciLocation {
                    registry: rename(server.host()),
                    plain_http: server.url().starts_with("http:"),
                    ..common::oci(server)
                };
                let backend = OciBackend::new(location.clone(), client);
                (Location::Oci(location), Arc::new(backend))
            }
            Kind::File(dir) => (
                Location::File(dir.path().to_owned()),
                Arc::new(FileBackend::new(dir.path())),
            ),
        }
    }

    fn put(&self, bytes: &Bytes) {
        match &self.kind {
            Kind::Http(_, site) | Kind::S3(_, site) => site.insert(PATH, bytes.clone()),
            Kind::Oci(server) => {
                common::publish(server, NAME, bytes);
            }
            Kind::File(dir) => replace(&dir.path().join(PATH), bytes),
        }
    }

    /// Makes the fault begin, if it is not scripted on the server.
    pub(crate) fn begin_fault(&self) {
        let cell = &self.cell;
        match (cell.fault, &self.kind) {
            (Fault::Refused, _) => self.waiting(Server::close_port),
            (Fault::NoName, _) => self.names.0.store(true, Ordering::SeqCst),
            (Fault::BadCertificate, _) => {
                let server = self.server().expect("files have no certificates");
                server.set_tls(Tls::new(&Identity::self_signed()));
            }
            (Fault::Replaced, _) => self.put(&self.next),
            (Fault::HalfSynced, Kind::Oci(server)) => {
                let blob = format!("sha256/{}", Sha256::of(&self.file));
                assert!(server.blobs().remove(&blob));
            }
            (Fault::HalfSynced, _) => self.put(&self.file.slice(..cell.half())),
            (fault, Kind::File(dir)) => self.strike_file(fault, &dir.path().join(PATH)),
            _ => {}
        }
    }

    fn strike_file(&self, fault: Fault, path: &Path) {
        let file = || std::fs::OpenOptions::new().write(true).open(path).unwrap();
        match fault {
            Fault::Truncated => {
                let to = match self.cell.phase {
                    Phase::Middle => self.cell.cut(),
                    _ => 3 * self.cell.size / 4,
                };
                file().set_len(to as u64).unwrap();
            }
            Fault::WrongLength => file().set_len(self.cell.size as u64 + 1_000).unwrap(),
            Fault::FlippedByte => {
                let mut bytes = self.file.to_vec();
                bytes[3 * self.cell.size / 4] ^= 1;
                // In place, so that a reader sees the change.
                std::fs::write(path, bytes).unwrap();
            }
            Fault::NotFound => std::fs::remove_file(path).unwrap(),
            // The same bytes with another modification time.
            Fault::ChangedEtag => replace(path, &self.file),
            Fault::ClockSkew => {
                let ahead = SystemTime::now() + Duration::from_hours(24);
                file().set_modified(ahead).unwrap();
            }
            other => panic!("{} is not of files", other.name()),
        }
    }

    /// Ends what `begin_fault` or `break_off` began.
    pub(crate) fn end_fault(&self) {
        match self.cell.fault {
            Fault::Refused => self.waiting(async |server| server.open_port().await.unwrap()),
            Fault::NoName => self.names.0.store(false, Ordering::SeqCst),
            Fault::BadCertificate => {
                let server = self.server().expect("files have no certificates");
                server.set_tls(Tls::new(&self.ca.server()));
            }
            // A replacement is permanent.
            Fault::Replaced => {}
            _ if matches!(self.kind, Kind::File(_)) || self.cell.fault == Fault::HalfSynced => {
                self.put(&self.file);
            }
            _ => {}
        }
    }

    /// Truncates a file on disk to a half, while it is read.
    pub(crate) fn break_off(&self) {
        if let Kind::File(dir) = &self.kind {
            let path = dir.path().join(PATH);
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(self.cell.cut() as u64).unwrap();
        }
    }

    /// Restores a file on disk after `break_off`.
    pub(crate) fn mend(&self) {
        if matches!(self.kind, Kind::File(_)) {
            self.put(&self.file);
        }
    }

    /// Waits for a server in code that is not async.
    fn waiting(&self, change: impl AsyncFnOnce(&Server)) {
        let server = self.server().expect("files have no port");
        let changing = change(server);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(changing));
    }
}

/// Replaces a file by a rename, as sync tools do.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut beside = PathBuf::from(path);
    beside.set_extension("new");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

/// A server that has the file and requires no credentials, and the URL of the file on it.
pub(crate) async fn elsewhere(file: &Bytes) -> (HttpServer, String) {
    let site = Site::new();
    site.insert("elsewhere", file.clone());
    let server = HttpServer::start(site).await.unwrap();
    let url = format!("{}elsewhere", server.url());
    (server, url)
}

/// The file as mirrors have it in a registry.
pub(crate) fn target() -> taipan_transfer::Target {
    common::target(PATH, NAME)
}
