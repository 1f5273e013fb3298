//! Sharded repodata (CEP 16): the records of each name in a file that is named by its digest, and an index of these files.

use std::{collections::BTreeMap, fs::File, io, path::Path};

use rmp::encode::{
    ValueWriteError, write_array_len, write_bin, write_bool, write_f64, write_map_len, write_nil,
    write_sint, write_str, write_uint,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use taipan_transfer::Sha256;

use super::table::{Form, RecordTable, Row};

/// The level of compression.
const LEVEL: i32 = 12;

/// Where the shards are, relative to the index.
const DIRECTORY: &str = "./shards/";

/// What was made before, so that it is not made again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ShardCache {
    /// By name.
    pub(crate) shards: BTreeMap<String, KnownShard>,
    /// Shards that the index does not name any more, by digest, with the time in seconds since 1970.
    pub(crate) retired: BTreeMap<String, u64>,
}

impl ShardCache {
    /// The digests of all shards that the index names.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &str> {
        self.shards.values().map(|known| &*known.shard)
    }
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownShard {
    /// The digest of the texts of its records.
    records: String,
    /// The digest of the file.
    shard: String,
}

/// The shards of an index.
#[derive(Debug)]
pub(crate) struct Shards {
    /// `repodata_shards.msgpack.zst`.
    pub(crate) index: Vec<u8>,
    /// Files that the cache did not have, by digest.
    pub(crate) new: Vec<(String, Vec<u8>)>,
    /// What is known now; retired ones are those of before.
    pub(crate) cache: ShardCache,
}

/// The key of the map of a form in a shard.
fn map_of(form: Form) -> Option<&'static str> {
    match form {
        Form::TarBz2 => Some("packages"),
        Form::Conda => Some("packages.conda"),
        _ => None,
    }
}

/// The name that a file name starts with, as records have it.
fn name_of(file_name: &str) -> Option<String> {
    let (rest, _) = file_name.rsplit_once('-')?;
    let (name, _) = rest.rsplit_once('-')?;
    (!name.is_empty()).then(|| name.to_ascii_lowercase())
}

/// Makes the shards of an index. `text` is the file that the table was read from. `None` if it has maps that shards do not have
/// (`v3`): a client that reads shards would miss them.
pub(crate) fn make_shards(
    table: &RecordTable,
    text: &Path,
    subdir: &str,
    earlier: &ShardCache,
) -> io::Result<Option<Shards>> {
    let mut names: BTreeMap<String, BTreeMap<(&str, &str), &Row>> = BTreeMap::new();
    for row in table.rows() {
        let Some(map) = map_of(row.form) else {
            return Ok(None);
        };
        let key = table.key(row);
        if let Some(name) = name_of(key) {
            names.entry(name).or_default().insert((map, key), row);
        }
    }
    let mut input = File::open(text)?;
    let mut made = Shards {
        index: Vec::new(),
        new: Vec::new(),
        cache: ShardCache {
            shards: BTreeMap::new(),
            retired: earlier.retired.clone(),
        },
    };
    for (name, rows) in names {
        let mut texts = Vec::new();
        let mut all = Vec::new();
        for ((map, key), row) in rows {
            let record = RecordTable::text(row, &mut input)?;
            for part in [map.as_bytes(), b"\0", key.as_bytes(), b"\0", &record, b"\0"] {
                all.extend_from_slice(part);
            }
            texts.push((map, key, record));
        }
        let records = Sha256::of(&all).to_string();
        let known = earlier
            .shards
            .get(&name)
            .filter(|known| known.records == records);
        let shard = if let Some(known) = known {
            known.shard.clone()
        } else {
            let bytes = compress(&shard_of(&texts)?)?;
            let digest = Sha256::of(&bytes).to_string();
            made.new.push((digest.clone(), bytes));
            digest
        };
        made.cache
            .shards
            .insert(name, KnownShard { records, shard });
    }
    let index = index_of(&made.cache, subdir, table.base_url.as_deref().unwrap_or(""));
    made.index = compress(&index.map_err(io::Error::other)?)?;
    Ok(Some(made))
}

/// The name of the file of a shard, relative to the subdir.
pub(crate) fn shard_file(digest: &str) -> String {
    format!("shards/{digest}.msgpack.zst")
}

fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, LEVEL)
}

fn index_of(cache: &ShardCache, subdir: &str, base_url: &str) -> Result<Vec<u8>, ValueWriteError> {
    let mut out = Vec::new();
    write_map_len(&mut out, 2)?;
    write_str(&mut out, "info")?;
    let info = [
        ("subdir", subdir),
        ("base_url", base_url),
        ("shards_base_url", DIRECTORY),
    ];
    write_map_len(&mut out, length(info.len()))?;
    for (key, value) in info {
        write_str(&mut out, key)?;
        write_str(&mut out, value)?;
    }
    write_str(&mut out, "shards")?;
    write_map_len(&mut out, length(cache.shards.len()))?;
    for (name, shard) in &cache.shards {
        write_str(&mut out, name)?;
        write_bin(&mut out, &bytes_of(&shard.shard).unwrap_or_default())?;
    }
    Ok(out)
}

