use std::fmt;
use std::str::FromStr;

/// The key of an entry: the digest of the archive that it was extracted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoreKey {
    Sha256([u8; 32]),
    /// For old repodata without a sha256. The size makes a chosen collision no easier, but an
    /// accidental mix-up visible.
    Md5 {
        md5: [u8; 16],
        /// Bytes of the archive.
        size: u64,
    },
}

impl StoreKey {
    /// The directory that entries with the same beginning share.
    pub(super) fn shard(&self) -> String {
        match self {
            Self::Sha256(digest) => hex::encode(&digest[..1]),
            Self::Md5 { md5, .. } => hex::encode(&md5[..1]),
        }
    }
}

/// The entry's directory name: `HEX` or `md5-HEX-SIZE`.
impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => f.write_str(&hex::encode(digest)),
            Self::Md5 { md5, size } => write!(f, "md5-{}-{size}", hex::encode(md5)),
        }
    }
}

/// The text is not a [`StoreKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the key of a store entry")]
pub struct ParseStoreKeyError(String);

impl FromStr for StoreKey {
    type Err = ParseStoreKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            if let Some(rest) = text.strip_prefix("md5-") {
                let (digest, size) = rest.split_once('-')?;
                let mut md5 = [0; 16];
                hex::decode_to_slice(digest, &mut md5).ok()?;
                let size = size.parse().ok()?;
                return Some(Self::Md5 { md5, size });
            }
            let mut digest = [0; 32];
            hex::decode_to_slice(text, &mut digest).ok()?;
            Some(Self::Sha256(digest))
        };
        parse()
            // Only the canonical spelling, because the key is the name of a directory.
            .filter(|key| key.to_string() == text)
            .ok_or_else(|| ParseStoreKeyError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_what_it_shows() {
        let sha256 = StoreKey::Sha256([0xab; 32]);
        let md5 = StoreKey::Md5 {
            md5: [0x0c; 16],
            size: 17,
        };
        for key in [sha256, md5] {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        assert_eq!(sha256.shard(), "ab");
        assert_eq!(md5.shard(), "0c");
        assert_eq!(md5.to_string(), format!("md5-{}-17", "0c".repeat(16)));
    }

    #[test]
    fn other_spellings_are_no_keys() {
        for text in [
            String::new(),
            "AB".repeat(32),
            "ab".repeat(31),
            format!("md5-{}", "0c".repeat(16)),
            format!("md5-{}-+1", "0c".repeat(16)),
            format!("md5-{}-01", "0c".repeat(16)),
            "md5-x-1".to_owned(),
        ] {
            assert!(text.parse::<StoreKey>().is_err(), "{text}");
        }
    }
}
