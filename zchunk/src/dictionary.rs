//! Training a dictionary.

use crate::error::{Error, Result};

/// The size that `zstd --train`, and so `zck_gen_zdict`, aims for, in bytes.
pub const DICTIONARY_SIZE: usize = 112_640;

/// Trains a zstd dictionary of at most `size` bytes from samples, which are best what will be
/// chunks (or parts of them, where those are few).
///
/// The same samples give the same dictionary. zstd refuses where there are too few of them; then a
/// dictionary would not pay either. All files of a series must be made with the same dictionary:
/// with another one no chunk is the same.
pub fn train_dictionary<S: AsRef<[u8]>>(samples: &[S], size: usize) -> Result<Vec<u8>> {
    zstd::dict::from_samples(samples, size).map_err(|source| Error::Compress {
        what: "train a dictionary",
        source,
    })
}
