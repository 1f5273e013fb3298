//! Saved credentials: those of registries in the configuration of docker and its helpers, which other tools read, too; those of
//! web servers in a file of taipan.

mod docker;
mod places;
mod web;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use places::Place;
pub(crate) use web::WebCredentials;

/// The largest file of credentials that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Why credentials cannot be saved, read or removed. Contains no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error(
        "`{place}` is not the URL of a server: write oci://HOST for a registry, https://HOST for a web server"
    )]
    Place { place: String },
    #[error(
        "credentials for buckets are not saved here: use the environment or the profiles of the AWS tools"
    )]
    Bucket,
    #[error("--username is needed for a registry")]
    NoUser,
    #[error("{what} contains a line break or is empty")]
    Secret { what: &'static str },
    #[error("no terminal to ask for the password: use --password-stdin")]
    NoTerminal,
    #[error("cannot read the password")]
    Read(#[source] io::Error),
    #[error("cannot read {}", path.display())]
    ReadFile { path: PathBuf, source: io::Error },
    #[error("{} is not a file of credentials: correct or delete it", path.display())]
    Invalid {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("cannot write {}", path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("the home directory is unknown: set {variable}")]
    NoHome { variable: &'static str },
    #[error("the credential helper {name} cannot be run")]
    Helper { name: String, source: io::Error },
    #[error("the credential helper {name} failed with exit status {status}")]
    HelperFailed { name: String, status: String },
}

impl AuthError {
    /// Whether the user can correct it in the command or in a file.
    pub(crate) fn is_usage(&self) -> bool {
        !matches!(
            self,
            Self::Read(_)
                | Self::ReadFile { .. }
                | Self::WriteFile { .. }
                | Self::Helper { .. }
                | Self::HelperFailed { .. }
        )
    }
}

/// Credentials as they are listed: without the secret.
#[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    /// `oci://host` or `https://host`.
    pub(crate) server: String,
    /// `None` for a token, and where only a helper knows it.
    pub(crate) user: Option<String>,
    /// The file or the helper.
    pub(crate) place: String,
}

/// A user and a password, or a token alone.
pub(crate) struct Secret {
    pub(crate) user: Option<String>,
    pub(crate) password: String,
}

/// Saves credentials; returns where they are.
pub(crate) fn save(place: &Place, secret: &Secret) -> Result<String, AuthError> {
    match place {
        Place::Registry(host) => {
            let user = secret.user.as_deref().ok_or(AuthError::NoUser)?;
            docker::save(host, user, &secret.password)
        }
        Place::Web(host) => WebCredentials::save(host, secret),
    }
}

/// Removes credentials; returns where they were, or `None` if there were none.
pub(crate) fn remove(place: &Place) -> Result<Option<String>, AuthError> {
    match place {
        Place::Registry(host) => docker::remove(host),
        Place::Web(host) => WebCredentials::remove(host),
    }
}

/// All saved credentials.
pub(crate) fn list() -> Result<Vec<Listed>, AuthError> {
    let mut all = docker::list()?;
    all.extend(WebCredentials::list()?);
    all.sort();
    Ok(all)
}

/// Reads a JSON object from a file; an empty one if there is none.
fn read(path: &Path) -> Result<Map<String, Value>, AuthError> {
    let failed = |source| AuthError::ReadFile {
        path: path.to_owned(),
        source,
    };
    let text = match std::fs::metadata(path) {
        Ok(found) if found.len() > MAX_FILE => {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(_) => std::fs::read_to_string(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(failed(error)),
    };
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(&text).map_err(|source| AuthError::Invalid {
        path: path.to_owned(),
        source,
    })
}

/// Writes a JSON object to a file that only its owner can read. A link is followed.
fn write(path: &Path, object: &Map<String, Value>) -> Result<(), AuthError> {
    let write = || -> io::Result<()> {
        let path = match std::fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(error),
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        // Temporary files have the mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, object)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| AuthError::WriteFile {
        path: path.to_owned(),
        source,
    })
}
