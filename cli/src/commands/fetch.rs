//! `taipan fetch`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use taipan_channel::{
    MirroredChannel, RepodataCache, RepodataOptions, SubdirIndex, fetch_index, metadata_target,
    package_target,
};
use taipan_mirrors::{Kind, Location, Metalink, MetalinkFile, Mirror, Origin};
use taipan_transfer::{
    Backend, Engine, Expected, Fetched, Job, Md5, MirrorSet, Sha256, Target, Validators, Verifier,
};

use super::fetch_report::Report;
use crate::{
    args::FetchArgs,
    context::{ChannelSelection, Context},
    error::AppError,
    exact_backend::ExactBackend,
    exit::Exit,
    fetch_target::{Asked, file_name, split_name, split_url},
    interrupt::Interrupt,
    mirror_lists::{ListPlace, fetch_text},
    printer::{Printer, bytes},
    progress::Downloads,
    settings::Settings,
    stdout_sink::StdoutSink,
};

/// Fetches files and says what each mirror gave.
pub(crate) async fn run(
    settings: &Settings,
    printer: &Arc<Printer>,
    args: &FetchArgs,
    interrupt: &Interrupt,
) -> Result<Exit, AppError> {
    let is_stdout = args.output.as_deref() == Some(Path::new("-"));
    if is_stdout && printer.is_json() {
        return Err(AppError::JsonOnStdout);
    }
    let sha256 = match args.sha256.as_deref().map(str::parse::<Sha256>) {
        Some(Ok(digest)) => Some(digest),
        Some(Err(source)) => return Err(AppError::Sha256(source)),
        None => None,
    };
    let in_channel = !args.places.channels.is_empty();
    let read = |text: &String| Asked::read(text, args.metalink, in_channel);
    let asked = args
        .targets
        .iter()
        .map(read)
        .collect::<Result<Vec<_>, _>>()?;
    let wanted = ChannelSelection::AndListed(channels_of(&asked, in_channel, settings));
    let context = interrupt.or(Context::new(settings, wanted, printer)).await;
    let context = context.ok_or(AppError::Interrupted)??;
    let mut work = Fetch {
        settings,
        printer,
        args,
        context: &context,
        sets: HashMap::new(),
        others: Vec::new(),
        of_metalinks: Vec::new(),
    };
    let result = interrupt.or(work.run(asked, sha256, is_stdout)).await;
    // Also when it was interrupted: what is known is known.
    context.save_with(&work.others);
    result.ok_or(AppError::Interrupted)?
}

/// The mirrors of some files of metalinks.
struct MetalinkMirrors {
    mirrors: Vec<Mirror>,
    backends: Vec<Arc<ExactBackend>>,
    set: MirrorSet,
}

/// Whether these are the same places with the same preferences, wherever they are listed.
fn are_the_same(one: &[Mirror], other: &[Mirror]) -> bool {
    let listed = |mirror: &Mirror| Mirror {
        origin: Origin::CommandLine,
        ..mirror.clone()
    };
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| listed(a) == listed(b))
}

/// The channels that arguments are about.
fn channels_of(asked: &[Asked], in_channel: bool, settings: &Settings) -> Vec<String> {
    if in_channel {
        return settings.channels.value.clone();
    }
    let mut names = Vec::new();
    for asked in asked {
        match asked {
            Asked::Path {
                channel: Some(name),
                ..
            } => names.push(name.clone()),
            Asked::Path { channel: None, .. } => names.extend(settings.channels.value.clone()),
            Asked::Url(_) | Asked::Metalink(_) => {}
        }
    }
    names
}

/// Where a file is had from.
enum From {
    /// Channels of the context, the next one when the former does not have it.
    Channels(Vec<usize>),
    Mirrors(MirrorSet),
}

/// A file that is wanted.
pub(super) struct WantedFile {
    pub(super) label: String,
    from: From,
    target: Target,
    pub(super) expected: Expected,
    kind: Kind,
    /// `None` is stdout.
    pub(super) output: Option<PathBuf>,
}

/// What became of a file.
pub(super) enum Outcome {
    Fetched {
        fetched: Fetched,
        took: Duration,
    },
    /// It was there, with the right digest.
    Present(u64),
    Failed(AppError),
}

