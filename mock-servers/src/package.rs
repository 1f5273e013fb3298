//! Conda packages built in memory. Deterministic.

use bytes::Bytes;
use md5::Md5;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::archive::{self, Member};

/// The placeholder: 255 bytes, as in conda-build, so that every real prefix fits.
pub const PLACEHOLDER: &str = concat!(
    "/opt/taipan-demo-build/",
    "placeholder_placeholder_placeholder_placeholder_placeholder_placeholder_placeholder_",
    "placeholder_placeholder_placeholder_placeholder_placeholder_placeholder_placeholder_",
    "placeholder_placeholder_placeholder_placeholder_placeholder_plac"
);
const _: () = assert!(PLACEHOLDER.len() == 255);

/// How a file contains the placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placeholder {
    #[default]
    None,
    Text,
    Binary,
}

/// A regular file of a package.
#[derive(Debug, Clone)]
pub struct PackageFile {
    pub path: String,
    pub bytes: Bytes,
    pub mode: u32,
    pub placeholder: Placeholder,
}

/// A hard link inside the archive; the target is the path of a file of the package.
#[derive(Debug, Clone)]
pub struct HardLink {
    pub path: String,
    pub target: String,
}

/// A member that is written to the archive unchanged, and is not in `paths.json`.
#[derive(Debug, Clone)]
pub struct RawEntry {
    pub name: Vec<u8>,
    /// The type flag: `0` file, `1` hard link, `2` symbolic link, `5` directory, and so on.
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u32,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Noarch {
    #[default]
    None,
    Generic,
    Python,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchiveFormat {
    #[default]
    Conda,
    TarBz2,
}

/// A finished package.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Package {
    pub name: String,
    pub version: String,
    pub build: String,
    /// `linux-64` or `noarch`.
    pub subdir: String,
    /// `NAME-VERSION-BUILD.conda` or `.tar.bz2`
    pub file_name: String,
    pub bytes: Bytes,
    /// The record of `repodata.json`: index, size and digests.
    pub record: Map<String, Value>,
}

impl Package {
    /// `SUBDIR/FILE_NAME`, the path in a channel.
    pub fn path(&self) -> String {
        format!("{}/{}", self.subdir, self.file_name)
    }

    /// In hexadecimal.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.bytes))
    }
}

/// Describes a package and builds it.
#[derive(Debug, Clone)]
pub struct PackageBuilder {
    name: String,
    version: String,
    build: String,
    build_number: u64,
    subdir: String,
    depends: Vec<String>,
    constrains: Vec<String>,
    track_features: String,
    noarch: Noarch,
    license: String,
    timestamp: u64,
    format: ArchiveFormat,
    files: Vec<PackageFile>,
    symlinks: Vec<(String, String)>,
    hard_links: Vec<HardLink>,
    entry_points: Vec<String>,
    info_files: Vec<(String, Bytes)>,
    raw: Vec<RawEntry>,
    paths_json: bool,
}

