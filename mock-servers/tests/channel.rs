//! The packages that are built, taken apart again, and the fleet that serves them.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use taipan_mock_servers::{
    ArchiveFormat, DemoChannel, DemoOptions, Fleet, Location, Noarch, PLACEHOLDER, Package,
    PackageBuilder, RawEntry, channel_site,
};

/// Kind, mode, link and data of each member, by name.
type Members = BTreeMap<String, (u8, u32, String, Vec<u8>)>;

fn members(tar: impl std::io::Read) -> Members {
    let mut members = Members::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let link = entry.link_name_bytes().map_or(String::new(), |name| {
            String::from_utf8(name.into_owned()).unwrap()
        });
        let header = entry.header();
        let (kind, mode) = (header.entry_type().as_byte(), header.mode().unwrap());
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        members.insert(name, (kind, mode, link, data));
    }
    members
}

fn unpack(package: &Package) -> Members {
    if package.file_name.ends_with(".tar.bz2") {
        return members(bzip2::read::MultiBzDecoder::new(&package.bytes[..]));
    }
    let mut zip = zip::ZipArchive::new(Cursor::new(&package.bytes)).unwrap();
    let stem = package.file_name.trim_end_matches(".conda").to_owned();
    let mut text = String::new();
    zip.by_name("metadata.json")
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap()["conda_pkg_format_version"],
        2
    );
    let mut all = Members::new();
    for part in ["info", "pkg"] {
        let mut bytes = Vec::new();
        let mut member = zip.by_name(&format!("{part}-{stem}.tar.zst")).unwrap();
        assert_eq!(member.compression(), zip::CompressionMethod::Stored);
        member.read_to_end(&mut bytes).unwrap();
        all.extend(members(zstd::Decoder::new(Cursor::new(bytes)).unwrap()));
    }
    all
}

fn json(members: &Members, name: &str) -> Value {
    serde_json::from_slice(&members[name].3).unwrap()
}

#[test]
fn the_demo_channel_is_deterministic_and_agrees_with_its_repodata() {
    let options = DemoOptions::default().with_corpus_bytes(50_000);
    let channel = DemoChannel::build(&options);
    let again = DemoChannel::build(&options);
    let site = channel.site();
    for (one, other) in channel.packages().iter().zip(again.packages()) {
        assert_eq!(one.bytes, other.bytes, "{}", one.file_name);
    }
    let mut listed = 0;
    for subdir in ["linux-64", "noarch"] {
        let bytes = site.get(&format!("{subdir}/repodata.json")).unwrap();
        let packed = site.get(&format!("{subdir}/repodata.json.zst")).unwrap();
        assert_eq!(zstd::decode_all(&packed[..]).unwrap(), bytes);
        let repodata: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(repodata["info"]["subdir"], subdir);
        for key in ["packages", "packages.conda"] {
            for (name, record) in repodata[key].as_object().unwrap() {
                let bytes = site.get(&format!("{subdir}/{name}")).unwrap();
                assert_eq!(record["sha256"], hex::encode(Sha256::digest(&bytes)));
                assert_eq!(record["size"], bytes.len());
                assert_eq!(record["subdir"], subdir);
                listed += 1;
            }
        }
    }
    assert_eq!(listed, channel.packages().len());
    assert_eq!(site.paths().len(), listed + 4);
}

#[test]
fn paths_json_describes_what_is_in_the_archive() {
    let channel = DemoChannel::build(&DemoOptions::default().with_corpus_bytes(50_000));
    for package in channel.packages() {
        let members = unpack(package);
        let index = json(&members, "info/index.json");
        assert_eq!(index["name"], package.record["name"]);
        let paths = json(&members, "info/paths.json");
        let paths = paths["paths"].as_array().unwrap();
        let outside = members
            .keys()
            .filter(|name| !name.starts_with("info/"))
            .count();
        assert_eq!(paths.len(), outside, "{}", package.file_name);
        for path in paths {
            let (kind, _, link, data) = &members[path["_path"].as_str().unwrap()];
            let data = match kind {
                b'1' => &members[link].3,
                _ => data,
            };
            let expected = if *kind == b'2' {
                "softlink"
            } else {
                "hardlink"
            };
            assert_eq!(path["path_type"], expected);
            if *kind != b'2' {
                assert_eq!(path["sha256"], hex::encode(Sha256::digest(data)));
                assert_eq!(path["size_in_bytes"], data.len());
                let mentioned = data
                    .windows(PLACEHOLDER.len())
                    .any(|w| w == PLACEHOLDER.as_bytes());
                assert_eq!(mentioned, path["prefix_placeholder"] == PLACEHOLDER);
            }
        }
    }
    let demo = unpack(channel.package("taipan-demo-").unwrap());
    assert_eq!(demo["bin/taipan-demo"].1, 0o755);
    assert!(demo["bin/taipan-demo"].3.starts_with(b"#!/bin/sh\n"));
}

