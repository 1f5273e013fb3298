//! Whether a mirror has the newest version of a file, judged by the versions of all mirrors.

use std::{collections::BTreeMap, time::SystemTime};

/// The version of a file that one mirror has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Version {
    /// In bytes.
    pub(crate) length: u64,
    /// The first bytes or a digest of them, if they were fetched.
    pub(crate) head: Option<Vec<u8>>,
    /// The last bytes, if the mirror supports ranges. Two versions of a compressed file differ most
    /// likely there.
    pub(crate) tail: Option<Vec<u8>>,
    /// The modification time. Buckets and registries report the time of the upload instead, which
    /// says nothing about the version.
    pub(crate) modified: Option<SystemTime>,
}

/// How the version of a mirror compares with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Freshness {
    /// Equal to the reference.
    Current,
    /// Older than the reference.
    Behind,
    /// Another version of unknown age.
    Differs,
}

/// Length, head and tail identify a version.
type Key<'a> = (u64, &'a [u8], &'a [u8]);

/// Judges versions. The reference is the version of the upstream (`origin`), if it is among them;
/// otherwise the one that was modified last, if all have a time; otherwise the one that most mirrors
/// have. `None`: no reference can be determined.
///
/// Mirrors may give different times for the same version: some give the time of the copy. So a version
/// is as old as the oldest time that a mirror gives.
pub(crate) fn judge(versions: &[Version], origin: Option<usize>) -> Option<Vec<Freshness>> {
    let mut groups: BTreeMap<Key<'_>, Vec<usize>> = BTreeMap::new();
    let mut keys = Vec::with_capacity(versions.len());
    for (index, version) in versions.iter().enumerate() {
        // A mirror that did not send head or tail is grouped with a version that agrees otherwise.
        let agree = |a: &Option<Vec<u8>>, b: &Option<Vec<u8>>| a.is_none() || a == b;
        let full = |other: &&Version| {
            other.length == version.length
                && (other.head.is_some() && agree(&version.head, &other.head))
                && (other.tail.is_some() && agree(&version.tail, &other.tail))
        };
        let shown = versions.iter().find(full).unwrap_or(version);
        let key = (
            version.length,
            shown.head.as_deref().unwrap_or_default(),
            shown.tail.as_deref().unwrap_or_default(),
        );
        groups.entry(key).or_default().push(index);
        keys.push(key);
    }
    let date = |key| {
        let members: &Vec<usize> = &groups[&key];
        members
            .iter()
            .filter_map(|&index| versions[index].modified)
            .min()
    };
    let dates: Vec<Option<SystemTime>> = groups.keys().map(|key| date(*key)).collect();
    let newest = || {
        let newest = dates
            .iter()
            .copied()
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()?;
        only(
            groups
                .keys()
                .copied()
                .filter(|key| date(*key) == Some(newest)),
        )
    };
    let commonest = || {
        let most = groups.values().map(Vec::len).max()?;
        let most_have = groups.iter().filter(|(_, members)| members.len() == most);
        only(most_have.map(|(key, _)| *key))
    };
    let reference = match origin {
        Some(index) => keys.get(index).copied(),
        None => newest().or_else(commonest),
    }?;
    let judged = keys.iter().map(|&key| {
        if key == reference {
            Freshness::Current
        } else if date(key).zip(date(reference)).is_some_and(|(a, b)| a < b) {
            Freshness::Behind
        } else {
            Freshness::Differs
        }
    });
    Some(judged.collect())
}

/// The item of an iterator with exactly one item.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Freshness::{Current, Differs};
    use super::*;

    fn version(length: u64, day: Option<u64>) -> Version {
        Version {
            length,
            head: Some(b"head".to_vec()),
            tail: Some(length.to_be_bytes().to_vec()),
            modified: day.map(|day| SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400)),
        }
    }

    #[test]
    fn the_newest_version_is_the_reference_against_a_majority() {
        let versions = [
            version(9, Some(1)),
            version(10, Some(2)),
            version(9, Some(1)),
        ];
        let judged = judge(&versions, None).unwrap();
        assert_eq!(
            judged,
            [Freshness::Behind, Freshness::Current, Freshness::Behind]
        );
    }

    #[test]
    fn a_version_is_as_old_as_its_oldest_time() {
        // The last mirror copied the old version later.
        let versions = [
            version(9, Some(1)),
            version(10, Some(2)),
            version(9, Some(3)),
        ];
        let judged = judge(&versions, None).unwrap();
        assert_eq!(
            judged,
            [Freshness::Behind, Freshness::Current, Freshness::Behind]
        );
    }

    #[test]
    fn without_times_the_majority_is_the_reference_unless_it_is_a_tie() {
        let versions = [version(9, None), version(10, Some(2)), version(10, None)];
        let judged = judge(&versions, None).unwrap();
        assert_eq!(
            judged,
            [Freshness::Differs, Freshness::Current, Freshness::Current]
        );
        assert_eq!(judge(&versions[..2], None), None);
        assert_eq!(judge(&[], None), None);
    }

    #[test]
    fn the_upstream_is_the_reference_whatever_the_others_have() {
        let versions = [
            version(9, Some(1)),
            version(10, Some(2)),
            version(10, Some(2)),
        ];
        let judged = judge(&versions, Some(0)).unwrap();
        assert_eq!(
            judged,
            [Freshness::Current, Freshness::Differs, Freshness::Differs]
        );
    }

    #[test]
    fn a_changed_byte_at_either_end_makes_another_version() {
        let same = version(9, Some(1));
        let head = Version {
            head: Some(b"Head".to_vec()),
            ..same.clone()
        };
        let tail = Version {
            tail: Some(vec![1]),
            ..same.clone()
        };
        let unknown = Version {
            tail: None,
            ..same.clone()
        };
        let end_only = Version {
            head: None,
            ..same.clone()
        };
        let all = [same.clone(), same, head, tail, unknown, end_only];
        let judged = judge(&all, None).unwrap();
        assert_eq!(
            judged,
            [Current, Current, Differs, Differs, Current, Current]
        );
    }
}
