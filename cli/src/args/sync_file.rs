//! Files that describe several syncs: each table has the options of one, by their names on the command line.

use std::path::{Path, PathBuf};

use clap::Parser as _;

use super::{Cli, Command, MirrorCommand, SyncArgs};

/// Why a file of syncs cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncFileError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not TOML", path.display())]
    Toml {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("{}: {problem}", path.display())]
    Table { path: PathBuf, problem: String },
}

/// Reads a file with the tables `[[sync]]`, and optionally `[defaults]` for all of them.
///
/// Each `[[sync]]` has `source` and `destinations`; all other keys are long options without the dashes, with a text, a number,
/// `true`, or a list for options that may be repeated.
pub(crate) fn read(path: &Path) -> Result<Vec<SyncArgs>, SyncFileError> {
    let text = std::fs::read_to_string(path).map_err(|source| SyncFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file: toml::Table = toml::from_str(&text).map_err(|source| SyncFileError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let bad = |problem: String| SyncFileError::Table {
        path: path.to_owned(),
        problem,
    };
    let known = ["defaults", "sync"];
    if let Some(key) = file.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(bad(format!(
            "unknown table `{key}`; known are `defaults` and `sync`"
        )));
    }
    let defaults = match file.get("defaults") {
        Some(toml::Value::Table(defaults)) => defaults.clone(),
        Some(_) => return Err(bad("`defaults` is not a table".to_owned())),
        None => toml::Table::new(),
    };
    let Some(toml::Value::Array(syncs)) = file.get("sync") else {
        return Err(bad("it has no `[[sync]]`".to_owned()));
    };
    let mut all = Vec::new();
    for (number, sync) in (1..).zip(syncs) {
        let place = |problem: String| bad(format!("[[sync]] number {number}: {problem}"));
        let toml::Value::Table(sync) = sync else {
            return Err(place("it is not a table".to_owned()));
        };
        let mut table = defaults.clone();
        table.extend(sync.clone());
        all.push(arguments(table).map_err(place)?);
    }
    Ok(all)
}

fn arguments(mut table: toml::Table) -> Result<SyncArgs, String> {
    let mut line: Vec<String> = ["taipan", "mirror", "sync"].map(str::to_owned).into();
    let Some(toml::Value::String(source)) = table.remove("source") else {
        return Err("`source` is missing, or is not a text".to_owned());
    };
    let Some(toml::Value::Array(destinations)) = table.remove("destinations") else {
        return Err("`destinations` is missing, or is not a list".to_owned());
    };
    for (key, value) in table {
        if key == "sync-file" {
            return Err("`sync-file` cannot be in such a file".to_owned());
        }
        option(&mut line, &key, value)?;
    }
    // What follows is no option, whatever it begins with.
    line.extend(["--".to_owned(), source]);
    for destination in destinations {
        let toml::Value::String(destination) = destination else {
            return Err("a destination is not a text".to_owned());
        };
        line.push(destination);
    }
    match Cli::try_parse_from(line) {
        Ok(Cli {
            command: Command::Mirror(MirrorCommand::Sync(args)),
            ..
        }) => Ok(*args),
        Ok(_) => Err("it is no sync".to_owned()),
        Err(error) => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}

fn option(line: &mut Vec<String>, key: &str, value: toml::Value) -> Result<(), String> {
    match value {
        toml::Value::Boolean(true) => line.push(format!("--{key}")),
        toml::Value::Boolean(false) => {}
        toml::Value::String(text) => line.push(format!("--{key}={text}")),
        toml::Value::Integer(number) => line.push(format!("--{key}={number}")),
        toml::Value::Float(number) => line.push(format!("--{key}={number}")),
        toml::Value::Array(values) => {
            for value in values {
                option(line, key, value)?;
            }
        }
        toml::Value::Datetime(date) => line.push(format!("--{key}={date}")),
        toml::Value::Table(_) => return Err(format!("`{key}` is a table")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<SyncArgs>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("syncs.toml");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn tables_are_command_lines() {
        let all = parsed(
            "[defaults]\nsubdir = [\"noarch\"]\nprune = true\nnewest = 3\n\
             [[sync]]\nsource = \"a\"\ndestinations = [\"file:///a\", \"s3://b/c\"]\n\
             [[sync]]\nsource = \"b\"\ndestinations = [\"file:///b\"]\nsubdir = [\"linux-64\", \"noarch\"]\n\
             prune = \"removed\"\ngrace = \"1d\"\nstrict = false\nexclude-newer = 2026-01-01\n",
        );
        let all = all.unwrap();
        assert_eq!(all[0].destinations, ["file:///a", "s3://b/c"]);
        assert_eq!(
            (&*all[0].subdirs, all[0].newest),
            (&["noarch".to_owned()][..], Some(3))
        );
        assert_eq!(all[1].subdirs, ["linux-64", "noarch"]);
        assert_eq!(all[1].prune, Some(super::super::PruneChoice::Removed));
        assert_eq!(all[1].exclude_newer.as_deref(), Some("2026-01-01"));
        assert!(!all[1].strict);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let sync = "[[sync]]\nsource = \"a\"\ndestinations = [\"file:///a\"]\n";
        for (text, problem) in [
            ("", "no `[[sync]]`"),
            ("x", "not TOML"),
            ("[other]\n", "unknown table `other`"),
            ("[[sync]]\nsource = \"a\"\n", "`destinations` is missing"),
            (&format!("{sync}sbdir = [\"x\"]\n"), "--sbdir"),
            (&format!("{sync}grace = \"soon\"\n"), "soon"),
            (&format!("{sync}sync-file = \"x\"\n"), "sync-file"),
        ] {
            let error = parsed(text).err().unwrap_or_default();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
