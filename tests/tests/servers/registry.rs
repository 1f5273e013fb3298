//! docker-registry: open, with a password file, and behind a token server.

use std::process::Stdio;

use bytes::Bytes;
use serde_json::json;
use taipan_mirrors::{Class, Location, OciLocation};
use taipan_mock_servers::{Behaviour, Fault, HttpServer, Matcher, Rule, Site};
use taipan_tests::{DockerRegistry, RegistryAccess};

use crate::{
    contract::{Conditions, Place, refuses, serves, validates},
    fixtures::{self, NAMESPACE, Push},
    token::{self, Issuer},
    who::{PASSWORD, USER, USERS, WRONG, basic, docker_config},
};

pub(crate) fn registry(host: &str) -> Place {
    Place::new(Location::Oci(OciLocation {
        registry: host.to_owned(),
        namespace: NAMESPACE.to_owned(),
        plain_http: true,
    }))
}

pub(crate) async fn push_all(push: &Push<'_>) {
    for file in fixtures::all() {
        push.file(&file).await;
    }
}

/// For the child process of a test: the registry, the role and the authorization to push.
const CHILD: [&str; 3] = ["TAIPAN_TEST_HOST", "TAIPAN_TEST_ROLE", "TAIPAN_TEST_PUSH"];

/// The secrets of the registry tests, in all encodings of the protocol.
fn secrets() -> [String; 4] {
    [
        PASSWORD.to_owned(),
        basic(USER, PASSWORD),
        WRONG.to_owned(),
        basic(USER, WRONG),
    ]
}

/// Credentials for a registry come from the docker configuration, whose location is in the environment. So a
/// test runs itself again in a process with another environment. There this reads from the registry and
/// returns true: the rest of the test is skipped.
async fn is_child() -> bool {
    let Ok(host) = std::env::var(CHILD[0]) else {
        return false;
    };
    let place = registry(&host);
    match std::env::var(CHILD[1]).unwrap().as_str() {
        "reader" => {
            serves(&place).await;
            let push = Push {
                host: &host,
                authorization: std::env::var(CHILD[2]).ok(),
            };
            validates(&place, Conditions::Kept, async |file| push.file(file).await).await;
        }
        "stranger" => {
            let secrets = secrets();
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            refuses(&place, Class::Denied, &secrets).await;
        }
        other => panic!("`{other}` is no role"),
    }
    true
}

/// Runs a test of this file again in a process with this password, or none.
async fn child(test: &str, role: &str, password: Option<&str>, push: &Push<'_>) {
    let dir = tempfile::tempdir().unwrap();
    docker_config(dir.path(), push.host, password);
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env("DOCKER_CONFIG", dir.path())
        .env(CHILD[0], push.host)
        .env(CHILD[1], role);
    if let Some(authorization) = &push.authorization {
        command.env(CHILD[2], authorization);
    }
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "as a {role}: {printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_serves_without_authentication() {
    let Some(server) = DockerRegistry::start(RegistryAccess::Open) else {
        return;
    };
    let host = server.host();
    let push = Push {
        host: &host,
        authorization: None,
    };
    push_all(&push).await;
    let place = registry(&host);
    serves(&place).await;
    validates(&place, Conditions::Kept, async |file| push.file(file).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_serves_with_the_password() {
    const SELF: &str = "registry::a_registry_serves_with_the_password";
    if is_child().await {
        return;
    }
    let Some(server) = DockerRegistry::start(RegistryAccess::Htpasswd { users: USERS }) else {
        return;
    };
    let push = Push {
        host: &server.host(),
        authorization: Some(format!("Basic {}", basic(USER, PASSWORD))),
    };
    push_all(&push).await;
    child(SELF, "reader", Some(PASSWORD), &push).await;
    child(SELF, "stranger", Some(WRONG), &push).await;
    child(SELF, "stranger", None, &push).await;
}

/// A token server, which is a web server with one file, and a registry that accepts its tokens.
struct Guarded {
    issuer: Issuer,
    tokens: HttpServer,
    site: Site,
    registry: DockerRegistry,
}

impl Guarded {
    async fn start(password: Option<&str>) -> Option<Self> {
        let issuer = Issuer::new();
        let site = Site::new();
        let mut builder = HttpServer::builder(site.clone());
        if let Some(password) = password {
            builder = builder.basic_auth(USER, password);
        }
        let tokens = builder.start().await.unwrap();
        let registry = DockerRegistry::start(RegistryAccess::Token {
            realm: &format!("{}token", tokens.url()),
            service: token::SERVICE,
            issuer: token::NAME,
            certificate: &issuer.certificate(),
        })?;
        Some(Self {
            issuer,
            tokens,
            site,
            registry,
        })
    }

    /// The response with a token.
    fn answer(&self, actions: &[&str], seconds: i64) -> Bytes {
        let token = self.issuer.token(&repositories(), actions, seconds);
        let answer = json!({ "token": token, "expires_in": 300 });
        answer.to_string().into()
    }

    fn push<'a>(&self, host: &'a str) -> Push<'a> {
        let token = self.issuer.token(&repositories(), &["pull", "push"], 3600);
        Push {
            host,
            authorization: Some(format!("Bearer {token}")),
        }
    }

    /// The repositories of the requested tokens, in order.
    fn scopes(&self) -> Vec<String> {
        let scope = |query: String| {
            let url = format!("http://x/?{query}")
                .parse::<reqwest::Url>()
                .unwrap();
            let value = |name: &str| {
                let (_, value) = url.query_pairs().find(|(key, _)| key == name)?;
                Some(value.into_owned())
            };
            assert_eq!(value("service").as_deref(), Some(token::SERVICE));
            value("scope").unwrap()
        };
        let queries = self.tokens.requests().into_iter();
        let mut scopes: Vec<String> = queries.map(|it| scope(it.query.unwrap())).collect();
        scopes.sort();
        scopes
    }
}

