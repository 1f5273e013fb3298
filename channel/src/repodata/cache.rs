//! The cache of repodata: the decoded text of each subdir, with the validators of the mirror that it
//! came from.

use std::{collections::BTreeMap, io, path::PathBuf};

use serde::{Deserialize, Serialize};
use taipan_transfer::{Sha256, Validators};

use super::{error::RepodataError, sink::Encoding};
use crate::channel::Channel;

/// The version of [`State`]; a cache of another version is ignored.
const STATE_VERSION: u32 = 1;

/// What is kept beside the text.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    encoding: Encoding,
    /// Of the text. Guards against a text that belongs to another state, or is damaged.
    sha256: String,
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
}

/// A directory that keeps repodata between runs.
#[derive(Debug, Clone)]
pub struct RepodataCache {
    root: PathBuf,
}

impl RepodataCache {
    /// The cache at `root`, which is created when something is written.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn entry(&self, channel: &Channel, subdir: &str) -> CacheEntry {
        let url = channel.subdir_url(subdir);
        let digest = Sha256::of(url.as_str().as_bytes()).to_string();
        // The name is for people who look into the directory, the digest makes it unique.
        let readable = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: Vec<char> = channel.name().chars().map(readable).collect();
        let name: String = name[name.len().saturating_sub(40)..].iter().collect();
        let dir = self.root.join(format!("{name}-{subdir}-{}", &digest[..16]));
        CacheEntry { dir }
    }
}

/// The directory of one subdir in the cache.
#[derive(Debug, Clone)]
pub(super) struct CacheEntry {
    dir: PathBuf,
}

/// A cached text, and what is known of its origin.
#[derive(Debug)]
pub(super) struct CachedRepodata {
    pub(super) text: Vec<u8>,
    state: State,
}

impl CachedRepodata {
    /// The printable URL that it came from.
    pub(super) fn url(&self) -> &str {
        &self.state.url
    }

    /// What a mirror can be asked with whether the text has changed; empty for another encoding.
    pub(super) fn validators(&self, encoding: Encoding) -> BTreeMap<String, Validators> {
        let State {
            url,
            etag,
            last_modified,
            ..
        } = &self.state;
        if self.state.encoding != encoding {
            return BTreeMap::new();
        }
        let validators = Validators {
            etag: etag.clone(),
            last_modified: last_modified.clone(),
        };
        BTreeMap::from([(url.clone(), validators)])
    }
}

impl CacheEntry {
    /// The cached text, if it is complete. An entry that cannot be used counts as absent.
    pub(super) fn read(&self) -> Option<CachedRepodata> {
        let state = std::fs::read(self.dir.join("state.json")).ok()?;
        let state: State = serde_json::from_slice(&state).ok()?;
        if state.version != STATE_VERSION {
            return None;
        }
        let text = std::fs::read(self.dir.join("repodata.json")).ok()?;
        (Sha256::of(&text).to_string() == state.sha256).then_some(CachedRepodata { text, state })
    }

    /// Replaces what is cached. `url` and `validators` are those of the mirror that sent the text.
    pub(super) fn write(
        &self,
        text: &[u8],
        encoding: Encoding,
        url: &str,
        validators: &Validators,
    ) -> Result<(), RepodataError> {
        let state = State {
            version: STATE_VERSION,
            encoding,
            sha256: Sha256::of(text).to_string(),
            url: url.to_owned(),
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
        };
        let state = serde_json::to_vec_pretty(&state).expect("strings and numbers are JSON");
        std::fs::create_dir_all(&self.dir).map_err(|source| RepodataError::Cache {
            path: self.dir.clone(),
            source,
        })?;
        // The text comes first: a state without its text is recognised by the digest.
        self.replace("repodata.json", text)?;
        self.replace("state.json", &state)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), RepodataError> {
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
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn entry(root: &Path) -> CacheEntry {
        let alias = "https://conda.example".parse().unwrap();
        let channel = Channel::parse("main", &alias, Path::new("/")).unwrap();
        RepodataCache::new(root).entry(&channel, "noarch")
    }

    const URL: &str = "https://mirror.example/noarch/repodata.json.zst";

    fn validators() -> Validators {
        Validators {
            etag: Some("\"1\"".to_owned()),
            last_modified: None,
        }
    }

    #[test]
    fn a_text_comes_back_with_the_validators_of_its_encoding() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(dir.path());
        assert!(entry.read().is_none());
        let text = b"{}";
        let written = entry.write(text, Encoding::Zst, URL, &validators());
        written.unwrap();
        let cached = entry.read().unwrap();
        assert_eq!(cached.text, b"{}");
        assert_eq!(cached.url(), URL);
        assert_eq!(cached.validators(Encoding::Zst)[URL], validators());
        assert!(cached.validators(Encoding::Json).is_empty());
    }

    #[test]
    fn a_damaged_entry_and_one_of_another_version_are_absent() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(dir.path());
        let write = || {
            let written = entry.write(b"{}", Encoding::Json, URL, &validators());
            written.unwrap();
        };
        write();
        std::fs::write(entry.dir.join("repodata.json"), "{").unwrap();
        assert!(entry.read().is_none());
        write();
        let state = std::fs::read_to_string(entry.dir.join("state.json")).unwrap();
        let newer = state.replace("\"version\": 1", "\"version\": 2");
        assert_ne!(newer, state);
        std::fs::write(entry.dir.join("state.json"), newer).unwrap();
        assert!(entry.read().is_none());
    }
}
