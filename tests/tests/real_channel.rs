//! A channel of real packages on real web servers. Other programs check the environments.
//!
//! `TAIPAN_REALCHANNEL_DIR` and `TAIPAN_REALCHANNEL_MEDIUM_DIR` name channels with a
//! `channel.json` that lists specs, what must work after an install (`imports`, `commands`), what
//! cannot be satisfied and which versions a correct solver chooses. `TAIPAN_CHECK_PREFIX` names a
//! program that checks a prefix against that file, `TAIPAN_PY_RATTLER` a Python with py-rattler.
//! Without them the tests are reported as skipped.

use std::{
    collections::BTreeMap,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use taipan_tests::{Nginx, Sandbox, required};

const SMALL: &str = "TAIPAN_REALCHANNEL_DIR";
const MEDIUM: &str = "TAIPAN_REALCHANNEL_MEDIUM_DIR";

fn channel(variable: &str) -> Option<(PathBuf, Value)> {
    let dir = required(variable, "a channel of real packages")?;
    let text = std::fs::read_to_string(dir.join("channel.json")).unwrap();
    Some((dir, serde_json::from_str(&text).unwrap()))
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect()
}

/// Three servers: one with everything, one that lacks every other package, one that is stopped.
struct Three {
    whole: Nginx,
    _half: Nginx,
    _dir: tempfile::TempDir,
}

impl Three {
    fn serve(sandbox: &Sandbox, channel: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        for subdir in ["linux-64", "noarch"] {
            std::fs::create_dir(dir.path().join(subdir)).unwrap();
            let mut packages = 0;
            for entry in std::fs::read_dir(channel.join(subdir)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let package = name.ends_with(".conda") || name.ends_with(".tar.bz2");
                packages += usize::from(package);
                if !package || packages % 2 == 0 {
                    symlink(entry.path(), dir.path().join(subdir).join(name)).unwrap();
                }
            }
        }
        let whole = Nginx::serve(channel)?;
        let half = Nginx::serve(dir.path())?;
        let stopped = Nginx::serve(channel)?.url();
        let text = format!(
            "[[channel]]\nurl = \"https://real.invalid/channel\"\nmirrors = [\"{stopped}\", \"{}\", \"{}\"]\n",
            half.url(),
            whole.url()
        );
        sandbox.write("mirrors.toml", &text);
        Some(Self {
            whole,
            _half: half,
            _dir: dir,
        })
    }
}

fn create(sandbox: &Sandbox, prefix: &Path, specs: &[&str]) -> taipan_tests::Finished {
    let prefix = prefix.to_str().unwrap();
    let arguments = [
        "create",
        "-p",
        prefix,
        "-c",
        "https://real.invalid/channel",
        "--mirrors",
        "mirrors.toml",
    ];
    sandbox.run(&[&arguments, specs].concat())
}

/// Imports, commands, `pip check`, placeholders, records against files.
fn judge(channel: &Path, prefix: &Path, level: &str) {
    let Some(judge) = required("TAIPAN_CHECK_PREFIX", "a judge of prefixes") else {
        return;
    };
    let output = Command::new("python3")
        .arg(judge)
        .arg(channel)
        .arg(prefix)
        .arg(level)
        .output();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "the judge ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn peer(arguments: &[&str]) -> Option<String> {
    let python = required("TAIPAN_PY_RATTLER", "a Python with py-rattler")?;
    // At run time and not at compile time: a target directory may outlive a checkout.
    let crate_dir = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for tests");
    let script = Path::new(&crate_dir).join("python/peers.py");
    let output = Command::new(python)
        .arg(script)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "peers.py {arguments:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

fn install_and_judge(
    variable: &str,
    environment: &str,
    level: &str,
    prefix_of: impl Fn(&Sandbox) -> PathBuf,
) {
    let Some((dir, manifest)) = channel(variable) else {
        return;
    };
    let sandbox = Sandbox::new();
    let Some(three) = Three::serve(&sandbox, &dir) else {
        return;
    };
    let prefix = prefix_of(&sandbox);
    let specs = strings(&manifest["specs"][environment]);
    create(&sandbox, &prefix, &specs).expect(0);
    judge(&dir, &prefix, level);

    let prefix = prefix.to_str().unwrap();
    let listed = sandbox.run(&["list", "--json", "-p", prefix]).expect(0);
    let mut ours: Vec<String> = listed
        .objects()
        .iter()
        .map(|o| {
            let text = |key: &str| o[key].as_str().unwrap().to_owned();
            format!(
                "{} {} {}",
                text("name").to_lowercase(),
                text("version"),
                text("build")
            )
        })
        .collect();
    ours.sort();
    if let Some(count) = peer(&["records", prefix]) {
        assert_eq!(count.trim(), ours.len().to_string());
    }
    let url = three.whole.url();
    if let Some(theirs) = peer(&[&["solve", &url], specs.as_slice()].concat()) {
        let mut theirs: Vec<&str> = theirs.lines().collect();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
    }
    assert!(
        three.whole.access_log().lines().count() > 0,
        "the whole mirror got no request"
    );
}

#[test]
fn the_small_environment_works_in_a_prefix_with_spaces_and_unicode() {
    install_and_judge(SMALL, "small_env", "small", |sandbox| {
        sandbox.path("my environment ünï")
    });
}

#[test]
fn the_special_packages_work_in_a_prefix_of_199_characters() {
    install_and_judge(MEDIUM, "special_env", "special", |sandbox| {
        let base = sandbox
            .path("")
            .to_str()
            .unwrap()
            .trim_end_matches('/')
            .len();
        sandbox.path(&"l".repeat(199 - base - 1))
    });
}

#[test]
fn the_special_packages_work_in_a_prefix_with_spaces_and_unicode() {
    install_and_judge(MEDIUM, "special_env", "special", |sandbox| {
        sandbox.path("spécial env")
    });
}

#[test]
fn unsatisfiable_specs_are_explained_by_the_specs_in_conflict() {
    for variable in [SMALL, MEDIUM] {
        let Some((dir, manifest)) = channel(variable) else {
            return;
        };
        let Some(server) = Nginx::serve(&dir) else {
            return;
        };
        let sandbox = Sandbox::new();
        for case in manifest["unsatisfiable"].as_array().unwrap() {
            let specs = strings(&case["specs"]);
            let url = server.url();
            let arguments = ["create", "--dry-run", "-p", "env", "-c", &url];
            let finished = sandbox
                .run(&[&arguments, specs.as_slice()].concat())
                .expect(3);
            // Either all specs are in conflict, or one of them is for a name that does not exist.
            let named = |spec: &&str| {
                let name = spec.split([' ', '=', '>', '<', '!']).next().unwrap();
                finished.stderr.contains(name)
            };
            let missing = finished.stderr.contains("is not in the channel");
            assert!(
                specs.iter().all(named) || missing && specs.iter().any(named),
                "{specs:?}: {}",
                finished.stderr
            );
        }
    }
}

#[test]
fn choices_are_those_of_a_correct_solver() {
    for variable in [SMALL, MEDIUM] {
        let Some((dir, manifest)) = channel(variable) else {
            return;
        };
        let Some(server) = Nginx::serve(&dir) else {
            return;
        };
        let sandbox = Sandbox::new();
        for case in manifest["choices"].as_array().unwrap() {
            let specs = strings(&case["specs"]);
            let url = server.url();
            let arguments = ["create", "--dry-run", "--json", "-p", "env", "-c", &url];
            let finished = sandbox
                .run(&[&arguments, specs.as_slice()].concat())
                .expect(0);
            let objects = finished.objects();
            let plan = objects
                .iter()
                .find(|object| object["type"] == "plan")
                .unwrap();
            let chosen: BTreeMap<&str, &Value> = plan["link"]
                .as_array()
                .unwrap()
                .iter()
                .map(|line| (line["name"].as_str().unwrap(), line))
                .collect();
            for (name, expected) in case["expect"].as_object().unwrap() {
                if name == "_build_number" {
                    for (name, number) in expected.as_object().unwrap() {
                        assert_eq!(&chosen[name.as_str()]["build_number"], number, "{specs:?}");
                    }
                } else if expected.is_null() {
                    assert!(!chosen.contains_key(name.as_str()), "{specs:?}: {name}");
                } else {
                    assert_eq!(
                        &chosen[name.as_str()]["version"],
                        expected,
                        "{specs:?}: {name}"
                    );
                }
            }
        }
    }
}
