use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::key::StoreKey;

/// The version of the format of an entry.
const VERSION: u32 = 1;
/// The longest file that is read. Real ones have about a hundred bytes.
const MAX_BYTES: u64 = 64 << 10;
pub(super) const ENTRY_FILE: &str = "entry.json";
pub(super) const TREE: &str = "pkg";

/// `entry.json`, the mark of a complete entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntryFile {
    store_version: u32,
    key: String,
    /// Names of files and links.
    pub(super) files: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
}

impl EntryFile {
    pub(super) fn new(key: &StoreKey, files: u64, bytes: u64) -> Self {
        Self {
            store_version: VERSION,
            key: key.to_string(),
            files,
            bytes,
        }
    }

    /// Reads the mark from the directory of an entry. `None` when there is no entry, or a damaged
    /// one.
    pub(super) fn read(entry: &Path, key: &StoreKey) -> io::Result<Option<Self>> {
        let path = entry.join(ENTRY_FILE);
        let absent = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            )
        };
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        if length > MAX_BYTES {
            return Ok(None);
        }
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let found = serde_json::from_slice::<Self>(&text).ok();
        let right =
            found.filter(|file| file.store_version == VERSION && file.key == key.to_string());
        Ok(right.filter(|_| entry.join(TREE).is_dir()))
    }

    pub(super) fn write(&self, entry: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        fs::write(entry.join(ENTRY_FILE), text)
    }
}
