//! `conda-meta/history`, in conda's format.
//!
//! conda reads from it the requested specs, and which packages were linked and unlinked.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use rattler_conda_types::{PackageRecord, RepoDataRecord};
use taipan_mirrors::without_credentials_in;

use super::location::Prefix;
use crate::error::PrefixError;
use crate::link::LinkOptions;

/// A block of the history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Local time, `YYYY-MM-DD HH:MM:SS`.
    pub date: String,
    /// The command line.
    pub command: Option<String>,
    /// Linked packages, as `channel/subdir::name-version-build`.
    pub linked: Vec<String>,
    /// Unlinked packages, likewise.
    pub unlinked: Vec<String>,
    /// The requested specs.
    pub update_specs: Vec<String>,
    /// The specs of removed packages.
    pub remove_specs: Vec<String>,
    /// What conda made of earlier specs that contradicted later ones.
    pub neutered_specs: Vec<String>,
}

/// The packages that a transaction linked and unlinked.
#[derive(Debug)]
pub(crate) struct Revision<'a> {
    pub(crate) unlinked: Vec<&'a RepoDataRecord>,
    pub(crate) linked: Vec<&'a RepoDataRecord>,
}

/// Appends a block to the history of `prefix`, creating the file if needed.
pub fn append_history(prefix: &Prefix, block: &str) -> Result<(), PrefixError> {
    let path = prefix.conda_meta().join("history");
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .map_err(PrefixError::io("open", &path))?;
    file.write_all(block.as_bytes())
        .map_err(PrefixError::io("write", &path))
}

/// The block for a transaction that happens now.
pub(crate) fn revision(changes: &Revision<'_>, options: &LinkOptions) -> String {
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let (tool, version) = &options.tool;
    let mut block = format!(
        "==> {now} <==\n# cmd: {}\n# {} version: {}\n",
        one_line(&options.command_line),
        one_line(tool),
        one_line(version)
    );
    for (sign, records) in [('-', &changes.unlinked), ('+', &changes.linked)] {
        let mut names: Vec<String> = records.iter().map(|record| dist_string(record)).collect();
        names.sort();
        for name in names {
            let _ = writeln!(block, "{sign}{name}");
        }
    }
    for (action, specs) in [
        ("remove", &options.remove_specs),
        ("update", &options.update_specs),
    ] {
        if !specs.is_empty() {
            let _ = writeln!(block, "# {action} specs: {}", python_list(specs));
        }
    }
    block
}

/// A package with its channel, as conda writes it: `conda-forge/linux-64::python-3.11.7-h1_0`.
fn dist_string(record: &RepoDataRecord) -> String {
    let package: &PackageRecord = &record.package_record;
    let url = record.url.as_str();
    let channel = record.channel.as_deref().unwrap_or(url);
    format!(
        "{}/{}::{}",
        channel_name(channel, &package.subdir),
        package.subdir,
        crate::link::dist_name(package)
    )
}

/// The short name of a channel: without credentials, the default alias and the subdirectory.
fn channel_name(channel: &str, subdir: &str) -> String {
    let clean = without_credentials_in(channel);
    let name = clean.trim_end_matches('/');
    let name = name
        .strip_suffix(subdir)
        .map_or(name, |rest| rest.trim_end_matches('/'));
    name.strip_prefix("https://conda.anaconda.org/")
        .unwrap_or(name)
        .to_owned()
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// conda reads the specs back as a Python literal.
fn python_list(specs: &[String]) -> String {
    let quoted: Vec<String> = specs
        .iter()
        .map(|spec| {
            format!(
                "'{}'",
                one_line(spec).replace('\\', "\\\\").replace('\'', "\\'")
            )
        })
        .collect();
    format!("[{}]", quoted.join(", "))
}

/// Skips lines that are not part of the format, as conda does.
pub(super) fn parse_history(text: &str) -> Vec<HistoryEntry> {
    let mut entries: Vec<HistoryEntry> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(date) = line
            .strip_prefix("==>")
            .and_then(|rest| rest.strip_suffix("<=="))
        {
            entries.push(HistoryEntry {
                date: date.trim().to_owned(),
                ..HistoryEntry::default()
            });
            continue;
        }
        let Some(entry) = entries.last_mut() else {
            continue;
        };
        if let Some(comment) = line.strip_prefix('#') {
            let Some((key, value)) = comment.split_once(':') else {
                continue;
            };
            match key.trim() {
                "cmd" => entry.command = Some(value.trim().to_owned()),
                "update specs" | "install specs" | "create specs" => {
                    entry.update_specs = parse_list(value);
                }
                "remove specs" | "uninstall specs" => entry.remove_specs = parse_list(value),
                "neutered specs" => entry.neutered_specs = parse_list(value),
                _ => {}
            }
        } else if let Some(name) = line.strip_prefix('+') {
            entry.linked.push(name.to_owned());
        } else if let Some(name) = line.strip_prefix('-') {
            entry.unlinked.push(name.to_owned());
        }
    }
    entries
}

/// A Python list of strings, in either kind of quotes.
fn parse_list(text: &str) -> Vec<String> {
    let mut specs = Vec::new();
    let mut rest = text.trim().chars();
    while let Some(quote) = rest.by_ref().find(|&c| c == '\'' || c == '"') {
        let mut spec = String::new();
        while let Some(c) = rest.next() {
            match c {
                '\\' => spec.extend(rest.next()),
                c if c == quote => break,
                c => spec.push(c),
            }
        }
        specs.push(spec);
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_are_short_and_without_secrets() {
        let cases = [
            (
                "https://conda.anaconda.org/conda-forge/linux-64",
                "conda-forge",
            ),
            ("https://conda.anaconda.org/conda-forge/", "conda-forge"),
            ("conda-forge", "conda-forge"),
            (
                "https://user:pw@host/channel/linux-64",
                "https://host/channel",
            ),
            ("https://host/t/tk-123-abc/channel", "https://host/channel"),
            ("file:///srv/channel/", "file:///srv/channel"),
        ];
        for (channel, name) in cases {
            assert_eq!(channel_name(channel, "linux-64"), name);
        }
    }

    #[test]
    fn specs_survive_quoting() {
        let specs = ["python 3.11.*", "it's", "a\\b", "n[version='>=1']"].map(str::to_owned);
        assert_eq!(parse_list(&python_list(&specs)), specs);
        assert_eq!(parse_list("['a', \"b c\"]"), ["a", "b c"]);
        assert_eq!(parse_list("["), Vec::<String>::new());
    }

    #[test]
    fn blocks_are_read_back() {
        let entries = parse_history(
            "junk\n==> 2026-01-02 03:04:05 <==\n# cmd: conda create x\n# conda version: 24.1\n\
             +c/noarch::a-1-0\n-c/noarch::a-0-0\n# update specs: ['a']\n\
             ==> 2026-01-03 03:04:05 <==\n# remove specs: ['a']\n",
        );
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].command.as_deref(), Some("conda create x"));
        assert_eq!(entries[0].linked, ["c/noarch::a-1-0"]);
        assert_eq!(entries[0].unlinked, ["c/noarch::a-0-0"]);
        assert_eq!(entries[0].update_specs, ["a"]);
        assert_eq!(entries[1].remove_specs, ["a"]);
    }
}
