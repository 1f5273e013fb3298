//! Limits of a reader.

/// Inclusive bounds, in bytes except `chunks`.
///
/// A reader allocates as bytes arrive, not by the lengths in the header. So the limits bound the work and
/// the memory for a *valid* file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The header: lead, preface, index and signatures. Memory for a parsed header is at most
    /// about three times this.
    pub header: u64,
    /// Entries of the index, the dictionary's included.
    pub chunks: u64,
    /// One chunk, as stored and as content.
    pub chunk: u64,
    /// All chunks together, as stored and as content.
    pub total: u64,
}

impl Limits {
    /// No limits. For trusted files.
    pub const NONE: Self = Self {
        header: u64::MAX,
        chunks: u64::MAX,
        chunk: u64::MAX,
        total: u64::MAX,
    };
}

impl Default for Limits {
    /// 16 MiB of header, a million chunks of at most 16 MiB each (the C library
    /// writes at most 10 MiB), 16 GiB in sum.
    fn default() -> Self {
        Self {
            header: 16 << 20,
            chunks: 1 << 20,
            chunk: 16 << 20,
            total: 16 << 30,
        }
    }
}
