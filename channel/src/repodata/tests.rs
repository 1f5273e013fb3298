//! Fetching an index from a server that sends what the test says.

use std::path::Path;

use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, Rule, Site};
use taipan_transfer::{
    Engine, EngineOptions, HttpClient, HttpOptions, MirrorSet, ProxyChoice, Silent,
};

use super::*;
use crate::{
    channel::Channel,
    channel_indexes::fetch_channels,
    look_up::{PackageQuery, is_package_path, look_up},
    mirrored_channel::MirroredChannel,
};

const RECORD: &str = r#"{"name":"a","version":"1","build":"0","build_number":0,"depends":[],
    "sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7}"#;

/// A server with one channel, and a cache.
struct World {
    site: Site,
    server: HttpServer,
    dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let site = Site::new();
        let text = format!(r#"{{"packages.conda":{{"a-1-0.conda":{RECORD}}}}}"#);
        let zst = zstd::encode_all(text.as_bytes(), 3).unwrap();
        site.insert("noarch/repodata.json", text);
        site.insert("noarch/repodata.json.zst", zst);
        Self {
            server: HttpServer::start(site.clone()).await.unwrap(),
            site,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn engine() -> Engine {
        Engine::new(EngineOptions::default(), std::sync::Arc::new(Silent))
    }

    /// The channel, whose only mirror the server is. What was learnt of the mirror is forgotten.
    fn channel(&self) -> MirroredChannel {
        self.named("main")
    }

    fn named(&self, name: &str) -> MirroredChannel {
        let options = HttpOptions {
            proxy: ProxyChoice::Direct,
            ..HttpOptions::default()
        };
        let client = HttpClient::new(&options).unwrap();
        let alias = "https://conda.example".parse().unwrap();
        MirroredChannel {
            channel: Channel::parse(name, &alias, Path::new("/")).unwrap(),
            mirrors: MirrorSet::of_url(&self.server.url(), &client).unwrap(),
        }
    }

    fn cache(&self) -> RepodataCache {
        RepodataCache::new(self.dir.path())
    }

    async fn fetch(&self, subdir: &str) -> Result<SubdirIndex, RepodataError> {
        self.fetch_with(&Self::engine(), subdir).await
    }

    async fn fetch_with(
        &self,
        engine: &Engine,
        subdir: &str,
    ) -> Result<SubdirIndex, RepodataError> {
        let MirroredChannel { channel, mirrors } = self.channel();
        let options = RepodataOptions::default();
        fetch_index(engine, &mirrors, &channel, subdir, &self.cache(), options).await
    }

    fn always(&self, fault: Fault) {
        let rule = Rule::always(Matcher::Any, fault);
        self.server.set_behaviour(Behaviour::new().with_rule(rule));
    }

    /// The paths that were requested since the last call.
    fn requested(&self) -> Vec<String> {
        let requests = self.server.requests();
        self.server.clear_requests();
        let file = |path: &str| path.trim_start_matches("/noarch/").to_owned();
        requests.iter().map(|request| file(&request.path)).collect()
    }
}

#[tokio::test]
async fn the_compressed_form_is_fetched_and_confirmed_by_its_validators() {
    let world = World::start().await;
    let first = world.fetch("noarch").await.unwrap();
    assert!(matches!(first.status, RepodataStatus::Fetched));
    assert_eq!(first.index.len(), 1);
    assert_eq!(
        first.url,
        format!("{}/noarch/repodata.json.zst", world.server.url())
    );
    assert_eq!(world.requested(), ["repodata.json.zst"]);

    let second = world.fetch("noarch").await.unwrap();
    assert!(matches!(second.status, RepodataStatus::Unchanged));
    assert_eq!(second.index.len(), 1);
    let request = world.server.requests().pop().unwrap();
    assert!(request.if_none_match().is_some());
}

#[tokio::test]
async fn the_plain_form_is_fetched_where_the_compressed_one_is_absent() {
    let world = World::start().await;
    world.site.remove("noarch/repodata.json.zst");
    let fetched = world.fetch("noarch").await.unwrap();
    assert!(matches!(fetched.status, RepodataStatus::Fetched));
    assert_eq!(world.requested(), ["repodata.json.zst", "repodata.json"]);
    // Its validators are used for it, and not for the other form.
    let fetched = world.fetch("noarch").await.unwrap();
    assert!(matches!(fetched.status, RepodataStatus::Unchanged));
    let requests = world.server.requests();
    let validated: Vec<_> = requests
        .iter()
        .map(|it| it.if_none_match().is_some())
        .collect();
    assert_eq!(validated, [false, true]);
}

#[tokio::test]
async fn a_damaged_cache_is_fetched_anew_without_validators() {
    let world = World::start().await;
    world.fetch("noarch").await.unwrap();
    let entry = std::fs::read_dir(world.dir.path()).unwrap().next().unwrap();
    std::fs::write(entry.unwrap().path().join("repodata.json"), "{").unwrap();
    world.requested();
    let fetched = world.fetch("noarch").await.unwrap();
    assert!(matches!(fetched.status, RepodataStatus::Fetched));
    assert_eq!(fetched.index.len(), 1);
    let request = world.server.requests().pop().unwrap();
    assert_eq!(request.if_none_match(), None);
}

#[tokio::test]
async fn a_subdir_that_no_mirror_has_is_empty() {
    let world = World::start().await;
    let absent = world.fetch("linux-64").await.unwrap();
    assert!(matches!(absent.status, RepodataStatus::Absent));
    assert!(absent.index.is_empty() && absent.url.is_empty());
}

#[tokio::test]
async fn the_cached_copy_is_used_when_no_mirror_has_a_usable_answer() {
    let world = World::start().await;
    let error = {
        world.always(Fault::Html);
        world.fetch("noarch").await.unwrap_err()
    };
    assert!(
        matches!(&error, RepodataError::Fetch { source, .. } if source.is_corrupt()),
        "{error:?}"
    );
    world.server.set_behaviour(Behaviour::new());
    let fetched = world.fetch("noarch").await.unwrap();

    world.always(Fault::Html);
    let stale = world.fetch("noarch").await.unwrap();
    assert!(matches!(stale.status, RepodataStatus::Stale(_)));
    assert_eq!(stale.url, fetched.url);
    assert_eq!(stale.index.len(), 1);

    let options = EngineOptions {
        offline: true,
        ..EngineOptions::default()
    };
    let offline = Engine::new(options, std::sync::Arc::new(Silent));
    world.requested();
    let stale = world.fetch_with(&offline, "noarch").await.unwrap();
    assert!(matches!(stale.status, RepodataStatus::Stale(_)));
    assert_eq!(world.requested(), Vec::<String>::new());
}

#[tokio::test]
async fn a_user_who_is_denied_does_not_get_the_cached_copy() {
    let world = World::start().await;
    world.fetch("noarch").await.unwrap();
    world.always(Fault::status(401));
    let error = world.fetch("noarch").await.unwrap_err();
    assert!(
        matches!(&error, RepodataError::Fetch { source, .. } if source.is_denied()),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_channel_without_any_of_the_subdirs_is_an_error() {
    let world = World::start().await;
    let channels = [world.channel()];
    let options = RepodataOptions::default();
    let fetch = async |subdirs: &[&str]| {
        let subdirs = subdirs.iter().map(|&subdir| subdir.to_owned()).collect();
        let engine = World::engine();
        fetch_channels(&engine, &channels, &subdirs, &world.cache(), options).await
    };
    let fetched = fetch(&["linux-64", "noarch"]).await.unwrap();
    let lengths: Vec<_> = fetched[0].iter().map(|subdir| subdir.index.len()).collect();
    assert_eq!(lengths, [0, 1]);
    let error = fetch(&["linux-64", "osx-64"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no mirror of the channel main has repodata for main/linux-64 or main/osx-64"
    );
}

#[tokio::test]
async fn packages_are_looked_up_in_the_channels_that_may_have_them() {
    let (empty, world) = (World::start().await, World::start().await);
    for file in ["repodata.json", "repodata.json.zst"] {
        empty.site.remove(&format!("noarch/{file}"));
    }
    let denied = World::start().await;
    denied.always(Fault::status(401));
    let channels = [
        empty.named("empty"),
        world.named("main"),
        denied.named("denied"),
    ];
    let query = |path: &str, channels: &[usize]| PackageQuery {
        path: path.to_owned(),
        channels: channels.to_vec(),
    };
    let queries = [
        query("noarch/a-1-0.conda", &[0, 1, 2]),
        query("noarch/b-1-0.conda", &[0, 1]),
        query("noarch/a-1-0.conda", &[2]),
        query("noarch/notes.txt", &[1]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let (engine, cache) = (World::engine(), RepodataCache::new(dir.path()));
    let options = RepodataOptions::default();
    let result = look_up(&engine, &channels, &queries, &cache, options).await;
    let [found, not_listed, not_available, no_package] = &result.found[..] else {
        panic!("{result:?}");
    };
    let found = found.as_ref().unwrap();
    assert_eq!((found.channel, found.expected.size), (1, Some(7)));
    assert_eq!(found.target.path, "noarch/a-1-0.conda");
    assert!(found.expected.sha256.is_some());
    assert!(not_listed.is_none() && not_available.is_none() && no_package.is_none());
    assert_eq!(result.errors.len(), 1);
}

#[test]
fn package_paths_are_told_from_others() {
    for path in ["noarch/a-1-0.conda", "linux-64/r-base-4.3-h0_0.tar.bz2"] {
        assert!(is_package_path(path), "{path}");
    }
    for path in [
        "noarch/repodata.json",
        "a-1-0.conda",
        "elsewhere/a-1-0.conda",
        "noarch/a-1.conda",
    ] {
        assert!(!is_package_path(path), "{path}");
    }
}
