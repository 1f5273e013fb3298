//! Packages, prefixes and a look at what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use rattler_conda_types::{
    NoArchType, PackageName, PackageRecord, PrefixRecord, RepoDataRecord, VersionWithSource,
};
use serde_json::{Value, json};

use crate::error::PrefixError;
use crate::link::{LinkObserver, LinkOptions, LinkPackage, LinkWarning};
use crate::prefix::Prefix;
use crate::recovery::LockedPrefix;
use crate::transaction::plan::DesiredPackage;
use crate::transaction::{Plan, Summary, Transaction};

pub(super) const PLACEHOLDER: &str = "/placeholder/placeholder/placeholder/placeholder/placeholder/placeholder/placeholder/placeholder/placeholder/placeholder/placeholder/placeholder";

/// A package under construction. Files are written at once, the lists at the end.
#[derive(Debug)]
pub(super) struct Builder {
    dir: PathBuf,
    record: PackageRecord,
    paths: Vec<Value>,
}

impl Builder {
    /// A package `name-version-0` below `store`.
    pub(super) fn new(store: &Path, name: &str, version: &str) -> Self {
        let dir = store.join(format!("{name}-{version}-0"));
        fs::create_dir_all(dir.join("info")).unwrap();
        let mut record = PackageRecord::new(
            PackageName::new_unchecked(name),
            version.parse::<VersionWithSource>().unwrap(),
            "0".parse().unwrap(),
        );
        record.subdir = "linux-64".to_owned();
        Self {
            dir,
            record,
            paths: Vec::new(),
        }
    }

    pub(super) fn record(mut self, edit: impl FnOnce(&mut PackageRecord)) -> Self {
        edit(&mut self.record);
        self
    }

    pub(super) fn depends(self, specs: &[&str]) -> Self {
        self.record(|record| {
            record.depends = specs.iter().map(|&spec| spec.to_owned()).collect();
        })
    }

    pub(super) fn noarch_python(self, entry_points: &[&str]) -> Self {
        let link = json!({
            "noarch": {"type": "python", "entry_points": entry_points},
            "package_metadata_version": 1
        });
        self.info("link.json", &link.to_string()).record(|record| {
            record.noarch = NoArchType::python();
            "noarch".clone_into(&mut record.subdir);
        })
    }

    pub(super) fn info(self, file: &str, content: &str) -> Self {
        fs::write(self.dir.join("info").join(file), content).unwrap();
        self
    }

    /// Writes a file without listing it.
    pub(super) fn unlisted(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let full = self.dir.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, content).unwrap();
        self
    }

    /// Lists a path without writing anything.
    pub(super) fn listed(mut self, entry: Value) -> Self {
        self.paths.push(entry);
        self
    }

    pub(super) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.unlisted(path, content)
            .listed(json!({"_path": path, "path_type": "hardlink"}))
    }

    pub(super) fn mode(self, path: &str, mode: u32) -> Self {
        fs::set_permissions(self.dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub(super) fn with_placeholder(
        self,
        path: &str,
        mode: &str,
        content: impl AsRef<[u8]>,
    ) -> Self {
        self.unlisted(path, content).listed(json!({
            "_path": path, "path_type": "hardlink", "file_mode": mode,
            "prefix_placeholder": PLACEHOLDER, "sha256": "00".repeat(32), "size_in_bytes": 1
        }))
    }

    pub(super) fn link(self, path: &str, target: &str) -> Self {
        let full = self.dir.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&full);
        symlink(target, full).unwrap();
        self.listed(json!({"_path": path, "path_type": "softlink"}))
    }

    /// Without `paths.json`, as packages were before it.
    pub(super) fn build_without_paths(self) -> LinkPackage {
        let name = self.record.name.as_normalized().to_owned();
        let file = format!("{name}-{}-0.conda", self.record.version);
        let url = format!(
            "https://conda.example/channel/{}/{file}",
            self.record.subdir
        );
        let record = RepoDataRecord {
            package_record: self.record,
            identifier: file.parse().unwrap(),
            url: url.parse().unwrap(),
            channel: Some("https://conda.example/channel".to_owned()),
        };
        LinkPackage::new(record, self.dir)
    }

    pub(super) fn build(self) -> LinkPackage {
        let paths = json!({"paths": self.paths, "paths_version": 1}).to_string();
        self.info("paths.json", &paths).build_without_paths()
    }
}

/// A place with a store and a prefix.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) root: tempfile::TempDir,
    pub(super) prefix: Prefix,
}

impl Place {
    pub(super) fn new() -> Self {
        Self::named("env")
    }

    pub(super) fn named(name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let prefix = Prefix::open(root.path().join(name)).unwrap();
        Self { root, prefix }
    }

