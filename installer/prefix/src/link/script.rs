//! Pre-link, post-link and pre-unlink scripts (CEP 34).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::AtomicBool;

use rattler_conda_types::PackageRecord;

use super::observer::{LinkObserver, LinkWarning};
use super::package::dist_name;
use super::process::{Ended, Running};
use crate::error::PrefixError;
use crate::platform;

/// When a link script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScriptKind {
    /// Before any file is linked; the script is in the extracted package.
    PreLink,
    /// After all files of all packages are linked.
    PostLink,
    /// Before any file is removed.
    PreUnlink,
}

impl ScriptKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PreLink => "pre-link",
            Self::PostLink => "post-link",
            Self::PreUnlink => "pre-unlink",
        }
    }

    /// The path of the script, relative to the package or prefix.
    pub(crate) fn path(self, record: &PackageRecord) -> String {
        let name = platform::script_name(record.name.as_normalized(), self.name());
        format!("{}/{name}", platform::BIN)
    }
}

/// Runs link scripts.
pub(crate) struct ScriptRunner<'a> {
    pub(crate) prefix: &'a Path,
    pub(crate) root_prefix: &'a Path,
    pub(crate) observer: &'a dyn LinkObserver,
    pub(crate) cancel: &'a AtomicBool,
}

impl ScriptRunner<'_> {
    /// Runs the script of `record` if it has one below `directory`.
    ///
    /// A failure of a pre-unlink script is a warning, as in conda: refusing to remove a package
    /// because its script is broken would make it impossible to get rid of.
    pub(crate) fn run(
        &self,
        kind: ScriptKind,
        record: &PackageRecord,
        directory: &Path,
    ) -> Result<(), PrefixError> {
        let script = directory.join(kind.path(record));
        if !script.is_file() {
            return Ok(());
        }
        let package = dist_name(record);
        self.observer.script_started(&package, kind.name());
        let script_dir = script.parent().unwrap_or(directory).to_path_buf();
        let mut command = platform::script_command(&script);
        command
            .current_dir(&script_dir)
            .env("ROOT_PREFIX", self.root_prefix)
            .env("PREFIX", self.prefix)
            .env("PKG_NAME", record.name.as_normalized())
            .env("PKG_VERSION", record.version.as_str().as_ref())
            .env("PKG_BUILDNUM", record.build_number.to_string())
            .env("PATH", search_path(&script_dir));
        if kind == ScriptKind::PreLink {
            command.env("SOURCE_DIR", directory);
        } else {
            // The environment that is active in the caller's shell may be another one.
            command.env("CONDA_PREFIX", self.prefix);
        }
        let mut running = Running::start(&mut command, Stdio::null())
            .map_err(PrefixError::io("run the link script", &script))?;
        let ended = running
            .wait(None, self.cancel)
            .map_err(PrefixError::io("wait for the link script", &script))?;
        let output = running.output().unwrap_or_default();
        if !output.is_empty() {
            self.observer.script_output(&package, kind.name(), &output);
        }
        self.pass_on_messages(&package)?;
        let status = match ended {
            Ended::Itself(status) if status.success() => return Ok(()),
            Ended::Itself(status) => status.to_string(),
            Ended::Cancelled | Ended::TooSlow => return Err(PrefixError::Cancelled),
        };
        if kind == ScriptKind::PreUnlink {
            self.observer.warning(&LinkWarning::ScriptFailed {
                package,
                kind: kind.name(),
                status,
            });
            return Ok(());
        }
        Err(PrefixError::ScriptFailed {
            package,
            kind: kind.name(),
            status,
            output,
        })
    }

    /// A script writes messages to the user to `.messages.txt`.
    fn pass_on_messages(&self, package: &str) -> Result<(), PrefixError> {
        let path = self.prefix.join(".messages.txt");
        let Ok(bytes) = fs::read(&path) else {
            return Ok(());
        };
        let text = String::from_utf8_lossy(&bytes);
        if !text.trim().is_empty() {
            self.observer.message(package, text.trim_end());
        }
        fs::remove_file(&path).map_err(PrefixError::io("delete", &path))
    }
}

fn search_path(first: &Path) -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let parts: Vec<PathBuf> = std::iter::once(first.to_path_buf())
        .chain(std::env::split_paths(&inherited))
        .collect();
    // A prefix with a colon cannot be in a search path; the script then inherits it unchanged.
    std::env::join_paths(parts).unwrap_or(inherited)
}
