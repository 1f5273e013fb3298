//! From an argument to the file's mirrors and its target on them.

use std::sync::Arc;

use super::{
    addressed_sets::AddressedSets,
    file::{RequestedFile, Source},
    metalink::files_of,
};
use crate::{
    args::FetchArgs,
    context::Context,
    error::AppError,
    fetch_argument::{FetchArgument, FetchArgumentError, FileArgument},
    file_url::{FileUrl, FileUrlError},
    printer::Printer,
    progress::Downloads,
    settings::Settings,
};
use taipan_channel::MirroredChannel;
use taipan_channel::{Channel, metadata_target};
use taipan_mirrors::{Location, Mirror, Provenance};
use taipan_transfer::{Expected, Job, MirrorSet, Target};

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
    /// The mirror sets of objects that are not in a channel, by bucket.
    buckets: Vec<(Location, MirrorSet)>,
    sets: AddressedSets<'a>,
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
            buckets: Vec::new(),
            sets: AddressedSets::new(context),
        }
    }

    /// The mirror sets that are not those of a channel.
    pub(super) fn mirror_sets(&self) -> Vec<MirrorSet> {
        let buckets = self.buckets.iter().map(|(_, set)| set);
        buckets.chain(self.sets.all()).cloned().collect()
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
                    let client = Some(&self.context.client).filter(|_| !self.args.offline);
                    let listed = files_of(&location, client, &mut self.sets, self.printer).await?;
                    files.extend(listed);
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
    fn nearest_channel(&self, url: &FileUrl) -> Option<(usize, String)> {
        let channels = self.context.channels.iter().enumerate();
        channels
            .filter_map(|(index, MirroredChannel { channel, .. })| {
                Some((index, url.path_below(channel)?))
            })
            .min_by_key(|(_, path)| path.len())
    }

    /// A file at a URL that is not below a channel.
    fn standalone_url(&mut self, url: &FileUrl, label: String) -> Result<RequestedFile, AppError> {
        if !self.args.source.mirrors.is_empty() {
            self.printer.warn(&format!(
                "no mirror list names mirrors of {label}: use --channel with the part of the URL that \
                 the mirrors replace"
            ));
        }
        if url.name().is_none() && self.args.output.is_none() {
            let error = FileUrlError::NoName {
                url: url.to_string(),
            };
            return Err(FetchArgumentError::from(error).into());
        }
        let mirror = Mirror::new(url.directory(), Provenance::CommandLine);
        let (path, mirror) = match url {
            FileUrl::Object { key, .. } => (key.clone(), self.bucket(mirror)),
            FileUrl::Http(address) | FileUrl::Local(address) => {
                let path = url.name().unwrap_or_else(|| "file".to_owned());
                let address = std::slice::from_ref(address);
                let set = self.sets.in_directories(vec![mirror], &path, address);
                (path, set)
            }
        };
        Ok(RequestedFile {
            job: Job::content(label, Target::path(path), Expected::default()),
            source: Source::Server {
                url: url.clone(),
                mirror,
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
            let FileUrl::Http(url) = url else {
                continue;
            };
            if is_present || url.path().ends_with(".zck") {
                continue;
            }
            let Some(found) = engine.find_duplicates(mirror, &file.job).await else {
                continue;
            };
            let itself = Mirror::new(Location::Http(url.clone()), Provenance::CommandLine);
            let mut mirrors = vec![itself];
            mirrors.extend(found.mirrors);
            let path = file.job.target.path.clone();
            if let Some(set) = self.sets.of_file(&path, &mirrors) {
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

    /// The mirror set of a bucket.
    fn bucket(&mut self, mirror: Mirror) -> MirrorSet {
        let mut known = self.buckets.iter();
        if let Some((_, set)) = known.find(|(known, _)| *known == mirror.location) {
            return set.clone();
        }
        let location = mirror.location.clone();
        let set = self.context.mirror_set(vec![mirror], None);
        self.buckets.push((location, set.clone()));
        set
    }
}
