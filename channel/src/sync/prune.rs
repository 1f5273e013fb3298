//! Deleting what no index names any more.

use std::time::Duration;

use taipan_transfer::{Deletion, Engine, Outlet, Target};

use super::{
    error::SyncError,
    options::Prune,
    report::{DestinationReport, SyncEvent, SyncObserver},
    state::MirrorState,
};
use crate::layout::package_file;

/// How many files are deleted with one request, where the protocol allows several.
const AT_ONCE: usize = 1000;

/// What deleting needs.
pub(super) struct Pruner<'a> {
    pub(super) engine: &'a Engine,
    pub(super) outlet: &'a Outlet,
    /// The number of the destination.
    pub(super) number: usize,
    pub(super) subdir: &'a str,
    pub(super) options: &'a Prune,
    /// The most files that are deleted.
    pub(super) most: usize,
    pub(super) now: u64,
    pub(super) observer: &'a dyn SyncObserver,
}

impl Pruner<'_> {
    /// Deletes the files of graves that are old enough.
    pub(super) async fn prune(
        &self,
        state: &mut MirrorState,
        report: &mut DestinationReport,
    ) -> Result<(), SyncError> {
        let grace = self.options.grace.as_secs();
        let due: Vec<String> = (state.graves.iter())
            .filter(|(_, grave)| !grave.stays && self.now.saturating_sub(grave.since) >= grace)
            .map(|(file, _)| file.clone())
            .take(self.most)
            .collect();
        let mut staying = 0;
        for files in due.chunks(AT_ONCE) {
            let targets: Vec<Target> = files
                .iter()
                .map(|file| package_file(self.subdir, file).0)
                .collect();
            let deletions = self.engine.delete(self.outlet, &targets).await?;
            for (file, deletion) in files.iter().zip(deletions) {
                let path = format!("{}/{file}", self.subdir);
                match deletion {
                    Deletion::Done => {
                        state.graves.remove(file);
                        report.deleted += 1;
                        self.observer.event(&SyncEvent::Deleted {
                            path: &path,
                            destination: self.number,
                        });
                    }
                    Deletion::Unsupported => {
                        if let Some(grave) = state.graves.get_mut(file) {
                            grave.stays = true;
                        }
                        staying += 1;
                    }
                    Deletion::Refused(why) => {
                        let text =
                            format!("{} does not delete {path}: {why}", self.outlet.location());
                        self.observer.event(&SyncEvent::Warning { text: &text });
                    }
                }
            }
        }
        if staying > 0 {
            let text = format!(
                "{} does not support deleting: {staying} packages that no index names stay in {}; delete them \
                 with the tools of the server",
                self.outlet.location(),
                self.subdir
            );
            self.observer.event(&SyncEvent::Warning { text: &text });
        }
        // A large file whose upload was never finished.
        let swept = self
            .engine
            .sweep(self.outlet, Duration::from_secs(grace.max(3600)))
            .await;
        if let Err(error) = swept {
            let text = format!(
                "cannot end unfinished uploads at {}: {}",
                self.outlet.location(),
                error.problem()
            );
            self.observer.event(&SyncEvent::Warning { text: &text });
        }
        Ok(())
    }
}
