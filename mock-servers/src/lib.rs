//! HTTP, S3 and OCI servers with scripted faults and shaping, and a small built-in conda channel.
//!
//! Used by tests, benches and the demo, always in process and on loopback. The crate must know
//! nothing of the other crates of this workspace: a Range, digest or signature parser that the
//! client shared with its test server would hide the client's bugs.
//!
//! Every server is started on a free port of 127.0.0.1, runs on the caller's tokio runtime, and
//! is stopped on drop. [`Server`] is the common part: the URL, the request log,
//! the [`Behaviour`] that can be changed at run time, and the verdict of a strict [`Script`].

mod answer;
mod archive;
mod behaviour;
mod content;
mod date;
mod demo;
mod fleet;
mod gzip;
mod http_server;
mod log;
mod object;
mod oci;
mod pace;
mod package;
mod port;
mod range;
mod refusing;
mod repodata;
mod request;
mod s3;
mod script;
mod sending;
mod server;
mod site;
mod tls;
mod uri;
mod wire;

pub use archive::ArchiveError;
pub use behaviour::{Behaviour, Fault, Matcher, Rule, Script, Times};
pub use demo::{DemoChannel, DemoOptions};
pub use fleet::{Fleet, FleetMirror, Location};
pub use http_server::{HttpServer, HttpServerBuilder};
pub use log::RequestLog;
pub use oci::{BearerAuth, OciAuth, OciServer, OciServerBuilder, PublishError, Published};
pub use package::{
    ArchiveFormat, HardLink, Noarch, PLACEHOLDER, Package, PackageBuilder, PackageFile,
    Placeholder, RawEntry,
};
pub use refusing::RefusingServer;
pub use repodata::channel_site;
pub use s3::{S3Keys, S3Server, S3ServerBuilder};
pub use script::ScriptError;
pub use server::Server;
pub use site::Site;
pub use tls::{Identity, TestCa, Tls};
