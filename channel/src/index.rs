//! The index of one subdir of one channel: which records it has, grouped by name.
//!
//! A large channel lists hundreds of thousands of records, and a solve needs those of a few hundred
//! names. So the JSON is walked once to find the text of each record, and the records of a name are
//! parsed when they are needed. The text is shared, not copied.

mod error;
mod walk;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    ops::Range,
    sync::Arc,
};

use rattler_conda_types::{
    PackageName, PackageRecord, RepoDataRecord, package::DistArchiveIdentifier,
};
use serde_json::value::RawValue;
use url::Url;

pub use error::{IndexError, RecordError};

/// Limits of a `repodata.json`.
///
/// The length of the text is limited by the download; an index refuses only what its 32-bit offsets
/// cannot address.
#[derive(Debug, Clone, Copy)]
pub struct IndexLimits {
    /// The most records that one index may list.
    pub records: usize,
    /// The longest text of one record, in bytes.
    pub record_bytes: usize,
}

impl Default for IndexLimits {
    /// Five million records of at most one mebibyte: several times those of the largest channels.
    fn default() -> Self {
        Self {
            records: 5_000_000,
            record_bytes: 1 << 20,
        }
    }
}

/// A record that an index lists and that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedRecord {
    /// Its key in the index.
    pub file_name: String,
    /// Why it cannot be used.
    pub reason: String,
}

impl SkippedRecord {
    fn new(file_name: &str, error: &RecordError) -> Self {
        let reason = match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        Self {
            file_name: file_name.to_owned(),
            reason,
        }
    }
}

/// The records of one subdir of one channel.
///
/// Cloning is cheap: all clones share the text.
#[derive(Clone)]
pub struct RepodataIndex {
    shared: Arc<Shared>,
}

/// What the clones of one index share.
struct Shared {
    text: String,
    channel: String,
    subdir: String,
    /// Where the package files are: the subdir's URL, or `info.base_url` (CEP 15) resolved
    /// against it. Ends with a slash.
    base_url: Url,
    repodata_version: u64,
    /// Normalised name → the records whose file name begins with it.
    names: HashMap<Box<str>, Vec<Place>>,
    len: usize,
    /// The records whose file name cannot be used.
    skipped: Vec<SkippedRecord>,
}

/// Where a record lies in the text: its key (without quotes) and its value.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: u32,
    key_len: u32,
    value: u32,
    value_len: u32,
}

impl Place {
    fn key(self) -> Range<usize> {
        self.key as usize..(self.key + self.key_len) as usize
    }

    fn value(self) -> Range<usize> {
        self.value as usize..(self.value + self.value_len) as usize
    }
}

impl RepodataIndex {
    /// Walks the text of a `repodata.json`. `channel` is the channel's canonical URL, which every
    /// record gets; `subdir_url` is the directory of the file, e.g.
    /// `https://conda.anaconda.org/conda-forge/linux-64/` (the canonical URL, not a mirror's).
    ///
    /// The whole text is checked to be JSON. [`RepodataIndex::records`] parses the records, and omits
    /// malformed ones: one bad record must not cost a channel all the others. Records listed under
    /// `removed` are dropped; `v3` and unknown keys are ignored.
    ///
    /// # Errors
    ///
    /// When the text is not a JSON object of the right structure, exceeds a limit, or has an
    /// unsupported base URL or format version.
    pub fn from_json(
        text: Vec<u8>,
        channel: &str,
        subdir_url: &Url,
        limits: IndexLimits,
    ) -> Result<Self, IndexError> {
        let text = String::from_utf8(text).map_err(|error| {
            IndexError::not_text(error.as_bytes(), error.utf8_error().valid_up_to())
        })?;
        let walked = walk::walk(&text, limits)?;
        let base_url = base_url(subdir_url, walked.base_url.as_deref())?;
        let subdir = walked.subdir.unwrap_or_else(|| last_segment(subdir_url));

        let mut names: HashMap<Box<str>, Vec<Place>> = HashMap::new();
        let mut skipped = Vec::new();
        let removed: HashSet<&str> = walked.removed.iter().map(AsRef::as_ref).collect();
        let mut len = 0;
        // File names are nearly always sorted, so most records have the name of the previous one.
        let mut last: Option<(&str, &mut Vec<Place>)> = None;
        for place in walked.places {
            let file_name = &text[place.key()];
            if removed.contains(file_name) {
                continue;
            }
            let name = match name_of(file_name) {
                Ok(name) => name,
                Err(error) => {
                    skipped.push(SkippedRecord::new(file_name, &error));
                    continue;
                }
            };
            len += 1;
            match &mut last {
                Some((last_name, places)) if *last_name == name => places.push(place),
                _ => {
                    let places = names.entry(normalised(name)).or_default();
                    places.push(place);
                    last = Some((name, places));
                }
            }
        }
        let escaped = RecordError::FileName {
            reason: "it contains escape sequences",
        };
        let unnamed = walked.unnamed.iter();
        skipped.extend(unnamed.map(|file_name| SkippedRecord::new(file_name, &escaped)));
        Ok(Self {
            shared: Arc::new(Shared {
                channel: channel.to_owned(),
                subdir,
                base_url,
                repodata_version: walked.repodata_version,
                names,
                len,
                skipped,
                text,
            }),
        })
    }

