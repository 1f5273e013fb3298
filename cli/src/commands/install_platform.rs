//! The platform of an environment.

use std::path::{Path, PathBuf};

use rattler_conda_types::{PrefixRecord, Subdir};
use taipan_mirrors::Condarc;

use crate::{
    error::AppError,
    settings::{Origin, Setting},
};

/// The platform to install for. An environment keeps its own; another one that is asked for is an error.
pub(super) fn platform_of(
    wanted: &Setting<Subdir>,
    prefix: &Path,
    installed: &[PrefixRecord],
) -> Result<Setting<Subdir>, AppError> {
    let known = known(prefix, installed);
    let Some(known) = known.filter(|known| *known != wanted.value) else {
        return Ok(wanted.clone());
    };
    match wanted.origin {
        Origin::CommandLine | Origin::Environment | Origin::CondaEnvironment => {
            Err(AppError::OtherPlatform {
                prefix: prefix.to_owned(),
                known,
                wanted: wanted.value,
            })
        }
        _ => Ok(Setting {
            value: known,
            origin: Origin::Prefix,
        }),
    }
}

/// The platform of the packages, or that of the configuration file in the environment, where conda notes it, too.
fn known(prefix: &Path, installed: &[PrefixRecord]) -> Option<Subdir> {
    let of_record = |record: &PrefixRecord| {
        let subdir: Subdir = record.repodata_record.package_record.subdir.parse().ok()?;
        (subdir != Subdir::NoArch).then_some(subdir)
    };
    let noted = || {
        let text = std::fs::read_to_string(note(prefix)).ok()?;
        let (condarc, _) = Condarc::parse(&text, "");
        condarc.subdir?.parse().ok()
    };
    installed.iter().find_map(of_record).or_else(noted)
}

/// Notes a platform that is not that of this machine, as conda does.
pub(super) fn remember(prefix: &Path, platform: Subdir) -> Result<(), AppError> {
    let path = note(prefix);
    if is_of_this_machine(platform) || path.exists() {
        return Ok(());
    }
    let text = format!("subdir: {platform}\n");
    std::fs::write(&path, text).map_err(|source| AppError::WriteFile { path, source })
}

pub(super) fn is_of_this_machine(platform: Subdir) -> bool {
    Some(platform) == Subdir::current()
}

fn note(prefix: &Path) -> PathBuf {
    prefix.join(".condarc")
}
