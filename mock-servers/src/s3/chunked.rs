//! The `aws-chunked` encoding of upload bodies, with and without signatures, and checksums.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::Method;
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::S3Error;
use super::sigv4::Signed;
use crate::gzip::crc32;
use crate::request::Request;

/// The payload of an upload, decoded and verified by its headers.
pub(crate) fn payload(
    request: &Request,
    body: Bytes,
    signed: Option<&Signed>,
) -> Result<Bytes, S3Error> {
    let declared = request
        .header("x-amz-content-sha256")
        .unwrap_or("UNSIGNED-PAYLOAD");
    let mut sums: Vec<(String, String)> = request
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-amz-checksum-"))
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect();
    let payload = match declared {
        "UNSIGNED-PAYLOAD" => body,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => decode(&body, None, &mut sums)?,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
            decode(&body, signed, &mut sums)?
        }
        hash => {
            if signed.is_some() && hex::encode(Sha256::digest(&body)) != hash {
                return Err(S3Error::ContentSha256Mismatch);
            }
            body
        }
    };
    if let Some(length) = request.header("x-amz-decoded-content-length")
        && length.parse() != Ok(payload.len())
    {
        return Err(S3Error::IncompleteBody);
    }
    // The request that completes an upload has the checksums of the object, not of its own body.
    let completes = request.method == Method::POST && request.parameter("uploadId").is_some();
    for (name, value) in sums.iter().filter(|_| !completes) {
        let right = match name.as_str() {
            "x-amz-checksum-crc32" => STANDARD.encode(crc32(&payload).to_be_bytes()),
            "x-amz-checksum-sha256" => STANDARD.encode(Sha256::digest(&payload)),
            // CRC-32C, CRC-64 and SHA-1 are not verified; two headers name an algorithm instead of a checksum.
            _ => continue,
        };
        if *value != right {
            return Err(S3Error::BadDigest);
        }
    }
    if let Some(sum) = request.header("content-md5")
        && sum != STANDARD.encode(Md5::digest(&payload))
    {
        return Err(S3Error::BadDigest);
    }
    Ok(payload)
}

/// `SIZE-IN-HEX[;chunk-signature=…]\r\n DATA \r\n`, repeated, until a chunk of size 0, then
/// trailers.
fn decode(
    body: &[u8],
    signed: Option<&Signed>,
    sums: &mut Vec<(String, String)>,
) -> Result<Bytes, S3Error> {
    let mut out = BytesMut::new();
    let mut rest = body;
    let mut previous = signed
        .map(|signed| signed.signature.clone())
        .unwrap_or_default();
    loop {
        let line = line(&mut rest).ok_or(S3Error::IncompleteBody)?;
        let (size, extension) = line.split_once(';').unwrap_or((line, ""));
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| S3Error::IncompleteBody)?;
        let data = rest.get(..size).ok_or(S3Error::IncompleteBody)?;
        if let Some(signed) = signed {
            let claimed = extension
                .trim()
                .strip_prefix("chunk-signature=")
                .unwrap_or_default();
            if signed.chunk_signature(&previous, data) != claimed {
                return Err(S3Error::SignatureDoesNotMatch);
            }
            claimed.clone_into(&mut previous);
        }
        out.extend_from_slice(data);
        rest = &rest[size..];
        if size == 0 {
            break;
        }
        rest = rest.strip_prefix(b"\r\n").ok_or(S3Error::IncompleteBody)?;
    }
    let mut trailer = String::new();
    while let Some(line) = line(&mut rest) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if name == "x-amz-trailer-signature" {
            let right =
                signed.is_none_or(|s| s.trailer_signature(&previous, trailer.as_bytes()) == value);
            if !right {
                return Err(S3Error::SignatureDoesNotMatch);
            }
        } else {
            trailer.extend([&name, ":", value, "\n"]);
            sums.push((name, value.to_owned()));
        }
    }
    Ok(out.freeze())
}

/// Removes the first line and returns it without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&rest[..end]).ok()?;
    *rest = &rest[end + 2..];
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unsigned_chunks_and_trailers_are_parsed() {
        let mut sums = Vec::new();
        let body = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-amz-checksum-crc32: AAAA\r\n\r\n";
        assert_eq!(decode(body, None, &mut sums).unwrap(), "abcde");
        assert_eq!(
            sums,
            [("x-amz-checksum-crc32".to_owned(), "AAAA".to_owned())]
        );
    }

    #[test]
    fn broken_chunks_are_refused_without_panic() {
        for body in [
            "",
            "3\r\nab",
            "zz\r\n",
            "ffffffffffffffff\r\nab\r\n",
            "1\r\nabc\r\n0\r\n\r\n",
        ] {
            assert!(
                decode(body.as_bytes(), None, &mut Vec::new()).is_err(),
                "{body:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn chunks_of_any_size_come_together(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8)
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend(format!("{:x}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            let decoded = decode(&body, None, &mut Vec::new()).unwrap();
            prop_assert_eq!(decoded, chunks.concat());
            // Truncated before the end of the last chunk, it is an error.
            for end in 0..body.len() - 4 {
                prop_assert!(decode(&body[..end], None, &mut Vec::new()).is_err());
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, None, &mut Vec::new());
        }
    }
}
