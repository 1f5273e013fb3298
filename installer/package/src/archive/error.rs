use std::io;
use std::path::PathBuf;

use super::extract::ArchiveFormat;

/// Why an archive was not extracted.
///
/// `member` is the zip member, or `tar.bz2`; `entry` the path inside its tar, as the archive
/// spells it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The reader failed. Whoever feeds it knows what that means.
    #[error("the bytes of the archive could not be read")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error("the extraction was cancelled")]
    Cancelled,
    /// The thread that extracted is gone without an answer: it panicked, or its runtime ended.
    #[error("the extraction ended without an answer")]
    Lost,
    #[error("this is not a {format} archive: it starts with \"{start}\"")]
    NotAnArchive {
        format: ArchiveFormat,
        start: String,
    },
    #[error("the archive is cut short in {within}")]
    Truncated { within: String },
    #[error("the zip is broken at byte {at}: {problem}")]
    Zip { at: u64, problem: &'static str },
    #[error("the zip's central directory cannot be used")]
    CentralDirectory {
        #[source]
        source: zip::result::ZipError,
    },
    /// CEP 35 wants members stored.
    #[error("member {member:?} is compressed (method {method}), members of a .conda are stored")]
    CompressedMember { member: String, method: u16 },
    #[error("member {member:?} is encrypted")]
    EncryptedMember { member: String },
    #[error("the checksum (crc32) of member {member:?} is wrong")]
    Checksum { member: String },
    #[error("the archive has no member {what}")]
    MissingMember { what: &'static str },
    #[error("the archive has a second member {what}: {member:?}")]
    RepeatedMember { what: &'static str, member: String },
    #[error("metadata.json of the archive cannot be understood")]
    Metadata {
        #[source]
        source: serde_json::Error,
    },
    #[error("the archive is of format version {found}, this program reads version 2")]
    FormatVersion { found: u64 },
    #[error("{member} cannot be decompressed")]
    Decompress {
        member: String,
        #[source]
        source: io::Error,
    },
    #[error("the tar in {member} is broken at byte {at}: {problem}")]
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
    /// A package without `info/index.json` as a plain file is none.
    #[error("the archive holds no info/index.json")]
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
    /// A failed write, sorted into [`Full`](Self::Full) and [`Write`](Self::Write).
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
    #[error("lies below {0:?}, which the archive made a symbolic link")]
    BelowSymlink(String),
    #[error("lies below {0:?}, which is not a directory")]
    BelowFile(String),
    #[error("would replace a directory that is not empty")]
    ReplacesDirectory,
    #[error("is {0}, which a package may not contain")]
    Kind(&'static str),
    #[error("is of the unknown entry type {0:?}")]
    UnknownKind(char),
    #[error("is a link without a target, or with a NUL byte in it")]
    LinkTarget,
    #[error("is a hard link to {0:?}, which the archive does not hold")]
    HardLinkTarget(String),
    #[error("has a sparse map that contradicts itself")]
    SparseMap,
}

/// Which of the [`ExtractLimits`](super::ExtractLimits) was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitKind {
    #[error("bytes of archive")]
    ArchiveBytes,
    #[error("bytes when unpacked")]
    UnpackedBytes,
    #[error("bytes unpacked for each byte of archive")]
    Ratio,
    #[error("entries")]
    Entries,
    #[error("bytes in a path")]
    PathBytes,
    #[error("directories in a path")]
    PathDepth,
    #[error("bytes in an extended header")]
    HeaderBytes,
    #[error("parts of a sparse file")]
    SparseParts,
    #[error("bytes of hard links to later entries")]
    DeferredLinks,
}
