//! Whatever a parser is given, it answers; and what it accepts is within its limits.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;
use taipan_mirrors::{
    Duplicates, Location, Metalink, MirrorList, MirrorSource, MirrorsFile, Provenance, SafeUrl,
    SavedState, digests_of_header,
};
use url::Url;

const MIRRORS: &str = r#"[[channel]]
url = "https://origin.example/pub"
mirrors = ["https://one.example/pub", { url = "s3://bucket/prefix", weight = 0.5, country = "DE" }]
"#;
const TABLE: &str =
    "[mirrors]\n\"https://o.example\" = [\"https://a.example/x\", \"oci://r.example/n\"]\n";
const YAML: &str = "base: &b [https://a.example/x]\nurl: &u https://b.example/x\nmirrored_channels:\n  one:\n    \
    - \"https://a.example/one\" # c\n  two: [/a,\n    '/b']\n  three: *b\n  \"fo\\x75r\": [*u]\n";
const LIST: &str = "# c\nhttps://a.example/$arch/\nServer = https://b.example/${arch}\n/srv\n";
const METALINK: &str = r#"<?xml version="1.0"?><metalink version="3.0" xmlns:m="x"><files><file name="a/b">
<m:timestamp>1</m:timestamp><size>4</size><verification><hash type="md5">d41d8cd98f00b204e9800998ecf8427e</hash>
</verification><resources maxconnections="2"><url location="de" preference="9">https://a.example/a/b?x=1&amp;y=2</url>
<url><![CDATA[https://b.example/a/b]]></url></resources></file></files></metalink>"#;
const LINK: &str =
    "<https://a.example/f>; rel=duplicate; pri=1; geo=gb, <../b>; rel=\"duplicate x\"";
const STATE: &str = r#"{"version":1,"networks":{"":{"https://a.example/":{"seen":1,"first_byte":{"weight":1,"mean":0,"variance":1,"at":1}}}},"distrust":{}}"#;

/// A text from which pieces are cut and into which others are put.
fn mutated(text: &'static str) -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        0..8_usize,
        "[\\PC\\n\\t]{0,4}|[<>&;\"'=\\[\\]{}#:,$@%/\\\\ ]{0,3}",
    );
    vec(edit, 0..6).prop_map(move |edits| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, cut, put) in edits {
            let from = at.index(chars.len() + 1);
            let to = (from + cut).min(chars.len());
            chars.splice(from..to, put.chars());
        }
        chars.into_iter().collect()
    })
}

fn read_all(text: &str) {
    let provenance = |_| Provenance::CommandLine;
    for parsed in [
        MirrorsFile::parse(text, "f"),
        MirrorsFile::parse_prefixes(text, "f"),
        MirrorsFile::parse_yaml(text, "f"),
    ] {
        match parsed {
            Ok(file) => {
                for entry in &file.collections {
                    assert!(!entry.mirrors.is_empty());
                    assert!(entry.line >= 1);
                    assert!(file.mirrors_for(&entry.url).is_some());
                    assert!(file.mirrors_below(&entry.url).is_some());
                }
            }
            Err(error) => {
                assert!(error.line >= 1 && error.column.is_some_and(|column| column >= 1));
                assert!(error.to_string().starts_with("f:"));
            }
        }
    }
    match MirrorList::parse(text, "f", &[("arch", "x")], provenance) {
        Ok(list) => assert!(!list.mirrors.is_empty()),
        Err(error) => assert!(error.to_string().starts_with("f:")),
    }
    let found = |line: u32| Provenance::Discovered {
        from: format!("l:{line}").into(),
    };
    match MirrorSource::parse(text, "f", &[("arch", "x")], found) {
        Ok(MirrorSource::Collections(file) | MirrorSource::Table(file)) => {
            let mirrors = file.collections.iter().flat_map(|entry| &entry.mirrors);
            for mirror in mirrors {
                assert!(!matches!(mirror.location, Location::File(_)));
                assert!(matches!(mirror.provenance, Provenance::Discovered { .. }));
            }
        }
        Ok(MirrorSource::List(_) | MirrorSource::Metalink(_)) => {}
        Err(error) => assert!(error.to_string().starts_with("f:")),
    }
    if let Ok(metalink) = Metalink::parse(text, "f", provenance) {
        for file in &metalink.files {
            assert!(!file.name.starts_with('/') && !file.name.split('/').any(|part| part == ".."));
            let weights = file.mirrors.iter().map(|mirror| mirror.weight);
            assert!(
                weights
                    .into_iter()
                    .all(|weight| (0.001..=1.0).contains(&weight))
            );
            let _ = file.base_mirrors("a/b");
        }
    }
    let base = Url::parse("https://origin.example/a").unwrap();
    for mirror in Duplicates::parse([text], &base).mirrors {
        assert!(!matches!(mirror.location, Location::File(_)));
    }
    let _ = digests_of_header(text);
    let _ = SavedState::parse(text);
}

