//! Training a dictionary.

use crate::error::{Error, Result};

/// The default size of `zstd --train` and `zck_gen_zdict`, in bytes.
pub const DICTIONARY_SIZE: usize = 112_640;

/// Trains a zstd dictionary of at most `size` bytes on samples. The best samples are the later chunks, or
/// parts of them if they are few.
///
/// Deterministic. zstd refuses too few samples, for which a dictionary would not pay. All files of a
/// series need the same dictionary: with another one all stored forms differ.
pub fn train_dictionary<S: AsRef<[u8]>>(samples: &[S], size: usize) -> Result<Vec<u8>> {
    zstd::dict::from_samples(samples, size).map_err(|source| Error::Compress {
        what: "train a dictionary",
        source,
    })
}
