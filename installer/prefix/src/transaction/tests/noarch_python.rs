use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rattler_conda_types::prefix_record::PathType;

use super::support::{Builder, Diary, Place, install, quick};
use crate::error::PrefixError;
use crate::link::{LinkObserver, LinkPackage, LinkWarning};

/// Stands in for python: makes an empty file for every second name on its input.
const COMPILER: &str = "#!/bin/sh\ntr '\\0' '\\n' | while read -r m && read -r c; do \
                        case \"$m\" in *broken*) ;; *) echo code > \"$c\";; esac; done\n";

fn python(place: &Place, version: &str, script: &str) -> Builder {
    let minor = version.rsplit_once('.').unwrap().0;
    let interpreter = format!("bin/python{minor}");
    place
        .package("python", version)
        .file(&interpreter, script)
        .mode(&interpreter, 0o755)
}

fn tool(place: &Place) -> LinkPackage {
    place
        .package("tool", "1")
        .depends(&["python"])
        .noarch_python(&["tool = tool.cli:main", "gone = tool.cli:App.run"])
        .file("site-packages/tool/cli.py", "x = 1\n")
        .file("site-packages/tool/broken.py", "x = \n")
        .file("site-packages/top.py", "")
        .file("python-scripts/helper", "#!/bin/sh\n")
        .file("share/data.py", "not a module")
        .build()
}

