//! The record of a package, made of what its archive says.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use taipan_transfer::{Expected, Md5, Sha256};

use crate::records::Form;

/// Why an archive cannot be listed in an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordProblem {
    /// `info/index.json` is not JSON of the right form.
    #[error("its info/index.json cannot be read: {0}")]
    Index(String),
    /// A field is missing.
    #[error("its info/index.json has no `{0}`")]
    Missing(&'static str),
    /// The name of the file is another than what the archive says.
    #[error("it is named {found}, and its info/index.json says {expected}")]
    Name {
        /// The name of the file.
        found: String,
        /// The name by the archive.
        expected: String,
    },
    /// It is for another subdir.
    #[error("it is for the subdir {found}, and not for {wanted}")]
    Subdir {
        /// The subdir by the archive.
        found: String,
        /// The subdir of the index.
        wanted: String,
    },
    /// The name has characters that a channel cannot have.
    #[error("its name has a character that is not allowed in a channel")]
    Character,
}

/// A package that an index gets.
#[derive(Debug, Clone)]
pub struct NewPackage {
    /// The name of the file.
    pub file: String,
    /// The subdir that it is for.
    pub subdir: String,
    /// Its record.
    pub record: Map<String, Value>,
    /// Its run exports, if it has any.
    pub run_exports: Option<Value>,
    /// The size and digests of the file.
    pub expected: Expected,
}

impl NewPackage {
    /// Which map of an index lists it.
    pub(crate) fn form(&self) -> Form {
        if self.file.ends_with(".conda") {
            Form::Conda
        } else {
            Form::TarBz2
        }
    }
}

/// The field with the time at which a record came into an index, in milliseconds since 1970 (CEP 47). It is set once.
pub(super) const INDEXED: &str = "indexed_timestamp";

fn millis_now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The record of an archive: what its `info/index.json` says, with size, digests and the time. `subdir` is what the caller wants; without
/// it, what the archive says.
///
/// # Errors
/// When the archive says something else than its file name or the subdir.
pub fn new_package(
    file: &str,
    index: &[u8],
    run_exports: Option<&[u8]>,
    (sha256, md5, size): (Sha256, Md5, u64),
    subdir: Option<&str>,
) -> Result<NewPackage, RecordProblem> {
    let record: Map<String, Value> =
        serde_json::from_slice(index).map_err(|error| RecordProblem::Index(error.to_string()))?;
    let text = |key: &'static str| {
        let value = record.get(key).and_then(Value::as_str);
        value.ok_or(RecordProblem::Missing(key))
    };
    let extension = if file.ends_with(".conda") {
        ".conda"
    } else {
        ".tar.bz2"
    };
    let (name, version, build) = (text("name")?, text("version")?, text("build")?);
    let expected = format!("{name}-{version}-{build}{extension}");
    if expected != file {
        let found = file.to_owned();
        return Err(RecordProblem::Name { found, expected });
    }
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!+=~,".contains(&byte);
    if !file.bytes().all(is_legal) {
        return Err(RecordProblem::Character);
    }
    // Archives of before 2017 have no subdir.
    let own = record.get("subdir").and_then(Value::as_str);
    let subdir = match (own, subdir) {
        (Some(own), Some(wanted)) if own != wanted => {
            return Err(RecordProblem::Subdir {
                found: own.to_owned(),
                wanted: wanted.to_owned(),
            });
        }
        (Some(own), _) => own.to_owned(),
        (None, Some(wanted)) => wanted.to_owned(),
        (None, None) => return Err(RecordProblem::Missing("subdir")),
    };
    let mut record = record;
    // The subdir says both; conda-index drops them, too.
    record.remove("arch");
    record.remove("platform");
    record.insert("subdir".to_owned(), subdir.clone().into());
    record.insert(INDEXED.to_owned(), millis_now().into());
    record.insert("md5".to_owned(), md5.to_string().into());
    record.insert("sha256".to_owned(), sha256.to_string().into());
    record.insert("size".to_owned(), size.into());
    record.sort_keys();
    let run_exports = run_exports.and_then(|text| serde_json::from_slice(text).ok());
    let run_exports = run_exports.filter(|value: &Value| match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    });
    Ok(NewPackage {
        file: file.to_owned(),
        subdir,
        record,
        run_exports,
        expected: Expected {
            size: Some(size),
            sha256: Some(sha256),
            md5: Some(md5),
            ..Expected::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(file: &str, index: &str, subdir: Option<&str>) -> Result<NewPackage, RecordProblem> {
        let digests = (Sha256::of(b""), Md5::from_bytes([0; 16]), 7);
        new_package(file, index.as_bytes(), None, digests, subdir)
    }

    #[test]
    fn a_record_is_what_the_archive_says_with_its_digests() {
        let index =
            r#"{"name":"a","version":"1","build":"0","subdir":"noarch","odd":[1],"arch":null}"#;
        let package = made("a-1-0.conda", index, None).unwrap();
        assert_eq!(package.subdir, "noarch");
        assert_eq!(package.record["size"], 7);
        assert_eq!(package.record["odd"], serde_json::json!([1]));
        assert!(package.record[INDEXED].as_u64().unwrap() > 1_700_000_000_000);
        assert!(!package.record.contains_key("arch"));
        let keys: Vec<&String> = package.record.keys().collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }

    #[test]
    fn an_archive_that_says_something_else_is_refused() {
        let index = r#"{"name":"a","version":"1","build":"0","subdir":"noarch"}"#;
        for (file, subdir) in [
            ("a-2-0.conda", None),
            ("b-1-0.conda", None),
            ("a-1-0.conda", Some("linux-64")),
        ] {
            assert!(made(file, index, subdir).is_err(), "{file}");
        }
        assert!(made("a-1-0.conda", "[]", None).is_err());
        let old = r#"{"name":"a","version":"1","build":"0"}"#;
        assert_eq!(
            made("a-1-0.tar.bz2", old, None).unwrap_err(),
            RecordProblem::Missing("subdir")
        );
        assert!(made("a-1-0.tar.bz2", old, Some("linux-64")).is_ok());
    }
}
