//! From an argument to the file's mirrors and its target on them.

use std::sync::Arc;

use taipan_channel::MirroredChannel;
use taipan_channel::{Channel, metadata_target};
use taipan_mirrors::{Location, Mirror, Provenance};
use taipan_transfer::{Expected, Job, MirrorSet, Target};
use url::Url;

use super::{
    file::{RequestedFile, Source},
    metalink::MetalinkResolver,
};
use crate::{
    args::FetchArgs,
    context::Context,
    error::AppError,
    fetch_argument::{FetchArgument, FetchArgumentError, FileArgument},
    file_url::split_url,
    printer::Printer,
    progress::Downloads,
    settings::Settings,
};

/// The channels that the arguments name.
pub(super) fn channels_of(
    arguments: &[FetchArgument],
    args: &FetchArgs,
    settings: &Settings,
) -> Vec<String> {
    if !args.source.channels.is_empty() {
        return settings.channels.value.clone();
    }
    let mut names = Vec::new();
    for argument in arguments {
        if let FetchArgument::File(FileArgument::Path { channel, .. }) = argument {
            match channel {
                Some(name) => names.push(name.clone()),
                None => names.extend(settings.channels.value.clone()),
            }
        }
    }
    names
}

/// Whether a file name is that of a package archive.
pub(super) fn is_package(name: &str) -> bool {
    name.ends_with(".conda") || name.ends_with(".tar.bz2")
}

/// Resolves arguments, and keeps the mirror sets of files that are not in a channel.
pub(super) struct Resolver<'a> {
    pub(super) settings: &'a Settings,
    pub(super) printer: &'a Arc<Printer>,
    pub(super) args: &'a FetchArgs,
    pub(super) context: &'a Context,
    /// The mirror sets of standalone URLs by directory: files of one directory share measurements.
    standalone: Vec<(Location, MirrorSet)>,
    metalinks: MetalinkResolver<'a>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        printer: &'a Arc<Printer>,
        args: &'a FetchArgs,
        context: &'a Context,
    ) -> Self {
        Self {
            settings,
            printer,
            args,
            context,
            standalone: Vec::new(),
            metalinks: MetalinkResolver::new(printer, context, args.offline),
        }
    }

    /// The mirror sets that are not those of a channel.
    pub(super) fn mirror_sets(&self) -> Vec<MirrorSet> {
        let standalone = self.standalone.iter().map(|(_, set)| set);
        standalone
            .chain(self.metalinks.mirror_sets())
            .cloned()
            .collect()
    }

    /// The files of the arguments, in order.
    pub(super) async fn resolve(
        &mut self,
        arguments: Vec<FetchArgument>,
    ) -> Result<Vec<RequestedFile>, AppError> {
        let mut files = Vec::new();
        for argument in arguments {
            match argument {
                FetchArgument::Metalink(location) => {
                    files.extend(self.metalinks.files(&location).await?);
                }
                FetchArgument::File(file) => files.push(self.file(&file)?),
            }
        }
        Ok(files)
    }

    fn file(&mut self, argument: &FileArgument) -> Result<RequestedFile, AppError> {
        let label = argument.label();
        let (channels, path) = match argument {
            FileArgument::Path { channel, path } => {
                (self.channels_named(channel.as_deref())?, path.clone())
            }
            FileArgument::Url(url) => match self.nearest_channel(url) {
                Some((channel, path)) => (vec![channel], path),
                None => return self.standalone_url(url, label),
            },
        };
        let (subdir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let target = Target {
            oci: metadata_target(subdir, name),
            path: path.clone(),
        };
        let job = if is_package(name) {
            Job::content(label, target, Expected::default())
        } else {
            Job::metadata(label, target)
        };
        Ok(RequestedFile {
            job,
            source: Source::Channels(channels),
            output: None,
        })
    }

    /// The channel with this name, or the channels of the settings.
    fn channels_named(&self, name: Option<&str>) -> Result<Vec<usize>, AppError> {
        let names = match name {
            Some(name) => vec![name.to_owned()],
            None => self.settings.channels.value.clone(),
        };
        let directory = std::env::current_dir().unwrap_or_default();
        let mut indices = Vec::new();
        for name in &names {
            let alias = &self.settings.channel_alias.value;
            let canonical = Channel::parse(name, alias, &directory)?.canonical();
            let mut all = self.context.channels.iter();
            indices.extend(all.position(|known| known.channel.canonical() == canonical));
        }
        Ok(indices)
    }

    /// The channel that a URL lies below, the one with the longest URL of several, and the path below
    /// it.
    fn nearest_channel(&self, url: &Url) -> Option<(usize, String)> {
        let channels = self.context.channels.iter().enumerate();
        channels
            .filter_map(|(index, MirroredChannel { channel, .. })| {
                Some((index, channel.path_of(url)?))
            })
            .min_by_key(|(_, path)| path.len())
    }

    /// A file at a URL that is not below a channel.
    fn standalone_url(&mut self, url: &Url, label: String) -> Result<RequestedFile, AppError> {
        if !self.args.source.mirrors.is_empty() {
            self.printer.warn(&format!(
                "no mirror list names mirrors of {label}: use --channel with the part of the URL that \
                 the mirrors replace"
            ));
        }
        let (directory, name) = split_url(url).map_err(FetchArgumentError::from)?;
        Ok(RequestedFile {
            job: Job::content(label, Target::path(name), Expected::default()),
            source: Source::Server {
                url: url.clone(),
                mirror: self.standalone_mirror(directory),
            },
            output: None,
        })
    }

    /// Asks the servers of standalone URLs for other mirrors of these files (RFC 6249), and for their
    /// digests.
    pub(super) async fn add_duplicates(&mut self, files: &mut [RequestedFile]) {
        let requests = Downloads::new(self.printer, "mirrors", None);
        let engine = self.context.engine(requests.clone());
        for file in files {
            let Source::Server { url, mirror } = &file.source else {
                continue;
            };
            // A file that is present and has a digest is probably the right one: it needs no request.
            let is_present = file.job.expected.is_content_addressed()
                && file.output.as_ref().is_some_and(|path| path.exists());
            // Of a zchunk file only the header and some chunks are fetched.
            let is_zchunk = url.path().ends_with(".zck");
            if is_present || is_zchunk || !matches!(url.scheme(), "http" | "https") {
                continue;
            }
            let Some(found) = engine.find_duplicates(mirror, &file.job).await else {
                continue;
            };
            let Ok(location) = Location::parse(url.as_str()) else {
                continue;
            };
            let itself = Mirror::new(location, Provenance::CommandLine);
            let mut mirrors = vec![itself];
            mirrors.extend(found.mirrors);
            let path = file.job.target.path.clone();
            if let Some(set) = self.metalinks.mirrors_of(&path, &mirrors) {
                self.printer.detail(&format!(
                    "{}: its server names {} other mirrors",
                    file.job.label,
                    mirrors.len() - 1
                ));
                file.job.expected = found.expected;
                file.source = Source::Mirrors(set);
            }
        }
        requests.finish();
    }

    /// The mirror set of a directory.
    fn standalone_mirror(&mut self, directory: Location) -> MirrorSet {
        let mut known = self.standalone.iter();
        if let Some((_, set)) = known.find(|(known, _)| *known == directory) {
            return set.clone();
        }
        let mirror = Mirror::new(directory.clone(), Provenance::CommandLine);
        let set = self.context.mirror_set(vec![mirror], None);
        self.standalone.push((directory, set.clone()));
        set
    }
}
