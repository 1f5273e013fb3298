use std::time::Duration;

use crate::Time;
use crate::selector::hold::Hold;

/// A fault of one path on one mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathFault {
    /// The mirror does not have the path, or has an older version.
    NotHere,
    /// The body had a digest mismatch.
    Corrupt,
}

/// The FNV-1a hash of a path. A collision costs a detour to another mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathHash(u64);

impl PathHash {
    pub(crate) fn of(path: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(path.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

/// The faulty paths of a mirror: a bounded number, each for a limited time.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathMemory {
    /// Sorted by path.
    entries: Vec<(PathHash, PathFault, Hold)>,
}

impl PathMemory {
    /// The capacity. If a mirror lacks more paths, some requests to it fail with a round trip.
    const MOST: usize = 512;

    pub(crate) fn insert(&mut self, path: PathHash, fault: PathFault, at: Time, length: Duration) {
        let hold = Hold::new(at, length);
        if let Ok(index) = self.entries.binary_search_by_key(&path, |entry| entry.0) {
            self.entries[index] = (path, fault, hold);
        } else {
            if self.entries.len() >= Self::MOST {
                self.make_room(at);
            }
            let index = self.entries.partition_point(|entry| entry.0 < path);
            self.entries.insert(index, (path, fault, hold));
        }
    }

    pub(crate) fn get(&self, path: PathHash, now: Time) -> Option<PathFault> {
        if self.entries.is_empty() {
            return None;
        }
        let index = self
            .entries
            .binary_search_by_key(&path, |entry| entry.0)
            .ok()?;
        let (_, fault, hold) = self.entries[index];
        hold.active(now).then_some(fault)
    }

    pub(crate) fn remove(&mut self, path: PathHash) {
        if let Ok(index) = self.entries.binary_search_by_key(&path, |entry| entry.0) {
            self.entries.remove(index);
        }
    }

    /// Drops expired entries, or the oldest eighth if none has expired.
    fn make_room(&mut self, now: Time) {
        self.entries.retain(|(_, _, hold)| hold.active(now));
        if self.entries.len() >= Self::MOST {
            let mut since: Vec<Time> = self.entries.iter().map(|entry| entry.2.since).collect();
            let (_, &mut limit, _) = since.select_nth_unstable(Self::MOST / 8);
            let mut spare = Self::MOST / 8;
            self.entries.retain(|entry| {
                let drop = entry.2.since <= limit && spare > 0;
                spare -= usize::from(drop);
                !drop
            });
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHILE: Duration = Duration::from_mins(10);

    fn at(seconds: u64) -> Time {
        Time::from_unix(Duration::from_secs(1_000_000 + seconds))
    }

    #[test]
    fn a_path_is_remembered_for_a_while() {
        let mut memory = PathMemory::default();
        let path = PathHash::of("a/b");
        memory.insert(path, PathFault::NotHere, at(0), WHILE);
        assert_eq!(memory.get(path, at(599)), Some(PathFault::NotHere));
        assert_eq!(memory.get(path, at(600)), None);
        assert_eq!(memory.get(PathHash::of("a/c"), at(1)), None);
        memory.remove(path);
        assert_eq!(memory.get(path, at(1)), None);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let mut memory = PathMemory::default();
        for i in 0..10_000 {
            memory.insert(
                PathHash::of(&format!("p{i}")),
                PathFault::NotHere,
                at(i / 100),
                WHILE,
            );
            assert!(memory.len() <= PathMemory::MOST);
        }
        assert_eq!(
            memory.get(PathHash::of("p9999"), at(100)),
            Some(PathFault::NotHere)
        );
        assert_eq!(memory.get(PathHash::of("p1"), at(100)), None);
    }
}
