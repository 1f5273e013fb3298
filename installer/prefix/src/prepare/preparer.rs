//! Brings the packages of a solution into the store.

use std::{path::PathBuf, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rattler_conda_types::RepoDataRecord;
use taipan_channel::{Channel, MirroredChannel, package_target};
use taipan_package::{ArchiveFormat, Begin, ExtractLimits, Store, StoreKey};
use taipan_transfer::{Attempt, Engine, HttpClient, Job, MirrorSet};

use super::{error::PrepareError, partial_dir, sink::ExtractSink};

/// A package that is in the store.
#[derive(Debug)]
pub struct Prepared {
    /// Its record.
    pub record: RepoDataRecord,
    /// The extracted tree.
    pub dir: PathBuf,
    /// Its download; `None` when it was in the store already.
    pub fetched: Option<FetchedPackage>,
}

/// The download of a package.
#[derive(Debug)]
pub struct FetchedPackage {
    /// The length of the archive in bytes.
    pub bytes: u64,
    /// The printable URL that the archive, or the last part of it, came from.
    pub url: String,
    /// The failed attempts.
    pub attempts: Vec<Attempt>,
}

/// Brings packages into a store.
#[derive(Debug)]
pub struct Preparer {
    /// Fetches the archives.
    pub engine: Engine,
    /// Where packages are extracted to.
    pub store: Arc<Store>,
    /// The channels that records may come from.
    pub channels: Vec<MirroredChannel>,
    /// For archives outside of all channels: a record may have a URL of its own (CEP 15).
    pub client: HttpClient,
    /// The directory of partials, in which large archives grow until they are extracted. Partials
    /// survive a failure and the death of the process, so that the next run resumes them. The
    /// directory is created when it is needed.
    pub partial_dir: PathBuf,
    /// Limits of what an archive may extract to.
    pub limits: ExtractLimits,
    /// How many packages are prepared at a time.
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

    /// Brings all packages into the store and returns them in the order of `records`. A package that
    /// is not there is fetched, and extracted while it arrives.
    ///
    /// The first failure ends it. What is complete by then stays in the store; of the rest, nothing
    /// but partials is left. The same holds when the future is dropped.
    pub async fn prepare(
        &self,
        records: Vec<RepoDataRecord>,
    ) -> Result<Vec<Prepared>, PrepareError> {
        if !records.is_empty() {
            let dir = self.partial_dir.clone();
            let opened = tokio::task::spawn_blocking(move || partial_dir::open(&dir)).await;
            // Without the directory a small archive works, and a large one fails with the reason.
            if let Ok(Err(error)) = opened {
                tracing::debug!(%error, dir = %self.partial_dir.display(), "cannot use the directory of partials");
            }
        }
        let mut order: Vec<(usize, RepoDataRecord)> = records.into_iter().enumerate().collect();
        // The largest first, so that the last one to end is a small one.
        order.sort_by_key(|(_, record)| std::cmp::Reverse(record.package_record.size));
        let mut prepared: Vec<(usize, Prepared)> = stream::iter(order)
            .map(|(place, record)| async move { Ok((place, self.prepare_one(record).await?)) })
            .buffer_unordered(self.jobs.max(1))
            .try_collect()
            .await?;
        prepared.sort_by_key(|(place, _)| *place);
        Ok(prepared.into_iter().map(|(_, prepared)| prepared).collect())
    }

    async fn prepare_one(&self, record: RepoDataRecord) -> Result<Prepared, PrepareError> {
        let file = record.identifier.to_file_name();
        let format = ArchiveFormat::from_file_name(&file).ok_or_else(|| PrepareError::Archive {
            url: record.url.clone().into(),
        })?;
        let key = store_key(&record)?;
        // This precedes the engine's slot: another process may hold the key for a while.
        let begun = self.store.begin_when_free(key).await;
        let pending = match begun {
            Ok(Begin::Present(entry)) => {
                let dir = entry.dir().to_owned();
                return Ok(Prepared {
                    record,
                    dir,
                    fetched: None,
                });
            }
            Ok(Begin::Build(pending)) => pending,
            Err(source) => return Err(PrepareError::Store { file, source }),
        };
        let (mirrors, path) = self.locate(&record)?;
        let (target, expected) = package_target(&record, &path);
        let job = Job::content(file.clone(), target, expected);
        let mut sink = ExtractSink::new(
            Arc::clone(&self.store),
            key,
            pending,
            format,
            self.limits.clone(),
            record.clone(),
        );
        let spool = self.partial_dir.join(format!("{key}.part"));
        let fetched = self
            .engine
            .fetch_spooled(&mirrors, &job, &spool, &mut sink)
            .await;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(source) => {
                // Nothing is left when the error is returned.
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
    fn locate(&self, record: &RepoDataRecord) -> Result<(MirrorSet, String), PrepareError> {
        for MirroredChannel { channel, mirrors } in &self.channels {
            if let Some(path) = channel.path_of(&record.url) {
                return Ok((mirrors.clone(), path));
            }
        }
        // A channel of one: the directory that holds the archive.
        let bad = || PrepareError::Url {
            url: record.url.clone().into(),
        };
        let parent = record.url.join(".").map_err(|_| bad())?;
        let directory = std::path::Path::new("/");
        let channel = Channel::parse(parent.as_str(), &parent, directory).map_err(|_| bad())?;
        let path = channel.path_of(&record.url).ok_or_else(bad)?;
        let mirrors = MirrorSet::of_url(channel.base().as_str(), &self.client).ok_or_else(bad)?;
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
            url: record.url.clone().into(),
        }),
    }
}
