//! Lists of mirrors of any kind, from files and URLs, and what they say of a channel.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, future::try_join_all};
use taipan_channel::Channel;
use taipan_mirrors::{
    Metalink, Mirror, MirrorSource, MirrorSourceError, MirrorsFile, Origin, SafeUrl, Skipped,
};
use taipan_transfer::{
    Backend as _, BackendError, Expected, GetRequest, GetResponse, HttpClient, Ranges,
    RenamedBackend, Sha256, Target,
};
use url::Url;

use crate::{fetch_target::split_url, printer::Printer, settings::SettingsError};

/// The longest list that is fetched, in bytes. Fedora's longest metalinks are a hundredth of it.
const MOST_BYTES: usize = 8 << 20;

/// How long a list may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a list of mirrors is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListPlace {
    File(PathBuf),
    Url(Url),
}

impl ListPlace {
    /// Reads an `http` or `https` URL, a `file` URL or a path.
    pub(crate) fn parse(text: &str) -> Result<Self, SettingsError> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let wrong = || SettingsError::Mirrors {
            text: match text.parse::<SafeUrl>() {
                Ok(url) => url.to_string(),
                Err(_) => text.split("://").next().unwrap_or_default().to_owned() + "://…",
            },
        };
        let url = Url::parse(text).map_err(|_| wrong())?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Url(url)),
            "file" => Ok(Self::File(url.to_file_path().map_err(|()| wrong())?)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for ListPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => SafeUrl::from(url.clone()).fmt(f),
        }
    }
}

/// Why there is no list of mirrors.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListsError {
    #[error("cannot read the list of mirrors {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot get the list of mirrors {url}")]
    Fetch {
        url: SafeUrl,
        source: FetchListError,
    },
    #[error(transparent)]
    Parse(MirrorSourceError),
    #[error(
        "{list} does not say of which channel it lists mirrors, and there are {count}: name one \
         channel, write $channel in its URLs, or use a mirrors file"
    )]
    WhichChannel { list: String, count: usize },
    #[error(
        "the metalink {list} names no mirror of a channel: none of its http URLs ends in a \
         channel's SUBDIR/FILE, such as noarch/repodata.json.zst"
    )]
    NoBase { list: String },
}

/// What went wrong with a request for a list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchListError {
    #[error("the request failed")]
    Request(#[source] Box<BackendError>),
    #[error("its URL has no last part, as that of a file has")]
    NoFile,
    #[error("it is longer than {MOST_BYTES} bytes")]
    TooLong,
    #[error("it is no text")]
    NotText,
    #[error("this run is offline")]
    Offline,
    #[error("it did not come within {} s", PATIENCE.as_secs())]
    Timeout,
}

/// A list that was read but may depend on the channel it is read for.
struct List {
    name: String,
    is_local: bool,
    text: String,
    source: MirrorSource,
}

/// All lists of a run, in the order in which they were named.
pub(crate) struct MirrorLists(Vec<List>);

impl MirrorLists {
    /// Reads all lists; what comes from the network is kept in `cache`, in case it cannot be had the
    /// next time. Without a client nothing comes from there.
    pub(crate) async fn load(
        places: &[ListPlace],
        cache: &Path,
        client: Option<&HttpClient>,
        printer: &Printer,
    ) -> Result<Self, ListsError> {
        let lists = places.iter().map(|place| async move {
            match place {
                ListPlace::File(_) => {
                    let text = fetch_text(place, client).await?;
                    List::read(place.to_string(), true, text).map_err(ListsError::Parse)
                }
                ListPlace::Url(url) => from_url(url, cache, client, printer).await,
            }
        });
        let lists = try_join_all(lists).await?;
        for list in &lists {
            for skipped in list.skipped() {
                printer.detail(&format!("{}: {skipped}; it is passed over", list.name));
            }
        }
        Ok(Self(lists))
    }

    /// The channels that are named, in order.
    pub(crate) fn channels(&self) -> Vec<String> {
        let mut names = Vec::new();
        for list in &self.0 {
            if let MirrorSource::Channels(file) | MirrorSource::Table(file) = &list.source {
                names.extend(file.channels.iter().map(|channel| channel.url.clone()));
            }
        }
        names
    }

    /// What each list has for a channel. Lists that say nothing of it are left out; those that say
    /// nothing of any channel are for the one that is asked for, which is `one_of` so many.
    pub(crate) fn mirrors_of(
        &self,
        channel: &Channel,
        one_of: Option<usize>,
    ) -> Result<Vec<Vec<Mirror>>, ListsError> {
        let mut found = Vec::new();
        for list in &self.0 {
            found.extend(list.mirrors_of(channel, one_of)?);
        }
        Ok(found)
    }
}

impl List {
    fn read(name: String, is_local: bool, text: String) -> Result<Self, MirrorSourceError> {
        // Any value will do to see what it is; a plain list is read again for each channel.
        let source = parse(&name, is_local, &text, "channel")?;
        Ok(Self {
            name,
            is_local,
            text,
            source,
        })
    }

