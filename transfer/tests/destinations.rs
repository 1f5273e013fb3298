//! Destinations against the mock servers: the contract, and what servers do wrong.

mod common;
mod destination_suite;

use std::sync::Arc;

use destination_suite::{Traits, all, engine, pattern};
use taipan_mirrors::{Location, OciLocation, S3Location};
use taipan_mock_servers::{
    BearerAuth, Behaviour, Fault, Matcher, OciAuth, OciServer, Rule, S3Keys, S3Server, Site,
};
use taipan_transfer::{
    Content, Destination as _, HttpClient, HttpOptions, NewFile, OciTarget, Outlet, OutletOptions,
    PutOptions, S3Backend, S3Destination, Sha256, Target,
};

const TRAITS: Traits = Traits {
    conditions: true,
    deletes: true,
    large: 30 << 20,
};

fn client() -> HttpClient {
    HttpClient::new(&HttpOptions::default()).unwrap()
}

fn bucket(server: &S3Server) -> S3Location {
    S3Location {
        bucket: "bucket".to_owned(),
        prefix: "some/prefix".to_owned(),
        endpoint: Some(server.endpoint().parse().unwrap()),
        region: None,
        path_style: true,
        anonymous: server.keys().is_none(),
    }
}

fn s3(server: &S3Server) -> Outlet {
    let location = bucket(server);
    let mut backend =
        S3Backend::new(location.clone(), std::time::Duration::from_secs(5)).with_client(&client());
    if let Some(keys) = server.keys() {
        backend = backend.with_keys(&keys.access_key, &keys.secret_key, None);
    }
    let backend = Arc::new(backend);
    let destination = Arc::new(S3Destination::new(Arc::clone(&backend)).with_parts_above(16 << 20));
    let options = OutletOptions::default();
    Outlet::with_parts(Location::S3(location), &options, backend, destination)
}

fn oci(server: &OciServer) -> Outlet {
    let location = Location::Oci(OciLocation {
        registry: server.host(),
        namespace: "name/space".to_owned(),
        plain_http: true,
    });
    Outlet::new(location, &OutletOptions::default(), &client()).unwrap()
}

#[tokio::test]
async fn a_directory_fulfils_the_contract() {
    let work = tempfile::tempdir().unwrap();
    let location = Location::File(work.path().join("root/of/it"));
    let outlet = Outlet::new(location, &OutletOptions::default(), &client()).unwrap();
    all(&outlet, TRAITS, work.path()).await;
}

#[tokio::test]
async fn a_bucket_fulfils_the_contract() {
    let work = tempfile::tempdir().unwrap();
    let keys = S3Keys::new("key", "secret");
    for (region, conditions) in [(None, true), (Some("eu-west-9"), true), (None, false)] {
        let mut server = S3Server::builder()
            .bucket("bucket", Site::new())
            .keys(keys.clone());
        if let Some(region) = region {
            server = server.region(region);
        }
        if !conditions {
            server = server.ignore_conditions();
        }
        let server = server.start().await.unwrap();
        let traits = Traits {
            conditions,
            ..TRAITS
        };
        all(&s3(&server), traits, work.path()).await;
        server.verify().unwrap();
    }
}

#[tokio::test]
async fn a_registry_fulfils_the_contract() {
    let work = tempfile::tempdir().unwrap();
    let traits = Traits {
        conditions: false,
        ..TRAITS
    };
    let plain = OciServer::start().await.unwrap();
    all(&oci(&plain), traits, work.path()).await;
    let strict = OciServer::builder()
        .without_single_post()
        .without_mount()
        .absolute_locations()
        .drop_cut_sessions()
        .max_tags(5)
        .start();
    all(&oci(&strict.await.unwrap()), traits, work.path()).await;
}

