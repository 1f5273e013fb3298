//! What was requested of an environment earlier, whoever changed it.
//!
//! conda keeps it in the history; mamba, pixi and taipan in the records as well, in one of two fields.

use std::collections::HashMap;

use rattler_conda_types::{MatchSpec, ParseMatchSpecOptions, PrefixRecord};

use super::history::HistoryEntry;

/// Sets the requested specs of all records: those of the newest block of the history that names the package, or else those of
/// its record. Specs that the installed package does not fulfil are outdated; then only its name counts.
pub(super) fn set_requested_specs(records: &mut [PrefixRecord], history: &[HistoryEntry]) {
    let by_history = last_requests(history);
    for record in records {
        let name = record.repodata_record.package_record.name.as_normalized();
        let mut specs = match by_history.get(name) {
            Some(specs) => specs.iter().map(|&spec| spec.to_owned()).collect(),
            None if record.requested_specs.is_empty() => single(record),
            None => std::mem::take(&mut record.requested_specs),
        };
        for spec in &mut specs {
            if is_outdated(spec, record) {
                name.clone_into(spec);
            }
        }
        specs.dedup();
        record.requested_specs = specs;
    }
}

/// The spec in the field that older tools write; conda writes an absent one as `None`.
fn single(record: &PrefixRecord) -> Vec<String> {
    #[expect(deprecated, reason = "conda and micromamba write this field")]
    let spec = record.requested_spec.as_deref();
    let spec = spec.map(str::trim);
    let spec = spec.filter(|spec| !matches!(*spec, "" | "None"));
    spec.map(str::to_owned).into_iter().collect()
}

/// The specs of each package in the newest block that names it; none after its removal.
fn last_requests(history: &[HistoryEntry]) -> HashMap<String, Vec<&str>> {
    let mut requests: HashMap<String, Vec<&str>> = HashMap::new();
    for entry in history {
        for spec in &entry.remove_specs {
            requests.insert(name_of(spec), Vec::new());
        }
        let mut updated: HashMap<String, Vec<&str>> = HashMap::new();
        for spec in &entry.update_specs {
            updated.entry(name_of(spec)).or_default().push(spec);
        }
        requests.extend(updated);
        // conda replaces an earlier spec that contradicted a later one.
        for spec in &entry.neutered_specs {
            requests.insert(name_of(spec), vec![spec]);
        }
    }
    requests
}

/// The normalised name in a spec, also in one that cannot be parsed here.
fn name_of(spec: &str) -> String {
    let bracket = spec.find('[').unwrap_or(spec.len());
    let start = spec[..bracket].rfind("::").map_or(0, |at| at + 2);
    let name = spec[start..].trim_start();
    let end = name.find(|c: char| c.is_whitespace() || "=<>!~[,|(".contains(c));
    name[..end.unwrap_or(name.len())].to_lowercase()
}

/// Whether the installed package has another version or build than a spec wants.
fn is_outdated(spec: &str, record: &PrefixRecord) -> bool {
    let Ok(spec) = MatchSpec::from_str(spec, ParseMatchSpecOptions::lenient()) else {
        // What cannot be parsed here is left to the solver.
        return false;
    };
    let package = &record.repodata_record.package_record;
    let version = spec.version.as_ref();
    let is_version = version.is_none_or(|wanted| wanted.matches(package.version.version()));
    let is_build =
        (spec.build.as_ref()).is_none_or(|wanted| wanted.matches(package.build.as_str()));
    !(is_version && is_build)
}

#[cfg(test)]
mod tests {
    use super::super::history::parse_history;
    use super::*;

    fn record(version: &str, plural: &[&str], singular: Option<&str>) -> PrefixRecord {
        let fields = serde_json::json!({
            "name": "lib", "version": version, "build": "h1_0", "build_number": 0, "depends": [],
            "subdir": "noarch", "fn": "lib-1-h1_0.conda", "url": "https://h.example/noarch/lib-1-h1_0.conda",
            "channel": "https://h.example", "files": [],
            "requested_specs": plural, "requested_spec": singular,
        });
        serde_json::from_value(fields).unwrap()
    }

    fn requested(history: &str, record: PrefixRecord) -> Vec<String> {
        let mut records = [record];
        let history = format!("==> 2026-01-01 00:00:00 <==\n{history}\n");
        set_requested_specs(&mut records, &parse_history(&history));
        records[0].requested_specs.clone()
    }

    #[test]
    fn either_field_of_a_record_counts_without_a_history() {
        assert_eq!(
            requested("", record("1.5", &["lib >=1"], None)),
            ["lib >=1"]
        );
        assert_eq!(requested("", record("1.5", &[], Some("lib=1"))), ["lib=1"]);
        let plural = ["lib >=1"];
        assert_eq!(requested("", record("1.5", &plural, Some("lib=1"))), plural);
        for none in [None, Some("None"), Some("")] {
            assert_eq!(
                requested("", record("1.5", &[], none)),
                Vec::<String>::new()
            );
        }
    }

    #[test]
    fn the_newest_block_of_the_history_wins() {
        let old = || record("1.5", &[], Some("lib"));
        for quote in ["'", "\""] {
            let specs = format!("# update specs: [{quote}lib=1{quote}, {quote}app{quote}]");
            assert_eq!(requested(&specs, old()), ["lib=1"]);
        }
        let two = "# update specs: ['c::lib>=1', 'lib<2']";
        assert_eq!(requested(two, old()), ["c::lib>=1", "lib<2"]);
        let later = "# update specs: ['lib=1']\n==> x <==\n# update specs: ['LIB']";
        assert_eq!(requested(later, old()), ["LIB"]);
        let removed = "# update specs: ['lib=1']\n==> x <==\n# remove specs: ['lib']";
        assert_eq!(requested(removed, old()), Vec::<String>::new());
        let neutered = "# update specs: ['lib=1.5']\n# neutered specs: ['lib']";
        assert_eq!(requested(neutered, old()), ["lib"]);
    }

    #[test]
    fn of_a_spec_that_is_not_fulfilled_only_the_name_counts() {
        assert_eq!(requested("", record("2.0", &[], Some("lib=1"))), ["lib"]);
        let history = "# update specs: ['lib=1', 'lib<2']";
        assert_eq!(requested(history, record("2.0", &[], None)), ["lib"]);
        assert_eq!(
            requested("", record("1.0", &["lib==1.0=other_0"], None)),
            ["lib"]
        );
        let odd = "lib[when=x]";
        assert_eq!(requested("", record("1.0", &[odd], None)), [odd]);
    }
}
