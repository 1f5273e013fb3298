//! The files of a channel by which its mirrors are probed.

use taipan_transfer::Target;

use crate::metadata_target;

/// The repodata that every mirror of a channel should have, the best sample first: the end of the
/// zstd form differs when anything in it does.
pub fn probe_candidates(platform: &str) -> Vec<Target> {
    let mut all: Vec<Target> = Vec::new();
    for file in ["repodata.json.zst", "repodata.json"] {
        for subdir in ["noarch", platform] {
            let target = Target {
                path: format!("{subdir}/{file}"),
                oci: metadata_target(subdir, file),
            };
            if all.iter().all(|known| known.path != target.path) {
                all.push(target);
            }
        }
    }
    all
}

/// Whether these first bytes may be those of the repodata at this path.
pub fn looks_like_repodata(path: &str, bytes: &[u8]) -> bool {
    // RFC 8878 §3.1.1.
    const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
    if path.ends_with(".zst") {
        return bytes.starts_with(&ZSTD[..ZSTD.len().min(bytes.len())]);
    }
    bytes.trim_ascii_start().first().is_none_or(|&b| b == b'{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_candidate_is_listed_once() {
        let paths = |platform: &str| -> Vec<String> {
            let all = probe_candidates(platform);
            all.into_iter().map(|target| target.path).collect()
        };
        assert_eq!(
            paths("linux-64"),
            [
                "noarch/repodata.json.zst",
                "linux-64/repodata.json.zst",
                "noarch/repodata.json",
                "linux-64/repodata.json",
            ]
        );
        assert_eq!(
            paths("noarch"),
            ["noarch/repodata.json.zst", "noarch/repodata.json"]
        );
    }

    #[test]
    fn a_login_page_is_not_repodata() {
        assert!(!looks_like_repodata("noarch/repodata.json", b"<html>"));
        assert!(!looks_like_repodata("noarch/repodata.json.zst", b"<html>"));
        assert!(looks_like_repodata("noarch/repodata.json", b" {\"info\""));
        assert!(looks_like_repodata(
            "noarch/repodata.json.zst",
            b"\x28\xb5\x2f\xfd"
        ));
        assert!(looks_like_repodata("noarch/repodata.json.zst", b"\x28\xb5"));
    }
}
