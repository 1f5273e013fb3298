//! Digests of files, and the check of a body against what is expected of it.

use std::{fmt, str::FromStr};

use sha2::Digest as _;
use taipan_mirrors::ListedDigest;

/// A digest that is not hexadecimal or not of the right length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {name} digest: {digits} hexadecimal digits are expected")]
pub struct ParseDigestError {
    name: &'static str,
    digits: usize,
    text: String,
}

macro_rules! digest {
    ($name:ident, $bytes:literal, $label:literal) => {
        #[doc = concat!("A ", $label, " digest; written as lower-case hexadecimal.")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The digest whose bytes these are.
            pub fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes of the digest.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{self}", $label)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseDigestError {
                    name: $label,
                    digits: 2 * $bytes,
                    text: text.chars().take(80).collect(),
                })?;
                Ok(Self(bytes))
            }
        }
    };
}

digest!(Sha256, 32, "sha256");
digest!(Sha512, 64, "sha512");
digest!(Sha1, 20, "sha1");
digest!(Md5, 16, "md5");

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

/// What is known of a file before it is fetched. With a digest, a broken body can be resumed on
/// another mirror.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its SHA-256.
    pub sha256: Option<Sha256>,
    /// Its SHA-512.
    pub sha512: Option<Sha512>,
    /// Its SHA-1, used only without a stronger digest.
    pub sha1: Option<Sha1>,
    /// Its MD5, used only without a stronger digest.
    pub md5: Option<Md5>,
}

impl Expected {
    /// Whether a digest is known, so that any mirror may supply any part of the file.
    pub fn is_content_addressed(&self) -> bool {
        let Self {
            sha256,
            sha512,
            sha1,
            md5,
            ..
        } = self;
        sha256.is_some() || sha512.is_some() || sha1.is_some() || md5.is_some()
    }

    /// Adds a digest from a list or header, unless one of its kind is known; one of a kind that is not verified is ignored.
    pub fn add(&mut self, listed: &ListedDigest) {
        let hex = listed.hex();
        match listed.algorithm() {
            "sha256" => self.sha256 = self.sha256.or_else(|| hex.parse().ok()),
            "sha512" => self.sha512 = self.sha512.or_else(|| hex.parse().ok()),
            "sha1" => self.sha1 = self.sha1.or_else(|| hex.parse().ok()),
            "md5" => self.md5 = self.md5.or_else(|| hex.parse().ok()),
            _ => {}
        }
    }

    /// The digests that a body must have, apart from the SHA-256: the strong one always, of the weak ones the stronger one
    /// where there is no strong one.
    fn others(&self) -> Others {
        let is_strong = self.sha256.is_some() || self.sha512.is_some();
        let sha1 = self.sha1.filter(|_| !is_strong);
        let md5 = self.md5.filter(|_| !is_strong && sha1.is_none());
        Others {
            sha512: self.sha512.map(|it| (it, sha2::Sha512::default())),
            sha1: sha1.map(|it| (it, sha1::Sha1::default())),
            md5: md5.map(|it| (it, md5::Md5::default())),
        }
    }
}

/// Why a body is not the expected file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The body is longer or shorter.
    #[error("expected {expected} bytes, got {got}")]
    Size {
        /// The expected length in bytes.
        expected: u64,
        /// The length of the body in bytes.
        got: u64,
    },
    /// The body has another digest.
    #[error("{name} mismatch: expected {expected}, got {got}")]
    Digest {
        /// `sha256`, `sha512`, `sha1` or `md5`.
        name: &'static str,
        /// The expected digest.
        expected: String,
        /// The digest of the body.
        got: String,
    },
}

/// Hashes a body while it arrives and verifies it at its end.
#[derive(Debug, Clone)]
pub struct Verifier {
    expected: Expected,
    length: u64,
    sha256: sha2::Sha256,
    others: Others,
}

/// Expected digests, and what is hashed to compare with them.
#[derive(Debug, Clone)]
struct Others {
    sha512: Option<(Sha512, sha2::Sha512)>,
    sha1: Option<(Sha1, sha1::Sha1)>,
    md5: Option<(Md5, md5::Md5)>,
}

impl Verifier {
    /// A verifier of an empty body. The SHA-256 is always computed, because callers use it as the
    /// name of the file; a SHA-512 when it is expected; SHA-1 and MD5 when nothing stronger is.
    pub fn new(expected: Expected) -> Self {
        Self {
            expected,
            length: 0,
            sha256: sha2::Sha256::default(),
            others: expected.others(),
        }
    }

