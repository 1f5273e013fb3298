//! What an index lists, without the records: some 100 bytes each.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, Seek as _, SeekFrom},
    path::Path,
};

use serde::Deserialize;
use taipan_transfer::{Expected, Md5, Sha256};

use super::scan::{RECORD_MAPS, ScanError, Value, scan};

/// How many bytes of a file are read at a time.
const BUFFER: usize = 256 << 10;

/// Which map a record is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// `packages`.
    TarBz2,
    /// `packages.conda`.
    Conda,
    /// `v3.conda` (CEP 48).
    V3Conda,
    /// `v3.tar.bz2` (CEP 48).
    V3TarBz2,
    /// `v3.whl` (CEP 48). Its files are not conda packages.
    V3Wheel,
}

impl Form {
    fn of(path: &[&str]) -> Option<Self> {
        const FORMS: [Form; 5] = [
            Form::TarBz2,
            Form::Conda,
            Form::V3Conda,
            Form::V3TarBz2,
            Form::V3Wheel,
        ];
        let map = RECORD_MAPS.iter().position(|map| *map == path)?;
        Some(FORMS[map])
    }

    /// The keys that lead to its map.
    pub(crate) fn path(self) -> &'static [&'static str] {
        RECORD_MAPS[self as usize]
    }

    /// What is appended to a key to make the name of the file.
    fn extension(self) -> &'static str {
        match self {
            Self::TarBz2 | Self::Conda => "",
            Self::V3Conda => ".conda",
            Self::V3TarBz2 => ".tar.bz2",
            Self::V3Wheel => ".whl",
        }
    }
}

/// One record of an index.
#[derive(Debug, Clone)]
pub struct Row {
    name: u32,
    name_length: u16,
    key_length: u16,
    /// Which map lists it.
    pub form: Form,
    flags: u8,
    sha256: [u8; 32],
    md5: [u8; 16],
    size: u64,
    offset: u64,
    length: u32,
}

impl Row {
    const SHA256: u8 = 1;
    const MD5: u8 = 2;
    const SIZE: u8 = 4;

    /// The digest of the file, if the record has one.
    pub fn sha256(&self) -> Option<Sha256> {
        (self.flags & Self::SHA256 != 0).then(|| Sha256::from_bytes(self.sha256))
    }

    /// Its length in bytes, if the record has it.
    pub fn size(&self) -> Option<u64> {
        (self.flags & Self::SIZE != 0).then_some(self.size)
    }

    /// What is known of the file.
    pub fn expected(&self) -> Expected {
        Expected {
            size: self.size(),
            sha256: self.sha256(),
            md5: (self.flags & Self::MD5 != 0).then(|| Md5::from_bytes(self.md5)),
            ..Expected::default()
        }
    }

    /// Where the text of the record is.
    pub(crate) fn place(&self) -> (u64, usize) {
        (self.offset, self.length as usize)
    }
}

/// A value that is not a record.
#[derive(Debug, Clone)]
pub(crate) struct Other {
    pub(crate) path: Vec<String>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// All records of an index, in the order of its text.
#[derive(Debug, Clone, Default)]
pub struct RecordTable {
    names: String,
    rows: Vec<Row>,
    pub(crate) others: Vec<Other>,
    /// File names under `removed`.
    pub(crate) removed: Vec<String>,
    /// `info.base_url` (CEP 15).
    pub(crate) base_url: Option<String>,
    /// Why records cannot be used, by key.
    pub(crate) unusable: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Digests<'t> {
    #[serde(borrow, default)]
    sha256: Option<Cow<'t, str>>,
    #[serde(borrow, default)]
    md5: Option<Cow<'t, str>>,
    #[serde(default)]
    size: Option<u64>,
}

#[derive(Deserialize)]
struct Info {
    base_url: Option<String>,
}

impl RecordTable {
    /// Reads the records of the index in a file.
    pub fn read(path: &Path) -> Result<Self, ScanError> {
        let file = File::open(path).map_err(ScanError::Read)?;
        Self::scan(&mut BufReader::with_capacity(BUFFER, file))
    }

    /// Reads the records of a text.
    pub fn scan(input: &mut impl BufRead) -> Result<Self, ScanError> {
        let mut table = Self::default();
        scan(input, &mut |value| table.add(&value))?;
        Ok(table)
    }

