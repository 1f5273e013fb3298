//! What `taipan create` and `taipan install` print.

use std::{collections::BTreeMap, path::Path, time::Duration};

use rattler_conda_types::{PackageRecord, RepoDataRecord};
use serde::Serialize;
use taipan_channel::{RepodataStatus, SubdirIndex};
use taipan_installer::{Plan, Summary};

use super::package::PackageLine;
use crate::printer::{Printer, bytes, table};

/// How long each part took, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Times {
    pub(super) solve: f64,
    pub(super) fetch: f64,
    pub(super) link: f64,
    pub(super) total: f64,
}

pub(super) struct InstallReport<'a> {
    printer: &'a Printer,
    creating: bool,
}

impl<'a> InstallReport<'a> {
    pub(super) fn new(printer: &'a Printer, creating: bool) -> Self {
        Self { printer, creating }
    }

    /// How the index of a subdir was obtained.
    pub(super) fn repodata(&self, channel: &str, subdir: &SubdirIndex) {
        #[derive(Serialize)]
        struct Repodata<'a> {
            channel: &'a str,
            subdir: &'a str,
            records: usize,
            freshness: &'a str,
            url: &'a str,
        }
        let name = &subdir.subdir;
        let freshness = match &subdir.status {
            RepodataStatus::Fetched => "fetched",
            RepodataStatus::Unchanged => "unchanged",
            RepodataStatus::Absent => "absent",
            RepodataStatus::Stale(error) => {
                self.printer.warn(&format!(
                    "cannot fetch repodata for {channel}/{name}; using the cached copy, which may \
                     be out of date: {error}"
                ));
                "stale"
            }
        };
        let (records, url) = (subdir.index.len(), subdir.url.as_str());
        self.printer.detail(&format!(
            "  {channel}/{name}: {records} records, {freshness}"
        ));
        let repodata = Repodata {
            channel,
            subdir: name,
            records,
            freshness,
            url,
        };
        self.printer.object("repodata", &repodata);
    }

    /// The packages that come and go. `missing` of them, of `size` bytes, are to be downloaded.
    pub(super) fn plan(&self, plan: &Plan, missing: usize, size: u64, solve_time: Duration) {
        #[derive(Serialize)]
        struct Planned<'a> {
            link: Vec<PackageLine<'a>>,
            unlink: Vec<PackageLine<'a>>,
            unchanged: usize,
            download_count: usize,
            download_bytes: u64,
            solve_seconds: f64,
        }
        let rows = rows(plan);
        if rows.is_empty() {
            self.printer
                .say("All requested packages are already installed");
        } else {
            self.printer.say(&table(&rows, &[1, 2, 4]));
            self.printer.say(&format!(
                "{} to link, {} to remove, {missing} to download ({}); solved in {:.2} s",
                plan.link.len(),
                plan.unlink.len(),
                bytes(size),
                solve_time.as_secs_f64()
            ));
        }
        let link = plan.link.iter().map(|link| &link.record);
        let unlink = plan.unlink.iter().map(|record| &record.repodata_record);
        let planned = Planned {
            link: link.map(PackageLine::new).collect(),
            unlink: unlink.map(PackageLine::new).collect(),
            unchanged: plan.keep.len(),
            download_count: missing,
            download_bytes: size,
            solve_seconds: solve_time.as_secs_f64(),
        };
        self.printer.object("plan", &planned);
    }

    /// What was done.
    pub(super) fn summary(
        &self,
        prefix: &Path,
        summary: &Summary,
        downloaded: usize,
        received: u64,
        times: Times,
    ) {
        #[derive(Serialize)]
        struct Done<'a> {
            prefix: &'a Path,
            linked: usize,
            unlinked: usize,
            files: usize,
            downloaded_packages: usize,
            received_bytes: u64,
            seconds: Times,
        }
        let (linked, unlinked) = (summary.linked.len(), summary.unlinked.len());
        if linked == 0 && unlinked == 0 && !self.creating {
            self.printer.say("Nothing to do");
        } else {
            self.printer.say(&format!(
                "{} {}: {linked} packages and {} files linked, {unlinked} removed, {} in {:.1} s",
                if self.creating { "Created" } else { "Changed" },
                prefix.display(),
                summary.files,
                bytes(received),
                times.total
            ));
            self.printer.detail(&format!(
                "  solve {:.2} s, download and extract {:.2} s, link {:.2} s",
                times.solve, times.fetch, times.link
            ));
        }
        let done = Done {
            prefix,
            linked,
            unlinked,
            files: summary.files,
            downloaded_packages: downloaded,
            received_bytes: received,
            seconds: times,
        };
        self.printer.object("done", &done);
    }
}

/// One row per package that comes, is replaced or goes.
fn rows(plan: &Plan) -> Vec<Vec<String>> {
    let mut unlinked: BTreeMap<&str, &PackageRecord> = plan
        .unlink
        .iter()
        .map(|record| &record.repodata_record.package_record)
        .map(|package| (package.name.as_normalized(), package))
        .collect();
    let mut rows = Vec::new();
    let mut links: Vec<&RepoDataRecord> = plan.link.iter().map(|link| &link.record).collect();
    links.sort_by_key(|record| record.package_record.name.as_normalized());
    for record in links {
        let package = &record.package_record;
        let before = unlinked.remove(package.name.as_normalized());
        let sign = if before.is_some() { "~" } else { "+" };
        let was = before.map(|old| format!("was {} {}", old.version, old.build));
        rows.push(vec![
            format!("{sign} {}", package.name.as_source()),
            package.version.to_string(),
            package.build.to_string(),
            package.size.map(bytes).unwrap_or_default(),
            was.unwrap_or_default(),
        ]);
    }
    for (name, package) in unlinked {
        rows.push(vec![
            format!("- {name}"),
            package.version.to_string(),
            package.build.to_string(),
        ]);
    }
    rows
}
