//! The settings of a run: each from the command line, else the environment, else the configuration
//! file, else a default. The origin of each is kept, and `taipan info` shows it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use etcetera::BaseStrategy as _;
use rattler_conda_types::Subdir;
use serde::{Deserialize, Serialize};
use url::Url;

use Origin::{
    CommandLine, CondaEnvironment, Condarc as FromCondarc, Environment as FromEnvironment,
    File as FromFile,
};

use crate::{
    args::{Command, FetchArgs, GlobalArgs, InstallArgs, MirrorCommand, Priority, SourceArgs},
    condarc::{self, CondaSettings, cache_below},
    environment::{Environment, EnvironmentError},
    http::HttpTable,
    list_location::{ListLocation, ListLocationError},
};

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    CommandLine,
    /// A variable `TAIPAN_…`.
    Environment,
    /// A variable `CONDA_…`.
    CondaEnvironment,
    /// The configuration file.
    File,
    /// A configuration file of conda.
    Condarc,
    /// The environment that is changed.
    Prefix,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "command line",
            Self::Environment => "environment",
            Self::CondaEnvironment => "environment variable of conda",
            Self::File => "configuration file",
            Self::Condarc => ".condarc",
            Self::Prefix => "environment directory",
            Self::Default => "default",
        })
    }
}

/// A value and its origin.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

impl<T> Setting<T> {
    fn try_map<U, E>(self, map: impl FnOnce(T) -> Result<U, E>) -> Result<Setting<U>, E> {
        Ok(Setting {
            value: map(self.value)?,
            origin: self.origin,
        })
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the configuration file {} is invalid", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error("invalid channel alias `{text}`: use a URL, for example https://conda.anaconda.org")]
    Alias { text: String },
    #[error("invalid country `{text}`: use two letters, for example DE")]
    Country { text: String },
    #[error("unknown platform `{text}`: use for example linux-64 or noarch")]
    Platform { text: String },
    #[error("cannot determine the {what} directory of the user: set HOME or use {option}")]
    NoHome {
        what: &'static str,
        option: &'static str,
    },
    #[error("conda has no name for the platform of this machine: use --platform")]
    NoPlatform,
    #[error("`--header` number {number} is not a header that can be set: use NAME: VALUE")]
    Header { number: usize },
    #[error("--jobs must be at least 1")]
    Jobs,
    #[error(transparent)]
    Mirrors(#[from] ListLocationError),
}

/// The configuration file, `taipan/config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    channels: Option<Vec<String>>,
    channel_alias: Option<String>,
    channel_priority: Option<Priority>,
    mirrors: Option<Vec<String>>,
    prefer_country: Option<String>,
    cache_dir: Option<PathBuf>,
    platform: Option<String>,
    jobs: Option<usize>,
    /// Seconds.
    retry_for: Option<usize>,
    always_copy: Option<bool>,
    #[serde(default)]
    http: HttpTable,
    /// The directory of the file.
    #[serde(skip)]
    directory: PathBuf,
}

impl File {
    /// Reads the configuration file. The one that is `named` must exist; the default one need not.
    /// Relative paths in it are resolved below its directory.
    fn read(named: Option<&Path>) -> Result<(Option<PathBuf>, Self), SettingsError> {
        let path = match (named, etcetera::choose_base_strategy()) {
            (Some(path), _) => path.to_owned(),
            (None, Ok(strategy)) => strategy.config_dir().join("taipan/config.toml"),
            (None, Err(_)) => return Ok((None, Self::default())),
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                return Ok((None, Self::default()));
            }
            Err(source) => return Err(SettingsError::Read { path, source }),
        };
        match toml::from_str::<Self>(&text) {
            Ok(file) => Ok((Some(path.clone()), file.below(path.parent()))),
            Err(source) => Err(SettingsError::Parse {
                path,
                source: Box::new(source),
            }),
        }
    }

    fn below(self, directory: Option<&Path>) -> Self {
        let directory = directory.unwrap_or(Path::new(""));
        Self {
            cache_dir: self.cache_dir.map(|path| directory.join(path)),
            http: self.http.below(directory),
            directory: directory.to_owned(),
            ..self
        }
    }
}

