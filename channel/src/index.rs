//! The index of one subdir of one channel: which records it has, grouped by name.
//!
//! A big channel lists hundreds of thousands of records, of which a solve looks at a few hundred
//! names. So the JSON is walked once, noting only where each record's text lies, and a name's
//! records are parsed when somebody asks for that name. The text is shared, not copied.

use std::{
    collections::HashMap,
    sync::Arc,
};

use rattler_conda_types::{PackageName, RepoDataRecord};
use url::Url;

/// Bounds on what is read from a server's `repodata.json`.
#[derive(Debug, Clone, Copy)]
pub struct IndexLimits {
    /// The most records that one index may list.
    pub records: usize,
    /// The longest text of one record, in bytes.
    pub record_bytes: usize,
}

/// What is wrong with an index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// placeholder
    #[error("placeholder")]
    Placeholder,
}

/// The records of one subdir of one channel.
#[derive(Debug, Clone)]
pub struct Index {
    _names: Arc<HashMap<String, Vec<u32>>>,
}

impl Index {
    /// Walks the text of a `repodata.json`. `subdir_url` is where the file was found, e.g.
    /// `https://conda.anaconda.org/conda-forge/linux-64/` (the canonical URL, not a mirror's).
    pub fn from_json(_text: Vec<u8>, _channel: &str, _subdir_url: &Url, _limits: IndexLimits) -> Result<Self, IndexError> { unimplemented!() }
    /// An index without records.
    pub fn empty(_channel: &str, _subdir_url: &Url) -> Self { unimplemented!() }
    /// Every name that has a record, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> { std::iter::empty() }
    /// The number of records.
    pub fn len(&self) -> usize { 0 }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool { self.len() == 0 }
    /// The records of one name; empty when there are none.
    pub fn records(&self, _name: &PackageName) -> Result<Vec<RepoDataRecord>, IndexError> { unimplemented!() }
}
