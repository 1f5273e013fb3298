//! A registry that speaks the OCI distribution protocol, version 2.

mod auth;
mod builder;
mod publish;
mod route;
mod server;
mod store;
mod uploads;

pub use auth::{BearerAuth, OciAuth};
pub use builder::OciServerBuilder;
pub use publish::{PublishError, Published};
pub use server::OciServer;

use http::{HeaderName, StatusCode};
use serde_json::json;

use crate::request::Reply;

const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");

/// An error response in the form of the distribution spec, "Error Codes".
fn error(status: StatusCode, code: &str, message: &str) -> Reply {
    let body = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    Reply::text(status, "application/json", body.to_string())
}
