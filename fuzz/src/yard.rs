use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use taipan_package::{ArchiveError, ArchiveFormat, CancelFlag, ExtractLimits, ExtractSummary};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory,
    File {
        bytes: Vec<u8>,
        mode: u32,
        inode: u64,
    },
    Symlink(Vec<u8>),
}

/// What is below a directory.
pub type Tree = BTreeMap<Vec<u8>, Node>;

/// Small enough that no accepted input makes a run slow.
pub const LIMITS: ExtractLimits = ExtractLimits {
    archive_bytes: 1 << 20,
    extracted_bytes: 1 << 21,
    entries: 64,
    path_bytes: 300,
    path_depth: 16,
    ratio: 1000,
    ratio_allowance: 1 << 21,
    zstd_window_log: 20,
};

/// A directory to extract into, next to files that must stay as they are.
pub struct Yard(tempfile::TempDir);

impl Yard {
    /// With an empty destination.
    #[expect(clippy::new_without_default, reason = "it touches the disk")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
        fs::write(dir.path().join("sentinel"), "untouched").unwrap();
        fs::create_dir(dir.path().join("dest")).unwrap();
        Self(dir)
    }

    /// Extracts, checks what holds of every extraction, and returns what was extracted.
    pub fn extract(
        &self,
        reader: impl io::Read,
        format: ArchiveFormat,
    ) -> Result<(Tree, ExtractSummary), ArchiveError> {
        let dest = self.0.path().join("dest");
        let result = taipan_package::extract(reader, format, &dest, &LIMITS, &CancelFlag::new());
        self.assert_untouched();
        let summary = match result {
            Ok(summary) => summary,
            Err(error) => {
                let text = error.to_string();
                assert!(!text.is_empty() && text.len() < 4096, "{text}");
                return Err(error);
            }
        };
        let tree = tree(&dest);
        let mut files = BTreeMap::new();
        for (path, node) in &tree {
            assert!(path.len() <= LIMITS.path_bytes);
            if let Node::File { bytes, mode, inode } = node {
                assert_eq!(mode & !0o777, 0, "{mode:o}");
                files.insert(inode, bytes.len() as u64);
            }
        }
        let entries = summary.files + summary.hard_links + summary.symlinks + summary.directories;
        assert!(entries <= LIMITS.entries);
        assert!(files.len() as u64 <= summary.files);
        assert!(files.values().sum::<u64>() <= summary.bytes);
        assert!(summary.bytes <= LIMITS.extracted_bytes);
        Ok((tree, summary))
    }

    fn assert_untouched(&self) {
        let names = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        let root = self.0.path();
        assert_eq!(names(root), ["dest", "outside", "sentinel"]);
        assert_eq!(names(&root.join("outside")), ["secret"]);
        for file in ["outside/secret", "sentinel"] {
            let path = root.join(file);
            assert_eq!(fs::read(&path).unwrap(), b"untouched");
            assert_eq!(path.symlink_metadata().unwrap().nlink(), 1);
        }
    }
}

/// The same trees have the same text, whatever their inodes are.
pub fn same(one: &Tree, other: &Tree) -> bool {
    let plain = |tree: &Tree| -> Vec<(Vec<u8>, Node)> {
        let mut tree: Vec<_> = tree.clone().into_iter().collect();
        for (_, node) in &mut tree {
            if let Node::File { inode, .. } = node {
                *inode = 0;
            }
        }
        tree
    };
    plain(one) == plain(other)
}

fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let node = if metadata.is_symlink() {
                Node::Symlink(
                    fs::read_link(&path)
                        .unwrap()
                        .as_os_str()
                        .as_bytes()
                        .to_vec(),
                )
            } else if metadata.is_dir() {
                directories.push(path.clone());
                Node::Directory
            } else {
                assert!(metadata.is_file(), "{}", path.display());
                Node::File {
                    bytes: fs::read(&path).unwrap(),
                    mode: metadata.mode() & 0o7777,
                    inode: metadata.ino(),
                }
            };
            let below = path.strip_prefix(root).unwrap();
            tree.insert(below.as_os_str().as_bytes().to_vec(), node);
        }
    }
    tree
}
