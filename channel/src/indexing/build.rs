//! Making the index of a subdir from the files that are there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use taipan_mirrors::Location;
use taipan_transfer::{
    Content, DeliveryError, Engine, Expected, Held, Job, Md5, MemorySink, NewFile, Outlet,
    PutOptions, Sha256,
};

use super::{
    record::{NewPackage, new_package},
    update::{add_packages, converge, index_form, write_changed},
};
use crate::{
    layout::{NEVER, SHORT, index_file, note_file, package_file},
    records::{Form, Row},
    sync::{Error, IndexResponse, LocalIndex, blocking, fetch_form, local},
};

/// How many packages are read at a time.
const PARALLEL: usize = 4;

/// The largest file of notes or run exports that is read, in bytes.
const MAX_NOTE: usize = 512 << 20;

/// Why an index cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The destination lists no files.
    #[error("{place} lists no files: in a registry, `taipan upload --index` keeps the index")]
    NoListing {
        /// The destination.
        place: String,
    },
    /// A request failed.
    #[error(transparent)]
    Destination(#[from] DeliveryError),
    /// The earlier index cannot be used, or a local file.
    #[error(transparent)]
    Sync(#[from] Error),
    /// Another program changed the index at the same time.
    #[error("another program changed the index of {place} at the same time: run again")]
    Conflict {
        /// The subdir.
        place: String,
    },
}

/// Reads what an archive says of itself: the texts of `info/index.json` and `info/run_exports.json`.
pub trait PackageReader: Send + Sync {
    /// Blocks. The error is one line.
    fn read(&self, path: &Path) -> Result<(Vec<u8>, Option<Vec<u8>>), String>;
}

/// One file as it was when it was read, so that it is read again only if it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    etag: String,
    sha256: String,
}

/// What was done in one subdir.
#[derive(Debug, Default)]
pub struct BuildReport {
    /// The subdir.
    pub subdir: String,
    /// Packages that the index lists.
    pub packages: usize,
    /// Packages that are new in it.
    pub added: Vec<String>,
    /// Packages whose content is another than before.
    pub replaced: Vec<String>,
    /// Packages that are not there any more.
    pub removed: Vec<String>,
    /// Files that cannot be listed, with the reason.
    pub refused: Vec<(String, String)>,
    /// Whether the index was written.
    pub is_changed: bool,
}

/// Makes the index of a subdir.
#[expect(
    missing_debug_implementations,
    reason = "it holds a reader of its caller"
)]
pub struct IndexBuilder<'a> {
    /// Carries out requests.
    pub engine: &'a Engine,
    /// Where the files are.
    pub outlet: &'a Outlet,
    /// Reads archives.
    pub reader: Arc<dyn PackageReader>,
    /// A directory for temporary files.
    pub work: &'a Path,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// A file of the listing.
struct Listed {
    name: String,
    held: Held,
}

/// What is known of a file.
enum Known {
    /// The index has it as it is.
    Same(Expected),
    /// The same, and its run exports, which `run_exports.json` lacks: it came by an upload.
    Completed(Expected, Option<Value>),
    New(Box<NewPackage>),
    Refused(String),
}

