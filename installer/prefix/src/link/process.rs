//! Child processes that end when the caller wants them to.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::platform;

/// How often a running child is polled: a flag can only be read, not awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How much of a child's output is kept.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Itself(ExitStatus),
    Cancelled,
    TooSlow,
}

/// A running child whose standard output and error go to an unnamed file.
///
/// A pipe would need a reader, and would stay open as long as any process that a script started.
/// The child and its descendants are killed on drop.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    output: File,
    done: bool,
}

impl Running {
    pub(crate) fn start(command: &mut Command, stdin: Stdio) -> io::Result<Self> {
        let output = tempfile::tempfile()?;
        platform::own_group(command);
        let child = command
            .stdin(stdin)
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()?;
        Ok(Self {
            child,
            output,
            done: false,
        })
    }

    /// Waits until the child ends, the deadline passes or `cancel` is set.
    pub(crate) fn wait(
        &mut self,
        deadline: Option<Instant>,
        cancel: &AtomicBool,
    ) -> io::Result<Ended> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.done = true;
                return Ok(Ended::Itself(status));
            }
            let ended = if cancel.load(Ordering::Relaxed) {
                Ended::Cancelled
            } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                Ended::TooSlow
            } else {
                thread::sleep(POLL_INTERVAL);
                continue;
            };
            self.kill();
            return Ok(ended);
        }
    }

    /// The end of what the child wrote, as text.
    pub(crate) fn output(&mut self) -> io::Result<String> {
        let length = self.output.metadata()?.len();
        self.output
            .seek(SeekFrom::Start(length.saturating_sub(OUTPUT_LIMIT)))?;
        let mut bytes = Vec::new();
        (&self.output).take(OUTPUT_LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn kill(&mut self) {
        platform::kill_group(&mut self.child);
        let _ = self.child.wait();
        self.done = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            self.kill();
        }
    }
}
