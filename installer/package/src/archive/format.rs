//! The two kinds of package archive.

use std::fmt;

/// The two kinds of package archive (CEP 35).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveFormat {
    Conda,
    TarBz2,
}

impl ArchiveFormat {
    /// By the end of a file name or URL path.
    pub fn from_file_name(name: &str) -> Option<Self> {
        [Self::Conda, Self::TarBz2]
            .into_iter()
            .find(|format| name.ends_with(format.extension()))
    }

    /// With its dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Conda => ".conda",
            Self::TarBz2 => ".tar.bz2",
        }
    }

    pub(super) fn magic(self) -> &'static [u8] {
        match self {
            Self::Conda => b"PK",
            Self::TarBz2 => b"BZh",
        }
    }
}

impl fmt::Display for ArchiveFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}
