//! What each destination lacks, and in which groups it is sent.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::StreamExt as _;

use super::{
    copy::Group,
    error::SyncError,
    run::{Contents, Run},
    source::{IndexResponse, fetch_index_file},
    state::MirrorState,
    worker::share_of,
};
use crate::{
    layout::package_file,
    records::{RecordTable, identity},
};

/// Into how many parts a mirror is divided for verification: one of them per run.
const SLICES: u32 = 30;

/// What is different at a destination.
#[derive(Default)]
pub(super) struct Difference {
    /// Rows that it lacks.
    pub(super) lacking: HashSet<usize>,
    /// Of these, rows whose file is there with another content that the published index names.
    pub(super) replaced: HashSet<usize>,
    /// Rows that failed before and are not tried again yet.
    pub(super) deferred: HashSet<usize>,
    /// Files that the published index names, and the new one does not.
    pub(super) dropped: Vec<String>,
    pub(super) published: usize,
    pub(super) looks_first: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    First,
    Replacements,
}

impl Run<'_> {
    /// What a destination lacks, by comparison with the index that it has published.
    pub(super) async fn difference(
        &self,
        contents: &Contents,
        number: usize,
        state: Option<&MirrorState>,
    ) -> Result<Difference, SyncError> {
        let outlet = &self.outlets[number];
        let place = format!("{}/{}", outlet.location(), self.subdir);
        let name = format!("{}-published-{number}.json", self.subdir);
        let none = BTreeMap::new();
        let published = fetch_index_file(
            self.engine,
            outlet.mirrors(),
            self.subdir,
            &none,
            &self.options.work,
            &name,
        );
        let published = match published.await {
            Ok(IndexResponse::Index(index)) => {
                let _ = std::fs::remove_file(&index.path);
                index.table
            }
            Ok(_) => RecordTable::default(),
            Err(source) => return Err(SyncError::Published { place, source }),
        };
        let mut difference = Difference {
            published: published.len(),
            // An index that another program has made proves nothing.
            looks_first: state.is_none() && !published.is_empty(),
            ..Difference::default()
        };
        let trusted = state.is_some();
        let known: HashMap<&str, u128> = (published.rows().iter())
            .map(|row| {
                let name = published.file_name(row);
                (name, identity(name, &row.expected()))
            })
            .collect();
        let mut wanted: HashSet<&str> = HashSet::with_capacity(contents.table.len());
        for (number, row) in contents.table.rows().iter().enumerate() {
            if contents.left_out.contains(&number) {
                continue;
            }
            let name = contents.table.file_name(row);
            wanted.insert(name);
            match known.get(name) {
                Some(held) if *held == identity(name, &row.expected()) => {
                    if !trusted {
                        difference.lacking.insert(number);
                    }
                }
                Some(_) => {
                    difference.lacking.insert(number);
                    // In a registry both contents stay.
                    if !outlet.is_registry() {
                        difference.replaced.insert(number);
                    }
                }
                None => {
                    difference.lacking.insert(number);
                }
            }
        }
        if let Some(worker) = self.options.worker {
            difference.lacking.retain(|row| {
                let file = contents.table.file_name(&contents.table.rows()[*row]);
                share_of(file, worker.count) == worker.index
            });
        }
        if let Some(state) = state.filter(|_| !self.options.retry_failed) {
            let is_early = |row: &usize| {
                let file = contents.table.file_name(&contents.table.rows()[*row]);
                let failure = state.failures.get(file);
                failure.is_some_and(|failure| failure.next > contents.now)
            };
            let (early, lacking) = difference.lacking.iter().copied().partition(is_early);
            (difference.deferred, difference.lacking) = (early, lacking);
            difference
                .replaced
                .retain(|row| !difference.deferred.contains(row));
        }
        difference.dropped = (known.keys())
            .filter(|name| !wanted.contains(*name))
            .map(|name| (*name).to_owned())
            .collect();
        difference.dropped.sort();
        let same_filters = state.is_none_or(|state| state.filters == contents.filters);
        #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
        let share = difference.dropped.len() as f64 / published.len().max(1) as f64 * 100.0;
        if same_filters && share > self.options.max_delete {
            return Err(SyncError::TooManyDropped {
                subdir: self.subdir.to_owned(),
                place: outlet.location().to_string(),
                dropped: difference.dropped.len(),
                published: published.len(),
                limit: self.options.max_delete,
            });
        }
        if self.options.verify && trusted {
            self.verify_slice(contents, number, state, &mut difference)
                .await;
        }
        Ok(difference)
    }

    /// Looks at a part of the packages that a destination should have.
    async fn verify_slice(
        &self,
        contents: &Contents,
        number: usize,
        state: Option<&MirrorState>,
        difference: &mut Difference,
    ) {
        let slice = next_slice(state.and_then(|state| state.verified));
        let rows = (contents.table.rows().iter().enumerate())
            .filter(|(row, _)| {
                !contents.left_out.contains(row)
                    && !difference.lacking.contains(row)
                    && !difference.deferred.contains(row)
            })
            .filter(|(_, row)| slice_of(contents.table.file_name(row)) == slice);
        let rows: Vec<usize> = rows.map(|(row, _)| row).collect();
        let looks = futures_util::stream::iter(rows.into_iter().map(|row| {
            let record = &contents.table.rows()[row];
            let (target, _) = package_file(self.subdir, contents.table.file_name(record));
            let (expected, outlet) = (record.expected(), &self.outlets[number]);
            async move {
                let held = self.engine.look(outlet, &target, &expected).await;
                // A failure to look is not a proof of absence.
                (
                    row,
                    held.is_ok_and(|held| held.is_none_or(|held| !held.is(&expected))),
                )
            }
        }));
        let missing = looks.buffer_unordered(self.options.jobs.max(1));
        let missing: Vec<(usize, bool)> = missing.collect().await;
        difference.lacking.extend(
            missing
                .into_iter()
                .filter(|(_, missing)| *missing)
                .map(|(row, _)| row),
        );
    }

    /// Puts what is lacking into groups, in the order of names.
    pub(super) fn groups(
        contents: &Contents,
        differences: &HashMap<usize, Difference>,
        phase: Phase,
    ) -> Vec<Group> {
        let table = &contents.table;
        let mut masks: HashMap<usize, u64> = HashMap::new();
        for (number, difference) in differences {
            for row in &difference.lacking {
                if difference.replaced.contains(row) == (phase == Phase::Replacements) {
                    *masks.entry(*row).or_default() |= 1 << number;
                }
            }
        }
        let mut rows: Vec<(usize, u64)> = masks.into_iter().collect();
        let stem = |row: usize| {
            let name = table.file_name(&table.rows()[row]);
            let stem = name
                .strip_suffix(".conda")
                .or_else(|| name.strip_suffix(".tar.bz2"));
            stem.unwrap_or(name)
        };
        rows.sort_by_key(|(row, _)| stem(*row));
        // Stems with several files in the index.
        let mut count: HashMap<&str, u8> = HashMap::new();
        for (row, _) in table.rows().iter().enumerate() {
            if !contents.left_out.contains(&row) {
                let count = count.entry(stem(row)).or_default();
                *count = count.saturating_add(1);
            }
        }
        let mut groups: Vec<Group> = Vec::new();
        let mut last = None;
        for (row, mask) in rows {
            let this = stem(row);
            match groups.last_mut() {
                Some(group) if last == Some(this) => group.rows.push((row, mask)),
                _ => groups.push(Group {
                    rows: vec![(row, mask)],
                    has_twin: count.get(this).is_some_and(|count| *count > 1),
                }),
            }
            last = Some(this);
        }
        groups
    }
}

/// The part of a mirror that is verified next.
pub(super) fn next_slice(last: Option<u32>) -> u32 {
    last.map_or(0, |last| (last + 1) % SLICES)
}

/// The part of a mirror that a file is in.
pub(super) fn slice_of(file_name: &str) -> u32 {
    let digest = taipan_transfer::Sha256::of(file_name.as_bytes());
    u32::from(digest.as_bytes()[0]) % SLICES
}
