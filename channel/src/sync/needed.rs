//! The names that packages need, by the dependencies of all their versions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    path::Path,
};

use rattler_conda_types::{MatchSpec, Matches as _, PackageRecord};
use taipan_transfer::Engine;

use super::{
    error::SyncError,
    filter::{FilterError, closure, parse},
    local::{blocking, local},
    source::{IndexResponse, fetch_index_file},
};
use crate::{mirrored_channel::MirroredChannel, odd_fields::parse_record, records::RecordTable};

/// The names that specs match, and what each name needs.
type Needs = (BTreeSet<String>, Vec<(String, Vec<String>)>);

/// The names of the packages that the specs match or that are named, and of what they need, directly and indirectly, in all
/// these subdirs. What the solver would take is a part of it.
pub async fn needed_names(
    engine: &Engine,
    source: &MirroredChannel,
    subdirs: &[String],
    specs: &[String],
    names: &[String],
    work: &Path,
) -> Result<BTreeSet<String>, SyncError> {
    let specs: Result<Vec<MatchSpec>, FilterError> = specs.iter().map(|it| parse(it)).collect();
    let specs = specs?;
    let mut roots: BTreeSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
    let mut needs: HashMap<String, HashSet<String>> = HashMap::new();
    for subdir in subdirs {
        let none = BTreeMap::new();
        let name = format!("{subdir}-needed.json");
        let index = fetch_index_file(engine, &source.mirrors, subdir, &none, work, &name).await;
        let index = match index {
            Ok(IndexResponse::Index(index)) => index,
            Ok(_) => continue,
            Err(source) => {
                let subdir = subdir.clone();
                return Err(SyncError::Source { subdir, source });
            }
        };
        let specs = specs.clone();
        let path = index.path.clone();
        let read = move || -> std::io::Result<Needs> {
            let mut file = File::open(&index.path)?;
            let (mut matched, mut dependencies) = (BTreeSet::new(), Vec::new());
            for row in index.table.rows() {
                let text = RecordTable::text(row, &mut file)?;
                let Ok(record) = parse_record::<PackageRecord>(&text) else {
                    continue;
                };
                let name = record.name.as_normalized().to_owned();
                if specs.iter().any(|spec| spec.matches(&record)) {
                    matched.insert(name.clone());
                }
                let needed = record.depends.iter().filter_map(|spec| {
                    let end = spec.find([' ', '=', '<', '>', '!', '~', '[']);
                    let name = spec[..end.unwrap_or(spec.len())].trim().to_lowercase();
                    // Virtual packages are of machines.
                    (!name.is_empty() && !name.starts_with("__")).then_some(name)
                });
                dependencies.push((name, needed.collect()));
            }
            Ok((matched, dependencies))
        };
        let (matched, dependencies) = blocking(read).await.map_err(local(&path))?;
        roots.extend(matched);
        for (name, needed) in dependencies {
            needs.entry(name).or_default().extend(needed);
        }
    }
    Ok(closure(roots, &needs))
}
