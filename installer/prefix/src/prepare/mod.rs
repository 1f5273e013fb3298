//! Brings the packages of a solution into the store: what is there already is taken, the rest is
//! fetched and unpacked while it arrives.

mod sink;
mod spool;

use std::{path::PathBuf, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rattler_conda_types::RepoDataRecord;
use taipan_channel::{Channel, package_target};
use taipan_package::{ArchiveFormat, Begin, ExtractLimits, Store, StoreError, StoreKey};
use taipan_transfer::{Attempt, Engine, FetchError, HttpClient, Job, MirrorSet};
use url::Url;

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
    /// What places that belong to no channel are fetched with: a record may name a URL of its own
    /// (CEP 15).
    pub client: HttpClient,
    /// Where what has arrived early of a large archive lies until the archive is unpacked. It
    /// survives a failure and the death of the process, so that the next run goes on from there.
    /// Made when it is needed.
    pub spool_dir: PathBuf,
    /// Bounds on what an archive may unpack to.
    pub limits: ExtractLimits,
    /// How many packages are under way at a time.
    pub jobs: usize,
}

impl Preparer {
    /// Which of the records are not in the store yet, and how many bytes they are together.
    /// Records without a size count as nothing.
    pub fn missing(&self, records: &[RepoDataRecord]) -> (usize, u64) {
        let missing = records.iter().filter(|record| {
            let key = store_key(record).ok();
            !key.is_some_and(|key| matches!(self.store.get(&key), Ok(Some(_))))
        });
        missing.fold((0, 0), |(count, bytes), record| {
            (count + 1, bytes + record.package_record.size.unwrap_or(0))
        })
    }

    /// Brings all of them into the store; they come back in the order in which they were given.
    /// The first failure ends it: what is complete by then stays in the store, what is not leaves
    /// no trace. So does dropping the future.
    pub async fn prepare(
        &self,
        records: Vec<RepoDataRecord>,
    ) -> Result<Vec<Prepared>, PrepareError> {
        if !records.is_empty() {
            let dir = self.spool_dir.clone();
            let opened = tokio::task::spawn_blocking(move || spool::open(&dir)).await;
            // Where it cannot be made a large archive fails, with the reason, and a small one works.
            if let Ok(Err(error)) = opened {
                tracing::debug!(%error, dir = %self.spool_dir.display(), "no place for partial archives");
            }
        }
        let mut order: Vec<(usize, RepoDataRecord)> = records.into_iter().enumerate().collect();
        // The longest first, so that no long one is left for the end, alone.
        order.sort_by_key(|(_, record)| std::cmp::Reverse(record.package_record.size));
        let mut prepared: Vec<(usize, Prepared)> = stream::iter(order)
            .map(|(place, record)| async move { Ok((place, self.one(record).await?)) })
            .buffer_unordered(self.jobs.max(1))
            .try_collect()
            .await?;
        prepared.sort_by_key(|(place, _)| *place);
        Ok(prepared.into_iter().map(|(_, prepared)| prepared).collect())
    }

    async fn one(&self, record: RepoDataRecord) -> Result<Prepared, PrepareError> {
        let file = record.identifier.to_file_name();
        let format = ArchiveFormat::from_file_name(&file).ok_or_else(|| PrepareError::Archive {
            url: record.url.clone(),
        })?;
        let key = store_key(&record)?;
        // Before a slot of the engine is taken: another process may be at it for a while.
        let begun = self.store.begin_when_free(key).await;
        let extraction = match begun {
            Ok(Begin::Present(entry)) => {
                let dir = entry.dir().to_owned();
                return Ok(Prepared {
                    record,
                    dir,
                    fetched: None,
                });
            }
            Ok(Begin::Build(extraction)) => extraction,
            Err(source) => return Err(PrepareError::Store { file, source }),
        };
        let (mirrors, path) = self.place(&record)?;
        let (target, expected) = package_target(&record, &path);
        let job = Job::content(file.clone(), target, expected);
        let mut sink = ExtractSink::new(
            Arc::clone(&self.store),
            key,
            extraction,
            format,
            self.limits.clone(),
            record.clone(),
        );
        let spool = self.spool_dir.join(format!("{key}.part"));
        let fetched = self
            .engine
            .fetch_spooled(&mirrors, &job, &spool, &mut sink)
            .await;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(source) => {
                // So that nothing is left when the error is told.
                sink.abort().await;
                return Err(PrepareError::Fetch { file, source });
            }
        };
        let entry = sink
            .into_entry()
            .expect("a sink that has finished has its entry");
        let fetched = FetchedPackage {
            bytes: fetched.file.map_or(0, |(_, bytes)| bytes),
            url: fetched.url,
            attempts: fetched.attempts,
        };
        Ok(Prepared {
            record,
            dir: entry.dir().to_owned(),
            fetched: Some(fetched),
        })
    }

    /// The mirrors that have a record's archive, and its path below them.
    fn place(&self, record: &RepoDataRecord) -> Result<(MirrorSet, String), PrepareError> {
        for ChannelMirrors { channel, mirrors } in &self.channels {
            if let Some(path) = channel.path_of(&record.url) {
                return Ok((mirrors.clone(), path));
            }
        }
        // A channel of one: the directory that holds the archive.
        let bad = || PrepareError::Url {
            url: record.url.clone(),
        };
        let parent = record.url.join(".").map_err(|_| bad())?;
        let directory = std::path::Path::new("/");
        let channel = Channel::parse(parent.as_str(), &parent, directory).map_err(|_| bad())?;
        let path = channel.path_of(&record.url).ok_or_else(bad)?;
        let mirrors = MirrorSet::of_url(parent.as_str(), &self.client).ok_or_else(bad)?;
        Ok((mirrors, path))
    }
}

fn store_key(record: &RepoDataRecord) -> Result<StoreKey, PrepareError> {
    let package = &record.package_record;
    match (package.sha256, package.md5, package.size) {
        (Some(sha256), _, _) => Ok(StoreKey::Sha256(sha256.into())),
        (None, Some(md5), Some(size)) => Ok(StoreKey::Md5 {
            md5: md5.into(),
            size,
        }),
        _ => Err(PrepareError::NoDigest {
            url: record.url.clone(),
        }),
    }
}
