//! The positional arguments of `taipan fetch`: paths below a channel, URLs, metalinks.

use crate::{
    file_url::{FileUrl, FileUrlError},
    list_location::{ListLocation, ListLocationError},
};

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FetchArgument {
    /// One file.
    File(FileArgument),
    /// All files of a metalink.
    Metalink(ListLocation),
}

/// How an argument names a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileArgument {
    Url(FileUrl),
    /// A path below a channel. `None`: below the channels of the settings.
    Path {
        channel: Option<String>,
        path: String,
    },
}

/// An argument that cannot be parsed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchArgumentError {
    #[error(transparent)]
    FileUrl(#[from] FileUrlError),
    #[error("`{text}` does not name a file")]
    NoFile { text: String },
    #[error(transparent)]
    Metalink(#[from] ListLocationError),
}

impl FetchArgument {
    /// Parses an argument. With `--channel` (`in_channel`) everything that is not a URL is a path
    /// below the channel; otherwise the path begins with a channel, unless it is `SUBDIR/FILE`.
    pub(crate) fn parse(
        text: &str,
        is_metalink: bool,
        in_channel: bool,
    ) -> Result<Self, FetchArgumentError> {
        let without_query = text.split(['?', '#']).next().unwrap_or_default();
        let is_metalink_name = [".meta4", ".metalink"]
            .iter()
            .any(|ending| without_query.ends_with(ending));
        if is_metalink || is_metalink_name {
            return Ok(Self::Metalink(ListLocation::parse(text)?));
        }
        if text.contains("://") {
            return Ok(Self::File(FileArgument::Url(FileUrl::parse(text)?)));
        }
        let (channel, path) = if in_channel {
            (None, text)
        } else {
            split_channel(text)
        };
        let is_name =
            |segment: &str| !matches!(segment, "" | "." | "..") && !segment.contains('\0');
        if !path.split('/').all(is_name) {
            return Err(FetchArgumentError::NoFile {
                text: text.to_owned(),
            });
        }
        Ok(Self::File(FileArgument::Path {
            channel: channel.map(str::to_owned),
            path: path.to_owned(),
        }))
    }
}

impl FileArgument {
    /// The file as it is printed, without secrets.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Url(url) => url.to_string(),
            Self::Path { path, .. } => path.clone(),
        }
    }
}

/// A channel and the path below it: `SUBDIR/FILE`, or a file in the channel's root.
fn split_channel(text: &str) -> (Option<&str>, &str) {
    let Some((directory, _)) = text.rsplit_once('/') else {
        return (None, text);
    };
    let (channel, subdir) = match directory.rsplit_once('/') {
        Some((channel, subdir)) => (Some(channel), subdir),
        None => (None, directory),
    };
    if subdir.parse::<rattler_conda_types::Subdir>().is_err() {
        return (Some(directory), &text[directory.len() + 1..]);
    }
    match channel {
        Some(channel) => (Some(channel), &text[channel.len() + 1..]),
        None => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str, in_channel: bool) -> (Option<String>, String) {
        match FetchArgument::parse(text, false, in_channel).unwrap() {
            FetchArgument::File(FileArgument::Path { channel, path }) => (channel, path),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_path_begins_with_its_channel_unless_a_channel_is_given() {
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
    fn a_metalink_is_recognised_by_its_ending_or_by_the_option() {
        let is_metalink = |text: &str, option| {
            matches!(
                FetchArgument::parse(text, option, false),
                Ok(FetchArgument::Metalink(_))
            )
        };
        assert!(is_metalink("https://a.example/f.meta4?x=1", false));
        assert!(is_metalink("dir/f.metalink", false));
        assert!(is_metalink("https://a.example/list?file=f", true));
        assert!(!is_metalink("https://a.example/f.iso", false));
    }

    #[test]
    fn an_argument_that_names_no_file_is_refused() {
        for text in ["", "a/../b", "noarch//x", "noarch/"] {
            let error = FetchArgument::parse(text, false, true).unwrap_err();
            assert!(
                error.to_string().contains("does not name a file"),
                "{error}"
            );
        }
    }
}
