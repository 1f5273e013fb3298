use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How much one archive may cost. Real packages stay far below the defaults; a bomb does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractLimits {
    /// Bytes of the archive itself. Default 64 GiB.
    pub archive_bytes: u64,
    /// Decompressed bytes, tar headers and holes of sparse files included. Default 128 GiB.
    pub unpacked_bytes: u64,
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
    /// Decompressed bytes that no ratio is asked of: small archives of empty files compress very
    /// well. Default 256 MiB.
    pub ratio_allowance: u64,
    /// Base-two logarithm of the largest zstd window, that is of the memory one `.conda` may make
    /// the decoder take. Default 27 (128 MiB), zstd's own; at most 31.
    pub zstd_window_log: u32,
}

impl Default for ExtractLimits {
    fn default() -> Self {
        Self {
            archive_bytes: 64 << 30,
            unpacked_bytes: 128 << 30,
            entries: 2_000_000,
            path_bytes: 4096,
            path_depth: 128,
            ratio: 1000,
            ratio_allowance: 256 << 20,
            zstd_window_log: 27,
        }
    }
}

/// What an extraction wrote. An entry that a later one replaced is counted, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtractSummary {
    /// Regular files.
    pub files: u64,
    /// Further names of files that were already there.
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

/// Tells a running extraction to stop. Clones share one flag; it cannot be taken back.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

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
