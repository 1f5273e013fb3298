//! Servers that are programs of their own.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a server may take to say where it listens. A Python one imports for seconds on a
/// machine that is busy.
const PATIENCE: Duration = Duration::from_mins(2);

/// A server that was started with the port 0 and has said which port it was given. It is killed
/// when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    port: u16,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Runs a server that writes a line with `announcement` and `HOST:PORT` behind it to stderr as
    /// soon as it can be asked. There is no waiting for a port to open, and no port that somebody
    /// else could take meanwhile.
    pub(crate) fn start(command: &mut Command, announcement: &'static str) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
        let stderr = child.stderr.take().expect("it was asked to be a pipe");
        let (sender, lines) = mpsc::channel();
        // The pipe is read to its end, or a server that logs a lot would stop in the middle.
        let reader = std::thread::spawn(move || pass_on(stderr, &sender));
        let mut daemon = Self {
            child,
            port: 0,
            reader: Some(reader),
        };
        let deadline = Instant::now() + PATIENCE;
        let mut log = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                panic!("{command:?} does not say where it listens:\n{log}");
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

    /// Its port on loopback.
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
        // Nobody listens any more once the port is known.
        let _ = lines.send(String::from_utf8_lossy(&line).into_owned());
    }
}

/// The number behind the first colon that has one.
fn port(text: &str) -> Option<u16> {
    text.split(':').skip(1).find_map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        part[..digits].parse().ok()
    })
}

/// A program by its name, where servers are installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