#[test]
fn packages_have_the_parts_that_the_builder_was_given() {
    let long = format!("lib/{}/{}", "d".repeat(120), "f".repeat(120));
    let package = PackageBuilder::new("tool", "2.0")
        .build_string("py_3", 3)
        .noarch(Noarch::Python)
        .depends("python >=3.9")
        .constrains("other <1")
        .track_features("slow")
        .entry_point("tool = tool.cli:main")
        .file("site-packages/tool/cli.py", "def main(): pass\n")
        .file(&long, "deep")
        .symlink("bin/gone", "../nowhere")
        .link_script("post-link", "#!/bin/sh\ntouch \"$PREFIX/linked\"\n")
        .timestamp(1_600_000_000_000)
        .license("MIT")
        .info_file("about.json", "{}")
        .format(ArchiveFormat::TarBz2)
        .raw(RawEntry {
            name: b"../escape".to_vec(),
            kind: b'0',
            link: Vec::new(),
            mode: 0o644,
            data: b"evil".to_vec(),
        })
        .build();
    assert_eq!(package.path(), "noarch/tool-2.0-py_3.tar.bz2");
    assert_eq!(package.record["timestamp"], 1_600_000_000_000_u64);
    assert_eq!(package.record["track_features"], "slow");
    assert_eq!(package.record["constrains"][0], "other <1");
    let members = unpack(&package);
    let link = json(&members, "info/link.json");
    assert_eq!(link["noarch"]["entry_points"][0], "tool = tool.cli:main");
    assert_eq!(members[&long].3, b"deep");
    assert_eq!(members["bin/gone"].2, "../nowhere");
    assert_eq!(members["bin/.tool-post-link.sh"].1, 0o755);
    assert_eq!(members["../escape"].3, b"evil");
    assert_eq!(members["info/about.json"].3, b"{}");
    let old = PackageBuilder::new("old", "1")
        .file("a", "b")
        .without_paths_json()
        .build();
    let members = unpack(&old);
    assert!(!members.contains_key("info/paths.json"));
    assert_eq!(members["info/files"].3, b"a\n");
    assert!(channel_site(&[old]).contains("linux-64/old-1-0.conda"));
}

#[test]
fn the_demo_program_runs_after_prefix_replacement() {
    let channel = DemoChannel::build(&DemoOptions::default().with_corpus_bytes(1234));
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("a prefix ü");
    for name in ["taipan-demo-", "demo-greetings-1.1-", "demo-corpus-"] {
        for (path, (kind, _, _, data)) in unpack(channel.package(name).unwrap()) {
            if kind == b'0' && !path.starts_with("info/") {
                let target = prefix.join(&path);
                std::fs::create_dir_all(target.parent().unwrap()).unwrap();
                let data = match String::from_utf8(data) {
                    Ok(text) => text
                        .replace(PLACEHOLDER, prefix.to_str().unwrap())
                        .into_bytes(),
                    Err(binary) => binary.into_bytes(),
                };
                std::fs::write(target, data).unwrap();
            }
        }
    }
    let run = std::process::Command::new("sh")
        .arg(prefix.join("bin/taipan-demo"))
        .output()
        .unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "Hello from an environment that came from many mirrors."
    );
    assert!(lines[1].ends_with("/a prefix ü"));
    assert_eq!(lines[2], "and holds a corpus of 1234 bytes.");
}

#[tokio::test]
async fn the_fleet_has_six_different_mirrors() {
    let options = DemoOptions::default()
        .with_corpus_bytes(50_000)
        .with_chain(2);
    let fleet = Fleet::start(DemoChannel::build(&options)).await.unwrap();
    let corpus = fleet.channel().package("demo-corpus-").unwrap().clone();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut right = Vec::new();
    for mirror in fleet.mirrors() {
        let Location::Http { url } = &mirror.location else {
            continue;
        };
        let answer = client.get(format!("{url}{}", corpus.path())).send().await;
        let bytes = match answer {
            Ok(answer) => answer.bytes().await.unwrap(),
            Err(error) => {
                assert!(error.is_connect() && mirror.name == "dead");
                continue;
            }
        };
        assert_eq!(bytes.len(), corpus.bytes.len());
        if bytes == corpus.bytes {
            right.push(mirror.name);
        }
        assert_eq!(mirror.requests().len(), 1);
        assert_eq!(mirror.connections(), 1);
    }
    assert_eq!(right, ["fast", "slow"]);
    let names: Vec<&str> = fleet.mirrors().iter().map(|mirror| mirror.name).collect();
    assert_eq!(names, ["fast", "slow", "dead", "corrupt", "s3", "oci"]);
    let s3 = fleet.mirror("s3").unwrap().address();
    let oci = fleet.mirror("oci").unwrap().address();
    let toml = fleet.mirrors_toml("https://channel.example/demo");
    assert!(toml.starts_with("[[channel]]\nurl = \"https://channel.example/demo\"\n"));
    assert!(toml.contains(&format!(
        "{{ url = \"s3://demo-mirror/channels/demo\", endpoint = \"http://{s3}\", \
         region = \"us-east-1\", path-style = true }}"
    )));
    assert!(toml.contains(&format!("\"oci+http://{oci}/demo-mirror/channel\"")));
    assert_eq!(fleet.environment()[0].0, "AWS_ACCESS_KEY_ID");
    fleet.shutdown().await;
    assert!(tokio::net::TcpStream::connect(s3).await.is_err());
}
