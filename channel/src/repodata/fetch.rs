//! Fetches the index of a subdir from whichever mirror has it.

use taipan_transfer::{Attempt, Engine, FetchError, Fetched, Job, MirrorSet, Target};

use super::{
    cache::{CacheEntry, CachedRepodata, RepodataCache},
    error::RepodataError,
    options::RepodataOptions,
    sink::{Encoding, RepodataSink},
    subdir_index::{RepodataStatus, SubdirIndex},
};
use crate::{channel::Channel, index::RepodataIndex, oci_layout::metadata_target};

/// Fetches the index of one subdir. The cached copy is used when a mirror confirms that it is
/// current, and as the last resort when no mirror answers. A subdir that no mirror has is empty.
pub async fn fetch_index(
    engine: &Engine,
    mirrors: &MirrorSet,
    channel: &Channel,
    subdir: &str,
    cache: &RepodataCache,
    options: RepodataOptions,
) -> Result<SubdirIndex, RepodataError> {
    let entry = cache.entry(channel, subdir);
    let cached = {
        let entry = entry.clone();
        tokio::task::spawn_blocking(move || entry.read()).await
    };
    let fetch = RepodataFetch {
        engine,
        mirrors,
        channel,
        subdir,
        entry,
        options,
    };
    fetch.run(cached.ok().flatten()).await
}

struct RepodataFetch<'a> {
    engine: &'a Engine,
    mirrors: &'a MirrorSet,
    channel: &'a Channel,
    subdir: &'a str,
    entry: CacheEntry,
    options: RepodataOptions,
}

impl RepodataFetch<'_> {
    async fn run(&self, mut cached: Option<CachedRepodata>) -> Result<SubdirIndex, RepodataError> {
        let mut failure: Option<FetchError> = None;
        let mut encodings = vec![Encoding::Json, Encoding::Zst];
        while let Some(encoding) = encodings.pop() {
            let mut sink = self.sink(encoding);
            let job = self.job(encoding, cached.as_ref());
            let fetched = match self.engine.fetch(self.mirrors, &job, &mut sink).await {
                Ok(fetched) => fetched,
                Err(error) => {
                    // Servers that do not answer for one file do not answer for the other.
                    if !error.has_response() {
                        encodings.clear();
                    }
                    // That one encoding is absent says less than why the other one failed.
                    if failure.as_ref().is_none_or(FetchError::is_absent) {
                        failure = Some(error);
                    }
                    continue;
                }
            };
            let (index, status) = if let Some(index) = sink.into_index() {
                self.store(&index, encoding, &fetched).await;
                (index, RepodataStatus::Fetched)
            } else if let Some(index) = cached.take().and_then(|cached| self.parse(cached.text)) {
                (index, RepodataStatus::Unchanged)
            } else {
                // The cached text cannot be parsed any more, so it is fetched without validators.
                encodings.push(encoding);
                continue;
            };
            return Ok(self.found(index, status, fetched.url, fetched.attempts));
        }
        let error = failure.expect("both encodings were tried, and both failed");
        self.fall_back(error, cached)
    }

    fn sink(&self, encoding: Encoding) -> RepodataSink {
        RepodataSink::new(
            encoding,
            self.channel.canonical(),
            self.channel.subdir_url(self.subdir),
            self.options.text_limit,
            self.options.index,
        )
    }

    fn job(&self, encoding: Encoding, cached: Option<&CachedRepodata>) -> Job {
        let (subdir, file) = (self.subdir, encoding.file_name());
        let mut target = Target::path(format!("{subdir}/{file}"));
        if let Some(oci) = metadata_target(subdir, file) {
            target = target.with_oci(oci);
        }
        let label = format!("{}/{subdir}/{file}", self.channel.name());
        let mut job = Job::metadata(label, target);
        if let Some(cached) = cached {
            job.validators = cached.validators(encoding);
        }
        job
    }

    fn parse(&self, text: Vec<u8>) -> Option<RepodataIndex> {
        let url = self.channel.subdir_url(self.subdir);
        RepodataIndex::from_json(text, &self.channel.canonical(), &url, self.options.index).ok()
    }

    async fn store(&self, index: &RepodataIndex, encoding: Encoding, fetched: &Fetched) {
        let (entry, index) = (self.entry.clone(), index.clone());
        let (url, validators) = (fetched.url.clone(), fetched.validators.clone());
        let write = move || entry.write(index.text().as_bytes(), encoding, &url, &validators);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            // The cache is an aid. A full disk shows in what cannot do without it.
            tracing::warn!(%error, "cannot cache repodata");
        }
    }

    fn found(
        &self,
        index: RepodataIndex,
        status: RepodataStatus,
        url: String,
        attempts: Vec<Attempt>,
    ) -> SubdirIndex {
        SubdirIndex {
            subdir: self.subdir.to_owned(),
            index,
            status,
            url,
            attempts,
        }
    }

    /// All mirrors failed: the subdir does not exist, or the cached copy is used, or it is an error.
    fn fall_back(
        &self,
        error: FetchError,
        cached: Option<CachedRepodata>,
    ) -> Result<SubdirIndex, RepodataError> {
        if error.is_absent() {
            let url = self.channel.subdir_url(self.subdir);
            let index = RepodataIndex::empty(&self.channel.canonical(), &url);
            let status = RepodataStatus::Absent;
            return Ok(self.found(index, status, String::new(), Vec::new()));
        }
        // A user who may no longer read the channel must not go on with a copy of it.
        if let Some(cached) = cached.filter(|_| !error.is_denied()) {
            let url = cached.url().to_owned();
            if let Some(index) = self.parse(cached.text) {
                let status = RepodataStatus::Stale(error);
                return Ok(self.found(index, status, url, Vec::new()));
            }
        }
        Err(RepodataError::Fetch {
            channel: self.channel.to_string(),
            subdir: self.subdir.to_owned(),
            source: error,
        })
    }
}
