//! Fields of records that tools have written in other ways than the format says.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The last millisecond of the year 9999.
const MAX_TIMESTAMP: i64 = 253_402_300_799_999;

/// Reads a record. If that fails, odd fields are corrected first: a fraction of a timestamp is cut off, and a timestamp that
/// is no time is dropped.
///
/// # Errors
/// That of the text as it is, when it cannot be read with corrected fields either.
pub fn parse_record<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(text).or_else(|error| {
        let corrected = serde_json::from_slice(text).ok().and_then(corrected);
        let record = corrected.and_then(|fields| serde_json::from_value(fields.into()).ok());
        record.ok_or(error)
    })
}

/// The fields with a correct timestamp; `None` if it was correct.
fn corrected(mut fields: Map<String, Value>) -> Option<Map<String, Value>> {
    let timestamp = fields.remove("timestamp")?;
    let whole = timestamp.as_i64().or_else(|| whole(timestamp.as_f64()?));
    if let Some(whole) = whole.filter(|time| (0..=MAX_TIMESTAMP).contains(time)) {
        fields.insert("timestamp".to_owned(), whole.into());
    }
    Some(fields)
}

#[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
fn whole(number: f64) -> Option<i64> {
    number.is_finite().then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use rattler_conda_types::PackageRecord;

    use super::*;

    fn timestamp(text: &str) -> Result<Option<i64>, serde_json::Error> {
        let record = format!(
            r#"{{"name":"a","version":"1","build":"0","build_number":0,"depends":[],"subdir":"noarch","timestamp":{text}}}"#
        );
        let record: PackageRecord = parse_record(record.as_bytes())?;
        let timestamp = record.timestamp.map(serde_json::to_value);
        Ok(timestamp.and_then(|time| time.ok()?.as_i64()))
    }

    #[test]
    fn a_fraction_of_a_timestamp_is_cut_off_and_one_that_is_no_time_is_dropped() {
        let whole = timestamp("1516376429792").unwrap();
        assert!(whole.is_some());
        assert_eq!(timestamp("1516376429792.0").unwrap(), whole);
        assert!(timestamp("1516376429.792").unwrap().is_some());
        for odd in ["1e300", "-5.5", "\"2018\"", "99999999999999999999", "[]"] {
            assert_eq!(timestamp(odd).unwrap(), None, "{odd}");
        }
    }

    #[test]
    fn other_errors_are_those_of_the_text() {
        let error = parse_record::<PackageRecord>(br#"{"timestamp": 1.5}"#).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}
