//! Writes the records in `conda-meta`.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use rattler_conda_types::PrefixRecord;
use serde_json::{Map, Value};

use crate::error::PrefixError;

/// Writes a record with every field that conda writes, and the fields of `extra`.
///
/// The file appears complete or not at all. It is not synchronised by itself: the journal protects
/// the transaction.
pub(crate) fn write_record(
    path: &Path,
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
            *text = without_credentials(text);
        }
    }
    fields.sort_keys();
    replace_file(path, &Value::Object(fields))
}

/// Changes fields of the record at `source`, and writes it to `target`. Unknown fields are kept.
pub(crate) fn edit_record(
    source: &Path,
    target: &Path,
    edit: impl FnOnce(&mut Map<String, Value>),
) -> Result<(), PrefixError> {
    let text = fs::read(source).map_err(PrefixError::io("read", source))?;
    let mut fields: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| PrefixError::BadRecord {
            path: target.to_path_buf(),
            source: error,
        })?;
    edit(&mut fields);
    replace_file(target, &Value::Object(fields))
}

fn replace_file(path: &Path, value: &Value) -> Result<(), PrefixError> {
    let directory = path.parent().unwrap_or(path);
    // Hidden, so that an incomplete file is not read as a record.
    let mut file = tempfile::Builder::new()
        .prefix(".record-")
        .permissions(shared_permissions())
        .tempfile_in(directory)
        .map_err(PrefixError::io("create a file in", directory))?;
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

/// A channel or package URL without user, password and `/t/<token>/`, as conda stores it.
pub(super) fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let path = match path
        .strip_prefix("/t/")
        .and_then(|rest| rest.split_once('/'))
    {
        Some((_token, rest)) => format!("/{rest}"),
        None => path.to_owned(),
    };
    format!("{scheme}://{host}{path}")
}