impl PackageBuilder {
    /// A package for linux-64 with build string `0`, build number 0 and no files.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            build: "0".to_owned(),
            build_number: 0,
            subdir: "linux-64".to_owned(),
            depends: Vec::new(),
            constrains: Vec::new(),
            track_features: String::new(),
            noarch: Noarch::None,
            license: "BSD-3-Clause".to_owned(),
            timestamp: 1_700_000_000_000,
            format: ArchiveFormat::Conda,
            files: Vec::new(),
            symlinks: Vec::new(),
            hard_links: Vec::new(),
            entry_points: Vec::new(),
            info_files: Vec::new(),
            raw: Vec::new(),
            paths_json: true,
        }
    }

    /// Build string and number.
    #[must_use]
    pub fn build_string(mut self, build: impl Into<String>, number: u64) -> Self {
        self.build = build.into();
        self.build_number = number;
        self
    }

    #[must_use]
    pub fn subdir(mut self, subdir: impl Into<String>) -> Self {
        self.subdir = subdir.into();
        self
    }

    /// Adds a dependency.
    #[must_use]
    pub fn depends(mut self, spec: impl Into<String>) -> Self {
        self.depends.push(spec.into());
        self
    }

    /// Adds a constraint on a package that may be installed beside this one.
    #[must_use]
    pub fn constrains(mut self, spec: impl Into<String>) -> Self {
        self.constrains.push(spec.into());
        self
    }

    /// Features to be tracked, separated by spaces.
    #[must_use]
    pub fn track_features(mut self, features: impl Into<String>) -> Self {
        self.track_features = features.into();
        self
    }

    /// Makes it noarch, and moves it to that subdir.
    #[must_use]
    pub fn noarch(mut self, noarch: Noarch) -> Self {
        self.noarch = noarch;
        if noarch != Noarch::None {
            "noarch".clone_into(&mut self.subdir);
        }
        self
    }

    #[must_use]
    pub fn license(mut self, license: impl Into<String>) -> Self {
        self.license = license.into();
        self
    }

    /// Milliseconds since 1970; the files get the same time.
    #[must_use]
    pub fn timestamp(mut self, milliseconds: u64) -> Self {
        self.timestamp = milliseconds;
        self
    }

    #[must_use]
    pub fn format(mut self, format: ArchiveFormat) -> Self {
        self.format = format;
        self
    }

    /// Adds a file of mode 0644 without placeholder.
    #[must_use]
    pub fn file(self, path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        self.add_file(PackageFile {
            path: path.into(),
            bytes: bytes.into(),
            mode: 0o644,
            placeholder: Placeholder::None,
        })
    }

    /// Adds a file of mode 0755 whose text may contain [`PLACEHOLDER`].
    #[must_use]
    pub fn script(self, path: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let placeholder = if text.contains(PLACEHOLDER) {
            Placeholder::Text
        } else {
            Placeholder::None
        };
        self.add_file(PackageFile {
            path: path.into(),
            bytes: text.into(),
            mode: 0o755,
            placeholder,
        })
    }

    /// Adds a file with all its properties.
    #[must_use]
    pub fn add_file(mut self, file: PackageFile) -> Self {
        self.files.push(file);
        self
    }

    /// Adds a link script: `action` is `pre-link`, `post-link` or `pre-unlink`.
    #[must_use]
    pub fn link_script(self, action: &str, text: impl Into<String>) -> Self {
        let path = format!("bin/.{}-{action}.sh", self.name);
        self.script(path, text)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.symlinks.push((path.into(), target.into()));
        self
    }

    /// Adds a hard link to a file of this package.
    #[must_use]
    pub fn hard_link(mut self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.hard_links.push(HardLink {
            path: path.into(),
            target: target.into(),
        });
        self
    }

    /// Adds an entry point, `command = module:function`, for a noarch python package.
    #[must_use]
    pub fn entry_point(mut self, entry_point: impl Into<String>) -> Self {
        self.entry_points.push(entry_point.into());
        self
    }

    /// Adds a file below `info/`, or replaces the one that would be generated.
    #[must_use]
    pub fn info_file(mut self, name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        self.info_files.push((name.into(), bytes.into()));
        self
    }

    /// Leaves out `info/paths.json`, as packages from before 2016 do.
    #[must_use]
    pub fn without_paths_json(mut self) -> Self {
        self.paths_json = false;
        self
    }

    /// Adds a member to the archive (for `.conda`: to its `pkg` part) after all others.
    #[must_use]
    pub fn raw(mut self, entry: RawEntry) -> Self {
        self.raw.push(entry);
        self
    }

    /// Builds the package.
    pub fn build(&self) -> Package {
        let index = self.index();
        let mtime = self.timestamp / 1000;
        let mut info = Vec::new();
        for (name, bytes) in self.info(&index) {
            let name = format!("info/{name}");
            let member = Member {
                name: name.as_bytes(),
                kind: b'0',
                link: b"",
                mode: 0o644,
                data: &bytes,
            };
            archive::append(&mut info, &member, mtime);
        }
        let mut pkg = Vec::new();
        self.contents(&mut pkg, mtime);
        let stem = format!("{}-{}-{}", self.name, self.version, self.build);
        let (file_name, bytes) = match self.format {
            ArchiveFormat::Conda => {
                archive::finish(&mut info);
                archive::finish(&mut pkg);
                (format!("{stem}.conda"), archive::conda(&stem, &info, &pkg))
            }
            ArchiveFormat::TarBz2 => {
                let mut whole = info;
                whole.extend_from_slice(&pkg);
                archive::finish(&mut whole);
                (format!("{stem}.tar.bz2"), archive::tar_bz2(&whole))
            }
        };
        let mut record = index;
        record.insert("md5".to_owned(), hex::encode(Md5::digest(&bytes)).into());
        record.insert(
            "sha256".to_owned(),
            hex::encode(Sha256::digest(&bytes)).into(),
        );
        record.insert("size".to_owned(), bytes.len().into());
        Package {
            name: self.name.clone(),
            version: self.version.clone(),
            build: self.build.clone(),
            subdir: self.subdir.clone(),
            file_name,
            bytes: bytes.into(),
            record,
        }
    }

    fn contents(&self, pkg: &mut Vec<u8>, mtime: u64) {
        let mut put = |name: &[u8], kind: u8, link: &[u8], mode: u32, data: &[u8]| {
            archive::append(
                pkg,
                &Member {
                    name,
                    kind,
                    link,
                    mode,
                    data,
                },
                mtime,
            );
        };
        for file in &self.files {
            put(file.path.as_bytes(), b'0', b"", file.mode, &file.bytes);
        }
        for link in &self.hard_links {
            let mode = self.file_at(&link.target).map_or(0o644, |file| file.mode);
            put(
                link.path.as_bytes(),
                b'1',
                link.target.as_bytes(),
                mode,
                b"",
            );
        }
        for (path, target) in &self.symlinks {
            put(path.as_bytes(), b'2', target.as_bytes(), 0o777, b"");
        }
        for entry in &self.raw {
            put(
                &entry.name,
                entry.kind,
                &entry.link,
                entry.mode,
                &entry.data,
            );
        }
    }

    fn file_at(&self, path: &str) -> Option<&PackageFile> {
        self.files.iter().find(|file| file.path == path)
    }

    fn index(&self) -> Map<String, Value> {
        let mut index = Map::new();
        let mut put = |key: &str, value: Value| index.insert(key.to_owned(), value);
        if self.subdir == "linux-64" {
            put("arch", "x86_64".into());
        }
        put("build", self.build.clone().into());
        put("build_number", self.build_number.into());
        if !self.constrains.is_empty() {
            put("constrains", self.constrains.clone().into());
        }
        put("depends", self.depends.clone().into());
        put("license", self.license.clone().into());
        put("name", self.name.clone().into());
        match self.noarch {
            Noarch::None => {}
            Noarch::Generic => _ = put("noarch", "generic".into()),
            Noarch::Python => _ = put("noarch", "python".into()),
        }
        if self.subdir == "linux-64" {
            put("platform", "linux".into());
        }
        put("subdir", self.subdir.clone().into());
        put("timestamp", self.timestamp.into());
        if !self.track_features.is_empty() {
            put("track_features", self.track_features.clone().into());
        }
        put("version", self.version.clone().into());
        index
    }

    /// Name and content of each file below `info/`.
    fn info(&self, index: &Map<String, Value>) -> Vec<(String, Bytes)> {
        let mut info: Vec<(String, Bytes)> = Vec::new();
        info.push(("index.json".to_owned(), pretty(index)));
        if self.paths_json {
            info.push(("paths.json".to_owned(), pretty(&self.paths())));
        }
        let mut names: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        names.extend(self.hard_links.iter().map(|link| link.path.as_str()));
        names.extend(self.symlinks.iter().map(|(path, _)| path.as_str()));
        names.sort_unstable();
        info.push((
            "files".to_owned(),
            lines(names.iter().map(|name| (*name).to_owned())),
        ));
        let prefixed: Vec<String> = self
            .files
            .iter()
            .filter_map(|file| {
                let mode = mode(file.placeholder)?;
                Some(format!("{PLACEHOLDER} {mode} {}", file.path))
            })
            .collect();
        if !prefixed.is_empty() {
            info.push(("has_prefix".to_owned(), lines(prefixed.into_iter())));
        }
        let about = json!({ "license": self.license, "summary": "a package of the demo channel" });
        info.push(("about.json".to_owned(), pretty(&about)));
        if self.noarch != Noarch::None {
            let link = if self.noarch == Noarch::Python {
                json!({ "type": "python", "entry_points": self.entry_points })
            } else {
                json!({ "type": "generic" })
            };
            let link = json!({ "noarch": link, "package_metadata_version": 1 });
            info.push(("link.json".to_owned(), pretty(&link)));
        }
        for (name, bytes) in &self.info_files {
            match info.iter_mut().find(|(generated, _)| generated == name) {
                Some((_, generated)) => generated.clone_from(bytes),
                None => info.push((name.clone(), bytes.clone())),
            }
        }
        info
    }

    fn paths(&self) -> Value {
        let described = |path: &str, kind: &str, bytes: &[u8]| {
            let mut entry = Map::new();
            entry.insert("_path".to_owned(), path.into());
            entry.insert("path_type".to_owned(), kind.into());
            entry.insert(
                "sha256".to_owned(),
                hex::encode(Sha256::digest(bytes)).into(),
            );
            entry.insert("size_in_bytes".to_owned(), bytes.len().into());
            entry
        };
        let prefixed = |mut entry: Map<String, Value>, placeholder| {
            if let Some(mode) = mode(placeholder) {
                entry.insert("file_mode".to_owned(), mode.into());
                entry.insert("prefix_placeholder".to_owned(), PLACEHOLDER.into());
            }
            entry
        };
        let mut paths: Vec<Map<String, Value>> = self
            .files
            .iter()
            .map(|file| {
                prefixed(
                    described(&file.path, "hardlink", &file.bytes),
                    file.placeholder,
                )
            })
            .collect();
        for link in &self.hard_links {
            let target = self.file_at(&link.target);
            let bytes = target.map_or(&b""[..], |file| &file.bytes);
            let placeholder = target.map_or(Placeholder::None, |file| file.placeholder);
            paths.push(prefixed(
                described(&link.path, "hardlink", bytes),
                placeholder,
            ));
        }
        for (path, target) in &self.symlinks {
            // conda-build writes the digest of the target, and that of no bytes for a dangling link.
            let bytes = self
                .file_at(&resolve(path, target))
                .map_or(&b""[..], |file| &file.bytes);
            paths.push(described(path, "softlink", bytes));
        }
        paths.sort_by(|a, b| a["_path"].as_str().cmp(&b["_path"].as_str()));
        json!({ "paths": paths, "paths_version": 1 })
    }
}

fn mode(placeholder: Placeholder) -> Option<&'static str> {
    match placeholder {
        Placeholder::None => None,
        Placeholder::Text => Some("text"),
        Placeholder::Binary => Some("binary"),
    }
}

/// The target of a relative link of the package.
fn resolve(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn pretty(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec_pretty(value)
        .expect("JSON values with string keys always serialise")
        .into()
}

fn lines(lines: impl Iterator<Item = String>) -> Bytes {
    lines.map(|line| line + "\n").collect::<String>().into()
}