    fn skipped(&self) -> &[Skipped] {
        match &self.source {
            MirrorSource::List(list) => &list.skipped,
            MirrorSource::Metalink(metalink) => &metalink.skipped,
            MirrorSource::Channels(_) | MirrorSource::Table(_) => &[],
        }
    }

    fn mirrors_of(
        &self,
        channel: &Channel,
        one_of: Option<usize>,
    ) -> Result<Option<Vec<Mirror>>, ListsError> {
        let which = |count| ListsError::WhichChannel {
            list: self.name.clone(),
            count,
        };
        match (&self.source, one_of) {
            (MirrorSource::Channels(file), _) => Ok(named(file, channel)),
            (MirrorSource::Table(file), _) => Ok(file.mirrors_below(&channel.canonical())),
            (MirrorSource::List(_) | MirrorSource::Metalink(_), None) => Ok(None),
            (MirrorSource::List(_), Some(count)) => {
                let varies = ["$channel", "${channel}"];
                if count > 1 && !varies.iter().any(|name| self.text.contains(name)) {
                    return Err(which(count));
                }
                let source = parse(&self.name, self.is_local, &self.text, channel.name());
                match source.map_err(ListsError::Parse)? {
                    MirrorSource::List(list) => Ok(Some(list.mirrors)),
                    _ => Ok(None),
                }
            }
            (MirrorSource::Metalink(_), Some(count)) if count > 1 => Err(which(count)),
            (MirrorSource::Metalink(metalink), Some(_)) => match bases(metalink) {
                mirrors if mirrors.is_empty() => Err(ListsError::NoBase {
                    list: self.name.clone(),
                }),
                mirrors => Ok(Some(mirrors)),
            },
        }
    }
}

fn parse(
    name: &str,
    is_local: bool,
    text: &str,
    channel: &str,
) -> Result<MirrorSource, MirrorSourceError> {
    let origin = |line: u32| {
        if is_local {
            let file = name.into();
            Origin::File { file, line }
        } else {
            // Who names mirrors there is not the user, whoever named the list.
            let from = format!("{name}:{line}").into();
            Origin::Discovered { from }
        }
    };
    MirrorSource::parse(text, name, &[("channel", channel)], origin)
}

/// The mirrors that a file has for a channel, by its URL or by its short name.
fn named(file: &MirrorsFile, channel: &Channel) -> Option<Vec<Mirror>> {
    let by_url = file.mirrors_for(&channel.canonical());
    let mirrors = by_url.or_else(|| file.mirrors_for(channel.name()))?;
    Some(mirrors.to_vec())
}

/// The roots of the trees in which the files of a metalink lie: each http URL that ends in
/// `SUBDIR/FILE`, where the first is the name of a platform, without these two.
fn bases(metalink: &Metalink) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for file in &metalink.files {
        let mut paths: Vec<String> = Vec::new();
        for mirror in &file.mirrors {
            let taipan_mirrors::Location::Http(url) = &mirror.location else {
                continue;
            };
            let mut segments = url.path().rsplit('/');
            let (Some(name), Some(subdir)) = (segments.next(), segments.next()) else {
                continue;
            };
            let path = format!("{subdir}/{name}");
            let is_subdir = subdir.parse::<rattler_conda_types::Subdir>().is_ok();
            if is_subdir && !name.is_empty() && !paths.contains(&path) {
                paths.push(path);
            }
        }
        for path in paths {
            mirrors.extend(file.base_mirrors(&path));
        }
    }
    taipan_mirrors::merge([mirrors])
}

/// Fetches a list; when that fails, the copy of an earlier run serves.
async fn from_url(
    url: &Url,
    cache: &Path,
    client: Option<&HttpClient>,
    printer: &Printer,
) -> Result<List, ListsError> {
    let safe = SafeUrl::from(url.clone());
    let digest = Sha256::of(url.as_str().as_bytes()).to_string();
    let kept = cache.join(format!("{}.txt", &digest[..32]));
    let error = match fetch_text(&ListPlace::Url(url.clone()), client).await {
        Ok(text) => match List::read(safe.to_string(), false, text) {
            Ok(list) => {
                if let Err(error) = keep(&kept, &list.text) {
                    tracing::debug!(%error, url = %safe, "the list of mirrors is not kept");
                }
                return Ok(list);
            }
            // A login page, perhaps.
            Err(error) => ListsError::Parse(error),
        },
        Err(error) => error,
    };
    let Ok(text) = std::fs::read_to_string(&kept) else {
        return Err(error);
    };
    match List::read(safe.to_string(), false, text) {
        Ok(list) => {
            printer.warn(&format!(
                "{}, so the copy of an earlier run is used, which may be out of date",
                crate::error::chain(&error)
            ));
            Ok(list)
        }
        Err(_) => Err(error),
    }
}

