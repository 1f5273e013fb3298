use std::borrow::Cow;
use std::collections::HashMap;

use crate::lists::list_error::{ListProblem, within};
use crate::safe_url::{mask_text, without_credentials};
use crate::{Location, Mirror};

/// The longest file that is read, in bytes.
pub(super) const MAX_BYTES: usize = 4 << 20;
const MAX_COLLECTIONS: usize = 1024;
/// For one collection.
const MAX_MIRRORS: usize = 4096;
/// For all collections of a file. An alias repeats a list at the cost of a few bytes, so the length
/// of the file does not bound this.
const MAX_MIRRORS_IN_FILE: usize = 65_536;

/// Collections of files and their mirrors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MirrorsFile {
    /// In the order of the file.
    pub collections: Vec<CollectionMirrors>,
}

/// The mirrors of one collection of files.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionMirrors {
    /// The URL or name of the collection, as written.
    pub url: String,
    /// Counted from 1.
    pub line: u32,
    /// In the order of the file; never empty, no two at the same location.
    pub mirrors: Vec<Mirror>,
}

impl MirrorsFile {
    /// The mirrors of a collection, found by the name in the file or by an equivalent URL: the case
    /// of the host, the default port and trailing slashes do not matter.
    pub fn mirrors_for(&self, collection: &str) -> Option<&[Mirror]> {
        let wanted = collection_key(collection);
        self.collections
            .iter()
            .find(|entry| collection_key(&entry.url) == wanted)
            .map(|entry| entry.mirrors.as_slice())
    }

    /// The mirrors of a URL that is a collection of this file or lies below one. The part of the URL
    /// below the longest matching collection is appended to each mirror.
    pub fn mirrors_below(&self, url: &str) -> Option<Vec<Mirror>> {
        let wanted = collection_key(url);
        let rest = |entry: &CollectionMirrors| {
            let key = collection_key(&entry.url);
            let rest = wanted.strip_prefix(key.as_ref())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/').to_owned())
        };
        let (entry, rest) = self
            .collections
            .iter()
            .filter_map(|entry| Some((entry, rest(entry)?)))
            .min_by_key(|(_, rest)| rest.len())?;
        let below = |mirror: &Mirror| {
            Some(Mirror {
                location: mirror.location.below(&rest)?,
                ..mirror.clone()
            })
        };
        Some(entry.mirrors.iter().filter_map(below).collect())
    }
}

/// By which names of a collection are compared.
fn collection_key(name: &str) -> Cow<'_, str> {
    match Location::parse(name) {
        // A channel with another token is the same.
        Ok(Location::Http(url)) => Location::Http(without_credentials(&url)).key().into(),
        Ok(location) => location.key().into(),
        Err(_) => name.trim().trim_matches('/').into(),
    }
}

/// Collects the entries of a file, within the limits and without duplicates.
#[derive(Default)]
pub(super) struct Collector {
    file: MirrorsFile,
    collection_lines: HashMap<String, u32>,
    mirror_lines: HashMap<String, u32>,
    mirrors: usize,
}

impl Collector {
    /// Begins a collection, without mirrors so far.
    pub(super) fn begin(&mut self, url: &str, line: u32) -> Result<(), ListProblem> {
        within(
            "the number of entries",
            self.collection_lines.len() + 1,
            MAX_COLLECTIONS,
        )?;
        let key = collection_key(url).into_owned();
        if let Some(&first_line) = self.collection_lines.get(&key) {
            let name = mask_text(url);
            return Err(ListProblem::DuplicateCollection { name, first_line });
        }
        self.collection_lines.insert(key, line);
        self.mirror_lines.clear();
        self.file.collections.push(CollectionMirrors {
            url: url.to_owned(),
            line,
            mirrors: Vec::new(),
        });
        Ok(())
    }

    /// Adds a mirror to the last collection.
    pub(super) fn add(&mut self, mirror: Mirror, line: u32) -> Result<(), ListProblem> {
        let Some(last) = self.file.collections.last_mut() else {
            return Err(ListProblem::NoMirrors);
        };
        self.mirrors += 1;
        within("the number of mirrors", last.mirrors.len() + 1, MAX_MIRRORS)?;
        within(
            "the number of mirrors in the file",
            self.mirrors,
            MAX_MIRRORS_IN_FILE,
        )?;
        if let Some(&first_line) = self.mirror_lines.get(&mirror.location.key()) {
            let mirror = mirror.location.to_string();
            return Err(ListProblem::DuplicateMirror { mirror, first_line });
        }
        self.mirror_lines.insert(mirror.location.key(), line);
        last.mirrors.push(mirror);
        Ok(())
    }

    pub(super) fn finish(self) -> MirrorsFile {
        self.file
    }
}
