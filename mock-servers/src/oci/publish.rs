//! A channel in a registry, in the layout that existing conda clients read.

use std::fmt;
use std::io;

use bytes::Bytes;
use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use super::store::{self, Manifest, Store};
use crate::archive::{self, ArchiveError, Member};
use crate::content::Content;
use crate::gzip;
use crate::site::Site;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.unknown.config.v1+json";

/// The time of every layer. Real writers use the current time; no reader uses it.
const CREATION_TIME: &str = "2024.01.01.00.00";

/// The result of publishing a channel.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Published {
    /// `NAMESPACE/SUBDIR/NAME:TAG` of each package.
    pub packages: Vec<String>,
    /// `SUBDIR/FILE_NAME` of records whose file the channel lacks.
    pub missing: Vec<String>,
}

/// Why a channel cannot be published.
#[derive(Debug)]
#[non_exhaustive]
pub enum PublishError {
    /// The `repodata.json` at this path is invalid.
    Repodata {
        path: String,
        source: Option<serde_json::Error>,
    },
    Package {
        path: String,
        source: ArchiveError,
    },
    Read {
        path: String,
        source: io::Error,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repodata { path, .. } => write!(f, "{path} is no repodata"),
            Self::Package { path, .. } => write!(f, "the package {path} cannot be published"),
            Self::Read { path, .. } => write!(f, "{path} cannot be read"),
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Repodata { source, .. } => source.as_ref().map(|error| error as _),
            Self::Package { source, .. } => Some(source),
            Self::Read { source, .. } => Some(source),
        }
    }
}

/// The repository of a package: OCI names may not begin with an underscore.
fn repository(namespace: &str, subdir: &str, name: &str) -> String {
    let prefix = if name.starts_with('_') { "zzz" } else { "" };
    format!("{namespace}/{subdir}/{prefix}{name}")
}

/// The tag of a package, without the characters that tags may not have.
fn tag(version: &str, build: &str) -> String {
    format!("{version}-{build}")
        .replace('+', "__p__")
        .replace('!', "__e__")
        .replace('=', "__eq__")
}

pub(crate) fn publish(
    store: &Store,
    channel: &Site,
    namespace: &str,
) -> Result<Published, PublishError> {
    let namespace = namespace.trim_matches('/');
    let mut published = Published::default();
    for path in channel.paths() {
        let Some(subdir) = path.strip_suffix("/repodata.json") else {
            continue;
        };
        let broken = |source| PublishError::Repodata {
            path: path.clone(),
            source,
        };
        let bytes = read(channel, &path)?;
        let repodata: Value =
            serde_json::from_slice(&bytes).map_err(|error| broken(Some(error)))?;
        // A tag has only one archive; `.conda` comes last and replaces `.tar.bz2`.
        for (key, media_type) in [
            ("packages", "application/vnd.conda.package.v1"),
            ("packages.conda", "application/vnd.conda.package.v2"),
        ] {
            for (file_name, record) in repodata[key].as_object().into_iter().flatten() {
                let package = format!("{subdir}/{file_name}");
                let (Some(name), Some(version), Some(build)) = (
                    record["name"].as_str(),
                    record["version"].as_str(),
                    record["build"].as_str(),
                ) else {
                    return Err(broken(None));
                };
                if !channel.contains(&package) {
                    published.missing.push(package);
                    continue;
                }
                let repository = repository(namespace, subdir, name);
                let tag = tag(version, build);
                push_package(store, channel, &package, &repository, &tag, media_type)?;
                published.packages.push(format!("{repository}:{tag}"));
            }
        }
        push_repodata(
            store,
            channel,
            subdir,
            &format!("{namespace}/{subdir}/repodata.json"),
        )?;
    }
    Ok(published)
}

fn read(channel: &Site, path: &str) -> Result<Bytes, PublishError> {
    let object = channel.object(path);
    let bytes = object.map_or_else(
        || Err(io::Error::from(io::ErrorKind::NotFound)),
        |object| object.content.read_all(),
    );
    bytes.map_err(|source| PublishError::Read {
        path: path.to_owned(),
        source,
    })
}

