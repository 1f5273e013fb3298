//! nginx.

use std::{
    io,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{daemon::program, sandbox::skip};

/// An nginx that serves a directory on a port of loopback. It is stopped on drop.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    port: u16,
    // Configuration and log.
    work: TempDir,
}

impl Nginx {
    /// Serves `root`; `None` (reported as skipped) when nginx is not installed.
    pub fn serve(root: &Path) -> Option<Self> {
        Self::start(root, None)
    }

    /// Serves `root` with Basic authentication.
    pub fn serve_behind_password(root: &Path, user: &str, password: &str) -> Option<Self> {
        Self::start(root, Some(&format!("{user}:{{PLAIN}}{password}\n")))
    }

    fn start(root: &Path, users: Option<&str>) -> Option<Self> {
        let Some(program) = program("nginx") else {
            skip("nginx is not installed");
            return None;
        };
        // Another process may take the port before nginx starts, so this is retried.
        for _ in 0..5 {
            if let Some(server) = Self::try_start(&program, root, users) {
                return Some(server);
            }
        }
        panic!("nginx does not start");
    }

    fn try_start(program: &Path, root: &Path, users: Option<&str>) -> Option<Self> {
        let work = tempfile::tempdir().expect("a temporary directory can be made");
        let port = free_port().expect("loopback has free ports");
        let dir = work.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
            .concat();
        let gate = users.map_or_else(String::new, |users| {
            let file = work.path().join("users");
            std::fs::write(&file, users).expect("the passwords can be written");
            format!("auth_basic tests; auth_basic_user_file {};", file.display())
        });
        // A single process: workers would outlive a killed master. `user root` lets an nginx that
        // runs as root read root's directories; otherwise it only causes a warning.
        let config = format!(
            "user root; daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
             events {{ worker_connections 512; }}
             http {{ access_log {dir}/access.log; sendfile on;
               default_type application/octet-stream; {temporary}
               server {{ listen 127.0.0.1:{port}; root {}; {gate} }} }}",
            root.display()
        );
        let file = work.path().join("nginx.conf");
        std::fs::write(&file, config).expect("the configuration can be written");
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg(work.path().join("error.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx can be run");
        let mut server = Self { child, port, work };
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            if server.child.try_wait().is_ok_and(|status| status.is_some()) {
                return None;
            }
            std::thread::yield_now();
        }
        None
    }

    /// The URL, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// One line per response.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.work.path().join("access.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
