//! What `taipan fetch` is asked for: files below a channel, files at a URL, metalinks.

use std::path::Path;

use percent_encoding::percent_decode_str;
use taipan_mirrors::{Location, SafeUrl};
use url::Url;

use crate::{mirror_lists::ListPlace, settings::SettingsError};

/// What an argument names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A file at a URL.
    Url(Url),
    /// The files of a metalink.
    Metalink(ListPlace),
    /// A file of a channel, or of those that are in force when none is named.
    Path {
        channel: Option<String>,
        path: String,
    },
}

/// What is wrong with an argument.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("`{text}` is not a URL")]
    Url {
        text: String,
        source: url::ParseError,
    },
    #[error(
        "`{text}` cannot be fetched by itself: use https://, http://, s3:// or file://, or name a channel \
         with -c and the path below it"
    )]
    Scheme { text: String },
    #[error("`{text}` does not name a file")]
    NoFile { text: String },
    #[error(transparent)]
    Place(#[from] SettingsError),
}

impl Asked {
    /// Reads an argument. When a channel is named otherwise (`in_channel`), what is no URL is a path
    /// below it; else a path begins with a channel, unless it is `SUBDIR/FILE` alone.
    pub(crate) fn read(
        text: &str,
        is_metalink: bool,
        in_channel: bool,
    ) -> Result<Self, TargetError> {
        let before_query = text.split(['?', '#']).next().unwrap_or_default();
        let looks_so = [".meta4", ".metalink"]
            .iter()
            .any(|ending| before_query.ends_with(ending));
        if is_metalink || looks_so {
            return Ok(Self::Metalink(ListPlace::parse(text)?));
        }
        if text.contains("://") {
            let url = Url::parse(text).map_err(|source| TargetError::Url {
                text: text.split("://").next().unwrap_or_default().to_owned() + "://…",
                source,
            })?;
            return Ok(Self::Url(url));
        }
        let (channel, path) = if in_channel {
            (None, text)
        } else {
            split_channel(text)
        };
        let is_sound = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !path.split('/').all(is_sound) {
            return Err(TargetError::NoFile {
                text: text.to_owned(),
            });
        }
        Ok(Self::Path {
            channel: channel.map(str::to_owned),
            path: path.to_owned(),
        })
    }

    /// What to call it, without secrets.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Url(url) => SafeUrl::from(url.clone()).to_string(),
            Self::Metalink(place) => place.to_string(),
            Self::Path { path, .. } => path.clone(),
        }
    }
}

/// A channel and the path below it. A channel's files lie in `SUBDIR/`, or at its top.
fn split_channel(text: &str) -> (Option<&str>, &str) {
    let Some((above, _)) = text.rsplit_once('/') else {
        return (None, text);
    };
    let (channel, subdir) = match above.rsplit_once('/') {
        Some((channel, subdir)) => (Some(channel), subdir),
        None => (None, above),
    };
    if subdir.parse::<rattler_conda_types::Subdir>().is_err() {
        return (Some(above), &text[above.len() + 1..]);
    }
    match channel {
        Some(channel) => (Some(channel), &text[channel.len() + 1..]),
        None => (None, text),
    }
}

/// The directory in which a file at a URL lies, and the file's name.
pub(crate) fn split_url(url: &Url) -> Result<(Location, String), TargetError> {
    let shown = || SafeUrl::from(url.clone()).to_string();
    let no_file = || TargetError::NoFile { text: shown() };
    let scheme = || TargetError::Scheme { text: shown() };
    if !matches!(url.scheme(), "http" | "https" | "s3" | "file") {
        return Err(scheme());
    }
    let (above, name) = url.path().rsplit_once('/').ok_or_else(no_file)?;
    let name = percent_decode_str(name)
        .decode_utf8()
        .map_err(|_| no_file())?;
    if matches!(&*name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(no_file());
    }
    let mut parent = url.clone();
    parent.set_fragment(None);
    parent.set_path(if above.is_empty() { "/" } else { above });
    let location = Location::parse(parent.as_str()).map_err(|_| scheme())?;
    Ok((location, name.into_owned()))
}

/// The directory below which a file at a URL has this name, of one part or several; `None` when the
/// URL does not end in it.
pub(crate) fn split_name(url: &Url, name: &str) -> Option<(Location, String)> {
    let decoded = percent_decode_str(url.path()).decode_utf8().ok()?;
    let above = decoded.strip_suffix(name)?;
    if name.is_empty() || !above.ends_with('/') || url.cannot_be_a_base() {
        return None;
    }
    let mut parent = url.clone();
    parent.set_fragment(None);
    let mut segments = parent.path_segments_mut().ok()?;
    for _ in name.split('/') {
        segments.pop();
    }
    drop(segments);
    // A part may hold an encoded slash, which is none between parts.
    let is_whole = percent_decode_str(parent.path())
        .decode_utf8()
        .is_ok_and(|path| path.trim_end_matches('/') == above.trim_end_matches('/'));
    let location = Location::parse(parent.as_str()).ok()?;
    is_whole.then(|| (location, name.to_owned()))
}

