//! The order in which candidates are tried.

use std::cmp::{Ordering, Reverse};

use resolvo::{NameId, SolvableId, VersionSetId};

use crate::{
    candidate::{Best, Candidate, DependencySpecs, Kind},
    provider::Provider,
    request::ChannelPriority,
};

impl Provider<'_> {
    /// Sorts candidates of one name, in the order in which they are tried: fewer `track_features`,
    /// (under flexible priority) earlier channel, newer version, higher build number. What is
    /// still equal differs in what it is built for, so the one that allows the newest versions of
    /// shared dependencies is first, then the one that was built last.
    pub(crate) fn sort(&self, solvables: &mut [SolvableId]) {
        solvables.sort_by(|&a, &b| self.compare(self.candidate(a), self.candidate(b)));
        let mut start = 0;
        while start < solvables.len() {
            let first = self.candidate(solvables[start]);
            let length = solvables[start..]
                .iter()
                .take_while(|&&other| self.compare(first, self.candidate(other)).is_eq())
                .count();
            if length > 1 {
                self.sort_equals(&mut solvables[start..start + length]);
            }
            start += length;
        }
    }

    fn compare(&self, a: &Candidate, b: &Candidate) -> Ordering {
        let by_channel = match self.request.channel_priority {
            ChannelPriority::Flexible => a.channel.cmp(&b.channel),
            ChannelPriority::Strict | ChannelPriority::Disabled => Ordering::Equal,
        };
        track_features(a)
            .cmp(&track_features(b))
            .then(by_channel)
            .then(b.version_rank.cmp(&a.version_rank))
            .then(build_number(b).cmp(&build_number(a)))
    }

    fn sort_equals(&self, solvables: &mut [SolvableId]) {
        let dependencies: Vec<Option<&DependencySpecs>> = solvables
            .iter()
            .map(|&solvable| self.dependencies(solvable).ok())
            .collect();
        let shared = self.shared_dependencies(&dependencies);
        let mut keyed: Vec<_> = solvables
            .iter()
            .zip(&dependencies)
            .map(|(&solvable, dependencies)| {
                let candidate = self.candidate(solvable);
                let best: Vec<Option<Best>> = shared
                    .iter()
                    .map(|&name| {
                        dependencies.and_then(|dependencies| self.best_of(dependencies, name))
                    })
                    .collect();
                let record = candidate.record();
                let timestamp = record
                    .and_then(|record| record.package_record.timestamp.as_ref())
                    .map(rattler_conda_types::utils::TimestampMs::timestamp_millis);
                // The file name makes the order deterministic.
                let file_name = record.map(|record| record.identifier.to_file_name());
                let key = (
                    Reverse((dependencies.is_some(), best, timestamp)),
                    candidate.channel,
                    file_name,
                    candidate.index,
                );
                (key, solvable)
            })
            .collect();
        keyed.sort();
        for (place, (_, solvable)) in solvables.iter_mut().zip(keyed) {
            *place = solvable;
        }
    }

    /// The names that all of the candidates depend on, in alphabetical order.
    fn shared_dependencies(&self, dependencies: &[Option<&DependencySpecs>]) -> Vec<NameId> {
        let mut known = dependencies.iter().flatten();
        let names = |dependencies: &DependencySpecs| {
            let name = |&id: &VersionSetId| self.pool.resolve_version_set_package_name(id);
            dependencies
                .requires
                .iter()
                .map(name)
                .collect::<std::collections::HashSet<_>>()
        };
        let Some(first) = known.next() else {
            return Vec::new();
        };
        let mut shared = names(first);
        for dependencies in known {
            let others = names(dependencies);
            shared.retain(|name| others.contains(name));
        }
        let mut shared: Vec<_> = shared.into_iter().collect();
        shared.sort_by_key(|&name| self.name(name));
        shared
    }

    /// The best version of a dependency that a candidate allows. A candidate may name a
    /// dependency twice (bare, and with the bounds of a run export); the tighter one counts.
    fn best_of(&self, dependencies: &DependencySpecs, name: NameId) -> Option<Best> {
        dependencies
            .requires
            .iter()
            .filter(|&&id| self.pool.resolve_version_set_package_name(id) == name)
            .map(|&id| self.best(id))
            .min()
            .flatten()
    }

    fn best(&self, version_set: VersionSetId) -> Option<Best> {
        if let Some(best) = self.best.borrow().get(&version_set) {
            return *best;
        }
        let package = self.package(self.pool.resolve_version_set_package_name(version_set));
        let matching = self.matching(version_set);
        // Candidates that the user excludes do not count: with the spec `python=3.9`, a build for
        // any python and one for 3.9 are equally good.
        let requested = self.requested(self.pool.resolve_version_set_package_name(version_set));
        let best = package
            .candidates
            .iter()
            .map(|&solvable| self.candidate(solvable))
            .filter(|candidate| matching[candidate.index] && candidate.excluded.is_none())
            .filter(|candidate| requested.iter().all(|spec| spec[candidate.index]))
            .map(|candidate| Best {
                without_features: track_features(candidate) == 0,
                version_rank: candidate.version_rank,
            })
            .max();
        self.best.borrow_mut().insert(version_set, best);
        best
    }
}

fn track_features(candidate: &Candidate) -> usize {
    match &candidate.kind {
        Kind::Record(record) => record.package_record.track_features.len(),
        Kind::Virtual(_) => 0,
    }
}

fn build_number(candidate: &Candidate) -> u64 {
    match &candidate.kind {
        Kind::Record(record) => record.package_record.build_number,
        Kind::Virtual(_) => 0,
    }
}
