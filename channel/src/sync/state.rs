//! The state of a mirror, which lies at the mirror itself.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use taipan_transfer::{Engine, Job, MemorySink, MirrorSet, Outlet, Validators};

use super::error::SyncError;
use crate::layout::state_file;

/// The version of this format.
const VERSION: u32 = 1;

/// The longest state that is read, in bytes.
const MAX_STATE: usize = 256 << 20;

/// The longest state of a source that is read, in bytes.
const MAX_SOURCE_STATE: usize = 16 << 20;

/// The longest chain of mirrors that is looked at.
const MAX_SOURCES: usize = 32;

/// The first wait until a package is tried again; it doubles.
const FIRST_WAIT: u64 = 15 * 60;

/// The longest such wait.
const LONGEST_WAIT: u64 = 24 * 3600;

/// What is known of a subdir of a mirror. Unknown fields of other versions are not kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MirrorState {
    /// The version of the format.
    pub version: u32,
    /// The URL of the channel, and those that it is a mirror of.
    pub source: Vec<String>,
    /// The validators of the source index, by the URL that sent it.
    pub validators: BTreeMap<String, SavedValidators>,
    /// The digest of the text of the source index.
    pub source_sha256: Option<String>,
    /// When the source index was made, if its server tells, in seconds since 1970.
    pub source_time: Option<u64>,
    /// The digest of the filters.
    pub filters: String,
    /// How many packages the published index names.
    pub packages: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The digests of the published files, by name.
    pub forms: BTreeMap<String, String>,
    /// When the index was published, in seconds since 1970.
    pub published: u64,
    /// When the source was last compared, in seconds since 1970.
    pub checked: u64,
    /// Packages that could not be copied, by file name.
    pub failures: BTreeMap<String, Failure>,
    /// Files that no index names any more, by file name.
    pub graves: BTreeMap<String, Grave>,
    /// The part that was verified last.
    pub verified: Option<u32>,
}

/// Validators, as they are saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedValidators {
    etag: Option<String>,
    last_modified: Option<String>,
}

/// A package that could not be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, in one line.
    pub problem: String,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried again, in seconds since 1970.
    pub next: u64,
    /// The digest that its record had.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// A file that no index names any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grave {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Whether the destination does not delete it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays: bool,
}

/// Now, in seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}

impl Failure {
    /// The failure after one more try.
    pub(super) fn after(earlier: Option<&Self>, problem: String, now: u64) -> Self {
        let tries = earlier.map_or(0, |it| it.tries).saturating_add(1);
        let wait = FIRST_WAIT.saturating_mul(1 << (tries - 1).min(16));
        Self {
            problem,
            tries,
            next: now + wait.min(LONGEST_WAIT),
            sha256: None,
        }
    }
}

impl MirrorState {
    /// A mirror without anything.
    pub(super) fn fresh() -> Self {
        Self {
            version: VERSION,
            ..Self::default()
        }
    }

    /// The validators of the source index.
    pub(super) fn validators(&self) -> BTreeMap<String, Validators> {
        let saved = self.validators.iter().map(|(url, saved)| {
            let validators = Validators {
                etag: saved.etag.clone(),
                last_modified: saved.last_modified.clone(),
            };
            (url.clone(), validators)
        });
        saved.collect()
    }

    pub(super) fn set_validators(&mut self, url: &str, validators: &Validators) {
        let saved = SavedValidators {
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
        };
        self.validators.clear();
        if !validators.is_empty() {
            self.validators.insert(url.to_owned(), saved);
        }
    }

    /// The number of files that will be deleted.
    pub(super) fn graves_to_delete(&self) -> usize {
        self.graves.values().filter(|grave| !grave.stays).count()
    }

    /// Whether packages that failed are to be tried again now.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.failures.values().any(|failure| failure.next <= now)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a state is JSON")
    }
}

/// The channels that a channel is a mirror of, the nearest first. Empty if it is no mirror that `taipan mirror sync` made, and
/// if that cannot be found out.
pub(super) async fn sources_of(engine: &Engine, mirrors: &MirrorSet, subdir: &str) -> Vec<String> {
    let mut sink = MemorySink::new(MAX_SOURCE_STATE);
    let job = Job::metadata(format!("the state of {subdir}"), state_file(subdir));
    if let Err(error) = engine.fetch(mirrors, &job, &mut sink).await {
        tracing::debug!(subdir, %error, "the source has no state");
        return Vec::new();
    }
    let state: Result<MirrorState, _> = serde_json::from_slice(&sink.into_bytes());
    let mut sources = state.map_or_else(|_| Vec::new(), |state| state.source);
    sources.truncate(MAX_SOURCES);
    sources
}

/// Reads the state of a subdir of a mirror; `None` if it has none.
pub(super) async fn read_state(
    engine: &Engine,
    outlet: &Outlet,
    subdir: &str,
) -> Result<Option<MirrorState>, SyncError> {
    let place = || format!("{}/{subdir}", outlet.location());
    let mut sink = MemorySink::new(MAX_STATE);
    let job = Job::metadata(format!("the state of {}", place()), state_file(subdir));
    match engine.fetch(outlet.mirrors(), &job, &mut sink).await {
        Ok(_) => {}
        Err(error) if error.is_absent() => return Ok(None),
        Err(source) => {
            let place = place();
            return Err(SyncError::State { place, source });
        }
    }
    let bad = |problem: String| SyncError::BadState {
        place: place(),
        problem,
    };
    let state: MirrorState = serde_json::from_slice(&sink.into_bytes()).map_err(|error| {
        bad(format!(
            "{error}; delete it to have the mirror compared file by file"
        ))
    })?;
    if state.version > VERSION {
        let version = state.version;
        return Err(bad(format!("it has version {version}: use a newer taipan")));
    }
    Ok(Some(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_fails_is_tried_less_and_less_often() {
        let mut failure = Failure::after(None, "x".to_owned(), 1000);
        assert_eq!((failure.tries, failure.next), (1, 1000 + FIRST_WAIT));
        for _ in 0..40 {
            failure = Failure::after(Some(&failure), "x".to_owned(), 1000);
        }
        assert_eq!((failure.tries, failure.next), (41, 1000 + LONGEST_WAIT));
    }
}