/// A shard of records, in the order of maps and keys.
fn shard_of(records: &[(&str, &str, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let failed = io::Error::other::<ValueWriteError>;
    write_map_len(&mut out, 3).map_err(failed)?;
    for map in ["packages", "packages.conda"] {
        let own = || records.iter().filter(|(of, ..)| *of == map);
        write_str(&mut out, map).map_err(failed)?;
        write_map_len(&mut out, length(own().count())).map_err(failed)?;
        for (_, key, text) in own() {
            let record: Map<String, Value> = serde_json::from_slice(text)?;
            write_str(&mut out, key).map_err(failed)?;
            write_record(&mut out, &record).map_err(failed)?;
        }
    }
    write_str(&mut out, "removed").map_err(failed)?;
    write_array_len(&mut out, 0).map_err(failed)?;
    Ok(out)
}

/// A record. Its digests are bytes; one that is no digest is left out.
fn write_record(out: &mut Vec<u8>, record: &Map<String, Value>) -> Result<(), ValueWriteError> {
    let digest = |key: &str, value: &Value| match key {
        "sha256" | "md5" => Some(value.as_str().and_then(bytes_of)),
        _ => None,
    };
    let kept = || {
        record
            .iter()
            .filter(|(key, value)| digest(key, value) != Some(None))
    };
    write_map_len(out, length(kept().count()))?;
    for (key, value) in kept() {
        write_str(out, key)?;
        match digest(key, value) {
            Some(Some(bytes)) => write_bin(out, &bytes)?,
            _ => write_value(out, value)?,
        }
    }
    Ok(())
}

/// A value. The JSON parser limits its depth.
fn write_value(out: &mut Vec<u8>, value: &Value) -> Result<(), ValueWriteError> {
    match value {
        Value::Null => write_nil(out).map_err(ValueWriteError::InvalidMarkerWrite),
        Value::Bool(value) => write_bool(out, *value).map_err(ValueWriteError::InvalidMarkerWrite),
        Value::Number(number) => {
            if let Some(number) = number.as_u64() {
                write_uint(out, number).map(drop)
            } else if let Some(number) = number.as_i64() {
                write_sint(out, number).map(drop)
            } else {
                write_f64(out, number.as_f64().unwrap_or_default())
            }
        }
        Value::String(text) => write_str(out, text),
        Value::Array(values) => {
            write_array_len(out, length(values.len()))?;
            values.iter().try_for_each(|value| write_value(out, value))
        }
        Value::Object(fields) => {
            write_map_len(out, length(fields.len()))?;
            for (key, value) in fields {
                write_str(out, key)?;
                write_value(out, value)?;
            }
            Ok(())
        }
    }
}

/// A length; an index has less than four billion of anything.
fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The bytes of a digest in hexadecimal.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let is_digest =
        matches!(hex.len(), 32 | 64) && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        return None;
    }
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str, earlier: &ShardCache) -> Option<Shards> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("repodata.json");
        std::fs::write(&path, text).unwrap();
        let table = RecordTable::read(&path).unwrap();
        make_shards(&table, &path, "noarch", earlier).unwrap()
    }

    fn index(records: &[(&str, u32)]) -> String {
        let records: Map<String, Value> = (records.iter())
            .map(|(file, size)| {
                let sha256 = "0a".repeat(32);
                let record = serde_json::json!({"sha256": sha256, "md5": "no digest", "size": size, "x": [null, true, -1, 1.5]});
                ((*file).to_owned(), record)
            })
            .collect();
        serde_json::json!({"info": {}, "packages": {}, "packages.conda": records}).to_string()
    }

    #[test]
    fn only_the_shards_of_changed_names_are_made() {
        let first = index(&[("a-1-0.conda", 1), ("a-b-1-0.conda", 2), ("C-1-0.conda", 3)]);
        let first = made(&first, &ShardCache::default()).unwrap();
        assert_eq!(first.new.len(), 3);
        let names: Vec<&String> = first.cache.shards.keys().collect();
        assert_eq!(names, ["a", "a-b", "c"]);
        let next = index(&[("a-1-0.conda", 1), ("a-2-0.conda", 9), ("C-1-0.conda", 3)]);
        let next = made(&next, &first.cache).unwrap();
        assert_eq!(next.new.len(), 1);
        // Without what is known the same index is made.
        let again = index(&[("a-1-0.conda", 1), ("a-2-0.conda", 9), ("C-1-0.conda", 3)]);
        assert_eq!(
            made(&again, &ShardCache::default()).unwrap().index,
            next.index
        );
        for (digest, bytes) in &first.new {
            assert_eq!(Sha256::of(bytes).to_string(), *digest);
        }
    }

    #[test]
    fn an_index_with_newer_maps_has_no_shards() {
        let text = r#"{"info":{},"packages":{},"packages.conda":{},
            "v3":{"conda":{"a-1-0":{"name":"a","version":"1","build":"0","size":1}}}}"#;
        assert!(made(text, &ShardCache::default()).is_none());
    }

    #[test]
    fn digests_are_bytes_and_values_are_encoded() {
        let shards = made(&index(&[("a-1-0.conda", 300)]), &ShardCache::default()).unwrap();
        let shard = zstd::decode_all(&shards.new[0].1[..]).unwrap();
        let has = |part: &[u8]| shard.windows(part.len()).any(|it| it == part);
        let digest = [&b"\xa6sha256\xc4\x20"[..], &[0x0a; 32]].concat();
        assert!(has(&digest));
        assert!(has(b"\xa4size\xcd\x01\x2c") && has(b"\xa1x\x94\xc0\xc3\xff\xcb\x3f\xf8"));
        assert!(!has(b"md5"));
    }
}
