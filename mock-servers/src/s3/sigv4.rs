//! Signature version 4, the verifying side, in headers and in the query.

use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::S3Error;
use super::S3Keys;
use crate::date;
use crate::request::Request;
use crate::uri;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The allowed deviation of a client's clock.
const MAX_SKEW: Duration = Duration::from_mins(15);

/// The part of a signature that the body needs.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    key: [u8; 32],
    amz_date: String,
    scope: String,
    pub(crate) signature: String,
}

impl Signed {
    /// The region that the request was signed for.
    pub(crate) fn region(&self) -> &str {
        self.scope.split('/').nth(1).unwrap_or_default()
    }

    /// The signature that a chunk of a signed stream must have after `previous`.
    pub(crate) fn chunk_signature(&self, previous: &str, data: &[u8]) -> String {
        let empty = hex::encode(Sha256::digest(b""));
        let hash = hex::encode(Sha256::digest(data));
        let text = format!(
            "{ALGORITHM}-PAYLOAD\n{}\n{}\n{previous}\n{empty}\n{hash}",
            self.amz_date, self.scope
        );
        hex::encode(hmac(&self.key, text.as_bytes()))
    }

    /// The signature that the trailer of a signed stream must have.
    pub(crate) fn trailer_signature(&self, previous: &str, trailer: &[u8]) -> String {
        let hash = hex::encode(Sha256::digest(trailer));
        let text = format!(
            "{ALGORITHM}-TRAILER\n{}\n{}\n{previous}\n{hash}",
            self.amz_date, self.scope
        );
        hex::encode(hmac(&self.key, text.as_bytes()))
    }
}

/// HMAC-SHA-256 (RFC 2104).
pub(crate) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new()
        .chain_update(block.map(|b| b ^ 0x36))
        .chain_update(message)
        .finalize();
    let outer = Sha256::new()
        .chain_update(block.map(|b| b ^ 0x5c))
        .chain_update(inner)
        .finalize();
    outer.into()
}

struct Claim {
    access_key: String,
    /// `DATE/REGION/SERVICE/aws4_request`
    scope: String,
    signed_headers: String,
    signature: String,
    amz_date: String,
    payload: String,
    token: Option<String>,
    expires: Option<Duration>,
}

/// Whether the request claims to be signed at all.
pub(crate) fn is_signed(request: &Request) -> bool {
    request.headers.contains_key("authorization") || request.parameter("X-Amz-Signature").is_some()
}

/// Verifies the signature of a request; its body is checked by the caller.
pub(crate) fn verify(request: &Request, keys: &S3Keys, now: SystemTime) -> Result<Signed, S3Error> {
    let claim = match request.header("authorization") {
        Some(value) => from_header(request, value),
        None => from_query(request),
    }
    .ok_or(S3Error::MalformedAuthorization)?;
    if claim.access_key != keys.access_key {
        return Err(S3Error::InvalidAccessKeyId);
    }
    if claim.token != keys.session_token {
        return Err(S3Error::InvalidToken);
    }
    let signed_at = date::parse_amz_date(&claim.amz_date).ok_or(S3Error::MalformedAuthorization)?;
    let ahead = signed_at.duration_since(now).unwrap_or_default();
    let age = now.duration_since(signed_at).unwrap_or_default();
    match claim.expires {
        Some(expires) if age > expires => return Err(S3Error::Expired),
        None if age > MAX_SKEW => return Err(S3Error::TimeTooSkewed),
        _ if ahead > MAX_SKEW => return Err(S3Error::TimeTooSkewed),
        _ => {}
    }
    let parts: Vec<&str> = claim.scope.split('/').collect();
    let [day, region, "s3", "aws4_request"] = parts[..] else {
        return Err(S3Error::MalformedAuthorization);
    };
    if !claim.amz_date.starts_with(day) {
        return Err(S3Error::MalformedAuthorization);
    }
    let hash = hex::encode(Sha256::digest(canonical(request, &claim)?));
    let text = format!("{ALGORITHM}\n{}\n{}\n{hash}", claim.amz_date, claim.scope);
    let mut key = hmac(
        format!("AWS4{}", keys.secret_key).as_bytes(),
        day.as_bytes(),
    );
    for part in [region, "s3", "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    if hex::encode(hmac(&key, text.as_bytes())) != claim.signature {
        return Err(S3Error::SignatureDoesNotMatch);
    }
    Ok(Signed {
        key,
        amz_date: claim.amz_date,
        scope: claim.scope,
        signature: claim.signature,
    })
}

fn from_header(request: &Request, value: &str) -> Option<Claim> {
    let fields = value.strip_prefix(ALGORITHM)?;
    let field = |name: &str| {
        fields
            .split(',')
            .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
    };
    let (access_key, scope) = field("Credential")?.split_once('/')?;
    Some(Claim {
        access_key: access_key.to_owned(),
        scope: scope.to_owned(),
        signed_headers: field("SignedHeaders")?.to_owned(),
        signature: field("Signature")?.to_owned(),
        amz_date: request.header("x-amz-date")?.to_owned(),
        payload: request.header("x-amz-content-sha256")?.to_owned(),
        token: request.header("x-amz-security-token").map(str::to_owned),
        expires: None,
    })
}

fn from_query(request: &Request) -> Option<Claim> {
    if request.parameter("X-Amz-Algorithm")? != ALGORITHM {
        return None;
    }
    let credential = request.parameter("X-Amz-Credential")?;
    let (access_key, scope) = credential.split_once('/')?;
    Some(Claim {
        access_key: access_key.to_owned(),
        scope: scope.to_owned(),
        signed_headers: request.parameter("X-Amz-SignedHeaders")?,
        signature: request.parameter("X-Amz-Signature")?,
        amz_date: request.parameter("X-Amz-Date")?,
        payload: "UNSIGNED-PAYLOAD".to_owned(),
        token: request.parameter("X-Amz-Security-Token"),
        expires: Some(Duration::from_secs(
            request.parameter("X-Amz-Expires")?.parse().ok()?,
        )),
    })
}

/// The canonical request. Path and query are decoded and encoded again, so that only the content counts.
fn canonical(request: &Request, claim: &Claim) -> Result<String, S3Error> {
    let mut query: Vec<(String, String)> = request
        .raw_query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(key, _)| *key != "X-Amz-Signature")
        .map(|(key, value)| {
            (
                uri::encode(&uri::decode(key), false),
                uri::encode(&uri::decode(value), false),
            )
        })
        .collect();
    query.sort();
    let query: Vec<String> = query
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();

    let mut headers = String::new();
    let names: Vec<&str> = claim.signed_headers.split(';').collect();
    if !names.contains(&"host") {
        return Err(S3Error::MalformedAuthorization);
    }
    for name in names {
        let values: Vec<String> = request
            .headers
            .get_all(name)
            .iter()
            .map(|value| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                value.split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        headers.push_str(name);
        headers.push(':');
        headers.push_str(&values.join(","));
        headers.push('\n');
    }
    Ok(format!(
        "{}\n{}\n{}\n{headers}\n{}\n{}",
        request.method,
        uri::encode(&uri::decode(&request.raw_path), true),
        query.join("&"),
        claim.signed_headers,
        claim.payload
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_has_the_values_of_rfc_4231() {
        let case = |key: &[u8], data: &[u8]| hex::encode(hmac(key, data));
        assert_eq!(
            case(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            case(
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First"
            ),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