    fn add(&mut self, value: &Value<'_>) -> Result<(), ScanError> {
        let (key, map) = value.path.split_last().expect("a value has a key");
        let bad = |source| ScanError::Value {
            key: (*key).to_owned(),
            offset: value.offset,
            source,
        };
        let Some(form) = Form::of(map) else {
            return self.add_other(value, key, bad);
        };
        let file = format!("{key}{}", form.extension());
        let digests: Digests<'_> = match serde_json::from_slice(value.text) {
            Ok(digests) => digests,
            Err(error) if error.is_data() => {
                // One bad record must not cost a channel all the others.
                let checked: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(value.text);
                checked.map_err(bad)?;
                self.unusable.push((file, error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(bad(error)),
        };
        // A key with escapes names no file of a channel.
        if let Some(why) = unusable(&file) {
            self.unusable.push((file, why.to_owned()));
            return Ok(());
        }
        let (mut flags, mut sha256, mut md5) = (0, [0; 32], [0; 16]);
        if let Some(digest) = digests.sha256.and_then(|it| it.parse::<Sha256>().ok()) {
            sha256 = *digest.as_bytes();
            flags |= Row::SHA256;
        }
        if let Some(digest) = digests.md5.and_then(|it| it.parse::<Md5>().ok()) {
            md5 = *digest.as_bytes();
            flags |= Row::MD5;
        }
        if digests.size.is_some() {
            flags |= Row::SIZE;
        }
        let Ok(name) = u32::try_from(self.names.len()) else {
            return Err(ScanError::Syntax {
                what: "too many records",
                offset: value.offset,
            });
        };
        self.names.push_str(&file);
        // Keys and records are limited by the scan.
        let length = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.rows.push(Row {
            name,
            name_length: length(&file),
            key_length: length(key),
            form,
            flags,
            sha256,
            md5,
            size: digests.size.unwrap_or(0),
            offset: value.offset,
            length: u32::try_from(value.text.len()).unwrap_or(u32::MAX),
        });
        Ok(())
    }

    fn add_other(
        &mut self,
        value: &Value<'_>,
        key: &str,
        bad: impl Fn(serde_json::Error) -> ScanError,
    ) -> Result<(), ScanError> {
        match (value.path.len(), key) {
            (1, "info") => {
                let info: Option<Info> = serde_json::from_slice(value.text).map_err(bad)?;
                self.base_url = info.and_then(|info| info.base_url);
            }
            (1, "removed") => {
                let removed: Option<Vec<String>> =
                    serde_json::from_slice(value.text).map_err(bad)?;
                self.removed = removed.unwrap_or_default();
            }
            _ => {
                let checked: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(value.text);
                checked.map_err(bad)?;
            }
        }
        self.others.push(Other {
            path: value.path.iter().map(|&key| key.to_owned()).collect(),
            offset: value.offset,
            length: value.text.len() as u64,
        });
        Ok(())
    }

    /// The records, in the order of the text.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The name of a record's file.
    pub fn file_name(&self, row: &Row) -> &str {
        let start = row.name as usize;
        &self.names[start..start + usize::from(row.name_length)]
    }

    /// The key of a record in its map.
    pub(crate) fn key(&self, row: &Row) -> &str {
        let start = row.name as usize;
        &self.names[start..start + usize::from(row.key_length)]
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Reads the text of a record from the file that the table was read from.
    pub(crate) fn text(row: &Row, file: &mut File) -> std::io::Result<Vec<u8>> {
        let (offset, length) = row.place();
        file.seek(SeekFrom::Start(offset))?;
        let mut text = vec![0; length];
        std::io::Read::read_exact(file, &mut text)?;
        Ok(text)
    }
}

/// Sixteen bytes that identify a file with its content.
pub(crate) fn identity(file_name: &str, expected: &Expected) -> u128 {
    let mut text = file_name.as_bytes().to_vec();
    text.push(0);
    match (expected.sha256, expected.md5) {
        (Some(sha256), _) => text.extend_from_slice(sha256.as_bytes()),
        (None, Some(md5)) => text.extend_from_slice(md5.as_bytes()),
        (None, None) => {}
    }
    let digest = Sha256::of(&text);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    u128::from_le_bytes(bytes)
}

/// Why a name cannot be that of a file in a channel. It becomes the end of a URL and the name of a file.
fn unusable(file_name: &str) -> Option<&'static str> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!+=~,".contains(&byte);
    if !file_name.bytes().all(is_legal) {
        return Some("its name has an invalid character");
    }
    if file_name.starts_with('.') || file_name.len() > 1000 {
        return Some("its name begins with a dot or is too long");
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(text: &str) -> Result<RecordTable, ScanError> {
        RecordTable::scan(&mut BufReader::with_capacity(7, text.as_bytes()))
    }

    #[test]
    fn records_are_found_wherever_they_are() {
        let sha = "a".repeat(64);
        let text = format!(
            r#" {{"info" : {{"subdir":"noarch","base_url":"../x"}},
            "packages":{{"a-1-0.tar.bz2":{{"md5":"{}","size":3,"x":"}},{{\"]"}}}},
            "packages.conda": {{}}, "removed": ["gone-1-0.conda"], "repodata_version" : 1 ,
            "v3":{{"conda":{{"b-1-0":{{"sha256":"{sha}","size": 9}}}},"other":[1,{{}}]}}, "last": true}} "#,
            "b".repeat(32)
        );
        let table = table(&text).unwrap();
        let names: Vec<&str> = table.rows().iter().map(|it| table.file_name(it)).collect();
        assert_eq!(names, ["a-1-0.tar.bz2", "b-1-0.conda"]);
        assert_eq!(table.key(&table.rows()[1]), "b-1-0");
        assert_eq!(table.rows()[0].size(), Some(3));
        assert_eq!(table.rows()[0].sha256(), None);
        assert_eq!(table.rows()[1].sha256().unwrap().to_string(), sha);
        assert_eq!(table.removed, ["gone-1-0.conda"]);
        assert_eq!(table.base_url.as_deref(), Some("../x"));
        for (row, other) in table.rows().iter().zip(["{\"md5\"", "{\"sha256\""]) {
            let (offset, length) = row.place();
            let start = usize::try_from(offset).unwrap();
            assert!(text[start..start + length].starts_with(other));
        }
        for other in &table.others {
            let start = usize::try_from(other.offset).unwrap();
            let end = start + usize::try_from(other.length).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text[start..end]).unwrap();
            assert!(!value.is_null());
        }
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            "{\"packages\":{",
            "{\"packages\":{\"a\":{}",
            "<html>",
            "{} {}",
            "{\"a\":}",
            "{\"a\":[}",
            "{\"packages\":{\"a-1-0.conda\":{]}}",
            "{\"a\" 1}",
            "{\"packages\":{\"a-1-0.conda\":[1}}",
            "{\"info\":tru}",
            "{,}",
            "{\"a\":1,}",
        ] {
            assert!(table(text).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
        assert!(table(&deep).is_err());
        assert!(table("{}").unwrap().is_empty());
    }

    #[test]
    fn a_name_that_could_lead_elsewhere_is_no_file() {
        let text = r#"{"packages.conda":{"../a-1-0.conda":{},"a\"b":{},".x":{},"a-1-0.conda":{},"b-1-0.conda":[1]}}"#;
        let table = table(text).unwrap();
        assert_eq!(table.len(), 1);
        assert_eq!(table.unusable.len(), 4);
    }

    proptest! {
        /// The scan agrees with a full parser on whatever it accepts.
        #[test]
        fn any_text_is_scanned_or_refused(text in r#"[ {}\[\]",:a1\\]{0,60}"#) {
            if table(&text).is_ok() {
                let parsed: Result<serde_json::Map<String, serde_json::Value>, _> =
                    serde_json::from_str(&text);
                prop_assert!(parsed.is_ok(), "{}", text);
            }
        }

        #[test]
        fn all_files_of_a_sound_index_are_found(
            names in proptest::collection::btree_set("[a-z]{1,8}-[0-9]-[a-z0-9]{1,4}\\.conda", 0..20),
            capacity in 1..50usize,
        ) {
            let mut records = serde_json::Map::new();
            for name in &names {
                records.insert(name.clone(), serde_json::json!({"size": name.len(), "d": ["\\\"]}"]}));
            }
            let text = serde_json::json!({"info": {}, "packages.conda": records}).to_string();
            let mut input = BufReader::with_capacity(capacity, text.as_bytes());
            let table = RecordTable::scan(&mut input).unwrap();
            let found: std::collections::BTreeSet<String> =
                table.rows().iter().map(|row| table.file_name(row).to_owned()).collect();
            prop_assert_eq!(found, names);
        }
    }
}
