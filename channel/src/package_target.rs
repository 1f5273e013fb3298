//! The target of a package, and what is expected of it.

use rattler_conda_types::RepoDataRecord;
use taipan_transfer::{Expected, Md5, Sha256, Target};

use crate::oci_layout::package_reference;

/// Where the archive of a record is below its channel, and its size and digests. `path` is the
/// archive's path below the channel's root, e.g. `noarch/tzdata-2024a-h0c530f3_0.conda`.
pub fn package_target(record: &RepoDataRecord, path: &str) -> (Target, Expected) {
    let package = &record.package_record;
    let mut target = Target::path(path);
    if let Ok(oci) = package_reference(record) {
        target = target.with_oci(oci);
    }
    let expected = Expected {
        size: package.size,
        sha256: package
            .sha256
            .map(|digest| Sha256::from_bytes(digest.into())),
        md5: package.md5.map(|digest| Md5::from_bytes(digest.into())),
        ..Expected::default()
    };
    (target, expected)
}
