//! Adding packages to a published index, by any number of programs at once.
//!
//! Where a destination honours conditions, the index is replaced only if it is still the one that was read. Elsewhere each
//! program notes its intent first, writes the union of the index and all intents, and reads both again until the index has
//! every intent: the last writer has seen all that were noted before, and a program that notes one later writes later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use taipan_transfer::{
    Condition, Content, Engine, Expected, Job, MemorySink, NewFile, Outlet, PutOptions, Sha256,
    Target,
};

use super::record::{INDEXED, NewPackage};
use crate::{
    layout::{
        IMMUTABLE, NEVER, NOTES, SHORT, content_type, index_file, note_file, notes_repository,
        package_file, shard,
    },
    records::{Form, RecordTable, Rewrite, ShardCache, Shards, make_shards, write_index},
    sync::{
        Error, IndexResponse, LocalIndex, ZCK, Zck, blocking, compress, fetch_form, fetch_zck,
        local, make_zck,
    },
};

/// How often an index is read and written until it has everything.
const MAX_ROUNDS: u32 = 60;

/// Intents that are older are removed when the index has them: no writer's turn takes that long.
const OLD: Duration = Duration::from_hours(1);

/// The index of the shards of a subdir (CEP 16).
const SHARDS: &str = "repodata_shards.msgpack.zst";

/// How many shards are sent at a time.
const PARALLEL: usize = 16;

/// Shards that no index names any more stay for this time.
const SHARD_GRACE: Duration = Duration::from_hours(24);

/// The largest intent that is read, in bytes.
const MAX_INTENT: usize = 64 << 20;

/// The index of a subdir without packages.
fn empty_index(subdir: &str) -> String {
    format!(
        "{{\"info\":{{\"subdir\":\"{subdir}\"}},\n\"packages\":{{}},\n\"packages.conda\":{{}},\n\
         \"removed\":[],\n\"repodata_version\":1}}\n"
    )
}

/// Writes an index without some rows and with added records to a file; `current` is the one that it is made of.
pub(super) fn write_changed(
    current: Option<LocalIndex>,
    subdir: &str,
    without: &BTreeSet<usize>,
    added: &Records,
    output: &Path,
) -> io::Result<()> {
    let (table, mut input) = if let Some(index) = current {
        (index.table, File::open(&index.path)?)
    } else {
        let text = empty_index(subdir);
        let mut base = tempfile::tempfile()?;
        base.write_all(text.as_bytes())?;
        let table = RecordTable::scan(&mut text.as_bytes());
        (table.map_err(io::Error::other)?, base)
    };
    let rewrite = Rewrite {
        table: &table,
        without,
        added,
        drops_base_url: false,
        drops: &[],
    };
    write_index(&rewrite, &mut input, &mut File::create(output)?)
}

/// The level of compression of `repodata.json.zst`.
pub(super) const LEVEL: i32 = 12;

/// Makes the other forms of a published index anew until all are of the same text. Every program that has changed the index does
/// it, so the last writer of a form has seen the last index. The zchunk form and shards are added if there are none.
pub(super) async fn converge(
    engine: &Engine,
    outlet: &Outlet,
    subdir: &str,
    work: &Path,
) -> Result<(), Error> {
    let update = Update {
        engine,
        outlet,
        subdir,
        work,
        adds_forms: true,
    };
    for _ in 0..MAX_ROUNDS {
        let current = update.read().await?;
        if update.is_converged(current.as_ref()).await? {
            return Ok(());
        }
    }
    Err(update.contended())
}

/// A form of an index that is a local file.
pub(super) async fn index_form(
    subdir: &str,
    name: &'static str,
    path: PathBuf,
) -> Result<NewFile, Error> {
    let failed = |error| local(&path)(io::Error::other(error));
    let content = Content::file(path.clone()).await.map_err(failed)?;
    let file = NewFile::new(index_file(subdir, name), content).await;
    let file = file.map_err(failed)?;
    Ok(file.with_headers(content_type(name), Some(SHORT)))
}

/// What a program will add to an index.
#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    records: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
}

/// Adds packages to the index of a subdir, and returns when the published index has all of them. The files must be there.
/// `work` is a directory for temporary files.
///
/// # Errors
/// When the index cannot be read or written, or others change it all the time. Then the packages are at the destination, and a
/// later call adds them.
pub async fn add_packages(
    engine: &Engine,
    outlet: &Outlet,
    subdir: &str,
    packages: &[NewPackage],
    work: &Path,
) -> Result<(), Error> {
    let update = Update {
        engine,
        outlet,
        subdir,
        work,
        adds_forms: false,
    };
    update.run(packages).await
}

