//! Mirrors of a channel of real packages on real servers: docker-registry, moto and a directory.
//!
//! `TAIPAN_REALCHANNEL_DIR` and `TAIPAN_REALCHANNEL_MEDIUM_DIR` name channels, as for `real_channel.rs`. Without them, or
//! without a server, the tests are reported as skipped.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;
use taipan_mock_servers::{HttpServer, Site};
use taipan_tests::{DockerRegistry, Moto, RegistryAccess, Sandbox, required};
use taipan_transfer::Sha256;

/// The files of an environment with their digests, without the records, which name the channel, and without byte code.
fn contents(prefix: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if name == "conda-meta" || name.ends_with(".pyc") {
                continue;
            }
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                walk(root, &path, found);
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&path).unwrap().display().to_string();
                found.insert(name, target);
            } else {
                // The prefix itself is written into some files.
                let bytes = std::fs::read(&path).unwrap();
                let text = String::from_utf8_lossy(&bytes);
                let text = text.replace(&*root.display().to_string(), "PREFIX");
                found.insert(name, Sha256::of(text.as_bytes()).to_string());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(prefix, prefix, &mut found);
    found
}

/// A registry, a bucket and a directory.
struct Mirrors {
    registry: DockerRegistry,
    _moto: Moto,
    sandbox: Sandbox,
    urls: Vec<String>,
}

impl Mirrors {
    async fn start() -> Option<Self> {
        let registry = DockerRegistry::start_deleting(RegistryAccess::Open)?;
        let moto = Moto::start()?;
        let url = format!("{}/mirrors", moto.endpoint());
        let created = reqwest::Client::new().put(url).send().await.unwrap();
        assert!(created.status().is_success());
        let mut sandbox = Sandbox::new();
        sandbox.set("AWS_ENDPOINT_URL", &moto.endpoint());
        sandbox.set("AWS_ACCESS_KEY_ID", "key");
        sandbox.set("AWS_SECRET_ACCESS_KEY", "secret");
        let urls = vec![
            format!("file://{}", sandbox.path("mirror").display()),
            "s3://mirrors/channel".to_owned(),
            format!("oci+http://{}/channel", registry.host()),
        ];
        Some(Self {
            registry,
            _moto: moto,
            sandbox,
            urls,
        })
    }

    fn sync(&self, source: &str, more: &[&str], code: i32) -> Vec<serde_json::Value> {
        let mut arguments = vec!["mirror", "sync", source, "--json"];
        arguments.extend(self.urls.iter().map(String::as_str));
        arguments.extend(more);
        self.sandbox
            .run(&arguments)
            .expect(code)
            .objects_of("mirror-sync")
    }

