//! Several processes that share the work, on any machines. They have only the first destination in common: a note there names the
//! source index that all work from, and each leaves a mark when its share is done. The process that finds all
//! marks publishes.

use std::{collections::BTreeMap, fs::File, io::BufReader};

use serde::{Deserialize, Serialize};
use taipan_transfer::{Content, Job, MemorySink, NewFile, PutOptions, Sha256, Target, Validators};

use super::{
    copy::Done,
    error::SyncError,
    local::{blocking, compress, local},
    options::Worker,
    report::FailureSide,
    run::{Contents, Run},
    source::LocalIndex,
};
use crate::{
    layout::{NEVER, note_file},
    records::RecordTable,
};

/// The name of the note with the plan.
const PLAN: &str = "plan.json";

/// The largest note that is read, in bytes.
const MAX_NOTE: usize = 1 << 30;

/// The source index that all workers use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    /// The digest of its text.
    sha256: String,
    /// How many workers there are.
    count: u32,
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Plan {
    fn text_name(&self) -> String {
        format!("plan-{}.json.zst", &self.sha256[..16])
    }
}

/// What a worker has done.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Mark {
    /// By destination, in their order: the packages that failed, by file name.
    failures: Vec<BTreeMap<String, (FailureSide, String)>>,
}

fn mark_name(sha256: &str, worker: Worker) -> String {
    format!("done-{}-{}-{}", &sha256[..16], worker.index, worker.count)
}

