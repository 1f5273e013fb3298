//! Digests and targets of packages, from the repodata of their channels.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use rattler_conda_types::{PackageName, Subdir};
use taipan_channel::{
    RepodataCache, RepodataError, RepodataOptions, SubdirIndex, fetch_index, package_target,
};
use taipan_installer::ChannelMirrors;
use taipan_mirrors::Location;
use taipan_transfer::{Expected, Target};

use super::{
    file::{RequestedFile, Source},
    naming::is_package,
};
use crate::{
    context::Context, error_report::ErrorReport, printer::Printer, progress::Downloads,
    settings::Settings,
};

/// How many indexes are fetched concurrently.
const CONCURRENT: usize = 4;

/// The subdirs that are looked up, each with the index of its channel in the context.
type Indexes = BTreeMap<(usize, String), SubdirIndex>;

/// Sets the digests and targets of packages whose channel has a record of them.
pub(super) async fn look_up_digests(
    files: &mut [RequestedFile],
    settings: &Settings,
    printer: &Arc<Printer>,
    context: &Context,
) {
    let subdirs: BTreeSet<(usize, String)> = files
        .iter()
        .filter_map(|file| Package::of(file, context))
        .flat_map(|package| {
            let subdir = package.subdir;
            package
                .channels
                .iter()
                .map(|&channel| (channel, subdir.to_owned()))
        })
        .collect();
    if subdirs.is_empty() {
        return;
    }
    let indexes = fetch_indexes(subdirs, settings, printer, context).await;
    for file in files {
        let Some(found) = Package::of(file, context).map(|package| package.find(&indexes)) else {
            continue;
        };
        let has_digest = file.job.expected.is_content_addressed();
        if let Some((channel, target, expected)) = found {
            file.source = Source::Channels(vec![channel]);
            file.job.target = target;
            if !has_digest {
                file.job.expected = expected;
            }
        } else if !has_digest {
            printer.warn(&format!(
                "{} is not in the repodata of its channel: it cannot be verified",
                file.job.label
            ));
        }
    }
}

/// A package that the repodata may have a record of.
struct Package<'a> {
    path: &'a str,
    subdir: &'a str,
    name: &'a str,
    channels: &'a [usize],
}

impl<'a> Package<'a> {
    /// `None` when the file is not a package of a channel, or the repodata has nothing to add.
    fn of(file: &'a RequestedFile, context: &Context) -> Option<Self> {
        let Source::Channels(channels) = &file.source else {
            return None;
        };
        let path = &file.job.target.path;
        let (subdir, name) = path.rsplit_once('/')?;
        let is_in_repodata = subdir.parse::<Subdir>().is_ok() && is_package(name);
        // A registry needs the target of the record even when the digest is known.
        let is_needed = !file.job.expected.is_content_addressed()
            || channels
                .iter()
                .any(|&channel| has_registry(context, channel));
        (is_in_repodata && is_needed).then_some(Self {
            path,
            subdir,
            name,
            channels,
        })
    }

    /// The first channel that has a record, with target and digests.
    fn find(&self, indexes: &Indexes) -> Option<(usize, Target, Expected)> {
        // NAME-VERSION-BUILD.
        let name = self.name.rsplitn(3, '-').nth(2)?;
        let name = PackageName::try_from(name).ok()?;
        self.channels.iter().find_map(|&channel| {
            let subdir = indexes.get(&(channel, self.subdir.to_owned()))?;
            let records = subdir.index.records(&name).ok()?;
            let mut records = records.iter();
            let record = records.find(|r| r.identifier.to_file_name() == self.name)?;
            let (target, expected) = package_target(record, self.path);
            Some((channel, target, expected))
        })
    }
}

fn has_registry(context: &Context, channel: usize) -> bool {
    let mirrors = &context.channels[channel].mirrors;
    mirrors.with_selector(|selector, _| {
        let mut all = selector.mirrors().iter();
        all.any(|mirror| matches!(mirror.location, Location::Oci(_)))
    })
}

/// Fetches indexes; prints a warning for each that cannot be fetched.
async fn fetch_indexes(
    subdirs: BTreeSet<(usize, String)>,
    settings: &Settings,
    printer: &Arc<Printer>,
    context: &Context,
) -> Indexes {
    let downloads = Downloads::new(printer, "repodata", None);
    let engine = context.engine(downloads.clone());
    let cache = RepodataCache::new(settings.cache_dir.value.join("repodata"));
    let fetch = |(index, subdir): (usize, String)| {
        let (engine, cache) = (&engine, &cache);
        async move {
            let ChannelMirrors { channel, mirrors } = &context.channels[index];
            let options = RepodataOptions::default();
            let fetched = fetch_index(engine, mirrors, channel, &subdir, cache, options).await?;
            Ok(((index, subdir), fetched))
        }
    };
    let fetched: Vec<Result<_, RepodataError>> = stream::iter(subdirs)
        .map(fetch)
        .buffer_unordered(CONCURRENT)
        .collect()
        .await;
    downloads.finish();
    let or_warn = |result: Result<_, RepodataError>| {
        result
            .inspect_err(|error| printer.warn(&ErrorReport::new(error).to_string()))
            .ok()
    };
    fetched.into_iter().filter_map(or_warn).collect()
}
