//! Six mirrors of the demo channel with different properties.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;

use crate::behaviour::{Behaviour, Fault, Matcher, Rule};
use crate::demo::{DemoChannel, DemoOptions};
use crate::http_server::HttpServer;
use crate::log::RequestLog;
use crate::oci::{BearerAuth, OciAuth, OciServer};
use crate::refusing::RefusingServer;
use crate::s3::{S3Keys, S3Server};
use crate::server::Server;
use crate::site::Site;

const BUCKET: &str = "demo-mirror";
const PREFIX: &str = "channels/demo";
const REGION: &str = "us-east-1";
const NAMESPACE: &str = "demo-mirror/channel";
/// Where a copy of the channel may be put: a prefix in the bucket, a namespace in the registry.
const COPY: &str = "copies/demo";
/// Who may push to the registry.
const USER: (&str, &str) = ("demo", "demo-password-that-guards-nothing");

/// Mirrors of the demo channel: fast, slow, dead, corrupt, S3 and OCI. They are stopped on drop.
#[derive(Debug)]
pub struct Fleet {
    channel: DemoChannel,
    mirrors: Vec<FleetMirror>,
}

/// One mirror of a fleet.
#[derive(Debug)]
#[non_exhaustive]
pub struct FleetMirror {
    /// One word for tables: `fast`, `slow`, `dead`, `corrupt`, `s3`, `oci`.
    pub name: &'static str,
    /// A short description.
    pub description: &'static str,
    pub location: Location,
    host: Host,
}

/// The location of the channel on a mirror.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Location {
    /// With a trailing slash.
    Http { url: String },
    /// Path-style, with the endpoint as `http://HOST:PORT`.
    S3 {
        endpoint: String,
        bucket: String,
        prefix: String,
        region: String,
        keys: S3Keys,
    },
    /// Plain HTTP with anonymous tokens.
    Oci { host: String, namespace: String },
}

impl Location {
    /// The URL of the mirror in mirror lists.
    pub fn url(&self) -> String {
        match self {
            Self::Http { url } => url.clone(),
            Self::S3 { bucket, prefix, .. } => format!("s3://{bucket}/{prefix}"),
            Self::Oci { host, namespace } => format!("oci+http://{host}/{namespace}"),
        }
    }

    /// The entry of a `mirrors` array in TOML.
    fn toml(&self, priority: u32) -> String {
        let url = quoted(&self.url());
        let priority = match priority {
            0 => String::new(),
            priority => format!(", priority = {priority}"),
        };
        match self {
            Self::S3 {
                endpoint, region, ..
            } => format!(
                "{{ url = {url}, endpoint = {}, region = {}, path-style = true{priority} }}",
                quoted(endpoint),
                quoted(region)
            ),
            _ if priority.is_empty() => url,
            _ => format!("{{ url = {url}{priority} }}"),
        }
    }
}

#[derive(Debug)]
enum Host {
    Http(HttpServer),
    S3(S3Server),
    Oci(OciServer),
    Refusing(RefusingServer),
}

impl FleetMirror {
    /// The received requests; none for a mirror that refuses connections.
    pub fn requests(&self) -> Vec<RequestLog> {
        self.server().map(Server::requests).unwrap_or_default()
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> u64 {
        self.server().map_or(0, Server::connections)
    }

    /// The port, open or refusing.
    pub fn address(&self) -> SocketAddr {
        match &self.host {
            Host::Http(server) => server.address(),
            Host::S3(server) => server.address(),
            Host::Oci(server) => server.address(),
            Host::Refusing(server) => server.address(),
        }
    }

    /// The server; `None` for the mirror that refuses connections.
    pub fn server(&self) -> Option<&Server> {
        match &self.host {
            Host::Http(server) => Some(server),
            Host::S3(server) => Some(server),
            Host::Oci(server) => Some(server),
            Host::Refusing(_) => None,
        }
    }
}

impl Fleet {
    /// Builds the demo channel and starts its mirrors.
    pub async fn demo() -> io::Result<Self> {
        Self::start(DemoChannel::build(&DemoOptions::default())).await
    }

