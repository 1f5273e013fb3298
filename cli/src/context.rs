//! What the commands work with: channels with their mirrors, the engine, the store.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use taipan_channel::Channel;
use taipan_installer::ChannelMirrors;
use taipan_mirrors::{Location, Mirror, Provenance, SavedState, SelectorConfig, merge};
use taipan_transfer::{Backend, Engine, EngineOptions, HttpClient, MirrorSet, Observer, Sha256};

use crate::{
    error::AppError,
    mirror_lists::MirrorLists,
    printer::Printer,
    settings::{Settings, TransferChoices},
};

/// What fetches, and from where.
pub(crate) struct Context {
    pub(crate) channels: Vec<ChannelMirrors>,
    pub(crate) client: HttpClient,
    config: SelectorConfig,
    jobs: usize,
    transfer: TransferChoices,
    seed: u64,
    state_file: PathBuf,
    state: SavedState,
}

/// Of which channels the mirrors are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Those of the settings.
    Settings,
    /// Those that the lists of mirrors name; those of the settings when they name none.
    Listed,
    /// These, and then those that the lists of mirrors name.
    AndListed(Vec<String>),
}

impl Context {
    /// Reads the lists of mirrors, from files and from the network, and finds the mirrors of each
    /// channel.
    pub(crate) async fn new(
        settings: &Settings,
        wanted: Wanted,
        printer: &Printer,
    ) -> Result<Self, AppError> {
        let client = settings.http.client()?;
        let cache = &settings.cache_dir.value;
        let lists = MirrorLists::load(
            &settings.mirrors.value,
            &cache.join("mirror-lists"),
            (!settings.transfer.offline).then_some(&client),
            printer,
        )
        .await?;
        let state_file = cache.join("mirrors.json");
        let state = match std::fs::read_to_string(&state_file) {
            Ok(text) => {
                let (state, warning) = SavedState::parse(&text);
                if let Some(warning) = warning {
                    printer.warn(&warning.to_string());
                }
                state
            }
            // None was ever kept, or it cannot be read: then nothing is known.
            Err(_) => SavedState::new(),
        };
        let (names, others) = match wanted {
            Wanted::Listed if !lists.channels().is_empty() => (lists.channels(), Vec::new()),
            Wanted::Settings | Wanted::Listed => (settings.channels.value.clone(), Vec::new()),
            Wanted::AndListed(names) => (names, lists.channels()),
        };
        // Two clients that start at the same time must not choose alike.
        let entropy = format!("{:?}{}", std::time::SystemTime::now(), std::process::id());
        let mut seed = [0; 8];
        seed.copy_from_slice(&Sha256::of(entropy.as_bytes()).as_bytes()[..8]);
        let seed = u64::from_le_bytes(seed);
        let config = SelectorConfig {
            seed,
            country: settings.prefer_country.value.clone(),
            network: crate::network::current(),
            ..SelectorConfig::default()
        };
        // A list that names no channels is for those that are asked for, and no others.
        let count = parse_channels(&names, settings)?.len();
        let all = parse_channels(&[names, others].concat(), settings)?;
        let mut channels = Vec::with_capacity(all.len());
        for (index, (name, channel)) in all.into_iter().enumerate() {
            let listed = lists.mirrors_of(&channel, (index < count).then_some(count))?;
            let mirrors = if listed.is_empty() {
                let location = Location::parse(channel.base().as_str())
                    .map_err(|source| AppError::ChannelLocation { name, source })?;
                vec![Mirror::new(location, Provenance::Upstream)]
            } else {
                merge(listed)
            };
            let mirrors = MirrorSet::new(mirrors, config.clone(), &client);
            mirrors.load(&state);
            channels.push(ChannelMirrors { channel, mirrors });
        }
        Ok(Self {
            channels,
            config,
            client,
            jobs: settings.jobs.value,
            transfer: settings.transfer,
            seed,
            state_file,
            state,
        })
    }

    /// An engine that tells `observer` what it does.
    pub(crate) fn engine(&self, observer: Arc<dyn Observer>) -> Engine {
        let mut options = EngineOptions {
            slots: self.jobs,
            seed: self.seed,
            rate_limit: self.transfer.rate_limit,
            offline: self.transfer.offline,
            ..EngineOptions::default()
        };
        if let Some(connections) = self.transfer.connections {
            options.segments.most_connections = connections;
        }
        Engine::new(options, observer)
    }

    /// Other mirrors than those of a channel, with what is known of them.
    pub(crate) fn mirror_set(
        &self,
        mirrors: Vec<Mirror>,
        backends: Option<Vec<Arc<dyn Backend>>>,
    ) -> MirrorSet {
        let set = match backends {
            Some(backends) => MirrorSet::with_backends(mirrors, backends, self.config.clone()),
            None => MirrorSet::new(mirrors, self.config.clone(), &self.client),
        };
        set.load(&self.state);
        set
    }

    /// How many files are fetched at a time.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs
    }

    /// Keeps what was learnt of the mirrors for the next run. It is only an aid, so a failure to
    /// keep it is no failure of the command.
    pub(crate) fn save(&self) {
        self.save_with(&[]);
    }

    /// The same with what was learnt of others.
    pub(crate) fn save_with(&self, others: &[MirrorSet]) {
        let mut state = self.state.clone();
        let sets = self.channels.iter().map(|place| &place.mirrors);
        for mirrors in sets.chain(others) {
            mirrors.save(&mut state);
        }
        let write = || -> std::io::Result<()> {
            let dir = self.state_file.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir)?;
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            std::io::Write::write_all(&mut file, state.to_json().as_bytes())?;
            file.persist(&self.state_file)?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "the state of the mirrors is not kept");
        }
    }
}

/// The channels of these names, each once, with the name by which it was asked for.
fn parse_channels(
    names: &[String],
    settings: &Settings,
) -> Result<Vec<(String, Channel)>, AppError> {
    let directory = std::env::current_dir().unwrap_or_default();
    let mut channels: Vec<(String, Channel)> = Vec::new();
    for name in names {
        let channel = Channel::parse(name, &settings.channel_alias.value, &directory)?;
        let canonical = channel.canonical();
        let mut known = channels.iter().map(|(_, known)| known.canonical());
        if !known.any(|known| known == canonical) {
            channels.push((name.clone(), channel));
        }
    }
    Ok(channels)
}
