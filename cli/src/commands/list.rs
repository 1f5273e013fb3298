//! `taipan list`.

use serde::Serialize;
use taipan_installer::Prefix;
use taipan_mirrors::without_credentials_in;

use super::package::PackageLine;
use crate::{
    args::ListArgs,
    error::AppError,
    exit::Exit,
    printer::{Printer, table},
    settings::Settings,
};

/// Prints one line per installed package, sorted by name.
pub(crate) fn run(
    settings: &Settings,
    printer: &Printer,
    args: &ListArgs,
) -> Result<Exit, AppError> {
    #[derive(Serialize)]
    struct Installed<'a> {
        #[serde(flatten)]
        package: PackageLine<'a>,
        requested_specs: Vec<String>,
    }
    let path = args.prefix.as_ref().or(settings.active_prefix.as_ref());
    let prefix = Prefix::open(path.ok_or(AppError::NoPrefix { creating: false })?)?;
    if !prefix.is_environment() {
        return Err(AppError::NoEnvironment {
            prefix: prefix.path().to_owned(),
        });
    }
    let mut records = prefix.records()?;
    records.sort_by(|a, b| {
        let name = |record: &rattler_conda_types::PrefixRecord| {
            record
                .repodata_record
                .package_record
                .name
                .as_normalized()
                .to_owned()
        };
        name(a).cmp(&name(b))
    });
    let mut rows = vec![
        ["name", "version", "build", "channel"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for record in &records {
        let repodata = &record.repodata_record;
        let package = &repodata.package_record;
        if let Some(filter) = &args.filter
            && !package
                .name
                .as_normalized()
                .contains(&filter.to_lowercase())
        {
            continue;
        }
        rows.push(vec![
            package.name.as_source().to_owned(),
            package.version.to_string(),
            package.build.to_string(),
            without_credentials_in(repodata.channel.as_deref().unwrap_or_default()),
        ]);
        let specs = record.requested_specs.iter();
        let installed = Installed {
            package: PackageLine::new(repodata),
            requested_specs: specs.map(|spec| without_credentials_in(spec)).collect(),
        };
        printer.object("package", &installed);
        if printer.is_closed() {
            return Ok(Exit::Done);
        }
    }
    if rows.len() > 1 {
        printer.data(&table(&rows, &[1, 2, 3]));
    } else {
        printer.say("No packages");
    }
    Ok(Exit::Done)
}
