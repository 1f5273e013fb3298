//! Percent-encoding and query strings.

use std::fmt::Write as _;

/// Decodes `%XX`; a malformed escape is kept. Invalid UTF-8 is replaced.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| hex::decode(digits).ok());
        if let Some(byte) = escaped {
            out.extend(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes everything but the unreserved characters of RFC 3986, as SigV4 requires; `/` is kept when
/// `slashes` is set.
pub(crate) fn encode(text: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (slashes && byte == b'/') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes all that is written");
        }
    }
    out
}

/// The decoded pairs of a query string, in order; `+` is a space, as HTML forms and some S3
/// clients write it.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (
                decode(&key.replace('+', " ")),
                decode(&value.replace('+', " ")),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_round_trip_and_bad_ones_survive() {
        assert_eq!(decode("a%2Fb%20c"), "a/b c");
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%4"), "%zz%4");
        assert_eq!(encode("a b/c+é", true), "a%20b/c%2B%C3%A9");
        assert_eq!(decode(&encode("Grüße +&=/?", false)), "Grüße +&=/?");
    }

    #[test]
    fn queries_split_into_pairs() {
        let pairs = query_pairs("list-type=2&prefix=a%2Fb&uploads&&x=1+2");
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("list-type", "2"),
                ("prefix", "a/b"),
                ("uploads", ""),
                ("x", "1 2")
            ]
        );
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in ".{0,40}") {
            prop_assert_eq!(decode(&encode(&text, true)), text.clone());
            prop_assert_eq!(decode(&encode(&text, false)), text.clone());
            decode(&text);
            query_pairs(&text);
        }
    }
}
