//! A small language for channels. Each line is a record:
//!
//! ```text
//! NAME VERSION [BUILD [NUMBER]] [: DEPENDS, ...] [; CONSTRAINS, ...] [@ KEY=JSON ...]
//! ```
//!
//! The build is `h0` and its number 0 unless given. Text after `@` is put into the record as it
//! stands, e.g. `@ timestamp=1500000000000`. Empty lines and lines that begin with `#` are
//! nothing. The lines become the text of a `repodata.json`, so that tests go the whole way.

use rattler_conda_types::{GenericVirtualPackage, MatchSpec, RepoDataRecord};
use serde_json::{Map, Value, json};
use taipan_channel::{ChannelIndexes, IndexLimits, RepodataIndex};
use url::Url;

use crate::{Solution, SolveError, SolveRequest, parse_spec, solve};

/// The text of the `repodata.json` that the lines describe.
pub(super) fn repodata(lines: &str) -> String {
    let mut packages = Map::new();
    for line in lines.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (line, extra) = line.split_once('@').unwrap_or((line, ""));
        let (line, constrains) = line.split_once(';').unwrap_or((line, ""));
        let (head, depends) = line.split_once(':').unwrap_or((line, ""));
        let mut words = head.split_whitespace();
        let name = words.next().expect("a name");
        let version = words.next().expect("a version");
        let build = words.next().unwrap_or("h0");
        let number: u64 = words.next().unwrap_or("0").parse().expect("a build number");
        let list = |text: &str| -> Vec<String> {
            text.split(", ")
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .map(Into::into)
                .collect()
        };
        let mut record = json!({
            "name": name, "version": version, "build": build, "build_number": number,
            "depends": list(depends), "constrains": list(constrains), "subdir": "linux-64",
        });
        for pair in extra.split_whitespace() {
            let (key, value) = pair.split_once('=').expect("KEY=JSON");
            record[key] = serde_json::from_str(value).expect("JSON");
        }
        packages.insert(format!("{name}-{version}-{build}.conda"), record);
    }
    json!({"info": {"subdir": "linux-64"}, "packages.conda": packages}).to_string()
}

/// A channel of one subdir.
pub(super) fn channel(name: &str, lines: &str) -> ChannelIndexes {
    let url = Url::parse(&format!("https://example.org/{name}/")).unwrap();
    let text = repodata(lines).into_bytes();
    let subdir = url.join("linux-64/").unwrap();
    let index =
        RepodataIndex::from_json(text, url.as_str(), &subdir, IndexLimits::default()).unwrap();
    ChannelIndexes {
        name: name.to_owned(),
        url,
        indexes: vec![index],
    }
}

pub(super) fn specs(specs: &[&str]) -> Vec<MatchSpec> {
    specs.iter().map(|spec| parse_spec(spec).unwrap()).collect()
}

pub(super) fn virtual_packages(packages: &[&str]) -> Vec<GenericVirtualPackage> {
    let read = |package: &&str| serde_json::from_value(Value::from(*package)).unwrap();
    packages.iter().map(read).collect()
}

/// A request to one channel, `alpha`.
pub(super) fn request(lines: &str, wanted: &[&str]) -> SolveRequest {
    SolveRequest {
        channels: vec![channel("alpha", lines)],
        specs: specs(wanted),
        ..SolveRequest::default()
    }
}

/// `NAME VERSION BUILD` of each record, in alphabetical order; the build only if it is not `h0`.
pub(super) fn names(solution: &Solution) -> Vec<String> {
    let mut names: Vec<_> = solution.records.iter().map(show).collect();
    names.sort();
    names
}

pub(super) fn show(record: &RepoDataRecord) -> String {
    let record = &record.package_record;
    let mut text = format!("{} {}", record.name.as_normalized(), record.version);
    if record.build.as_str() != "h0" {
        text = format!("{text} {}", record.build);
    }
    text
}

/// The names of the solution.
#[track_caller]
pub(super) fn solved(request: &SolveRequest) -> Vec<String> {
    match solve(request) {
        Ok(solution) => names(&solution),
        Err(error) => panic!("no solution: {error}"),
    }
}

/// The error.
#[track_caller]
pub(super) fn failed(request: &SolveRequest) -> SolveError {
    match solve(request) {
        Ok(solution) => panic!("a solution: {:?}", names(&solution)),
        Err(error) => error,
    }
}
