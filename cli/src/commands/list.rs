//! `taipan list`.

use serde::Serialize;
use taipan_installer::Prefix;

use crate::{
    args::ListArgs,
    error::AppError,
    exit::Exit,
    printer::{Printer, table},
};

/// One line per installed package, sorted by name.
pub(crate) fn run(printer: &Printer, args: &ListArgs) -> Result<Exit, AppError> {
    #[derive(Serialize)]
    struct Package<'a> {
        name: &'a str,
        version: String,
        build: &'a str,
        build_number: u64,
        channel: Option<&'a str>,
        subdir: &'a str,
        url: String,
        sha256: Option<String>,
        size: Option<u64>,
        requested_specs: &'a [String],
    }
    let prefix = Prefix::open(&args.prefix)?;
    if !prefix.is_environment() {
        return Err(AppError::NoEnvironment { prefix: prefix.path().to_owned() });
    }
    let mut records = prefix.records()?;
    records.sort_by(|a, b| {
        let name = |record: &rattler_conda_types::PrefixRecord| {
            record.repodata_record.package_record.name.as_normalized().to_owned()
        };
        name(a).cmp(&name(b))
    });
    let mut rows = vec![["name", "version", "build", "channel"].map(str::to_owned).to_vec()];
    for record in &records {
        let repodata = &record.repodata_record;
        let package = &repodata.package_record;
        if let Some(filter) = &args.filter
            && !package.name.as_normalized().contains(&filter.to_lowercase())
        {
            continue;
        }
        let channel = repodata.channel.as_deref();
        rows.push(vec![
            package.name.as_source().to_owned(),
            package.version.to_string(),
            package.build.clone(),
            channel.unwrap_or_default().to_owned(),
        ]);
        let line = Package {
            name: package.name.as_source(),
            version: package.version.to_string(),
            build: &package.build,
            build_number: package.build_number,
            channel,
            subdir: &package.subdir,
            url: repodata.url.to_string(),
            sha256: package.sha256.map(|digest| format!("{digest:x}")),
            size: package.size,
            requested_specs: &record.requested_specs,
        };
        printer.object("package", &line);
        if printer.is_closed() {
            return Ok(Exit::Done);
        }
    }
    if rows.len() > 1 {
        printer.data(&table(&rows, &[1, 2, 3]));
    } else {
        printer.say("No packages.");
    }
    Ok(Exit::Done)
}
