//! The index over a `repodata.json`, against a reader that parses everything.

#![no_main]

use std::{collections::BTreeSet, fmt, marker::PhantomData};

use libfuzzer_sys::fuzz_target;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use taipan_channel::{IndexError, IndexLimits, RepodataIndex};
use url::Url;

const LIMITS: IndexLimits = IndexLimits {
    records: 50,
    record_bytes: 4096,
};

/// The entries of a JSON object, repeated keys included.
struct Entries<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Collect<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Collect<T> {
            type Value = Entries<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Entries(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        json.deserialize_any(Collect(PhantomData))
    }
}

/// The name in a file name, as conda takes it apart.
fn name_of(file: &str) -> Option<String> {
    let stem = file
        .strip_suffix(".conda")
        .or_else(|| file.strip_suffix(".tar.bz2"))?;
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.!+=~,".contains(c);
    let (rest, _) = stem.rsplit_once('-')?;
    let (name, _) = rest.rsplit_once('-')?;
    let good = file.chars().all(good) && !name.is_empty() && !name.starts_with('.');
    good.then(|| name.to_ascii_lowercase())
}

/// The files that a text lists, and those that it removes.
fn files(text: &str) -> (Vec<String>, BTreeSet<String>) {
    let whole: Entries<&RawValue> = serde_json::from_str(text).unwrap();
    let (mut listed, mut removed) = (Vec::new(), BTreeSet::new());
    for (key, value) in whole.0 {
        match key.as_str() {
            "packages" | "packages.conda" => {
                let records: Entries<IgnoredAny> = serde_json::from_str(value.get()).unwrap();
                listed.extend(records.0.into_iter().map(|(key, _)| key));
            }
            "removed" => {
                let names: Option<Vec<String>> = serde_json::from_str(value.get()).unwrap();
                removed.extend(names.unwrap_or_default());
            }
            _ => {}
        }
    }
    (listed, removed)
}

fuzz_target!(|input: &[u8]| {
    let subdir = Url::parse("https://example.org/alpha/linux-64/").unwrap();
    let read = |limits| {
        RepodataIndex::from_json(
            input.to_vec(),
            "https://example.org/alpha/",
            &subdir,
            limits,
        )
    };
    let index = match read(IndexLimits::default()) {
        Ok(index) => index,
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 20_000, "{} bytes", text.len());
            return;
        }
    };
    let text = std::str::from_utf8(input).unwrap();
    assert_eq!(index.text(), text);
    let (listed, removed) = files(text);
    match read(LIMITS) {
        Ok(_) => assert!(listed.len() <= LIMITS.records),
        Err(IndexError::TooManyRecords { .. }) => assert!(listed.len() > LIMITS.records),
        Err(IndexError::RecordTooLarge { length, .. }) => assert!(length > LIMITS.record_bytes),
        Err(error) => panic!("{error}"),
    }

    let kept: Vec<&String> = listed
        .iter()
        .filter(|file| !removed.contains(*file))
        .collect();
    assert!(index.len() <= kept.len());
    let expected: BTreeSet<String> = kept.iter().filter_map(|file| name_of(file)).collect();
    let mut found = BTreeSet::new();
    let mut records = 0;
    for name in index.names() {
        found.insert(name.to_owned());
        let Ok(name) = name.parse() else { continue };
        assert!(index.contains(&name));
        let Ok((of_name, _)) = index.records(&name) else {
            continue;
        };
        records += of_name.len();
        for record in of_name {
            let file = record.identifier.to_file_name();
            assert_eq!(record.package_record.name, name);
            assert!(
                record.url.as_str().starts_with(index.base_url().as_str()),
                "{}",
                record.url
            );
            assert_eq!(
                record.url.path_segments().unwrap().next_back(),
                Some(&file[..])
            );
            assert!(kept.contains(&&file), "{file}");
            assert!(index.fields(&name, &file).is_some());
        }
    }
    assert!(records <= index.len());
    // A name that is written with escapes is skipped, so there may be fewer.
    let escapes = text.contains('\\');
    assert!(
        found == expected || (escapes && found.is_subset(&expected)),
        "{found:?} {expected:?}"
    );
});
