//! Fetches the repodata of a subdir, and keeps it for the next time.

use std::{collections::BTreeMap, io, path::PathBuf};

use serde::{Deserialize, Serialize};
use taipan_transfer::{
    Attempt, Engine, FetchError, Fetched, Job, MirrorSet, Sha256, Target, Validators,
};

use crate::{
    Channel, Index, IndexLimits,
    oci_layout::metadata_target,
    repodata_sink::{Encoding, RepodataSink},
};

/// Bounds and choices for fetching repodata.
#[derive(Debug, Clone, Copy)]
pub struct RepodataOptions {
    /// The longest text of one subdir's repodata, decoded, in bytes.
    pub text_limit: usize,
    /// Bounds on its records.
    pub index: IndexLimits,
}

impl Default for RepodataOptions {
    fn default() -> Self {
        // conda-forge's largest subdir is below half a gigabyte.
        Self {
            text_limit: 2 << 30,
            index: IndexLimits::default(),
        }
    }
}

/// Why there is no repodata.
#[derive(Debug, thiserror::Error)]
pub enum RepodataError {
    /// No mirror could give it.
    #[error("the repodata of {channel}/{subdir} cannot be had")]
    Fetch {
        /// The channel.
        channel: String,
        /// The subdir.
        subdir: String,
        /// Every attempt.
        source: FetchError,
    },
    /// The cache cannot be read or written.
    #[error("cannot use the repodata cache at {}", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where the records of a [`SubdirIndex`] come from.
#[derive(Debug)]
pub enum Freshness {
    /// A mirror gave them now.
    Fetched,
    /// A mirror said that the cached ones have not changed.
    Unchanged,
    /// No mirror has this subdir, and so it has no records.
    Absent,
    /// No mirror answered, and so these are the cached ones, as old as they may be.
    Stale(FetchError),
}

/// The records of one subdir.
#[derive(Debug)]
pub struct SubdirIndex {
    /// The subdir, e.g. `linux-64`.
    pub subdir: String,
    /// Its records.
    pub index: Index,
    /// Where they come from.
    pub freshness: Freshness,
    /// The printable URL that gave them; empty when none did.
    pub url: String,
    /// What went wrong on the way.
    pub attempts: Vec<Attempt>,
}

/// What is kept beside the cached text.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    encoding: Encoding,
    /// Guards against a text that belongs to another state, or was damaged.
    sha256: String,
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
}

/// The version of [`State`]; another one is as good as no cache.
const STATE_VERSION: u32 = 1;

/// A directory that keeps repodata between runs.
#[derive(Debug, Clone)]
pub struct RepodataCache {
    root: PathBuf,
}

/// One cached text with its state.
struct Cached {
    text: Vec<u8>,
    state: State,
}

impl RepodataCache {
    /// The cache at `root`, which is made when something is to be kept.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn slot(&self, channel: &Channel, subdir: &str) -> Slot {
        let url = channel.subdir_url(subdir);
        let digest = Sha256::of(url.as_str().as_bytes()).to_string();
        // Readable for a person who looks, unique for us.
        let readable = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: Vec<char> = channel.name().chars().map(readable).collect();
        let name: String = name[name.len().saturating_sub(40)..].iter().collect();
        let dir = self.root.join(format!("{name}-{subdir}-{}", &digest[..16]));
        Slot { dir }
    }
}

/// The directory of one subdir in the cache.
#[derive(Debug, Clone)]
struct Slot {
    dir: PathBuf,
}

impl Slot {
    /// What is cached, when it is whole. Whatever is wrong with it, it is as good as absent.
    fn read(&self) -> Option<Cached> {
        let state = std::fs::read(self.dir.join("state.json")).ok()?;
        let state: State = serde_json::from_slice(&state).ok()?;
        if state.version != STATE_VERSION {
            return None;
        }
        let text = std::fs::read(self.dir.join("repodata.json")).ok()?;
        (Sha256::of(&text).to_string() == state.sha256).then_some(Cached { text, state })
    }

    fn write(&self, text: &[u8], state: &State) -> Result<(), RepodataError> {
        let put = |name: &str, bytes: &[u8]| {
            let path = self.dir.join(name);
            let write = || -> io::Result<()> {
                let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
                io::Write::write_all(&mut file, bytes)?;
                file.persist(&path)?;
                Ok(())
            };
            write().map_err(|source| RepodataError::Cache {
                path: path.clone(),
                source,
            })
        };
        std::fs::create_dir_all(&self.dir).map_err(|source| RepodataError::Cache {
            path: self.dir.clone(),
            source,
        })?;
        // The text first: a state without its text is noticed by the digest.
        put("repodata.json", text)?;
        let state = serde_json::to_vec_pretty(state).expect("strings and numbers are JSON");
        put("state.json", &state)
    }
}

/// The index of one subdir: fetched from whichever mirror gives it, or from the cache when a
/// mirror says that it is unchanged. A subdir that no mirror has is empty.
pub async fn fetch_index(
    engine: &Engine,
    mirrors: &MirrorSet,
    channel: &Channel,
    subdir: &str,
    cache: &RepodataCache,
    options: RepodataOptions,
) -> Result<SubdirIndex, RepodataError> {
    let slot = cache.slot(channel, subdir);
    let cached = {
        let slot = slot.clone();
        tokio::task::spawn_blocking(move || slot.read()).await
    };
    let fetch = Fetch {
        engine,
        mirrors,
        channel,
        subdir,
        slot,
        options,
    };
    fetch.run(cached.ok().flatten()).await
}