    fn create(&self, name: &str, channel: &str, more: &[&str]) -> BTreeMap<String, String> {
        let prefix = self.sandbox.path(name);
        let cache = self
            .sandbox
            .path(&format!("{name}-cache"))
            .display()
            .to_string();
        let text = prefix.display().to_string();
        let create = ["create", "-p", &text, "-c", channel, "--cache-dir", &cache];
        self.sandbox
            .run(&[&create[..], &["numpy", "requests"], more].concat())
            .expect(0);
        contents(&prefix)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_the_same_from_every_mirror_and_from_all() {
    let Some(channel) = required(
        "TAIPAN_REALCHANNEL_MEDIUM_DIR",
        "a channel of real packages",
    ) else {
        return;
    };
    let Some(mirrors) = Mirrors::start().await else {
        return;
    };
    let source = channel.display().to_string();
    let lines = mirrors.sync(&source, &[], 0);
    assert!(
        lines.iter().all(|line| line["outcome"] == "published"),
        "{lines:?}"
    );
    let expected = mirrors.create("source", &source, &[]);
    assert!(expected.len() > 500);
    let mut list =
        String::from("[[channel]]\nurl = \"https://channel.invalid/all\"\nmirrors = [\n");
    for (number, url) in mirrors.urls.iter().enumerate() {
        assert!(
            mirrors.create(&format!("env-{number}"), url, &[]) == expected,
            "{url}"
        );
        list.extend(["  \"", url, "\",\n"]);
    }
    list.push_str("]\n");
    let list = mirrors
        .sandbox
        .write("all.toml", &list)
        .display()
        .to_string();
    let all = mirrors.create("all", "https://channel.invalid/all", &["--mirrors", &list]);
    assert!(all == expected);
    let lines = mirrors.sync(&source, &[], 0);
    assert!(
        lines.iter().all(|line| line["outcome"] == "unchanged"),
        "{lines:?}"
    );
}

/// A garbage collection behind our back takes a blob. It is noticed, and the next run that looks there sends it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_has_lost_is_sent_again() {
    let Some(channel) = required("TAIPAN_REALCHANNEL_DIR", "a channel of real packages") else {
        return;
    };
    let Some(mirrors) = Mirrors::start().await else {
        return;
    };
    let source = channel.display().to_string();
    mirrors.sync(&source, &[], 0);
    let registry = &mirrors.urls[2];
    // Someone deletes the manifest of a package, and the blobs that nothing lists are collected.
    let host = mirrors.registry.host();
    let client = reqwest::Client::new();
    let files = std::fs::read_dir(channel.join("linux-64")).unwrap();
    let mut names = files.map(|it| it.unwrap().file_name().into_string().unwrap());
    let file = names.find(|name| name.ends_with(".conda")).unwrap();
    let stem = file.strip_suffix(".conda").unwrap();
    let mut parts = stem.rsplitn(3, '-');
    let (build, version) = (parts.next().unwrap(), parts.next().unwrap());
    let name = parts.next().unwrap();
    let base = format!("http://{host}/v2/channel/linux-64/{name}");
    let tag = format!("{version}-{build}");
    let manifest = client
        .head(format!("{base}/manifests/{tag}"))
        .header("accept", "application/vnd.oci.image.manifest.v1+json")
        .send()
        .await
        .unwrap();
    let digest = manifest.headers()["docker-content-digest"]
        .to_str()
        .unwrap()
        .to_owned();
    let deleted = client
        .delete(format!("{base}/manifests/{digest}"))
        .send()
        .await
        .unwrap();
    assert!(deleted.status().is_success(), "{deleted:?}");
    assert!(mirrors.registry.collect_garbage());
    let verified = mirrors
        .sandbox
        .run(&["mirror", "verify", registry, "--json"])
        .expect(5);
    let missing: usize = (verified.objects_of("mirror-verified").iter())
        .map(|line| line["missing"].as_array().unwrap().len())
        .sum();
    assert!(missing >= 1);
    // Each run looks at a thirtieth of the mirror.
    let mut sent = 0;
    for _ in 0..30 {
        let lines = mirrors.sync(&source, &["--verify"], 0);
        sent += lines
            .iter()
            .map(|line| line["sent"].as_u64().unwrap())
            .sum::<u64>();
    }
    assert_eq!(sent, missing as u64);
    mirrors
        .sandbox
        .run(&["mirror", "verify", registry])
        .expect(0);
}

/// Copies the packages of a channel, without its indexes.
fn copy_packages(channel: &Path, copy: &Path) {
    for subdir in ["noarch", "linux-64"] {
        std::fs::create_dir_all(copy.join(subdir)).unwrap();
        for entry in std::fs::read_dir(channel.join(subdir)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.ends_with(".conda") || name.ends_with(".tar.bz2") {
                std::fs::copy(entry.path(), copy.join(subdir).join(name)).unwrap();
            }
        }
    }
}

/// The records of an index by file name, without the fields of which tools differ.
fn records(channel: &Path, subdir: &str, without: &[&str]) -> BTreeMap<String, Value> {
    let text = std::fs::read(channel.join(subdir).join("repodata.json")).unwrap();
    let mut index: Value = serde_json::from_slice(&text).unwrap();
    let mut all = BTreeMap::new();
    for map in ["packages", "packages.conda"] {
        for (file, record) in index[map].as_object_mut().unwrap() {
            let fields = record.as_object_mut().unwrap();
            for field in without {
                fields.remove(*field);
            }
            all.insert(file.clone(), record.take());
        }
    }
    all
}

/// What `index` writes is, record by record, what conda-index and rattler write. The differences: the time at which a record
/// came in is not written by conda-index; rattler keeps `arch` and `platform`, which `subdir` says, too, and
/// copies run exports into the records, which `run_exports.json` has.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_has_the_records_of_other_tools() {
    let channels = [
        required("TAIPAN_REALCHANNEL_DIR", "a channel of real packages"),
        required(
            "TAIPAN_REALCHANNEL_MEDIUM_DIR",
            "a channel of real packages",
        ),
    ];
    let python = required("TAIPAN_PY_RATTLER", "a Python that can import `rattler`");
    let Some(python) = python else { return };
    for channel in channels.into_iter().flatten() {
        let sandbox = Sandbox::new();
        let (ours, theirs) = (sandbox.path("ours"), sandbox.path("theirs"));
        copy_packages(&channel, &ours);
        copy_packages(&channel, &theirs);
        let place = ours.display().to_string();
        sandbox.run(&["index", &place]).expect(0);
        let script = "import asyncio, os, sys\n\
            from rattler.index import index_fs\n\
            asyncio.run(index_fs(sys.argv[1], write_zst=False, write_shards=False))\n\
            os._exit(0)\n";
        let script = sandbox.write("index.py", script);
        let output = Command::new(&python)
            .arg(script)
            .arg(&theirs)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for subdir in ["noarch", "linux-64"] {
            let time = "indexed_timestamp";
            let made = records(&ours, subdir, &[time]);
            assert!(!made.is_empty());
            // The channel was indexed by conda-index.
            assert_eq!(made, records(&channel, subdir, &[]));
            let differing = [time, "run_exports", "arch", "platform"];
            assert_eq!(made, records(&theirs, subdir, &differing));
            let exports = |root: &Path| -> Value {
                let text = std::fs::read(root.join(subdir).join("run_exports.json")).unwrap();
                serde_json::from_slice(&text).unwrap()
            };
            assert_eq!(exports(&ours), exports(&channel));
        }
    }
}

