//! A directory per test, in which the binary runs.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use taipan_mock_servers::Fleet;
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

/// The value of an environment variable that names a program or data that not every machine has. When
/// it is not set, the test is reported as skipped, or fails with `TAIPAN_REQUIRE_REAL_SERVERS`.
pub fn required(variable: &str, what: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    if value.is_none() {
        skip(&format!("{variable} is not set, which names {what}"));
    }
    value.map(PathBuf::from)
}

/// Reports the test as skipped, or fails with `TAIPAN_REQUIRE_REAL_SERVERS`.
pub(crate) fn skip(why: &str) {
    let strict = std::env::var_os("TAIPAN_REQUIRE_REAL_SERVERS").is_some();
    assert!(!strict, "the test must not be skipped: {why}");
    // Not by `eprintln`, which the test harness captures.
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "skipped {test}: {why}");
}

/// The result of a command.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` when a signal ended the process.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Panics with the output unless the command ended with this code.
    #[track_caller]
    #[expect(
        clippy::return_self_not_must_use,
        reason = "many tests check only the code"
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

    /// The objects of a `--json` run with this type.
    #[track_caller]
    pub fn objects_of(&self, kind: &str) -> Vec<serde_json::Value> {
        let mut objects = self.objects();
        objects.retain(|object| object["type"] == kind);
        objects
    }
}

/// A temporary directory with a cache, in which the binary runs without the user's settings.
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
    /// The JSON document in a zchunk file.
    ///
    /// # Panics
    /// If it is no zchunk file, or no JSON.
    pub fn document_in_zck(&self, file: &[u8]) -> serde_json::Value {
        let path = self.path("document.zck");
        std::fs::write(&path, file).expect("the sandbox is writable");
        let path = path.display().to_string();
        let finished = self.run(&["zck", "extract", &path, "-o", "-"]).expect(0);
        serde_json::from_str(&finished.stdout).expect("the content is JSON")
    }

    /// An empty sandbox.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Self {
            dir,
            environment: Vec::new(),
        }
    }

    /// An empty sandbox with the environment variables of a fleet.
    pub fn of_fleet(fleet: &Fleet) -> Self {
        let mut sandbox = Self::new();
        for (name, value) in fleet.environment() {
            sandbox.set(name, &value);
        }
        sandbox
    }

    /// Sets an environment variable of the following commands.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A path below the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file below the sandbox, and returns its path.
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
            .env("TAIPAN_RETRY_FOR", "0")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the binary to its end. This blocks; servers of the test need other threads of the runtime.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        finish(self.start(arguments))
    }

    /// Runs the binary to its end, with this text on its stdin.
    ///
    /// # Panics
    /// If the binary cannot be run.
    pub fn run_with_input<S: AsRef<OsStr>>(&self, arguments: &[S], input: &str) -> Finished {
        let mut command = self.command(arguments);
        let mut child = (command.stdin(Stdio::piped()).spawn()).expect("the binary can be run");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // A command that fails need not read it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        finish(child)
    }

    /// Runs the binary while a file system of this size (as `mount` reads it) is mounted at `directory`, for it alone. `None` if
    /// this user may not mount.
    ///
    /// # Panics
    /// If `sh` cannot be run.
    pub fn run_with_little_space<S: AsRef<OsStr>>(
        &self,
        directory: &Path,
        size: &str,
        arguments: &[S],
    ) -> Option<Finished> {
        const NO_MOUNT: i32 = 99;
        let script = "mount -t tmpfs -o size=$1 none \"$2\" || exit 99\nshift 2\n\"$@\"\n";
        let binary = self.command(arguments);
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh", size]);
        command
            .arg(directory)
            .arg(binary.get_program())
            .args(binary.get_args());
        command.current_dir(self.dir.path()).env_clear();
        for (name, value) in binary.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let output = command.stdin(Stdio::null()).output().ok()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let finished = Finished {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        let is_refused = finished.code == Some(NO_MOUNT) || finished.stderr.starts_with("unshare:");
        (!is_refused).then_some(finished)
    }

    /// Starts the binary.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Child {
        self.command(arguments)
            .spawn()
            .expect("the binary can be run")
    }

    /// The files in the directory of unfinished store entries.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        files_below(&self.path("cache/pkgs/tmp"))
    }
}

/// Waits for the end of a process.
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

/// Sends a signal, such as `INT`, to a process.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .expect("`kill` can be run");
    assert!(status.success(), "kill ended with {status}");
}

/// All files below a directory; none when the directory does not exist.
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