/// The settings of all commands.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) cache_dir: Setting<PathBuf>,
    pub(crate) channels: Setting<Vec<String>>,
    pub(crate) channel_alias: Setting<Url>,
    pub(crate) channel_priority: Setting<Priority>,
    pub(crate) mirrors: Setting<Vec<ListLocation>>,
    /// Two upper-case letters.
    pub(crate) prefer_country: Setting<Option<String>>,
    pub(crate) platform: Setting<Subdir>,
    pub(crate) jobs: Setting<usize>,
    /// How long a file is tried again when no mirror is left, in seconds.
    pub(crate) retry_for: Setting<usize>,
    pub(crate) always_copy: Setting<bool>,
    pub(crate) transfer: TransferChoices,
    pub(crate) http: HttpTable,
    /// The active environment of conda.
    pub(crate) active_prefix: Option<PathBuf>,
    /// What could not be used in configuration files of conda.
    pub(crate) warnings: Vec<String>,
}

/// The options that only some commands have.
#[derive(Clone, Default)]
pub(crate) struct Given<'a> {
    source: Option<SourceArgs>,
    jobs: Option<usize>,
    retry_for: Option<usize>,
    install: Option<&'a InstallArgs>,
    fetch: Option<&'a FetchArgs>,
    transfer: TransferChoices,
}

impl<'a> Given<'a> {
    /// The options of a command.
    pub(crate) fn of(command: &'a Command) -> Self {
        match command {
            Command::Create(args) | Command::Install(args) => Self {
                source: Some(args.source.clone()),
                jobs: args.jobs,
                retry_for: args.retry_for,
                install: Some(args),
                ..Self::default()
            },
            Command::Fetch(args) => Self {
                source: Some(args.source.clone()),
                jobs: args.jobs,
                retry_for: args.retry_for,
                fetch: Some(args),
                transfer: TransferChoices::from(args),
                ..Self::default()
            },
            Command::Mirror(MirrorCommand::List { source }) => Self {
                source: Some(source.clone()),
                ..Self::default()
            },
            Command::Mirror(MirrorCommand::Probe(args)) => Self {
                source: Some(args.source.clone()),
                ..Self::default()
            },
            Command::Mirror(MirrorCommand::Sync(args)) => Self {
                source: Some(SourceArgs {
                    channels: Vec::new(),
                    mirrors: args.mirrors.clone(),
                    channel_alias: args.channel_alias.clone(),
                }),
                retry_for: args.retry_for,
                transfer: TransferChoices {
                    rate_limit: args.limit_rate,
                    ..TransferChoices::default()
                },
                ..Self::default()
            },
            Command::Mirror(MirrorCommand::Verify(_) | MirrorCommand::Status(_)) => Self::default(),
            #[cfg(feature = "demo")]
            Command::Demo(_) => Self::default(),
            Command::Upload(args) => Self {
                transfer: TransferChoices {
                    rate_limit: args.limit_rate,
                    ..TransferChoices::default()
                },
                ..Self::default()
            },
            Command::Index(_)
            | Command::List(_)
            | Command::Info(_)
            | Command::Zck(_)
            | Command::Auth(_)
            | Command::Completion { .. } => Self::default(),
        }
    }
}

/// Options of transfers. The default is that of the engine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TransferChoices {
    /// Bytes per second of all transfers together.
    pub(crate) rate_limit: Option<u64>,
    /// The maximum number of connections for one file.
    pub(crate) connections: Option<usize>,
    /// The attempts per mirror after the first.
    pub(crate) retry: Option<u32>,
    /// Whether the network is not used.
    pub(crate) offline: bool,
}

impl From<&FetchArgs> for TransferChoices {
    fn from(args: &FetchArgs) -> Self {
        Self {
            rate_limit: args.limit_rate,
            connections: args.connections.map(usize::from),
            retry: args.retry,
            offline: args.offline,
        }
    }
}

