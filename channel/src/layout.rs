//! Where the files of a channel lie at a destination: on web servers, in buckets and directories at the channel's own paths,
//! in registries as layers of manifests.

use taipan_transfer::{OciTarget, Target};

use crate::oci_layout::{OciLayoutError, file_reference, metadata_target};
use crate::records::shard_file;

/// `Cache-Control` of files that never change: packages.
pub(crate) const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// `Cache-Control` of files that change.
pub(crate) const SHORT: &str = "public, max-age=300";
/// `Cache-Control` of what only taipan reads.
pub(crate) const NEVER: &str = "no-cache";

/// The media type of the layer with the state of a mirror.
const STATE: &str = "application/vnd.taipan.mirror.state.v1+json";
/// The media type of other files that only taipan reads.
const NOTE: &str = "application/vnd.taipan.mirror.note.v1";
/// The media type of run exports in a registry.
const RUN_EXPORTS: &str = "application/vnd.conda.run_exports.v1+json";

/// Where a package lies. The error tells why a registry cannot have it.
pub fn package_file(subdir: &str, file_name: &str) -> (Target, Result<(), OciLayoutError>) {
    let target = Target::path(format!("{subdir}/{file_name}"));
    match file_reference(subdir, file_name) {
        Ok(oci) => (target.with_oci(oci), Ok(())),
        Err(error) => (target, Err(error)),
    }
}

/// The media type of a file by its name.
pub(crate) fn content_type(file_name: &str) -> &'static str {
    let types = [
        (".json", "application/json"),
        (".zst", "application/zstd"),
        (".tar.bz2", "application/x-tar"),
        (".conda", "application/octet-stream"),
    ];
    let found = types.iter().find(|(end, _)| file_name.ends_with(end));
    found.map_or("application/octet-stream", |(_, kind)| kind)
}

/// Where a form of the index lies: `repodata.json`, `repodata.json.zst`, `run_exports.json`.
pub(crate) fn index_file(subdir: &str, file_name: &str) -> Target {
    let target = Target::path(format!("{subdir}/{file_name}"));
    let oci = match file_name {
        "run_exports.json" => Some(OciTarget {
            repository: format!("{subdir}/run_exports.json"),
            tag: "latest".to_owned(),
            media_type: RUN_EXPORTS.to_owned(),
        }),
        _ => metadata_target(subdir, file_name),
    };
    match oci {
        Some(oci) => target.with_oci(oci),
        None => target,
    }
}

/// Where the state of a mirror lies: in a registry beside the index, so that both change at once.
pub(crate) fn state_file(subdir: &str) -> Target {
    Target::path(format!("{subdir}/.taipan/state.json")).with_oci(OciTarget {
        repository: format!("{subdir}/repodata.json"),
        tag: "latest".to_owned(),
        media_type: STATE.to_owned(),
    })
}

/// Where a shard lies, by its digest (CEP 16). Registries have none.
pub(crate) fn shard(subdir: &str, digest: &str) -> Target {
    Target::path(format!("{subdir}/{}", shard_file(digest)))
}

/// The directory of what only taipan reads, below a subdir.
pub(crate) const NOTES: &str = ".taipan";

/// The repository of what only taipan reads.
pub(crate) fn notes_repository(subdir: &str) -> String {
    format!("{subdir}/taipan-mirror")
}

/// Where a note lies that only taipan reads. `name` has letters, digits, `.`, `-` and `_`.
pub(crate) fn note_file(subdir: &str, name: &str) -> Target {
    Target::path(format!("{subdir}/{NOTES}/{name}")).with_oci(OciTarget {
        repository: notes_repository(subdir),
        tag: name.to_owned(),
        media_type: NOTE.to_owned(),
    })
}
