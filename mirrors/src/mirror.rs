use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::Location;

/// A mirror of one [`Selector`](crate::Selector): its index in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorId(u32);

impl MirrorId {
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

    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for MirrorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A mirror as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    pub location: Location,
    /// The tier: lower numbers are used first. The default is 0.
    pub priority: i32,
    /// The share of the load among mirrors that are equally fast. The default is 1.
    pub weight: f64,
    /// Two upper-case letters (ISO 3166-1).
    pub country: Option<String>,
    /// The maximum number of connections from one client.
    pub max_connections: Option<u32>,
    pub provenance: Provenance,
}

/// Where a mirror was named. Explicit provenances are ordered before discovered ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// An argument of a command.
    CommandLine,
    /// A line of a file.
    File {
        /// The name of the file.
        file: Arc<str>,
        /// Counted from 1.
        line: u32,
    },
    /// The server that publishes the files.
    Upstream,
    /// A list, a metalink or a `Link` header from a server.
    Discovered {
        /// The URL without secrets.
        from: Arc<str>,
    },
}

impl Provenance {
    /// Whether a mirror of this provenance may have this location. A server must not make taipan read
    /// local files.
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

    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    #[must_use]
    pub fn with_weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    #[must_use]
    pub fn with_country(mut self, country: impl Into<String>) -> Self {
        self.country = Some(country.into());
        self
    }

    #[must_use]
    pub fn with_max_connections(mut self, connections: u32) -> Self {
        self.max_connections = Some(connections);
        self
    }
}

/// Merges lists of mirrors: explicit ones before discovered ones, and the first of those at the same
/// location.
pub fn merge(lists: impl IntoIterator<Item = Vec<Mirror>>) -> Vec<Mirror> {
    let mut mirrors: Vec<Mirror> = lists.into_iter().flatten().collect();
    // The sort is stable, so the order of the lists is kept within each group.
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
