use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Limits of one archive. Real packages stay far below the defaults; a decompression bomb does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractLimits {
    /// Bytes of the archive itself. Default 64 GiB.
    pub archive_bytes: u64,
    /// Decompressed bytes, tar headers and holes of sparse files included. Default 128 GiB.
    pub extracted_bytes: u64,
    /// Entries of all tars together. Default 2 million.
    pub entries: u64,
    /// Bytes of one path, and of one link target. Default 4096, which is Linux's `PATH_MAX`.
    pub path_bytes: usize,
    /// Components of one path; each costs an open directory while it is being filled.
    /// Default 128.
    pub path_depth: usize,
    /// Decompressed bytes per archive byte, beyond [`ratio_allowance`](Self::ratio_allowance).
    /// Default 1000.
    pub ratio: u64,
    /// Decompressed bytes that are exempt from the ratio: small archives of empty files compress
    /// very well. Default 256 MiB.
    pub ratio_allowance: u64,
    /// Base-two logarithm of the largest zstd window, which the decoder keeps in memory. Default 27
    /// (128 MiB), which is the default of zstd; at most 31.
    pub zstd_window_log: u32,
}

impl Default for ExtractLimits {
    fn default() -> Self {
        Self {
            archive_bytes: 64 << 30,
            extracted_bytes: 128 << 30,
            entries: 2_000_000,
            path_bytes: 4096,
            path_depth: 128,
            ratio: 1000,
            ratio_allowance: 256 << 20,
            zstd_window_log: 27,
        }
    }
}

/// What an extraction wrote, including entries that later ones replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtractSummary {
    /// Regular files.
    pub files: u64,
    /// Hard links to files of the archive.
    pub hard_links: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Directories that have an entry of their own.
    pub directories: u64,
    /// Bytes of the regular files, holes included.
    pub bytes: u64,
    /// Bytes of the archive, to its end.
    pub archive_bytes: u64,
}

/// Cancels a running extraction. Clones share one flag, which cannot be cleared.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

/// A flag that others set, too.
impl From<Arc<AtomicBool>> for CancelFlag {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }
}

impl CancelFlag {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
