//! The layout of a channel in an OCI registry, as `conda-oci-mirror` writes it and existing clients
//! read it.
//!
//! A package is a repository `<subdir>/<name>`, its builds are tags `<version>-<build>`, and the
//! archive is one layer, byte for byte, so that the layer's digest is the SHA-256 that the
//! repodata states. A metadata file is a separate repository with the tag `latest`.

use rattler_conda_types::RepoDataRecord;
use taipan_transfer::OciTarget;

/// The media type of a `.conda` archive.
const CONDA: &str = "application/vnd.conda.package.v2";
/// The media type of a `.tar.bz2` archive.
const TAR_BZ2: &str = "application/vnd.conda.package.v1";

/// Why a file cannot be in a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OciLayoutError {
    /// The name is invalid for a repository, even with its leading underscore replaced.
    #[error("`{0}` is not a valid repository name")]
    Name(String),
    /// The version and build do not form a valid tag.
    #[error("`{0}` is not a valid tag: it is too long or has invalid characters")]
    Tag(String),
    #[error("`{0}` is neither a .conda nor a .tar.bz2 archive")]
    Archive(String),
}

/// Where the archive of a record is in a registry, below the mirror's namespace.
pub fn package_reference(record: &RepoDataRecord) -> Result<OciTarget, OciLayoutError> {
    let package = &record.package_record;
    let file = record.identifier.to_file_name();
    reference(
        &package.subdir,
        package.name.as_normalized(),
        &package.version.as_str(),
        package.build.as_str(),
        &file,
    )
}

/// Where an archive is in a registry, by its name: `NAME-VERSION-BUILD.conda` or `.tar.bz2`.
pub(crate) fn file_reference(subdir: &str, file: &str) -> Result<OciTarget, OciLayoutError> {
    let stem = (file.strip_suffix(".conda")).or_else(|| file.strip_suffix(".tar.bz2"));
    let mut parts = stem.unwrap_or_default().rsplitn(3, '-');
    let (Some(build), Some(version), Some(name)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(OciLayoutError::Archive(file.to_owned()));
    };
    reference(subdir, &name.to_ascii_lowercase(), version, build, file)
}

fn reference(
    subdir: &str,
    name: &str,
    version: &str,
    build: &str,
    file: &str,
) -> Result<OciTarget, OciLayoutError> {
    let media_type = if file.ends_with(".conda") {
        CONDA
    } else if file.ends_with(".tar.bz2") {
        TAR_BZ2
    } else {
        return Err(OciLayoutError::Archive(file.to_owned()));
    };
    // The name of a repository must not begin with an underscore.
    let name = match name.strip_prefix('_') {
        Some(rest) => format!("zzz_{rest}"),
        None => name.to_owned(),
    };
    if !is_name_component(&name) {
        return Err(OciLayoutError::Name(name));
    }
    let tag = format!("{version}-{build}");
    let tag = tag
        .replace('+', "__p__")
        .replace('!', "__e__")
        .replace('=', "__eq__");
    if !is_tag(&tag) {
        return Err(OciLayoutError::Tag(tag));
    }
    Ok(OciTarget {
        repository: format!("{subdir}/{name}"),
        tag,
        media_type: media_type.to_owned(),
    })
}

/// Where a metadata file is in a registry: `repodata.json` and its zstd form are two layers of
/// one manifest. `None` for files that the layout does not have.
pub fn metadata_target(subdir: &str, file: &str) -> Option<OciTarget> {
    let media_type = match file {
        "repodata.json" => "application/vnd.conda.repodata.v1+json",
        "repodata.json.zst" => "application/vnd.conda.repodata.v1+json+zst",
        _ => return None,
    };
    Some(OciTarget {
        repository: format!("{subdir}/repodata.json"),
        tag: "latest".to_owned(),
        media_type: media_type.to_owned(),
    })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, the distribution specification's grammar.
fn is_name_component(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    if !bytes.first().copied().is_some_and(alphanumeric)
        || !bytes.last().copied().is_some_and(alphanumeric)
    {
        return false;
    }
    name.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use rattler_conda_types::{PackageName, PackageRecord, VersionWithSource};

    use super::*;

    fn record(name: &str, version: &str, build: &str, extension: &str) -> RepoDataRecord {
        let mut package = PackageRecord::new(
            PackageName::new_unchecked(name),
            version.parse::<VersionWithSource>().unwrap(),
            build.parse().unwrap(),
        );
        package.subdir = "linux-64".to_owned();
        let file = format!("{name}-{version}-{build}{extension}");
        RepoDataRecord {
            package_record: package,
            url: format!("https://host.example/c/linux-64/{file}")
                .parse()
                .unwrap(),
            identifier: file.parse().unwrap(),
            channel: None,
        }
    }

    #[test]
    fn packages_are_laid_out_as_clients_expect() {
        let target = package_reference(&record("numpy", "1.26.4", "py311_0", ".conda")).unwrap();
        assert_eq!(target.repository, "linux-64/numpy");
        assert_eq!(target.tag, "1.26.4-py311_0");
        assert_eq!(target.media_type, CONDA);
        let target =
            package_reference(&record("_libgcc_mutex", "0.1", "main", ".tar.bz2")).unwrap();
        assert_eq!(target.repository, "linux-64/zzz_libgcc_mutex");
        assert_eq!(target.media_type, TAR_BZ2);
        let target = package_reference(&record("x", "1!2.0+cpu", "0", ".conda")).unwrap();
        assert_eq!(target.tag, "1__e__2.0__p__cpu-0");
    }

    #[test]
    fn what_a_registry_would_refuse_is_refused_here() {
        assert!(package_reference(&record("trailing_", "1", "0", ".conda")).is_err());
        assert!(package_reference(&record("a._b", "1", "0", ".conda")).is_err());
        assert!(
            package_reference(&record(
                "a",
                &["1"; 40].join("."),
                &"x".repeat(64),
                ".conda"
            ))
            .is_err()
        );
        assert!(package_reference(&record("a--b__c.d", "1", "0", ".conda")).is_ok());
    }
}