    /// Starts the mirrors of a channel that is already built.
    pub async fn start(channel: DemoChannel) -> io::Result<Self> {
        let milliseconds = Duration::from_millis;
        let fast = Behaviour::new().with_latency(milliseconds(5));
        let slow = Behaviour::new()
            .with_latency(milliseconds(150))
            .with_rate(400_000)
            .with_total_rate(800_000);
        // A corrupt disk: this file is always wrong at the same offset.
        let damage = Rule::always(
            Matcher::contains("/demo-corpus-"),
            Fault::Corrupt { at: 4_321 },
        );
        let corrupt = Behaviour::new()
            .with_latency(milliseconds(2))
            .with_rule(damage);
        let mirrors = vec![
            http(&channel, "fast", "HTTP, quick and right", "demo", fast).await?,
            http(
                &channel,
                "slow",
                "HTTP, 150 ms away, 0.4 MB/s a connection",
                "pub/conda/demo",
                slow,
            )
            .await?,
            refusing()?,
            http(
                &channel,
                "corrupt",
                "HTTP, quick, one package damaged",
                "mirror/demo",
                corrupt,
            )
            .await?,
            s3(&channel).await?,
            oci(&channel).await?,
        ];
        Ok(Self { channel, mirrors })
    }

    /// The channel of the mirrors.
    pub fn channel(&self) -> &DemoChannel {
        &self.channel
    }

    pub fn mirrors(&self) -> &[FleetMirror] {
        &self.mirrors
    }

    /// A mirror by its name.
    pub fn mirror(&self, name: &str) -> Option<&FleetMirror> {
        self.mirrors.iter().find(|mirror| mirror.name == name)
    }

    /// The mirrors file for a channel with this URL, with equal priorities. S3 keys are not
    /// part of the format; [`Fleet::environment`] has them.
    pub fn mirrors_toml(&self, channel_url: &str) -> String {
        let all: Vec<(&str, u32)> = self.mirrors.iter().map(|mirror| (mirror.name, 0)).collect();
        self.some_mirrors_toml(channel_url, &all)
    }

    /// A mirrors file with only these mirrors and their priorities.
    pub fn some_mirrors_toml(&self, channel_url: &str, chosen: &[(&str, u32)]) -> String {
        let mut text = format!("[[channel]]\nurl = {}\nmirrors = [\n", quoted(channel_url));
        for (name, priority) in chosen {
            let Some(mirror) = self.mirror(name) else {
                continue;
            };
            let (entry, about) = (mirror.location.toml(*priority), mirror.description);
            writeln!(text, "    {entry}, # {about}").expect("a String takes all that is written");
        }
        text.push_str("]\n");
        text
    }

