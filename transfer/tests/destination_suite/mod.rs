//! The contract of destinations: one suite for all protocols and servers. The tests of the workspace run it against real
//! servers, too.

use std::{path::Path, sync::Arc, time::Duration};

use taipan_transfer::{
    Condition, Content, Deletion, Engine, EngineOptions, Expected, Job, MemorySink, NewFile,
    OciTarget, Outlet, PutOptions, Sha256, Silent, Target,
};

/// What differs between servers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    /// Whether conditions are honoured.
    pub(crate) conditions: bool,
    /// Whether files can be deleted.
    pub(crate) deletes: bool,
    /// The size of the large file, in bytes.
    pub(crate) large: u64,
}

pub(crate) fn engine() -> Engine {
    Engine::new(EngineOptions::default(), Arc::new(Silent))
}

fn target(name: &str, kind: &str) -> Target {
    Target::path(format!("dir/{name}")).with_oci(OciTarget {
        repository: "dir/files".to_owned(),
        tag: name.replace(['/', '+'], "-"),
        media_type: format!("application/x.test.{kind}"),
    })
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: u64) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(next).collect()
}

async fn new(name: &str, bytes: &[u8]) -> NewFile {
    let content = Content::from(bytes.to_vec());
    let file = NewFile::new(target(name, "layer"), content).await.unwrap();
    file.with_headers("application/octet-stream", Some("public, max-age=300"))
}

fn known(file: &NewFile) -> Expected {
    Expected {
        size: Some(file.size()),
        sha256: Some(file.sha256),
        md5: file.md5,
        ..Expected::default()
    }
}

/// Reads a file back, by its name and not by its digest.
async fn read(engine: &Engine, outlet: &Outlet, target: &Target) -> Vec<u8> {
    let mut sink = MemorySink::new(256 << 20);
    let job = Job::metadata("it", target.clone());
    engine
        .fetch(outlet.mirrors(), &job, &mut sink)
        .await
        .unwrap();
    sink.into_bytes()
}

/// All that a destination must do.
pub(crate) async fn all(outlet: &Outlet, traits: Traits, work: &Path) {
    let engine = &engine();
    stores_and_replaces(engine, outlet).await;
    refuses_wrong_bytes(engine, outlet).await;
    stores_large_files(engine, outlet, traits, work).await;
    stores_layers_together(engine, outlet).await;
    honours_conditions(engine, outlet, traits).await;
    lists(engine, outlet).await;
    deletes(engine, outlet, traits).await;
    let swept = engine.sweep(outlet, Duration::ZERO).await.unwrap();
    assert_eq!(swept, 0, "no upload is left");
}

async fn stores_and_replaces(engine: &Engine, outlet: &Outlet) {
    let none = Expected::default();
    let absent = engine.look(outlet, &target("a.bin", "layer"), &none).await;
    assert_eq!(absent.unwrap(), None);
    for bytes in [&b"first"[..], b"second", b"second"] {
        let file = new("a.bin", bytes).await;
        let files = [file.clone()];
        let stored = engine
            .put(outlet, "a.bin", &files, PutOptions::default())
            .await;
        assert_eq!(stored.unwrap().len(), 1);
        assert_eq!(read(engine, outlet, &file.target).await, bytes);
        let held = engine.look(outlet, &file.target, &known(&file)).await;
        let held = held.unwrap().expect("it is there");
        assert!(held.is(&known(&file)), "{held:?}");
        let other = Expected {
            sha256: Some(Sha256::of(b"other")),
            ..Expected::default()
        };
        assert!(!held.is(&other));
    }
    // Many at a time, also of the same bytes.
    let puts = (0..24).map(|number| async move {
        let name = format!("many-{}", number % 12);
        let file = new(&name, format!("content {}", number % 3).as_bytes()).await;
        let files = [file];
        engine
            .put(outlet, &name, &files, PutOptions::default())
            .await
            .unwrap();
    });
    futures_util::future::join_all(puts).await;
    for number in 0..12 {
        let bytes = read(engine, outlet, &target(&format!("many-{number}"), "layer")).await;
        assert_eq!(bytes, format!("content {}", number % 3).as_bytes());
    }
}

/// The digest that the caller knows is not that of the bytes: nothing comes to be, and what was there stays.
async fn refuses_wrong_bytes(engine: &Engine, outlet: &Outlet) {
    let right = new("wrong.bin", b"what was meant").await;
    let wrong = NewFile::known(
        right.target.clone(),
        Content::from(b"what is there!".to_vec()),
        right.sha256,
        None,
    );
    let options = PutOptions::default();
    let quick = outlet_without_retries(outlet);
    let put = engine.put(&quick, "wrong.bin", &[wrong], options).await;
    let error = put.expect_err("the bytes are wrong");
    assert!(!error.problem().is_empty());
    let held = engine
        .look(outlet, &right.target, &known(&right))
        .await
        .unwrap();
    assert_eq!(held, None);
}

