//! The files of metalinks and their mirrors.

use std::sync::Arc;

use taipan_mirrors::{Location, Metalink, MetalinkFile, Mirror, Provenance};
use taipan_transfer::{Backend, Expected, Job, MirrorSet, RenamedBackend, Target};
use url::Url;

use super::file::{RequestedFile, Source};
use crate::{
    context::Context,
    error::AppError,
    file_url::{directory_of, split_url},
    list_location::ListLocation,
    mirror_lists::fetch_text,
    printer::Printer,
};

pub(super) struct MetalinkResolver<'a> {
    printer: &'a Printer,
    context: &'a Context,
    offline: bool,
    known: Vec<MetalinkMirrors>,
}

/// The mirrors of one or several files.
struct MetalinkMirrors {
    mirrors: Vec<Mirror>,
    backends: Vec<Arc<RenamedBackend>>,
    set: MirrorSet,
}

impl<'a> MetalinkResolver<'a> {
    pub(super) fn new(printer: &'a Printer, context: &'a Context, offline: bool) -> Self {
        Self {
            printer,
            context,
            offline,
            known: Vec::new(),
        }
    }

    pub(super) fn mirror_sets(&self) -> impl Iterator<Item = &MirrorSet> {
        self.known.iter().map(|known| &known.set)
    }

    /// The files that a metalink lists.
    pub(super) async fn files(
        &mut self,
        location: &ListLocation,
    ) -> Result<Vec<RequestedFile>, AppError> {
        let name = location.to_string();
        let client = Some(&self.context.client).filter(|_| !self.offline);
        let text = fetch_text(location, client).await?;
        let origin = |line: u32| match location {
            ListLocation::File(_) => Provenance::File {
                file: name.as_str().into(),
                line,
            },
            ListLocation::Url(_) => Provenance::Discovered {
                from: format!("{name}:{line}").into(),
            },
        };
        let metalink = Metalink::parse(&text, &name, origin).map_err(AppError::Metalink)?;
        for skipped in &metalink.skipped {
            self.printer.detail(&format!("{name}: {skipped} (skipped)"));
        }
        if metalink.files.is_empty() {
            return Err(AppError::EmptyMetalink { name });
        }
        let files = metalink.files.iter();
        files.map(|file| self.file(file, &name)).collect()
    }

    fn file(&mut self, file: &MetalinkFile, metalink: &str) -> Result<RequestedFile, AppError> {
        let set = self.mirrors_of(&file.name, &file.mirrors);
        let set = set.ok_or_else(|| AppError::NoMirrorOfFile {
            file: file.name.clone(),
            metalink: metalink.to_owned(),
        })?;
        let digest = |algorithm: &str| {
            let mut digests = file.version.digests.iter();
            digests.find(|digest| digest.algorithm() == algorithm)
        };
        let expected = Expected {
            size: file.version.size,
            sha256: digest("sha256").and_then(|digest| digest.hex().parse().ok()),
            md5: digest("md5").and_then(|digest| digest.hex().parse().ok()),
        };
        let target = Target::path(file.name.as_str());
        Ok(RequestedFile {
            job: Job::content(file.name.as_str(), target, expected),
            source: Source::Mirrors(set),
            output: None,
        })
    }

    /// The mirror set of a file whose mirrors are given by its own URLs; `None` when no URL can be
    /// used.
    pub(super) fn mirrors_of(&mut self, path: &str, mirrors: &[Mirror]) -> Option<MirrorSet> {
        let (mirrors, names): (Vec<_>, Vec<_>) = mirrors
            .iter()
            .filter_map(|mirror| directory_and_name(mirror, path))
            .unzip();
        (!mirrors.is_empty()).then(|| self.mirror_set(mirrors, path, &names))
    }

    /// The mirror set of a file. Files with equal mirrors share a set and its measurements.
    fn mirror_set(&mut self, mirrors: Vec<Mirror>, path: &str, names: &[String]) -> MirrorSet {
        let known = self.known.iter().find(|known| {
            are_equal(&known.mirrors, &mirrors)
                && known
                    .backends
                    .iter()
                    .zip(names)
                    .all(|(backend, name)| backend.name(path, name))
        });
        if let Some(known) = known {
            return known.set.clone();
        }
        let client = &self.context.client;
        let (mirrors, backends): (Vec<Mirror>, Vec<Arc<RenamedBackend>>) = mirrors
            .into_iter()
            .zip(names)
            .filter_map(|(mirror, name)| {
                let backend = RenamedBackend::in_directory(&mirror.location, client)?;
                backend.name(path, name);
                Some((mirror, backend))
            })
            .unzip();
        let dynamic = backends.iter().map(|b| Arc::clone(b) as Arc<dyn Backend>);
        let dynamic = Some(dynamic.collect());
        let set = self.context.mirror_set(mirrors.clone(), dynamic);
        self.known.push(MetalinkMirrors {
            mirrors,
            backends,
            set: set.clone(),
        });
        set
    }
}

/// A mirror of a file as the mirror of its directory, and the file's name below that; `None` for a
/// protocol that metalinks do not support.
fn directory_and_name(mirror: &Mirror, path: &str) -> Option<(Mirror, String)> {
    let url = match &mirror.location {
        Location::Http(url) => url.clone(),
        Location::File(path) => Url::from_file_path(path).ok()?,
        Location::S3(_) | Location::Oci(_) => return None,
    };
    let (location, name) = match directory_of(&url, path) {
        Some(location) => (location, path.to_owned()),
        None => split_url(&url).ok()?,
    };
    let mirror = Mirror {
        location,
        ..mirror.clone()
    };
    Some((mirror, name))
}

/// Whether these are the same mirrors with the same preferences, wherever they were named.
fn are_equal(one: &[Mirror], other: &[Mirror]) -> bool {
    let unlisted = |mirror: &Mirror| Mirror {
        provenance: Provenance::CommandLine,
        ..mirror.clone()
    };
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(a, b)| unlisted(a) == unlisted(b))
}
