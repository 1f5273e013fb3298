//! A real channel on disk, with lists of what a solver must find in it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use taipan_channel::{ChannelIndexes, IndexLimits, RepodataIndex};
use url::Url;

use super::language::{names, specs};
use crate::{Solution, SolveError, SolveRequest, solve, virtual_packages};

/// The channel that `TAIPAN_REALCHANNEL_DIR` names: the channel and its `channel.json`. Without
/// the variable the tests are skipped, unless `TAIPAN_REQUIRE_REAL_SERVERS` demands them.
fn real_channel() -> Option<(ChannelIndexes, Value)> {
    let Some(directory) = std::env::var_os("TAIPAN_REALCHANNEL_DIR").map(PathBuf::from) else {
        assert!(
            std::env::var_os("TAIPAN_REQUIRE_REAL_SERVERS").is_none_or(|value| value != "1"),
            "TAIPAN_REQUIRE_REAL_SERVERS=1, and TAIPAN_REALCHANNEL_DIR names no channel"
        );
        eprintln!("skipped: TAIPAN_REALCHANNEL_DIR names no channel");
        return None;
    };
    let description = std::fs::read(directory.join("channel.json")).unwrap();
    Some((
        read(&directory),
        serde_json::from_slice(&description).unwrap(),
    ))
}

fn read(directory: &Path) -> ChannelIndexes {
    let url = Url::from_directory_path(std::fs::canonicalize(directory).unwrap()).unwrap();
    let indexes = ["linux-64", "noarch"]
        .into_iter()
        .map(|subdir| {
            let text = std::fs::read(directory.join(subdir).join("repodata.json")).unwrap();
            let subdir = url.join(&format!("{subdir}/")).unwrap();
            RepodataIndex::from_json(text, url.as_str(), &subdir, IndexLimits::default()).unwrap()
        })
        .collect();
    ChannelIndexes {
        name: "real".to_owned(),
        url,
        indexes,
    }
}

fn ask(channel: &ChannelIndexes, wanted: &Value) -> Result<Solution, SolveError> {
    let wanted: Vec<_> = wanted
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s.as_str().unwrap())
        .collect();
    solve(&SolveRequest {
        channels: vec![channel.clone()],
        specs: specs(&wanted),
        virtual_packages: virtual_packages(rattler_conda_types::Subdir::current().unwrap())
            .unwrap(),
        ..SolveRequest::default()
    })
}

#[test]
fn choices_come_out_as_stated() {
    let Some((channel, description)) = real_channel() else {
        return;
    };
    for choice in description["choices"].as_array().unwrap() {
        let solution = ask(&channel, &choice["specs"]).unwrap();
        let record = |name: &str| {
            let named = |record: &&rattler_conda_types::RepoDataRecord| {
                record.package_record.name.as_normalized() == name
            };
            &solution.records.iter().find(named).unwrap().package_record
        };
        for (name, expected) in choice["expect"].as_object().unwrap() {
            if name == "_build_number" {
                for (name, number) in expected.as_object().unwrap() {
                    assert_eq!(
                        record(name).build_number,
                        number.as_u64().unwrap(),
                        "{choice}"
                    );
                }
            } else {
                assert_eq!(
                    record(name).version.as_str(),
                    expected.as_str().unwrap(),
                    "{choice}"
                );
            }
        }
    }
}

#[test]
fn what_is_unsatisfiable_is_explained_on_one_screen_with_the_specs_in_conflict() {
    let Some((channel, description)) = real_channel() else {
        return;
    };
    for case in description["unsatisfiable"].as_array().unwrap() {
        let error = ask(&channel, &case["specs"]).unwrap_err();
        println!("{case}\n{error}\n");
        assert!(error.to_string().lines().count() <= 24, "{error}");
        let specs: Vec<_> = case["specs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|spec| spec.as_str().unwrap())
            .collect();
        match &error {
            SolveError::Unsatisfiable(explanation) => {
                assert!(!explanation.conflicting.is_empty(), "{error}");
                for conflicting in &explanation.conflicting {
                    let name = conflicting.spec.split([' ', '=', '<', '>']).next().unwrap();
                    assert!(specs.iter().any(|spec| spec.starts_with(name)), "{error}");
                    assert!(error.to_string().contains(name), "{error}");
                }
            }
            SolveError::UnknownPackage { packages } => {
                for package in packages {
                    assert!(specs.contains(&package.spec.as_str()), "{error}");
                }
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_lists_of_specs_can_be_installed() {
    let Some((channel, description)) = real_channel() else {
        return;
    };
    for (list, wanted) in description["specs"].as_object().unwrap() {
        let start = std::time::Instant::now();
        let solution = ask(&channel, wanted).unwrap_or_else(|error| panic!("{list}: {error}"));
        println!(
            "{list}: {} records in {:?}",
            solution.records.len(),
            start.elapsed()
        );
        println!("{}", names(&solution).join("\n"));
    }
}
