//! Small random problems, compared with trying everything.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rattler_conda_types::{
    GenericVirtualPackage, MatchSpec, Matches, ParseStrictness, RepoDataRecord,
};

use super::language::{channel, names, virtual_packages};
use crate::{Orphans, SolveError, SolveRequest, UpdatePolicy, solve};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const VERSIONS: [&str; 3] = ["1", "2", "3"];
const BOUNDS: [&str; 7] = ["", " 1", " 2", " 3", " >=2", " <3", " 1|3"];

/// What the machine has: this, in version 2.
const MACHINE: &str = "__machine";
/// A dependency that rules out its record.
const UNREADABLE: &str = "a [b";
/// Records with this timestamp are too new, the others have none.
const TOO_NEW: &str = "@ timestamp=1700000000000";

#[derive(Debug, Clone)]
struct Problem {
    lines: String,
    specs: Vec<String>,
    pins: Vec<String>,
}

fn spec() -> impl Strategy<Value = String> {
    let bounds = proptest::sample::select(BOUNDS.to_vec());
    let names = NAMES.into_iter().chain([MACHINE]).collect::<Vec<_>>();
    (proptest::sample::select(names), bounds).prop_map(|(name, bounds)| format!("{name}{bounds}"))
}

fn problem() -> impl Strategy<Value = Problem> {
    let record = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0..2_u8,
        0..12_u8,
        prop::collection::vec(spec(), 0..3),
        prop::collection::vec(spec(), 0..2),
    );
    let records = prop::collection::vec(record, 1..14);
    (
        records,
        prop::collection::vec(spec(), 1..4),
        prop::collection::vec(spec(), 0..2),
    )
        .prop_map(|(records, specs, pins)| {
            let mut lines = BTreeMap::new();
            for (name, version, build, oddity, mut depends, constrains) in records {
                let (name, version) = (name.get(&NAMES), version.get(&VERSIONS));
                let head = format!("{name} {version} h{build} {build}");
                if oddity == 1 {
                    depends.push(UNREADABLE.to_owned());
                }
                let extra = if oddity == 0 { TOO_NEW } else { "" };
                let (depends, constrains) = (depends.join(", "), constrains.join(", "));
                let line = format!("{head} : {depends} ; {constrains} {extra}");
                lines.insert(head, line);
            }
            let lines: Vec<_> = lines.into_values().collect();
            Problem {
                lines: lines.join("\n"),
                specs,
                pins,
            }
        })
}

fn parse(text: &str) -> MatchSpec {
    MatchSpec::from_str(text, ParseStrictness::Lenient).unwrap()
}

fn machine() -> GenericVirtualPackage {
    virtual_packages(&["__machine=2=0"]).remove(0)
}

fn has(records: &[&RepoDataRecord], spec: &MatchSpec) -> bool {
    spec.matches(&machine()) || records.iter().any(|record| spec.matches(*record))
}

/// Whether nothing of the name is there but what the spec matches.
fn allows(records: &[&RepoDataRecord], spec: &MatchSpec) -> bool {
    if spec.name.matches(&machine().name) {
        return spec.matches(&machine());
    }
    records
        .iter()
        .filter(|record| spec.name.matches(&record.package_record.name))
        .all(|record| spec.matches(*record))
}

/// Whether these records, one for each name at most, are an environment of that kind.
fn is_valid(records: &[&RepoDataRecord], specs: &[MatchSpec], pins: &[MatchSpec]) -> bool {
    specs.iter().all(|spec| has(records, spec))
        && pins.iter().all(|spec| allows(records, spec))
        && records.iter().all(|record| {
            let record = &record.package_record;
            if record.timestamp.is_some() || record.depends.iter().any(|it| it == UNREADABLE) {
                return false;
            }
            record.depends.iter().all(|spec| has(records, &parse(spec)))
                && record
                    .constrains
                    .iter()
                    .all(|spec| allows(records, &parse(spec)))
        })
}

/// Tries every choice of one record or none for each name.
fn brute_force(
    choices: &[Vec<&RepoDataRecord>],
    chosen: &mut Vec<RepoDataRecord>,
    specs: &[MatchSpec],
    pins: &[MatchSpec],
) -> bool {
    let Some((first, rest)) = choices.split_first() else {
        return is_valid(&chosen.iter().collect::<Vec<_>>(), specs, pins);
    };
    if brute_force(rest, chosen, specs, pins) {
        return true;
    }
    first.iter().any(|record| {
        chosen.push((*record).clone());
        let found = brute_force(rest, chosen, specs, pins);
        chosen.pop();
        found
    })
}

