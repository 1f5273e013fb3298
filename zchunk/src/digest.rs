//! The four checksums of the format.

use std::fmt;

use sha2::Digest as _;

use crate::error::{Error, Field};

/// Which checksum; the discriminants are the format's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum HashKind {
    /// SHA-1, 20 bytes. For old files only: collisions are known.
    Sha1 = 0,
    /// SHA-256, 32 bytes. The default for header and body.
    Sha256 = 1,
    /// SHA-512, 64 bytes.
    Sha512 = 2,
    /// The first 16 bytes of SHA-512; *not* the truncated variant of FIPS 180-4, whose initial
    /// values differ. The default for chunks.
    Sha512_128 = 3,
}

impl HashKind {
    /// All of them, in the order of their ids.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha512, Self::Sha512_128];

    /// Bytes of a digest of this kind.
    #[allow(
        clippy::len_without_is_empty,
        reason = "it is the length of something else"
    )]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Sha512_128 => 16,
        }
    }

    /// The name in the C tools.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
            Self::Sha512_128 => "SHA-512/128",
        }
    }

    pub(crate) fn from_id(id: u64, field: Field, offset: u64) -> Result<Self, Error> {
        match id {
            0 => Ok(Self::Sha1),
            1 => Ok(Self::Sha256),
            2 => Ok(Self::Sha512),
            3 => Ok(Self::Sha512_128),
            value => Err(Error::Unknown {
                field,
                offset,
                value,
            }),
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for HashKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A checksum and its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    kind: HashKind,
    /// Zero after the first `kind.len()` bytes, so that the derived comparisons are correct.
    bytes: [u8; 64],
}

impl Digest {
    /// `None` for bytes of another length.
    pub fn new(kind: HashKind, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == kind.len()).then(|| Self::from_prefix(kind, bytes))
    }

    /// `bytes` must have at least the length of the kind.
    pub(crate) fn from_prefix(kind: HashKind, bytes: &[u8]) -> Self {
        let mut all = [0; 64];
        all[..kind.len()].copy_from_slice(&bytes[..kind.len()]);
        Self { kind, bytes: all }
    }

    pub(crate) const fn zero(kind: HashKind) -> Self {
        Self {
            kind,
            bytes: [0; 64],
        }
    }

    /// Its kind.
    pub const fn kind(&self) -> HashKind {
        self.kind
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.kind.len()]
    }

    /// Whether every byte is zero, which means *no digest*.
    pub fn is_zero(&self) -> bool {
        self.bytes == [0; 64]
    }

    /// This digest as another kind, if that is a prefix of this one.
    pub(crate) fn truncated(&self, kind: HashKind) -> Option<Self> {
        match (self.kind, kind) {
            (a, b) if a == b => Some(*self),
            (HashKind::Sha512, HashKind::Sha512_128) => Some(Self::from_prefix(kind, &self.bytes)),
            _ => None,
        }
    }
}

impl std::hash::Hash for Digest {
    /// Hashes all bytes of the digest: a hostile index may contain many digests with the same prefix.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.kind)
    }
}

/// An incremental checksum.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(HashKind, sha2::Sha512),
}

impl Hasher {
    /// Starts one.
    pub fn new(kind: HashKind) -> Self {
        Self(match kind {
            HashKind::Sha1 => State::Sha1(sha1::Sha1::new()),
            HashKind::Sha256 => State::Sha256(sha2::Sha256::new()),
            HashKind::Sha512 | HashKind::Sha512_128 => State::Sha512(kind, sha2::Sha512::new()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(_, state) => state.update(bytes),
        }
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha1(state) => Digest::from_prefix(HashKind::Sha1, &state.finalize()),
            State::Sha256(state) => Digest::from_prefix(HashKind::Sha256, &state.finalize()),
            State::Sha512(kind, state) => Digest::from_prefix(kind, &state.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_abc_agree_with_the_standard() {
        let of = |kind: HashKind| kind.digest(b"abc").to_string();
        assert_eq!(
            of(HashKind::Sha1),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            of(HashKind::Sha256),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(of(HashKind::Sha512_128), "ddaf35a193617abacc417349ae204131");
        assert!(of(HashKind::Sha512).starts_with("ddaf35a193617abacc417349ae204131"));
        assert_eq!(of(HashKind::Sha512).len(), 128);
    }

    #[test]
    fn sha_512_is_also_sha_512_128_but_not_the_reverse() {
        let long = HashKind::Sha512.digest(b"abc");
        let short = HashKind::Sha512_128.digest(b"abc");
        assert_eq!(long.truncated(HashKind::Sha512_128), Some(short));
        assert_eq!(short.truncated(HashKind::Sha512), None);
        assert_eq!(long.truncated(HashKind::Sha256), None);
        assert_eq!(Digest::new(HashKind::Sha1, &[0; 16]), None);
    }
}
