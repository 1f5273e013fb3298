//! What a mirror tells of itself, and whether that is true.

use std::{collections::BTreeMap, path::Path};

use futures_util::{StreamExt as _, stream};
use taipan_transfer::{Engine, Outlet};

use super::{
    error::SyncError,
    source::{IndexResponse, fetch_index_file},
    state::{MirrorState, read_state},
};
use crate::layout::package_file;

/// How many packages are looked at at a time.
const PARALLEL: usize = 32;

/// What the verification of a subdir has found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Packages that the index names.
    pub packages: usize,
    /// Paths of packages that are not there.
    pub missing: Vec<String>,
    /// Paths of packages whose content is another, with what is wrong.
    pub wrong: Vec<String>,
    /// Packages that could not be looked at, with the problem.
    pub unknown: Vec<(String, String)>,
}

impl VerifyReport {
    /// Whether every package is there and right.
    pub fn is_good(&self) -> bool {
        self.missing.is_empty() && self.wrong.is_empty() && self.unknown.is_empty()
    }
}

/// Reads the state of a subdir of a mirror; `None` if it has none.
pub async fn read_status(
    engine: &Engine,
    outlet: &Outlet,
    subdir: &str,
) -> Result<Option<MirrorState>, SyncError> {
    read_state(engine, outlet, subdir).await
}

/// Looks whether all packages that the index of a mirror names are there and right; `None` if it has no index.
pub async fn verify_mirror(
    engine: &Engine,
    outlet: &Outlet,
    subdir: &str,
    work: &Path,
) -> Result<Option<VerifyReport>, SyncError> {
    let place = format!("{}/{subdir}", outlet.location());
    let name = format!("{subdir}-verified.json");
    let none = BTreeMap::new();
    let index = fetch_index_file(engine, outlet.mirrors(), subdir, &none, work, &name).await;
    let index = match index {
        Ok(IndexResponse::Index(index)) => index,
        Ok(_) => return Ok(None),
        Err(source) => return Err(SyncError::Published { place, source }),
    };
    let table = index.table;
    let looks = stream::iter(table.rows().iter().map(|row| {
        let (target, _) = package_file(subdir, table.file_name(row));
        let expected = row.expected();
        async move {
            let held = engine.look(outlet, &target, &expected).await;
            (target.path, expected, held)
        }
    }));
    let mut looks = looks.buffer_unordered(PARALLEL);
    let mut report = VerifyReport {
        packages: table.len(),
        ..VerifyReport::default()
    };
    while let Some((path, expected, held)) = looks.next().await {
        match held {
            Ok(None) => report.missing.push(path),
            Ok(Some(held)) if held.is(&expected) => {}
            Ok(Some(_)) => report.wrong.push(path),
            Err(error) => report.unknown.push((path, error.problem())),
        }
    }
    drop(looks);
    report.missing.sort();
    report.wrong.sort();
    report.unknown.sort();
    Ok(Some(report))
}