    /// An index without records.
    pub fn empty(channel: &str, subdir_url: &Url) -> Self {
        Self {
            shared: Arc::new(Shared {
                text: String::new(),
                channel: channel.to_owned(),
                subdir: last_segment(subdir_url),
                base_url: subdir_url.clone(),
                repodata_version: 1,
                names: HashMap::new(),
                len: 0,
                skipped: Vec::new(),
            }),
        }
    }

    /// The JSON text of the index.
    pub fn text(&self) -> &str {
        &self.shared.text
    }

    /// The canonical URL of the channel.
    pub fn channel(&self) -> &str {
        &self.shared.channel
    }

    /// The subdir: what `info.subdir` says, else the last segment of the subdir's URL.
    pub fn subdir(&self) -> &str {
        &self.shared.subdir
    }

    /// Where the package files are: the subdir's URL, or `info.base_url` (CEP 15) resolved
    /// against it. Ends with a slash.
    pub fn base_url(&self) -> &Url {
        &self.shared.base_url
    }

    /// The `repodata_version` of the file; 1 if it has none.
    pub fn repodata_version(&self) -> u64 {
        self.shared.repodata_version
    }

    /// Every name that has a record, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.shared.names.keys().map(AsRef::as_ref)
    }

    /// Whether a record is listed under this name. Nothing is parsed.
    pub fn contains(&self, name: &PackageName) -> bool {
        self.shared.names.contains_key(name.as_normalized())
    }

    /// The number of records listed. A package in both archive formats counts twice.
    pub fn len(&self) -> usize {
        self.shared.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The records whose file name cannot be used, so that no name has them.
    pub fn skipped(&self) -> &[SkippedRecord] {
        &self.shared.skipped
    }

    /// Whether the record names the channel of this index as its own.
    pub(crate) fn has_channel_of(&self, record: &RepoDataRecord) -> bool {
        record.channel.as_deref() == Some(self.shared.channel.as_str())
    }

    /// All fields of the record of one archive, including those that [`RepoDataRecord`] drops. A field without a meaning
    /// here may have a value that cannot be represented, such as a number that is too large. It is left out.
    pub fn fields(
        &self,
        name: &PackageName,
        file_name: &str,
    ) -> Option<serde_json::Map<String, serde_json::Value>> {
        let place = self.place(name, file_name)?;
        let record = &self.shared.text[place.value()];
        if let Ok(fields) = serde_json::from_str(record) {
            return Some(fields);
        }
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(record).ok()?;
        let value = |raw: &RawValue| serde_json::from_str(raw.get()).ok();
        let readable = |(key, raw)| Some((key, value(raw)?));
        Some(fields.into_iter().filter_map(readable).collect())
    }

    /// The records of one name, in the order of the file, and those that cannot be used. Both are
    /// empty when there are none. Where a package is listed as `.conda` and as `.tar.bz2`, only the
    /// `.conda` is returned.
    ///
    /// # Errors
    ///
    /// When records are listed under the name and none of them can be read.
    pub fn records(
        &self,
        name: &PackageName,
    ) -> Result<(Vec<RepoDataRecord>, Vec<SkippedRecord>), IndexError> {
        let places = self.shared.names.get(name.as_normalized());
        let mut records: Vec<(&str, RepoDataRecord)> = Vec::new();
        let mut skipped = Vec::new();
        let mut preferred = HashSet::new();
        let mut first_error = None;
        for &place in places.into_iter().flatten() {
            let file_name = &self.shared.text[place.key()];
            match self.parse(place, name) {
                Ok(record) => {
                    if let Some(stem) = file_name.strip_suffix(".conda") {
                        preferred.insert(stem);
                    }
                    records.push((file_name, record));
                }
                Err(error) => {
                    tracing::debug!(file_name, %error, "skipping a record");
                    skipped.push(SkippedRecord::new(file_name, &error));
                    first_error.get_or_insert((file_name, error));
                }
            }
        }
        if let Some((file_name, source)) = first_error
            && records.is_empty()
        {
            return Err(IndexError::NoUsableRecord {
                name: name.as_normalized().to_owned(),
                file_name: file_name.to_owned(),
                source,
            });
        }
        let is_preferred = |file_name: &str| {
            let stem = file_name.strip_suffix(".tar.bz2");
            stem.is_none_or(|stem| !preferred.contains(stem))
        };
        let records = records
            .into_iter()
            .filter(|(file_name, _)| is_preferred(file_name))
            .map(|(_, record)| record)
            .collect();
        Ok((records, skipped))
    }

    /// The record of one archive, if the index lists it and it can be used.
    pub fn record(&self, file_name: &str) -> Option<RepoDataRecord> {
        let name = PackageName::try_from(name_of(file_name).ok()?).ok()?;
        self.parse(self.place(&name, file_name)?, &name).ok()
    }

    fn place(&self, name: &PackageName, file_name: &str) -> Option<Place> {
        let places = self.shared.names.get(name.as_normalized())?;
        let mut places = places.iter().copied();
        places.find(|place| &self.shared.text[place.key()] == file_name)
    }

    fn parse(&self, place: Place, name: &PackageName) -> Result<RepoDataRecord, RecordError> {
        let file_name = &self.shared.text[place.key()];
        let mut package_record: PackageRecord =
            crate::parse_record(self.shared.text[place.value()].as_bytes())?;
        if package_record.name.as_normalized() != name.as_normalized() {
            return Err(RecordError::OtherName {
                name: package_record.name.as_source().to_owned(),
            });
        }
        // Indexes from before 2017 state the subdir once for all records.
        if package_record.subdir.is_empty() {
            package_record.subdir.clone_from(&self.shared.subdir);
        }
        let identifier =
            DistArchiveIdentifier::try_from_filename(file_name).ok_or(RecordError::FileName {
                reason: "it is not NAME-VERSION-BUILD.EXTENSION",
            })?;
        let url = self
            .shared
            .base_url
            .join(file_name)
            .map_err(|_| RecordError::FileName {
                reason: "it cannot be part of a URL",
            })?;
        Ok(RepoDataRecord {
            package_record,
            identifier,
            url,
            channel: Some(self.shared.channel.clone()),
        })
    }
}