fn outlet_without_retries(outlet: &Outlet) -> Outlet {
    outlet.clone().with_retries(0)
}

async fn stores_large_files(engine: &Engine, outlet: &Outlet, traits: Traits, work: &Path) {
    let bytes = pattern(traits.large);
    let path = work.join("large");
    std::fs::write(&path, &bytes).unwrap();
    let content = Content::file(&path).await.unwrap();
    let file = NewFile::new(target("large.bin", "layer"), content)
        .await
        .unwrap();
    let files = [file.clone()];
    engine
        .put(outlet, "large.bin", &files, PutOptions::default())
        .await
        .unwrap();
    assert!(read(engine, outlet, &file.target).await == bytes);
    let held = engine
        .look(outlet, &file.target, &known(&file))
        .await
        .unwrap();
    assert!(held.expect("it is there").is(&known(&file)));
}

/// In a registry, files of one tag are layers of one manifest; elsewhere they are just files.
async fn stores_layers_together(engine: &Engine, outlet: &Outlet) {
    let layer = async |name: &str, kind: &str, bytes: &[u8]| {
        let target = Target::path(format!("dir/{name}")).with_oci(OciTarget {
            repository: "dir/index".to_owned(),
            tag: "latest".to_owned(),
            media_type: format!("application/x.test.{kind}"),
        });
        NewFile::new(target, Content::from(bytes.to_vec()))
            .await
            .unwrap()
    };
    let files = [
        layer("index.one", "one", b"1").await,
        layer("index.two", "two", b"22").await,
    ];
    engine
        .put(outlet, "both", &files, PutOptions::default())
        .await
        .unwrap();
    let third = [layer("index.three", "three", b"333").await];
    let keeping = PutOptions {
        keeps_other_layers: true,
    };
    engine.put(outlet, "third", &third, keeping).await.unwrap();
    let newer = [layer("index.two", "two", b"4444").await];
    engine.put(outlet, "newer", &newer, keeping).await.unwrap();
    for (file, bytes) in [
        (&files[0], &b"1"[..]),
        (&third[0], b"333"),
        (&newer[0], b"4444"),
    ] {
        assert_eq!(read(engine, outlet, &file.target).await, bytes);
    }
}

async fn honours_conditions(engine: &Engine, outlet: &Outlet, traits: Traits) {
    let is_honoured = engine.honours_conditions(outlet).await.unwrap();
    assert_eq!(is_honoured, traits.conditions);
    if !is_honoured {
        return;
    }
    let options = PutOptions::default();
    let first = new("conditional", b"1")
        .await
        .with_condition(Condition::Absent);
    let stored = engine.put(outlet, "c", &[first], options).await.unwrap();
    let tag = stored[0].etag.clone().expect("there is an entity tag");
    let again = new("conditional", b"2")
        .await
        .with_condition(Condition::Absent);
    let error = engine
        .put(outlet, "c", &[again], options)
        .await
        .unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    let unchanged = Condition::Unchanged(tag.clone());
    let next = new("conditional", b"3")
        .await
        .with_condition(unchanged.clone());
    engine.put(outlet, "c", &[next], options).await.unwrap();
    let late = new("conditional", b"4").await.with_condition(unchanged);
    let error = engine.put(outlet, "c", &[late], options).await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    assert_eq!(
        read(engine, outlet, &target("conditional", "layer")).await,
        b"3"
    );
}

async fn lists(engine: &Engine, outlet: &Outlet) {
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = engine
            .list(outlet, "dir/many-", after.as_deref())
            .await
            .unwrap();
        let Some(page) = page else {
            assert!(outlet.is_registry());
            let tags = engine.tags(outlet, "dir/files").await.unwrap().unwrap();
            assert!(tags.contains(&"many-11".to_owned()), "{tags:?}");
            let none = engine.tags(outlet, "dir/nothing").await.unwrap();
            assert_eq!(none, Some(Vec::new()));
            return;
        };
        names.extend(
            page.files
                .into_iter()
                .map(|file| (file.path, file.held.size)),
        );
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut expected: Vec<_> = (0..12)
        .map(|number| (format!("dir/many-{number}"), Some(9)))
        .collect();
    expected.sort();
    assert_eq!(names, expected);
}

async fn deletes(engine: &Engine, outlet: &Outlet, traits: Traits) {
    let targets: Vec<Target> = (0..6)
        .map(|number| target(&format!("many-{number}"), "layer"))
        .chain([target("never-there", "layer")])
        .collect();
    let deletions = engine.delete(outlet, &targets).await.unwrap();
    for (target, deletion) in targets.iter().zip(deletions) {
        let held = engine
            .look(outlet, target, &Expected::default())
            .await
            .unwrap();
        if traits.deletes {
            assert_eq!(deletion, Deletion::Done, "{target:?}");
            assert_eq!(held, None);
        } else if target.path != "dir/never-there" {
            assert_eq!(deletion, Deletion::Unsupported, "{target:?}");
            assert!(held.is_some());
        }
    }
}
