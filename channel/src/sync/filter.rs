//! Which packages of a channel are mirrored.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    io,
    path::Path,
};

use rattler_conda_types::{MatchSpec, PackageRecord, ParseMatchSpecOptions};
use taipan_transfer::Sha256;

use crate::{
    odd_fields::parse_record,
    records::{RecordTable, Row},
};

/// Whether a package is mirrored.
enum Kept {
    No,
    Yes,
    Record(Box<PackageRecord>),
}

/// Why filters cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A spec is invalid.
    #[error("invalid spec `{spec}`")]
    Spec {
        /// The spec.
        spec: String,
        /// The cause.
        source: rattler_conda_types::ParseMatchSpecError,
    },
    /// The index cannot be read.
    #[error("cannot read the index")]
    Read(#[source] io::Error),
}

/// Which packages of a channel are mirrored. Without any condition all are.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Vec<MatchSpec>,
    exclude: Vec<MatchSpec>,
    /// Only packages with these names.
    names: Option<BTreeSet<String>>,
    /// Only these files.
    files: Option<BTreeSet<String>>,
    /// The number of versions of each name that are kept, the newest.
    newest: Option<usize>,
    /// Only packages that were made before this time, in milliseconds since 1970.
    made_before: Option<i64>,
    /// What makes filters equal.
    description: String,
}

impl Filter {
    /// All packages.
    pub fn all() -> Self {
        Self::default()
    }

    fn describe(&mut self, what: &str, value: &str) {
        self.description.extend([what, " ", value, "\n"]);
    }

    /// Only packages that one of these specs matches.
    pub fn include(&mut self, spec: &str) -> Result<(), FilterError> {
        self.describe("include", spec);
        self.include.push(parse(spec)?);
        Ok(())
    }

    /// No packages that one of these specs matches.
    pub fn exclude(&mut self, spec: &str) -> Result<(), FilterError> {
        self.describe("exclude", spec);
        self.exclude.push(parse(spec)?);
        Ok(())
    }

    /// Only packages with these names.
    pub fn only_names(&mut self, names: impl IntoIterator<Item = String>) {
        let names: BTreeSet<String> = names.into_iter().map(|it| it.to_lowercase()).collect();
        for name in &names {
            self.describe("name", name);
        }
        self.names = Some(match self.names.take() {
            Some(earlier) => earlier.intersection(&names).cloned().collect(),
            None => names,
        });
    }

    /// Only these files, and those of earlier calls.
    pub fn only_files(&mut self, files: impl IntoIterator<Item = String>) {
        let files: BTreeSet<String> = files.into_iter().collect();
        for file in &files {
            self.describe("file", file);
        }
        self.files.get_or_insert_default().extend(files);
    }

    /// The wanted files that an index does not list.
    pub(super) fn unlisted(&self, table: &RecordTable) -> Vec<String> {
        let Some(files) = &self.files else {
            return Vec::new();
        };
        let listed: BTreeSet<&str> = table
            .rows()
            .iter()
            .map(|row| table.file_name(row))
            .collect();
        let unlisted = files.iter().filter(|file| !listed.contains(&***file));
        unlisted.cloned().collect()
    }

    /// Keeps only the newest versions of each name, this many, with all their builds.
    pub fn newest(&mut self, count: usize) {
        self.describe("newest", &count.to_string());
        self.newest = Some(count);
    }

    /// Only packages that were made before this time, in milliseconds since 1970. Packages without a time are kept.
    pub fn made_before(&mut self, milliseconds: i64) {
        self.describe("before", &milliseconds.to_string());
        self.made_before = Some(milliseconds);
    }

    /// Whether all packages are mirrored.
    pub fn is_empty(&self) -> bool {
        self.description.is_empty()
    }

    /// The same for the same filters.
    pub(super) fn digest(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        Sha256::of(self.description.as_bytes()).to_string()
    }

    fn needs_records(&self) -> bool {
        !self.include.is_empty()
            || !self.exclude.is_empty()
            || self.newest.is_some()
            || self.made_before.is_some()
    }

