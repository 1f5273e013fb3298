//! The record of a linked package for `conda-meta`.

use std::path::PathBuf;

use rattler_conda_types::prefix_record::{
    Link, LinkType, PathType, PathsEntry, PrefixPaths, PrefixRecord,
};
use serde_json::{Map, Value};

use super::draft::{DraftPackage, RecordEdit, Relocated};
use crate::link::{LinkMethod, Module};

/// The record of a linked package, with its generated files.
pub(super) fn prefix_record(
    package: &DraftPackage<'_>,
    method: LinkMethod,
    mut entries: Vec<PathsEntry>,
    compiled: &[(&Module, u64)],
) -> PrefixRecord {
    entries.extend(compiled.iter().map(|(module, size)| PathsEntry {
        size_in_bytes: Some(*size),
        ..entry(&module.byte_code, PathType::PycFile)
    }));
    entries.sort_by(|one, other| one.relative_path.cmp(&other.relative_path));
    // conda lists only files and links here.
    let files = entries
        .iter()
        .filter(|entry| entry.path_type != PathType::Directory)
        .map(|entry| entry.relative_path.clone())
        .collect();
    let mut record = PrefixRecord::from_repodata_record(package.package.record.clone(), Vec::new());
    record.files = files;
    record.paths_data = PrefixPaths {
        paths_version: 1,
        paths: entries,
    };
    record
        .requested_specs
        .clone_from(&package.package.requested_specs);
    record.extracted_package_dir = Some(package.package.source_dir.clone());
    record
        .package_tarball_full_path
        .clone_from(&package.package.package_tarball_full_path);
    record.link = Some(Link {
        source: package.package.source_dir.clone(),
        link_type: Some(match method {
            LinkMethod::HardLink => LinkType::HardLink,
            LinkMethod::SoftLink => LinkType::SoftLink,
            LinkMethod::Reflink | LinkMethod::Copy => LinkType::Copy,
        }),
    });
    record
}

/// An entry without digests.
pub(super) fn entry(path: &str, path_type: PathType) -> PathsEntry {
    PathsEntry {
        relative_path: PathBuf::from(path),
        original_path: None,
        path_type,
        no_link: false,
        sha256: None,
        sha256_in_prefix: None,
        size_in_bytes: None,
        file_mode: None,
        prefix_placeholder: None,
    }
}

/// Applies an edit to the fields of a record, and keeps unknown ones.
pub(super) fn apply(edit: &RecordEdit, fields: &mut Map<String, Value>) {
    if let Some(specs) = &edit.requested_specs {
        fields.insert("requested_specs".to_owned(), Value::from(specs.clone()));
        // The deprecated field with one spec would contradict the list.
        fields.shift_remove("requested_spec");
    }
    for relocated in &edit.relocated {
        relocate(relocated, fields);
    }
}

fn relocate(relocated: &Relocated, fields: &mut Map<String, Value>) {
    if let Some(files) = fields.get_mut("files").and_then(Value::as_array_mut) {
        for file in files.iter_mut().filter(|file| **file == relocated.recorded) {
            *file = Value::from(relocated.to.clone());
        }
    }
    let data = fields
        .entry("paths_data")
        .or_insert_with(|| serde_json::json!({ "paths_version": 1, "paths": [] }));
    let Some(paths) = data.get_mut("paths").and_then(Value::as_array_mut) else {
        return;
    };
    let known = paths
        .iter_mut()
        .filter_map(Value::as_object_mut)
        .find(|entry| {
            entry
                .get("_path")
                .is_some_and(|path| *path == relocated.recorded)
        });
    if let Some(entry) = known {
        entry.insert("_path".to_owned(), Value::from(relocated.to.clone()));
        match &relocated.original {
            Some(original) => {
                entry.insert("original_path".to_owned(), Value::from(original.clone()));
            }
            None => {
                entry.shift_remove("original_path");
            }
        }
    } else if let Some(original) = &relocated.original {
        // Records of old packages have a plain list of files only.
        paths.push(serde_json::json!({
            "_path": relocated.to, "original_path": original, "path_type": "hardlink"
        }));
    }
}
