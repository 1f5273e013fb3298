//! Digests and targets of packages, from the repodata of their channels.

use std::sync::Arc;

use taipan_channel::{PackageQuery, RepodataCache, RepodataOptions, is_package_path, look_up};
use taipan_mirrors::Location;

use super::file::{RequestedFile, Source};
use crate::{
    context::Context, error_report::ErrorReport, printer::Printer, progress::Downloads,
    settings::Settings,
};

/// Sets the digests and targets of packages whose channel has a record of them.
pub(super) async fn look_up_digests(
    files: &mut [RequestedFile],
    settings: &Settings,
    printer: &Arc<Printer>,
    context: &Context,
) {
    let (mut files, queries): (Vec<&mut RequestedFile>, Vec<PackageQuery>) = files
        .iter_mut()
        .filter_map(|file| {
            let query = query(file, context)?;
            Some((file, query))
        })
        .unzip();
    if queries.is_empty() {
        return;
    }
    let downloads = Downloads::new(printer, "repodata", None);
    let engine = context.engine(downloads.clone());
    let cache = RepodataCache::new(settings.cache_dir.value.join("repodata"));
    let options = RepodataOptions::default();
    let result = look_up(&engine, &context.channels, &queries, &cache, options).await;
    downloads.finish();
    for error in &result.errors {
        printer.warn(&ErrorReport::new(error).to_string());
    }
    for (file, found) in files.iter_mut().zip(result.found) {
        let has_digest = file.job.expected.is_content_addressed();
        if let Some(found) = found {
            file.source = Source::Channels(vec![found.channel]);
            file.job.target = found.target;
            if !has_digest {
                file.job.expected = found.expected;
            }
        } else if !has_digest {
            printer.warn(&format!(
                "{} is not in the repodata of its channel: it cannot be verified",
                file.job.label
            ));
        }
    }
}

/// What to look up for a file: a package whose digest is not known, or whose place in a registry
/// only the record tells.
fn query(file: &RequestedFile, context: &Context) -> Option<PackageQuery> {
    let Source::Channels(channels) = &file.source else {
        return None;
    };
    let path = &file.job.target.path;
    let has_registry = |channel: &usize| {
        let mirrors = &context.channels[*channel].mirrors;
        mirrors.with_selector(|selector, _| {
            let mut all = selector.mirrors().iter();
            all.any(|mirror| matches!(mirror.location, Location::Oci(_)))
        })
    };
    let is_wanted = is_package_path(path)
        && (!file.job.expected.is_content_addressed() || channels.iter().any(has_registry));
    is_wanted.then(|| PackageQuery {
        path: path.clone(),
        channels: channels.clone(),
    })
}
