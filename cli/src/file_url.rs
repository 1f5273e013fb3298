//! The URL of a file as the location of a directory and the path of the file below it.

use percent_encoding::percent_decode_str;
use taipan_mirrors::{Location, SafeUrl};
use url::Url;

/// A URL that cannot be split into a directory and a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileUrlError {
    #[error(
        "cannot fetch `{url}` as a single file: use an https://, http://, s3:// or file:// URL, or \
         --channel and a path below the channel"
    )]
    Scheme { url: SafeUrl },
    #[error("`{url}` does not name a file")]
    NoFile { url: SafeUrl },
}

/// The directory of the file at a URL, and the file's name.
pub(crate) fn split_url(url: &Url) -> Result<(Location, String), FileUrlError> {
    let no_file = || FileUrlError::NoFile {
        url: url.clone().into(),
    };
    let scheme = || FileUrlError::Scheme {
        url: url.clone().into(),
    };
    if !matches!(url.scheme(), "http" | "https" | "s3" | "file") {
        return Err(scheme());
    }
    let (directory, name) = url.path().rsplit_once('/').ok_or_else(no_file)?;
    let name = percent_decode_str(name)
        .decode_utf8()
        .map_err(|_| no_file())?;
    if matches!(&*name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(no_file());
    }
    let mut parent = url.clone();
    parent.set_fragment(None);
    parent.set_path(if directory.is_empty() { "/" } else { directory });
    let location = Location::parse(parent.as_str()).map_err(|_| scheme())?;
    Ok((location, name.into_owned()))
}

/// The directory below which the file at a URL has the path `path`; `None` when the URL does not
/// end in that path.
pub(crate) fn directory_of(url: &Url, path: &str) -> Option<Location> {
    let decoded = percent_decode_str(url.path()).decode_utf8().ok()?;
    let directory = decoded.strip_suffix(path)?;
    if path.is_empty() || !directory.ends_with('/') || url.cannot_be_a_base() {
        return None;
    }
    let mut parent = url.clone();
    parent.set_fragment(None);
    let mut segments = parent.path_segments_mut().ok()?;
    for _ in path.split('/') {
        segments.pop();
    }
    drop(segments);
    // A segment may contain an encoded slash; then more segments than the path has were removed.
    let is_same = percent_decode_str(parent.path())
        .decode_utf8()
        .is_ok_and(|parent| parent.trim_end_matches('/') == directory.trim_end_matches('/'));
    let location = Location::parse(parent.as_str()).ok()?;
    is_same.then_some(location)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_directory_and_name() {
        for (url, parent, name) in [
            (
                "https://a.example/x/y%20z?q=1#f",
                "https://a.example/x?q=1",
                "y z",
            ),
            ("https://a.example/f", "https://a.example/", "f"),
            ("s3://bucket/p/f", "s3://bucket/p", "f"),
            ("s3://bucket/f", "s3://bucket", "f"),
            ("file:///srv/a/f", "file:///srv/a", "f"),
        ] {
            let (location, got) = split_url(&url.parse().unwrap()).unwrap();
            assert_eq!(
                (location.to_string().as_str(), got.as_str()),
                (parent, name),
                "{url}"
            );
        }
    }

    #[test]
    fn a_url_without_a_file_name_is_refused() {
        for url in [
            "https://a.example/",
            "https://a.example/x/%2E%2E",
            "file:///x/a%2Fb",
        ] {
            let error = split_url(&url.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("does not name a file"), "{error}");
        }
        let error = split_url(&"oci://r.example/n/x".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("--channel"), "{error}");
    }

    #[test]
    fn a_path_of_several_segments_is_below_its_directory() {
        let directory = |url: &str, path: &str| {
            directory_of(&url.parse().unwrap(), path).map(|location| location.to_string())
        };
        let found = directory(
            "https://a.example/x%20y/noarch/b%2Bc.conda",
            "noarch/b+c.conda",
        );
        assert_eq!(
            found.unwrap().trim_end_matches('/'),
            "https://a.example/x%20y"
        );
        for (url, path) in [
            ("https://a.example/x/other.conda", "noarch/b.conda"),
            ("https://a.example/xnoarch/b.conda", "noarch/b.conda"),
            ("https://a.example/x%2Fb.conda", "b.conda"),
            ("https://a.example/", ""),
        ] {
            assert_eq!(directory(url, path), None, "{url}");
        }
    }
}
