use super::error::{ArchiveError, EntryProblem, LimitKind};
use super::limits::ExtractLimits;

/// The longest name that Linux file systems take.
const COMPONENT_BYTES: usize = 255;

/// A path that stays below the package: relative, without `.`, `..`, empty components and NUL.
///
/// Bytes, not text: tar has no encoding, and neither has a Unix path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Checks and normalises a path from an archive. `None` is the package's root itself.
    pub(super) fn parse(
        raw: &[u8],
        member: &str,
        limits: &ExtractLimits,
    ) -> Result<Option<Self>, ArchiveError> {
        let limit = |what, limit: usize| ArchiveError::Limit {
            member: member.to_owned(),
            what,
            limit: limit as u64,
        };
        if raw.len() > limits.path_bytes {
            return Err(limit(LimitKind::PathBytes, limits.path_bytes));
        }
        let bad = |problem| ArchiveError::Entry {
            member: member.to_owned(),
            entry: lossy(raw),
            problem,
        };
        if raw.is_empty() {
            return Err(bad(EntryProblem::EmptyPath));
        }
        if raw[0] == b'/' {
            return Err(bad(EntryProblem::AbsolutePath));
        }
        if raw.contains(&0) {
            return Err(bad(EntryProblem::NulPath));
        }
        let mut clean = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for component in raw.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(bad(EntryProblem::ParentPath)),
                _ => {}
            }
            if component.len() > COMPONENT_BYTES {
                return Err(bad(EntryProblem::LongComponent));
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
            depth += 1;
            if depth > limits.path_depth {
                return Err(limit(LimitKind::PathDepth, limits.path_depth));
            }
        }
        Ok((!clean.is_empty()).then_some(Self(clean)))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components of the parent directory, and the last component.
    pub(super) fn split(&self) -> (impl Iterator<Item = &[u8]>, &[u8]) {
        let (parent, name) = match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[][..], &self.0[..]),
        };
        let components = parent.split(|b| *b == b'/').filter(|c| !c.is_empty());
        (components, name)
    }

    pub(super) fn lossy(&self) -> String {
        lossy(&self.0)
    }
}

/// Text for messages.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &[u8]) -> Result<Option<EntryPath>, ArchiveError> {
        EntryPath::parse(raw, "tar", &ExtractLimits::default())
    }

    fn problem(raw: &[u8]) -> EntryProblem {
        match parse(raw) {
            Err(ArchiveError::Entry { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn harmless_spellings_are_normalised() {
        for (raw, clean) in [
            (&b"a"[..], &b"a"[..]),
            (b"./a/b", b"a/b"),
            (b"a//b/./c/", b"a/b/c"),
            (b"a\\..\\b", b"a\\..\\b"),
            (b"..a/b..", b"..a/b.."),
            (b"\xff\xfe", b"\xff\xfe"),
        ] {
            assert_eq!(parse(raw).unwrap().unwrap().as_bytes(), clean);
        }
        assert_eq!(parse(b"./").unwrap(), None);
    }

    #[test]
    fn paths_that_leave_the_package_are_refused() {
        assert_eq!(problem(b""), EntryProblem::EmptyPath);
        assert_eq!(problem(b"/etc/passwd"), EntryProblem::AbsolutePath);
        assert_eq!(problem(b"a/../b"), EntryProblem::ParentPath);
        assert_eq!(problem(b".."), EntryProblem::ParentPath);
        assert_eq!(problem(b"a\0b"), EntryProblem::NulPath);
        assert_eq!(problem(&[b'n'; 256]), EntryProblem::LongComponent);
    }

    #[test]
    fn long_and_deep_paths_meet_a_limit() {
        let kind = |raw: &[u8]| match parse(raw) {
            Err(ArchiveError::Limit { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(&[b'/'; 5000]), LimitKind::PathBytes);
        assert_eq!(kind("d/".repeat(200).as_bytes()), LimitKind::PathDepth);
    }

    #[test]
    fn a_path_splits_into_directories_and_a_name() {
        let path = parse(b"a/b/c").unwrap().unwrap();
        let (parents, name) = path.split();
        assert_eq!(parents.collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(name, b"c");
    }
}
