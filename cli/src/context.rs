//! What the commands work with: channels with their mirrors, the engine, the store.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use taipan_channel::{Channel, MirroredChannel};
use taipan_mirrors::{Location, Mirror, Provenance, SavedState, SelectorConfig, masked_in, merge};
use taipan_transfer::{Backend, Engine, EngineOptions, HttpClient, MirrorSet, Observer, Sha256};

use crate::{
    error::AppError,
    mirror_lists::MirrorLists,
    printer::Printer,
    settings::{Origin, Settings, TransferChoices},
};

/// Channels with their mirrors, and what engines are made with.
pub(crate) struct Context {
    pub(crate) channels: Vec<MirroredChannel>,
    pub(crate) client: HttpClient,
    config: SelectorConfig,
    jobs: usize,
    retry_for: Duration,
    /// Whether mirrors are waited for that have never responded.
    retry_unseen: bool,
    transfer: TransferChoices,
    seed: u64,
    state_file: PathBuf,
    state: SavedState,
}

/// Which channels a command works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChannelSelection {
    /// The channels of the settings.
    Settings,
    /// The channels of the mirror lists, or those of the settings if the lists name none.
    Listed,
    /// These, followed by the channels of the mirror lists.
    AndListed(Vec<String>),
}

impl Context {
    /// Reads the mirror lists, from files and from the network, and determines the mirrors of each
    /// channel.
    pub(crate) async fn new(
        settings: &Settings,
        selection: ChannelSelection,
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
            // Without a readable state nothing is known of the mirrors.
            Err(_) => SavedState::new(),
        };
        let (names, others) = match selection {
            ChannelSelection::Listed if !lists.channels().is_empty() => {
                (lists.channels(), Vec::new())
            }
            ChannelSelection::Settings | ChannelSelection::Listed => {
                (settings.channels.value.clone(), Vec::new())
            }
            ChannelSelection::AndListed(names) => (names, lists.channels()),
        };
        // Clients that start at the same time must not make the same choices.
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
        let config = match settings.transfer.retry {
            Some(retry) => SelectorConfig {
                attempts_per_mirror: retry + 1,
                ..config
            },
            None => config,
        };
        // A list without channels applies to the requested ones only.
        let count = parse_channels(&names, settings)?.len();
        let all = parse_channels(&[names, others].concat(), settings)?;
        let mut channels = Vec::with_capacity(all.len());
        for (index, (name, channel)) in all.into_iter().enumerate() {
            let listed = lists.mirrors_of(&channel, (index < count).then_some(count))?;
            let mirrors = if listed.is_empty() {
                let location = Location::parse(channel.base().as_str()).map_err(|source| {
                    AppError::ChannelLocation {
                        name: masked_in(&name),
                        source,
                    }
                })?;
                vec![Mirror::new(location, Provenance::Upstream)]
            } else {
                merge(listed)
            };
            let mirrors = MirrorSet::new(mirrors, config.clone(), &client);
            mirrors.load(&state);
            channels.push(MirroredChannel { channel, mirrors });
        }
        Ok(Self {
            channels,
            config,
            client,
            jobs: settings.jobs.value,
            retry_for: Duration::from_secs(settings.retry_for.value as u64),
            retry_unseen: settings.retry_for.origin != Origin::Default,
            transfer: settings.transfer,
            seed,
            state_file,
            state,
        })
    }

    /// An engine that reports to `observer`.
    pub(crate) fn engine(&self, observer: Arc<dyn Observer>) -> Engine {
        let mut options = EngineOptions {
            slots: self.jobs,
            seed: self.seed,
            rate_limit: self.transfer.rate_limit,
            offline: self.transfer.offline,
            retry_for: self.retry_for,
            retry_unseen: self.retry_unseen,
            ..EngineOptions::default()
        };
        if let Some(connections) = self.transfer.connections {
            options.segments.most_connections = connections;
        }
        Engine::new(options, observer)
    }

    /// A set of other mirrors than those of a channel, with their saved state.
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

    /// The number of files that are fetched at a time.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs
    }

    /// Saves the state of the mirrors for the next run. A failure is only logged.
    pub(crate) fn save(&self) {
        self.save_with(&[]);
    }

    /// Like [`save`](Self::save), with the state of other mirrors.
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
            tracing::debug!(%error, "cannot save the state of the mirrors");
        }
    }
}

/// The channels of these names, without duplicates, each with its name.
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
