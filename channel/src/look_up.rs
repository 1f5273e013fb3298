//! Looks up package files in the repodata of the channels that may have them.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use rattler_conda_types::{RepoDataRecord, Subdir, package::DistArchiveIdentifier};
use taipan_transfer::{Engine, Expected, Target};

use crate::{
    mirrored_channel::MirroredChannel,
    package_target::package_target,
    repodata::{RepodataCache, RepodataError, RepodataOptions, SubdirIndex, fetch_index},
};

/// How many subdirs are fetched at a time.
const CONCURRENCY: usize = 4;

/// A package file that may be in one of several channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageQuery {
    /// Its path below the channel, e.g. `noarch/tzdata-2024a-h0c530f3_0.conda`.
    pub path: String,
    /// The channels, as indexes into the list of channels, the preferred first.
    pub channels: Vec<usize>,
}

/// A package file as the repodata of a channel describes it.
#[derive(Debug, Clone)]
pub struct FoundPackage {
    /// The channel, as an index into the list of channels.
    pub channel: usize,
    /// Where the file lies below the channel's mirrors.
    pub target: Target,
    /// Its size and digests.
    pub expected: Expected,
}

/// The result of [`look_up`].
#[derive(Debug)]
pub struct LookUp {
    /// For each query, in order, the file if it is listed.
    pub found: Vec<Option<FoundPackage>>,
    /// Why the repodata of a channel was not available.
    pub errors: Vec<RepodataError>,
}

/// Whether a path below a channel is that of a package: `SUBDIR/NAME-VERSION-BUILD.conda` or
/// `.tar.bz2`.
pub fn is_package_path(path: &str) -> bool {
    split(path).is_some()
}

/// Looks up each package in the channels of its query. A channel whose repodata is not available
/// is passed over, and its error is part of the result.
pub async fn look_up(
    engine: &Engine,
    channels: &[MirroredChannel],
    queries: &[PackageQuery],
    cache: &RepodataCache,
    options: RepodataOptions,
) -> LookUp {
    let mut subdirs = BTreeSet::new();
    for query in queries {
        if let Some((subdir, _)) = split(&query.path) {
            subdirs.extend(query.channels.iter().map(|&channel| (channel, subdir)));
        }
    }
    let requests = subdirs.into_iter().map(|(index, subdir)| async move {
        let MirroredChannel { channel, mirrors } = &channels[index];
        let fetched = fetch_index(engine, mirrors, channel, subdir, cache, options).await;
        ((index, subdir), fetched)
    });
    let fetched: Vec<_> = stream::iter(requests)
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let mut indexes: BTreeMap<(usize, &str), SubdirIndex> = BTreeMap::new();
    let mut errors = Vec::new();
    for (place, result) in fetched {
        match result {
            Ok(index) => {
                indexes.insert(place, index);
            }
            Err(error) => errors.push(error),
        }
    }
    let find = |query: &PackageQuery| {
        let (subdir, file) = split(&query.path)?;
        query.channels.iter().find_map(|&channel| {
            let record: RepoDataRecord = indexes.get(&(channel, subdir))?.index.record(file)?;
            let (target, expected) = package_target(&record, &query.path);
            Some(FoundPackage {
                channel,
                target,
                expected,
            })
        })
    };
    LookUp {
        found: queries.iter().map(find).collect(),
        errors,
    }
}

/// The subdir and the file name of a package's path.
fn split(path: &str) -> Option<(&str, &str)> {
    let (subdir, file) = path.rsplit_once('/')?;
    let is_package = subdir.parse::<Subdir>().is_ok()
        && DistArchiveIdentifier::try_from_filename(file).is_some();
    is_package.then_some((subdir, file))
}
