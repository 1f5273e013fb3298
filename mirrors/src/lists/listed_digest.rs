use std::fmt;

/// A digest from a list or a header. It is as trustworthy as its source.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ListedDigest {
    algorithm: &'static str,
    hex: String,
}

/// The names of algorithms in metalinks (the hash function textual names of RFC 5854 §4.2.6 and
/// their forms in metalink 3) and in headers, with the name used here and the length in bytes.
const ALGORITHMS: &[(&str, &str, usize)] = &[
    ("md5", "md5", 16),
    ("sha", "sha1", 20),
    ("sha1", "sha1", 20),
    ("sha-1", "sha1", 20),
    ("sha224", "sha224", 28),
    ("sha-224", "sha224", 28),
    ("sha256", "sha256", 32),
    ("sha-256", "sha256", 32),
    ("sha384", "sha384", 48),
    ("sha-384", "sha384", 48),
    ("sha512", "sha512", 64),
    ("sha-512", "sha512", 64),
];

impl ListedDigest {
    /// Parses hexadecimal; `None` if the algorithm is unknown or the value is not valid for it.
    pub(crate) fn from_hex(algorithm: &str, hex: &str) -> Option<Self> {
        let (algorithm, bytes) = lookup(algorithm)?;
        let valid = hex.len() == 2 * bytes && hex.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| Self {
            algorithm,
            hex: hex.to_ascii_lowercase(),
        })
    }

    /// Parses base64 (RFC 4648 §4), as in headers.
    pub(crate) fn from_base64(algorithm: &str, text: &str) -> Option<Self> {
        let (algorithm, bytes) = lookup(algorithm)?;
        let decoded = decode_base64(text)?;
        let hex = decoded
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .concat();
        (decoded.len() == bytes).then_some(Self { algorithm, hex })
    }

    /// `md5`, `sha1`, `sha224`, `sha256`, `sha384` or `sha512`.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The value in lower-case hexadecimal.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for ListedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl fmt::Debug for ListedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListedDigest({self})")
    }
}

fn lookup(name: &str) -> Option<(&'static str, usize)> {
    ALGORITHMS
        .iter()
        .find(|(known, ..)| known.eq_ignore_ascii_case(name))
        .map(|&(_, algorithm, bytes)| (algorithm, bytes))
}

/// Decodes at most 64 bytes.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if text.len() > 88 || !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(64);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in digits.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xFF).try_into().ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_same_in_hexadecimal_and_base64() {
        // The digests of the empty text.
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let base64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let one = ListedDigest::from_hex("SHA-256", &hex.to_uppercase()).unwrap();
        assert_eq!(
            Some(&one),
            ListedDigest::from_base64("sha256", base64).as_ref()
        );
        assert_eq!(one.to_string(), format!("sha256:{hex}"));
        let md5 = ListedDigest::from_base64("md5", "1B2M2Y8AsgTpgAmY7PhCfg==").unwrap();
        assert_eq!(md5.hex(), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn a_value_of_the_wrong_length_or_alphabet_is_not_a_digest() {
        assert_eq!(ListedDigest::from_hex("sha256", "abcd"), None);
        assert_eq!(ListedDigest::from_hex("md5", &"g".repeat(32)), None);
        assert_eq!(ListedDigest::from_hex("crc32", "00000000"), None);
        for text in [
            "",
            "=",
            "====",
            "1B2M2Y8AsgTpgAmY7PhCfg",
            "1B2M2Y8AsgTpgAmY7PhCf-==",
        ] {
            assert_eq!(ListedDigest::from_base64("md5", text), None, "{text}");
        }
    }
}
