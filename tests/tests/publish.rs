//! `taipan upload` and `taipan index`, with servers in this process.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;
use taipan_mock_servers::{Behaviour, Fault, Matcher, OciServer, Rule, S3Keys, S3Server, Site};
use taipan_tests::{Sandbox, demo_channel, finish};

/// The packages of the demo channel as files.
fn packages(sandbox: &Sandbox) -> Vec<PathBuf> {
    let site = demo_channel(20_000).site();
    let mut packages = Vec::new();
    for path in site.paths() {
        let name = path.rsplit('/').next().unwrap();
        if name.ends_with(".conda") || name.ends_with(".tar.bz2") {
            let bytes = site.get(&path).unwrap();
            let file = sandbox.path("packages").join(&path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, bytes).unwrap();
            packages.push(file);
        }
    }
    assert!(packages.len() > 5);
    packages
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn named(index: &[u8]) -> BTreeSet<String> {
    let index: Value = serde_json::from_slice(index).unwrap();
    let maps = ["packages", "packages.conda"].map(|map| index[map].as_object().unwrap().clone());
    maps.into_iter().flatten().map(|(file, _)| file).collect()
}

async fn bucket(ignores_conditions: bool) -> (Site, S3Server) {
    let site = Site::new();
    let server = S3Server::builder().bucket("bucket", site.clone());
    let mut server = server.keys(S3Keys::new("key", "secret"));
    if ignores_conditions {
        server = server.ignore_conditions();
    }
    (site, server.start().await.unwrap())
}

fn with_keys(sandbox: &mut Sandbox, server: &S3Server) {
    sandbox.set("AWS_ENDPOINT_URL", &server.endpoint());
    sandbox.set("AWS_ACCESS_KEY_ID", "key");
    sandbox.set("AWS_SECRET_ACCESS_KEY", "secret");
}

/// Twenty programs at once: what each was told is published is in the index in the end.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_at_the_same_time_lose_nothing() {
    let mut sandbox = Sandbox::new();
    let files = packages(&sandbox);
    let registry = OciServer::start().await.unwrap();
    let directory = format!("file://{}", sandbox.path("channel").display());
    let mut destinations = vec![directory, format!("oci+http://{}/up", registry.host())];
    let mut servers = Vec::new();
    for ignores_conditions in [false, true] {
        let (site, server) = bucket(ignores_conditions).await;
        with_keys(&mut sandbox, &server);
        servers.push((site, server));
        destinations.push("s3://bucket/up".to_owned());
    }
    for (number, destination) in destinations.iter().enumerate() {
        if let Some((_, server)) = number.checked_sub(2).map(|it| &servers[it]) {
            with_keys(&mut sandbox, server);
        }
        let count = 20.min(files.len());
        let children: Vec<_> = (files[..count].iter())
            .map(|file| sandbox.start(&["upload", "--index", "--to", destination, &text(file)]))
            .collect();
        for child in children {
            finish(child).expect(0);
        }
        let status = sandbox
            .run(&["mirror", "verify", destination, "--json"])
            .expect(0);
        let total: u64 = (status.objects_of("mirror-verified").iter())
            .map(|line| line["packages"].as_u64().unwrap())
            .sum();
        assert_eq!(total, count as u64, "{destination}");
        // Both forms are of the same text.
        let create = [
            "create",
            "-p",
            &text(&sandbox.path(&format!("env-{number}"))),
            "--cache-dir",
        ];
        let cache = text(&sandbox.path(&format!("cache-{number}")));
        let more = [&cache, "-c", destination, "--dry-run", "demo-lib"];
        sandbox.run(&[&create[..], &more].concat()).expect(0);
    }
    for subdir in ["noarch", "linux-64"] {
        let read = |name: &str| std::fs::read(sandbox.path("channel").join(subdir).join(name));
        let (Ok(plain), Ok(compressed)) = (read("repodata.json"), read("repodata.json.zst")) else {
            continue;
        };
        assert!(
            zstd::decode_all(&compressed[..]).unwrap() == plain,
            "{subdir}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_checked_before_it_is_sent() {
    let sandbox = Sandbox::new();
    let files = packages(&sandbox);
    let to = format!("file://{}", sandbox.path("channel").display());
    let upload = |more: &[&str]| sandbox.run(&[&["upload", "--to", &to][..], more].concat());
    let good = &files[0];
    let renamed = sandbox.path("other-1.0-0.conda");
    std::fs::copy(good, &renamed).unwrap();
    let broken = sandbox.write("broken-1.0-0.conda", "no archive");
    let note = sandbox.write("note.txt", "no package");
    for (path, code) in [
        (&renamed, 2),
        (&broken, 1),
        (&note, 2),
        (&sandbox.path("absent-1-0.conda"), 1),
    ] {
        // The good one is not sent, either.
        let finished = upload(&[&text(good), &text(path)]).expect(code);
        assert!(finished.stderr.contains(&text(path)), "{}", finished.stderr);
        assert!(!sandbox.path("channel").exists());
    }
    let subdir = good
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    upload(&[&text(good), "--subdir", "osx-64"]).expect(2);
    let sent = upload(&[&text(good), "--json"])
        .expect(0)
        .objects_of("uploaded");
    assert_eq!(sent[0]["outcome"], "sent");
    let again = upload(&[&text(good), "--json", "--index"])
        .expect(0)
        .objects_of("uploaded");
    assert_eq!(again[0]["outcome"], "found");
    // Another file of the same name.
    let place = sandbox
        .path("channel")
        .join(&subdir)
        .join(good.file_name().unwrap());
    std::fs::write(&place, b"another").unwrap();
    let refused = upload(&[&text(good)]).expect(1);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    let skipped = upload(&[&text(good), "--skip-existing", "--json"]).expect(0);
    assert_eq!(skipped.objects_of("uploaded")[0]["outcome"], "skipped");
    assert_eq!(std::fs::read(&place).unwrap(), b"another");
    upload(&[&text(good), "--force"]).expect(0);
    assert!(std::fs::read(&place).unwrap() == std::fs::read(good).unwrap());
    sandbox.run(&["mirror", "verify", &to]).expect(0);
    upload(&[&text(good), "--skip-existing", "--force"]).expect(2);
}

/// A package of another subdir, the response to whose upload is lost; then another content under the same name, on servers
/// with conditions and without.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_right_after_lost_responses_and_replacements() {
    let mut sandbox = Sandbox::new();
    let files = packages(&sandbox);
    let mut natives = files
        .iter()
        .filter(|it| it.parent().unwrap().ends_with("linux-64"));
    let (native, other) = (natives.next().unwrap(), natives.next().unwrap());
    for ignores_conditions in [false, true] {
        let (site, server) = bucket(ignores_conditions).await;
        with_keys(&mut sandbox, &server);
        let name = native.file_name().unwrap().to_string_lossy().into_owned();
        let lost = Rule::once(
            Matcher::method("PUT").and(Matcher::suffix(&name)),
            Fault::Reset { after: None },
        );
        server.set_behaviour(Behaviour::new().with_rule(lost));
        let upload = |file: &Path, more: &[&str]| {
            let arguments = ["upload", "--index", "--to", "s3://bucket/c", &text(file)];
            sandbox.run(&[&arguments[..], more].concat()).expect(0);
        };
        upload(native, &[]);
        server.set_behaviour(Behaviour::new());
        // Clients expect this one in every channel.
        assert!(site.contains("c/noarch/repodata.json.zst"));
        let record = |site: &Site| -> Value {
            let index = site.get("c/linux-64/repodata.json").unwrap();
            let index: Value = serde_json::from_slice(&index).unwrap();
            let maps = ["packages", "packages.conda"].map(|map| index[map][&name].clone());
            maps.into_iter().find(|record| !record.is_null()).unwrap()
        };
        let first = record(&site);
        // The same name with another content: one more empty stream of bzip2, or a comment of the zip.
        let replaced = sandbox.path("replaced").join(&name);
        std::fs::create_dir_all(replaced.parent().unwrap()).unwrap();
        let mut bytes = std::fs::read(native).unwrap();
        if name.ends_with(".conda") {
            let length = bytes.len();
            bytes[length - 2] = 2;
            bytes.extend_from_slice(b"ok");
        } else {
            bytes.extend_from_slice(b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0");
        }
        std::fs::write(&replaced, bytes).unwrap();
        upload(&replaced, &["--force"]);
        let second = record(&site);
        assert_ne!(first["sha256"], second["sha256"]);
        // A third program, which reads the intents of both, keeps the newer one.
        upload(other, &[]);
        assert_eq!(record(&site), second);
        sandbox
            .run(&["mirror", "verify", "s3://bucket/c"])
            .expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_made_of_what_is_there_and_kept_up_to_date() {
    let (site, server) = bucket(false).await;
    let mut sandbox = Sandbox::new();
    with_keys(&mut sandbox, &server);
    let files = packages(&sandbox);
    let root = sandbox.path("packages");
    for file in &files {
        let path = file.strip_prefix(&root).unwrap();
        site.insert(
            &format!("c/{}", path.display()),
            std::fs::read(file).unwrap(),
        );
    }
    let original = demo_channel(20_000).site();
    for (destination, is_bucket) in [(text(&root), false), ("s3://bucket/c".to_owned(), true)] {
        let read = |path: &str| -> Vec<u8> {
            if is_bucket {
                return site.get(&format!("c/{path}")).unwrap().to_vec();
            }
            std::fs::read(root.join(path)).unwrap()
        };
        let index = |code| {
            let finished = sandbox.run(&["index", &destination, "--json"]).expect(code);
            finished.objects_of("indexed")
        };
        let lines = index(0);
        assert_eq!(
            lines
                .iter()
                .map(|it| it["packages"].as_u64().unwrap())
                .sum::<u64>(),
            files.len() as u64
        );
        for subdir in ["noarch", "linux-64"] {
            let made: Value =
                serde_json::from_slice(&read(&format!("{subdir}/repodata.json"))).unwrap();
            let expected = original.get(&format!("{subdir}/repodata.json")).unwrap();
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            for map in ["packages", "packages.conda"] {
                let expected = expected[map].as_object().cloned().unwrap_or_default();
                for (file, record) in expected {
                    for key in ["name", "version", "build", "depends", "sha256", "size"] {
                        assert_eq!(made[map][&file][key], record[key], "{file} {key}");
                    }
                }
            }
            let compressed = read(&format!("{subdir}/repodata.json.zst"));
            let plain = read(&format!("{subdir}/repodata.json"));
            assert!(zstd::decode_all(&compressed[..]).unwrap() == plain);
            let document = sandbox.document_in_zck(&read(&format!("{subdir}/repodata.json.zck")));
            assert_eq!(document, made);
            let exports: Value =
                serde_json::from_slice(&read(&format!("{subdir}/run_exports.json"))).unwrap();
            assert_eq!(exports["info"]["subdir"], subdir);
        }
        // Nothing changed: no package is read, and nothing is written.
        server.clear_requests();
        assert!(index(0).iter().all(|line| line["changed"] == false));
        let requests = server.requests();
        let is_package = |path: &str| path.ends_with(".conda") || path.ends_with(".bz2");
        assert!(
            requests
                .iter()
                .all(|it| it.method != "PUT" && !is_package(&it.path)),
            "{requests:?}"
        );
    }
}

/// Records that others have changed stay as they are; what goes, comes, or is no package is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_keeps_the_changes_of_others_and_all_forms_agree() {
    let sandbox = Sandbox::new();
    packages(&sandbox);
    let root = sandbox.path("packages");
    let original = demo_channel(20_000).site();
    sandbox.run(&["index", &text(&root)]).expect(0);
    let path = root.join("noarch/repodata.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let files = named(&std::fs::read(&path).unwrap());
    let (kept, gone) = (
        files.first().unwrap().clone(),
        files.last().unwrap().clone(),
    );
    for map in ["packages", "packages.conda"] {
        if index[map].get(&kept).is_some() {
            index[map][&kept]["patched"] = "by hand".into();
        }
    }
    index["odd"] = serde_json::json!({ "kept": [1, 2] });
    std::fs::write(&path, index.to_string()).unwrap();
    std::fs::remove_file(root.join("noarch").join(&gone)).unwrap();
    std::fs::write(root.join("noarch/broken-1-0.conda"), b"no archive").unwrap();
    let finished = sandbox.run(&["index", &text(&root), "--json"]).expect(6);
    let line = &finished.objects_of("indexed")[1];
    assert_eq!(line["removed"], serde_json::json!([gone]));
    assert_eq!(line["refused"][0]["file"], "broken-1-0.conda");
    let index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(index["odd"]["kept"][1], 2);
    let zck = std::fs::read(root.join("noarch/repodata.json.zck")).unwrap();
    assert_eq!(sandbox.document_in_zck(&zck), index);
    // A run that was killed between two forms is completed by the next one, and an upload keeps all forms.
    let shards = root.join("noarch/repodata_shards.msgpack.zst");
    let shards_before = std::fs::read(&shards).unwrap();
    for form in ["zst", "zck"] {
        std::fs::remove_file(root.join(format!("noarch/repodata.json.{form}"))).unwrap();
    }
    std::fs::remove_file(&shards).unwrap();
    sandbox.run(&["index", &text(&root)]).expect(6);
    assert!(std::fs::read(&shards).unwrap() == shards_before);
    let before = std::fs::read(root.join("noarch/repodata.json.zck")).unwrap();
    assert_eq!(sandbox.document_in_zck(&before), index);
    let again = sandbox.path("packages-again").join(&gone);
    std::fs::create_dir_all(again.parent().unwrap()).unwrap();
    std::fs::write(&again, original.get(&format!("noarch/{gone}")).unwrap()).unwrap();
    let arguments = ["upload", &text(&again), "--to", &text(&root), "--index"];
    sandbox.run(&arguments).expect(0);
    let after = std::fs::read(root.join("noarch/repodata.json.zck")).unwrap();
    let index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(named(&std::fs::read(&path).unwrap()).contains(&gone));
    assert_eq!(sandbox.document_in_zck(&after), index);
    assert_ne!(before, after);
    // Without the note all shards are made anew, and they are the same.
    let shards_after = std::fs::read(&shards).unwrap();
    assert!(shards_after != shards_before);
    std::fs::remove_file(root.join("noarch/.taipan/shards.json")).unwrap();
    std::fs::remove_file(&shards).unwrap();
    sandbox.run(&["index", &text(&root)]).expect(6);
    assert!(std::fs::read(&shards).unwrap() == shards_after);
    // What was uploaded has its run exports, too.
    let exports: Value =
        serde_json::from_slice(&std::fs::read(root.join("noarch/run_exports.json")).unwrap())
            .unwrap();
    for file in named(&std::fs::read(&path).unwrap()) {
        let entries = ["packages", "packages.conda"].map(|map| exports[map][&file].is_object());
        assert!(entries.contains(&true), "{file}");
    }
    let patched = ["packages", "packages.conda"].map(|map| index[map][&kept]["patched"].clone());
    assert!(patched.contains(&"by hand".into()));
    let registry = OciServer::start().await.unwrap();
    let finished = sandbox
        .run(&["index", &format!("oci+http://{}/x", registry.host())])
        .expect(2);
    assert!(
        finished.stderr.contains("upload --index"),
        "{}",
        finished.stderr
    );
}

/// Where a bucket honours no conditions, uploads note what they add. `index` publishes that, and does not bring back what is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn intents_of_uploads_are_kept_and_bring_nothing_back() {
    let (site, server) = bucket(true).await;
    let mut sandbox = Sandbox::new();
    with_keys(&mut sandbox, &server);
    let files: Vec<PathBuf> = packages(&sandbox)
        .into_iter()
        .filter(|file| file.parent().unwrap().ends_with("noarch"))
        .collect();
    let upload = |file: &Path| {
        let arguments = ["upload", &text(file), "--to", "s3://bucket/c", "--index"];
        sandbox.run(&arguments).expect(0);
    };
    let listed = || named(&site.get("c/noarch/repodata.json").unwrap());
    let name = |file: &Path| file.file_name().unwrap().to_str().unwrap().to_owned();
    let (first, second, third) = (&files[0], &files[1], &files[2]);
    upload(first);
    let before = site.get("c/noarch/repodata.json").unwrap();
    upload(second);
    // As if an `index` had read before the second upload, and written after it.
    site.insert("c/noarch/repodata.json", before);
    let file = std::fs::read(third).unwrap();
    site.insert(&format!("c/noarch/{}", name(third)), file);
    site.remove(&format!("c/noarch/{}", name(first)));
    sandbox
        .run(&["index", "s3://bucket/c", "--subdir", "noarch"])
        .expect(0);
    assert_eq!(listed(), BTreeSet::from([name(second), name(third)]));
    // The intent of the first is not an hour old.
    upload(&files[3]);
    assert_eq!(
        listed(),
        BTreeSet::from([name(second), name(third), name(&files[3])])
    );
}

/// Run exports that cannot be read now are not replaced by those of the new packages alone.
#[tokio::test(flavor = "multi_thread")]
async fn run_exports_that_cannot_be_read_are_kept() {
    let (site, server) = bucket(false).await;
    let mut sandbox = Sandbox::new();
    with_keys(&mut sandbox, &server);
    for file in packages(&sandbox).iter().take(3) {
        let name = file.file_name().unwrap().to_str().unwrap();
        site.insert(&format!("c/noarch/{name}"), std::fs::read(file).unwrap());
    }
    let index = || sandbox.run(&["index", "s3://bucket/c", "--subdir", "noarch"]);
    index();
    let before = site.get("c/noarch/run_exports.json").unwrap();
    let denied = Rule::always(Matcher::suffix("run_exports.json"), Fault::status(403));
    server.set_behaviour(Behaviour::new().with_rule(denied));
    assert_ne!(index().code, Some(0));
    assert!(site.get("c/noarch/run_exports.json").unwrap() == before);
}
