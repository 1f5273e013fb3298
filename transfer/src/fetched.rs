//! The result of a job.

use crate::{Attempt, Sha256, Validators};

/// The result of a job.
#[derive(Debug)]
pub struct Fetched {
    /// The SHA-256 of the file and its length in bytes; `None` if it has not changed and was not
    /// fetched.
    pub file: Option<(Sha256, u64)>,
    /// The printable URL that sent the file, or the last part of it.
    pub url: String,
    /// The validators of this version of the file at that URL.
    pub validators: Validators,
    /// The failed attempts.
    pub attempts: Vec<Attempt>,
    /// Bytes that arrived and are not part of the file.
    pub wasted: u64,
    /// How much of a zchunk file was fetched; `None` for any other.
    pub delta: Option<Delta>,
}

/// How much of a zchunk file was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta {
    /// The length of the header, in bytes.
    pub header_bytes: u64,
    /// Bytes of the body that came from older files.
    pub reused_bytes: u64,
    /// Bytes of the body that were fetched, in this run or an earlier one.
    pub fetched_bytes: u64,
    /// In how many ranges they lie.
    pub ranges: usize,
}