impl fmt::Debug for RepodataIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RepodataIndex")
            .field("channel", &self.shared.channel)
            .field("subdir", &self.shared.subdir)
            .field("names", &self.shared.names.len())
            .field("len", &self.shared.len)
            .finish_non_exhaustive()
    }
}

/// The name that a file name starts with, e.g. `r-base` of `r-base-4.3.1-h0_0.conda`.
///
/// The file name becomes the end of a URL and the name of a file, so it must not lead elsewhere.
fn name_of(file_name: &str) -> Result<&str, RecordError> {
    let stem = file_name
        .strip_suffix(".conda")
        .or_else(|| file_name.strip_suffix(".tar.bz2"))
        .ok_or(RecordError::FileName {
            reason: "it ends with neither .conda nor .tar.bz2",
        })?;
    if !file_name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.!+=~,".contains(&byte))
    {
        return Err(RecordError::FileName {
            reason: "it has an invalid character",
        });
    }
    let mut parts = stem.rsplitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(_), Some(name)) if !name.is_empty() && !name.starts_with('.') => Ok(name),
        _ => Err(RecordError::FileName {
            reason: "it is not NAME-VERSION-BUILD.EXTENSION",
        }),
    }
}

/// Names are compared in lower case.
fn normalised(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into_boxed_str()
}

fn last_segment(url: &Url) -> String {
    url.path()
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// CEP 15: `info.base_url` is an absolute URL, or one relative to where the repodata lies.
fn base_url(subdir_url: &Url, base_url: Option<&str>) -> Result<Url, IndexError> {
    let mut subdir_url = subdir_url.clone();
    close_directory(&mut subdir_url);
    let Some(text) = base_url else {
        return Ok(subdir_url);
    };
    let refuse = |reason| IndexError::BaseUrl {
        base_url: text.to_owned(),
        reason,
    };
    let mut url = subdir_url
        .join(text)
        .map_err(|_| refuse("it is not a URL"))?;
    // A server must not refer a client to files of the client.
    if !["http", "https", subdir_url.scheme()].contains(&url.scheme()) {
        return Err(refuse(
            "its scheme is neither http nor https nor that of the channel",
        ));
    }
    // The URL of a file is the base and the name of the file. A query or a fragment has no place in it.
    url.set_query(None);
    url.set_fragment(None);
    close_directory(&mut url);
    Ok(url)
}

/// Without a slash at the end, joining a file name would replace the last segment.
fn close_directory(url: &mut Url) {
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
}

#[cfg(test)]
mod tests;
