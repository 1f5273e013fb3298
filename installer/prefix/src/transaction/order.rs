//! Dependencies before dependents.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};

use rattler_conda_types::{PackageName, PackageRecord};

/// The indices of `records`, ordered so that each record follows its dependencies.
///
/// The order does not depend on that of the input: of the records that are ready, the smallest name
/// is next. In a cycle the packages that are not `noarch` come first, because a `noarch: python`
/// package needs the python that it depends on to be linked, and not the other way round.
pub(crate) fn topological_order<T: AsRef<PackageRecord>>(records: &[T]) -> Vec<usize> {
    let names: Vec<&str> = records
        .iter()
        .map(|record| record.as_ref().name.as_normalized())
        .collect();
    let by_name: HashMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(index, name)| (*name, index))
        .collect();
    let mut needs: Vec<BTreeSet<usize>> = records
        .iter()
        .enumerate()
        .map(|(index, record)| {
            record
                .as_ref()
                .depends
                .iter()
                .map(|spec| PackageName::normalized_name_from_matchspec_str(spec))
                .filter_map(|name: Cow<'_, str>| by_name.get(name.as_ref()).copied())
                .filter(|&needed| needed != index)
                .collect()
        })
        .collect();
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    for (index, needed) in needs.iter().enumerate() {
        for &needed in needed {
            needed_by[needed].push(index);
        }
    }

    let mut ready: BinaryHeap<Reverse<(&str, usize)>> = needs
        .iter()
        .enumerate()
        .filter(|(_, needs)| needs.is_empty())
        .map(|(index, _)| Reverse((names[index], index)))
        .collect();
    let mut order = Vec::with_capacity(records.len());
    let mut placed = vec![false; records.len()];
    while order.len() < records.len() {
        let next = match ready.pop() {
            Some(Reverse((_, index))) => index,
            None => first_of_a_cycle(records, &names, &needs, &placed),
        };
        // A package that broke a cycle becomes ready again later.
        if std::mem::replace(&mut placed[next], true) {
            continue;
        }
        order.push(next);
        for &dependent in &needed_by[next] {
            needs[dependent].remove(&next);
            if needs[dependent].is_empty() && !placed[dependent] {
                ready.push(Reverse((names[dependent], dependent)));
            }
        }
    }
    order
}

/// When no record is ready, those that reach the fewest others form a cycle without dependencies
/// outside of it; one of them is first.
fn first_of_a_cycle<T: AsRef<PackageRecord>>(
    records: &[T],
    names: &[&str],
    needs: &[BTreeSet<usize>],
    placed: &[bool],
) -> usize {
    (0..records.len())
        .filter(|&index| !placed[index])
        .min_by_key(|&index| {
            let noarch = !records[index].as_ref().noarch.is_none();
            (reach(index, needs), noarch, names[index], index)
        })
        .expect("packages remain")
}

fn reach(from: usize, needs: &[BTreeSet<usize>]) -> usize {
    let mut seen = HashSet::new();
    let mut stack = vec![from];
    while let Some(index) = stack.pop() {
        for &needed in &needs[index] {
            if seen.insert(needed) {
                stack.push(needed);
            }
        }
    }
    seen.len()
}

#[cfg(test)]
mod tests {
    use rattler_conda_types::NoArchType;

    use super::*;

    fn record(name: &str, depends: &[&str], noarch: bool) -> PackageRecord {
        let mut record = PackageRecord::new(
            PackageName::new_unchecked(name),
            "1".parse::<rattler_conda_types::VersionWithSource>()
                .unwrap(),
            "0".parse().unwrap(),
        );
        record.depends = depends.iter().map(|&spec| spec.to_owned()).collect();
        if noarch {
            record.noarch = NoArchType::python();
        }
        record
    }

    fn ordered(mut records: Vec<PackageRecord>) -> Vec<String> {
        let names = |records: &[PackageRecord]| -> Vec<String> {
            topological_order(records)
                .into_iter()
                .map(|index| records[index].name.as_normalized().to_owned())
                .collect()
        };
        let forward = names(&records);
        records.reverse();
        assert_eq!(
            names(&records),
            forward,
            "the order must not depend on the input's"
        );
        forward
    }

    #[test]
    fn dependencies_come_first_and_ties_go_by_name() {
        let order = ordered(vec![
            record("c", &["a >=1", "missing"], false),
            record("b", &[], false),
            record("a", &["z[version='>=1']"], false),
            record("z", &[], false),
        ]);
        assert_eq!(order, ["b", "z", "a", "c"]);
    }

    #[test]
    fn python_comes_before_the_pip_it_depends_on() {
        let order = ordered(vec![
            record("app", &["python", "pip"], true),
            record("pip", &["python >=3", "setuptools"], true),
            record("python", &["openssl", "pip"], false),
            record("setuptools", &["python"], true),
            record("openssl", &[], false),
            record("self", &["self"], false),
        ]);
        assert_eq!(
            order,
            ["openssl", "self", "python", "setuptools", "pip", "app"].map(str::to_owned)
        );
    }
}
