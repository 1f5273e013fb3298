//! What a run goes by: each setting from the command line, else the environment, else the
//! configuration file, else a default. Where each came from is kept, and `taipan info` shows it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    args::{GlobalArgs, InstallArgs, PlaceArgs, Priority},
    http::HttpTable,
    mirror_lists::ListPlace,
};

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// The command line or the environment; clap reads both and prefers the first.
    CommandLine,
    /// The configuration file.
    File,
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "command line or environment",
            Self::File => "configuration file",
            Self::Default => "default",
        })
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the configuration file {} is not right", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error(
        "`{text}` is not a URL that can be the channel alias: give one such as https://conda.anaconda.org"
    )]
    Alias { text: String },
    #[error("`{text}` is not a platform: linux-64 and noarch are examples of platforms")]
    Platform { text: String },
    #[error("the user's {what} directory is not known: set HOME, or name it with {option}")]
    NoHome {
        what: &'static str,
        option: &'static str,
    },
    #[error("conda has no name for this machine's platform: name one with --platform")]
    NoPlatform,
    #[error("--jobs must be at least 1")]
    Jobs,
    #[error(
        "`{text}` is no place of a list of mirrors: give a file, or a URL that starts with https:// or http://"
    )]
    Mirrors { text: String },
}

/// The configuration file, `taipan/config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    channels: Option<Vec<String>>,
    channel_alias: Option<String>,
    channel_priority: Option<FilePriority>,
    mirrors: Option<Vec<String>>,
    cache_dir: Option<PathBuf>,
    platform: Option<String>,
    jobs: Option<usize>,
    always_copy: Option<bool>,
    #[serde(default)]
    http: HttpTable,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FilePriority {
    Strict,
    Flexible,
    Disabled,
}

impl From<FilePriority> for Priority {
    fn from(priority: FilePriority) -> Self {
        match priority {
            FilePriority::Strict => Self::Strict,
            FilePriority::Flexible => Self::Flexible,
            FilePriority::Disabled => Self::Disabled,
        }
    }
}

/// What every command goes by.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) cache_dir: Setting<PathBuf>,
    pub(crate) channels: Setting<Vec<String>>,
    pub(crate) channel_alias: Setting<Url>,
    pub(crate) channel_priority: Setting<Priority>,
    pub(crate) mirrors: Setting<Vec<ListPlace>>,
    pub(crate) platform: Setting<rattler_conda_types::Subdir>,
    pub(crate) jobs: Setting<usize>,
    pub(crate) always_copy: Setting<bool>,
    pub(crate) transfer: TransferChoices,
    pub(crate) http: HttpTable,
}

/// The options that only some commands have.
#[derive(Clone, Copy, Default)]
pub(crate) struct Given<'a> {
    pub(crate) places: Option<&'a PlaceArgs>,
    pub(crate) jobs: Option<usize>,
    pub(crate) install: Option<&'a InstallArgs>,
    pub(crate) transfer: TransferChoices,
}

/// How files are fetched, where it is not as usual.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TransferChoices {
    /// The most bytes per second.
    pub(crate) rate_limit: Option<u64>,
    /// The most connections for one file.
    pub(crate) connections: Option<usize>,
    /// No server is asked.
    pub(crate) offline: bool,
}

