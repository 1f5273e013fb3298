//! Why a package is not in the store.

use taipan_mirrors::SafeUrl;
use taipan_package::StoreError;
use taipan_transfer::FetchError;

/// Why a package could not be brought into the store.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It could not be fetched or extracted.
    #[error("cannot download and extract {file}")]
    Fetch {
        /// The file name of its archive.
        file: String,
        /// Every attempt, or what is wrong with the archive.
        source: FetchError,
    },
    /// The store failed.
    #[error("cannot add {file} to the package store")]
    Store {
        /// The file name of its archive.
        file: String,
        /// The cause.
        source: StoreError,
    },
    /// The record names a file that is not a conda package.
    #[error("{url} is neither a .conda nor a .tar.bz2 archive")]
    Archive {
        /// The URL in the record.
        url: SafeUrl,
    },
    /// The record's URL is not one that mirrors can have.
    #[error("packages cannot be fetched from {url}")]
    Url {
        /// The URL in the record.
        url: SafeUrl,
    },
    /// The record has no digest to verify the archive with.
    #[error("cannot verify {url}: its repodata record has neither sha256 nor md5")]
    NoDigest {
        /// The URL in the record.
        url: SafeUrl,
    },
}
