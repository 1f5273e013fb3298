use std::io;
use std::path::PathBuf;

use super::format::ArchiveFormat;

/// Why an archive was not extracted.
///
/// `member` is the zip member, or `tar.bz2`; `entry` the path inside its tar, as the archive
/// spells it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The caller's reader failed.
    #[error("cannot read the archive")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error("the extraction was cancelled")]
    Cancelled,
    /// The thread of the extraction panicked, or its runtime ended.
    #[error("the extraction ended without a result")]
    Lost,
    #[error("not a {format} archive: it starts with \"{start}\"")]
    NotAnArchive {
        format: ArchiveFormat,
        start: String,
    },
    #[error("the archive is truncated in {within}")]
    Truncated { within: String },
    #[error("invalid zip at byte {at}: {problem}")]
    Zip { at: u64, problem: &'static str },
    #[error("invalid central directory of the zip")]
    CentralDirectory {
        #[source]
        source: zip::result::ZipError,
    },
    /// CEP 35 wants members stored.
    #[error(
        "member {member:?} is compressed (method {method}); members of a .conda must be stored"
    )]
    CompressedMember { member: String, method: u16 },
    #[error("member {member:?} is encrypted")]
    EncryptedMember { member: String },
    #[error("checksum mismatch (crc32) of member {member:?}")]
    Checksum { member: String },
    #[error("the archive has no member {what}")]
    MissingMember { what: &'static str },
    #[error("the archive has a second member {what}: {member:?}")]
    RepeatedMember { what: &'static str, member: String },
    #[error("invalid metadata.json")]
    Metadata {
        #[source]
        source: serde_json::Error,
    },
    #[error("unsupported format version {found}; version 2 is supported")]
    FormatVersion { found: u64 },
    #[error("cannot decompress {member}")]
    Decompress {
        member: String,
        #[source]
        source: io::Error,
    },
    #[error("invalid tar in {member} at byte {at}: {problem}")]
    Tar {
        member: String,
        /// Offset in the decompressed tar.
        at: u64,
        problem: &'static str,
    },
    #[error("{member}: {entry:?} {problem}")]
    Entry {
        member: String,
        entry: String,
        problem: EntryProblem,
    },
    #[error("{member}: more than {limit} {what}")]
    Limit {
        member: String,
        what: LimitKind,
        limit: u64,
    },
    /// Every package has `info/index.json` as a regular file.
    #[error("the archive has no info/index.json")]
    NoIndex,
    #[error("no space left to write {}", path.display())]
    Full {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ArchiveError {
    /// The error of a failed write: [`Full`](Self::Full) or [`Write`](Self::Write).
    pub(super) fn write(path: PathBuf, source: io::Error) -> Self {
        if is_full(&source) {
            Self::Full { path, source }
        } else {
            Self::Write { path, source }
        }
    }
}

/// Whether the disk or the quota is exhausted.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What is wrong with one entry of a tar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryProblem {
    #[error("has an empty path")]
    EmptyPath,
    #[error("has an absolute path")]
    AbsolutePath,
    #[error("has a path that contains `..`")]
    ParentPath,
    #[error("has a path that contains a NUL byte")]
    NulPath,
    #[error("has a path component of more than 255 bytes")]
    LongComponent,
    #[error("is below {0:?}, which is a symbolic link of the archive")]
    BelowSymlink(String),
    #[error("is below {0:?}, which is not a directory")]
    BelowFile(String),
    #[error("would replace a directory that is not empty")]
    ReplacesDirectory,
    #[error("is {0}, which packages must not contain")]
    Kind(&'static str),
    #[error("has the unknown entry type {0:?}")]
    UnknownKind(char),
    #[error("is a link with an invalid target")]
    LinkTarget,
    #[error("is a hard link to {0:?}, which the archive does not contain")]
    HardLinkTarget(String),
    #[error("has an inconsistent sparse map")]
    SparseMap,
}

/// Which of the [`ExtractLimits`](super::ExtractLimits) was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitKind {
    #[error("archive bytes")]
    ArchiveBytes,
    #[error("extracted bytes")]
    ExtractedBytes,
    #[error("extracted bytes per archive byte")]
    Ratio,
    #[error("entries")]
    Entries,
    #[error("bytes in a path")]
    PathBytes,
    #[error("directories in a path")]
    PathDepth,
    #[error("bytes in a header")]
    HeaderBytes,
    #[error("parts of a sparse file")]
    SparseParts,
    #[error("bytes of hard links to later entries")]
    DeferredLinks,
}
