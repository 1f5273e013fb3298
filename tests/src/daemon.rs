//! Servers that run as other processes.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The timeout for the announcement of the port. A Python server imports for seconds on a busy
/// machine.
const START_TIMEOUT: Duration = Duration::from_mins(2);

/// A server that was started with port 0 and has announced its port. It is killed on drop.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    port: u16,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts a server that writes a line with `announcement` followed by `HOST:PORT` to stderr when
    /// it accepts connections. So the port need not be polled, and another process cannot take it.
    pub(crate) fn start(command: &mut Command, announcement: &'static str) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let (sender, lines) = mpsc::channel();
        // The pipe is read to its end: a full pipe would block the server.
        let reader = std::thread::spawn(move || pass_on(stderr, &sender));
        let mut daemon = Self {
            child,
            port: 0,
            reader: Some(reader),
        };
        let deadline = Instant::now() + START_TIMEOUT;
        let mut log = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                panic!("{command:?} does not announce its port:\n{log}");
            };
            if let Some((_, rest)) = line.split_once(announcement) {
                daemon.port =
                    port(rest).unwrap_or_else(|| panic!("{command:?} announces no port: {line}"));
                return daemon;
            }
            log.push_str(&line);
            log.push('\n');
        }
    }

    /// The port on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn pass_on(stderr: impl Read, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        // The receiver is gone once the port is known.
        let _ = lines.send(String::from_utf8_lossy(&line).into_owned());
    }
}

/// The number after the first colon that is followed by one.
fn port(text: &str) -> Option<u16> {
    text.split(':').skip(1).find_map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        part[..digits].parse().ok()
    })
}

/// The path of a program, also in the directories of servers.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