fn is_satisfiable(request: &SolveRequest) -> bool {
    let records: Vec<Vec<RepoDataRecord>> = NAMES
        .iter()
        .map(|name| {
            request.channels[0].indexes[0]
                .records(&name.parse().unwrap())
                .unwrap()
                .0
        })
        .collect();
    let choices: Vec<Vec<&RepoDataRecord>> = records
        .iter()
        .map(|records| records.iter().collect())
        .collect();
    brute_force(&choices, &mut Vec::new(), &request.specs, &request.pins)
}

fn request(problem: &Problem) -> SolveRequest {
    SolveRequest {
        channels: vec![channel("alpha", &problem.lines)],
        specs: problem.specs.iter().map(|spec| parse(spec)).collect(),
        pins: problem.pins.iter().map(|spec| parse(spec)).collect(),
        virtual_packages: vec![machine()],
        exclude_newer: Some("2020-01-01T00:00:00Z".parse().unwrap()),
        ..SolveRequest::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_solution_is_found_exactly_when_there_is_one(problem in problem()) {
        let request = request(&problem);
        match solve(&request) {
            Ok(solution) => {
                let records: Vec<_> = solution.records.iter().collect();
                prop_assert!(
                    is_valid(&records, &request.specs, &request.pins),
                    "{:?}", names(&solution)
                );
                let mut unique = names(&solution);
                unique.dedup_by_key(|name| name.split(' ').next().map(ToOwned::to_owned));
                prop_assert_eq!(unique.len(), records.len());
                prop_assert_eq!(solve(&request).unwrap(), solution);
            }
            Err(error) => prop_assert!(!is_satisfiable(&request), "{}", error),
        }
    }

    /// The specs that are said to be in conflict are: each is needed for the failure.
    #[test]
    fn the_specs_named_in_a_failure_are_the_guilty_ones(problem in problem()) {
        let request = request(&problem);
        if let Err(error) = solve(&request) {
            prop_assert!(error.to_string().lines().count() <= 26, "{}", error);
            if let SolveError::Unsatisfiable(explanation) = error {
                let mut named = Vec::new();
                for conflicting in &explanation.conflicting {
                    named.push((conflicting.origin, parse(&conflicting.spec)));
                }
                let with = |left_out: Option<usize>| {
                    let of = |wanted| {
                        named
                            .iter()
                            .enumerate()
                            .filter(|(at, (origin, _))| Some(*at) != left_out && *origin == wanted)
                            .map(|(_, (_, spec))| spec.clone())
                            .collect()
                    };
                    SolveRequest {
                        specs: of(crate::SpecOrigin::Requested),
                        pins: of(crate::SpecOrigin::Pin),
                        ..request.clone()
                    }
                };
                prop_assert!(!is_satisfiable(&with(None)), "{}", explanation);
                for left_out in 0..named.len() {
                    prop_assert!(is_satisfiable(&with(Some(left_out))), "{}", explanation);
                }
            }
        }
    }

    /// Asking again for what is installed changes nothing.
    #[test]
    fn a_solution_is_stable(problem in problem()) {
        let mut request = request(&problem);
        if let Ok(solution) = solve(&request) {
            request.installed.clone_from(&solution.records);
            prop_assert_eq!(&solve(&request).unwrap(), &solution);
            request.update = UpdatePolicy::UpdateAll;
            let updated = solve(&request).unwrap();
            let records: Vec<_> = updated.records.iter().collect();
            prop_assert!(is_valid(&records, &request.specs, &request.pins));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is installed is no more than a preference, whatever it is.
    #[test]
    fn installed_records_never_stand_in_the_way(
        installed in problem(), problem in problem(), drop_orphans in any::<bool>(), update in 0_usize..3
    ) {
        let mut request = request(&problem);
        // What is installed may be anything, valid or not.
        let other = self::request(&installed);
        for name in NAMES {
            let (records, _) = other.channels[0].indexes[0].records(&name.parse().unwrap()).unwrap();
            request.installed.extend(records.into_iter().next());
        }
        request.orphans = if drop_orphans { Orphans::Drop } else { Orphans::Keep };
        request.update = [
            UpdatePolicy::KeepInstalled, UpdatePolicy::UpdateNamed, UpdatePolicy::UpdateAll,
        ][update];
        let without = SolveRequest { installed: Vec::new(), ..request.clone() };
        match solve(&request) {
            Ok(solution) => {
                // A record that is installed already is not too new.
                let mut records = solution.records.clone();
                for record in &mut records {
                    record.package_record.timestamp = None;
                }
                let records: Vec<_> = records.iter().collect();
                prop_assert!(
                    is_valid(&records, &request.specs, &request.pins),
                    "{:?}", names(&solution)
                );
            }
            Err(error) => prop_assert!(solve(&without).is_err(), "{}", error),
        }
    }
}