fn push_package(
    store: &Store,
    channel: &Site,
    path: &str,
    repository: &str,
    tag: &str,
    media_type: &str,
) -> Result<(), PublishError> {
    let file_name = path.rsplit('/').next().unwrap_or(path);
    let bytes = read(channel, path)?;
    let info = archive::info_files(file_name, &bytes).map_err(|source| PublishError::Package {
        path: path.to_owned(),
        source,
    })?;
    let mut tar = Vec::new();
    let mut index = Bytes::new();
    for (name, data) in info {
        // The info layer is the directory itself, so its members are named below it.
        let inner = name.strip_prefix("info/").unwrap_or(&name);
        let member = Member {
            name: inner.as_bytes(),
            kind: b'0',
            link: b"",
            mode: 0o644,
            data: &data,
        };
        archive::append(&mut tar, &member, 0);
        if inner == "index.json" {
            index = data.into();
        }
    }
    archive::finish(&mut tar);
    let md5 = hex::encode(Md5::digest(&bytes));
    // The archive goes in as it is, so that its digest is the one in repodata; a file on disk
    // stays there.
    let digest = store::digest(&bytes);
    let size = bytes.len();
    let content = channel
        .object(path)
        .map_or(Content::Memory(bytes), |object| object.content);
    store.add_blob(repository, &digest, content);
    let mut package = descriptor(media_type, &digest, size, file_name);
    package["annotations"]["org.conda.md5"] = md5.into();
    let layers = vec![
        package,
        layer(
            store,
            repository,
            "application/vnd.conda.info.v1.tar+gzip",
            gzip::gzip(&tar).into(),
            &format!("{file_name}/info.tar.gz"),
        ),
        layer(
            store,
            repository,
            "application/vnd.conda.info.index.v1+json",
            index,
            &format!("{file_name}/info/index.json"),
        ),
    ];
    push_manifest(store, repository, &[tag], &layers);
    Ok(())
}

fn push_repodata(
    store: &Store,
    channel: &Site,
    subdir: &str,
    repository: &str,
) -> Result<(), PublishError> {
    let mut layers = Vec::new();
    for (extension, media_type) in [
        ("", "application/vnd.conda.repodata.v1+json"),
        (".zst", "application/vnd.conda.repodata.v1+json+zst"),
    ] {
        let file_name = format!("repodata.json{extension}");
        let path = format!("{subdir}/{file_name}");
        if channel.contains(&path) {
            let bytes = read(channel, &path)?;
            layers.push(layer(store, repository, media_type, bytes, &file_name));
        }
    }
    push_manifest(store, repository, &["latest", CREATION_TIME], &layers);
    Ok(())
}

fn layer(store: &Store, repository: &str, media_type: &str, bytes: Bytes, title: &str) -> Value {
    let size = bytes.len();
    let digest = store.add_bytes(repository, bytes);
    descriptor(media_type, &digest, size, title)
}

fn descriptor(media_type: &str, digest: &str, size: usize, title: &str) -> Value {
    json!({
        "mediaType": media_type,
        "digest": digest,
        "size": size,
        "annotations": {
            "org.opencontainers.image.title": title,
            "creationTime": CREATION_TIME,
        },
    })
}

fn push_manifest(store: &Store, repository: &str, tags: &[&str], layers: &[Value]) {
    let config = store.add_bytes(repository, Bytes::from_static(b"{}"));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": { "mediaType": CONFIG_TYPE, "digest": config, "size": 2 },
        "layers": layers,
    });
    let bytes = Bytes::from(manifest.to_string());
    for tag in tags {
        let manifest = Manifest {
            media_type: MANIFEST_TYPE.to_owned(),
            bytes: bytes.clone(),
        };
        store.add_manifest(repository, tag, manifest);
    }
}
