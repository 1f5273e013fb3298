//! A mock of AWS.

use std::process::Command;

use tempfile::TempDir;

use crate::{daemon::Daemon, sandbox::required};

/// A `moto` server: an S3 service in memory, which can verify signatures against its own IAM. It is
/// stopped on drop.
#[derive(Debug)]
pub struct Moto {
    daemon: Daemon,
    _work: TempDir,
}

impl Moto {
    /// Starts an empty server without authentication; `None` (reported as skipped) without
    /// `TAIPAN_PY_MOTO`.
    pub fn start() -> Option<Self> {
        let python = required("TAIPAN_PY_MOTO", "a Python that can import `moto.server`")?;
        let work = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = Command::new(python);
        command
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .current_dir(work.path())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        let daemon = Daemon::start(&mut command, "Running on http");
        Some(Self {
            daemon,
            _work: work,
        })
    }

    /// The endpoint, without a trailing slash.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.daemon.port())
    }
}
