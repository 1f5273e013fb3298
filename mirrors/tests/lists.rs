//! Mirrors files, and the mirrors in the configuration files of other programs.

use std::fmt::Write as _;

use taipan_mirrors::{
    ListError, Location, Metalink, Mirror, MirrorSource, MirrorsFile, Provenance, S3Location,
};
use url::Url;

const GOOD: &str = r#"
[[channel]]
url = "https://origin.example/pub"
mirrors = [
"https://one.example/pub",
{ url = "s3://bucket/prefix", endpoint = "http://127.0.0.1:9000", region = "eu-west-1", path-style = true, anonymous = true, priority = 1, weight = 0.5, country = "de", max-connections = 4 },
"oci://registry.example/namespace",
{ url = "oci+http://127.0.0.1:5000/namespace", weight = 2 },
]

[[channel]]
url = "short-name"
mirrors = ["file:///srv/copy"]
"#;

fn refused(text: &str) -> String {
    MirrorsFile::parse(text, "m.toml").unwrap_err().to_string()
}

fn one_mirror(mirror: &str) -> String {
    format!("[[channel]]\nurl = \"c\"\nmirrors = [{mirror}]\n")
}

#[test]
fn a_full_file_is_read() {
    let file = MirrorsFile::parse(GOOD, "m.toml").unwrap();
    assert_eq!(file.collections.len(), 2);
    let mirrors = &file.collections[0].mirrors;
    assert_eq!(mirrors.len(), 4);
    assert_eq!(
        mirrors[0],
        Mirror::new(
            Location::parse("https://one.example/pub").unwrap(),
            Provenance::File {
                file: "m.toml".into(),
                line: 5
            },
        )
    );
    let s3 = S3Location {
        endpoint: Some(Url::parse("http://127.0.0.1:9000/").unwrap()),
        region: Some("eu-west-1".into()),
        path_style: true,
        anonymous: true,
        ..S3Location::new("bucket", "prefix")
    };
    assert_eq!(mirrors[1].location, Location::S3(s3));
    assert_eq!(
        (mirrors[1].priority, mirrors[1].max_connections),
        (1, Some(4))
    );
    assert_eq!(
        (mirrors[1].weight, mirrors[1].country.as_deref()),
        (0.5, Some("DE"))
    );
    assert!((mirrors[3].weight - 2.0).abs() < 1e-12);
}

#[test]
fn an_empty_file_has_no_collections() {
    assert_eq!(
        MirrorsFile::parse("# nothing\n", "m.toml")
            .unwrap()
            .collections
            .len(),
        0
    );
}

