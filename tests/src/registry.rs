//! The registry of the distribution project.

use std::{fmt::Write as _, process::Command};

use tempfile::TempDir;

use crate::{
    daemon::{Daemon, program},
    sandbox::skip,
};

/// The access control of a registry.
#[derive(Debug, Clone, Copy)]
pub enum RegistryAccess<'a> {
    /// No authentication.
    Open,
    /// Basic authentication.
    Htpasswd {
        /// The text of the password file, hashed with bcrypt.
        users: &'a str,
    },
    /// Bearer tokens of this issuer.
    Token {
        /// The URL of the token server.
        realm: &'a str,
        /// The name of the registry at the token server.
        service: &'a str,
        /// The issuer claim of the tokens.
        issuer: &'a str,
        /// The issuer's certificate, as PEM.
        certificate: &'a str,
    },
}

/// A `docker-registry` with its own storage, on plain HTTP on a port of loopback. It is stopped on
/// drop.
#[derive(Debug)]
pub struct DockerRegistry {
    daemon: Daemon,
    // Configuration and storage.
    work: TempDir,
}

impl DockerRegistry {
    /// Starts an empty registry; `None` (reported as skipped) when it is not installed.
    pub fn start(access: RegistryAccess<'_>) -> Option<Self> {
        Self::start_with(access, false)
    }

    /// Like [`start`](Self::start), and manifests can be deleted.
    pub fn start_deleting(access: RegistryAccess<'_>) -> Option<Self> {
        Self::start_with(access, true)
    }

    fn start_with(access: RegistryAccess<'_>, deletes: bool) -> Option<Self> {
        let Some(program) = program("docker-registry") else {
            skip("docker-registry is not installed");
            return None;
        };
        let work = tempfile::tempdir().expect("a temporary directory can be made");
        let write = |name: &str, text: &str| {
            let path = work.path().join(name);
            std::fs::write(&path, text).expect("the configuration can be written");
            path.display().to_string()
        };
        let mut config = format!(
            "version: '0.1'\n\
             log: {{ level: info }}\n\
             http: {{ addr: '127.0.0.1:0', secret: tests }}\n\
             storage: {{ filesystem: {{ rootdirectory: {:?} }}, delete: {{ enabled: {deletes} }} }}\n",
            work.path().join("data").display().to_string()
        );
        let auth = match access {
            RegistryAccess::Open => Ok(()),
            RegistryAccess::Htpasswd { users } => {
                let path = write("htpasswd", users);
                writeln!(
                    config,
                    "auth: {{ htpasswd: {{ realm: tests, path: {path:?} }} }}"
                )
            }
            RegistryAccess::Token {
                realm,
                service,
                issuer,
                certificate,
            } => {
                let path = write("issuer.pem", certificate);
                writeln!(
                    config,
                    "auth: {{ token: {{ realm: {realm:?}, service: {service:?}, \
                     issuer: {issuer:?}, rootcertbundle: {path:?} }} }}"
                )
            }
        };
        auth.expect("writing to a String does not fail");
        let config = write("config.yml", &config);
        let mut command = Command::new(program);
        command
            .args(["serve", &config])
            .current_dir(work.path())
            // The registry also reads settings from the environment.
            .env_clear();
        let daemon = Daemon::start(&mut command, "listening on ");
        Some(Self { daemon, work })
    }

    /// Removes the blobs that no manifest lists, as administrators do from outside. Whether it succeeded.
    pub fn collect_garbage(&self) -> bool {
        let program = program("docker-registry").expect("it is running");
        let config = self.work.path().join("config.yml");
        let collected = Command::new(program)
            .arg("garbage-collect")
            .arg(config)
            .current_dir(self.work.path())
            .env_clear()
            .output();
        collected.is_ok_and(|output| output.status.success())
    }

    /// `127.0.0.1:PORT`, as in a reference.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.daemon.port())
    }
}