/// Whose share a package is. All packages of one name are in one share, and so in one repository.
pub(super) fn share_of(file_name: &str, count: u32) -> u32 {
    let name = super::filter::name_of(file_name).unwrap_or(file_name);
    let digest = Sha256::of(name.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    let share = u64::from_le_bytes(bytes) % u64::from(count.max(1));
    u32::try_from(share).unwrap_or(0)
}

impl Run<'_> {
    /// The index that a plan names which is not finished yet.
    pub(super) async fn planned_index(
        &self,
        worker: Worker,
    ) -> Result<Option<LocalIndex>, SyncError> {
        let Some(plan) = self.read_plan().await? else {
            return Ok(None);
        };
        // A plan of another number of workers has other shares.
        if plan.count != worker.count {
            return Ok(None);
        }
        self.load(&plan).await
    }

    /// Makes an index the plan, unless another worker was quicker: then that one's.
    pub(super) async fn pin(
        &self,
        index: LocalIndex,
        worker: Worker,
    ) -> Result<LocalIndex, SyncError> {
        let plan = Plan {
            sha256: index.sha256.to_string(),
            count: worker.count,
            url: index.url.clone(),
            etag: index.validators.etag.clone(),
            last_modified: index.validators.last_modified.clone(),
        };
        let compressed = index.path.with_extension("plan.zst");
        compress(index.path.clone(), compressed.clone(), 3).await?;
        let content = Content::file(compressed.clone()).await;
        let failed = |error| local(&compressed)(std::io::Error::other(error));
        self.put(&plan.text_name(), content.map_err(failed)?)
            .await?;
        let text = serde_json::to_vec(&plan).unwrap_or_default();
        self.put(PLAN, Content::from(text)).await?;
        match self.read_plan().await? {
            Some(other) if other != plan && other.count == worker.count => {
                Ok(self.load(&other).await?.unwrap_or(index))
            }
            _ => Ok(index),
        }
    }

    async fn read_plan(&self) -> Result<Option<Plan>, SyncError> {
        let text = self.get(PLAN).await?;
        let plan: Option<Plan> = text.and_then(|text| serde_json::from_slice(&text).ok());
        Ok(plan.filter(|plan| plan.sha256.len() == 64 && plan.sha256.is_ascii()))
    }

    async fn load(&self, plan: &Plan) -> Result<Option<LocalIndex>, SyncError> {
        let Some(compressed) = self.get(&plan.text_name()).await? else {
            return Ok(None);
        };
        let path = self
            .options
            .work
            .join(format!("{}-planned.json", self.subdir));
        let written = path.clone();
        let read = move || -> std::io::Result<RecordTable> {
            let mut file = File::create(&written)?;
            zstd::stream::copy_decode(&compressed[..], &mut file)?;
            let mut input = BufReader::new(File::open(&written)?);
            RecordTable::scan(&mut input).map_err(std::io::Error::other)
        };
        let table = blocking(read).await.map_err(local(&path))?;
        let Ok(sha256) = plan.sha256.parse() else {
            return Ok(None);
        };
        Ok(Some(LocalIndex {
            path,
            sha256,
            table,
            url: plan.url.clone(),
            validators: Validators {
                etag: plan.etag.clone(),
                last_modified: plan.last_modified.clone(),
            },
        }))
    }

    /// Leaves the mark of a share that is done. Then the failures of all shares are added, if all are done. Whether they are.
    pub(super) async fn finish_share(
        &self,
        contents: &Contents,
        worker: Worker,
        done: &mut [Done],
    ) -> Result<bool, SyncError> {
        if done
            .iter()
            .any(|done| !done.postponed.is_empty() || done.gave_up.is_some())
        {
            return Ok(false);
        }
        let table = &contents.table;
        let failures = done.iter().map(|done| {
            let name = |row: &usize| table.file_name(&table.rows()[*row]).to_owned();
            done.failures
                .iter()
                .map(|(row, failure)| (name(row), failure.clone()))
                .collect()
        });
        let mark = Mark {
            failures: failures.collect(),
        };
        let sha256 = contents.index.sha256.to_string();
        let text = serde_json::to_vec(&mark).unwrap_or_default();
        self.put(&mark_name(&sha256, worker), Content::from(text))
            .await?;
        let mut rows: Option<BTreeMap<&str, usize>> = None;
        for index in 0..worker.count {
            let other = Worker { index, ..worker };
            let Some(text) = self.get(&mark_name(&sha256, other)).await? else {
                return Ok(false);
            };
            let mark: Mark = serde_json::from_slice(&text).unwrap_or_default();
            for (done, failures) in done.iter_mut().zip(mark.failures) {
                for (file, failure) in failures {
                    let rows = rows.get_or_insert_with(|| {
                        let rows = table.rows().iter().enumerate();
                        rows.map(|(number, row)| (table.file_name(row), number))
                            .collect()
                    });
                    if let Some(row) = rows.get(file.as_str()) {
                        done.failures.insert(*row, failure);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Removes the plan and the marks of a run that all workers have finished.
    pub(super) async fn forget_plan(&self, sha256: &str, worker: Worker) {
        let mut names = vec![PLAN.to_owned(), format!("plan-{}.json.zst", &sha256[..16])];
        let others = (0..worker.count).map(|index| Worker { index, ..worker });
        names.extend(others.map(|other| mark_name(sha256, other)));
        let targets: Vec<Target> = names
            .iter()
            .map(|name| note_file(self.subdir, name))
            .collect();
        if let Err(error) = self.engine.delete(&self.outlets[0], &targets).await {
            tracing::debug!(error = %error.problem(), "cannot delete the plan");
        }
    }

    async fn put(&self, name: &str, content: Content) -> Result<(), SyncError> {
        let target = note_file(self.subdir, name);
        let label = target.path.clone();
        let file = NewFile::new(target, content).await;
        let file = file.map_err(|error| local(label.as_ref())(std::io::Error::other(error)))?;
        let file = file.with_headers("application/octet-stream", Some(NEVER));
        let options = PutOptions::default();
        self.engine
            .put(&self.outlets[0], &label, &[file], options)
            .await?;
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, SyncError> {
        let outlet = &self.outlets[0];
        let mut sink = MemorySink::new(MAX_NOTE);
        let job = Job::metadata(name, note_file(self.subdir, name));
        match self.engine.fetch(outlet.mirrors(), &job, &mut sink).await {
            Ok(_) => Ok(Some(sink.into_bytes())),
            Err(error) if error.is_absent() => Ok(None),
            Err(source) => Err(SyncError::State {
                place: format!("{}/{}", outlet.location(), self.subdir),
                source,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_by_name_and_of_similar_size() {
        assert_eq!(share_of("a-1-0.conda", 7), share_of("a-2-x.tar.bz2", 7));
        let mut shares = [0; 3];
        for number in 0..3000 {
            let share = share_of(&format!("package-{number}-1-0.conda"), 3);
            shares[usize::try_from(share).unwrap()] += 1;
        }
        assert!(
            shares.iter().all(|count| (900..1100).contains(count)),
            "{shares:?}"
        );
        assert_eq!(share_of("a-1-0.conda", 1), 0);
    }
}