    /// The numbers of the rows that are left out. `text` is the file of the index.
    pub(super) fn left_out(
        &self,
        table: &RecordTable,
        text: &Path,
    ) -> Result<BTreeSet<usize>, FilterError> {
        let mut left_out = BTreeSet::new();
        if self.is_empty() {
            return Ok(left_out);
        }
        let mut file = File::open(text).map_err(FilterError::Read)?;
        // By name: the versions, each with its rows.
        let mut versions: HashMap<String, BTreeMap<rattler_conda_types::Version, Vec<usize>>> =
            HashMap::new();
        for (number, row) in table.rows().iter().enumerate() {
            match self.keeps(table, row, &mut file)? {
                Kept::No => {
                    left_out.insert(number);
                }
                Kept::Record(record) if self.newest.is_some() => {
                    let name = record.name.as_normalized().to_owned();
                    let version = record.version.version().clone();
                    let rows = versions.entry(name).or_default().entry(version);
                    rows.or_default().push(number);
                }
                Kept::Yes | Kept::Record(_) => {}
            }
        }
        if let Some(newest) = self.newest {
            for versions in versions.into_values() {
                let old = versions.len().saturating_sub(newest);
                left_out.extend(versions.into_values().take(old).flatten());
            }
        }
        Ok(left_out)
    }

    /// Whether a package is mirrored; with its record, if filters need it.
    fn keeps(&self, table: &RecordTable, row: &Row, file: &mut File) -> Result<Kept, FilterError> {
        let file_name = table.file_name(row);
        if self
            .files
            .as_ref()
            .is_some_and(|files| !files.contains(file_name))
        {
            return Ok(Kept::No);
        }
        if let Some(names) = &self.names {
            let name = name_of(file_name).unwrap_or_default().to_lowercase();
            if !names.contains(&name) {
                return Ok(Kept::No);
            }
        }
        if !self.needs_records() {
            return Ok(Kept::Yes);
        }
        let text = RecordTable::text(row, file).map_err(FilterError::Read)?;
        // A record that cannot be read cannot be compared, and clients cannot use it.
        let Ok(record) = parse_record::<PackageRecord>(&text) else {
            return Ok(Kept::No);
        };
        let matches = |specs: &[MatchSpec]| {
            use rattler_conda_types::Matches as _;
            specs.iter().any(|spec| spec.matches(&record))
        };
        let is_included = self.include.is_empty() || matches(&self.include);
        let is_young = match (self.made_before, &record.timestamp) {
            (Some(limit), Some(made)) => made.timestamp_millis() >= limit,
            _ => false,
        };
        if !is_included || is_young || matches(&self.exclude) {
            return Ok(Kept::No);
        }
        Ok(Kept::Record(Box::new(record)))
    }
}

pub(super) fn parse(spec: &str) -> Result<MatchSpec, FilterError> {
    // `numpy*` is a name, too: filters are about many packages.
    let options = ParseMatchSpecOptions::lenient().with_exact_names_only(false);
    MatchSpec::from_str(spec, options).map_err(|source| FilterError::Spec {
        spec: spec.to_owned(),
        source,
    })
}

/// The name that a file name begins with.
pub(super) fn name_of(file_name: &str) -> Option<&str> {
    let stem = (file_name.strip_suffix(".conda")).or_else(|| file_name.strip_suffix(".tar.bz2"))?;
    stem.rsplitn(3, '-').nth(2)
}

/// The names that the packages of these names need, directly and indirectly, by the dependencies of all their versions.
pub(super) fn closure(
    roots: impl IntoIterator<Item = String>,
    needs: &HashMap<String, HashSet<String>>,
) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = roots.into_iter().collect();
    while let Some(name) = open.pop() {
        if found.contains(&name) {
            continue;
        }
        open.extend(needs.get(&name).into_iter().flatten().cloned());
        found.insert(name);
    }
    found
}