#[tokio::test]
async fn a_registry_with_tokens_fulfils_the_contract() {
    const TEST: &str = "a_registry_with_tokens_fulfils_the_contract";
    let work = tempfile::tempdir().unwrap();
    if let Some(registry) = common::child_url() {
        let location = Location::Oci(OciLocation {
            registry,
            namespace: "name/space".to_owned(),
            plain_http: true,
        });
        let outlet = Outlet::new(location, &OutletOptions::default(), &client()).unwrap();
        let traits = Traits {
            conditions: false,
            ..TRAITS
        };
        return all(&outlet, traits, work.path()).await;
    }
    for auth in [
        OciAuth::Bearer(BearerAuth::new().with_credentials("me", "secret")),
        OciAuth::Bearer(
            BearerAuth::new()
                .with_credentials("me", "secret")
                .forbidding_unknown_repositories(),
        ),
    ] {
        let server = OciServer::builder().auth(auth).start().await.unwrap();
        let host = server.host();
        let config = format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
        common::file(work.path(), "config.json", &config);
        let dir = work.path().display().to_string();
        let environment = [("TAIPAN_CONTRACT_URL", &*host), ("DOCKER_CONFIG", &dir)];
        common::in_child(TEST, &environment).await;
    }
}

async fn file(name: &str, bytes: Vec<u8>) -> NewFile {
    let target = Target::path(name).with_oci(OciTarget {
        repository: "files".to_owned(),
        tag: name.to_owned(),
        media_type: "application/x.test".to_owned(),
    });
    NewFile::new(target, Content::from(bytes)).await.unwrap()
}

#[tokio::test]
async fn an_upload_is_tried_again_after_failures_that_pass() {
    let s3_server = S3Server::builder()
        .bucket("bucket", Site::new())
        .start()
        .await
        .unwrap();
    let oci_server = OciServer::start().await.unwrap();
    for (server, outlet) in [
        (&*s3_server as &taipan_mock_servers::Server, s3(&s3_server)),
        (&*oci_server, oci(&oci_server)),
    ] {
        for (number, fault) in [
            Fault::status(503),
            Fault::RetryAfter {
                code: 429,
                seconds: 1,
            },
            Fault::status(500),
            Fault::Reset { after: None },
            Fault::Reset { after: Some(5000) },
            Fault::Truncate { after: 100 },
        ]
        .into_iter()
        .enumerate()
        {
            let rule = Rule::times(2, Matcher::method("PUT"), fault.clone());
            server.set_behaviour(Behaviour::new().with_rule(rule));
            let file = file(&format!("f{number}"), pattern(10_000)).await;
            let put = engine()
                .put(
                    &outlet,
                    "f",
                    std::slice::from_ref(&file),
                    PutOptions::default(),
                )
                .await;
            put.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
            let expected = taipan_transfer::Expected {
                sha256: Some(file.sha256),
                ..Default::default()
            };
            let held = engine()
                .look(&outlet, &file.target, &expected)
                .await
                .unwrap();
            assert!(held.unwrap().is(&expected), "{fault:?}");
        }
    }
}

/// The connections of all parts but the first ones break.
fn only_parts(count: u32) -> Behaviour {
    let part = || Matcher::method("PUT").and(Matcher::suffix("/large"));
    let passing = Rule::times(count, part(), Fault::None);
    let broken = Rule::always(part(), Fault::Reset { after: Some(1000) });
    Behaviour::new().with_rule(passing).with_rule(broken)
}

