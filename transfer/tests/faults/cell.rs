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

/// When a fault begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// With the first request, permanently.
    First,
    /// In the first body, permanently. A fault of the body affects this body and every later one.
    /// Any other fault affects every later request, after the first body has broken off in the
    /// middle.
    Middle,
    /// With the request that resumes a body. Alone, the mirror has the fault once. With a second
    /// mirror, the body of the sound mirror breaks off, and the other mirror has the fault
    /// permanently.
    Resumed,
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::First, Self::Middle, Self::Resumed];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Company {
    Alone,
    /// With a second mirror, which is sound.
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

    /// The byte at which bodies break off: in the middle of a file that is fetched by one request,
    /// and within every segment of a large one.
    pub(crate) fn cut(&self) -> usize {
        if self.is_large() {
            128 << 10
        } else {
            self.half()
        }
    }

    /// The byte at which every body breaks off, on a mirror where every body does.
    pub(crate) fn cut_again(&self) -> usize {
        if self.is_large() {
            512 << 10
        } else {
            self.cut() / 2
        }
    }

    /// Whether the file is fetched in segments.
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