struct Update<'a> {
    engine: &'a Engine,
    outlet: &'a Outlet,
    subdir: &'a str,
    work: &'a Path,
    /// Whether the zchunk form and shards are made if there are none. Those that are there are always kept up to date.
    adds_forms: bool,
}

/// Records to add, by map and key.
pub(super) type Records = BTreeMap<(Form, String), String>;

impl Update<'_> {
    async fn run(&self, packages: &[NewPackage]) -> Result<(), Error> {
        let has_conditions = self.engine.honours_conditions(self.outlet).await?;
        let mut ours = Records::new();
        for package in packages {
            let text = serde_json::to_string(&package.record).unwrap_or_default();
            ours.insert((package.form(), package.file.clone()), text);
        }
        if !has_conditions && !packages.is_empty() {
            self.note(packages).await?;
        }
        for round in 0..MAX_ROUNDS {
            let current = self.read().await?;
            let mut wanted = ours.clone();
            let intents = if has_conditions {
                Vec::new()
            } else {
                self.intents().await?
            };
            if !intents.is_empty() {
                // Ours is among them.
                wanted.clear();
            }
            for name in &intents {
                for (key, text) in self.intent(name).await? {
                    // The newest comes first: a package may have been replaced under its name.
                    wanted.entry(key).or_insert(text);
                }
            }
            let path = current.as_ref().map(|index| index.path.clone());
            let table = current.as_ref().map(|index| &index.table);
            let missing = missing(table, path.as_deref(), wanted)?;
            let missing = self.there(missing, &ours).await?;
            if missing.is_empty() && current.is_some() {
                if self.is_converged(current.as_ref()).await? {
                    self.forget_old(&intents).await;
                    return Ok(());
                }
                continue;
            }
            if let Err(error) = self.write(current, missing, has_conditions).await {
                match &error {
                    Error::Destination(delivery) if delivery.is_conflict() => {}
                    _ => return Err(error),
                }
                // Others are quicker: wait for a different time than they do.
                let entropy = format!("{:?}{}", SystemTime::now(), std::process::id());
                let share = Sha256::of(entropy.as_bytes()).as_bytes()[0];
                let most = 40 * u64::from(round.min(20) + 1);
                let wait = most * u64::from(share) / 255;
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        }
        Err(self.contended())
    }

    /// Leaves out what others have noted and what is not there any more: an intent outlives a package that is deleted.
    async fn there(&self, mut records: Records, ours: &Records) -> Result<Records, Error> {
        let others: Vec<(Form, String)> = (records.keys())
            .filter(|key| !ours.contains_key(key))
            .cloned()
            .collect();
        for key in others {
            let (target, _) = package_file(self.subdir, &key.1);
            let any = Expected::default();
            let held = self.engine.look(self.outlet, &target, &any).await?;
            if held.is_none() {
                records.remove(&key);
            }
        }
        Ok(records)
    }

    fn contended(&self) -> Error {
        Error::Contended {
            place: format!("{}/{}", self.outlet.location(), self.subdir),
        }
    }

    /// The published index; `None` if there is none.
    async fn read(&self) -> Result<Option<LocalIndex>, Error> {
        let none = BTreeMap::new();
        let path = self.work.join(format!("{}-current.json", self.subdir));
        let form = "repodata.json";
        let mirrors = self.outlet.mirrors();
        let fetched = fetch_form(self.engine, mirrors, self.subdir, form, &none, path).await;
        match fetched {
            Ok(IndexResponse::Index(index)) => Ok(Some(*index)),
            Ok(_) => Ok(None),
            Err(source) => Err(Error::Published {
                place: format!("{}/{}", self.outlet.location(), self.subdir),
                source,
            }),
        }
    }

    /// Whether the other forms are made of the same text. If not, one is made anew, and the index must be read again.
    async fn is_converged(&self, current: Option<&LocalIndex>) -> Result<bool, Error> {
        // In a registry both change at once.
        let Some(current) = current.filter(|_| !self.outlet.is_registry()) else {
            return Ok(true);
        };
        let none = BTreeMap::new();
        let path = self.work.join(format!("{}-compressed.json", self.subdir));
        let form = "repodata.json.zst";
        let mirrors = self.outlet.mirrors();
        let fetched = fetch_form(self.engine, mirrors, self.subdir, form, &none, path).await;
        if let Ok(IndexResponse::Index(compressed)) = fetched
            && compressed.sha256 == current.sha256
        {
            let is_converged = self.are_shards_converged(current).await?;
            return Ok(is_converged && self.is_zck_converged(current).await?);
        }
        let compressed = self.work.join(format!("{}-current.json.zst", self.subdir));
        compress(current.path.clone(), compressed.clone(), LEVEL).await?;
        let file = index_form(self.subdir, "repodata.json.zst", compressed).await?;
        self.put("repodata.json.zst", &[file]).await?;
        Ok(false)
    }

    /// The same for the shards: first the files, then their index, then the note of what is there.
    async fn are_shards_converged(&self, current: &LocalIndex) -> Result<bool, Error> {
        let published = self.small_file(index_file(self.subdir, SHARDS)).await?;
        if published.is_none() && !self.adds_forms {
            return Ok(true);
        }
        let note = || note_file(self.subdir, "shards.json");
        let cache = self.small_file(note()).await?.unwrap_or_default();
        let cache: ShardCache = serde_json::from_slice(&cache).unwrap_or_default();
        let (table, text) = (current.table.clone(), current.path.clone());
        let (subdir, earlier) = (self.subdir.to_owned(), cache.clone());
        let work = move || make_shards(&table, &text, &subdir, &earlier);
        let made = blocking(work).await.map_err(local(&current.path))?;
        let Some(made) = made else {
            if published.is_none() {
                return Ok(true);
            }
            // They would be of another index.
            let target = index_file(self.subdir, SHARDS);
            self.engine.delete(self.outlet, &[target]).await?;
            return Ok(false);
        };
        if published.as_deref() == Some(&made.index[..]) {
            return Ok(true);
        }
        let Shards {
            index,
            new,
            cache: next,
        } = made;
        let mut sending = stream::iter(new.into_iter().map(|(digest, bytes)| async move {
            let file = self
                .new_file(shard(self.subdir, &digest), bytes, IMMUTABLE)
                .await?;
            self.put(&format!("shards/{digest}"), &[file]).await
        }))
        .buffer_unordered(PARALLEL);
        while let Some(sent) = sending.next().await {
            sent?;
        }
        drop(sending);
        let file = self
            .new_file(index_file(self.subdir, SHARDS), index, SHORT)
            .await?;
        self.put(SHARDS, &[file]).await?;
        let (next, old) = retire(next, &cache, seconds_now());
        let text = serde_json::to_vec(&next).unwrap_or_default();
        let file = self.new_file(note(), text, NEVER).await?;
        self.put("shards.json", &[file]).await?;
        let old: Vec<Target> = old
            .iter()
            .map(|digest| shard(self.subdir, digest))
            .collect();
        if let Err(error) = self.engine.delete(self.outlet, &old).await {
            tracing::debug!(error = %error.problem(), "cannot delete old shards");
        }
        Ok(false)
    }

    /// A file in memory; `None` if it is not there.
    async fn small_file(&self, target: Target) -> Result<Option<Vec<u8>>, Error> {
        let mut sink = MemorySink::new(MAX_INTENT);
        let job = Job::metadata(target.path.clone(), target);
        match self
            .engine
            .fetch(self.outlet.mirrors(), &job, &mut sink)
            .await
        {
            Ok(_) => Ok(Some(sink.into_bytes())),
            Err(error) if error.is_absent() || error.has_absence() => Ok(None),
            Err(source) => Err(Error::Published {
                place: format!("{}/{}", self.outlet.location(), self.subdir),
                source,
            }),
        }
    }

    async fn new_file(
        &self,
        target: Target,
        bytes: Vec<u8>,
        cache_control: &'static str,
    ) -> Result<NewFile, Error> {
        let path = PathBuf::from(&target.path);
        let kind = content_type(&target.path);
        let file = NewFile::new(target, Content::from(bytes)).await;
        let file = file.map_err(|error| local(&path)(io::Error::other(error)))?;
        Ok(file.with_headers(kind, Some(cache_control)))
    }

    /// The same for the zchunk form.
    async fn is_zck_converged(&self, current: &LocalIndex) -> Result<bool, Error> {
        let mirrors = self.outlet.mirrors();
        let held = self.work.join(format!("{}-current.json.zck", self.subdir));
        let has_one = fetch_zck(self.engine, mirrors, self.subdir, &held).await?;
        if !has_one && !self.adds_forms {
            return Ok(true);
        }
        let (table, text) = (current.table.clone(), current.path.clone());
        let output = self.work.join(format!("{}-next.json.zck", self.subdir));
        let written = output.clone();
        let work = move || make_zck(&table, &text, has_one.then_some(&*held), &written);
        match blocking(work).await.map_err(local(&output))? {
            Zck::Same => Ok(true),
            Zck::Impossible if !has_one => Ok(true),
            // One that is not of this index must not stay.
            Zck::Impossible => {
                let target = index_file(self.subdir, ZCK);
                self.engine.delete(self.outlet, &[target]).await?;
                Ok(false)
            }
            Zck::Written => {
                let file = index_form(self.subdir, ZCK, output).await?;
                self.put(ZCK, &[file]).await?;
                Ok(false)
            }
        }
    }

    async fn write(
        &self,
        current: Option<LocalIndex>,
        missing: Records,
        has_conditions: bool,
    ) -> Result<(), Error> {
        let condition = match (&current, has_conditions) {
            (_, false) => Condition::None,
            (None, true) => Condition::Absent,
            (Some(index), true) => match &index.validators.etag {
                Some(tag) => Condition::Unchanged(tag.clone()),
                None => Condition::None,
            },
        };
        let text = self.work.join(format!("{}-next.json", self.subdir));
        let (output, subdir) = (text.clone(), self.subdir.to_owned());
        let without = BTreeSet::new();
        let work = move || write_changed(current, &subdir, &without, &missing, &output);
        blocking(work).await.map_err(local(&text))?;
        let plain = index_form(self.subdir, "repodata.json", text.clone()).await?;
        let plain = plain.with_condition(condition);
        if self.outlet.is_registry() {
            let compressed = text.with_extension("json.zst");
            compress(text, compressed.clone(), LEVEL).await?;
            let compressed = index_form(self.subdir, "repodata.json.zst", compressed).await?;
            return self.put("repodata.json", &[compressed, plain]).await;
        }
        self.put("repodata.json", &[plain]).await
    }

    async fn put(&self, name: &str, files: &[NewFile]) -> Result<(), Error> {
        let options = PutOptions {
            keeps_other_layers: true,
        };
        let label = format!("{}/{name}", self.subdir);
        self.engine.put(self.outlet, &label, files, options).await?;
        Ok(())
    }

    /// Notes what this program will add.
    async fn note(&self, packages: &[NewPackage]) -> Result<(), Error> {
        let records = packages
            .iter()
            .map(|package| (package.file.clone(), package.record.clone()));
        let intent = Intent {
            records: records.collect(),
        };
        let text = serde_json::to_vec(&intent).unwrap_or_default();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        let digest = Sha256::of(&text).to_string();
        let name = format!("intent-{millis}-{}", &digest[..16]);
        let target = note_file(self.subdir, &name);
        let label = target.path.clone();
        let file = NewFile::new(target, Content::from(text)).await;
        let file = file.map_err(|error| local(Path::new(&label))(std::io::Error::other(error)))?;
        let file = file.with_headers("application/json", Some(NEVER));
        let options = PutOptions::default();
        self.engine
            .put(self.outlet, &label, &[file], options)
            .await?;
        Ok(())
    }

    /// The names of all intents, the newest first.
    async fn intents(&self) -> Result<Vec<String>, Error> {
        let mut names = self.intents_in_any_order().await?;
        names.sort_by_key(|name| std::cmp::Reverse(time_of(name)));
        Ok(names)
    }

    async fn intents_in_any_order(&self) -> Result<Vec<String>, Error> {
        let repository = notes_repository(self.subdir);
        if let Some(tags) = self.engine.tags(self.outlet, &repository).await? {
            return Ok(tags
                .into_iter()
                .filter(|tag| tag.starts_with("intent-"))
                .collect());
        }
        let prefix = format!("{}/{NOTES}/intent-", self.subdir);
        let start = format!("{}/{NOTES}/", self.subdir);
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let page = self
                .engine
                .list(self.outlet, &prefix, after.as_deref())
                .await?;
            let page = page.unwrap_or_default();
            let found = page
                .files
                .iter()
                .filter_map(|file| file.path.strip_prefix(&start));
            names.extend(found.map(str::to_owned));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(names),
            }
        }
    }

    /// The records of an intent. One that cannot be read is not there any more.
    async fn intent(&self, name: &str) -> Result<Records, Error> {
        let mut sink = MemorySink::new(MAX_INTENT);
        let job = Job::metadata("an intent", note_file(self.subdir, name));
        let fetched = self
            .engine
            .fetch(self.outlet.mirrors(), &job, &mut sink)
            .await;
        match fetched {
            Ok(_) => {}
            Err(error) if error.is_absent() => return Ok(Records::new()),
            Err(source) => {
                return Err(Error::State {
                    place: format!("{}/{}", self.outlet.location(), self.subdir),
                    source,
                });
            }
        }
        let Ok(intent) = serde_json::from_slice::<Intent>(&sink.into_bytes()) else {
            return Ok(Records::new());
        };
        let record = |(file, record): (String, serde_json::Map<_, _>)| {
            let form = if file.ends_with(".conda") {
                Form::Conda
            } else {
                Form::TarBz2
            };
            (
                (form, file),
                serde_json::to_string(&record).unwrap_or_default(),
            )
        };
        Ok(intent.records.into_iter().map(record).collect())
    }

    /// Removes intents that no writer waits for: the index has them.
    async fn forget_old(&self, intents: &[String]) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_millis());
        let is_old = |name: &&String| {
            time_of(name).is_some_and(|millis| now.saturating_sub(millis) > OLD.as_millis())
        };
        let old: Vec<Target> = (intents.iter().filter(is_old))
            .map(|name| note_file(self.subdir, name))
            .collect();
        if let Err(error) = self.engine.delete(self.outlet, &old).await {
            tracing::debug!(error = %error.problem(), "cannot delete old intents");
        }
    }
}

