//! Fetches the repodata of a subdir, and keeps it for the next time.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use taipan_transfer::{Attempt, Engine, FetchError, Job, MirrorSet, Sha256, Target, Validators};

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

    fn place(&self, channel: &Channel, subdir: &str) -> PathBuf {
        let url = channel.subdir_url(subdir);
        let digest = Sha256::of(url.as_str().as_bytes()).to_string();
        // Readable for a person who looks, unique for us.
        let name: String = channel
            .name()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .rev()
            .take(40)
            .collect();
        let name: String = name.chars().rev().collect();
        self.root.join(format!("{name}-{subdir}-{}", &digest[..16]))
    }

    /// What is cached, when it is whole. Whatever is wrong with it, it is as good as absent.
    fn read(&self, place: &Path) -> Option<Cached> {
        let state: State =
            serde_json::from_slice(&std::fs::read(place.join("state.json")).ok()?).ok()?;
        if state.version != STATE_VERSION {
            return None;
        }
        let text = std::fs::read(place.join("repodata.json")).ok()?;
        (Sha256::of(&text).to_string() == state.sha256).then_some(Cached { text, state })
    }

    fn write(&self, place: &Path, text: &[u8], state: &State) -> Result<(), RepodataError> {
        let put = |path: PathBuf, bytes: &[u8]| {
            let write = || -> io::Result<()> {
                let mut file = tempfile::NamedTempFile::new_in(place)?;
                io::Write::write_all(&mut file, bytes)?;
                file.persist(&path)?;
                Ok(())
            };
            write().map_err(|source| RepodataError::Cache {
                path: path.clone(),
                source,
            })
        };
        std::fs::create_dir_all(place).map_err(|source| RepodataError::Cache {
            path: place.to_owned(),
            source,
        })?;
        // The text first: a state without its text is noticed by the digest.
        put(place.join("repodata.json"), text)?;
        let state = serde_json::to_vec_pretty(state).expect("strings and numbers are JSON");
        put(place.join("state.json"), &state)
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
    let place = cache.place(channel, subdir);
    let url = channel.subdir_url(subdir);
    let canonical = channel.canonical();
    let read = {
        let (cache, place) = (cache.clone(), place.clone());
        tokio::task::spawn_blocking(move || cache.read(&place)).await
    };
    let mut cached = read.ok().flatten();
    let parse = |text: Vec<u8>| Index::from_json(text, &canonical, &url, options.index);

    let mut failure: Option<FetchError> = None;
    let mut attempts = Vec::new();
    let mut forms = vec![Encoding::Json, Encoding::Zst];
    while let Some(encoding) = forms.pop() {
        let file = encoding.file_name();
        let mut target = Target::path(format!("{subdir}/{file}"));
        if let Some(oci) = metadata_target(subdir, file) {
            target = target.with_oci(oci);
        }
        let mut job = Job::metadata(format!("{}/{subdir}/{file}", channel.name()), target);
        job.validators = validators(cached.as_ref(), encoding);
        let mut sink = RepodataSink::new(
            encoding,
            canonical.clone(),
            url.clone(),
            options.text_limit,
            options.index,
        );
        let fetched = match engine.fetch(mirrors, &job, &mut sink).await {
            Ok(fetched) => fetched,
            Err(error) => {
                if !error.is_answered() {
                    forms.clear();
                }
                // The worst of the failures is the one to tell: that nobody has the other form
                // says little.
                if failure.as_ref().is_none_or(FetchError::is_absent) {
                    failure = Some(error);
                }
                continue;
            }
        };
        attempts.extend(fetched.attempts);
        let (index, freshness) = match sink.into_index() {
            Some(index) => {
                let state = State {
                    version: STATE_VERSION,
                    encoding,
                    sha256: Sha256::of(index.text().as_bytes()).to_string(),
                    url: fetched.url.clone(),
                    etag: fetched.validators.etag,
                    last_modified: fetched.validators.last_modified,
                };
                let (cache, kept) = (cache.clone(), index.clone());
                let write = move || cache.write(&place, kept.text().as_bytes(), &state);
                if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
                    // A full disk is found out soon enough, by something that cannot do without.
                    tracing::warn!(%error, "repodata is not kept for the next time");
                }
                (index, Freshness::Fetched)
            }
            // Nothing came because nothing has changed.
            None => match cached.take().map(|cached| parse(cached.text)) {
                Some(Ok(index)) => (index, Freshness::Unchanged),
                // What is cached is of no use after all: ask again without mentioning it.
                _ => {
                    forms.push(encoding);
                    continue;
                }
            },
        };
        let subdir = subdir.to_owned();
        return Ok(SubdirIndex {
            subdir,
            index,
            freshness,
            url: fetched.url,
            attempts,
        });
    }

    let error = failure.expect("both forms were tried and neither came");
    let (subdir, channel) = (subdir.to_owned(), channel.to_string());
    if error.is_absent() {
        let index = Index::empty(&canonical, &url);
        let freshness = Freshness::Absent;
        return Ok(SubdirIndex {
            subdir,
            index,
            freshness,
            url: String::new(),
            attempts,
        });
    }
    // Whoever may not read the channel any more is not to go on with what is left of it here.
    let cached = cached.filter(|_| !error.is_denied());
    match cached.map(|cached| (parse(cached.text), cached.state.url)) {
        Some((Ok(index), from)) => {
            let freshness = Freshness::Stale(error);
            Ok(SubdirIndex {
                subdir,
                index,
                freshness,
                url: from,
                attempts,
            })
        }
        _ => Err(RepodataError::Fetch {
            channel,
            subdir,
            source: error,
        }),
    }
}

fn validators(cached: Option<&Cached>, encoding: Encoding) -> BTreeMap<String, Validators> {
    let Some(Cached { state, .. }) = cached else {
        return BTreeMap::new();
    };
    if state.encoding != encoding {
        return BTreeMap::new();
    }
    let validators = Validators {
        etag: state.etag.clone(),
        last_modified: state.last_modified.clone(),
    };
    BTreeMap::from([(state.url.clone(), validators)])
}