/// A YAML scalar of this text, in one of the styles.
fn yaml_scalar(text: &str, style: usize) -> String {
    match style {
        0 => format!("'{}'", text.replace('\'', "''")),
        1 => format!("{text:?}"),
        _ => text.to_owned(),
    }
}

proptest! {
    #[test]
    fn yaml_in_every_style_gives_the_same_mirrors(
        entries in vec((vec(("[a-z]{1,6}", 0..3_usize), 1..5), any::<bool>()), 0..5)
    ) {
        let mut text = "other: {a: [1]}\nmirrored_channels:\n".to_owned();
        let mut expected = Vec::new();
        for (index, (mirrors, is_flow)) in entries.iter().enumerate() {
            let url = |mirror: usize, name: &str| format!("https://m{mirror}.example/{name}");
            let items: Vec<String> = mirrors
                .iter()
                .enumerate()
                .map(|(mirror, (name, style))| yaml_scalar(&url(mirror, name), *style))
                .collect();
            let items = if *is_flow {
                format!(" [{},]", items.join(",\n    "))
            } else {
                format!("\n  - {}", items.join("\n  - "))
            };
            writeln!(text, "  c{index}:{items}").unwrap();
            let urls = mirrors.iter().enumerate().map(|(mirror, (name, _))| url(mirror, name));
            expected.push(urls.collect::<Vec<_>>());
        }
        let file = MirrorsFile::parse_yaml(&text, "f").unwrap();
        let read: Vec<Vec<String>> = file
            .collections
            .iter()
            .map(|entry| entry.mirrors.iter().map(|mirror| mirror.location.to_string()).collect())
            .collect();
        prop_assert_eq!(read, expected, "{}", text);
    }

    #[test]
    fn any_text_is_answered(text in "[\\PC\\n\\t\\r\\x00]{0,200}") {
        read_all(&text);
    }

    #[test]
    fn damaged_documents_are_answered(
        text in prop_oneof![
            mutated(MIRRORS), mutated(TABLE), mutated(YAML), mutated(LIST), mutated(METALINK),
            mutated(LINK), mutated(STATE),
        ]
    ) {
        read_all(&text);
    }

    #[test]
    fn a_displayed_location_parses_to_the_same_location(
        text in "(https?|s3|oci|oci\\+http|file)://[a-zA-Z0-9.:@-]{0,20}(/[a-zA-Z0-9._%~+!-]{0,8}){0,4}"
    ) {
        if let Ok(location) = Location::parse(&text) {
            let again = Location::parse(&location.to_string().replace("***@", "")).unwrap();
            prop_assert_eq!(again.key(), location.key());
        }
    }

    #[test]
    fn a_joined_path_stays_below_its_mirror(path in "[\\PC]{0,40}") {
        let base = Location::parse("https://h.example/a/b").unwrap();
        if let Some(url) = base.join(&path) {
            prop_assert!(url.as_str().starts_with("https://h.example/a/b"), "{}", url);
            prop_assert!(url.path() == "/a/b" || url.path().starts_with("/a/b/"), "{}", url);
        }
        if let Some(Location::Http(url)) = base.below(&path) {
            prop_assert!(url.path() == "/a/b" || url.path().starts_with("/a/b/"), "{}", url);
        }
    }

    #[test]
    fn no_secret_is_shown(user in "[a-z]{1,8}", secret in "[A-Za-z0-9]{12}", key in "token|TOKEN|sig|X-Amz-Signature|x-amz-credential|password") {
        let text = format!("https://{user}:{secret}@h.example/t/{secret}/x?{key}={secret}&a=b");
        let url: SafeUrl = text.parse().unwrap();
        let location = Location::parse(&text).unwrap();
        let shown = format!("{url} {url:?} {location} {location:?} {}", location.key());
        prop_assert!(!shown.contains(&secret), "{}", shown);
    }
}
