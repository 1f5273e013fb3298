//! The text of a list that came as bytes.

use encoding_rs::{Encoding, UTF_8};

/// How far the declaration of an XML document is searched for its encoding, in bytes.
const DECLARATION: usize = 256;

/// Bytes that are not in the encoding that they declare.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("it is not text in {encoding}")]
pub struct DecodeError {
    encoding: &'static str,
}

/// The text of a list, without a byte order mark: in the encoding of its byte order mark or of its XML declaration, and
/// otherwise in UTF-8.
///
/// # Errors
/// Bytes that the encoding does not have. A declared encoding that is unknown counts as UTF-8.
pub fn decode_text(bytes: &[u8]) -> Result<String, DecodeError> {
    let marked = Encoding::for_bom(bytes);
    let encoding = marked.map_or_else(|| declared(bytes).unwrap_or(UTF_8), |(marked, _)| marked);
    let (text, has_errors) = encoding.decode_with_bom_removal(bytes);
    if has_errors {
        let encoding = encoding.name();
        return Err(DecodeError { encoding });
    }
    Ok(text.into_owned())
}

/// The encoding in an XML declaration (XML 1.0 §4.3.3).
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = &bytes[..bytes.len().min(DECLARATION)];
    let head = String::from_utf8_lossy(head);
    let (declaration, _) = head.strip_prefix("<?xml")?.split_once("?>")?;
    let (_, value) = declaration.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let label = value.split(['"', '\'']).nth(1)?;
    // The bytes were read as ASCII up to here.
    Encoding::for_label(label.as_bytes()).filter(|encoding| encoding.is_ascii_compatible())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_mark_or_the_declaration() {
        for (bytes, text) in [
            (&b"plain \xc3\xa4"[..], "plain \u{e4}"),
            (b"\xef\xbb\xbfmark", "mark"),
            (b"\xff\xfea\x00", "a"),
            (
                b"<?xml version='1.0' encoding='ISO-8859-1'?>\xe4",
                "<?xml version='1.0' encoding='ISO-8859-1'?>\u{e4}",
            ),
            (
                b"<?xml encoding = \"utf-8\" ?>\xc3\xa4",
                "<?xml encoding = \"utf-8\" ?>\u{e4}",
            ),
            (
                b"<?xml encoding='none-such'?>a",
                "<?xml encoding='none-such'?>a",
            ),
            (b"<?xml encoding='utf-16'?>a", "<?xml encoding='utf-16'?>a"),
            (b"", ""),
        ] {
            assert_eq!(decode_text(bytes).as_deref(), Ok(text));
        }
    }

    #[test]
    fn bytes_of_another_encoding_are_an_error() {
        let error = decode_text(b"a \xe4 b").unwrap_err();
        assert_eq!(error.to_string(), "it is not text in UTF-8");
        assert!(decode_text(b"<?xml encoding='utf-8'?>\xff").is_err());
    }
}