impl Settings {
    /// Puts the settings of a run together.
    pub(crate) fn resolve(global: &GlobalArgs, given: Given<'_>) -> Result<Self, SettingsError> {
        let Given {
            places,
            jobs,
            install,
            transfer,
        } = given;
        let (config_file, file) = read_file(global.config.as_deref())?;
        let base = config_file
            .as_deref()
            .and_then(Path::parent)
            .map(Path::to_owned);
        // Paths in the file are relative to the file.
        let from_file = |path: PathBuf| -> PathBuf {
            match &base {
                Some(base) => base.join(path),
                None => path,
            }
        };
        let cache_dir = pick(
            global.cache_dir.clone(),
            file.cache_dir.map(&from_file),
            || {
                let strategy = etcetera::choose_base_strategy();
                let strategy = strategy.map_err(|_| SettingsError::NoHome {
                    what: "cache",
                    option: "--cache-dir or TAIPAN_CACHE_DIR",
                })?;
                Ok(strategy.cache_dir().join("taipan"))
            },
        )?;
        let cache_dir = Setting {
            value: std::path::absolute(&cache_dir.value).unwrap_or(cache_dir.value),
            origin: cache_dir.origin,
        };
        let nonempty = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let channels = pick(
            places.and_then(|p| nonempty(&p.channels)),
            file.channels,
            || Ok(vec!["conda-forge".to_owned()]),
        )?;
        let alias = pick(
            places.and_then(|p| p.channel_alias.clone()),
            file.channel_alias,
            || Ok("https://conda.anaconda.org".to_owned()),
        )?;
        let channel_alias = match Url::parse(&alias.value) {
            Ok(url) if !url.cannot_be_a_base() => Setting {
                value: url,
                origin: alias.origin,
            },
            _ => return Err(SettingsError::Alias { text: alias.value }),
        };
        let priority = file.channel_priority.map(Priority::from);
        let channel_priority = pick(install.and_then(|i| i.channel_priority), priority, || {
            Ok(Priority::Strict)
        })?;
        let mirrors = lists_of_mirrors(places, file.mirrors, &from_file)?;
        let platform = pick(
            install.and_then(|i| i.platform.clone()),
            file.platform,
            || {
                let current = rattler_conda_types::Subdir::current();
                Ok(current.ok_or(SettingsError::NoPlatform)?.to_string())
            },
        )?;
        let platform = match platform.value.parse() {
            Ok(value) => Setting {
                value,
                origin: platform.origin,
            },
            Err(_) => {
                return Err(SettingsError::Platform {
                    text: platform.value,
                });
            }
        };
        let jobs = pick(jobs, file.jobs, || Ok(16))?;
        if jobs.value == 0 {
            return Err(SettingsError::Jobs);
        }
        let copy = install.and_then(|i| i.always_copy.then_some(true));
        let always_copy = pick(copy, file.always_copy, || Ok(false))?;
        Ok(Self {
            config_file,
            cache_dir,
            channels,
            channel_alias,
            channel_priority,
            mirrors,
            platform,
            jobs,
            always_copy,
            transfer,
            http: file.http.based(from_file),
        })
    }
}

/// The places of lists of mirrors. The environment is read here and not by clap, which would divide it as
/// it divides the option.
fn lists_of_mirrors(
    places: Option<&PlaceArgs>,
    file: Option<Vec<String>>,
    from_file: &dyn Fn(PathBuf) -> PathBuf,
) -> Result<Setting<Vec<ListPlace>>, SettingsError> {
    let read = |list: &[String]| -> Result<Vec<ListPlace>, SettingsError> {
        list.iter().map(|text| ListPlace::parse(text)).collect()
    };
    let given = match places {
        Some(places) if !places.mirrors.is_empty() => Some(read(&places.mirrors)?),
        _ => match std::env::var("TAIPAN_MIRRORS") {
            Ok(text) if !text.trim().is_empty() => Some(read(&split_list(&text))?),
            _ => None,
        },
    };
    let file = match file {
        Some(list) => Some(
            read(&list)?
                .into_iter()
                .map(|place| match place {
                    ListPlace::File(path) => ListPlace::File(from_file(path)),
                    url @ ListPlace::Url(_) => url,
                })
                .collect(),
        ),
        None => None,
    };
    pick(given, file, || Ok(Vec::new()))
}

/// The entries of an environment variable, divided by `;` or line breaks: a `:` is part of every URL,
/// and blanks are part of some paths.
fn split_list(text: &str) -> Vec<String> {
    let entries = text.split([';', '\n', '\r']).map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}

fn pick<T>(
    given: Option<T>,
    file: Option<T>,
    default: impl FnOnce() -> Result<T, SettingsError>,
) -> Result<Setting<T>, SettingsError> {
    Ok(match (given, file) {
        (Some(value), _) => Setting {
            value,
            origin: Origin::CommandLine,
        },
        (None, Some(value)) => Setting {
            value,
            origin: Origin::File,
        },
        (None, None) => Setting {
            value: default()?,
            origin: Origin::Default,
        },
    })
}

/// Reads the configuration file: the one that is named, which must be there, or the usual one,
/// which need not.
fn read_file(named: Option<&Path>) -> Result<(Option<PathBuf>, File), SettingsError> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => match etcetera::choose_base_strategy() {
            Ok(strategy) => strategy.config_dir().join("taipan/config.toml"),
            Err(_) => return Ok((None, File::default())),
        },
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => match toml::from_str(&text) {
            Ok(file) => Ok((Some(path), file)),
            Err(source) => Err(SettingsError::Parse {
                path,
                source: Box::new(source),
            }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            Ok((None, File::default()))
        }
        Err(source) => Err(SettingsError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_the_environment_are_divided_where_no_url_or_path_is() {
        assert_eq!(
            split_list(" https://a.example:8443/m?x=1 ;/srv/my lists/m.toml;\nC:\\m.toml; "),
            [
                "https://a.example:8443/m?x=1",
                "/srv/my lists/m.toml",
                "C:\\m.toml"
            ]
        );
    }
}