impl IndexBuilder<'_> {
    /// The subdirs that have packages.
    pub async fn subdirs(&self) -> Result<Vec<String>, IndexError> {
        let mut subdirs = BTreeSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.engine.list(self.outlet, "", after.as_deref()).await?;
            let Some(page) = page else {
                return Err(self.no_listing());
            };
            for file in &page.files {
                if let [subdir, name] = file.path.split('/').collect::<Vec<_>>()[..]
                    && is_package(name)
                {
                    subdirs.insert(subdir.to_owned());
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // Clients expect it in every channel.
        subdirs.insert("noarch".to_owned());
        Ok(subdirs.into_iter().collect())
    }

    fn no_listing(&self) -> IndexError {
        IndexError::NoListing {
            place: self.outlet.location().to_string(),
        }
    }

    /// Makes the index of one subdir, and publishes it if it changed.
    pub async fn build(&self, subdir: &str) -> Result<BuildReport, IndexError> {
        let listed = self.list(subdir).await?;
        let current = self.read(subdir).await?;
        let cache: BTreeMap<String, FileEntry> = self.note(subdir, "index-cache.json").await;
        let mut report = BuildReport {
            subdir: subdir.to_owned(),
            ..BuildReport::default()
        };
        let rows: HashMap<String, Row> = match &current {
            Some(index) => (index.table.rows().iter())
                .map(|row| (index.table.file_name(row).to_owned(), row.clone()))
                .collect(),
            None => HashMap::new(),
        };
        let exported = self.run_exports(subdir).await?;
        let known = stream::iter(listed.iter().map(|file| {
            let (row, entry) = (rows.get(&file.name), cache.get(&file.name));
            let lacks_exports =
                (exported.as_ref()).is_some_and(|maps| !has_exports(maps, &file.name));
            async move {
                let known = match self.inspect(subdir, file, row, entry).await {
                    Ok(Known::Same(expected)) if lacks_exports => {
                        self.complete(subdir, &file.name, expected).await
                    }
                    known => known,
                };
                (file, known)
            }
        }));
        let mut known = known.buffered(PARALLEL);
        let mut added: BTreeMap<(Form, String), String> = BTreeMap::new();
        let mut exports: BTreeMap<String, Value> = BTreeMap::new();
        let mut kept = BTreeSet::new();
        let mut new_cache = BTreeMap::new();
        while let Some((file, known)) = known.next().await {
            let expected = match known? {
                Known::Refused(why) => {
                    report.refused.push((file.name.clone(), why));
                    continue;
                }
                Known::Same(expected) => expected,
                Known::Completed(expected, run_exports) => {
                    exports.insert(file.name.clone(), run_exports.unwrap_or_else(|| json!({})));
                    expected
                }
                Known::New(package) => {
                    let list = if rows.contains_key(&file.name) {
                        &mut report.replaced
                    } else {
                        &mut report.added
                    };
                    list.push(file.name.clone());
                    let text = serde_json::to_string(&package.record).unwrap_or_default();
                    added.insert((package.form(), file.name.clone()), text);
                    let run_exports = package.run_exports.clone();
                    exports.insert(file.name.clone(), run_exports.unwrap_or_else(|| json!({})));
                    package.expected
                }
            };
            kept.insert(file.name.clone());
            if let (Some(etag), Some(sha256)) = (&file.held.etag, expected.sha256) {
                let entry = FileEntry {
                    etag: etag.clone(),
                    sha256: sha256.to_string(),
                };
                new_cache.insert(file.name.clone(), entry);
            }
        }
        drop(known);
        report.packages = kept.len();
        let without = gone(current.as_ref(), &kept, &mut report.removed);
        report.is_changed = current.is_none() || !added.is_empty() || !without.is_empty();
        if self.dry_run {
            return Ok(report);
        }
        if report.is_changed {
            self.publish(subdir, current, without, added).await?;
        }
        if report.is_changed || !exports.is_empty() {
            let before = exported.unwrap_or_default();
            self.write_run_exports(subdir, &kept, &before, exports)
                .await?;
        }
        if report.is_changed && !self.engine.honours_conditions(self.outlet).await? {
            // An upload may have been published while this run was reading: its intent is still there.
            add_packages(self.engine, self.outlet, subdir, &[], self.work).await?;
        }
        // An earlier run may have ended between two forms.
        converge(self.engine, self.outlet, subdir, self.work).await?;
        if new_cache != cache {
            let text = serde_json::to_vec(&new_cache).unwrap_or_default();
            let target = note_file(subdir, "index-cache.json");
            self.put(target, text, "application/json", NEVER).await?;
        }
        Ok(report)
    }

    async fn list(&self, subdir: &str) -> Result<Vec<Listed>, IndexError> {
        let prefix = format!("{subdir}/");
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = self
                .engine
                .list(self.outlet, &prefix, after.as_deref())
                .await?;
            let Some(page) = page else {
                return Err(self.no_listing());
            };
            for file in page.files {
                if let Some(name) = file.path.strip_prefix(&prefix)
                    && is_package(name)
                    && !name.contains('/')
                {
                    let name = name.to_owned();
                    let held = file.held;
                    listed.push(Listed { name, held });
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(listed),
            }
        }
    }

    async fn read(&self, subdir: &str) -> Result<Option<LocalIndex>, IndexError> {
        let none = BTreeMap::new();
        let path = self.work.join(format!("{subdir}-indexed.json"));
        let mirrors = self.outlet.mirrors();
        match fetch_form(self.engine, mirrors, subdir, "repodata.json", &none, path).await {
            Ok(IndexResponse::Index(index)) => Ok(Some(*index)),
            Ok(_) => Ok(None),
            Err(source) => {
                let place = format!("{}/{subdir}", self.outlet.location());
                Err(Error::Published { place, source }.into())
            }
        }
    }

    /// A note of an earlier run. It only spares work, so one that cannot be read is empty.
    async fn note<T: Default + serde::de::DeserializeOwned>(&self, subdir: &str, name: &str) -> T {
        let mut sink = MemorySink::new(MAX_NOTE);
        let job = Job::metadata(name, note_file(subdir, name));
        let fetched = self
            .engine
            .fetch(self.outlet.mirrors(), &job, &mut sink)
            .await;
        match fetched {
            Ok(_) => serde_json::from_slice(&sink.into_bytes()).unwrap_or_default(),
            Err(_) => T::default(),
        }
    }

    /// Finds out whether the index has a file as it is; reads it otherwise.
    async fn inspect(
        &self,
        subdir: &str,
        file: &Listed,
        row: Option<&Row>,
        entry: Option<&FileEntry>,
    ) -> Result<Known, IndexError> {
        if let Some(row) = row {
            let expected = row.expected();
            let is_size = file.held.size.is_none() || file.held.size == expected.size;
            let by_cache = entry.is_some_and(|entry| {
                Some(&entry.etag) == file.held.etag.as_ref()
                    && expected
                        .sha256
                        .is_some_and(|it| it.to_string() == entry.sha256)
            });
            let by_md5 = file.held.md5.is_some() && file.held.md5 == expected.md5;
            if is_size && (by_cache || by_md5) {
                return Ok(Known::Same(expected));
            }
            if is_size {
                let (target, _) = package_file(subdir, &file.name);
                let held = self.engine.look(self.outlet, &target, &expected).await?;
                if held.is_some_and(|held| held.sha256.is_some() && held.is(&expected)) {
                    return Ok(Known::Same(expected));
                }
            }
        }
        let known = self.read_package(subdir, &file.name).await?;
        Ok(match (known, row) {
            // It is the same after all: its record stays as it is.
            (Known::New(package), Some(row)) if row.sha256() == package.expected.sha256 => {
                Known::Same(package.expected)
            }
            (known, _) => known,
        })
    }

    /// Reads a package as a whole: its digests are needed anyway.
    async fn read_package(&self, subdir: &str, name: &str) -> Result<Known, IndexError> {
        let mut temporary = None;
        let path = if let Location::File(root) = self.outlet.location() {
            root.join(subdir).join(name)
        } else {
            let directory = tempfile::tempdir_in(self.work).map_err(local(self.work))?;
            let path = directory.path().join(name);
            temporary = Some(directory);
            let (target, _) = package_file(subdir, name);
            let job = Job::metadata(name, target);
            let fetched = self
                .engine
                .fetch_file(self.outlet.mirrors(), &job, &path)
                .await;
            if let Err(error) = fetched {
                return Ok(Known::Refused(error.problem()));
            }
            path
        };
        let content = match Content::file(path.clone()).await {
            Ok(content) => content,
            Err(error) => return Ok(Known::Refused(error.to_string())),
        };
        let size = content.size();
        let (sha256, md5): (Sha256, Md5) = match content.digests().await {
            Ok(digests) => digests,
            Err(error) => return Ok(Known::Refused(error.to_string())),
        };
        let reader = Arc::clone(&self.reader);
        let read = blocking(move || reader.read(&path)).await;
        drop(temporary);
        let (index, run_exports) = match read {
            Ok(read) => read,
            Err(problem) => return Ok(Known::Refused(problem)),
        };
        let digests = (sha256, md5, size);
        let package = new_package(name, &index, run_exports.as_deref(), digests, Some(subdir));
        Ok(match package {
            Ok(package) => Known::New(Box::new(package)),
            Err(problem) => Known::Refused(problem.to_string()),
        })
    }

    /// Publishes an index: first the form that other programs compare with, and only if it is still the one that was read.
    async fn publish(
        &self,
        subdir: &str,
        current: Option<LocalIndex>,
        without: BTreeSet<usize>,
        added: BTreeMap<(Form, String), String>,
    ) -> Result<(), IndexError> {
        use taipan_transfer::Condition;
        let condition = match &current {
            _ if !self.engine.honours_conditions(self.outlet).await? => Condition::None,
            None => Condition::Absent,
            Some(index) => match &index.validators.etag {
                Some(tag) => Condition::Unchanged(tag.clone()),
                None => Condition::None,
            },
        };
        let text = self.work.join(format!("{subdir}-built.json"));
        let (output, of) = (text.clone(), subdir.to_owned());
        let write = move || write_changed(current, &of, &without, &added, &output);
        blocking(write).await.map_err(local(&text))?;
        let plain = index_form(subdir, "repodata.json", text).await?;
        let plain = plain.with_condition(condition);
        let label = format!("{subdir}/repodata.json");
        let put = self
            .engine
            .put(self.outlet, &label, &[plain], PutOptions::default())
            .await;
        if let Err(error) = put {
            if error.is_conflict() {
                let place = format!("{}/{subdir}", self.outlet.location());
                return Err(IndexError::Conflict { place });
            }
            return Err(error.into());
        }
        Ok(())
    }

    async fn put(
        &self,
        target: taipan_transfer::Target,
        text: Vec<u8>,
        content_type: &'static str,
        cache_control: &'static str,
    ) -> Result<(), IndexError> {
        let label = target.path.clone();
        let file = NewFile::new(target, Content::from(text)).await;
        let file = file.map_err(|error| local(Path::new(&label))(std::io::Error::other(error)))?;
        let file = file.with_headers(content_type, Some(cache_control));
        self.engine
            .put(self.outlet, &label, &[file], PutOptions::default())
            .await?;
        Ok(())
    }

    /// The run exports that are published; `None` if there are none. If they cannot be read they must not be replaced.
    async fn run_exports(&self, subdir: &str) -> Result<Option<Map<String, Value>>, IndexError> {
        let mut sink = MemorySink::new(MAX_NOTE);
        let job = Job::metadata("run exports", index_file(subdir, "run_exports.json"));
        match self
            .engine
            .fetch(self.outlet.mirrors(), &job, &mut sink)
            .await
        {
            Ok(_) => Ok(serde_json::from_slice(&sink.into_bytes()).ok()),
            Err(error) if error.is_absent() || error.has_absence() => Ok(None),
            Err(source) => {
                let place = format!("{}/{subdir}", self.outlet.location());
                Err(Error::Published { place, source }.into())
            }
        }
    }

    /// Reads the run exports of a package whose record is known.
    async fn complete(
        &self,
        subdir: &str,
        name: &str,
        expected: Expected,
    ) -> Result<Known, IndexError> {
        Ok(match self.read_package(subdir, name).await? {
            Known::New(package) => Known::Completed(expected, package.run_exports),
            _ => Known::Same(expected),
        })
    }

    /// Writes the run exports of all packages (CEP 12): new ones, and those of before.
    async fn write_run_exports(
        &self,
        subdir: &str,
        kept: &BTreeSet<String>,
        before: &Map<String, Value>,
        new: BTreeMap<String, Value>,
    ) -> Result<(), IndexError> {
        let mut maps: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
        for map in ["packages", "packages.conda"] {
            let earlier = before.get(map).and_then(Value::as_object);
            let earlier = earlier.into_iter().flatten();
            let earlier = earlier.filter(|(file, _)| kept.contains(*file));
            let earlier = earlier.map(|(file, value)| (file.clone(), value.clone()));
            maps.insert(map, earlier.collect());
        }
        for (file, run_exports) in new {
            let map = if file.ends_with(".conda") {
                "packages.conda"
            } else {
                "packages"
            };
            let entry = json!({ "run_exports": run_exports });
            maps.entry(map).or_default().insert(file, entry);
        }
        let text = json!({
            "info": { "subdir": subdir, "version": 1 },
            "packages": maps["packages"],
            "packages.conda": maps["packages.conda"],
        });
        let text = serde_json::to_vec(&text).unwrap_or_default();
        let target = index_file(subdir, "run_exports.json");
        self.put(target, text, "application/json", SHORT).await
    }
}

fn is_package(name: &str) -> bool {
    (name.ends_with(".conda") || name.ends_with(".tar.bz2")) && !name.starts_with('.')
}

/// Whether run exports have an entry for a package, which may be empty.
fn has_exports(maps: &Map<String, Value>, file: &str) -> bool {
    let has = |map: &str| maps.get(map).is_some_and(|map| map.get(file).is_some());
    has("packages") || has("packages.conda")
}

/// The rows of files that are not there any more; their names are added to `removed`.
fn gone(
    current: Option<&LocalIndex>,
    kept: &BTreeSet<String>,
    removed: &mut Vec<String>,
) -> BTreeSet<usize> {
    let mut rows = BTreeSet::new();
    let Some(index) = current else {
        return rows;
    };
    for (number, row) in index.table.rows().iter().enumerate() {
        let name = index.table.file_name(row);
        if !kept.contains(name) {
            rows.insert(number);
            removed.push(name.to_owned());
        }
    }
    rows
}