#[test]
fn noarch_python_packages_adapt_to_the_python() {
    let place = Place::new();
    let (python, tool) = (python(&place, "3.11.7", COMPILER).build(), tool(&place));
    let diary = Diary::default();
    let summary = place
        .install_with(&[&tool, &python], &quick(), &diary)
        .unwrap();
    assert_eq!(summary.compiled, 2);
    let site = "lib/python3.11/site-packages";
    assert_eq!(place.read(&format!("{site}/tool/cli.py")), "x = 1\n");
    assert_eq!(
        place.read(&format!("{site}/tool/__pycache__/cli.cpython-311.pyc")),
        "code\n"
    );
    assert_eq!(place.read("bin/helper"), "#!/bin/sh\n");
    let script = place.read("bin/tool");
    let prefix = place.prefix.path().display();
    assert!(
        script.starts_with(&format!("#!{prefix}/bin/python3.11\n")),
        "{script}"
    );
    assert_eq!(
        fs::metadata(place.path("bin/tool"))
            .unwrap()
            .permissions()
            .mode()
            & 0o111,
        0o111
    );

    let record = place.record("tool");
    let of_type = |wanted: PathType| -> Vec<String> {
        let paths = record
            .paths_data
            .paths
            .iter()
            .filter(|path| path.path_type == wanted);
        paths
            .map(|path| path.relative_path.to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        of_type(PathType::UnixPythonEntryPoint),
        ["bin/gone", "bin/tool"]
    );
    let compiled = [
        format!("{site}/__pycache__/top.cpython-311.pyc"),
        format!("{site}/tool/__pycache__/cli.cpython-311.pyc"),
    ];
    assert_eq!(of_type(PathType::PycFile), compiled);
    for path in compiled.iter().map(String::as_str).chain(["bin/tool"]) {
        assert!(
            record.files.iter().any(|file| file.to_str() == Some(path)),
            "{path}"
        );
    }
    place.install(&[&python]).unwrap();
    assert!(!place.path("lib").exists() && !place.path("bin/tool").exists());
}

#[test]
fn another_python_relinks_noarch_packages() {
    let place = Place::new();
    let tool = tool(&place).with_requested_specs(vec!["tool".to_owned()]);
    let old = python(&place, "3.11.7", COMPILER).build();
    let patch = python(&place, "3.11.8", COMPILER).build();
    let new = python(&place, "3.13.1", COMPILER)
        .record(|record| {
            record.python_site_packages_path = Some("lib/python3.13t/site-packages".to_owned());
        })
        .build();
    place.install(&[&old, &tool]).unwrap();
    let summary = place.install(&[&patch, &tool]).unwrap();
    assert_eq!(summary.linked, ["python-3.11.8-0"]);
    let summary = place.install(&[&new, &tool]).unwrap();
    assert_eq!(summary.linked, ["python-3.13.1-0", "tool-1-0"]);
    assert!(!place.path("lib/python3.11").exists());
    assert!(
        place
            .path("lib/python3.13t/site-packages/tool/__pycache__/cli.cpython-313t.pyc")
            .exists()
    );
    assert_eq!(place.record("tool").requested_specs, ["tool"]);
}

#[test]
fn a_noarch_python_package_needs_a_python() {
    let place = Place::new();
    let error = place.install(&[&tool(&place)]).unwrap_err();
    assert!(matches!(error, PrefixError::NoPython { .. }), "{error}");
    let python = python(&place, "3.11.7", COMPILER)
        .record(|record| record.python_site_packages_path = Some("../../outside".to_owned()))
        .build();
    let error = place.install(&[&python]).unwrap_err();
    assert!(
        matches!(error, PrefixError::SitePackagesEscape { .. }),
        "{error}"
    );
}

#[test]
fn entry_points_with_separators_are_refused() {
    let place = Place::new();
    let python = python(&place, "3.11.7", COMPILER).build();
    for entry_point in ["../evil = a:b", "x/y = a:b", "tool = a:b; import os"] {
        let package = place
            .package("evil", "1")
            .noarch_python(&[entry_point])
            .build();
        let error = place.install(&[&python, &package]).unwrap_err();
        assert!(
            matches!(error, PrefixError::BadPackage { .. }),
            "{entry_point}: {error}"
        );
    }
}

struct StopAtCompile<'a>(&'a AtomicBool);
impl LinkObserver for StopAtCompile<'_> {
    fn compile_started(&self, _files: usize) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn compilation_may_fail_but_not_hang() {
    let place = Place::new();
    let tool = tool(&place);
    let broken = python(&place, "3.11.7", "#!/bin/sh\necho no stdlib >&2\nexit 3\n").build();
    let diary = Diary::default();
    let summary = place
        .install_with(&[&broken, &tool], &quick(), &diary)
        .unwrap();
    assert_eq!(summary.compiled, 0);
    match &diary.warnings()[..] {
        [LinkWarning::NotCompiled { reason, files: 3 }] => {
            assert!(reason.contains("no stdlib"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(
        place
            .record("tool")
            .paths_data
            .paths
            .iter()
            .all(|p| p.path_type != PathType::PycFile)
    );

    let before = place.snapshot();
    let hangs = self::python(&place, "3.12.1", "#!/bin/sh\nsleep 1000\n").build();
    let cancel = AtomicBool::new(false);
    let observer = StopAtCompile(&cancel);
    let packages = [&hangs, &tool];
    let error = install(&place.prefix, &packages, &quick(), &observer, &cancel).unwrap_err();
    assert!(error.is_cancelled());
    assert_eq!(place.snapshot(), before);
    place
        .install_with(&packages, &quick().with_compile_pyc(false), &())
        .unwrap();
}

#[test]
fn byte_code_is_made_once_for_all_environments() {
    // Stands in for python more closely: the header names the module's time and size.
    const PYTHON: &str = "#!/bin/sh\necho ran >> runs\n\
        tr '\\0' '\\n' | while read -r m && read -r c; do\n\
        t=$(stat -c %Y \"$m\"); s=$(stat -c %s \"$m\")\n\
        le() { n=$1; for i in 1 2 3 4; do printf \"\\\\$(printf %03o $((n % 256)))\"; n=$((n / 256)); done; }\n\
        { printf 'mgic\\0\\0\\0\\0'; le \"$t\"; le \"$s\"; printf \"$m\"; } > \"$c\"\n\
        done\n";
    let place = Place::new();
    let python = python(&place, "3.11.7", PYTHON).build();
    let mut tool = tool(&place);
    let cache = place.root.path().join("cache");
    let options = quick().with_byte_code_cache(&cache);
    // Without a digest there is nothing to know the package by.
    place
        .install_with(&[&python, &tool], &options, &())
        .unwrap();
    assert!(!cache.exists());
    tool.record.package_record.sha256 = Some([7; 32].into());
    let byte_code = "lib/python3.11/site-packages/tool/__pycache__/cli.cpython-311.pyc";
    for (round, runs) in [(1, "ran\nran\n"), (2, "ran\nran\n")] {
        place.install_with(&[&python], &options, &()).unwrap();
        let summary = place
            .install_with(&[&python, &tool], &options, &())
            .unwrap();
        assert_eq!(summary.compiled, 3, "{round}");
        assert_eq!(place.read("runs"), runs, "{round}");
        let code = fs::read(place.path(byte_code)).unwrap();
        assert!(code.ends_with(b"site-packages/tool/cli.py"), "{round}");
    }
    // A module that is not the one the byte code was made from is compiled again.
    place.install_with(&[&python], &options, &()).unwrap();
    fs::write(
        tool.source_dir.join("site-packages/tool/cli.py"),
        "changed = 1\n",
    )
    .unwrap();
    place
        .install_with(&[&python, &tool], &options, &())
        .unwrap();
    assert_eq!(place.read("runs"), "ran\nran\nran\n");
}