/// The repositories of the contract; the last one is not in the registry.
fn repositories() -> Vec<String> {
    ["empty.bin", "large.bin", "missing.bin", "note.txt"]
        .map(|name| format!("{NAMESPACE}/{name}"))
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_token_server_serves_with_the_password() {
    const SELF: &str = "registry::a_registry_with_a_token_server_serves_with_the_password";
    if is_child().await {
        return;
    }
    let Some(guarded) = Guarded::start(Some(PASSWORD)).await else {
        return;
    };
    let host = guarded.registry.host();
    let push = guarded.push(&host);
    push_all(&push).await;
    guarded
        .site
        .insert("token", guarded.answer(&["pull"], 3600));
    child(SELF, "reader", Some(PASSWORD), &push).await;
    // One token per repository, for any number of requests.
    let wanted = repositories().into_iter();
    let wanted: Vec<_> = wanted.map(|it| format!("repository:{it}:pull")).collect();
    assert_eq!(guarded.scopes(), wanted);
    child(SELF, "stranger", Some(WRONG), &push).await;
    child(SELF, "stranger", None, &push).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_token_server_serves_without_authentication() {
    let Some(guarded) = Guarded::start(None).await else {
        return;
    };
    let host = guarded.registry.host();
    let push = guarded.push(&host);
    push_all(&push).await;

    // A token without rights, and an expired one.
    for (actions, seconds) in [(&[][..], 3600), (&["pull"][..], -1800)] {
        let answer = guarded.answer(actions, seconds);
        let text = String::from_utf8(answer.to_vec()).unwrap();
        let token: serde_json::Value = serde_json::from_str(&text).unwrap();
        guarded.site.insert("token", answer);
        let secret = token["token"].as_str().unwrap();
        refuses(&registry(&host), Class::Denied, &[secret]).await;
    }

    // The registry refuses the first token and accepts the second.
    guarded
        .site
        .insert("token", guarded.answer(&["pull"], 3600));
    let stale = Fault::Status {
        code: 200,
        headers: Vec::new(),
        body: guarded.answer(&["pull"], -1800),
    };
    let once = Rule::once(Matcher::suffix("/token"), stale);
    guarded
        .tokens
        .set_behaviour(Behaviour::new().with_rule(once));
    guarded.tokens.clear_requests();
    let place = registry(&host);
    serves(&place).await;
    guarded.tokens.verify().unwrap();
    validates(&place, Conditions::Kept, async |file| push.file(file).await).await;
    assert_eq!(guarded.scopes().len(), repositories().len() + 1);
}