impl Settings {
    /// Determines the settings of a run.
    pub(crate) fn resolve(
        global: &GlobalArgs,
        given: Given<'_>,
        environment: &Environment,
    ) -> Result<Self, SettingsError> {
        let (fetch, transfer) = (given.fetch, given.transfer);
        let named = global.config.clone();
        let named = named.or_else(|| environment.path("TAIPAN_CONFIG"));
        let (config_file, file) = File::read(named.as_deref())?;
        let conda = if global.no_condarc {
            CondaSettings::default()
        } else {
            CondaSettings::read(environment)
        };
        let sources = Sources {
            global,
            given,
            environment,
            file: &file,
            conda: &conda,
        };
        let platform = sources.platform()?;
        Ok(Self {
            config_file,
            cache_dir: sources.cache_dir()?,
            channels: sources.channels(platform.value)?,
            channel_alias: sources.channel_alias()?,
            channel_priority: sources.channel_priority()?,
            mirrors: sources.mirrors()?,
            prefer_country: sources.prefer_country()?,
            platform,
            jobs: sources.jobs()?,
            retry_for: sources.retry_for()?,
            always_copy: sources.always_copy()?,
            transfer,
            active_prefix: environment.path("CONDA_PREFIX"),
            warnings: conda.warnings,
            http: match fetch {
                Some(args) => file.http.with_fetch_options(args)?,
                None => file.http,
            },
        })
    }
}

/// Where settings are looked up.
struct Sources<'a> {
    global: &'a GlobalArgs,
    given: Given<'a>,
    environment: &'a Environment,
    file: &'a File,
    conda: &'a CondaSettings,
}

