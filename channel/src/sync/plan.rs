//! What each destination lacks, and in which groups it is sent.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

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
        let mut known: HashMap<&str, (u128, bool)> = (published.rows().iter())
            .map(|row| {
                let name = published.file_name(row);
                (name, (identity(name, &row.expected()), false))
            })
            .collect();
        for (number, row) in contents.table.rows().iter().enumerate() {
            if contents.left_out.contains(&number) {
                continue;
            }
            let name = contents.table.file_name(row);
            let held = known.get_mut(name).map(|(held, is_wanted)| {
                *is_wanted = true;
                *held
            });
            match held {
                Some(held) if held == identity(name, &row.expected()) => {
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
                let row = &contents.table.rows()[*row];
                let failure = state.failures.get(contents.table.file_name(row));
                // Another file under the same name is tried at once.
                failure.is_some_and(|failure| {
                    let sha256 = row.sha256().map(|it| it.to_string());
                    failure.next > contents.now && failure.sha256 == sha256
                })
            };
            let (early, lacking) = difference.lacking.iter().copied().partition(is_early);
            (difference.deferred, difference.lacking) = (early, lacking);
            difference
                .replaced
                .retain(|row| !difference.deferred.contains(row));
        }
        difference.dropped = (known.iter())
            .filter(|(_, (_, is_wanted))| !is_wanted)
            .map(|(name, _)| (*name).to_owned())
            .collect();
        difference.dropped.sort();
        self.check_dropped(contents, outlet, state, &published, &difference)?;
        if self.options.verify && trusted {
            self.verify_slice(contents, number, state, &mut difference)
                .await;
        }
        Ok(difference)
    }

    /// Refuses an index that lists much less than before.
    fn check_dropped(
        &self,
        contents: &Contents,
        outlet: &taipan_transfer::Outlet,
        state: Option<&MirrorState>,
        published: &RecordTable,
        difference: &Difference,
    ) -> Result<(), SyncError> {
        let same_filters = state.is_none_or(|state| state.filters == contents.filters);
        #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
        let share = difference.dropped.len() as f64 / published.len().max(1) as f64 * 100.0;
        // An index without anything is never believed, whatever the filters are.
        let is_empty = contents.table.is_empty() && share > 0.0;
        if is_empty || (same_filters && share > self.options.max_delete) {
            return Err(SyncError::TooManyDropped {
                subdir: self.subdir.to_owned(),
                place: outlet.location().to_string(),
                dropped: difference.dropped.len(),
                published: published.len(),
                limit: self.options.max_delete,
            });
        }
        Ok(())
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
    ) -> Groups {
        let table = &contents.table;
        let mut masks: Vec<u64> = vec![0; table.len()];
        for (number, difference) in differences {
            for row in &difference.lacking {
                if difference.replaced.contains(row) == (phase == Phase::Replacements) {
                    masks[*row] |= 1 << number;
                }
            }
        }
        let is_wanted = |row: &usize| !contents.left_out.contains(row);
        let mut order: Vec<usize> = (0..table.len()).filter(is_wanted).collect();
        order.sort_by_key(|row| stem(table, *row));
        Groups {
            table: Arc::clone(table),
            masks,
            order,
            next: 0,
        }
    }
}

/// The name of a package without its extension: both archive formats of a build have the same.
fn stem(table: &RecordTable, row: usize) -> &str {
    let name = table.file_name(&table.rows()[row]);
    let stem = name
        .strip_suffix(".conda")
        .or_else(|| name.strip_suffix(".tar.bz2"));
    stem.unwrap_or(name)
}

/// What is lacking, in groups and in the order of names. They are made when they are needed: a channel has hundreds of thousands.
#[derive(Clone)]
pub(super) struct Groups {
    table: Arc<RecordTable>,
    /// By row, the destinations that lack it.
    masks: Vec<u64>,
    /// All wanted rows, in the order of their stems.
    order: Vec<usize>,
    next: usize,
}

impl Iterator for Groups {
    type Item = Group;

    fn next(&mut self) -> Option<Group> {
        loop {
            let first = *self.order.get(self.next)?;
            let this = stem(&self.table, first);
            let same = self.order[self.next..].iter();
            let same = same.take_while(|row| stem(&self.table, **row) == this);
            let count = same.count();
            let of_stem = &self.order[self.next..self.next + count];
            let rows = of_stem.iter().map(|row| (*row, self.masks[*row]));
            let rows: Vec<(usize, u64)> = rows.filter(|(_, mask)| *mask != 0).collect();
            self.next += count;
            if !rows.is_empty() {
                return Some(Group {
                    rows,
                    has_twin: count > 1,
                });
            }
        }
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
