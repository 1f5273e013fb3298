//! The filters of a sync, from the command line and its files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use taipan_channel::{Filter, MirroredChannel, needed_names};
use taipan_transfer::Engine;

use crate::{args::SyncArgs, context::Context, error::AppError};

/// The largest file of names, specs or locks that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// The filters, by subdir where they differ.
pub(super) struct Filters {
    common: Filter,
    /// What each subdir gets of lock files; empty without any.
    locked: BTreeMap<String, Filter>,
    has_lock: bool,
    nothing: Filter,
    include: Vec<String>,
    names: Vec<String>,
}

impl Filters {
    /// Reads the options, and the files that they name.
    pub(super) fn read(args: &SyncArgs) -> Result<Self, AppError> {
        let mut common = Filter::all();
        if !args.with_dependencies {
            for spec in &args.include {
                common.include(spec)?;
            }
        } else if args.include.is_empty() && args.only_names_in.is_empty() {
            return Err(AppError::NothingToClose);
        }
        for spec in &args.exclude {
            common.exclude(spec)?;
        }
        for path in &args.exclude_file {
            for spec in lines(&read(path)?) {
                common.exclude(&spec)?;
            }
        }
        let mut names = Vec::new();
        for path in &args.only_names_in {
            names.extend(lines(&read(path)?));
        }
        if !args.only_names_in.is_empty() && !args.with_dependencies {
            common.only_names(names.clone());
        }
        if let Some(count) = args.newest {
            common.newest(usize::try_from(count).unwrap_or(usize::MAX));
        }
        if let Some(text) = &args.exclude_newer {
            common.made_before(
                milliseconds(text).ok_or_else(|| AppError::Date { text: text.clone() })?,
            );
        }
        let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for path in &args.lock {
            let mut is_empty = true;
            for (subdir, file) in packages_of(&read(path)?) {
                is_empty = false;
                files.entry(subdir).or_default().insert(file);
            }
            if is_empty {
                let path = path.clone();
                return Err(AppError::EmptyLock { path });
            }
        }
        let mut locked = BTreeMap::new();
        for (subdir, files) in files {
            let mut filter = common.clone();
            filter.only_files(files);
            locked.insert(subdir, filter);
        }
        let mut nothing = Filter::all();
        nothing.only_files([]);
        Ok(Self {
            common,
            locked,
            has_lock: !args.lock.is_empty(),
            nothing,
            include: args.include.clone(),
            names,
        })
    }

    /// The filter of a subdir.
    pub(super) fn of(&self, subdir: &str) -> &Filter {
        match self.locked.get(subdir) {
            Some(filter) => filter,
            None if self.has_lock => &self.nothing,
            None => &self.common,
        }
    }

    /// Adds what the wanted packages depend on, in all subdirs.
    pub(super) async fn close(
        &mut self,
        engine: &Engine,
        source: &MirroredChannel,
        subdirs: &[String],
        _: &Context,
        work: &Path,
    ) -> Result<(), AppError> {
        let names = needed_names(engine, source, subdirs, &self.include, &self.names, work).await?;
        self.common.only_names(names.iter().cloned());
        for filter in self.locked.values_mut() {
            filter.only_names(names.iter().cloned());
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, AppError> {
    let failed = |source| AppError::ReadFile {
        path: PathBuf::from(path),
        source,
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// The lines that are neither empty nor comments.
fn lines(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().map(|line| {
        let line = line.split_once(" #").map_or(line, |(before, _)| before);
        line.trim()
    });
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned)
}

/// The packages that a lock file names: the subdir and the name of the file. All formats name packages by their URLs.
fn packages_of(text: &str) -> impl Iterator<Item = (String, String)> {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '#' | '{' | '}');
    text.split(is_end).filter_map(|word| {
        let is_package = word.ends_with(".conda") || word.ends_with(".tar.bz2");
        if !is_package || !word.contains("://") {
            return None;
        }
        let mut parts = word.rsplit('/');
        let (file, subdir) = (parts.next()?, parts.next()?);
        Some((subdir.to_owned(), file.to_owned()))
    })
}

/// A date or time in milliseconds since 1970; a date is its beginning, in UTC.
fn milliseconds(text: &str) -> Option<i64> {
    let time = text.parse::<jiff::Timestamp>().ok();
    let time = time.or_else(|| {
        let date: jiff::civil::Date = text.parse().ok()?;
        Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    });
    time.map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_files_of_all_formats_name_their_packages() {
        let text = "@EXPLICIT\nhttps://h.example/c/linux-64/a-1-0.conda#0123\n\
                    - conda: https://h.example/c/noarch/b-1-0.tar.bz2\n  sha256: x\n\
                    url: 'https://h.example/c/linux-64/c-1-0.conda'\n# d-1-0.conda\n";
        let found: Vec<(String, String)> = packages_of(text).collect();
        let expected = [
            ("linux-64", "a-1-0.conda"),
            ("noarch", "b-1-0.tar.bz2"),
            ("linux-64", "c-1-0.conda"),
        ];
        let expected = expected.map(|(subdir, file)| (subdir.to_owned(), file.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn dates_begin_in_utc() {
        assert_eq!(milliseconds("1970-01-02"), Some(86_400_000));
        assert_eq!(milliseconds("1970-01-01T00:00:01Z"), Some(1000));
        assert_eq!(milliseconds("yesterday"), None);
    }

    #[test]
    fn comments_are_no_names() {
        let found: Vec<String> = lines("# x\n\n numpy >=2 # why\nscipy\n").collect();
        assert_eq!(found, ["numpy >=2", "scipy"]);
    }
}
