//! nginx.

use taipan_mirrors::{Class, Location};
use taipan_tests::Nginx;

use crate::{
    contract::{Conditions, Place, refuses, serves, validates},
    fixtures,
    who::{PASSWORD, USER, WRONG, basic},
};

pub(crate) fn http(url: &str) -> Place {
    Place::new(Location::parse(url).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_serves_without_authentication() {
    let dir = fixtures::directory();
    let Some(server) = Nginx::serve(dir.path()) else {
        return;
    };
    let place = http(&server.url());
    serves(&place).await;
    validates(&place, Conditions::Kept, async |file| {
        fixtures::write(dir.path(), file);
    })
    .await;
    let log = server.access_log();
    for status in ["200", "206", "304", "404", "416"] {
        assert!(log.contains(&format!("\" {status} ")), "{status}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_serves_with_the_password() {
    let dir = fixtures::directory();
    let Some(server) = Nginx::serve_behind_password(dir.path(), USER, PASSWORD) else {
        return;
    };
    let url = |user: &str| server.url().replace("://", &format!("://{user}@"));
    serves(&http(&url(&format!("{USER}:{PASSWORD}")))).await;
    let wrong = http(&url(&format!("{USER}:{WRONG}")));
    refuses(&wrong, Class::Denied, &[WRONG, &basic(USER, WRONG)]).await;
    refuses(&http(&server.url()), Class::Denied, &[]).await;
}