/// A process that was killed, or a connection that broke: the parts that are there are not sent again.
#[tokio::test]
async fn a_large_upload_continues_with_the_parts_that_are_missing() {
    let site = Site::new();
    let server = S3Server::builder()
        .bucket("bucket", site.clone())
        .start()
        .await
        .unwrap();
    let bytes = pattern(60 << 20);
    let content = Content::from(bytes.clone());
    let file = NewFile::new(Target::path("large"), content).await.unwrap();
    // Three parts pass, then the connection to the server is gone.
    server.set_behaviour(only_parts(3));
    let outlet = s3(&server).with_retries(0);
    let put = engine()
        .put(
            &outlet,
            "large",
            std::slice::from_ref(&file),
            PutOptions::default(),
        )
        .await;
    assert!(put.is_err());
    let parts = |server: &S3Server| {
        let log = server.requests();
        let is_part =
            |query: &Option<String>| query.as_deref().unwrap_or("").contains("partNumber=");
        log.iter()
            .filter(|it| it.method == "PUT" && is_part(&it.query) && it.status == Some(200))
            .count()
    };
    assert_eq!(parts(&server), 3);
    server.set_behaviour(Behaviour::new());
    server.clear_requests();
    // Another process: a new outlet, which knows nothing.
    let outlet = s3(&server);
    engine()
        .put(
            &outlet,
            "large",
            std::slice::from_ref(&file),
            PutOptions::default(),
        )
        .await
        .unwrap();
    assert_eq!(parts(&server), 8 - 3);
    let object = site.get("some/prefix/large").unwrap();
    assert_eq!(Sha256::of(&object), Sha256::of(&bytes));
    // Nothing of the upload is left.
    assert!(
        site.paths().iter().all(|path| !path.contains("upload")),
        "{:?}",
        site.paths()
    );
}

#[tokio::test]
async fn an_unfinished_upload_is_swept() {
    let site = Site::new();
    let server = S3Server::builder()
        .bucket("bucket", site.clone())
        .start()
        .await
        .unwrap();
    server.set_behaviour(only_parts(1));
    let outlet = s3(&server).with_retries(0);
    let content = Content::from(pattern(30 << 20));
    let file = NewFile::new(Target::path("large"), content).await.unwrap();
    engine()
        .put(&outlet, "large", &[file], PutOptions::default())
        .await
        .unwrap_err();
    server.set_behaviour(Behaviour::new());
    let day = std::time::Duration::from_hours(24);
    assert_eq!(engine().sweep(&outlet, day).await.unwrap(), 0);
    assert_eq!(
        engine()
            .sweep(&outlet, std::time::Duration::ZERO)
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        engine()
            .sweep(&outlet, std::time::Duration::ZERO)
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn what_cannot_succeed_is_not_tried_again() {
    let server = S3Server::builder()
        .bucket("bucket", Site::new())
        .keys(S3Keys::new("key", "secret"))
        .start()
        .await
        .unwrap();
    let keys = [("key", "wrong"), ("other", "secret")];
    for (access, secret) in keys {
        let location = bucket(&server);
        let backend = S3Backend::new(location.clone(), std::time::Duration::from_secs(5));
        let backend = Arc::new(
            backend
                .with_client(&client())
                .with_keys(access, secret, None),
        );
        let destination = Arc::new(S3Destination::new(Arc::clone(&backend)));
        let outlet = Outlet::with_parts(
            Location::S3(location),
            &OutletOptions::default(),
            backend,
            destination,
        );
        let put = engine()
            .put(
                &outlet,
                "f",
                &[file("f", vec![1]).await],
                PutOptions::default(),
            )
            .await;
        let error = put.unwrap_err();
        assert!(error.is_denied(), "{error:?}");
        assert_eq!(error.attempts.len(), 1);
        assert!(!format!("{error:?}").contains(secret) || secret == "secret");
    }
    let missing = S3Location {
        bucket: "missing".to_owned(),
        ..bucket(&server)
    };
    let backend = S3Backend::new(missing.clone(), std::time::Duration::from_secs(5));
    let backend = Arc::new(
        backend
            .with_client(&client())
            .with_keys("key", "secret", None),
    );
    let destination = S3Destination::new(Arc::clone(&backend));
    let error = destination
        .put(
            &[file("f", vec![1]).await],
            PutOptions::default(),
            &taipan_transfer::Sending::new(),
        )
        .await
        .unwrap_err();
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(text.contains("the bucket does not exist"), "{text}");
}