#[test]
fn a_collection_is_found_by_any_spelling_of_its_url() {
    let file = MirrorsFile::parse(GOOD, "m.toml").unwrap();
    for spelling in [
        "https://origin.example/pub/",
        "HTTPS://Origin.Example:443/pub",
        "https://origin.example/pub",
    ] {
        assert_eq!(file.mirrors_for(spelling).unwrap().len(), 4, "{spelling}");
    }
    assert_eq!(file.mirrors_for("short-name/").unwrap().len(), 1);
    assert!(file.mirrors_for("https://origin.example/other").is_none());
    assert!(file.mirrors_for("https://origin.example/Pub").is_none());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn an_error_names_the_line_the_key_and_the_remedy() {
    for (text, expected) in [
        (
            "[[channels]]\nurl = \"c\"\n".to_owned(),
            "m.toml:1:3: channels: unknown key, did you mean `channel`?; known keys are `channel`",
        ),
        (
            "[[channel]]\nurl = \"c\"\nmirror = []\n".to_owned(),
            "m.toml:3:1: channel[0].mirror: unknown key, did you mean `mirrors`?; known keys are `url`, `mirrors`",
        ),
        (
            one_mirror("{ url = \"https://a.example\", prio = 1 }"),
            "m.toml:3:41: channel[0].mirrors[0].prio: unknown key; known keys are",
        ),
        (
            one_mirror("{ url = \"https://a.example\", pathstyle = true }"),
            "m.toml:3:41: channel[0].mirrors[0].pathstyle: unknown key, did you mean `path-style`?",
        ),
        (
            one_mirror("\"ftp://a.example\""),
            "m.toml:3:12: channel[0].mirrors[0]: invalid mirror URL: `ftp://` is not a kind of mirror; known are `https://`",
        ),
        (
            one_mirror("\"https://a.example/x\", \"https://A.example:443/x/\""),
            "m.toml:3:35: channel[0].mirrors[1]: `https://a.example/x` is already in line 3",
        ),
        (
            format!("{}{}", one_mirror("\"/a\""), one_mirror("\"/b\"")),
            "m.toml:5:7: channel[1].url: `c` is already in line 2",
        ),
        (
            one_mirror(""),
            "m.toml:3:11: channel[0].mirrors: no mirrors",
        ),
        (
            "[[channel]]\nurl = \"c\"\n".to_owned(),
            "m.toml:1:1: channel[0]: missing field `mirrors`",
        ),
        (
            "[[channel]]\nmirrors = [\"/a\"]\n".to_owned(),
            "m.toml:1:1: channel[0]: missing field `url`",
        ),
        (
            one_mirror("{ weight = 1 }"),
            "m.toml:3:12: channel[0].mirrors[0]: missing field `url`",
        ),
        (
            "channel = 3\n".to_owned(),
            "m.toml:1:11: channel: invalid type: integer `3`, expected a sequence",
        ),
        (
            "[[channel]]\nurl = 3\nmirrors = [\"/a\"]\n".to_owned(),
            "m.toml:2:7: channel[0].url: invalid type: integer `3`, expected a string",
        ),
        (
            one_mirror("7"),
            "m.toml:3:12: channel[0].mirrors[0]: invalid type: integer `7`, expected a URL or a table",
        ),
        (
            one_mirror("{ url = \"/a\", priority = 1.5 }"),
            "m.toml:3:37: channel[0].mirrors[0].priority: invalid type: floating point `1.5`, expected an integer",
        ),
        (
            one_mirror("{ url = \"/a\", priority = 99999999999999999999 }"),
            "channel[0].mirrors[0].priority: 99999999999999999999 is out of range: use an integer",
        ),
        (
            one_mirror("{ url = \"/a\", weight = 0 }"),
            "channel[0].mirrors[0].weight: 0 is out of range: use a number between 0.001 and 1000",
        ),
        (
            one_mirror("{ url = \"/a\", weight = nan }"),
            "channel[0].mirrors[0].weight: nan is out of range",
        ),
        (
            one_mirror("{ url = \"/a\", country = \"Germany\" }"),
            "channel[0].mirrors[0].country: \"Germany\" is out of range: use two letters",
        ),
        (
            one_mirror("{ url = \"/a\", max-connections = 0 }"),
            "channel[0].mirrors[0].max-connections: 0 is out of range: use an integer between 1 and 1024",
        ),
        (
            one_mirror("{ url = \"https://a.example\", region = \"x\" }"),
            "channel[0].mirrors[0].region: `region` applies to `s3://` only, this mirror is `https://`",
        ),
        (
            one_mirror("{ url = \"s3://bucket\", endpoint = \"minio:9000\" }"),
            "channel[0].mirrors[0].endpoint: invalid mirror URL: `minio:9000` has no scheme",
        ),
        ("[[channel]\n".to_owned(), "m.toml:1:"),
        (
            "a = 1\na = 2\n".to_owned(),
            "m.toml:2:1: not TOML: duplicate key",
        ),
    ] {
        let message = refused(&text);
        assert!(
            message.contains(expected),
            "\n got {message}\nwant {expected}"
        );
    }
}

#[test]
fn columns_count_characters_not_bytes() {
    let message = refused("[[channel]]\nurl = \"ü\"\nmirrors = [\"/ä\", 1]\n");
    assert!(message.starts_with("m.toml:3:18: "), "{message}");
}

#[test]
fn secrets_of_a_refused_url_are_not_repeated() {
    for url in [
        "https://me:hush@:x/",
        "ftp://me:hush@h/",
        "s3://me:hush@b/",
        "me:hush@host/x",
    ] {
        let message = refused(&one_mirror(&format!("\"{url}\"")));
        assert!(!message.contains("hush"), "{message}");
    }
    let twice = "\"https://me:hush@h.example/\"";
    assert!(!refused(&one_mirror(&format!("{twice}, {twice}"))).contains("hush"));
}

#[test]
fn too_much_is_refused_before_it_costs_memory() {
    assert!(refused(&"#".repeat((4 << 20) + 1)).contains("the limit is 4194304"));
    let many: Vec<String> = (0..=4096).map(|i| format!("\"/m{i}\"")).collect();
    assert!(refused(&one_mirror(&many.join(","))).contains("the number of mirrors is 4097"));
    let many: Vec<String> = (0..=1024)
        .map(|i| format!("[[channel]]\nurl=\"c{i}\"\nmirrors=[\"/m\"]\n"))
        .collect();
    assert!(refused(&many.concat()).contains("the number of entries is 1025"));
    assert!(refused(&format!("a = {}", "[".repeat(100_000))).contains("not TOML"));
}

fn shown(mirrors: &[Mirror]) -> Vec<String> {
    mirrors
        .iter()
        .map(|mirror| mirror.location.to_string())
        .collect()
}

const TABLE: &str = r#"
tls-no-verify = false
[mirrors]
"https://origin.example/" = ["https://z.example/all", "s3://bucket/all", "oci://r.example/all"]
"https://origin.example/one" = ["https://a.example/one"]
[other]
key = [1]
"#;

#[test]
fn a_key_of_a_mirrors_table_applies_to_urls_below_it() {
    let file = MirrorsFile::parse_prefixes(TABLE, "c.toml").unwrap();
    assert_eq!(file.collections.len(), 2);
    let below = |url: &str| file.mirrors_below(url).map(|mirrors| shown(&mirrors));
    assert_eq!(
        below("https://Origin.example/two/three/").unwrap(),
        [
            "https://z.example/all/two/three",
            "s3://bucket/all/two/three",
            "oci://r.example/all/two/three"
        ]
    );
    assert_eq!(
        below("https://origin.example/one").unwrap(),
        ["https://a.example/one"]
    );
    assert_eq!(
        below("https://origin.example/one/x").unwrap(),
        ["https://a.example/one/x"]
    );
    assert_eq!(
        below("https://origin.example/oneness").unwrap()[0],
        "https://z.example/all/oneness"
    );
    assert_eq!(below("https://elsewhere.example/one"), None);
    assert_eq!(
        MirrorsFile::parse_prefixes("a = 1", "c.toml")
            .unwrap()
            .collections,
        []
    );
}

#[test]
fn an_error_in_a_mirrors_table_names_its_key() {
    for (text, expected) in [
        (
            "mirrors = 3",
            "c.toml:1:11: mirrors: invalid type: integer `3`, expected a map",
        ),
        (
            "[mirrors]\nname = [\"/a\"]",
            "c.toml:2:1: mirrors.name: invalid mirror URL: `name` has no",
        ),
        ("[mirrors]\n\"https://a.example\" = []", "no mirrors"),
        (
            "[mirrors]\n\"https://a.example\" = [\"/a\"]\n\"https://A.example/\" = [\"/b\"]",
            "c.toml:3:1: mirrors.https://a.example/: `https://a.example/` is already in line 2",
        ),
    ] {
        let message = MirrorsFile::parse_prefixes(text, "c.toml")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(expected),
            "\n got {message}\nwant {expected}"
        );
    }
}

