//! The mirror sets of files whose mirrors have URLs of their own.

use std::sync::Arc;

use taipan_mirrors::{Location, Mirror, Provenance};
use taipan_transfer::{AddressedBackend, Backend, MirrorSet};
use url::Url;

use crate::{
    context::Context,
    file_url::{FileUrl, directory_of},
};

pub(super) struct AddressedSets<'a> {
    context: &'a Context,
    known: Vec<AddressedSet>,
}

/// The mirrors of one or several files.
struct AddressedSet {
    mirrors: Vec<Mirror>,
    backends: Vec<Arc<AddressedBackend>>,
    set: MirrorSet,
}

impl<'a> AddressedSets<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self {
            context,
            known: Vec::new(),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &MirrorSet> {
        self.known.iter().map(|known| &known.set)
    }

    /// The mirror set of the file that jobs call `path`, whose mirrors are given by its own URLs; `None` when no URL can be
    /// used.
    pub(super) fn of_file(&mut self, path: &str, mirrors: &[Mirror]) -> Option<MirrorSet> {
        let (mirrors, addresses): (Vec<_>, Vec<_>) = mirrors
            .iter()
            .filter_map(|mirror| directory_and_address(mirror, path))
            .unzip();
        (!mirrors.is_empty()).then(|| self.in_directories(mirrors, path, &addresses))
    }

    /// The mirror set of a file with these addresses in these directories. Files with equal directories share a set and its
    /// measurements.
    pub(super) fn in_directories(
        &mut self,
        mirrors: Vec<Mirror>,
        path: &str,
        addresses: &[Url],
    ) -> MirrorSet {
        let known = self.known.iter().find(|known| {
            let mut pairs = known.backends.iter().zip(addresses);
            are_equal(&known.mirrors, &mirrors)
                && pairs.all(|(backend, address)| backend.set_address(path, address))
        });
        if let Some(known) = known {
            return known.set.clone();
        }
        let client = &self.context.client;
        let (mirrors, backends): (Vec<Mirror>, Vec<Arc<AddressedBackend>>) = mirrors
            .into_iter()
            .zip(addresses)
            .filter_map(|(mirror, address)| {
                let backend = AddressedBackend::in_directory(&mirror.location, client)?;
                backend.set_address(path, address);
                Some((mirror, backend))
            })
            .unzip();
        let dynamic = backends.iter().map(|b| Arc::clone(b) as Arc<dyn Backend>);
        let dynamic = Some(dynamic.collect());
        let set = self.context.mirror_set(mirrors.clone(), dynamic);
        self.known.push(AddressedSet {
            mirrors,
            backends,
            set: set.clone(),
        });
        set
    }
}

/// A mirror of a file as the mirror of its directory, and the file's URL; `None` for a protocol that metalinks do not support.
fn directory_and_address(mirror: &Mirror, path: &str) -> Option<(Mirror, Url)> {
    let address = match &mirror.location {
        Location::Http(url) => url.clone(),
        Location::File(path) => Url::from_file_path(path).ok()?,
        Location::S3(_) | Location::Oci(_) => return None,
    };
    let location = match directory_of(&address, path) {
        Some(location) => location,
        None => FileUrl::of_url(address.clone())?.directory(),
    };
    let mirror = Mirror {
        location,
        ..mirror.clone()
    };
    Some((mirror, address))
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