    /// The environment variables with the keys of the S3 mirror.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.mirrors
            .iter()
            .filter_map(|mirror| match &mirror.location {
                Location::S3 { region, keys, .. } => Some([
                    ("AWS_ACCESS_KEY_ID", keys.access_key.clone()),
                    ("AWS_SECRET_ACCESS_KEY", keys.secret_key.clone()),
                    ("AWS_REGION", region.clone()),
                ]),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Free places for a copy of the channel, in the bucket and in the registry.
    pub fn copies(&self) -> Vec<Location> {
        let copy = |mirror: &FleetMirror| match mirror.location.clone() {
            Location::S3 {
                endpoint,
                bucket,
                region,
                keys,
                ..
            } => Some(Location::S3 {
                endpoint,
                bucket,
                prefix: COPY.to_owned(),
                region,
                keys,
            }),
            Location::Oci { host, .. } => Some(Location::Oci {
                host,
                namespace: COPY.to_owned(),
            }),
            Location::Http { .. } => None,
        };
        self.mirrors.iter().filter_map(copy).collect()
    }

    /// A mirrors file with the copies only.
    pub fn copies_toml(&self, channel_url: &str) -> String {
        let mut text = format!("[[channel]]\nurl = {}\nmirrors = [\n", quoted(channel_url));
        for copy in self.copies() {
            let entry = copy.toml(0);
            writeln!(text, "    {entry},").expect("a String takes all that is written");
        }
        text.push_str("]\n");
        text
    }

    /// The endpoint of the bucket.
    pub fn s3_endpoint(&self) -> Option<String> {
        self.mirrors
            .iter()
            .find_map(|mirror| match &mirror.location {
                Location::S3 { endpoint, .. } => Some(endpoint.clone()),
                _ => None,
            })
    }

    /// The text of a docker configuration with which the registry may be pushed to.
    pub fn docker_config(&self) -> String {
        let (user, password) = USER;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let hosts = self
            .mirrors
            .iter()
            .filter_map(|mirror| match &mirror.location {
                Location::Oci { host, .. } => Some(host.clone()),
                _ => None,
            });
        let hosts: Vec<String> = hosts
            .map(|host| format!("{}:{{\"auth\":{}}}", quoted(&host), quoted(&auth)))
            .collect();
        format!("{{\"auths\":{{{}}}}}", hosts.join(","))
    }

    /// Closes all ports and connections, and waits until that is done.
    pub async fn shutdown(&self) {
        for server in self.mirrors.iter().filter_map(FleetMirror::server) {
            server.shutdown().await;
        }
    }
}

async fn http(
    channel: &DemoChannel,
    name: &'static str,
    description: &'static str,
    prefix: &str,
    behaviour: Behaviour,
) -> io::Result<FleetMirror> {
    let server = HttpServer::builder(channel.site())
        .prefix(prefix)
        .behaviour(behaviour)
        .start()
        .await?;
    Ok(FleetMirror {
        name,
        description,
        location: Location::Http { url: server.url() },
        host: Host::Http(server),
    })
}

fn refusing() -> io::Result<FleetMirror> {
    let server = RefusingServer::start()?;
    Ok(FleetMirror {
        name: "dead",
        description: "refuses connections",
        location: Location::Http {
            url: format!("{}demo/", server.url()),
        },
        host: Host::Refusing(server),
    })
}

async fn s3(channel: &DemoChannel) -> io::Result<FleetMirror> {
    let keys = S3Keys::new(
        "DEMOACCESSKEY0000001",
        "demo-secret-key-that-guards-nothing",
    );
    let bucket = Site::new();
    for (path, object) in channel.site().objects() {
        bucket.put(&format!("{PREFIX}/{path}"), object);
    }
    let behaviour = Behaviour::new()
        .with_latency(Duration::from_millis(20))
        .with_rate(8_000_000);
    let server = S3Server::builder()
        .bucket(BUCKET, bucket)
        .keys(keys.clone())
        .behaviour(behaviour)
        .start()
        .await?;
    Ok(FleetMirror {
        name: "s3",
        description: "S3 bucket, signed requests",
        location: Location::S3 {
            endpoint: server.endpoint(),
            bucket: BUCKET.to_owned(),
            prefix: PREFIX.to_owned(),
            region: REGION.to_owned(),
            keys,
        },
        host: Host::S3(server),
    })
}

async fn oci(channel: &DemoChannel) -> io::Result<FleetMirror> {
    let auth = BearerAuth::new()
        .with_credentials(USER.0, USER.1)
        .forbidding_unknown_repositories();
    let behaviour = Behaviour::new()
        .with_latency(Duration::from_millis(15))
        .with_rate(6_000_000);
    let server = OciServer::builder()
        .auth(OciAuth::Bearer(auth))
        .behaviour(behaviour)
        .start()
        .await?;
    server
        .publish(&channel.site(), NAMESPACE)
        .map_err(io::Error::other)?;
    Ok(FleetMirror {
        name: "oci",
        description: "OCI registry, bearer tokens",
        location: Location::Oci {
            host: server.host(),
            namespace: NAMESPACE.to_owned(),
        },
        host: Host::Oci(server),
    })
}

/// A basic string of TOML. Addresses hold no control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