/// Reads a text from a file or fetches it.
pub(crate) async fn fetch_text(
    place: &ListPlace,
    client: Option<&HttpClient>,
) -> Result<String, ListsError> {
    match place {
        ListPlace::File(path) => std::fs::read_to_string(path).map_err(|source| {
            let path = path.clone();
            ListsError::Read { path, source }
        }),
        ListPlace::Url(url) => {
            let fetched = match client {
                Some(client) => tokio::time::timeout(PATIENCE, fetch(url, client))
                    .await
                    .unwrap_or(Err(FetchListError::Timeout)),
                None => Err(FetchListError::Offline),
            };
            fetched.map_err(|source| {
                let url = url.clone().into();
                ListsError::Fetch { url, source }
            })
        }
    }
}

async fn fetch(url: &Url, client: &HttpClient) -> Result<String, FetchListError> {
    let (directory, name) = split_url(url).map_err(|_| FetchListError::NoFile)?;
    let backend = RenamedBackend::in_directory(&directory, client);
    let backend = backend.ok_or(FetchListError::NoFile)?;
    let request = GetRequest {
        target: &Target::path(name),
        expected: Expected::default(),
        ranges: Ranges::All,
        validators: None,
    };
    let mut text = Vec::new();
    // Nothing was said that could be unchanged, so there is a body.
    let failed = |error| FetchListError::Request(Box::new(error));
    if let GetResponse::Body { mut body, .. } = backend.get(request).await.map_err(failed)? {
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(failed)?;
            if text.len() + piece.len() > MOST_BYTES {
                return Err(FetchListError::TooLong);
            }
            text.extend_from_slice(&piece);
        }
    }
    String::from_utf8(text).map_err(|_| FetchListError::NotText)
}

fn keep(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> List {
        List::read("l".to_owned(), true, text.to_owned()).unwrap()
    }

    fn channel(name: &str) -> Channel {
        let alias = "https://conda.example".parse().unwrap();
        Channel::parse(name, &alias, Path::new("/")).unwrap()
    }

    fn urls(list: &List, name: &str) -> Vec<String> {
        let mirrors = list.mirrors_of(&channel(name), Some(1)).unwrap();
        let mirrors = mirrors.unwrap_or_default();
        mirrors.iter().map(|m| m.location.to_string()).collect()
    }

    #[test]
    fn a_channel_is_found_by_its_name_and_by_its_url() {
        for name in ["one", "https://conda.example/one"] {
            let list = list(&format!(
                "[[channel]]\nurl = \"{name}\"\nmirrors = [\"https://a.example/one\"]\n"
            ));
            assert_eq!(urls(&list, "one"), ["https://a.example/one"]);
            assert_eq!(urls(&list, "two"), Vec::<String>::new());
        }
        let table = list("[mirrors]\n\"https://conda.example\" = [\"https://a.example/all\"]\n");
        assert_eq!(urls(&table, "one"), ["https://a.example/all/one"]);
    }

    #[test]
    fn a_plain_list_is_for_one_channel_unless_it_has_a_place_for_the_name() {
        let plain = list("https://a.example/one\n");
        assert_eq!(urls(&plain, "one"), ["https://a.example/one"]);
        let error = plain.mirrors_of(&channel("one"), Some(2)).unwrap_err();
        assert!(error.to_string().contains("write $channel"), "{error}");
        let varying = list("https://a.example/pub/$channel\n");
        let mirrors = varying
            .mirrors_of(&channel("two"), Some(2))
            .unwrap()
            .unwrap();
        assert_eq!(mirrors[0].location.to_string(), "https://a.example/pub/two");
    }

    #[test]
    fn the_urls_of_a_metalink_lose_the_file_and_its_subdir() {
        let urls_of = |urls: &str| {
            format!(
                "<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"><file name=\"repodata.json.zst\">\
                 {urls}</file></metalink>"
            )
        };
        let metalink = list(&urls_of(
            "<url priority=\"4\">https://a.example/one/noarch/repodata.json.zst</url>\
             <url>https://b.example/elsewhere/repodata.json.zst</url>\
             <url>https://c.example/x/one/linux-64/repodata.json.zst</url>",
        ));
        assert_eq!(
            urls(&metalink, "one"),
            ["https://a.example/one", "https://c.example/x/one"]
        );
        let other = list(&urls_of("<url>https://b.example/x/repomd.xml</url>"));
        let error = other.mirrors_of(&channel("one"), Some(1)).unwrap_err();
        assert!(
            error.to_string().contains("noarch/repodata.json.zst"),
            "{error}"
        );
    }

    #[test]
    fn a_place_is_a_path_or_a_url_of_the_web() {
        let parse = |text: &str| ListPlace::parse(text).map(|place| place.to_string());
        assert_eq!(parse("dir/m.toml").unwrap(), "dir/m.toml");
        assert_eq!(parse("file:///srv/my%20list").unwrap(), "/srv/my list");
        assert_eq!(
            parse("https://me:pw@a.example/m?token=x").unwrap(),
            "https://***@a.example/m?token=***"
        );
        let error = parse("s3://me:pw@bucket/m").unwrap_err().to_string();
        assert!(
            error.starts_with("`s3://***@bucket/m` is no place"),
            "{error}"
        );
    }
}
