//! What depends on the operating system. Linux and other Unix systems are supported.
//!
//! macOS would add the ad-hoc signature of changed Mach-O files and Unicode-normalised names to
//! [`claim_key`]; Windows its own script names, entry point launchers and menus. The rest of
//! this crate does not depend on the system, except for permissions of records.

use std::borrow::Cow;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};

/// The directory for programs, relative to the prefix.
pub(crate) const BIN: &str = "bin";

/// The longest `#!` line that the kernel accepts, in bytes.
pub(crate) const MAX_SHEBANG: usize = if cfg!(target_os = "linux") { 127 } else { 512 };

/// A key that is equal for two paths of the same file. Linux compares bytes.
pub(crate) fn claim_key(path: &str) -> Cow<'_, str> {
    Cow::Borrowed(path)
}

/// The file name of a link script of `kind` (`post-link` and so on).
pub(crate) fn script_name(package: &str, kind: &str) -> String {
    format!(".{package}-{kind}.sh")
}

/// The command that runs a link script: with bash if there is one, as in conda, else with sh.
pub(crate) fn script_command(script: &Path) -> Command {
    let shell = if Path::new("/bin/bash").exists() {
        "/bin/bash"
    } else {
        "/bin/sh"
    };
    let mut command = Command::new(shell);
    command.arg(script);
    command
}

/// Puts the child into a process group of its own, so that it can be ended with its children.
pub(crate) fn own_group(command: &mut Command) {
    command.process_group(0);
}

/// Ends the child and everything it started.
pub(crate) fn kill_group(child: &mut Child) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended already.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
}

/// Creates a file that must not exist yet, with the permission bits of `like`.
///
/// Set-user-id and the like are never copied.
pub(crate) fn create_like(path: &Path, like: &Metadata) -> io::Result<File> {
    let mode = like.permissions().mode() & 0o777;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // The umask may have removed bits that the file in the store has.
    if file.metadata()?.permissions().mode() & 0o777 != mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(file)
}

/// Creates an executable file that must not exist yet, under the umask.
pub(crate) fn create_executable(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o777)
        .open(path)
}

/// Recreates a symbolic link.
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// The file system of a file.
pub(crate) fn device(metadata: &Metadata) -> u64 {
    metadata.dev()
}

/// Whether two names lead to one file.
pub(crate) fn same_file(one: &Metadata, other: &Metadata) -> bool {
    one.dev() == other.dev() && one.ino() == other.ino()
}

/// Whether another method may work after a failed link: because of another file system, too many
/// links, or links that are not permitted or not supported.
pub(crate) fn try_another_method(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    error.kind() == io::ErrorKind::Unsupported
        || matches!(
            errno,
            Some(
                Errno::XDEV
                    | Errno::MLINK
                    | Errno::PERM
                    | Errno::ACCESS
                    | Errno::OPNOTSUPP
                    | Errno::NOSYS
                    | Errno::NOTTY
                    | Errno::INVAL
                    | Errno::BADF
            )
        )
}
