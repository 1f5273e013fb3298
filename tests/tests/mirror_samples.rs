//! Lists of mirrors as real servers and programs write them, good and broken.

use taipan_mirrors::{
    ListError, ListedDigest, Location, Metalink, MirrorList, MirrorSource, Provenance, SkipReason,
};
use taipan_tests::required;

/// The text of a sample; `None` when there are none on this machine.
fn sample(name: &str) -> Option<String> {
    let root = required(
        "TAIPAN_MIRROR_SAMPLES",
        "a folder with real lists of mirrors",
    )?;
    let path = root.join(name);
    let text = std::fs::read_to_string(&path);
    Some(text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn read(name: &str, text: &str) -> Result<MirrorSource, ListError> {
    MirrorSource::parse(text, name, &[("arch", "x86_64")], |line| Provenance::File {
        file: name.into(),
        line,
    })
}

#[track_caller]
fn metalink(name: &str, text: &str) -> Metalink {
    match read(name, text) {
        Ok(MirrorSource::Metalink(metalink)) => metalink,
        other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn refused(name: &str, text: &str) -> String {
    match read(name, text) {
        Err(error) => error.to_string(),
        Ok(source) => panic!("{name} is taken for a {}", source.kind()),
    }
}

#[test]
fn good_metalinks_are_read_whole() {
    let name = "metalink/metalink_good_01";
    let Some(text) = sample(name) else { return };
    let found = metalink(name, &text);
    let file = found.file("repomd.xml").unwrap();
    assert_eq!(
        (file.version.timestamp, file.version.size),
        (Some(1_337_942_396), Some(4309))
    );
    let kinds: Vec<_> = file
        .version
        .digests
        .iter()
        .map(ListedDigest::algorithm)
        .collect();
    assert_eq!(kinds, ["md5", "sha1", "sha256", "sha512"]);
    let entries = text.matches("<url ").count();
    assert_eq!(file.mirrors.len() + found.skipped.len(), entries);
    assert!(file.mirrors.iter().all(|mirror| mirror.country.is_some()));
    // Only unsupported protocols are skipped.
    for skipped in &found.skipped {
        assert!(matches!(skipped.why, SkipReason::Location(_)), "{skipped}");
    }
    assert_eq!(
        file.base_mirrors("repodata/repomd.xml").len(),
        file.mirrors.len()
    );

    let name = "metalink/metalink_good_02";
    let Some(text) = sample(name) else { return };
    let found = metalink(name, &text);
    assert!(found.files.len() >= 2);
    assert_eq!(found.file("foofile").unwrap().mirrors.len(), 2);

    let name = "metalink/metalink_with_alternates";
    let Some(text) = sample(name) else { return };
    let file = metalink(name, &text).files.remove(0);
    assert_eq!(
        file.alternates.len(),
        text.matches("<mm0:alternate>").count()
    );
    assert!(!file.alternates.is_empty());
    for version in &file.alternates {
        assert!(version.timestamp.is_some() && !version.digests.is_empty());
    }
}

#[test]
fn metalinks_with_senseless_parts_are_read_without_them() {
    let name = "metalink/metalink_bad_01";
    let Some(text) = sample(name) else { return };
    let found = metalink(name, &text);
    let file = found.file("repomd.xml").unwrap();
    assert_eq!((file.version.timestamp, file.version.size), (None, None));
    let said: Vec<String> = found.skipped.iter().map(ToString::to_string).collect();
    for part in [
        "`foo` is not a valid time",
        "`bar` is not a valid length",
        "`foo:` is not a valid digest",
    ] {
        assert!(
            said.iter().any(|line| line.contains(part)),
            "{part}: {said:?}"
        );
    }

    // Its URLs stand outside of the element for them.
    let name = "metalink/metalink_bad_02";
    let Some(text) = sample(name) else { return };
    assert_eq!(
        metalink(name, &text).file("repomd.xml").unwrap().mirrors,
        []
    );

    let name = "metalink/metalink_good_03";
    let Some(text) = sample(name) else { return };
    assert_eq!(
        metalink(name, &text).file("repomd.xml").unwrap().mirrors,
        []
    );
}

#[test]
fn metalinks_that_do_not_have_the_file_say_so_or_are_refused() {
    // Both files have other names than the one that they are asked for.
    let name = "metalink/metalink_really_bad_01";
    let Some(text) = sample(name) else { return };
    let found = metalink(name, &text);
    assert_eq!(found.file("repomd.xml"), None);
    assert_eq!(found.files.len(), 2);

    let name = "metalink/metalink_really_bad_02";
    let Some(text) = sample(name) else { return };
    let message = refused(name, &text);
    assert!(message.contains("the document ends within"), "{message}");

    let name = "metalink/metalink_really_bad_03";
    let Some(text) = sample(name) else { return };
    assert_eq!(metalink(name, &text).files, []);
}

#[test]
fn plain_lists_are_read_and_those_without_mirrors_refused() {
    let name = "mirrorlist/mirrorlist_01";
    let Some(text) = sample(name) else { return };
    let Ok(MirrorSource::List(list)) = read(name, &text) else {
        panic!("{name} is a plain list")
    };
    assert_eq!(
        list.mirrors[0].location.to_string(),
        "http://foo.bar/fedora/linux"
    );
    assert_eq!((list.mirrors.len(), list.skipped.len()), (1, 1));

    for name in [
        "mirrorlist/mirrorlist_02",
        "mirrorlist/mirrorlist_03",
        "mirrorlist/archlinuxcn-mirrorlist",
    ] {
        let Some(text) = sample(name) else { return };
        let message = refused(name, &text);
        assert_eq!(message, format!("{name}:1: no usable mirror"));
    }

    // As its users do, who take the comment signs away.
    let name = "mirrorlist/archlinuxcn-mirrorlist";
    let Some(text) = sample(name) else { return };
    let enabled = text.replace("# Server", "Server");
    let list = MirrorList::parse(&enabled, name, &[("arch", "x86_64")], |_| {
        Provenance::CommandLine
    })
    .unwrap();
    assert_eq!(list.mirrors.len(), text.matches("# Server = ").count());
    assert_eq!(list.skipped, []);
    for mirror in &list.mirrors {
        assert!(matches!(mirror.location, Location::Http(_)));
        assert!(mirror.location.to_string().ends_with("/x86_64"));
    }
}

#[test]
fn yaml_is_read_for_its_mirrors_and_refused_without() {
    for (name, channel, count) in [
        ("yaml/miniforge-construct.yaml", "conda-forge", 2),
        ("yaml/remote_mirrors.yml", "conda-forge", 2),
    ] {
        let Some(text) = sample(name) else { return };
        let Ok(MirrorSource::Collections(file)) = read(name, &text) else {
            panic!("{name} has channels")
        };
        assert_eq!(file.collections.len(), 1, "{name}");
        assert_eq!(file.mirrors_for(channel).unwrap().len(), count, "{name}");
    }
    for name in [
        "yaml/archlinuxcn-mirrors.yaml",
        "yaml/void-xmirror-mirrors.yaml",
    ] {
        let Some(text) = sample(name) else { return };
        let message = refused(name, &text);
        assert!(
            message.contains("YAML without `mirrored_channels:`"),
            "{message}"
        );
    }
}
