//! Brings the packages of a solution into the store: what is there already is taken, the rest is
//! fetched and unpacked while it arrives.

mod sink;

use std::{path::PathBuf, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rattler_conda_types::RepoDataRecord;
use taipan_channel::{Channel, package_target};
use taipan_transfer::{Attempt, Engine, FetchError, Job, MirrorSet};
use url::Url;

use crate::{
    archive::{ArchiveFormat, ExtractLimits},
    store::{Begin, Store, StoreEntry, StoreError, StoreKey},
};
use sink::ExtractSink;

/// Why a package could not be brought into the store.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// No mirror could give it, or it could not be unpacked.
    #[error("cannot get the package {file}")]
    Fetch {
        /// The file name of its archive.
        file: String,
        /// Every attempt, or what is wrong with the archive.
        source: FetchError,
    },
    /// The store failed.
    #[error("cannot keep the package {file}")]
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
        url: Url,
    },
    /// The record's URL lies nowhere that we could ask.
    #[error("{url} is not a URL that packages can be fetched from")]
    Url {
        /// The URL in the record.
        url: Url,
    },
    /// The record states no digest by which its archive could be checked.
    #[error("the repodata states neither sha256 nor md5 of {url}, so it cannot be verified")]
    NoDigest {
        /// The URL in the record.
        url: Url,
    },
}

/// A package that is in the store.
#[derive(Debug)]
pub struct Prepared {
    /// Its record.
    pub record: RepoDataRecord,
    /// Where it is unpacked.
    pub dir: PathBuf,
    /// What it took; `None` when it was there already.
    pub fetched: Option<FetchedPackage>,
}

/// What a download took.
#[derive(Debug)]
pub struct FetchedPackage {
    /// The length of the archive in bytes.
    pub bytes: u64,
    /// The printable URL that gave it, or the last part of it.
    pub url: String,
    /// What went wrong before.
    pub attempts: Vec<Attempt>,
}

/// A channel with the mirrors that have its files.
#[derive(Debug, Clone)]
pub struct ChannelMirrors {
    /// The channel.
    pub channel: Channel,
    /// Where its files are asked for.
    pub mirrors: MirrorSet,
}

/// Brings packages into a store.
#[derive(Debug)]
pub struct Preparer {
    /// What fetches.
    pub engine: Engine,
    /// Where packages are kept.
    pub store: Arc<Store>,
    /// The channels that records may come from.
    pub channels: Vec<ChannelMirrors>,
    /// Makes a set of mirrors of a place that belongs to no channel: a record may name a URL of
    /// its own (CEP 15).
    pub elsewhere: fn(&Url, &reqwest::Client) -> Option<MirrorSet>,
    /// What such a set speaks HTTP with.
    pub client: reqwest::Client,
    /// Bounds on what an archive may unpack to.
    pub limits: ExtractLimits,
}
