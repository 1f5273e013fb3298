//! Mirror lists of any kind, from files and URLs, and the mirrors that they name for a channel.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, future::try_join_all};
use taipan_channel::Channel;
use taipan_mirrors::{
    DecodeError, ListError, Metalink, Mirror, MirrorSource, MirrorsFile, Provenance, SafeUrl,
    Skipped, decode_text,
};
use taipan_transfer::{
    BackendError, Expected, GetRequest, GetResponse, HttpBackend, HttpClient, Ranges, Sha256,
    Target,
};
use url::Url;

use crate::{error_chain::one_line, list_location::ListLocation, printer::Printer};

/// The maximum size of a list, in bytes. Fedora's largest metalinks have a hundredth of it.
const MAX_BYTES: usize = 8 << 20;

/// The timeout for fetching a list.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// A mirror list that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MirrorListError {
    #[error("cannot read the mirror list {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot fetch the mirror list {url}")]
    Fetch {
        url: SafeUrl,
        source: FetchListError,
    },
    #[error(transparent)]
    Parse(ListError),
    #[error(
        "{list} does not name the channel of its mirrors, and {count} channels are in use: use one \
         channel, write $channel in the URLs of the list, or use a mirrors file"
    )]
    WhichChannel { list: String, count: usize },
    #[error(
        "the metalink {list} names no mirror of a channel: none of its http URLs ends in \
         SUBDIR/FILE, for example noarch/repodata.json.zst"
    )]
    NoBase { list: String },
}

/// Why a list cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchListError {
    #[error("the request failed")]
    Request(#[source] Box<BackendError>),
    #[error("the list is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    NotText(DecodeError),
    #[error("--offline does not allow network access")]
    Offline,
    #[error("not complete after {} s", FETCH_TIMEOUT.as_secs())]
    Timeout,
}

/// A parsed list. The mirrors of a plain list may depend on the channel.
struct List {
    name: String,
    is_local: bool,
    text: String,
    source: MirrorSource,
}

/// All mirror lists of a run, in the order in which they were given.
pub(crate) struct MirrorLists(Vec<List>);

impl MirrorLists {
    /// Reads all lists. Lists from the network are kept in `cache`, for runs in which they cannot be
    /// fetched. Without a client the network is not used.
    pub(crate) async fn load(
        locations: &[ListLocation],
        cache: &Path,
        client: Option<&HttpClient>,
        printer: &Printer,
    ) -> Result<Self, MirrorListError> {
        let lists = locations.iter().map(|location| async move {
            match location {
                ListLocation::File(_) => {
                    let text = fetch_text(location, client).await?;
                    List::read(location.to_string(), true, text).map_err(MirrorListError::Parse)
                }
                ListLocation::Url(url) => from_url(url, cache, client, printer).await,
            }
        });
        let lists = try_join_all(lists).await?;
        for list in &lists {
            for skipped in list.skipped() {
                printer.detail(&format!("{}: {skipped} (skipped)", list.name));
            }
        }
        Ok(Self(lists))
    }

    /// The channels that the lists name, in order.
    pub(crate) fn channels(&self) -> Vec<String> {
        let mut names = Vec::new();
        for list in &self.0 {
            if let MirrorSource::Collections(file) | MirrorSource::Table(file) = &list.source {
                names.extend(file.collections.iter().map(|channel| channel.url.clone()));
            }
        }
        names
    }

    /// The mirrors of a channel, per list that has any. A list that does not name channels applies
    /// to the requested channels, of which there are `requested`; `None`: this channel was not
    /// requested.
    pub(crate) fn mirrors_of(
        &self,
        channel: &Channel,
        requested: Option<usize>,
    ) -> Result<Vec<Vec<Mirror>>, MirrorListError> {
        let mut found = Vec::new();
        for list in &self.0 {
            found.extend(list.mirrors_of(channel, requested)?);
        }
        Ok(found)
    }
}

impl List {
    fn read(name: String, is_local: bool, text: String) -> Result<Self, ListError> {
        // Any channel name will do to detect the kind; a plain list is parsed again per channel.
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
            MirrorSource::Collections(_) | MirrorSource::Table(_) => &[],
        }
    }

    fn mirrors_of(
        &self,
        channel: &Channel,
        requested: Option<usize>,
    ) -> Result<Option<Vec<Mirror>>, MirrorListError> {
        let which = |count| MirrorListError::WhichChannel {
            list: self.name.clone(),
            count,
        };
        match (&self.source, requested) {
            (MirrorSource::Collections(file), _) => Ok(named(file, channel)),
            (MirrorSource::Table(file), _) => Ok(file.mirrors_below(&channel.canonical())),
            (MirrorSource::List(_) | MirrorSource::Metalink(_), None) => Ok(None),
            (MirrorSource::List(_), Some(count)) => {
                let varies = ["$channel", "${channel}"];
                if count > 1 && !varies.iter().any(|name| self.text.contains(name)) {
                    return Err(which(count));
                }
                let source = parse(&self.name, self.is_local, &self.text, channel.name());
                match source.map_err(MirrorListError::Parse)? {
                    MirrorSource::List(list) => Ok(Some(list.mirrors)),
                    _ => Ok(None),
                }
            }
            (MirrorSource::Metalink(_), Some(count)) if count > 1 => Err(which(count)),
            (MirrorSource::Metalink(metalink), Some(_)) => match bases(metalink) {
                mirrors if mirrors.is_empty() => Err(MirrorListError::NoBase {
                    list: self.name.clone(),
                }),
                mirrors => Ok(Some(mirrors)),
            },
        }
    }
}