impl Sources<'_> {
    fn cache_dir(&self) -> Result<Setting<PathBuf>, SettingsError> {
        let pkgs_dirs = self.environment.text("CONDA_PKGS_DIRS")?;
        let pkgs_dirs = pkgs_dirs.map(|text| condarc::split(&text));
        let in_condarc = self.conda.condarc.pkgs_dirs.as_deref();
        first(
            [
                (CommandLine, self.global.cache_dir.clone()),
                (FromEnvironment, self.environment.path("TAIPAN_CACHE_DIR")),
                (
                    CondaEnvironment,
                    pkgs_dirs.and_then(|dirs| cache_below(&dirs)),
                ),
                (FromFile, self.file.cache_dir.clone()),
                (FromCondarc, in_condarc.and_then(cache_below)),
            ],
            default_cache_dir,
        )?
        .try_map(|path| Ok(std::path::absolute(&path).unwrap_or(path)))
    }

    fn channels(&self, platform: Subdir) -> Result<Setting<Vec<String>>, SettingsError> {
        let given = self
            .given
            .source
            .as_ref()
            .map(|source| source.channels.clone());
        let variable = |name| -> Result<Option<Vec<String>>, SettingsError> {
            let text = self.environment.text(name)?;
            Ok(text.map(|text| condarc::split(&text)))
        };
        first(
            [
                (CommandLine, given.filter(|channels| !channels.is_empty())),
                (FromEnvironment, variable("TAIPAN_CHANNELS")?),
                (CondaEnvironment, variable("CONDA_CHANNELS")?),
                (FromFile, self.file.channels.clone()),
                (FromCondarc, self.conda.condarc.channels.clone()),
            ],
            || Ok(vec!["conda-forge".to_owned()]),
        )?
        .try_map(|names| Ok(self.conda.channels(&names, platform)))
    }

    fn channel_alias(&self) -> Result<Setting<Url>, SettingsError> {
        let given = self.given.source.as_ref();
        first(
            [
                (
                    CommandLine,
                    given.and_then(|source| source.channel_alias.clone()),
                ),
                (
                    FromEnvironment,
                    self.environment.text("TAIPAN_CHANNEL_ALIAS")?,
                ),
                (
                    CondaEnvironment,
                    self.environment.text("CONDA_CHANNEL_ALIAS")?,
                ),
                (FromFile, self.file.channel_alias.clone()),
                (FromCondarc, self.conda.condarc.channel_alias.clone()),
            ],
            || Ok("https://conda.anaconda.org".to_owned()),
        )?
        .try_map(parse_alias)
    }

    fn channel_priority(&self) -> Result<Setting<Priority>, SettingsError> {
        let parse = |text: &str| Priority::from_str(text, false).ok();
        let variable = |name| self.environment.parsed(name, parse);
        let in_condarc = self.conda.condarc.channel_priority.as_deref();
        first(
            [
                (
                    CommandLine,
                    self.given
                        .install
                        .and_then(|install| install.channel_priority),
                ),
                (FromEnvironment, variable("TAIPAN_CHANNEL_PRIORITY")?),
                (CondaEnvironment, variable("CONDA_CHANNEL_PRIORITY")?),
                (FromFile, self.file.channel_priority),
                (FromCondarc, in_condarc.and_then(parse)),
            ],
            || Ok(Priority::Strict),
        )
    }

    fn prefer_country(&self) -> Result<Setting<Option<String>>, SettingsError> {
        let variable = self.environment.text("TAIPAN_PREFER_COUNTRY")?;
        first(
            [
                (FromEnvironment, variable.map(Some)),
                (FromFile, self.file.prefer_country.clone().map(Some)),
            ],
            || Ok(None),
        )?
        .try_map(|text| text.map(parse_country).transpose())
    }

    fn platform(&self) -> Result<Setting<Subdir>, SettingsError> {
        let given = self.given.install;
        first(
            [
                (
                    CommandLine,
                    given.and_then(|install| install.platform.clone()),
                ),
                (FromEnvironment, self.environment.text("TAIPAN_PLATFORM")?),
                (CondaEnvironment, self.environment.text("CONDA_SUBDIR")?),
                (FromFile, self.file.platform.clone()),
                (FromCondarc, self.conda.condarc.subdir.clone()),
            ],
            || {
                Ok(Subdir::current()
                    .ok_or(SettingsError::NoPlatform)?
                    .to_string())
            },
        )?
        .try_map(|text| match text.parse() {
            Ok(subdir) => Ok(subdir),
            Err(_) => Err(SettingsError::Platform { text }),
        })
    }

    fn jobs(&self) -> Result<Setting<usize>, SettingsError> {
        let jobs = first(
            [
                (CommandLine, self.given.jobs),
                (FromEnvironment, self.environment.number("TAIPAN_JOBS")?),
                (FromFile, self.file.jobs),
            ],
            || Ok(16),
        )?;
        if jobs.value == 0 {
            return Err(SettingsError::Jobs);
        }
        Ok(jobs)
    }

    fn retry_for(&self) -> Result<Setting<usize>, SettingsError> {
        first(
            [
                (CommandLine, self.given.retry_for),
                (
                    FromEnvironment,
                    self.environment.number("TAIPAN_RETRY_FOR")?,
                ),
                (FromFile, self.file.retry_for),
            ],
            || Ok(60),
        )
    }

    fn always_copy(&self) -> Result<Setting<bool>, SettingsError> {
        let given = self.given.install.map(|install| install.always_copy);
        first(
            [
                (CommandLine, given.filter(|given| *given)),
                (FromFile, self.file.always_copy),
                (FromCondarc, self.conda.condarc.always_copy),
            ],
            || Ok(false),
        )
    }

    /// The locations of the mirror lists.
    fn mirrors(&self) -> Result<Setting<Vec<ListLocation>>, SettingsError> {
        let given = self
            .given
            .source
            .as_ref()
            .map(|source| source.mirrors.clone());
        let variable = self.environment.text("TAIPAN_MIRRORS")?;
        let variable = variable.map(|text| split_list(&text));
        let condarc = self.conda.mirrors.as_ref().and_then(|path| path.to_str());
        let texts = first(
            [
                (CommandLine, given.filter(|mirrors| !mirrors.is_empty())),
                (
                    FromEnvironment,
                    variable.filter(|entries| !entries.is_empty()),
                ),
                (FromFile, self.file.mirrors.clone()),
                (FromCondarc, condarc.map(|path| vec![path.to_owned()])),
            ],
            || Ok(Vec::new()),
        )?;
        let is_in_file = texts.origin == FromFile;
        texts.try_map(|texts| {
            let parse = |text: &String| {
                let location = ListLocation::parse(text)?;
                Ok(if is_in_file {
                    location.below(&self.file.directory)
                } else {
                    location
                })
            };
            texts.iter().map(parse).collect()
        })
    }
}

/// The first value that is given.
fn first<T, const N: usize>(
    given: [(Origin, Option<T>); N],
    default: impl FnOnce() -> Result<T, SettingsError>,
) -> Result<Setting<T>, SettingsError> {
    for (origin, value) in given {
        if let Some(value) = value {
            return Ok(Setting { value, origin });
        }
    }
    Ok(Setting {
        value: default()?,
        origin: Origin::Default,
    })
}

fn default_cache_dir() -> Result<PathBuf, SettingsError> {
    let strategy = etcetera::choose_base_strategy();
    let strategy = strategy.map_err(|_| SettingsError::NoHome {
        what: "cache",
        option: "--cache-dir or TAIPAN_CACHE_DIR",
    })?;
    Ok(strategy.cache_dir().join("taipan"))
}

