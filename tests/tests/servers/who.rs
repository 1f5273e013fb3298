//! The credentials of these tests, valid and invalid.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

pub(crate) const USER: &str = "reader";
pub(crate) const PASSWORD: &str = "three-white-mice";
/// Made by `htpasswd -Bbn -C 5 reader three-white-mice`.
pub(crate) const USERS: &str =
    "reader:$2y$05$QCU02DWBMC/sQBKYgTeGxOKJ63O7jwrLycSbUXcIzDdlvY1jOQJxC\n";
/// A wrong password or secret key.
pub(crate) const WRONG: &str = "four-white-mice";

pub(crate) const ACCESS_KEY: &str = "AKIAOFTESTS";
pub(crate) const SECRET_KEY: &str = "the-secret-of-these-tests";

/// User and password in Basic authentication (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// Writes a docker configuration with a password for a registry, or none.
pub(crate) fn docker_config(dir: &Path, host: &str, password: Option<&str>) {
    let mut config = json!({ "auths": {} });
    if let Some(password) = password {
        config["auths"][host] = json!({ "auth": basic(USER, password) });
    }
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}
