//! Writes the records in `conda-meta`.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use rattler_conda_types::PrefixRecord;
use serde_json::{Map, Value};
use taipan_mirrors::without_credentials_in;

use crate::error::PrefixError;

/// Writes a record with every field that conda writes, and the fields of `extra`.
///
/// The file appears complete or not at all; it is written in the directory `beside` at first. It is not synchronised by itself:
/// the journal protects the transaction.
pub(crate) fn write_record(
    path: &Path,
    beside: &Path,
    record: &PrefixRecord,
    extra: &Map<String, Value>,
) -> Result<(), PrefixError> {
    let bad = |source| PrefixError::BadRecord {
        path: path.to_path_buf(),
        source,
    };
    let Value::Object(mut fields) = serde_json::to_value(record).map_err(bad)? else {
        unreachable!("a struct serialises as an object");
    };
    for (key, value) in extra {
        fields.entry(key).or_insert_with(|| value.clone());
    }
    // conda always writes this field; the type omits it when it is empty.
    fields
        .entry("constrains")
        .or_insert_with(|| Value::Array(Vec::new()));
    for key in ["url", "channel"] {
        if let Some(Value::String(text)) = fields.get_mut(key) {
            *text = without_credentials_in(text);
        }
    }
    fields.sort_keys();
    replace_file(path, beside, &Value::Object(fields))
}

/// Changes fields of the record at `source`, and writes it to `target` as [`write_record`] does. Unknown fields are kept.
pub(crate) fn edit_record(
    source: &Path,
    target: &Path,
    beside: &Path,
    edit: impl FnOnce(&mut Map<String, Value>),
) -> Result<(), PrefixError> {
    let text = fs::read(source).map_err(PrefixError::io("read", source))?;
    let mut fields: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| PrefixError::BadRecord {
            path: target.to_path_buf(),
            source: error,
        })?;
    edit(&mut fields);
    replace_file(target, beside, &Value::Object(fields))
}

fn replace_file(path: &Path, beside: &Path, value: &Value) -> Result<(), PrefixError> {
    let mut file = tempfile::Builder::new()
        .prefix(".record-")
        .permissions(shared_permissions())
        .tempfile_in(beside)
        .map_err(PrefixError::io("create a file in", beside))?;
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| PrefixError::BadRecord {
        path: path.to_path_buf(),
        source,
    })?;
    text.push(b'\n');
    file.write_all(&text)
        .map_err(PrefixError::io("write", path))?;
    file.persist(path)
        .map_err(|error| PrefixError::io("write", path)(error.error))?;
    Ok(())
}

/// Records of a shared environment are readable by others; temporary files are private by default.
fn shared_permissions() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    fs::Permissions::from_mode(0o666)
}