fn parse(name: &str, is_local: bool, text: &str, channel: &str) -> Result<MirrorSource, ListError> {
    let origin = |line: u32| {
        if is_local {
            let file = name.into();
            Provenance::File { file, line }
        } else {
            // The user named the list, but not the mirrors in it.
            let from = format!("{name}:{line}").into();
            Provenance::Discovered { from }
        }
    };
    MirrorSource::parse(text, name, &[("channel", channel)], origin)
}

/// The mirrors that a file names for a channel, by its URL or by its name.
fn named(file: &MirrorsFile, channel: &Channel) -> Option<Vec<Mirror>> {
    let by_url = file.mirrors_for(&channel.canonical());
    let mirrors = by_url.or_else(|| file.mirrors_for(channel.name()))?;
    Some(mirrors.to_vec())
}

/// The mirrors that the files of a metalink lie on: each http URL that ends in `SUBDIR/FILE`,
/// without these two segments.
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

/// Fetches a list. When that fails, the copy of an earlier run is used.
async fn from_url(
    url: &Url,
    cache: &Path,
    client: Option<&HttpClient>,
    printer: &Printer,
) -> Result<List, MirrorListError> {
    let safe = SafeUrl::from(url.clone());
    let digest = Sha256::of(url.as_str().as_bytes()).to_string();
    let kept = cache.join(format!("{}.txt", &digest[..32]));
    let error = match fetch_text(&ListLocation::Url(url.clone()), client).await {
        Ok(text) => match List::read(safe.to_string(), false, text) {
            Ok(list) => {
                if let Err(error) = keep(&kept, &list.text) {
                    tracing::debug!(%error, url = %safe, "cannot cache the mirror list");
                }
                return Ok(list);
            }
            // Possibly a login page.
            Err(error) => MirrorListError::Parse(error),
        },
        Err(error) => error,
    };
    let Ok(text) = std::fs::read_to_string(&kept) else {
        return Err(error);
    };
    match List::read(safe.to_string(), false, text) {
        Ok(list) => {
            printer.warn(&format!(
                "{}; the copy of an earlier run is used, which may be out of date",
                one_line(&error)
            ));
            Ok(list)
        }
        Err(_) => Err(error),
    }
}

/// Reads or fetches the text of a list.
pub(crate) async fn fetch_text(
    location: &ListLocation,
    client: Option<&HttpClient>,
) -> Result<String, MirrorListError> {
    match location {
        ListLocation::File(path) => {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            std::fs::read(path)
                .and_then(|bytes| decode_text(&bytes).map_err(invalid))
                .map_err(|source| {
                    let path = path.clone();
                    MirrorListError::Read { path, source }
                })
        }
        ListLocation::Url(url) => {
            let fetched = match client {
                Some(client) => tokio::time::timeout(FETCH_TIMEOUT, fetch(url, client))
                    .await
                    .unwrap_or(Err(FetchListError::Timeout)),
                None => Err(FetchListError::Offline),
            };
            fetched.map_err(|source| {
                let url = url.clone().into();
                MirrorListError::Fetch { url, source }
            })
        }
    }
}

async fn fetch(url: &Url, client: &HttpClient) -> Result<String, FetchListError> {
    let backend = HttpBackend::new(client.clone(), url.clone());
    let request = GetRequest {
        target: &Target::path(url.path()),
        expected: Expected::default(),
        ranges: Ranges::All,
        validators: None,
        if_range: None,
    };
    let mut text = Vec::new();
    // The request has no validators, so the response has a body.
    let failed = |error| FetchListError::Request(Box::new(error));
    if let GetResponse::Body { mut body, .. } = backend
        .get_url(url.clone(), request)
        .await
        .map_err(failed)?
    {
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(failed)?;
            if text.len() + piece.len() > MAX_BYTES {
                return Err(FetchListError::TooLarge);
            }
            text.extend_from_slice(&piece);
        }
    }
    decode_text(&text).map_err(FetchListError::NotText)
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
    fn a_plain_list_is_for_one_channel_unless_it_has_a_variable() {
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
    fn the_mirrors_of_a_metalink_are_its_urls_without_subdir_and_file() {
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
}
