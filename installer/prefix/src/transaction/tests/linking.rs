use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Mutex;

use rattler_conda_types::prefix_record::{LinkType, PathType};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::support::{Diary, PLACEHOLDER, Place, quick};
use crate::error::PrefixError;
use crate::link::{LinkMethod, LinkObserver, LinkWarning};

#[test]
fn files_links_and_directories_arrive() {
    let place = Place::new();
    let package = place
        .package("a", "1")
        .file("bin/tool", "#!/bin/sh\n")
        .mode("bin/tool", 0o755)
        .file("share/dir with space/ümläut 🐍.txt", "x")
        .link("bin/alias", "tool")
        .link("lib/dangling.so", "nowhere.so.1")
        .listed(json!({"_path": "var/empty", "path_type": "directory"}))
        .file("info/hidden", "never linked")
        .build();
    let summary = place.install(&[&package]).unwrap();
    assert_eq!(
        (summary.linked, summary.files),
        (vec!["a-1-0".to_owned()], 5)
    );
    assert_eq!(
        fs::metadata(place.path("bin/tool"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );
    assert_eq!(
        fs::metadata(place.path("bin/tool")).unwrap().ino(),
        fs::metadata(package.source_dir.join("bin/tool"))
            .unwrap()
            .ino()
    );
    assert_eq!(place.read("share/dir with space/ümläut 🐍.txt"), "x");
    assert_eq!(
        fs::read_link(place.path("bin/alias")).unwrap().to_str(),
        Some("tool")
    );
    assert_eq!(
        fs::read_link(place.path("lib/dangling.so"))
            .unwrap()
            .to_str(),
        Some("nowhere.so.1")
    );
    assert!(place.path("var/empty").is_dir());
    assert!(!place.path("info").exists());

    let record = place.record("a");
    let types: Vec<_> = record
        .paths_data
        .paths
        .iter()
        .map(|path| (path.relative_path.to_str().unwrap(), path.path_type))
        .collect();
    assert_eq!(
        types,
        [
            ("bin/alias", PathType::SoftLink),
            ("bin/tool", PathType::HardLink),
            ("lib/dangling.so", PathType::SoftLink),
            ("share/dir with space/ümläut 🐍.txt", PathType::HardLink),
            ("var/empty", PathType::Directory),
        ]
    );
    assert_eq!(record.files.len(), 4, "directories are no files");
    assert_eq!(record.link.unwrap().link_type, Some(LinkType::HardLink));
    let mut leftovers: Vec<_> = fs::read_dir(place.prefix.conda_meta())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    leftovers.sort();
    assert_eq!(leftovers, [".taipan-lock", "a-1-0.json", "history"]);
}

#[test]
fn records_have_every_field_and_keep_unknown_ones() {
    let place = Place::new();
    let mut package = place
        .package("a", "1")
        .file("x", "x")
        .record(|record| {
            record.license = Some("MIT".to_owned());
            record.md5 = Some([1; 16].into());
            record.sha256 = Some([2; 32].into());
            record.size = Some(3);
            record.timestamp = Some(
                jiff::Timestamp::from_millisecond(1_700_000_000_123)
                    .unwrap()
                    .into(),
            );
        })
        .build()
        .with_requested_specs(vec!["a >=1".to_owned()]);
    package.package_tarball_full_path = Some("/cache/a-1-0.conda".into());
    package.record.url = "https://user:secret@conda.example/t/tk-1/channel/linux-64/a-1-0.conda"
        .parse()
        .unwrap();
    package
        .extra
        .insert("x_future".to_owned(), json!({"kept": [1]}));
    place.install(&[&package]).unwrap();

    let text = place.read("conda-meta/a-1-0.json");
    assert!(!text.contains("secret") && !text.contains("tk-1"), "{text}");
    let record: Value = serde_json::from_str(&text).unwrap();
    let source = package.source_dir.to_str().unwrap();
    let expected = json!({
        "build": "0", "build_number": 0, "channel": "https://conda.example/channel",
        "constrains": [], "depends": [], "extracted_package_dir": source, "files": ["x"],
        "fn": "a-1-0.conda", "license": "MIT", "link": {"source": source, "type": 1},
        "md5": "01".repeat(16), "sha256": "02".repeat(32), "size": 3, "name": "a",
        "package_tarball_full_path": "/cache/a-1-0.conda",
        "paths_data": {"paths_version": 1, "paths": [{"_path": "x", "path_type": "hardlink"}]},
        "requested_specs": ["a >=1"], "subdir": "linux-64", "timestamp": 1_700_000_000_123_u64,
        "url": "https://conda.example/channel/linux-64/a-1-0.conda", "version": "1",
        "x_future": {"kept": [1]},
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(record.get(key), Some(value), "{key}");
    }
}

#[test]
fn history_says_what_came_and_went() {
    let place = Place::new();
    let (one, two) = (
        place.package("a", "1").build(),
        place.package("a", "2").build(),
    );
    let options = quick().with_update_specs(vec!["a 1.*".to_owned(), "it's".to_owned()]);
    place.install_with(&[&one], &options, &()).unwrap();
    place.install(&[&two]).unwrap();
    let history = place.snapshot()["conda-meta/history"].clone();
    let channel = "https://conda.example/channel/linux-64::";
    assert_eq!(
        history.split_once(' ').unwrap().1,
        format!(
            "==> DATE <==\n# cmd: tool create\n# tool version: 1.0\n+{channel}a-1-0\n\
             # update specs: ['a 1.*', 'it\\'s']\n\
             ==> DATE <==\n# cmd: tool create\n# tool version: 1.0\n-{channel}a-1-0\n+{channel}a-2-0"
        )
    );
    assert_eq!(
        place.prefix.history().unwrap()[0].update_specs,
        ["a 1.*", "it's"]
    );
}

#[test]
fn the_prefix_is_written_into_text_and_binary_files() {
    let place = Place::new();
    let prefix = place.prefix.path().to_str().unwrap().to_owned();
    let binary = format!("\x7fELF\0{PLACEHOLDER}/lib:{PLACEHOLDER}/x\0tail\0");
    let package = place
        .package("a", "1")
        .with_placeholder(
            "etc/conf",
            "text",
            format!("a={PLACEHOLDER}\nb={PLACEHOLDER}/b\n"),
        )
        .mode("etc/conf", 0o444)
        .with_placeholder("bin/tool", "binary", &binary)
        .mode("bin/tool", 0o755)
        .build();
    place.install(&[&package]).unwrap();

    assert_eq!(
        place.read("etc/conf"),
        format!("a={prefix}\nb={prefix}/b\n")
    );
    let tool = fs::read(place.path("bin/tool")).unwrap();
    assert_eq!(tool.len(), binary.len());
    assert!(tool.starts_with(format!("\x7fELF\0{prefix}/lib:{prefix}/x\0\0").as_bytes()));
    assert!(tool.ends_with(b"\0tail\0"));
    for (path, mode) in [("etc/conf", 0o444), ("bin/tool", 0o755)] {
        let metadata = fs::metadata(place.path(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode);
        let record = place.record("a");
        let entry = record
            .paths_data
            .paths
            .iter()
            .find(|e| e.relative_path.to_str() == Some(path));
        let entry = entry.unwrap();
        let content = fs::read(place.path(path)).unwrap();
        assert_eq!(entry.sha256_in_prefix, Some(Sha256::digest(&content)));
        assert_eq!(entry.size_in_bytes, Some(content.len() as u64));
        assert_eq!(entry.prefix_placeholder.as_deref(), Some(PLACEHOLDER));
    }
    let source = fs::read(package.source_dir.join("etc/conf")).unwrap();
    assert!(
        source.starts_with(format!("a={PLACEHOLDER}").as_bytes()),
        "the store is not touched"
    );
}

#[test]
fn a_prefix_too_long_for_a_binary_is_refused_and_leaves_nothing() {
    let place = Place::named(&"p".repeat(PLACEHOLDER.len()));
    let package = place
        .package("a", "1")
        .file("before", "")
        .with_placeholder("lib/x.so", "binary", format!("{PLACEHOLDER}\0"))
        .build();
    let error = place.install(&[&package]).unwrap_err();
    assert!(
        matches!(error, PrefixError::PrefixTooLong { .. }),
        "{error}"
    );
    assert!(!place.prefix.path().exists());
}

#[test]
fn methods_decide_how_files_arrive() {
    let place = Place::new();
    let package = place
        .package("a", "1")
        .file("x", "x")
        .unlisted("y", "y")
        .listed(json!({"_path": "y", "path_type": "hardlink", "no_link": true}))
        .build();
    let inode = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().ino();
    for (methods, x_linked, link_type) in [
        (vec![LinkMethod::HardLink], true, LinkType::HardLink),
        (vec![], false, LinkType::Copy),
        (vec![LinkMethod::SoftLink], false, LinkType::SoftLink),
    ] {
        place.install_with(&[], &quick(), &()).unwrap();
        let options = quick().with_methods(methods.clone());
        place.install_with(&[&package], &options, &()).unwrap();
        let shares = inode(&place.path("x")) == inode(&package.source_dir.join("x"));
        assert_eq!(shares, x_linked, "{methods:?}");
        assert_eq!(
            place.path("x").is_symlink(),
            methods == [LinkMethod::SoftLink]
        );
        assert_ne!(
            inode(&place.path("y")),
            inode(&package.source_dir.join("y")),
            "no_link"
        );
        assert!(!place.path("y").is_symlink());
        assert_eq!(place.record("a").link.unwrap().link_type, Some(link_type));
    }
}

#[test]
fn packages_older_than_paths_json_are_understood() {
    let place = Place::new();
    let prefix = place.prefix.path().to_str().unwrap().to_owned();
    // In pieces, so that no tool takes this test for a file to be relocated.
    let default = ["/opt/anaconda1", "anaconda2", "anaconda3"].concat();
    let package = place
        .package("old", "1")
        .link("lib/l.so", "l.so.1")
        .unlisted("lib/l.so.1", "lib")
        .unlisted("etc/a", format!("{default}/x"))
        .unlisted("etc/b", "/ph/x")
        .info("files", "lib/l.so\nlib/l.so.1\netc/a\netc/b\n")
        .info("has_prefix", "etc/a\n/ph text etc/b\n")
        .info("no_link", "lib/l.so.1\n")
        .build_without_paths();
    place.install(&[&package]).unwrap();
    assert_eq!(place.read("etc/a"), format!("{prefix}/x"));
    assert_eq!(place.read("etc/b"), format!("{prefix}/x"));
    assert!(place.path("lib/l.so").is_symlink());
    assert_ne!(
        fs::metadata(place.path("lib/l.so.1")).unwrap().ino(),
        fs::metadata(package.source_dir.join("lib/l.so.1"))
            .unwrap()
            .ino()
    );
}

#[test]
fn an_update_replaces_files_by_directories_and_back() {
    let place = Place::new();
    let one = place
        .package("a", "1")
        .file("share/x", "file")
        .file("share/old", "old")
        .build();
    let two = place.package("a", "2").file("share/x/y/z", "deep").build();
    place.install(&[&one]).unwrap();
    place.install(&[&two]).unwrap();
    assert_eq!(place.read("share/x/y/z"), "deep");
    assert!(!place.path("share/old").exists());
    // Byte code that python left in the directory goes with the modules.
    fs::create_dir(place.path("share/x/__pycache__")).unwrap();
    fs::write(place.path("share/x/__pycache__/m.cpython-311.pyc"), "").unwrap();
    place.install(&[&one]).unwrap();
    assert_eq!(place.read("share/x"), "file");
    // A person's file in that directory is not thrown away.
    place.install(&[&two]).unwrap();
    fs::write(place.path("share/x/mine"), "mine").unwrap();
    let before = place.snapshot();
    let error = place.install(&[&one]).unwrap_err();
    assert!(
        matches!(error, PrefixError::DirectoryInTheWay { .. }),
        "{error}"
    );
    assert_eq!(place.snapshot(), before);
}

#[test]
fn removal_takes_what_is_owned_and_leaves_the_rest() {
    let place = Place::new();
    let a = place
        .package("a", "1")
        .file("lib/python/m.py", "")
        .file("lib/python/sub/n.py", "")
        .file("etc/only/a", "")
        .listed(json!({"_path": "var/a", "path_type": "directory"}))
        .build();
    let b = place
        .package("b", "1")
        .file("lib/python/other.py", "")
        .listed(json!({"_path": "var/shared", "path_type": "directory"}))
        .listed(json!({"_path": "etc/only", "path_type": "directory"}))
        .build();
    place.install(&[&a, &b]).unwrap();
    let cache = place.path("lib/python/__pycache__");
    fs::create_dir(&cache).unwrap();
    for file in [
        "m.cpython-311.pyc",
        "m.cpython-311.opt-1.pyc",
        "other.cpython-311.pyc",
    ] {
        fs::write(cache.join(file), "").unwrap();
    }
    fs::write(place.path("etc/mine"), "").unwrap();
    place.install(&[&b]).unwrap();
    assert!(!place.path("lib/python/m.py").exists());
    assert!(!place.path("lib/python/sub").exists());
    assert!(!place.path("var/a").exists());
    assert!(
        place.path("var/shared").is_dir() && place.path("etc/only").is_dir(),
        "declared"
    );
    assert!(place.path("etc/mine").exists());
    let left: Vec<_> = fs::read_dir(&cache)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["other.cpython-311.pyc"]);
    place.install(&[]).unwrap();
    assert!(!place.path("lib/python/other.py").exists());
    assert!(place.prefix.is_environment());
}

#[test]
fn the_same_wish_twice_writes_nothing() {
    let place = Place::new();
    let a = place.package("a", "1").file("x", "x").build();
    place.install(&[&a]).unwrap();
    let before = place.snapshot();
    let times = |path: &str| fs::metadata(place.path(path)).unwrap().modified().unwrap();
    let (meta, root) = (times("conda-meta"), times("."));
    let summary = place.install(&[&a]).unwrap();
    assert!(summary.linked.is_empty());
    assert_eq!(place.snapshot(), before);
    assert_eq!((times("conda-meta"), times(".")), (meta, root));
}

#[test]
fn requested_specs_of_an_untouched_package_are_updated() {
    let place = Place::new();
    let a = place.package("a", "1").file("x", "x").build();
    place.install(&[&a]).unwrap();
    let path = place.path("conda-meta/a-1-0.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["unknown"] = json!("kept");
    record["requested_spec"] = json!("a 1.*");
    fs::write(&path, record.to_string()).unwrap();
    place
        .install(&[&a.clone().with_requested_specs(vec!["a".to_owned()])])
        .unwrap();
    let record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["requested_specs"], json!(["a"]));
    assert_eq!(record["unknown"], "kept");
    assert_eq!(record.get("requested_spec"), None);
}

#[test]
fn links_to_directories_inside_can_be_gone_through() {
    let place = Place::new();
    let a = place
        .package("a", "1")
        .file("usr/lib64/real", "r")
        .link("usr/lib", "lib64")
        .build();
    let b = place.package("b", "1").file("usr/lib/through", "t").build();
    place.install(&[&a, &b]).unwrap();
    assert_eq!(place.read("usr/lib64/through"), "t");
    let c = place.package("c", "1").file("usr/lib/later", "l").build();
    place.install(&[&a, &b, &c]).unwrap();
    assert_eq!(place.read("usr/lib64/later"), "l");
    assert_eq!(place.record("a").paths_data.paths.len(), 2);
    place.install(&[]).unwrap();
    assert!(!place.path("usr").exists());
}

#[test]
fn what_happens_is_told() {
    struct Counter(Mutex<usize>);
    impl LinkObserver for Counter {
        fn files_linked(&self, _package: &str, files: usize) {
            *self.0.lock().unwrap() += files;
        }
    }
    let place = Place::new();
    let mut builder = place.package("many", "1");
    for index in 0..100 {
        builder = builder.file(&format!("f/{index}"), "");
    }
    let many = builder.build();
    let empty = place.package("empty", "1").build();
    let diary = Diary::default();
    place
        .install_with(&[&many, &empty], &quick(), &diary)
        .unwrap();
    let lines = diary.lines();
    assert_eq!(lines[0], "started -0 +2 100");
    for line in [
        "linking many-1-0 100",
        "linked many-1-0",
        "linking empty-1-0 0",
        "linked empty-1-0",
    ] {
        assert_eq!(
            lines.iter().filter(|l| *l == line).count(),
            1,
            "{line} in {lines:?}"
        );
    }
    assert_eq!(diary.warnings(), Vec::<LinkWarning>::new());
    place.install(&[]).unwrap();
    let counter = Counter(Mutex::new(0));
    place.install_with(&[&many], &quick(), &counter).unwrap();
    assert_eq!(*counter.0.lock().unwrap(), 100);
}