/// When an intent was noted, in milliseconds since 1970.
fn time_of(intent: &str) -> Option<u128> {
    intent.split('-').nth(1)?.parse().ok()
}

/// Which of these records an index does not have, or has otherwise.
fn missing(
    table: Option<&RecordTable>,
    path: Option<&Path>,
    wanted: Records,
) -> Result<Records, Error> {
    let (Some(table), Some(path)) = (table, path) else {
        return Ok(wanted);
    };
    let mut missing = Records::new();
    let mut places = BTreeMap::new();
    for row in table.rows() {
        let key = (row.form, table.key(row).to_owned());
        if wanted.contains_key(&key) {
            places.insert(key, row.clone());
        }
    }
    let mut file = File::open(path).map_err(local(path))?;
    for (key, text) in wanted {
        let Some(row) = places.get(&key) else {
            missing.insert(key, text);
            continue;
        };
        let held = RecordTable::text(row, &mut file).map_err(local(path))?;
        if !is_same_record(&held, text.as_bytes()) {
            missing.insert(key, text);
        }
    }
    Ok(missing)
}

/// Whether two records agree, but for the time at which they came into the index.
fn is_same_record(one: &[u8], other: &[u8]) -> bool {
    let read = |text| {
        let record: Option<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_slice(text).ok();
        record.map(|mut record| {
            record.remove(INDEXED);
            record
        })
    };
    read(one) == read(other)
}

