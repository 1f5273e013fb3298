use std::collections::BTreeMap;

use crate::MirrorId;

/// What one job has tried: failed attempts and exclusions per mirror.
///
/// A mirror with failures is chosen again only when no other is left, and not more often than
/// [`attempts_per_mirror`](crate::SelectorConfig::attempts_per_mirror) allows. An excluded mirror is
/// not chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried(BTreeMap<MirrorId, Record>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    failures: u32,
    is_excluded: bool,
}

impl Tried {
    /// Nothing tried.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The failed attempts on this mirror.
    pub fn failures(&self, mirror: MirrorId) -> u32 {
        self.0.get(&mirror).map_or(0, |record| record.failures)
    }

    /// Whether this mirror is excluded.
    pub fn is_excluded(&self, mirror: MirrorId) -> bool {
        self.0.get(&mirror).is_some_and(|record| record.is_excluded)
    }

    /// Counts a failed attempt.
    pub fn record_failure(&mut self, mirror: MirrorId) {
        let record = self.0.entry(mirror).or_default();
        record.failures = record.failures.saturating_add(1);
    }

    /// Forgets the failed attempts on this mirror, for example because an attempt made progress.
    pub fn reset_failures(&mut self, mirror: MirrorId) {
        if let Some(record) = self.0.get_mut(&mirror) {
            record.failures = 0;
        }
    }

    /// Excludes this mirror.
    pub fn exclude(&mut self, mirror: MirrorId) {
        self.0.entry(mirror).or_default().is_excluded = true;
    }

    /// Removes an exclusion. The failures stay.
    pub fn include(&mut self, mirror: MirrorId) {
        if let Some(record) = self.0.get_mut(&mirror) {
            record.is_excluded = false;
        }
    }

    /// A copy that also excludes these mirrors, because they are serving this job at the moment.
    #[must_use]
    pub fn excluding(&self, mirrors: impl IntoIterator<Item = MirrorId>) -> Self {
        let mut tried = self.clone();
        for mirror in mirrors {
            tried.exclude(mirror);
        }
        tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_exclusions_are_independent() {
        let (a, b) = (MirrorId::new(0), MirrorId::new(1));
        let mut tried = Tried::new();
        tried.record_failure(a);
        tried.record_failure(a);
        tried.exclude(a);
        assert_eq!((tried.failures(a), tried.is_excluded(a)), (2, true));
        tried.include(a);
        assert_eq!((tried.failures(a), tried.is_excluded(a)), (2, false));
        tried.reset_failures(a);
        assert_eq!(tried.failures(a), 0);
        let elsewhere = tried.excluding([b]);
        assert!(elsewhere.is_excluded(b) && !tried.is_excluded(b));
    }
}
