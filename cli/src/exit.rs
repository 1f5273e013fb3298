//! How the process ends.

/// The exit codes, which scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Success.
    Done = 0,
    /// A failure without a code of its own: disk, permissions, a broken package.
    Failed = 1,
    /// The command line, a spec or an input file is invalid.
    Usage = 2,
    /// The specs cannot be satisfied together.
    Unsatisfiable = 3,
    /// All mirrors failed.
    Exhausted = 4,
    /// The content does not have the expected digest.
    Verification = 5,
    /// An index was published, with packages left out.
    Partial = 6,
    /// Interrupted by the user.
    Interrupted = 130,
}

impl Exit {
    /// The exit code of several outcomes: the one that most needs the user's attention, and `Done`
    /// when there are none. Exhausted mirrors come last: they may recover without the user.
    pub(crate) fn worst(exits: impl IntoIterator<Item = Self>) -> Self {
        exits
            .into_iter()
            .max_by_key(|exit| exit.severity())
            .unwrap_or(Self::Done)
    }

    fn severity(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Partial => 1,
            Self::Exhausted => 2,
            Self::Unsatisfiable => 3,
            Self::Usage => 4,
            Self::Failed => 5,
            Self::Verification => 6,
            Self::Interrupted => 7,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_exit_is_the_one_that_the_user_must_act_on() {
        use Exit::{Done, Exhausted, Failed, Usage, Verification};
        assert_eq!(Exit::worst([]), Done);
        assert_eq!(Exit::worst([Done, Exhausted, Done]), Exhausted);
        assert_eq!(Exit::worst([Exhausted, Usage]), Usage);
        assert_eq!(Exit::worst([Failed, Usage, Exhausted]), Failed);
        assert_eq!(Exit::worst([Failed, Verification]), Verification);
    }
}