#[test]
fn yaml_with_block_and_flow_lists_is_read() {
    let file = MirrorsFile::parse_yaml(
        "{% a template %}\nname: {{ x }}   # comment\nchannels:\n  - one\nmirrored_channels:\n  one:\n    \
         - \"https://a.example/one\"   # near\n    - https://b.example/one#frag\n\n  'two':\n  - /srv/two\n  \
         three: [https://c.example/3, 'https://d.example/3']\nother:\n  - ignored: {}\n",
        "rc",
    )
    .unwrap();
    assert_eq!(file.collections.len(), 3);
    assert_eq!(
        shown(file.mirrors_for("one").unwrap()),
        ["https://a.example/one", "https://b.example/one"]
    );
    assert_eq!(shown(file.mirrors_for("two").unwrap()), ["file:///srv/two"]);
    assert_eq!(file.mirrors_for("three").unwrap().len(), 2);
    let provenance = file.collections[0].mirrors[0].provenance.to_string();
    assert_eq!(provenance, "rc:7");
    assert_eq!(
        MirrorsFile::parse_yaml("a: b\n", "rc").unwrap().collections,
        []
    );
}

#[test]
fn an_error_in_yaml_names_line_and_key() {
    for (text, expected) in [
        (
            "mirrored_channels: 3\n",
            "rc:1:20: mirrored_channels: expected a mapping from names to lists of URLs, found a scalar",
        ),
        (
            "mirrored_channels:\n  - /a\n",
            "rc:2:3: mirrored_channels: expected a mapping from names to lists of URLs, found a list",
        ),
        (
            "mirrored_channels:\n  a: {b: /a}\n",
            "rc:2:6: mirrored_channels.a: expected a list of URLs, found a mapping",
        ),
        (
            "mirrored_channels:\n  a:\n  b:\n    - /b\n",
            "rc:2:3: mirrored_channels.a: no mirrors",
        ),
        (
            "mirrored_channels:\n  a:\n    - ftp://a.example\n",
            "rc:3:7: mirrored_channels.a[0]: invalid mirror URL",
        ),
        (
            "mirrored_channels:\n  a: [/a, /a/]\n",
            "rc:2:11: mirrored_channels.a[1]: `file:///a` is already in line 2",
        ),
        (
            "mirrored_channels:\n  a: [/a]\n  a: [/b]\n",
            "rc:3:3: mirrored_channels.a: `a` is already in line 2",
        ),
    ] {
        let message = MirrorsFile::parse_yaml(text, "rc").unwrap_err().to_string();
        assert!(
            message.contains(expected),
            "\n got {message}\nwant {expected}"
        );
    }
}