/// Notes which shards are not named any more, and returns those that have not been named for a day. A reader may still have an
/// index that names the others.
fn retire(mut next: ShardCache, earlier: &ShardCache, now: u64) -> (ShardCache, Vec<String>) {
    let named: BTreeSet<&str> = next.digests().collect();
    let gone = earlier.digests().filter(|digest| !named.contains(digest));
    let gone: Vec<String> = gone.map(str::to_owned).collect();
    next.retired = earlier.retired.clone();
    for digest in gone {
        next.retired.entry(digest).or_insert(now);
    }
    let named: BTreeSet<String> = next.digests().map(str::to_owned).collect();
    next.retired.retain(|digest, _| !named.contains(digest));
    let is_old = |since: u64| now.saturating_sub(since) >= SHARD_GRACE.as_secs();
    let old = next.retired.iter().filter(|(_, since)| is_old(**since));
    let old: Vec<String> = old.map(|(digest, _)| digest.clone()).collect();
    next.retired.retain(|digest, _| !old.contains(digest));
    (next, old)
}

fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(shards: &[(&str, &str)]) -> ShardCache {
        let text = serde_json::json!({
            "shards": shards.iter().map(|(name, shard)| {
                ((*name).to_owned(), serde_json::json!({"records": "", "shard": shard}))
            }).collect::<serde_json::Map<_, _>>(),
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn shards_are_deleted_a_day_after_the_last_index_that_names_them() {
        let first = cache(&[("a", "1"), ("b", "2")]);
        let (second, old) = retire(cache(&[("a", "3"), ("b", "2")]), &first, 100);
        assert!(old.is_empty());
        assert_eq!(second.retired, BTreeMap::from([("1".to_owned(), 100)]));
        // One that is named again stays.
        let day = SHARD_GRACE.as_secs();
        let (again, old) = retire(cache(&[("a", "1"), ("b", "2")]), &second, 100 + day);
        assert!(old.is_empty());
        assert_eq!(again.retired, BTreeMap::from([("3".to_owned(), 100 + day)]));
        let (_, old) = retire(cache(&[("a", "4"), ("b", "2")]), &again, 100 + 2 * day);
        assert_eq!(old, ["3"]);
    }
}
