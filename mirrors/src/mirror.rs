use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::Location;

/// A mirror within one [`Selector`](crate::Selector): its place in the list that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorId(u32);

impl MirrorId {
    /// The mirror at this place of the list.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "lists are shorter than that"
    )]
    pub(crate) fn at(index: usize) -> Self {
        Self(index as u32)
    }

    /// Its place in the list.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for MirrorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A place that holds a copy, and what is known of it beforehand.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Where it is.
    pub location: Location,
    /// Its tier: lower numbers are asked first. 0 unless told otherwise.
    pub priority: i32,
    /// Its share of the load among mirrors that are otherwise as good. 1 unless told otherwise.
    pub weight: f64,
    /// The country it stands in, as two upper-case letters (ISO 3166-1).
    pub country: Option<String>,
    /// The most connections that it wants from one client.
    pub max_connections: Option<u32>,
    /// Who named it.
    pub provenance: Provenance,
}

/// Where a mirror was named. Explicit provenances are ordered before discovered ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// An argument of the command.
    CommandLine,
    /// A line of a file.
    File {
        /// The file, as it was called.
        file: Arc<str>,
        /// The line, counted from 1.
        line: u32,
    },
    /// The server that publishes the files.
    Upstream,
    /// A server's answer: a list, a metalink or a link header from there.
    Discovered {
        /// The server's address without secrets.
        from: Arc<str>,
    },
}

impl Provenance {
    /// Whether a mirror named from there may be at this place: who is not the user must not have
    /// files of this machine read as if they were answers.
    pub(crate) fn may_name(&self, location: &Location) -> bool {
        !matches!(
            (self, location),
            (Self::Discovered { .. }, Location::File(_))
        )
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Upstream => f.write_str("upstream"),
            Self::Discovered { from } => write!(f, "discovered at {from}"),
        }
    }
}

impl Mirror {
    /// A mirror of which nothing but its place is known.
    pub fn new(location: Location, provenance: Provenance) -> Self {
        Self {
            location,
            priority: 0,
            weight: 1.0,
            country: None,
            max_connections: None,
            provenance,
        }
    }

    /// In this tier.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// With this share of the load.
    #[must_use]
    pub fn with_weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// In this country.
    #[must_use]
    pub fn with_country(mut self, country: impl Into<String>) -> Self {
        self.country = Some(country.into());
        self
    }

    /// With at most so many connections.
    #[must_use]
    pub fn with_max_connections(mut self, connections: u32) -> Self {
        self.max_connections = Some(connections);
        self
    }
}

/// Puts lists of mirrors together: explicit before discovered, and of two that are the same place
/// the one that comes first in that order.
pub fn merge(lists: impl IntoIterator<Item = Vec<Mirror>>) -> Vec<Mirror> {
    let mut mirrors: Vec<Mirror> = lists.into_iter().flatten().collect();
    // The sort is stable, so the order within one kind of provenance is that of the lists.
    mirrors.sort_by_key(|mirror| matches!(mirror.provenance, Provenance::Discovered { .. }));
    let mut seen = HashSet::new();
    mirrors.retain(|mirror| seen.insert(mirror.location.key()));
    mirrors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_the_explicit_one_of_two_for_the_same_place() {
        let found = Provenance::Discovered {
            from: "https://list.example/".into(),
        };
        let mirror = |url: &str, provenance: &Provenance| {
            Mirror::new(Location::parse(url).unwrap(), provenance.clone())
        };
        let merged = merge([
            vec![
                mirror("https://a.example/x/", &found),
                mirror("https://b.example/", &found),
            ],
            vec![mirror("https://a.example/x", &Provenance::CommandLine).with_priority(3)],
        ]);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0].priority, 3);
        assert_eq!(merged[1].location.to_string(), "https://b.example/");
    }
}