#[test]
fn yaml_flow_lists_anchors_quotes_and_escapes_are_read() {
    let file = MirrorsFile::parse_yaml(
        "defaults: &near\n  - https://a.example/x  # near\n  - 'https://b.example/it''s'\nmirrored_channels:\n  \
         one: *near\n  \"t\\u0077o\": [\n    https://c.example/2,\n    \"https://d.example/\\\n      2\",\n  ]\n  \
         ? three\n  : - &e https://e.example/3\n    - >-\n      https://f.example/3\n  four: [*e]\n",
        "rc",
    )
    .unwrap();
    let read: Vec<(&str, Vec<String>)> = file
        .collections
        .iter()
        .map(|entry| (entry.url.as_str(), shown(&entry.mirrors)))
        .collect();
    let urls = |urls: &[&str]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        read,
        [
            (
                "one",
                urls(&["https://a.example/x", "https://b.example/it's"])
            ),
            ("two", urls(&["https://c.example/2", "https://d.example/2"])),
            (
                "three",
                urls(&["https://e.example/3", "https://f.example/3"])
            ),
            ("four", urls(&["https://e.example/3"])),
        ]
    );
    let lines = |entry: usize| -> Vec<String> {
        let mirrors = &file.collections[entry].mirrors;
        mirrors
            .iter()
            .map(|mirror| mirror.provenance.to_string())
            .collect()
    };
    assert_eq!(lines(0), ["rc:2", "rc:3"]);
    assert_eq!(lines(1), ["rc:7", "rc:8"]);
}