struct Fetch<'a> {
    settings: &'a Settings,
    printer: &'a Arc<Printer>,
    args: &'a FetchArgs,
    context: &'a Context,
    /// The mirror sets of single URLs, by the directory they lie in: they share what they learn.
    sets: HashMap<Location, MirrorSet>,
    others: Vec<MirrorSet>,
    of_metalinks: Vec<MetalinkMirrors>,
}

impl Fetch<'_> {
    async fn run(
        &mut self,
        asked: Vec<Asked>,
        sha256: Option<Sha256>,
        is_stdout: bool,
    ) -> Result<Exit, AppError> {
        let mut files = Vec::new();
        for asked in asked {
            match asked {
                Asked::Metalink(place) => files.extend(self.metalink(&place).await?),
                other => files.push(self.single(&other)?),
            }
        }
        if files.len() != 1 && (self.args.output.is_some() || sha256.is_some()) {
            let option = if sha256.is_some() {
                "--sha256"
            } else {
                "--output"
            };
            let count = files.len();
            return Err(AppError::OneFile { option, count });
        }
        if let Some(file) = files.first_mut().filter(|_| sha256.is_some()) {
            file.expected.sha256 = sha256;
        }
        self.place(&mut files, is_stdout)?;
        if !self.args.no_repodata {
            self.look_up(&mut files).await;
        }
        for file in files
            .iter()
            .filter(|file| !file.expected.is_content_addressed())
        {
            self.printer.detail(&format!(
                "  {}: no digest is known, so it is not verified",
                file.label
            ));
        }
        let outcomes = self.fetch_all(&files).await;
        Ok(Report::new(self.printer, self.context, &self.others).show(&files, &outcomes))
    }

    /// A file that is named by a path or a URL.
    fn single(&mut self, asked: &Asked) -> Result<WantedFile, AppError> {
        let channels = &self.context.channels;
        let label = asked.label();
        let (indices, path) = match asked {
            Asked::Path { channel, path } => {
                (self.channels_named(channel.as_deref())?, path.clone())
            }
            Asked::Url(url) => {
                let below = |(index, place): (usize, &MirroredChannel)| {
                    Some((index, place.channel.path_of(url)?))
                };
                // The longest channel is the nearest.
                let nearest = channels.iter().enumerate().filter_map(below);
                match nearest.min_by_key(|(_, path)| path.len()) {
                    Some((index, path)) => (vec![index], path),
                    None => return self.lone(url, label),
                }
            }
            Asked::Metalink(_) => unreachable!("metalinks are read elsewhere"),
        };
        let (subdir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let is_package = is_package(name);
        let oci = metadata_target(subdir, name);
        Ok(WantedFile {
            label,
            from: From::Channels(indices),
            kind: if is_package {
                Kind::Content
            } else {
                Kind::Metadata
            },
            target: Target { path, oci },
            expected: Expected::default(),
            output: None,
        })
    }

    /// The channels of a path: the one it begins with, or those in force.
    fn channels_named(&self, name: Option<&str>) -> Result<Vec<usize>, AppError> {
        let names = match name {
            Some(name) => vec![name.to_owned()],
            None => self.settings.channels.value.clone(),
        };
        let directory = std::env::current_dir().unwrap_or_default();
        let mut indices = Vec::new();
        for name in &names {
            let alias = &self.settings.channel_alias.value;
            let wanted = taipan_channel::Channel::parse(name, alias, &directory)?.canonical();
            let mut all = self.context.channels.iter();
            indices.extend(all.position(|place| place.channel.canonical() == wanted));
        }
        Ok(indices)
    }

    /// A file at a URL of its own.
    fn lone(&mut self, url: &url::Url, label: String) -> Result<WantedFile, AppError> {
        if !self.args.places.mirrors.is_empty() {
            self.printer.warn(&format!(
                "the lists of mirrors say nothing of {label}; to use them, name with -c the part of the \
                 URL that stands for the mirrors"
            ));
        }
        let (parent, name) = split_url(url)?;
        let set = if let Some(set) = self.sets.get(&parent) {
            set.clone()
        } else {
            let mirror = Mirror::new(parent.clone(), Origin::CommandLine);
            let set = self.context.mirror_set(vec![mirror], None);
            self.others.push(set.clone());
            self.sets.insert(parent, set.clone());
            set
        };
        Ok(WantedFile {
            label,
            from: From::Mirrors(set),
            target: Target::path(name),
            expected: Expected::default(),
            kind: Kind::Content,
            output: None,
        })
    }

    /// The files of a metalink.
    async fn metalink(&mut self, place: &ListPlace) -> Result<Vec<WantedFile>, AppError> {
        let name = place.to_string();
        let client = Some(&self.context.client).filter(|_| !self.args.offline);
        let text = fetch_text(place, client).await?;
        let is_local = matches!(place, ListPlace::File(_));
        let origin = |line: u32| {
            if is_local {
                let file = name.as_str().into();
                Origin::File { file, line }
            } else {
                let from = format!("{name}:{line}").into();
                Origin::Discovered { from }
            }
        };
        let metalink = Metalink::parse(&text, &name, origin).map_err(AppError::Metalink)?;
        for skipped in &metalink.skipped {
            self.printer
                .detail(&format!("{name}: {skipped}; it is passed over"));
        }
        if metalink.files.is_empty() {
            return Err(AppError::EmptyMetalink { name });
        }
        let files = metalink
            .files
            .iter()
            .map(|file| self.of_metalink(file, &name));
        files.collect()
    }

    fn of_metalink(&mut self, file: &MetalinkFile, metalink: &str) -> Result<WantedFile, AppError> {
        let mut mirrors = Vec::new();
        let mut names = Vec::new();
        for mirror in &file.mirrors {
            let url = match &mirror.location {
                Location::Http(url) => Some(url.clone()),
                Location::File(path) => url::Url::from_file_path(path).ok(),
                Location::S3(_) | Location::Oci(_) => None,
            };
            let split = |url| split_name(&url, &file.name).or_else(|| split_url(&url).ok());
            if let Some((location, name)) = url.and_then(split) {
                mirrors.push(Mirror {
                    location,
                    ..mirror.clone()
                });
                names.push(name);
            }
        }
        if mirrors.is_empty() {
            return Err(AppError::NoMirrorOfFile {
                file: file.name.clone(),
                metalink: metalink.to_owned(),
            });
        }
        let set = self.set_of_metalink(mirrors, &file.name, &names);
        let digest = |algorithm: &str| {
            let mut digests = file.version.digests.iter();
            digests.find(|digest| digest.algorithm() == algorithm)
        };
        Ok(WantedFile {
            label: file.name.clone(),
            from: From::Mirrors(set),
            target: Target::path(file.name.as_str()),
            expected: Expected {
                size: file.version.size,
                sha256: digest("sha256").and_then(|digest| digest.hex().parse::<Sha256>().ok()),
                md5: digest("md5").and_then(|digest| digest.hex().parse::<Md5>().ok()),
            },
            kind: Kind::Content,
            output: None,
        })
    }

    /// The mirrors of a file of a metalink. Files with the same ones share what is learnt of them.
    fn set_of_metalink(&mut self, mirrors: Vec<Mirror>, path: &str, names: &[String]) -> MirrorSet {
        let same = self.of_metalinks.iter().find(|known| {
            are_the_same(&known.mirrors, &mirrors)
                // All of them, so that no name is left behind where one is taken.
                && known.backends.iter().zip(names).all(|(backend, name)| backend.name(path, name))
        });
        if let Some(known) = same {
            return known.set.clone();
        }
        let client = &self.context.client;
        let (mirrors, backends): (Vec<Mirror>, Vec<Arc<ExactBackend>>) = mirrors
            .into_iter()
            .zip(names)
            .filter_map(|(mirror, name)| {
                let backend = ExactBackend::in_directory(&mirror.location, client)?;
                backend.name(path, name);
                Some((mirror, backend))
            })
            .unzip();
        let dynamic = backends.iter().map(|b| Arc::clone(b) as Arc<dyn Backend>);
        let set = self
            .context
            .mirror_set(mirrors.clone(), Some(dynamic.collect()));
        self.others.push(set.clone());
        self.of_metalinks.push(MetalinkMirrors {
            mirrors,
            backends,
            set: set.clone(),
        });
        set
    }

    /// Gives each file its place, and makes the directories for it.
    fn place(&self, files: &mut [WantedFile], is_stdout: bool) -> Result<(), AppError> {
        if is_stdout {
            return Ok(());
        }
        let mut taken = HashSet::new();
        for file in files {
            let path = match (&self.args.output, &file.from) {
                (Some(output), _) => output.clone(),
                // Names of metalinks have directories, which stay below.
                (None, From::Mirrors(_)) => self.directory().join(&file.target.path),
                (None, From::Channels(_)) => {
                    let name = file_name(&file.target.path).unwrap_or(&file.label);
                    self.directory().join(name)
                }
            };
            if path.is_dir() {
                return Err(AppError::OutputIsDirectory { path });
            }
            if !taken.insert(path.clone()) {
                return Err(AppError::SameOutput { path });
            }
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            if let Some(parent) = parent {
                std::fs::create_dir_all(parent).map_err(|source| AppError::WriteFile {
                    path: parent.to_owned(),
                    source,
                })?;
            }
            file.output = Some(path);
        }
        Ok(())
    }

    fn directory(&self) -> &Path {
        self.args.directory.as_deref().unwrap_or(Path::new(""))
    }

    /// Completes what is known of packages by the repodata of their channels.
    async fn look_up(&self, files: &mut [WantedFile]) {
        let mut subdirs = BTreeSet::new();
        for file in files.iter().filter(|file| self.is_to_be_looked_up(file)) {
            if let Some((subdir, _, channels)) = package_of_channel(file) {
                subdirs.extend(channels.iter().map(|&channel| (channel, subdir.to_owned())));
            }
        }
        if subdirs.is_empty() {
            return;
        }
        let downloads = Downloads::new(self.printer, "repodata", None);
        let engine = self.context.engine(downloads.clone());
        let cache = RepodataCache::new(self.settings.cache_dir.value.join("repodata"));
        let indexes: BTreeMap<(usize, String), SubdirIndex> = stream::iter(subdirs)
            .map(|(channel, subdir)| {
                let (engine, cache) = (&engine, &cache);
                async move {
                    let MirroredChannel {
                        channel: name,
                        mirrors,
                    } = &self.context.channels[channel];
                    let options = RepodataOptions::default();
                    let index = fetch_index(engine, mirrors, name, &subdir, cache, options).await;
                    match index {
                        Ok(index) => Some(((channel, subdir), index)),
                        Err(error) => {
                            self.printer.warn(&crate::error::chain(&error));
                            None
                        }
                    }
                }
            })
            .buffer_unordered(4)
            .filter_map(std::future::ready)
            .collect()
            .await;
        downloads.finish();
        for file in files {
            if !self.is_to_be_looked_up(file) {
                continue;
            }
            let Some((subdir, name, channels)) = package_of_channel(file) else {
                continue;
            };
            let found = channels.iter().find_map(|&channel| {
                let index = indexes.get(&(channel, subdir.to_owned()))?;
                Some((channel, record(index, name, &file.target.path)?))
            });
            let is_known = file.expected.is_content_addressed();
            if let Some((channel, (target, expected))) = found {
                file.from = From::Channels(vec![channel]);
                file.target = target;
                if !is_known {
                    file.expected = expected;
                }
            } else if !is_known {
                self.printer.warn(&format!(
                    "{} is not in the repodata of its channel, so it is not verified",
                    file.label
                ));
            }
        }
    }

    /// Whether the repodata has more to say of a file: its digest, or where registries have it.
    fn is_to_be_looked_up(&self, file: &WantedFile) -> bool {
        let Some((.., channels)) = package_of_channel(file) else {
            return false;
        };
        let has_registry = |channel: &usize| {
            let mirrors = &self.context.channels[*channel].mirrors;
            mirrors.with_selector(|selector, _| {
                let mut all = selector.mirrors().iter();
                all.any(|mirror| matches!(mirror.location, Location::Oci(_)))
            })
        };
        !file.expected.is_content_addressed() || channels.iter().any(has_registry)
    }

    async fn fetch_all(&self, files: &[WantedFile]) -> Vec<Outcome> {
        let size = files
            .iter()
            .map(|file| file.expected.size)
            .sum::<Option<u64>>();
        let downloads = Downloads::new(self.printer, "download", size);
        let engine = self.context.engine(downloads.clone());
        let fetches = files.iter().enumerate().map(|(index, file)| {
            let fetch = self.fetch(&engine, file);
            async move { (index, fetch.await) }
        });
        // Ended in any order, told in that of the arguments.
        let mut outcomes: Vec<(usize, Outcome)> = stream::iter(fetches)
            .buffer_unordered(self.context.jobs())
            .collect()
            .await;
        downloads.finish();
        outcomes.sort_by_key(|(index, _)| *index);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    async fn fetch(&self, engine: &Engine, file: &WantedFile) -> Outcome {
        if let Some(path) = file.output.clone() {
            let expected = file.expected;
            let present = tokio::task::spawn_blocking(move || is_present(&path, expected)).await;
            if let Ok(Some(size)) = present {
                return Outcome::Present(size);
            }
        }
        let started = Instant::now();
        let job = Job {
            kind: file.kind,
            ..Job::content(file.label.as_str(), file.target.clone(), file.expected)
        };
        let sets: Vec<&MirrorSet> = match &file.from {
            From::Mirrors(set) => vec![set],
            From::Channels(indices) => {
                let set = |index: &usize| &self.context.channels[*index].mirrors;
                indices.iter().map(set).collect()
            }
        };
        let mut result = Err(AppError::NoChannel);
        for set in sets {
            result = self
                .fetch_from(engine, set, &job, file.output.as_deref())
                .await;
            match &result {
                // The next channel may have it.
                Err(AppError::Fetch(error)) if error.is_absent() => {}
                _ => break,
            }
        }
        match result {
            Ok(fetched) => Outcome::Fetched {
                fetched,
                took: started.elapsed(),
            },
            Err(error) => Outcome::Failed(error),
        }
    }

    /// The zchunk files of which a zchunk file may reuse chunks.
    async fn older(&self, job: &Job, path: &Path) -> Vec<PathBuf> {
        if !job.target.path.ends_with(".zck") {
            return Vec::new();
        }
        let mut old = self.args.delta_from.clone();
        old.push(path.to_owned());
        let look = move || -> Vec<PathBuf> {
            old.retain(|path| is_zchunk(path));
            old
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    async fn fetch_from(
        &self,
        engine: &Engine,
        mirrors: &MirrorSet,
        job: &Job,
        output: Option<&Path>,
    ) -> Result<Fetched, AppError> {
        if let Some(path) = output {
            let old = self.older(job, path).await;
            if old.is_empty() {
                return Ok(engine.fetch_file(mirrors, job, path).await?);
            }
            let delta = engine.fetch_zchunk(mirrors, job, &old, path).await?;
            self.printer.say(&format!(
                "{}: {} were here, {} came in {} ranges",
                job.label,
                bytes(delta.reused_bytes),
                bytes(delta.header_bytes + delta.fetched_bytes),
                delta.ranges
            ));
            return Ok(Fetched {
                file: Some((delta.sha256, delta.size)),
                url: job.target.path.clone(),
                validators: Validators::default(),
                attempts: delta.attempts,
                wasted: delta.wasted,
            });
        }
        let mut sink = StdoutSink::new(self.printer);
        let result = engine.fetch(mirrors, job, &mut sink).await;
        match result {
            Err(_) if sink.is_broken() => Err(AppError::StdoutBroken {
                label: job.label.clone(),
            }),
            other => Ok(other?),
        }
    }
}

/// Whether a file is, by its first bytes, a zchunk file.
fn is_zchunk(path: &Path) -> bool {
    let mut start = [0; 5];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start))
        .is_ok_and(|()| start == *b"\0ZCK1")
}

fn is_package(name: &str) -> bool {
    name.ends_with(".conda") || name.ends_with(".tar.bz2")
}

/// Subdir and name of a package, and its channels.
fn package_of_channel(file: &WantedFile) -> Option<(&str, &str, &[usize])> {
    let From::Channels(channels) = &file.from else {
        return None;
    };
    let (subdir, name) = file.target.path.rsplit_once('/')?;
    let is_subdir = subdir.parse::<rattler_conda_types::Subdir>().is_ok();
    (is_subdir && is_package(name)).then_some((subdir, name, channels.as_slice()))
}

/// What the repodata says of an archive.
fn record(index: &SubdirIndex, file: &str, path: &str) -> Option<(Target, Expected)> {
    Some(package_target(&index.index.record(file)?, path))
}

/// The size of the file at `path` when its digest is known and right.
fn is_present(path: &Path, expected: Expected) -> Option<u64> {
    if !expected.is_content_addressed() {
        return None;
    }
    let mut file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    if expected.size.is_some_and(|expected| expected != size) {
        return None;
    }
    let mut verifier = Verifier::new(expected);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).ok()? {
            0 => break,
            count => verifier.update(&buffer[..count]),
        }
    }
    verifier.finish().ok().map(|_| size)
}