/// The name under which a file is kept.
pub(crate) fn file_name(path: &str) -> Option<&str> {
    Path::new(path).file_name()?.to_str()
}

/// A number of bytes per second, such as `500k`, `2.5M` or `1G`; the letters stand for powers of 1000.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a rate: write bytes per second, such as 500k or 2.5M");
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'g' | 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let rate = number.parse::<f64>().map_err(|_| wrong())? * factor;
    if !(1.0..=1e15).contains(&rate) {
        return Err(wrong());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is in the range"
    )]
    Ok(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_several_parts_lies_below_a_directory() {
        let split = |url: &str, name: &str| {
            let (place, name) = split_name(&url.parse().unwrap(), name)?;
            Some((place.to_string(), name))
        };
        let (place, name) = split(
            "https://a.example/x%20y/noarch/b%2Bc.conda",
            "noarch/b+c.conda",
        )
        .unwrap();
        assert_eq!(name, "noarch/b+c.conda");
        assert_eq!(place.trim_end_matches('/'), "https://a.example/x%20y");
        for (url, name) in [
            ("https://a.example/x/other.conda", "noarch/b.conda"),
            ("https://a.example/xnoarch/b.conda", "noarch/b.conda"),
            ("https://a.example/x%2Fb.conda", "b.conda"),
            ("https://a.example/", ""),
        ] {
            assert_eq!(split(url, name), None, "{url}");
        }
    }

    fn path(text: &str, in_channel: bool) -> (Option<String>, String) {
        match Asked::read(text, false, in_channel).unwrap() {
            Asked::Path { channel, path } => (channel, path),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_path_begins_with_its_channel_unless_one_is_named() {
        for (text, channel, rest) in [
            (
                "conda-forge/noarch/a-1-0.conda",
                Some("conda-forge"),
                "noarch/a-1-0.conda",
            ),
            (
                "a/label/b/linux-64/x.conda",
                Some("a/label/b"),
                "linux-64/x.conda",
            ),
            ("./here/noarch/x.conda", Some("./here"), "noarch/x.conda"),
            ("noarch/repodata.json", None, "noarch/repodata.json"),
            (
                "conda-forge/channeldata.json",
                Some("conda-forge"),
                "channeldata.json",
            ),
            ("channeldata.json", None, "channeldata.json"),
        ] {
            let (got_channel, got) = path(text, false);
            assert_eq!(
                (got_channel.as_deref(), got.as_str()),
                (channel, rest),
                "{text}"
            );
            if !text.starts_with('.') {
                assert_eq!(path(text, true), (None, text.to_owned()));
            }
        }
    }

    #[test]
    fn metalinks_are_known_by_their_ending_or_by_being_told() {
        let is_metalink =
            |text: &str, told| matches!(Asked::read(text, told, false), Ok(Asked::Metalink(_)));
        assert!(is_metalink("https://a.example/f.meta4?x=1", false));
        assert!(is_metalink("dir/f.metalink", false));
        assert!(is_metalink("https://a.example/list?file=f", true));
        assert!(!is_metalink("https://a.example/f.iso", false));
    }

    #[test]
    fn what_names_no_file_is_refused() {
        for text in ["", "a/../b", "noarch//x", "noarch/"] {
            let error = Asked::read(text, false, true).unwrap_err().to_string();
            assert!(error.contains("does not name a file"), "{error}");
        }
        for url in [
            "https://a.example/",
            "https://a.example/x/%2E%2E",
            "file:///x/a%2Fb",
        ] {
            let url = url.parse().unwrap();
            let error = split_url(&url).unwrap_err().to_string();
            assert!(error.contains("does not name a file"), "{error}");
        }
        let error = split_url(&"oci://r.example/n/x".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("name a channel"), "{error}");
    }

    #[test]
    fn a_url_is_cut_into_directory_and_name() {
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
    fn rates_have_letters_for_powers_of_a_thousand() {
        let rates = ["1", "500k", "2.5M", "1G"].map(|text| parse_rate(text).unwrap());
        assert_eq!(rates, [1, 500_000, 2_500_000, 1_000_000_000]);
        for text in ["", "k", "-1", "0", "1T", "inf", "nan"] {
            assert!(
                parse_rate(text).unwrap_err().contains("is not a rate"),
                "{text}"
            );
        }
    }
}
