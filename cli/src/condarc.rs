//! The settings that conda shares: its configuration file, and what its channel names stand for.

use std::path::{Path, PathBuf};

use rattler_conda_types::Subdir;
use taipan_mirrors::Condarc;

use crate::environment::Environment;

/// The settings of conda's configuration files.
#[derive(Debug, Default)]
pub(crate) struct CondaSettings {
    pub(crate) condarc: Condarc,
    /// The file that lists mirrors, if one does.
    pub(crate) mirrors: Option<PathBuf>,
    /// What could not be used.
    pub(crate) warnings: Vec<String>,
}

impl CondaSettings {
    /// Reads the file that `CONDARC` names and those of the user. A key counts in the first file that has it. Trouble with
    /// these files, which nobody named for taipan, is a warning.
    pub(crate) fn read(environment: &Environment) -> Self {
        let mut settings = Self::default();
        for path in files(environment) {
            let text = match std::fs::read(&path) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    let path = path.display();
                    let warning = format!("cannot read conda's configuration file {path}: {error}");
                    settings.warnings.push(warning);
                    continue;
                }
            };
            let (condarc, problems) = Condarc::parse(&text, &path.display().to_string());
            let warn =
                |problem| format!("{problem} (conda's configuration; --no-condarc ignores it)");
            settings.warnings.extend(problems.iter().map(warn));
            if condarc.has_mirrors && settings.mirrors.is_none() {
                settings.mirrors = Some(path);
            }
            settings.add(condarc);
        }
        settings
    }

    /// Adds the keys of a file that comes later.
    fn add(&mut self, later: Condarc) {
        let Condarc {
            channels,
            default_channels,
            channel_alias,
            custom_channels,
            custom_multichannels,
            channel_priority,
            subdir,
            pkgs_dirs,
            always_copy,
            has_mirrors,
        } = later;
        let known = &mut self.condarc;
        known.channels = known.channels.take().or(channels);
        known.default_channels = known.default_channels.take().or(default_channels);
        known.channel_alias = known.channel_alias.take().or(channel_alias);
        known.custom_channels.extend(custom_channels);
        known.custom_multichannels.extend(custom_multichannels);
        known.channel_priority = known.channel_priority.take().or(channel_priority);
        known.subdir = known.subdir.take().or(subdir);
        known.pkgs_dirs = known.pkgs_dirs.take().or(pkgs_dirs);
        known.always_copy = known.always_copy.or(always_copy);
        known.has_mirrors |= has_mirrors;
    }

    /// The channels that a list of names stands for, as conda reads it: `a,b` are two, `defaults` is Anaconda's or what the
    /// file says, `nodefaults` none, and names of the file stand for its URLs.
    pub(crate) fn channels(&self, names: &[String], platform: Subdir) -> Vec<String> {
        let names = names.iter().flat_map(|name| split(name));
        let mut channels = Vec::new();
        for name in names {
            let mut multi = self.condarc.custom_multichannels.iter();
            let multi = multi.find(|(known, _)| *known == name);
            match (name.as_str(), multi) {
                (_, Some((_, all))) => channels.extend(all.iter().map(|name| self.url(name))),
                ("nodefaults", None) => {}
                ("defaults", None) => match &self.condarc.default_channels {
                    Some(all) => channels.extend(all.iter().map(|name| self.url(name))),
                    None => channels.extend(default_channels(platform).map(str::to_owned)),
                },
                _ => channels.push(self.url(&name)),
            }
        }
        channels
    }

    /// A name of `custom_channels`, or a label below one, as a URL.
    fn url(&self, name: &str) -> String {
        let mut custom = self.condarc.custom_channels.iter().filter(|(known, _)| {
            let rest = name.strip_prefix(known.trim_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        match custom.next() {
            Some((_, base)) if base.contains("://") => {
                format!("{}/{name}", base.trim_end_matches('/'))
            }
            _ => name.to_owned(),
        }
    }
}

/// conda's own `defaults`.
fn default_channels(platform: Subdir) -> impl Iterator<Item = &'static str> {
    let all = [
        "https://repo.anaconda.com/pkgs/main",
        "https://repo.anaconda.com/pkgs/r",
        "https://repo.anaconda.com/pkgs/msys2",
    ];
    let count = if platform.is_windows() { 3 } else { 2 };
    all.into_iter().take(count)
}

/// The names in a text, separated by commas. A comma in a URL belongs to it unless another URL follows.
pub(crate) fn split(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in text.split(',') {
        match names.last_mut() {
            Some(last) if last.contains("://") && !part.contains("://") => {
                last.push(',');
                last.push_str(part);
            }
            _ => names.push(part.to_owned()),
        }
    }
    let names = names.iter().map(|name| name.trim());
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The configuration files of conda, the most important first.
fn files(environment: &Environment) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = environment.path("CONDARC").into_iter().collect();
    if let Some(home) = std::env::home_dir() {
        files.push(home.join(".condarc"));
        files.push(home.join(".conda/.condarc"));
        files.push(home.join(".config/conda/.condarc"));
    }
    files
}

/// The directory for downloads below the first of conda's package directories that can be written to.
pub(crate) fn cache_below(directories: &[String]) -> Option<PathBuf> {
    let home = std::env::home_dir().unwrap_or_default();
    let directories = directories
        .iter()
        .map(|text| match text.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => PathBuf::from(text),
        });
    let is_writable = |path: &PathBuf| {
        let existing = path.ancestors().find(|path| path.exists());
        path.is_absolute() && existing.is_some_and(|path| tempfile::tempfile_in(path).is_ok())
    };
    let mut directories = directories.filter(is_writable);
    directories
        .next()
        .map(|path| path.join(Path::new("taipan")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> CondaSettings {
        let (condarc, problems) = Condarc::parse(text, "c");
        assert_eq!(problems, []);
        CondaSettings {
            condarc,
            ..CondaSettings::default()
        }
    }

    fn channels(settings: &CondaSettings, names: &[&str], platform: Subdir) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        settings.channels(&names, platform)
    }

    #[test]
    fn names_mean_what_they_mean_to_conda() {
        let none = settings("");
        let names = [
            "a,b",
            "nodefaults",
            "https://h.example/x,y",
            "c, https://h.example/z",
        ];
        assert_eq!(
            channels(&none, &names, Subdir::Linux64),
            [
                "a",
                "b",
                "https://h.example/x,y",
                "c",
                "https://h.example/z"
            ]
        );
        let main = "https://repo.anaconda.com/pkgs/main";
        assert_eq!(channels(&none, &["defaults"], Subdir::Linux64).len(), 2);
        let windows = channels(&none, &["defaults", "x"], Subdir::Win64);
        assert_eq!((windows.len(), &*windows[0]), (4, main));
        let own = settings(
            "default_channels: [internal, https://d.example]\ncustom_channels: {internal: https://e.example/x/}\n\
             custom_multichannels: {all: [internal/label/dev, b]}",
        );
        assert_eq!(
            channels(&own, &["defaults", "all", "internals"], Subdir::Linux64),
            [
                "https://e.example/x/internal",
                "https://d.example",
                "https://e.example/x/internal/label/dev",
                "b",
                "internals"
            ]
        );
    }

    #[test]
    fn a_key_counts_in_the_first_file_that_has_it() {
        let mut own = settings("channels: [a]\ncustom_channels: {x: https://first.example}");
        let later = "channels: [b]\ncustom_channels: {x: https://second.example, y: https://y.example}\nsubdir: win-64";
        own.add(settings(later).condarc);
        assert_eq!(own.condarc.channels.as_deref(), Some(&["a".to_owned()][..]));
        assert_eq!(own.condarc.subdir.as_deref(), Some("win-64"));
        assert_eq!(
            channels(&own, &["x", "y"], Subdir::Linux64),
            ["https://first.example/x", "https://y.example/y"]
        );
    }

    #[test]
    fn the_first_directory_that_can_be_written_to_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let texts = |paths: &[&Path]| -> Vec<String> {
            paths
                .iter()
                .map(|path| path.to_str().unwrap().to_owned())
                .collect()
        };
        let new = dir.path().join("a/b");
        let proc = Path::new("/proc/none-such");
        assert_eq!(cache_below(&texts(&[proc, &new])), Some(new.join("taipan")));
        assert_eq!(cache_below(&texts(&[proc, Path::new("relative")])), None);
    }
}
