//! Destinations on real servers: the same contract as with the mock servers.

use std::{sync::Arc, time::Duration};

use taipan_mirrors::{Location, OciLocation, S3Location};
use taipan_tests::{DockerRegistry, Moto, RegistryAccess};
use taipan_transfer::{
    HttpClient, HttpOptions, Outlet, OutletOptions, ProxyChoice, S3Backend, S3Destination,
};

use crate::{
    bucket::{self, BUCKET, Bucket},
    destination_suite::{Traits, all},
    who::{ACCESS_KEY, SECRET_KEY},
};

const TRAITS: Traits = Traits {
    conditions: true,
    deletes: true,
    large: 30 << 20,
};

fn client() -> HttpClient {
    let options = HttpOptions {
        proxy: ProxyChoice::Direct,
        ..HttpOptions::default()
    };
    HttpClient::new(&options).unwrap()
}

fn s3(location: S3Location) -> Outlet {
    let backend = S3Backend::new(location.clone(), Duration::from_secs(5)).with_client(&client());
    let backend = Arc::new(backend.with_keys(ACCESS_KEY, SECRET_KEY, None));
    let destination = Arc::new(S3Destination::new(Arc::clone(&backend)).with_parts_above(16 << 20));
    let options = OutletOptions::default();
    Outlet::with_parts(Location::S3(location), &options, backend, destination)
}

#[tokio::test(flavor = "multi_thread")]
async fn s3s_fulfils_the_contract_of_destinations() {
    let (root, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(root.path().join(BUCKET)).unwrap();
    let server = Bucket::serve(root.path(), Some((ACCESS_KEY, SECRET_KEY))).await;
    let location = S3Location {
        prefix: "a/prefix".to_owned(),
        ..server.location()
    };
    all(&s3(location), TRAITS, work.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_fulfils_the_contract_of_destinations() {
    let work = tempfile::tempdir().unwrap();
    let Some(moto) = Moto::start() else {
        return;
    };
    let url = format!("{}/{BUCKET}", moto.endpoint());
    let created = reqwest::Client::new().put(url).send().await.unwrap();
    assert!(created.status().is_success(), "{created:?}");
    all(&s3(bucket::location(&moto.endpoint())), TRAITS, work.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registries_fulfil_the_contract_of_destinations() {
    let work = tempfile::tempdir().unwrap();
    for deletes in [false, true] {
        let start = if deletes {
            DockerRegistry::start_deleting
        } else {
            DockerRegistry::start
        };
        let Some(server) = start(RegistryAccess::Open) else {
            return;
        };
        let location = Location::Oci(OciLocation {
            registry: server.host(),
            namespace: "some/space".to_owned(),
            plain_http: true,
        });
        let outlet = Outlet::new(location, &OutletOptions::default(), &client()).unwrap();
        let traits = Traits {
            conditions: false,
            deletes,
            ..TRAITS
        };
        all(&outlet, traits, work.path()).await;
    }
}