/// What one fetch is about.
struct Fetch<'a> {
    engine: &'a Engine,
    mirrors: &'a MirrorSet,
    channel: &'a Channel,
    subdir: &'a str,
    slot: Slot,
    options: RepodataOptions,
}

impl Fetch<'_> {
    async fn run(&self, mut cached: Option<Cached>) -> Result<SubdirIndex, RepodataError> {
        let mut failure: Option<FetchError> = None;
        let mut attempts = Vec::new();
        let mut forms = vec![Encoding::Json, Encoding::Zst];
        while let Some(encoding) = forms.pop() {
            let mut sink = RepodataSink::new(
                encoding,
                self.channel.canonical(),
                self.channel.subdir_url(self.subdir),
                self.options.text_limit,
                self.options.index,
            );
            let job = self.job(encoding, cached.as_ref());
            let fetched = match self.engine.fetch(self.mirrors, &job, &mut sink).await {
                Ok(fetched) => fetched,
                Err(error) => {
                    if !error.has_response() {
                        forms.clear();
                    }
                    // The worst of the failures is the one to tell: that nobody has the other
                    // form says little.
                    if failure.as_ref().is_none_or(FetchError::is_absent) {
                        failure = Some(error);
                    }
                    continue;
                }
            };
            let (index, freshness) = if let Some(index) = sink.into_index() {
                self.keep(&index, encoding, &fetched).await;
                (index, Freshness::Fetched)
            } else if let Some(index) = cached.take().and_then(|cached| self.parse(cached.text)) {
                // Nothing came because nothing has changed.
                (index, Freshness::Unchanged)
            } else {
                // What is cached is of no use after all: ask again without mentioning it.
                forms.push(encoding);
                continue;
            };
            attempts.extend(fetched.attempts);
            return Ok(self.found(index, freshness, fetched.url, attempts));
        }
        let error = failure.expect("both forms were tried and neither came");
        self.fall_back(error, cached, attempts)
    }

    fn job(&self, encoding: Encoding, cached: Option<&Cached>) -> Job {
        let (subdir, file) = (self.subdir, encoding.file_name());
        let mut target = Target::path(format!("{subdir}/{file}"));
        if let Some(oci) = metadata_target(subdir, file) {
            target = target.with_oci(oci);
        }
        let label = format!("{}/{subdir}/{file}", self.channel.name());
        let mut job = Job::metadata(label, target);
        if let Some(Cached { state, .. }) = cached
            && state.encoding == encoding
        {
            let validators = Validators {
                etag: state.etag.clone(),
                last_modified: state.last_modified.clone(),
            };
            job.validators = BTreeMap::from([(state.url.clone(), validators)]);
        }
        job
    }

    fn parse(&self, text: Vec<u8>) -> Option<Index> {
        let url = self.channel.subdir_url(self.subdir);
        Index::from_json(text, &self.channel.canonical(), &url, self.options.index).ok()
    }

    async fn keep(&self, index: &Index, encoding: Encoding, fetched: &Fetched) {
        let state = State {
            version: STATE_VERSION,
            encoding,
            sha256: Sha256::of(index.text().as_bytes()).to_string(),
            url: fetched.url.clone(),
            etag: fetched.validators.etag.clone(),
            last_modified: fetched.validators.last_modified.clone(),
        };
        let (slot, index) = (self.slot.clone(), index.clone());
        let write = move || slot.write(index.text().as_bytes(), &state);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            // A full disk is found out soon enough, by something that cannot do without.
            tracing::warn!(%error, "repodata is not kept for the next time");
        }
    }

    fn found(
        &self,
        index: Index,
        freshness: Freshness,
        url: String,
        attempts: Vec<Attempt>,
    ) -> SubdirIndex {
        SubdirIndex {
            subdir: self.subdir.to_owned(),
            index,
            freshness,
            url,
            attempts,
        }
    }

    /// No mirror gave it: there is none, or an old one is here, or the fetch has failed.
    fn fall_back(
        &self,
        error: FetchError,
        cached: Option<Cached>,
        attempts: Vec<Attempt>,
    ) -> Result<SubdirIndex, RepodataError> {
        if error.is_absent() {
            let url = self.channel.subdir_url(self.subdir);
            let index = Index::empty(&self.channel.canonical(), &url);
            return Ok(self.found(index, Freshness::Absent, String::new(), attempts));
        }
        // Whoever may not read the channel any more is not to go on with what is left of it here.
        if let Some(Cached { text, state }) = cached.filter(|_| !error.is_denied())
            && let Some(index) = self.parse(text)
        {
            return Ok(self.found(index, Freshness::Stale(error), state.url, attempts));
        }
        Err(RepodataError::Fetch {
            channel: self.channel.to_string(),
            subdir: self.subdir.to_owned(),
            source: error,
        })
    }
}
