//! A package as `--json` shows it.

use rattler_conda_types::RepoDataRecord;
use serde::Serialize;
use taipan_mirrors::{without_credentials, without_credentials_in};
use taipan_transfer::Sha256;

#[derive(Serialize)]
pub(super) struct PackageLine<'a> {
    name: &'a str,
    version: String,
    build: String,
    build_number: u64,
    channel: Option<String>,
    subdir: &'a str,
    url: String,
    size: Option<u64>,
    sha256: Option<String>,
}

impl<'a> PackageLine<'a> {
    pub(super) fn new(record: &'a RepoDataRecord) -> Self {
        let package = &record.package_record;
        let sha256 = package
            .sha256
            .map(|digest| Sha256::from_bytes(digest.into()).to_string());
        Self {
            name: package.name.as_source(),
            version: package.version.to_string(),
            build: package.build.to_string(),
            build_number: package.build_number,
            // Other tools may have left a token in a record.
            channel: record.channel.as_deref().map(without_credentials_in),
            subdir: &package.subdir,
            url: without_credentials(&record.url).to_string(),
            size: package.size,
            sha256,
        }
    }
}