/// Another client solves from the shards of an index that was made here, without any other form of it.
#[tokio::test(flavor = "multi_thread")]
async fn another_client_solves_from_shards_alone() {
    let channel = required(
        "TAIPAN_REALCHANNEL_MEDIUM_DIR",
        "a channel of real packages",
    );
    let Some(channel) = channel else { return };
    let python = required("TAIPAN_PY_RATTLER", "a Python that can import `rattler`");
    let Some(python) = python else { return };
    let sandbox = Sandbox::new();
    let copy = sandbox.path("channel");
    copy_packages(&channel, &copy);
    sandbox
        .run(&["index", &copy.display().to_string()])
        .expect(0);
    let solve = |url: &str| {
        let script = "import asyncio, os, sys\n\
            import rattler\n\
            async def main(url, cache):\n\
            \x20   config = rattler.SourceConfig(sharded_enabled=True)\n\
            \x20   gateway = rattler.Gateway(cache_dir=cache, default_config=config)\n\
            \x20   records = await rattler.solve([rattler.Channel(url)], ['requests', 'numpy'],\n\
            \x20       gateway=gateway, platforms=['linux-64', 'noarch'],\n\
            \x20       virtual_packages=rattler.VirtualPackage.detect())\n\
            \x20   print(sorted((it.file_name, it.sha256.hex(), it.size) for it in records))\n\
            asyncio.run(main(*sys.argv[1:]))\n\
            sys.stdout.flush()\n\
            os._exit(0)\n";
        let script = sandbox.write("solve.py", script);
        let cache = tempfile::tempdir().unwrap();
        let output = Command::new(&python)
            .arg(script)
            .arg(url)
            .arg(cache.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let from_text = solve(&format!("file://{}", copy.display()));
    let site = Site::new();
    for subdir in ["noarch", "linux-64"] {
        let of_index = "repodata_shards.msgpack.zst";
        let index = std::fs::read(copy.join(subdir).join(of_index)).unwrap();
        site.insert(&format!("{subdir}/{of_index}"), index);
        for entry in std::fs::read_dir(copy.join(subdir).join("shards")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            site.insert(
                &format!("{subdir}/shards/{name}"),
                std::fs::read(entry.path()).unwrap(),
            );
        }
    }
    let server = HttpServer::start(site).await.unwrap();
    let from_shards = solve(&server.url());
    assert!(from_shards.contains("requests"));
    assert_eq!(from_shards, from_text);
}

/// Another client of the channel installs from the directory that `index` has made.
#[tokio::test(flavor = "multi_thread")]
async fn another_client_installs_from_an_index_that_was_made_here() {
    let Some(channel) = required(
        "TAIPAN_REALCHANNEL_MEDIUM_DIR",
        "a channel of real packages",
    ) else {
        return;
    };
    let Some(python) = required("TAIPAN_PY_RATTLER", "a Python that can import `rattler`") else {
        return;
    };
    let sandbox = Sandbox::new();
    let copy = sandbox.path("channel");
    copy_packages(&channel, &copy);
    sandbox
        .run(&["index", &copy.display().to_string()])
        .expect(0);
    let script = "import asyncio, os, sys\n\
        import rattler\n\
        async def main(url, prefix, cache):\n\
        \x20   records = await rattler.solve([rattler.Channel(url)], ['requests'],\n\
        \x20       platforms=['linux-64', 'noarch'],\n\
        \x20       virtual_packages=rattler.VirtualPackage.detect())\n\
        \x20   await rattler.install(records, target_prefix=prefix, cache_dir=cache,\n\
        \x20       show_progress=False)\n\
        asyncio.run(main(*sys.argv[1:]))\n\
        sys.stdout.flush()\n\
        os._exit(0)\n";
    let script = sandbox.write("install.py", script);
    let url = format!("file://{}", copy.display());
    let prefix = sandbox.path("env");
    let output = Command::new(python)
        .arg(script)
        .arg(&url)
        .arg(&prefix)
        .arg(sandbox.path("cache"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let imported = Command::new(prefix.join("bin/python"))
        .args(["-c", "import requests"])
        .status();
    assert!(imported.unwrap().success());
}
