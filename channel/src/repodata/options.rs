//! Bounds and choices for fetching repodata.

use crate::index::IndexLimits;

/// Bounds and choices for fetching repodata.
#[derive(Debug, Clone, Copy)]
pub struct RepodataOptions {
    /// The longest text of one subdir's repodata, decoded, in bytes.
    pub text_limit: usize,
    /// Bounds on its records.
    pub index: IndexLimits,
}

impl Default for RepodataOptions {
    fn default() -> Self {
        // conda-forge's largest subdir is below half a gigabyte.
        Self {
            text_limit: 2 << 30,
            index: IndexLimits::default(),
        }
    }
}