#[test]
fn yaml_aliases_do_not_multiply_what_is_read() {
    // Each level repeats the one above it ten times: 10^20 values if they were copied.
    let mut bomb = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..=20 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    bomb += "mirrored_channels:\n  one: [/a]\n";
    let file = MirrorsFile::parse_yaml(&bomb, "rc").unwrap();
    assert_eq!(file.collections.len(), 1);

    // A chain of aliases is as deep as it is long.
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..=100_000 {
        writeln!(chain, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
    }
    let message = yaml_error(&chain);
    assert!(
        message.contains("the depth is 33, the limit is 32"),
        "{message}"
    );

    // One list of 4,096 mirrors, used by many entries.
    let list: Vec<String> = (0..4096).map(|i| format!("- /m{i}\n")).collect();
    let list = list.concat();
    let mut wide = format!("list: &list\n{list}mirrors:\n");
    for entry in 0..17 {
        writeln!(wide, "  c{entry}: *list").unwrap();
    }
    let message = yaml_error(&wide);
    assert!(
        message.contains("the number of mirrors in the file is 65537"),
        "{message}"
    );
    let message = yaml_error("mirrors: &m\n  a: *m\n");
    assert!(message.starts_with("rc:2:"), "{message}");
}

#[test]
fn yaml_over_the_limits_is_refused() {
    for (text, expected) in [
        ("#".repeat((4 << 20) + 1), "the length in bytes is 4194305"),
        (format!("a: {}", "[".repeat(33)), "the depth is 33"),
        (
            format!("a:\n{}", "- x\n".repeat(262_145)),
            "the number of values is 262145",
        ),
    ] {
        let message = yaml_error(&text);
        assert!(message.contains(expected), "{message}");
    }
}

fn yaml_error(text: &str) -> String {
    MirrorsFile::parse_yaml(text, "rc").unwrap_err().to_string()
}

/// Every kind of error, as a user reads it.
#[test]
fn errors_of_lists_read_well() {
    let source = |name: &str, text: &str| -> ListError {
        let found = |_| Provenance::Discovered {
            from: "https://list.example/".into(),
        };
        MirrorSource::parse(text, name, &[], found).unwrap_err()
    };
    let ours = |text: &str| MirrorsFile::parse(text, "mirrors.toml").unwrap_err();
    let yaml = |text: &str| MirrorsFile::parse_yaml(text, ".condarc").unwrap_err();
    let url = "[[channel]]\nurl = \"c\"\nmirrors = ";
    let errors = [
        ours("[[channel]\n"),
        yaml("mirrors: [\n"),
        yaml("mirrors:\n\ta: b\n"),
        yaml("mirrors: *none\n"),
        source("list.meta4", "<metalink version=\"3.0\"><files></metalink>"),
        source("list.meta4", "<metalink version=\"9\"/>"),
        source("list", "<!DOCTYPE html><p>"),
        source("list", "channels: [c]\n"),
        ours(&"#".repeat((4 << 20) + 1)),
        ours(&format!("{url}[{{ url = \"/a\", prio = 1 }}]")),
        ours(&format!("{url}[{{ url = \"/a\", max_connections = 1 }}]")),
        ours(&format!("{url}[{{ weight = 1 }}]")),
        ours(&format!("{url}3")),
        yaml("mirrors: {a: b}\n"),
        ours(&format!("{url}[{{ url = \"/a\", weight = 0 }}]")),
        ours(&format!("{url}[\"ftp://a.example\"]")),
        yaml("mirrors: {a: [ftp://a.example]}\n"),
        ours(&format!("{url}[{{ url = \"/a\", region = \"x\" }}]")),
        ours(&format!("{url}[\"/a\"]\n{url}[\"/b\"]\n")),
        yaml("mirrors: {a: [/a, /a/]}\n"),
        source("https://list.example/", &format!("{url}[\"/etc\"]")),
        ours(&format!("{url}[]")),
        yaml("mirrors:\n  a:\n"),
        source("list", "# nothing\n"),
        source(
            "list",
            "ftp://a.example/\nhello\n/etc\nhttps://a.example/$arch\n",
        ),
    ];
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(text.join("\n"));
}

/// Every reason to skip an entry.
#[test]
fn reasons_to_skip_an_entry_read_well() {
    let found = |_| Provenance::Discovered {
        from: "https://list.example/".into(),
    };
    let list = "https://a.example/\nhttps://a.example\nrsync://a.example/\n/etc\nhello\nhttps://b.example/$arch\n";
    let Ok(MirrorSource::List(list)) = MirrorSource::parse(list, "list", &[], found) else {
        panic!("it is a plain list")
    };
    let metalink = "<metalink version=\"3.0\"><files><file name=\"a\"><size>x</size><resources>\
        <url preference=\"101\">https://a.example/a</url></resources></file></files></metalink>";
    let metalink = Metalink::parse(metalink, "metalink", found).unwrap();
    let skipped = list.skipped.iter().chain(&metalink.skipped);
    let text: Vec<String> = skipped.map(ToString::to_string).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn variables_in_a_condarc_stand_for_their_values() {
    let list = |url: &str| format!("mirrored_channels:\n  c:\n    - \"http://a.example/{url}\"\n");
    let read = |url: &str| MirrorsFile::parse_yaml(&list(url), "condarc");
    let error = read("${NO_SUCH_VARIABLE_OF_TAIPAN}/c").unwrap_err();
    assert_eq!(error.line, 3);
    assert!(
        error.to_string().contains("NO_SUCH_VARIABLE_OF_TAIPAN"),
        "{error}"
    );
    assert!(read("$NO_SUCH_VARIABLE_OF_TAIPAN/c").is_err());
    assert!(read("costs$5/c").is_ok());
    assert!(read("$PATH").is_ok() && read("${PATH}/c").is_ok());
}
