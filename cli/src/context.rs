//! What the commands work with: channels with their mirrors, the engine, the store.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use taipan_channel::Channel;
use taipan_installer::ChannelMirrors;
use taipan_mirrors::{Location, Mirror, MirrorsFile, Origin, SavedState, SelectorConfig, merge};
use taipan_transfer::{
    Engine, EngineOptions, HttpClient, HttpOptions, MirrorSet, Observer, Sha256,
};

use crate::{error::AppError, printer::Printer, settings::Settings};

/// What fetches, and from where.
pub(crate) struct Context {
    pub(crate) channels: Vec<ChannelMirrors>,
    pub(crate) client: HttpClient,
    jobs: usize,
    seed: u64,
    state_file: PathBuf,
    state: SavedState,
}

impl Context {
    /// Reads the mirrors files, and finds the mirrors of each channel.
    pub(crate) fn new(settings: &Settings, printer: &Printer) -> Result<Self, AppError> {
        let files = settings
            .mirrors
            .value
            .iter()
            .map(|path| read_mirrors_file(path))
            .collect::<Result<Vec<_>, _>>()?;
        let client = HttpClient::new(&HttpOptions::default()).map_err(AppError::Client)?;
        let state_file = settings.cache_dir.value.join("mirrors.json");
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
        let directory = std::env::current_dir().unwrap_or_default();
        // Two clients that start at the same time must not choose alike.
        let entropy = format!("{:?}{}", std::time::SystemTime::now(), std::process::id());
        let mut seed = [0; 8];
        seed.copy_from_slice(&Sha256::of(entropy.as_bytes()).as_bytes()[..8]);
        let seed = u64::from_le_bytes(seed);
        let mut channels: Vec<ChannelMirrors> = Vec::new();
        for name in &settings.channels.value {
            let channel = Channel::parse(name, &settings.channel_alias.value, &directory)?;
            if channels
                .iter()
                .any(|other| other.channel.canonical() == channel.canonical())
            {
                continue;
            }
            let listed: Vec<Vec<Mirror>> = files
                .iter()
                .filter_map(|file| file.mirrors_for(&channel.canonical()))
                .map(<[Mirror]>::to_vec)
                .collect();
            let mirrors = if listed.is_empty() {
                let location = Location::parse(channel.base().as_str()).map_err(|source| {
                    AppError::ChannelLocation {
                        name: name.clone(),
                        source,
                    }
                })?;
                vec![Mirror::new(location, Origin::Channel)]
            } else {
                merge(listed)
            };
            let config = SelectorConfig {
                seed,
                ..SelectorConfig::default()
            };
            let mirrors = MirrorSet::new(mirrors, config, &client);
            mirrors.load(&state);
            channels.push(ChannelMirrors { channel, mirrors });
        }
        Ok(Self {
            channels,
            client,
            jobs: settings.jobs.value,
            seed,
            state_file,
            state,
        })
    }

    /// An engine that tells `observer` what it does.
    pub(crate) fn engine(&self, observer: Arc<dyn Observer>) -> Engine {
        let options = EngineOptions {
            slots: self.jobs,
            seed: self.seed,
            ..EngineOptions::default()
        };
        Engine::new(options, observer)
    }

    /// How many files are fetched at a time.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs
    }

    /// Keeps what was learnt of the mirrors for the next run. It is only an aid, so a failure to
    /// keep it is no failure of the command.
    pub(crate) fn save(&self) {
        let mut state = self.state.clone();
        for ChannelMirrors { mirrors, .. } in &self.channels {
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

fn read_mirrors_file(path: &Path) -> Result<MirrorsFile, AppError> {
    let text = std::fs::read_to_string(path).map_err(|source| AppError::ReadMirrors {
        path: path.to_owned(),
        source,
    })?;
    Ok(MirrorsFile::parse(&text, &path.display().to_string())?)
}