    pub(super) fn package(&self, name: &str, version: &str) -> Builder {
        Builder::new(&self.root.path().join("store"), name, version)
    }

    pub(super) fn lock(&self) -> LockedPrefix {
        self.prefix.lock(&AtomicBool::new(false)).unwrap()
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.prefix.path().join(path)
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Makes the prefix hold exactly these packages.
    pub(super) fn install(&self, packages: &[&LinkPackage]) -> Result<Summary, PrefixError> {
        self.install_with(packages, &quick(), &())
    }

    pub(super) fn install_with(
        &self,
        packages: &[&LinkPackage],
        options: &LinkOptions,
        observer: &dyn LinkObserver,
    ) -> Result<Summary, PrefixError> {
        let cancel = AtomicBool::new(false);
        install(&self.prefix, packages, options, observer, &cancel)
    }

    pub(super) fn record(&self, name: &str) -> PrefixRecord {
        let records = self.prefix.records().unwrap();
        let found = records
            .into_iter()
            .find(|record| record.repodata_record.package_record.name.as_normalized() == name);
        found.unwrap()
    }

    pub(super) fn snapshot(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        if self.prefix.path().exists() {
            snapshot(self.prefix.path(), "", &mut out);
        }
        out
    }
}

pub(super) fn install(
    prefix: &Prefix,
    packages: &[&LinkPackage],
    options: &LinkOptions,
    observer: &dyn LinkObserver,
    cancel: &AtomicBool,
) -> Result<Summary, PrefixError> {
    let locked = prefix.lock(cancel)?;
    let wanted: Vec<DesiredPackage> = packages
        .iter()
        .map(|package| DesiredPackage {
            record: package.record.clone(),
            requested_specs: Some(package.requested_specs.clone()),
        })
        .collect();
    let plan = Plan::between(&prefix.records()?, &wanted)?;
    let transaction = Transaction::with_packages(plan, |planned| {
        let package = packages
            .iter()
            .find(|package| package.record == planned.record)
            .unwrap();
        (*package).clone()
    });
    transaction.execute(&locked, options, observer, cancel)
}

/// Options for packages without python.
pub(super) fn quick() -> LinkOptions {
    LinkOptions::default()
        .with_threads(2)
        .with_tool("tool", "1.0", "tool create")
}

/// Every path with its kind, mode and content; times and the lock are left out.
fn snapshot(dir: &Path, prefix: &str, out: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        if metadata.is_symlink() {
            out.insert(
                name,
                format!("-> {}", fs::read_link(entry.path()).unwrap().display()),
            );
        } else if metadata.is_dir() {
            out.insert(name.clone(), "directory".to_owned());
            snapshot(&entry.path(), &format!("{name}/"), out);
        } else if name != "conda-meta/.taipan-lock" {
            let content = fs::read(entry.path()).unwrap();
            let mut content = String::from_utf8_lossy(&content).into_owned();
            if name == "conda-meta/history" {
                let undated = content.lines().map(|line| {
                    if line.starts_with("==>") {
                        "==> DATE <=="
                    } else {
                        line
                    }
                });
                content = undated.collect::<Vec<_>>().join("\n");
            }
            out.insert(
                name,
                format!("{:o} {content}", metadata.permissions().mode() & 0o7777),
            );
        }
    }
}

/// Writes down what it is told.
#[derive(Debug, Default)]
pub(super) struct Diary {
    pub(super) warnings: Mutex<Vec<LinkWarning>>,
    pub(super) lines: Mutex<Vec<String>>,
}

impl Diary {
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub(super) fn warnings(&self) -> Vec<LinkWarning> {
        self.warnings.lock().unwrap().clone()
    }

    fn note(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
}

impl LinkObserver for Diary {
    fn started(&self, unlink: usize, link: usize, files: usize) {
        self.note(format!("started -{unlink} +{link} {files}"));
    }
    fn package_unlinked(&self, package: &str) {
        self.note(format!("unlinked {package}"));
    }
    fn package_started(&self, package: &str, files: usize) {
        self.note(format!("linking {package} {files}"));
    }
    fn package_done(&self, package: &str) {
        self.note(format!("linked {package}"));
    }
    fn script_started(&self, package: &str, kind: &'static str) {
        self.note(format!("{kind} {package}"));
    }
    fn script_output(&self, package: &str, kind: &'static str, output: &str) {
        self.note(format!("{kind} {package} says {}", output.trim()));
    }
    fn message(&self, package: &str, text: &str) {
        self.note(format!("message {package}: {text}"));
    }
    fn compile_done(&self, files: usize) {
        self.note(format!("compiled {files}"));
    }
    fn warning(&self, warning: &LinkWarning) {
        self.warnings.lock().unwrap().push(warning.clone());
    }
}
