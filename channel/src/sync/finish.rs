//! The end of a run at one destination: the index is published, then what is due is deleted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use taipan_transfer::Outlet;

use super::{
    copy::Done,
    error::SyncError,
    plan::{Difference, Phase, next_slice},
    prune::Pruner,
    publish::{Forms, SideFile, make_forms, publish, publish_side_file, save_state},
    report::{CopyFailure, DestinationOutcome, DestinationReport, FailureSide, SyncEvent},
    run::{Contents, Progress, Run, UNFINISHED, time_of},
    state::{Failure, Grave, MirrorState, read_state},
    zck::{ZCK, fetch_zck},
};
use crate::layout::note_file;

impl Run<'_> {
    /// Publishes the index of a destination whose packages were sent, and removes what is due.
    pub(super) async fn finish(
        &self,
        contents: &Contents,
        number: usize,
        difference: &Difference,
        done: Done,
        progress: &mut Progress,
        (forms_of, side): (&mut HashMap<BTreeSet<usize>, Forms>, Option<&SideFile>),
    ) -> Result<(), SyncError> {
        let outlet = &self.outlets[number];
        let table = &contents.table;
        add(&mut progress.report, &done);
        let mut failures = done.failures;
        let mut postponed: BTreeSet<usize> = done.postponed.into_iter().collect();
        if let Some(error) = done.gave_up {
            return Err(error);
        }
        // Before anything is published: they are not there.
        for row in &difference.deferred {
            let file = table.file_name(&table.rows()[*row]);
            let state = progress.state.as_ref();
            let earlier = state.and_then(|state| state.failures.get(file));
            let problem = earlier.map(|failure| failure.problem.clone());
            failures.insert(*row, (FailureSide::Source, problem.unwrap_or_default()));
        }
        if !difference.replaced.is_empty() {
            let done = self
                .replace(
                    contents, number, difference, &failures, &postponed, progress, forms_of,
                )
                .await?;
            failures.extend(done.failures);
            postponed.extend(done.postponed);
        }
        progress.report.failures.clear();
        progress.report.postponed = postponed.len();
        for (row, (side, problem)) in &failures {
            progress.report.failures.push(CopyFailure {
                file: table.file_name(&table.rows()[*row]).to_owned(),
                side: *side,
                problem: problem.clone(),
            });
        }
        if self.options.strict && !failures.is_empty() {
            return Err(SyncError::Held {
                subdir: self.subdir.to_owned(),
                place: outlet.location().to_string(),
                count: failures.len(),
            });
        }
        let earlier = progress.state.take();
        self.check_contention(outlet, earlier.as_ref()).await?;
        let without = left_out(contents, &failures, &postponed);
        let mut state = self.new_state(
            contents, earlier, difference, &failures, &postponed, &without,
        );
        if let Some(side) = side {
            publish_side_file(self.engine, outlet, self.subdir, side, &mut state).await?;
        }
        let forms = self.forms(contents, &without, forms_of).await?;
        publish(self.engine, outlet, self.subdir, &forms, &mut state).await?;
        if !difference.lacking.is_empty() {
            let note = note_file(self.subdir, UNFINISHED);
            let deletions = self.engine.delete(outlet, &[note]).await;
            if let Err(error) = deletions {
                tracing::debug!(error = %error.problem(), "cannot delete a note");
            }
        }
        progress.report.outcome = DestinationOutcome::Published;
        progress.report.packages = state.packages;
        progress.report.index_time = state.source_time;
        if let Some(options) = &self.options.prune {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share need not be exact, and the cast saturates"
            )]
            let most =
                (difference.published.max(100) as f64 * self.options.max_delete / 100.0) as usize;
            let before = state.clone();
            let pruner = Pruner {
                engine: self.engine,
                outlet,
                number,
                subdir: self.subdir,
                options,
                most: most.max(1),
                now: contents.now,
                observer: &*self.observer,
            };
            pruner.prune(&mut state, &mut progress.report).await?;
            if before != state {
                save_state(self.engine, outlet, self.subdir, &state).await?;
            }
        }
        progress.report.graves = state.graves_to_delete();
        progress.state = Some(state);
        Ok(())
    }

    /// Replaces files under their names. The index that is published meanwhile does not name them.
    #[expect(clippy::too_many_arguments, reason = "it is a part of `finish`")]
    async fn replace(
        &self,
        contents: &Contents,
        number: usize,
        difference: &Difference,
        failures: &BTreeMap<usize, (FailureSide, String)>,
        postponed: &BTreeSet<usize>,
        progress: &mut Progress,
        forms_of: &mut HashMap<BTreeSet<usize>, Forms>,
    ) -> Result<Done, SyncError> {
        let outlet = &self.outlets[number];
        let mut without = left_out(contents, failures, postponed);
        without.extend(&difference.replaced);
        let mut state = progress.state.clone().unwrap_or_else(MirrorState::fresh);
        state.source_sha256 = None;
        state.validators.clear();
        let forms = self.forms(contents, &without, forms_of).await?;
        publish(self.engine, outlet, self.subdir, &forms, &mut state).await?;
        progress.state = Some(state);
        let replacements = Difference {
            lacking: difference.replaced.clone(),
            replaced: difference.replaced.clone(),
            ..Difference::default()
        };
        let only = HashMap::from([(number, replacements)]);
        let groups = Self::groups(contents, &only, Phase::Replacements);
        let looks_first = u64::from(difference.looks_first) << number;
        let mut done = self.copy(contents, groups, looks_first).await;
        let mut done = std::mem::take(&mut done[number]);
        add(&mut progress.report, &done);
        match done.gave_up.take() {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }

    /// The forms of an index without some rows. Several destinations mostly publish the same.
    async fn forms(
        &self,
        contents: &Contents,
        without: &BTreeSet<usize>,
        known: &mut HashMap<BTreeSet<usize>, Forms>,
    ) -> Result<Forms, SyncError> {
        if let Some(forms) = known.get(without) {
            return Ok(forms.clone());
        }
        let mut forms = make_forms(
            Arc::clone(&contents.table),
            without.clone(),
            contents.index.path.clone(),
            self.options.work.clone(),
            &format!("{}-new-{}", self.subdir, known.len()),
            self.options.level,
        )
        .await?;
        if contents.makes_zck && !forms.add_zck(self.previous_zck().await).await? {
            let text = format!(
                "{}/{ZCK} is not made: the index has two large maps",
                self.subdir
            );
            self.observer.event(&SyncEvent::Warning { text: &text });
        }
        known.insert(without.clone(), forms.clone());
        Ok(forms)
    }

    /// The zchunk form that a destination has published.
    async fn previous_zck(&self) -> Option<std::path::PathBuf> {
        let path = self
            .options
            .work
            .join(format!("{}-published.json.zck", self.subdir));
        for outlet in self.outlets.iter().filter(|it| !it.is_registry()) {
            match fetch_zck(self.engine, outlet.mirrors(), self.subdir, &path).await {
                Ok(true) => return Some(path),
                Ok(false) => {}
                // Without it a new series of files begins.
                Err(error) => tracing::debug!(%error, "the zchunk form is not continued"),
            }
        }
        None
    }

    /// Another run may have published since the state was read.
    async fn check_contention(
        &self,
        outlet: &Outlet,
        earlier: Option<&MirrorState>,
    ) -> Result<(), SyncError> {
        let current = read_state(self.engine, outlet, self.subdir).await?;
        let digest = |state: Option<&MirrorState>| {
            state.map(|state| (state.published, state.forms.clone(), state.filters.clone()))
        };
        if digest(current.as_ref()) == digest(earlier) {
            return Ok(());
        }
        Err(SyncError::Contended {
            place: outlet.location().to_string(),
        })
    }

    fn new_state(
        &self,
        contents: &Contents,
        earlier: Option<MirrorState>,
        difference: &Difference,
        failures: &BTreeMap<usize, (FailureSide, String)>,
        postponed: &BTreeSet<usize>,
        without: &BTreeSet<usize>,
    ) -> MirrorState {
        let table = &contents.table;
        let earlier = earlier.unwrap_or_else(MirrorState::fresh);
        let mut state = MirrorState {
            source: contents.sources.clone(),
            source_time: time_of(&contents.index),
            filters: contents.filters.clone(),
            published: contents.now,
            checked: contents.now,
            ..MirrorState::fresh()
        };
        // An unfinished run compares again.
        if postponed.is_empty() {
            state.source_sha256 = Some(contents.index.sha256.to_string());
            state.set_validators(&contents.index.url, &contents.index.validators);
        }
        let kept = (table.rows().iter().enumerate()).filter(|(row, _)| !without.contains(row));
        for (_, row) in kept {
            state.packages += 1;
            state.bytes += row.size().unwrap_or(0);
        }
        for (row, (_, problem)) in failures {
            let file = table.file_name(&table.rows()[*row]);
            let earlier = earlier.failures.get(file);
            let failure = match earlier.filter(|_| difference.deferred.contains(row)) {
                Some(earlier) => earlier.clone(),
                None => Failure {
                    sha256: table.rows()[*row].sha256().map(|it| it.to_string()),
                    ..Failure::after(earlier, problem.clone(), contents.now)
                },
            };
            state.failures.insert(file.to_owned(), failure);
        }
        let kept_removed = self
            .options
            .prune
            .as_ref()
            .is_none_or(|prune| !prune.removed);
        let removed: HashSet<&str> = if kept_removed {
            table.removed.iter().map(String::as_str).collect()
        } else {
            HashSet::new()
        };
        state.forms = earlier.forms.clone();
        state.graves = earlier.graves;
        for file in &difference.dropped {
            let grave = Grave {
                since: contents.now,
                stays: false,
            };
            state.graves.entry(file.clone()).or_insert(grave);
        }
        if !state.graves.is_empty() {
            let listed: HashSet<&str> = (table.rows().iter().enumerate())
                .filter(|(row, _)| !contents.left_out.contains(row))
                .map(|(_, row)| table.file_name(row))
                .collect();
            state.graves.retain(|file, _| {
                !listed.contains(file.as_str()) && !removed.contains(file.as_str())
            });
        }
        state.verified = earlier.verified;
        if self.options.verify {
            state.verified = Some(next_slice(state.verified));
        }
        state
    }
}

fn left_out(
    contents: &Contents,
    failures: &BTreeMap<usize, (FailureSide, String)>,
    postponed: &BTreeSet<usize>,
) -> BTreeSet<usize> {
    let mut without = contents.left_out.clone();
    without.extend(failures.keys());
    without.extend(postponed);
    without
}

pub(super) fn add(report: &mut DestinationReport, done: &Done) {
    report.sent += done.sent;
    report.sent_bytes += done.bytes;
    report.found += done.found;
}
