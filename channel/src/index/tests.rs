use std::{fmt::Write as _, path::PathBuf};

use proptest::prelude::*;

use super::*;

const CHANNEL: &str = "https://example.org/alpha/";

fn subdir_url() -> Url {
    Url::parse("https://example.org/alpha/linux-64/").unwrap()
}

fn read(text: &str) -> Result<RepodataIndex, IndexError> {
    RepodataIndex::from_json(
        text.as_bytes().to_vec(),
        CHANNEL,
        &subdir_url(),
        IndexLimits::default(),
    )
}

fn name(name: &str) -> PackageName {
    name.parse().unwrap()
}

fn record(name: &str, version: &str, more: &str) -> String {
    format!(
        r#"{{"name":"{name}","version":"{version}","build":"h0_0","build_number":0,"depends":[]{more}}}"#
    )
}

/// `(section, file name, record)` → the text of a repodata.json.
fn repodata(head: &str, records: &[(&str, &str, String)]) -> String {
    let mut text = format!("{{{head}");
    for section in ["packages", "packages.conda"] {
        let _ = write!(
            text,
            "{}\"{section}\":{{",
            if text.len() > 1 { "," } else { "" }
        );
        let mut separator = "";
        for (_, file_name, record) in records.iter().filter(|record| record.0 == section) {
            let _ = write!(text, "{separator}\"{file_name}\":{record}");
            separator = ",";
        }
        text.push('}');
    }
    text + "}"
}

#[test]
fn records_are_grouped_by_name_and_carry_url_channel_and_subdir() {
    let text = repodata(
        r#""info":{"subdir":"linux-64"}"#,
        &[
            ("packages", "b-c-1.0-h0_0.tar.bz2", record("b-c", "1.0", "")),
            ("packages", "b-1.0-h0_0.tar.bz2", record("b", "1.0", "")),
            (
                "packages.conda",
                "b-1.1-h0_0.conda",
                record("b", "1.1", r#","subdir":"linux-64""#),
            ),
        ],
    );
    let index = read(&text).unwrap();
    assert_eq!(index.len(), 3);
    let mut names: Vec<_> = index.names().collect();
    names.sort_unstable();
    assert_eq!(names, ["b", "b-c"]);
    let (records, skipped) = index.records(&name("b")).unwrap();
    let urls: Vec<_> = records.iter().map(|record| record.url.as_str()).collect();
    assert_eq!(
        urls,
        [
            "https://example.org/alpha/linux-64/b-1.0-h0_0.tar.bz2",
            "https://example.org/alpha/linux-64/b-1.1-h0_0.conda"
        ]
    );
    for record in &records {
        assert_eq!(record.channel.as_deref(), Some(CHANNEL));
        assert_eq!(record.package_record.subdir, "linux-64");
    }
    assert_eq!(records[1].identifier.to_file_name(), "b-1.1-h0_0.conda");
    assert_eq!(index.records(&name("nothing")).unwrap(), (vec![], vec![]));
    assert!(!index.contains(&name("nothing")));
    assert_eq!(skipped, []);
    assert_eq!(index.skipped(), []);
}

#[test]
fn the_subdir_comes_from_the_url_where_the_file_is_silent() {
    let text = repodata(
        "",
        &[("packages", "b-1.0-h0_0.tar.bz2", record("b", "1.0", ""))],
    );
    let index = read(&text).unwrap();
    assert_eq!(index.subdir(), "linux-64");
    assert_eq!(
        index.records(&name("b")).unwrap().0[0]
            .package_record
            .subdir,
        "linux-64"
    );
}

#[test]
fn a_package_in_both_formats_is_given_once_as_conda() {
    let text = repodata(
        "",
        &[
            ("packages", "b-1.0-h0_0.tar.bz2", record("b", "1.0", "")),
            ("packages", "b-1.0-h1_0.tar.bz2", record("b", "1.0", "")),
            ("packages.conda", "b-1.0-h0_0.conda", record("b", "1.0", "")),
        ],
    );
    let index = read(&text).unwrap();
    let names: Vec<_> = index
        .records(&name("b"))
        .unwrap()
        .0
        .iter()
        .map(|record| record.identifier.to_file_name())
        .collect();
    assert_eq!(names, ["b-1.0-h1_0.tar.bz2", "b-1.0-h0_0.conda"]);
}

#[test]
fn a_malformed_conda_record_leaves_its_tar_bz2() {
    let text = repodata(
        "",
        &[
            ("packages", "b-1.0-h0_0.tar.bz2", record("b", "1.0", "")),
            (
                "packages.conda",
                "b-1.0-h0_0.conda",
                record("b", "1.0", r#","sha256":"abc""#),
            ),
        ],
    );
    let index = read(&text).unwrap();
    let (records, skipped) = index.records(&name("b")).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].identifier.to_file_name(), "b-1.0-h0_0.tar.bz2");
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].file_name, "b-1.0-h0_0.conda");
}

