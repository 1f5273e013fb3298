//! The indexes of a whole channel.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use rattler_conda_types::{PackageName, RepoDataRecord};
use serde_json::{Map, Value};
use taipan_transfer::Engine;
use url::Url;

use crate::{
    index::RepodataIndex,
    mirrored_channel::MirroredChannel,
    repodata::{
        RepodataCache, RepodataError, RepodataOptions, RepodataStatus, SubdirIndex, fetch_index,
    },
};

/// The indexes of one channel.
#[derive(Debug, Clone)]
pub struct ChannelIndexes {
    /// What the user calls it, e.g. `conda-forge`; what `conda-forge::numpy` is compared with.
    pub name: String,
    /// Its canonical URL, not a mirror's.
    pub url: Url,
    /// One for each subdir, e.g. `linux-64` and `noarch`.
    pub indexes: Vec<RepodataIndex>,
}

impl ChannelIndexes {
    /// Whether a record is listed under this name.
    pub fn contains(&self, name: &PackageName) -> bool {
        self.indexes.iter().any(|index| index.contains(name))
    }

    /// All fields that the channel publishes of a record, including those that
    /// [`RepoDataRecord`] drops. `None` if the record is not one of this channel.
    pub fn published_fields(&self, record: &RepoDataRecord) -> Option<Map<String, Value>> {
        // The archives may be elsewhere (CEP 15).
        let is_below = record.url.as_str().starts_with(self.url.as_str());
        let package = &record.package_record;
        let file = record.identifier.to_file_name();
        self.indexes
            .iter()
            .filter(|index| index.subdir() == package.subdir)
            .filter(|index| is_below || index.has_channel_of(record))
            .find_map(|index| index.fields(&package.name, &file))
    }
}

/// Fetches the indexes of channels at once: for each channel, one per subdir.
///
/// # Errors
///
/// The first [`RepodataError`] of any index; [`RepodataError::NoSubdir`] when a channel has none of
/// the subdirs.
pub async fn fetch_channels(
    engine: &Engine,
    channels: &[MirroredChannel],
    subdirs: &BTreeSet<String>,
    cache: &RepodataCache,
    options: RepodataOptions,
) -> Result<Vec<Vec<SubdirIndex>>, RepodataError> {
    let fetches = channels
        .iter()
        .map(|MirroredChannel { channel, mirrors }| async move {
            let requests = subdirs
                .iter()
                .map(|subdir| fetch_index(engine, mirrors, channel, subdir, cache, options));
            let fetched = try_join_all(requests).await?;
            let is_absent = |subdir: &SubdirIndex| matches!(subdir.status, RepodataStatus::Absent);
            if fetched.iter().all(is_absent) {
                let subdirs = subdirs.iter().map(|subdir| format!("{channel}/{subdir}"));
                return Err(RepodataError::NoSubdir {
                    channel: channel.to_string(),
                    subdirs: subdirs.collect(),
                });
            }
            Ok(fetched)
        });
    try_join_all(fetches).await
}
