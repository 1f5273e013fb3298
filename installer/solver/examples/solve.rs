//! Solves specs against channels on disk and says how long each part took.
//!
//! ```text
//! cargo run --release --example solve -- [--repeat N] --channel DIR [--channel DIR]... SPEC...
//! ```
//!
//! `DIR` has `linux-64/repodata.json` and `noarch/repodata.json`; one of them may be missing.
//! Prints one JSON object per repetition: `read_s` (files), `walk_s` (walking the text),
//! `solve_s`, and the packages; or the explanation.

use std::{error::Error, io::Write as _, path::Path, time::Instant};

use taipan_channel::{ChannelIndexes, IndexLimits, RepodataIndex};
use taipan_solver::{SolveError, SolveRequest, parse_spec, solve, virtual_packages};
use url::Url;

fn main() -> Result<(), Box<dyn Error>> {
    let mut directories = Vec::new();
    let mut specs = Vec::new();
    let mut repeat = 1;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--channel" => directories.extend(arguments.next()),
            "--repeat" => repeat = arguments.next().unwrap_or_default().parse()?,
            spec => specs.push(parse_spec(spec)?),
        }
    }
    for _ in 0..repeat {
        let (mut read_s, mut walk_s) = (0.0, 0.0);
        let mut channels = Vec::new();
        for directory in &directories {
            channels.push(channel(Path::new(directory), &mut read_s, &mut walk_s)?);
        }
        let request = SolveRequest {
            channels,
            specs: specs.clone(),
            virtual_packages: virtual_packages(rattler_conda_types::Subdir::current().unwrap())?,
            ..SolveRequest::default()
        };
        let start = Instant::now();
        let solution = solve(&request);
        let solve_s = start.elapsed().as_secs_f64();
        let mut answer = serde_json::json!({
            "read_s": read_s, "walk_s": walk_s, "solve_s": solve_s,
        });
        match solution {
            Ok(solution) => {
                let mut names: Vec<_> = solution
                    .records
                    .iter()
                    .map(|record| &record.package_record)
                    .map(|it| format!("{} {} {}", it.name.as_source(), it.version, it.build))
                    .collect();
                names.sort();
                answer["packages"] = names.len().into();
                answer["names"] = names.into();
            }
            Err(error @ (SolveError::Unsatisfiable(_) | SolveError::UnknownPackage { .. })) => {
                answer["explanation"] = error.to_string().into();
            }
            Err(error) => return Err(error.into()),
        }
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}

fn channel(
    directory: &Path,
    read_s: &mut f64,
    walk_s: &mut f64,
) -> Result<ChannelIndexes, Box<dyn Error>> {
    let url = Url::from_directory_path(std::fs::canonicalize(directory)?)
        .map_err(|()| "the directory has no URL")?;
    let mut indexes = Vec::new();
    for subdir in ["linux-64", "noarch"] {
        let start = Instant::now();
        let Ok(text) = std::fs::read(directory.join(subdir).join("repodata.json")) else {
            continue;
        };
        *read_s += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let subdir_url = url.join(&format!("{subdir}/"))?;
        indexes.push(RepodataIndex::from_json(
            text,
            url.as_str(),
            &subdir_url,
            IndexLimits::default(),
        )?);
        *walk_s += start.elapsed().as_secs_f64();
    }
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(ChannelIndexes { name, url, indexes })
}