    /// Adds the next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.sha256.update(bytes);
        if let Some((_, sha512)) = &mut self.others.sha512 {
            sha512.update(bytes);
        }
        if let Some((_, sha1)) = &mut self.others.sha1 {
            sha1.update(bytes);
        }
        if let Some((_, md5)) = &mut self.others.md5 {
            md5.update(bytes);
        }
    }

    /// The length of the body so far, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Verifies the body and returns its SHA-256.
    pub fn finish(self) -> Result<Sha256, VerifyError> {
        if let Some(expected) = self.expected.size
            && expected != self.length
        {
            return Err(VerifyError::Size {
                expected,
                got: self.length,
            });
        }
        let sha256 = Sha256(self.sha256.finalize().into());
        if let Some(expected) = self.expected.sha256 {
            compare("sha256", expected, sha256)?;
        }
        if let Some((expected, sha512)) = self.others.sha512 {
            compare("sha512", expected, Sha512(sha512.finalize().into()))?;
        }
        if let Some((expected, sha1)) = self.others.sha1 {
            compare("sha1", expected, Sha1(sha1.finalize().into()))?;
        }
        if let Some((expected, md5)) = self.others.md5 {
            compare("md5", expected, Md5(md5.finalize().into()))?;
        }
        Ok(sha256)
    }
}

fn compare<T: Copy + PartialEq + fmt::Display>(
    name: &'static str,
    expected: T,
    got: T,
) -> Result<(), VerifyError> {
    if expected == got {
        return Ok(());
    }
    Err(VerifyError::Digest {
        name,
        expected: expected.to_string(),
        got: got.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(expected: Expected, body: &[u8]) -> Result<Sha256, VerifyError> {
        let mut verifier = Verifier::new(expected);
        body.chunks(3).for_each(|part| verifier.update(part));
        verifier.finish()
    }

    #[test]
    fn a_body_is_verified_by_size_and_digest() {
        let sha256 = Sha256::of(b"a mirror");
        let md5: Md5 = "0b5e1e3c3f8a5b1b0a5d6c7e8f901234".parse().unwrap();
        assert_eq!(judge(Expected::default(), b"a mirror"), Ok(sha256));
        let known = Expected {
            size: Some(8),
            sha256: Some(sha256),
            ..Expected::default()
        };
        assert_eq!(judge(known, b"a mirror"), Ok(sha256));
        assert!(matches!(
            judge(known, b"a mirro"),
            Err(VerifyError::Size { .. })
        ));
        assert!(matches!(
            judge(known, b"a Mirror"),
            Err(VerifyError::Digest { name: "sha256", .. })
        ));
        let known = Expected {
            md5: Some(md5),
            ..Expected::default()
        };
        assert!(matches!(
            judge(known, b"a mirror"),
            Err(VerifyError::Digest { name: "md5", .. })
        ));
    }

    #[test]
    fn a_sha256_is_preferred_to_an_md5() {
        let sha256 = Sha256::of(b"x");
        let known = Expected {
            sha256: Some(sha256),
            sha1: Some(Sha1([0; 20])),
            md5: Some(Md5([0; 16])),
            ..Expected::default()
        };
        assert_eq!(judge(known, b"x"), Ok(sha256));
    }

    #[test]
    fn a_sha512_is_always_verified_and_a_sha1_without_a_stronger_digest() {
        let sha256 = Sha256::of(b"x");
        let sha512 = Sha512(sha2::Sha512::digest(b"x").into());
        let sha1 = Sha1(sha1::Sha1::digest(b"x").into());
        let md5 = Some(Md5([0; 16]));
        let wrong = |expected: Expected| match judge(expected, b"x") {
            Err(VerifyError::Digest { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        let known = Expected {
            sha512: Some(sha512),
            md5,
            ..Expected::default()
        };
        assert!(known.is_content_addressed());
        assert_eq!(judge(known, b"x"), Ok(sha256));
        let known = Expected {
            sha1: Some(sha1),
            md5,
            ..Expected::default()
        };
        assert!(known.is_content_addressed());
        assert_eq!(judge(known, b"x"), Ok(sha256));
        let other = Some(Sha512([0; 64]));
        assert_eq!(
            wrong(Expected {
                sha512: other,
                sha256: Some(sha256),
                ..known
            }),
            "sha512"
        );
        let other = Some(Sha1([0; 20]));
        assert_eq!(
            wrong(Expected {
                sha1: other,
                ..known
            }),
            "sha1"
        );
    }

    #[test]
    fn valid_digests_are_parsed_and_others_refused() {
        let text = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(text.parse::<Sha256>().unwrap().to_string(), text);
        assert_eq!(Sha256::of(b"test").to_string(), text);
        assert!("9f86".parse::<Sha256>().is_err());
        assert!("zz".repeat(16).parse::<Md5>().is_err());
    }
}
