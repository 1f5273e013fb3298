//! One pass over the text of a `repodata.json`, which finds its records.

use std::{borrow::Cow, cell::RefCell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{IndexError, IndexLimits, Place};

/// The newest supported `repodata_version`: files of version 1 do not state one, 2 adds
/// `info.base_url` (CEP 15), and 3 adds maps that are not read here (CEP 48).
const NEWEST_VERSION: u64 = 3;

/// The result of a walk.
#[derive(Debug)]
pub(super) struct Walked<'text> {
    pub(super) places: Vec<Place>,
    /// Keys with escape sequences. No file name needs one, and a key without them is a slice of the
    /// text.
    pub(super) unnamed: Vec<String>,
    pub(super) removed: Vec<Cow<'text, str>>,
    pub(super) subdir: Option<String>,
    pub(super) base_url: Option<String>,
    pub(super) repodata_version: u64,
}

/// Walks the text. All of it is checked to be JSON; too deep nesting is an error.
pub(super) fn walk(text: &str, limits: IndexLimits) -> Result<Walked<'_>, IndexError> {
    if u32::try_from(text.len()).is_err() {
        return Err(IndexError::TooLong { length: text.len() });
    }
    let walk = Walk {
        text,
        limits,
        refusal: RefCell::new(None),
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let walked = (&walk)
        .deserialize(&mut json)
        .and_then(|walked| json.end().map(|()| walked))
        .map_err(|error| {
            walk.refusal
                .take()
                .unwrap_or_else(|| IndexError::from_json(text, error))
        })?;
    if walked.repodata_version > NEWEST_VERSION {
        return Err(IndexError::Version {
            version: walked.repodata_version,
            newest: NEWEST_VERSION,
        });
    }
    Ok(walked)
}

struct Walk<'text> {
    text: &'text str,
    limits: IndexLimits,
    /// The typed error of this walk: serde passes only its message on.
    refusal: RefCell<Option<IndexError>>,
}

impl Walk<'_> {
    fn refuse<E: Error>(&self, error: IndexError) -> E {
        let message = E::custom(&error);
        *self.refusal.borrow_mut() = Some(error);
        message
    }

    /// The offset of a part of the text.
    fn offset(&self, part: &str) -> u32 {
        let offset = part.as_ptr() as usize - self.text.as_ptr() as usize;
        u32::try_from(offset).expect("the length of the text was checked")
    }
}

impl<'text> DeserializeSeed<'text> for &Walk<'text> {
    type Value = Walked<'text>;

    fn deserialize<D: Deserializer<'text>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'text> Visitor<'text> for &Walk<'text> {
    type Value = Walked<'text>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with the keys of a repodata.json")
    }

    fn visit_map<A: MapAccess<'text>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut walked = Walked {
            places: Vec::new(),
            unnamed: Vec::new(),
            removed: Vec::new(),
            subdir: None,
            base_url: None,
            repodata_version: 1,
        };
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                "packages" | "packages.conda" => {
                    map.next_value_seed(Records {
                        walk: self,
                        walked: &mut walked,
                    })?;
                }
                "removed" => {
                    let removed: Option<Vec<Text<'text>>> = map.next_value()?;
                    walked
                        .removed
                        .extend(removed.into_iter().flatten().map(|Text(text)| text));
                }
                "info" => {
                    let info: Option<Info> = map.next_value()?;
                    if let Some(info) = info {
                        walked.subdir = info.subdir;
                        walked.base_url = info.base_url;
                    }
                }
                "repodata_version" => {
                    let version: Option<u64> = map.next_value()?;
                    walked.repodata_version = version.unwrap_or(1);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(walked)
    }
}

/// The map from file names to records.
struct Records<'walk, 'text> {
    walk: &'walk Walk<'text>,
    walked: &'walk mut Walked<'text>,
}

impl<'text> DeserializeSeed<'text> for Records<'_, 'text> {
    type Value = ();

    fn deserialize<D: Deserializer<'text>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'text> Visitor<'text> for Records<'_, 'text> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with a record for each file name")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'text>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { walk, walked } = self;
        while let Some((Text(key), value)) = map.next_entry::<Text<'text>, &'text RawValue>()? {
            if walked.places.len() + walked.unnamed.len() >= walk.limits.records {
                let limit = walk.limits.records;
                return Err(walk.refuse(IndexError::TooManyRecords { limit }));
            }
            let value = value.get();
            if value.len() > walk.limits.record_bytes {
                return Err(walk.refuse(IndexError::RecordTooLarge {
                    file_name: key.into_owned(),
                    length: value.len(),
                    limit: walk.limits.record_bytes,
                }));
            }
            match key {
                Cow::Borrowed(key) => walked.places.push(Place {
                    key: walk.offset(key),
                    key_len: length(key),
                    value: walk.offset(value),
                    value_len: length(value),
                }),
                Cow::Owned(key) => walked.unnamed.push(key),
            }
        }
        Ok(())
    }
}

fn length(part: &str) -> u32 {
    u32::try_from(part.len()).expect("the length of the text was checked")
}

/// A string, borrowed from the text unless it has escape sequences. (Serde's own `Cow` is always
/// owned.)
struct Text<'text>(Cow<'text, str>);

impl<'text> Deserialize<'text> for Text<'text> {
    fn deserialize<D: Deserializer<'text>>(json: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'text> Visitor<'text> for TextVisitor {
            type Value = Text<'text>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'text str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        json.deserialize_str(TextVisitor)
    }
}

/// The fields of `info` that are used.
#[derive(Deserialize)]
struct Info {
    subdir: Option<String>,
    base_url: Option<String>,
}
