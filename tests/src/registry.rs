//! A real registry.

use std::{fmt::Write as _, process::Command};

use tempfile::TempDir;

use crate::{
    daemon::{Daemon, program},
    sandbox::skip,
};

/// Whom a registry lets in.
#[derive(Debug, Clone, Copy)]
pub enum RegistryAccess<'a> {
    /// Everybody, to everything.
    Open,
    /// Those in a password file.
    Htpasswd {
        /// The text of that file; the registry wants bcrypt.
        users: &'a str,
    },
    /// Those who bring a token of this issuer.
    Token {
        /// Where tokens are given out.
        realm: &'a str,
        /// What the registry calls itself there.
        service: &'a str,
        /// The issuer that stands in the tokens.
        issuer: &'a str,
        /// The issuer's certificate, as PEM.
        certificate: &'a str,
    },
}

/// A `docker-registry` with a storage of its own, on plain HTTP on a port of loopback. It ends
/// when it is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    daemon: Daemon,
    // Its configuration and storage.
    _work: TempDir,
}

impl DockerRegistry {
    /// Starts an empty one; `None` (which is said) when there is none on this machine.
    pub fn start(access: RegistryAccess<'_>) -> Option<Self> {
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
             storage: {{ filesystem: {{ rootdirectory: {:?} }} }}\n",
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
        auth.expect("a String takes all that is written");
        let config = write("config.yml", &config);
        let mut command = Command::new(program);
        command
            .args(["serve", &config])
            .current_dir(work.path())
            // Every setting could also come from the environment.
            .env_clear();
        let daemon = Daemon::start(&mut command, "listening on ");
        Some(Self {
            daemon,
            _work: work,
        })
    }

    /// `127.0.0.1:PORT`, as it stands in a reference.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.daemon.port())
    }
}
