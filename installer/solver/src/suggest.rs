//! Names that are similar to a mistyped one.

use std::collections::BTreeSet;

use crate::request::SolveRequest;

/// The largest number of suggestions.
const SUGGESTIONS: usize = 3;

/// Names of the channels that are similar to `name`.
pub(crate) fn suggestions(request: &SolveRequest, name: &str) -> Vec<String> {
    let names: BTreeSet<&str> = request
        .channels
        .iter()
        .flat_map(|channel| &channel.indexes)
        .flat_map(taipan_channel::RepodataIndex::names)
        .collect();
    similar(name, names)
}

/// The names that are most similar to `wanted`, the best first: those that differ in few letters,
/// or only in hyphens, underscores and dots.
fn similar<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let wanted_plain = plain(wanted);
    // One error in a short name, up to three in a long one.
    let allowed = (wanted.chars().count() / 4).clamp(1, 3);
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .filter(|name| *name != wanted)
        .filter_map(|name| {
            let distance = if plain(name) == wanted_plain {
                0
            } else {
                distance_within(wanted, name, allowed)?
            };
            Some((distance, name))
        })
        .collect();
    found.sort_unstable();
    // Distant names are dropped when there is a near one.
    let nearest = found.first().map_or(0, |(distance, _)| *distance);
    found.retain(|(distance, _)| *distance <= nearest + 1);
    found.truncate(SUGGESTIONS);
    found.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// The name without what is mistyped most often: separators, and a leading `python-`.
fn plain(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("python-").unwrap_or(&name);
    name.chars()
        .filter(|letter| !matches!(letter, '-' | '_' | '.'))
        .collect()
}

/// The smallest number of letters to insert, delete, replace or swap with their neighbour (optimal
/// string alignment), unless it is more than `allowed`.
fn distance_within(a: &str, b: &str, allowed: usize) -> Option<usize> {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    if a.len().abs_diff(b.len()) > allowed {
        return None;
    }
    let mut second_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut current = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut cost = replace.min(last[j] + 1).min(current[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(second_last[j - 2] + 1);
            }
            current.push(cost);
        }
        if current.iter().all(|&distance| distance > allowed) {
            return None;
        }
        second_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().filter(|&distance| distance <= allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 7] = [
        "numpy",
        "numba",
        "scikit-learn",
        "scipy",
        "ruamel.yaml",
        "python-dateutil",
        "r",
    ];

    #[test]
    fn the_nearest_names_come_first() {
        assert_eq!(similar("nunpy", NAMES), ["numpy"]);
        assert_eq!(similar("nupmy", NAMES), ["numpy"]);
        assert_eq!(similar("scikit_learn", NAMES), ["scikit-learn"]);
        assert_eq!(similar("scikitlearn", NAMES), ["scikit-learn"]);
        assert_eq!(similar("ruamel-yaml", NAMES), ["ruamel.yaml"]);
        assert_eq!(similar("dateutil", NAMES), ["python-dateutil"]);
        assert_eq!(similar("tensorflow", NAMES), Vec::<String>::new());
    }

    #[test]
    fn distances_are_those_of_the_textbook() {
        assert_eq!(distance_within("kitten", "sitting", 3), Some(3));
        assert_eq!(distance_within("kitten", "sitting", 2), None);
        assert_eq!(distance_within("", "ab", 2), Some(2));
        assert_eq!(distance_within("ab", "ba", 1), Some(1));
        assert_eq!(distance_within("same", "same", 0), Some(0));
    }
}
