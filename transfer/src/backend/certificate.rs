//! Why the certificate of a server is refused, in words that say what to do.

use std::{
    error::Error,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use httpdate::fmt_http_date;
use rustls::{CertificateError, pki_types::UnixTime};

/// What is wrong with the certificate of a server; `None` if something else is the cause of an error.
pub(super) fn problem(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(error)) = error.downcast_ref() {
            return Some(describe(error));
        }
        // The source of an I/O error is that of the error in it.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn describe(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "it is from an authority that is not trusted: name a file with the \
             authority's certificate in `roots` of the configuration file or in SSL_CERT_FILE"
                .to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "it expired on {}; the clock of this machine says {}",
            date(*not_after),
            fmt_http_date(SystemTime::now())
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "it is not valid before {}; the clock of this machine says {}",
            date(*not_before),
            fmt_http_date(SystemTime::now())
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names: Vec<&str> = presented.iter().map(|text| name(text)).take(5).collect();
            let names = if names.is_empty() {
                "no name".to_owned()
            } else {
                names.join(", ")
            };
            format!("it is for {names}, and not for {}", expected.to_str())
        }
        CertificateError::Revoked => "it was revoked".to_owned(),
        other => other.to_string(),
    }
}

/// The name in `DnsName("a.example")`.
fn name(presented: &str) -> &str {
    let inner = presented
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(presented).trim_matches('"')
}

fn date(time: UnixTime) -> String {
    // Dates after the year 9999 cannot be formatted.
    let seconds = time.as_secs().min(253_402_300_799);
    fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn words_say_what_is_wrong_and_what_to_do() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let said = |error| {
            let error = rustls::Error::InvalidCertificate(error);
            problem(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap()
        };
        let unknown = said(CertificateError::UnknownIssuer);
        assert!(
            unknown.contains("SSL_CERT_FILE") && unknown.contains("`roots`"),
            "{unknown}"
        );
        let expired = CertificateError::ExpiredContext {
            time: at(1_700_000_000),
            not_after: at(1_580_515_200),
        };
        let expired = said(expired);
        assert!(
            expired.starts_with("it expired on Sat, 01 Feb 2020 00:00:00 GMT;"),
            "{expired}"
        );
        let early = CertificateError::NotValidYetContext {
            time: at(0),
            not_before: at(u64::MAX),
        };
        assert!(said(early).contains("Dec 9999"));
        let other = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("localhost").unwrap(),
            presented: vec!["DnsName(\"a.example\")".to_owned(), "odd".to_owned()],
        };
        assert_eq!(
            said(other),
            "it is for a.example, odd, and not for localhost"
        );
        assert_eq!(problem(&io::Error::other("x")), None);
    }
}
