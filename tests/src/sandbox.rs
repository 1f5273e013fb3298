//! A place of its own for each test, and the binary in it.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// The binary that `cargo test --workspace` has built beside the tests.
pub fn taipan() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/TEST
    let profile = test
        .ancestors()
        .nth(2)
        .expect("tests are built two directories deep");
    let binary = profile.join("taipan");
    assert!(
        binary.is_file(),
        "{} is not there: run `cargo test --workspace`, or `cargo build -p taipan` first",
        binary.display()
    );
    binary
}

/// The value of an environment variable that names what a test needs and not every machine has.
/// When it is not set the test says that it is skipped; where nothing may be skipped it fails.
pub fn required(variable: &str, what: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    if value.is_none() {
        skip(&format!("{variable} is not set, which names {what}"));
    }
    value.map(PathBuf::from)
}

/// Says that a test is skipped, or fails where that is not allowed.
pub(crate) fn skip(why: &str) {
    let strict = std::env::var_os("TAIPAN_REQUIRE_REAL_SERVERS").is_some();
    assert!(!strict, "cannot be skipped here: {why}");
    // Written past the test harness, which would keep to itself what a passing test prints.
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "skipped {test}: {why}");
}

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// Panics with all that was written unless the command ended with this code.
    #[track_caller]
    #[expect(
        clippy::return_self_not_must_use,
        reason = "often only the code is of interest"
    )]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// The objects of a `--json` run.
    #[track_caller]
    pub fn objects(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("`{line}` is not JSON: {error}"));
            assert!(value["type"].is_string(), "`{line}` has no type");
            value
        };
        self.stdout.lines().map(parse).collect()
    }
}

/// A directory of its own with a cache, in which the binary runs without the user's settings.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    environment: Vec<(String, String)>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Self {
            dir,
            environment: Vec::new(),
        }
    }

    /// Sets an environment variable for the commands to come.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A path below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file below it, and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the sandbox can be written to");
        path
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(taipan());
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.dir.path())
            .env("DOCKER_CONFIG", self.dir.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_PROXY", "127.0.0.1")
            .env("TAIPAN_CACHE_DIR", self.path("cache"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the binary to its end. It never blocks the servers of the test: they run on the
    /// threads of a runtime.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        finish(self.start(arguments))
    }

    /// Starts the binary.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Child {
        self.command(arguments)
            .spawn()
            .expect("the binary can be run")
    }

    /// The names of what is left in the directory where the store makes its entries.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        files_below(&self.path("cache/pkgs/tmp"))
    }
}

/// Waits for a command that was started.
pub fn finish(child: Child) -> Finished {
    let output = child
        .wait_with_output()
        .expect("a child that was started can be waited for");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// All files below a directory; none when it is not there.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}
