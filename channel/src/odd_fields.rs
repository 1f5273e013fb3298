//! Fields of records that tools have written in other ways than the format says.

use serde::de::{DeserializeOwned, Error as _};
use serde_json::{Map, Value};

/// Of a record with more fields than this the wrong one is not looked for: the time grows with the square of their number.
const MOST_FIELDS: usize = 256;

/// The last millisecond of the year 9999.
const MAX_TIMESTAMP: i64 = 253_402_300_799_999;

/// Reads a record. If that fails, odd fields are corrected first: a fraction of a timestamp is cut off, and a timestamp that
/// is no time is dropped.
///
/// # Errors
/// When it cannot be read with corrected fields either. The error names the field that is wrong.
pub fn parse_record<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(text).or_else(|error| {
        let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(text) else {
            return Err(error);
        };
        let fields = corrected(&fields).unwrap_or(fields);
        serde_json::from_value(fields.clone().into()).map_err(|error| {
            match wrong_field::<T>(fields) {
                Some(field) => serde_json::Error::custom(format!("`{field}`: {error}")),
                None => error,
            }
        })
    })
}

/// The first field without which the record can be read, or fails in another way. A message of serde tells what is wrong
/// with a value, but not of which field; where a field is missing, it names the field.
fn wrong_field<T: DeserializeOwned>(mut fields: Map<String, Value>) -> Option<String> {
    let read =
        |fields: &Map<String, Value>| match serde_json::from_value::<T>(fields.clone().into()) {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
    if fields.len() > MOST_FIELDS {
        return None;
    }
    let whole = read(&fields);
    let names: Vec<String> = fields.keys().cloned().collect();
    names.into_iter().find(|name| {
        let value = fields.remove(name);
        let other = read(&fields) != whole;
        fields.extend(value.map(|value| (name.clone(), value)));
        other
    })
}

/// The fields with a correct timestamp; `None` if it was correct.
fn corrected(fields: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut fields = fields.clone();
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
    fn an_error_names_the_field() {
        let fields = |text: &str| {
            let mut fields: Map<String, Value> = serde_json::from_str(text).unwrap();
            for (key, value) in [("name", "a"), ("version", "1"), ("build", "0")] {
                fields.entry(key).or_insert(value.into());
            }
            fields.entry("build_number").or_insert(0.into());
            serde_json::to_vec(&fields).unwrap()
        };
        for (odd, field) in [
            (r#"{"sha256": "zz"}"#, "`sha256`"),
            (r#"{"version": null}"#, "`version`"),
            (r#"{"version": "1..0"}"#, "`version`"),
            (r#"{"build_number": "first"}"#, "`build_number`"),
            (r#"{"build_number": -1}"#, "`build_number`"),
            (r#"{"depends": "b"}"#, "`depends`"),
            (r#"{"timestamp": -1.5, "size": "large"}"#, "`size`"),
        ] {
            let error = parse_record::<PackageRecord>(&fields(odd)).unwrap_err();
            assert!(error.to_string().contains(field), "{odd}: {error}");
        }
        let error = parse_record::<PackageRecord>(br#"{"version": "1"}"#).unwrap_err();
        assert!(error.to_string().contains("missing field"), "{error}");
    }

    #[test]
    fn a_record_with_very_many_fields_is_refused_at_once() {
        let fields: Map<String, Value> =
            (0..100_000).map(|n| (format!("k{n}"), n.into())).collect();
        let text = serde_json::to_vec(&fields).unwrap();
        assert!(parse_record::<PackageRecord>(&text).is_err());
    }

    #[test]
    fn other_errors_are_those_of_the_text() {
        let error = parse_record::<PackageRecord>(br#"{"timestamp": 1.5}"#).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}
