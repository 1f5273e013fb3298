//! `taipan info`.

use std::path::PathBuf;

use serde::Serialize;
use taipan_installer::Prefix;
use taipan_mirrors::{SafeUrl, masked_in};
use taipan_solver::virtual_packages;

use super::install_platform::platform_of;
use crate::{
    args::{InfoArgs, Priority},
    error::AppError,
    exit::Exit,
    printer::{Printer, table},
    settings::{Origin, Settings},
};

/// Prints platform, virtual packages, and the settings with their origins.
#[expect(clippy::too_many_lines, reason = "a list, one line per setting")]
pub(crate) fn run(
    settings: &Settings,
    printer: &Printer,
    args: &InfoArgs,
) -> Result<Exit, AppError> {
    #[derive(Serialize)]
    struct Setting<'a> {
        name: &'a str,
        value: &'a str,
        origin: Option<&'a Origin>,
    }
    #[derive(Serialize)]
    struct Environment {
        prefix: PathBuf,
        packages: usize,
        interrupted: bool,
        frozen: bool,
    }
    let join = |list: &[String]| {
        if list.is_empty() {
            "none".to_owned()
        } else {
            list.join(", ")
        }
    };
    let mirrors: Vec<String> = settings
        .mirrors
        .value
        .iter()
        .map(ToString::to_string)
        .collect();
    let priority = match settings.channel_priority.value {
        Priority::Strict => "strict",
        Priority::Flexible => "flexible",
        Priority::Disabled => "disabled",
    };
    let country = settings.prefer_country.value.as_deref();
    let path = |path: &Option<PathBuf>| match path {
        Some(path) => path.display().to_string(),
        None => "none".to_owned(),
    };
    let config = path(&settings.config_file);
    let active = path(&settings.active_prefix);
    let platform = match &args.prefix {
        Some(path) => {
            let records = Prefix::open(path)?.records()?;
            platform_of(&settings.platform, path, &records)?
        }
        None => settings.platform.clone(),
    };
    let virtual_packages: Vec<String> = virtual_packages(platform.value)?
        .iter()
        .map(ToString::to_string)
        .collect();
    let lines: Vec<(&str, String, Option<&Origin>)> = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned(), None),
        (
            "platform",
            platform.value.to_string(),
            Some(&platform.origin),
        ),
        ("virtual packages", join(&virtual_packages), None),
        ("configuration file", config, None),
        ("active environment", active, None),
        (
            "channels",
            masked_in(&join(&settings.channels.value)),
            Some(&settings.channels.origin),
        ),
        (
            "channel alias",
            SafeUrl::from(settings.channel_alias.value.clone()).to_string(),
            Some(&settings.channel_alias.origin),
        ),
        (
            "channel priority",
            priority.to_owned(),
            Some(&settings.channel_priority.origin),
        ),
        (
            "lists of mirrors",
            join(&mirrors),
            Some(&settings.mirrors.origin),
        ),
        (
            "preferred country",
            country.unwrap_or("none").to_owned(),
            Some(&settings.prefer_country.origin),
        ),
        (
            "cache directory",
            settings.cache_dir.value.display().to_string(),
            Some(&settings.cache_dir.origin),
        ),
        (
            "jobs",
            settings.jobs.value.to_string(),
            Some(&settings.jobs.origin),
        ),
        (
            "retry for",
            format!("{} s", settings.retry_for.value),
            Some(&settings.retry_for.origin),
        ),
        (
            "always copy",
            settings.always_copy.value.to_string(),
            Some(&settings.always_copy.origin),
        ),
    ];
    let mut rows = Vec::new();
    for (name, value, origin) in &lines {
        printer.object(
            "setting",
            &Setting {
                name,
                value,
                origin: *origin,
            },
        );
        let origin = origin
            .map(|origin| format!("({origin})"))
            .unwrap_or_default();
        rows.push(vec![(*name).to_owned(), value.clone(), origin]);
    }
    printer.data(&table(&rows, &[1, 2]));
    if let Some(path) = &args.prefix {
        let prefix = Prefix::open(path)?;
        if !prefix.is_environment() {
            return Err(AppError::NoEnvironment {
                prefix: prefix.path().to_owned(),
            });
        }
        let environment = Environment {
            prefix: prefix.path().to_owned(),
            packages: prefix.records()?.len(),
            interrupted: prefix.is_interrupted(),
            frozen: prefix.frozen()?.is_some(),
        };
        let mut rows = vec![
            vec![
                "environment".to_owned(),
                environment.prefix.display().to_string(),
            ],
            vec!["packages".to_owned(), environment.packages.to_string()],
        ];
        if environment.interrupted {
            let text = "a change was interrupted; the next install repairs it";
            rows.push(vec!["state".to_owned(), text.to_owned()]);
        }
        if environment.frozen {
            rows.push(vec!["frozen".to_owned(), "yes".to_owned()]);
        }
        printer.data(&table(&rows, &[1]));
        printer.object("environment", &environment);
    }
    Ok(Exit::Done)
}