fn parse_alias(text: String) -> Result<Url, SettingsError> {
    match Url::parse(&text) {
        Ok(url) if !url.cannot_be_a_base() => Ok(url),
        _ => Err(SettingsError::Alias { text }),
    }
}

fn parse_country(text: String) -> Result<String, SettingsError> {
    if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        Ok(text.to_ascii_uppercase())
    } else {
        Err(SettingsError::Country { text })
    }
}

/// The entries of a list in an environment variable, separated by `;` or line breaks: URLs contain
/// `:`, and paths may contain spaces.
fn split_list(text: &str) -> Vec<String> {
    let entries = text.split([';', '\n', '\r']).map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn lists_in_the_environment_are_separated_by_semicolons() {
        assert_eq!(
            split_list(" https://a.example:8443/m?x=1 ;/srv/my lists/m.toml;\nC:\\m.toml; "),
            [
                "https://a.example:8443/m?x=1",
                "/srv/my lists/m.toml",
                "C:\\m.toml"
            ]
        );
    }

    /// A configuration file that sets everything.
    const FILE: &str = "channels = [\"file-channel\"]\nchannel-alias = \"https://file.example\"\n\
        channel-priority = \"disabled\"\nmirrors = [\"file.toml\"]\ncache-dir = \"file-cache\"\n\
        platform = \"linux-aarch64\"\njobs = 2\nretry-for = 20\nalways-copy = true\n";

    const VARIABLES: [(&str, &str); 7] = [
        ("TAIPAN_CHANNEL_ALIAS", "https://environment.example"),
        ("TAIPAN_CHANNEL_PRIORITY", "flexible"),
        ("TAIPAN_MIRRORS", "environment.toml;second.toml"),
        ("TAIPAN_CACHE_DIR", "/environment/cache"),
        ("TAIPAN_PLATFORM", "osx-64"),
        ("TAIPAN_JOBS", "3"),
        ("TAIPAN_RETRY_FOR", "30"),
    ];

    const FLAGS: [&str; 17] = [
        "-c",
        "flag-channel",
        "--channel-alias",
        "https://flag.example",
        "--channel-priority",
        "strict",
        "--mirrors",
        "flag.toml",
        "--cache-dir",
        "/flag/cache",
        "--platform",
        "win-64",
        "--jobs",
        "4",
        "--retry-for",
        "40",
        "--always-copy",
    ];

    /// The settings of `taipan create` with a configuration file of this text.
    fn resolve(
        flags: &[&str],
        variables: &[(&str, &str)],
        file: &str,
    ) -> Result<(tempfile::TempDir, Settings), SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let environment: Environment = variables
            .iter()
            .copied()
            .chain([("TAIPAN_CONFIG", path.to_str().unwrap())])
            .collect();
        let arguments = [&["taipan", "create", "-p", "env"], flags].concat();
        let cli = Cli::try_parse_from(arguments).unwrap();
        let settings = Settings::resolve(&cli.global, Given::of(&cli.command), &environment)?;
        Ok((dir, settings))
    }

    /// Value and origin of every setting.
    fn listed(settings: &Settings, dir: &Path) -> Vec<(String, Origin)> {
        fn entry<T>(setting: &Setting<T>, value: impl FnOnce(&T) -> String) -> (String, Origin) {
            (value(&setting.value), setting.origin)
        }
        let Settings {
            config_file: _,
            cache_dir,
            channels,
            channel_alias,
            channel_priority,
            mirrors,
            prefer_country: _,
            platform,
            jobs,
            retry_for,
            always_copy,
            transfer: _,
            http: _,
            active_prefix: _,
            warnings: _,
        } = settings;
        let dir = dir.to_str().unwrap();
        [
            entry(cache_dir, |path| path.display().to_string()),
            entry(channels, |names| names.join(" ")),
            entry(channel_alias, ToString::to_string),
            entry(channel_priority, |priority| format!("{priority:?}")),
            entry(mirrors, |lists| {
                let lists: Vec<String> = lists.iter().map(ToString::to_string).collect();
                lists.join(" ")
            }),
            entry(platform, ToString::to_string),
            entry(jobs, ToString::to_string),
            entry(retry_for, ToString::to_string),
            entry(always_copy, ToString::to_string),
        ]
        .map(|(value, origin)| (value.replace(dir, "DIR"), origin))
        .to_vec()
    }

    fn expect(settings: &[(String, Origin)], values: [&str; 9], origin: Origin) {
        let expected = values.map(|value| (value.to_owned(), origin));
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_flag_overrides_the_environment_and_the_file() {
        let (dir, settings) = resolve(&FLAGS, &VARIABLES, FILE).unwrap();
        let values = [
            "/flag/cache",
            "flag-channel",
            "https://flag.example/",
            "Strict",
            "flag.toml",
            "win-64",
            "4",
            "40",
            "true",
        ];
        expect(&listed(&settings, dir.path()), values, Origin::CommandLine);
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let (dir, settings) = resolve(&[], &VARIABLES, FILE).unwrap();
        let mut settings = listed(&settings, dir.path());
        // These two have no variable.
        assert_eq!(settings.remove(8), ("true".to_owned(), Origin::File));
        assert_eq!(
            settings.remove(1),
            ("file-channel".to_owned(), Origin::File)
        );
        let expected = [
            "/environment/cache",
            "https://environment.example/",
            "Flexible",
            "environment.toml second.toml",
            "osx-64",
            "3",
            "30",
        ]
        .map(|value| (value.to_owned(), Origin::Environment));
        assert_eq!(settings, expected);
    }

    #[test]
    fn the_file_overrides_the_defaults_and_its_paths_are_relative_to_it() {
        let (dir, settings) = resolve(&[], &[("TAIPAN_JOBS", "")], FILE).unwrap();
        let values = [
            "DIR/file-cache",
            "file-channel",
            "https://file.example/",
            "Disabled",
            "DIR/file.toml",
            "linux-aarch64",
            "2",
            "20",
            "true",
        ];
        expect(&listed(&settings, dir.path()), values, Origin::File);
    }

    #[test]
    fn without_flag_variable_and_file_the_defaults_apply() {
        let (dir, settings) = resolve(&["--cache-dir", "/c"], &[], "").unwrap();
        let mut settings = listed(&settings, dir.path());
        settings.remove(0);
        assert!(
            settings
                .iter()
                .all(|(_, origin)| *origin == Origin::Default)
        );
        let values: Vec<&str> = settings.iter().map(|(value, _)| value.as_str()).collect();
        assert_eq!(
            values[..4],
            ["conda-forge", "https://conda.anaconda.org/", "Strict", ""]
        );
        assert_eq!(values[5..], ["16", "60", "false"]);
    }

    #[test]
    fn the_flag_names_the_configuration_file_before_the_variable() {
        let other = tempfile::tempdir().unwrap();
        let path = other.path().join("other.toml");
        std::fs::write(&path, "jobs = 7\n").unwrap();
        let (_, settings) = resolve(&["--config", path.to_str().unwrap()], &[], FILE).unwrap();
        assert_eq!(settings.jobs.value, 7);
        assert_eq!(settings.config_file.as_deref(), Some(&*path));
    }

    #[test]
    fn the_preferred_country_comes_from_the_environment_or_the_file() {
        const IN_FILE: &str = "prefer-country = \"de\"\n";
        let country = |variables: &[(&str, &str)], file: &str| {
            let (_, settings) = resolve(&[], variables, file).unwrap();
            let Setting { value, origin } = settings.prefer_country;
            (value, origin)
        };
        let variable = [("TAIPAN_PREFER_COUNTRY", "FR")];
        let fr = Some("FR".to_owned());
        assert_eq!(country(&variable, IN_FILE), (fr, Origin::Environment));
        let de = Some("DE".to_owned());
        assert_eq!(country(&[], IN_FILE), (de, Origin::File));
        assert_eq!(country(&[], ""), (None, Origin::Default));
        let error = resolve(&[], &[("TAIPAN_PREFER_COUNTRY", "Germany")], "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid country `Germany`: use two letters, for example DE"
        );
    }

    #[test]
    fn an_invalid_variable_is_named_in_the_error() {
        for (name, value) in [("TAIPAN_JOBS", "many"), ("TAIPAN_CHANNEL_PRIORITY", "best")] {
            let error = resolve(&[], &[(name, value)], "").unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