#[test]
fn one_malformed_record_does_not_lose_the_others_and_is_counted_once() {
    let bad = [
        (
            "b-1.1-h0_0.conda",
            record("b", "1.1", r#","sha256":"c0ffee""#),
        ),
        ("b-1.2-h0_0.conda", record("b", "1.2", r#","md5":7"#)),
        ("b-1.3-h0_0.conda", record("c", "1.3", "")),
        ("b-1.4-h0_0.conda", r#"{"name":"b"}"#.to_owned()),
        ("b-1.5-h0_0.conda", "[]".to_owned()),
        ("b-1.6-h0_0.conda", record("b", "1..6", "")),
    ];
    let mut records = vec![("packages.conda", "b-1.0-h0_0.conda", record("b", "1.0", ""))];
    records.extend(
        bad.into_iter()
            .map(|(file, record)| ("packages.conda", file, record)),
    );
    let index = read(&repodata("", &records)).unwrap();
    for _ in 0..2 {
        let (good, skipped) = index.records(&name("b")).unwrap();
        assert_eq!(good.len(), 1);
        assert_eq!(good[0].package_record.version.as_str(), "1.0");
        assert_eq!(skipped.len(), 6, "{skipped:?}");
        assert!(skipped[2].reason.contains("of c"), "{skipped:?}");
    }
    assert_eq!(index.skipped(), []);
}

#[test]
fn a_name_without_any_readable_record_is_an_error_that_says_so() {
    let index = read(&repodata(
        "",
        &[("packages", "b-1-0.tar.bz2", "{}".to_owned())],
    ))
    .unwrap();
    let error = index.records(&name("b")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no record of b can be read, e.g. b-1-0.tar.bz2"
    );
}

#[test]
fn file_names_that_lead_elsewhere_are_skipped() {
    let files = [
        "../b-1.0-0.conda",
        "https://elsewhere/b-1.0-0.conda",
        "b-1.0-0.conda?x.conda",
        "b%2f-1.0-0.conda",
        ".-1.0-0.conda",
        "b-1.0.conda",
        "b-1.0-0.zip",
        "b-1.0-\\u0030.conda",
    ];
    let records: Vec<_> = files
        .iter()
        .map(|file| ("packages.conda", *file, record("b", "1.0", "")))
        .collect();
    let index = read(&repodata("", &records)).unwrap();
    assert!(index.is_empty());
    assert_eq!(index.skipped().len(), files.len());
}

#[test]
fn removed_records_are_dropped_wherever_the_list_stands() {
    let records = [
        ("packages", "b-1.0-h0_0.tar.bz2", record("b", "1.0", "")),
        ("packages", "b-1.1-h0_0.tar.bz2", record("b", "1.1", "")),
    ];
    let removed = r#""removed":["b-1.1-h0_0.tar.bz2"]"#;
    let first = repodata(removed, &records);
    let last = repodata("", &records).replace("{\"packages\"", "{ \"packages\"");
    let last = format!("{},{removed}}}", &last[..last.len() - 1]);
    for text in [first, last] {
        let index = read(&text).unwrap();
        assert_eq!(index.len(), 1);
        assert_eq!(index.records(&name("b")).unwrap().0.len(), 1);
    }
}

#[test]
fn unknown_keys_nulls_and_v3_are_passed_over() {
    let text = r#"{"v3":{"conda":{"b-1-0":{"depends":[{"x":[]}]}}},"_etag":"x","signatures":{},
        "packages":null,"removed":null,"info":null,"repodata_version":null,"packages.conda":{}}"#;
    let index = read(text).unwrap();
    assert!(index.is_empty());
    assert_eq!(index.repodata_version(), 1);
}

#[test]
fn base_url_is_resolved_against_the_subdir() {
    let url = |base_url: &str| {
        let head = format!(r#""repodata_version":2,"info":{{"base_url":"{base_url}"}}"#);
        read(&repodata(&head, &[])).map(|index| index.base_url().to_string())
    };
    assert_eq!(
        url("https://cdn.example.net/x").unwrap(),
        "https://cdn.example.net/x/"
    );
    assert_eq!(url("/pkgs/").unwrap(), "https://example.org/pkgs/");
    assert_eq!(
        url("pkgs").unwrap(),
        "https://example.org/alpha/linux-64/pkgs/"
    );
    assert_eq!(
        url("../noarch/").unwrap(),
        "https://example.org/alpha/noarch/"
    );
    assert_eq!(
        url("https://cdn.example.net/x?a=b#c").unwrap(),
        "https://cdn.example.net/x/"
    );
    assert!(matches!(
        url("file:///etc/").unwrap_err(),
        IndexError::BaseUrl { .. }
    ));
    assert!(matches!(
        url("https://[").unwrap_err(),
        IndexError::BaseUrl { .. }
    ));
}

#[test]
fn faults_of_the_whole_file_have_a_type_and_a_place() {
    assert!(matches!(
        read("").unwrap_err(),
        IndexError::CutShort { line: 1, .. }
    ));
    assert!(matches!(
        read(" \n<html>").unwrap_err(),
        IndexError::WebPage { .. }
    ));
    assert_eq!(
        read("\u{feff}<!doctype html>\n").unwrap_err().to_string(),
        "a web page instead of a repodata.json; it begins with `<!doctype html>`"
    );
    assert!(matches!(
        read("[]").unwrap_err(),
        IndexError::Shape { line: 1, .. }
    ));
    assert!(matches!(
        read("{\n \"packages\": 7}").unwrap_err(),
        IndexError::Shape { line: 2, .. }
    ));
    assert!(matches!(
        read(r#"{"packages": {"a": }}"#).unwrap_err(),
        IndexError::Syntax {
            line: 1,
            column: 20,
            ..
        }
    ));
    assert!(matches!(
        read("{} {}").unwrap_err(),
        IndexError::Syntax { .. }
    ));
    assert!(matches!(
        read(r#"{"repodata_version":4}"#).unwrap_err(),
        IndexError::Version { version: 4, .. }
    ));
    let zstd = RepodataIndex::from_json(
        vec![0x28, 0xb5, 0x2f, 0xfd],
        CHANNEL,
        &subdir_url(),
        IndexLimits::default(),
    );
    assert!(matches!(
        zstd.unwrap_err(),
        IndexError::NotText { offset: 1 }
    ));
    let deep = format!("{{\"packages\":{}", "{\"a\":".repeat(100_000));
    assert!(read(&deep).is_err());
}

#[test]
fn limits_are_errors_with_the_limit() {
    let text = repodata(
        "",
        &[
            ("packages", "b-1.0-0.tar.bz2", record("b", "1.0", "")),
            ("packages", "b-1.1-0.tar.bz2", record("b", "1.1", "")),
        ],
    );
    let with = |records, record_bytes| {
        let limits = IndexLimits {
            records,
            record_bytes,
        };
        RepodataIndex::from_json(text.clone().into_bytes(), CHANNEL, &subdir_url(), limits)
            .unwrap_err()
    };
    assert!(matches!(
        with(1, 1000),
        IndexError::TooManyRecords { limit: 1 }
    ));
    assert!(matches!(
        with(2, 20),
        IndexError::RecordTooLarge { limit: 20, .. }
    ));
}

#[test]
fn an_empty_index_has_nothing() {
    let index = RepodataIndex::empty(CHANNEL, &subdir_url());
    assert!(index.is_empty() && index.names().next().is_none());
    assert!(index.records(&name("b")).unwrap().0.is_empty());
}

fn sample() -> String {
    repodata(
        r#""info":{"subdir":"linux-64","base_url":"x"},"removed":["z-1-0.conda"]"#,
        &[
            (
                "packages",
                "b-1.0-h0_0.tar.bz2",
                record("b", "1.0", r#","license":"Ünï""#),
            ),
            ("packages.conda", "c-1.0-h0_0.conda", record("c", "1.0", "")),
        ],
    )
}

/// Whatever the text: no panic, neither when it is walked nor when names are asked for.
fn never_panics(text: Vec<u8>) {
    if let Ok(index) = RepodataIndex::from_json(
        text,
        CHANNEL,
        &subdir_url(),
        IndexLimits {
            records: 9,
            record_bytes: 999,
        },
    ) {
        let names: Vec<_> = index.names().map(PackageName::new_unchecked).collect();
        for name in names {
            drop(index.records(&name));
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        never_panics(text);
    }

    #[test]
    fn json_like_text_never_panics(parts in proptest::collection::vec(
        proptest::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"packages\"", "\"packages.conda\"", "\"info\"", "null",
            "\"removed\"", "\"a-1-0.conda\"", "\"name\"", "\"a\"", "1", "\"\\u0061\"", "\"ü", "\\",
        ]), 0..40))
    {
        never_panics(parts.concat().into_bytes());
    }

    #[test]
    fn a_truncated_index_is_cut_short(at in 0..sample().len()) {
        let mut text = sample().into_bytes();
        text.truncate(at);
        let whole = std::str::from_utf8(&text).is_ok();
        match RepodataIndex::from_json(text, CHANNEL, &subdir_url(), IndexLimits::default()) {
            Err(IndexError::CutShort { line: 1, .. }) => prop_assert!(whole),
            Err(IndexError::NotText { .. }) => prop_assert!(!whole),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0..sample().len(), byte in any::<u8>()) {
        let mut text = sample().into_bytes();
        text[at] = byte;
        never_panics(text);
    }
}

/// Reads every `*.json` and `*.json.zst` of the directory that the environment names, as whole
/// channels of several ages: what the index says must be what a plain parser finds.
#[test]
fn real_indexes_agree_with_a_plain_parser() {
    let Some(directory) = std::env::var_os("TAIPAN_REPODATA_DIR").map(PathBuf::from) else {
        eprintln!("skipped: TAIPAN_REPODATA_DIR does not name a directory of repodata files");
        return;
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let file_name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = if file_name.ends_with(".json.zst") {
            let mut decoder = zstd::Decoder::new(std::fs::File::open(&path).unwrap()).unwrap();
            decoder.window_log_max(27).unwrap();
            let mut text = Vec::new();
            std::io::copy(&mut decoder, &mut text).unwrap();
            text
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            std::fs::read(&path).unwrap()
        } else {
            continue;
        };
        seen += 1;
        let plain: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let length = text.len();
        let start = std::time::Instant::now();
        let index =
            RepodataIndex::from_json(text, CHANNEL, &subdir_url(), IndexLimits::default()).unwrap();
        let walked = start.elapsed();
        let listed: usize = ["packages", "packages.conda"]
            .iter()
            .filter_map(|section| plain[section].as_object())
            .map(serde_json::Map::len)
            .sum();
        assert_eq!(index.len() + index.skipped().len(), listed, "{file_name}");
        let start = std::time::Instant::now();
        let mut parsed = 0;
        let names: Vec<_> = index.names().map(PackageName::new_unchecked).collect();
        for name in &names {
            parsed += index.records(name).map_or(0, |(records, _)| records.len());
        }
        println!(
            "{file_name}: {length} bytes walked in {walked:?}; {listed} listed, {} names, \
             {parsed} usable, parsed in {:?}, {} skipped, first {:?}",
            names.len(),
            start.elapsed(),
            index.skipped().len(),
            index.skipped().first(),
        );
    }
    assert!(seen > 0, "no repodata in the directory");
}

/// Found by the fuzzer: a number that no float represents, in a field that nothing reads.
#[test]
fn a_field_that_cannot_be_represented_is_left_out() {
    let text = r#"{"packages.conda":{"a-1-0.conda":
        {"name":"a","version":"1","build":"0","build_number":0,"odd":8E9999,"kept":[1]}}}"#;
    let subdir = "https://host.example/c/linux-64/".parse().unwrap();
    let limits = IndexLimits::default();
    let index = RepodataIndex::from_json(text.into(), "https://host.example/c", &subdir, limits);
    let fields = index
        .unwrap()
        .fields(&"a".parse().unwrap(), "a-1-0.conda")
        .unwrap();
    assert!(!fields.contains_key("odd"));
    assert_eq!(fields["kept"], serde_json::json!([1]));
    assert_eq!(fields["name"], "a");
}
