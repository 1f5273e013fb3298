//! How the process ends.

/// The exit codes, which scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All was done.
    Done = 0,
    /// Something failed.
    Failed = 1,
    /// The command line, a spec, or a file that was named is wrong.
    Usage = 2,
    /// The specs cannot be satisfied together.
    Unsatisfiable = 3,
    /// No mirror could give what is needed.
    Exhausted = 4,
    /// What the mirrors gave is not what was expected.
    Verification = 5,
    /// Interrupted by the user.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
