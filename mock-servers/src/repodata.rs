//! Channels of packages.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::package::Package;
use crate::site::Site;

/// Makes a channel of packages: each at its path, and `repodata.json` and `repodata.json.zst`
/// for every subdir that occurs, and for `linux-64` and `noarch` in any case.
pub fn channel_site(packages: &[Package]) -> Site {
    let site = Site::new();
    let mut subdirs: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for subdir in ["linux-64", "noarch"] {
        subdirs.entry(subdir).or_default();
    }
    for package in packages {
        site.insert(&package.path(), package.bytes.clone());
        subdirs.entry(&package.subdir).or_default().push(package);
    }
    for (subdir, packages) in subdirs {
        let records = |extension: &str| -> Map<String, Value> {
            let mut named: Vec<_> = packages
                .iter()
                .filter(|package| package.file_name.ends_with(extension))
                .map(|package| (package.file_name.clone(), package.record.clone().into()))
                .collect();
            named.sort_by(|(a, _): &(String, Value), (b, _)| a.cmp(b));
            named.into_iter().collect()
        };
        let repodata = json!({
            "info": { "subdir": subdir },
            "packages": records(".tar.bz2"),
            "packages.conda": records(".conda"),
            "removed": [],
            "repodata_version": 1,
        });
        let json = serde_json::to_vec_pretty(&repodata)
            .expect("JSON values with string keys always serialise");
        let compressed = zstd::encode_all(json.as_slice(), 9)
            .expect("compressing into memory has no cause to fail");
        site.insert(&format!("{subdir}/repodata.json.zst"), compressed);
        site.insert(&format!("{subdir}/repodata.json"), json);
    }
    site
}
