//! The coordinates of the matrix.

use std::fmt;

use crate::fault::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Http,
    S3,
    Oci,
    File,
}

impl Protocol {
    pub(crate) const ALL: [Self; 4] = [Self::Http, Self::S3, Self::Oci, Self::File];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::S3 => "S3",
            Self::Oci => "OCI",
            Self::File => "file",
        }
    }
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// From the first request on, for good.
    First,
    /// While the first body is under way, and for good: the faults of bodies strike that body, and
    /// every other one; with the other faults it breaks off at half, and they strike every later
    /// request.
    Middle,
    /// In the request that continues a body which broke off at half. Alone the mirror has it once;
    /// in company the body breaks off on the sound mirror, and the other has it for good.
    Resumed,
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::First, Self::Middle, Self::Resumed];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Company {
    Alone,
    /// There is a second mirror, which is sound.
    Second,
}

impl Company {
    pub(crate) const ALL: [Self; 2] = [Self::Alone, Self::Second];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    /// The length of the file, in bytes.
    pub(crate) size: usize,
    pub(crate) protocol: Protocol,
    pub(crate) fault: Fault,
    pub(crate) phase: Phase,
    pub(crate) company: Company,
}

impl Cell {
    pub(crate) fn half(&self) -> usize {
        self.size / 2
    }

    /// Where bodies break off: at half of a file that comes in one, and within every segment of
    /// one that comes in several.
    pub(crate) fn cut(&self) -> usize {
        if self.is_large() {
            128 << 10
        } else {
            self.half()
        }
    }

    /// Where every body breaks off, on a mirror on which every body does.
    pub(crate) fn cut_again(&self) -> usize {
        if self.is_large() {
            512 << 10
        } else {
            self.cut() / 2
        }
    }

    /// Whether the file comes in segments.
    pub(crate) fn is_large(&self) -> bool {
        self.size >= 2 << 20
    }

    pub(crate) fn alone(&self) -> bool {
        self.company == Company::Alone
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes, {}, {}, {:?}, {:?}",
            self.size,
            self.protocol.name(),
            self.fault.name(),
            self.phase,
            self.company
        )
    }
}
