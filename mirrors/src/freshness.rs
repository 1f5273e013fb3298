use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

/// A mirror's version of a file that changes under its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// In bytes.
    pub length: u64,
    /// The first bytes, or a digest of them, if they were fetched.
    pub head: Option<Vec<u8>>,
    /// The last bytes, if the mirror can send them alone. They nearly always differ between two versions
    /// of a compressed file.
    pub tail: Option<Vec<u8>>,
    /// The date of the last change. (Buckets and registries give the date of the upload instead.)
    pub modified: Option<SystemTime>,
}

/// How a mirror's version compares with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// The same as the reference.
    Current,
    /// Older than the reference.
    Behind,
    /// Different, and it is unknown whether it is older.
    Differs,
}

/// Length, head and tail, which identify a version.
type Key<'a> = (u64, &'a [u8], &'a [u8]);

/// Compares versions with a reference: that of the upstream, if it is among them; otherwise the newest,
/// if all have dates; otherwise the version of most mirrors. `None` if there is no reference: then no
/// mirror is judged to be behind.
///
/// Mirrors may give different dates for the same version, because some give the date of the copy. So
/// the oldest date of a version counts.
pub fn judge_freshness(versions: &[Version], upstream: Option<usize>) -> Option<Vec<Freshness>> {
    let mut groups: BTreeMap<Key<'_>, Vec<usize>> = BTreeMap::new();
    let mut keys = Vec::with_capacity(versions.len());
    for (index, version) in versions.iter().enumerate() {
        // A missing part is assumed to be equal.
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
    let reference = match upstream {
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

/// The only item of an iterator.
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
    fn the_newest_version_outvotes_a_stale_majority() {
        let versions = [
            version(9, Some(1)),
            version(10, Some(2)),
            version(9, Some(1)),
        ];
        let judged = judge_freshness(&versions, None).unwrap();
        assert_eq!(
            judged,
            [Freshness::Behind, Freshness::Current, Freshness::Behind]
        );
    }

    #[test]
    fn a_version_is_as_old_as_its_oldest_date() {
        // The last one has copied the old version today.
        let versions = [
            version(9, Some(1)),
            version(10, Some(2)),
            version(9, Some(3)),
        ];
        let judged = judge_freshness(&versions, None).unwrap();
        assert_eq!(
            judged,
            [Freshness::Behind, Freshness::Current, Freshness::Behind]
        );
    }

    #[test]
    fn without_dates_the_majority_decides_and_a_draw_does_not() {
        let versions = [version(9, None), version(10, Some(2)), version(10, None)];
        let judged = judge_freshness(&versions, None).unwrap();
        assert_eq!(
            judged,
            [Freshness::Differs, Freshness::Current, Freshness::Current]
        );
        assert_eq!(judge_freshness(&versions[..2], None), None);
        assert_eq!(judge_freshness(&[], None), None);
    }

    #[test]
    fn the_upstream_server_is_the_reference_whatever_the_others_have() {
        let versions = [
            version(9, Some(1)),
            version(10, Some(2)),
            version(10, Some(2)),
        ];
        let judged = judge_freshness(&versions, Some(0)).unwrap();
        assert_eq!(
            judged,
            [Freshness::Current, Freshness::Differs, Freshness::Differs]
        );
    }

    #[test]
    fn a_changed_byte_at_either_end_is_another_version() {
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
        let judged = judge_freshness(&all, None).unwrap();
        assert_eq!(
            judged,
            [Current, Current, Differs, Differs, Current, Current]
        );
    }
}
