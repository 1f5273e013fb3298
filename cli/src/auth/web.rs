//! Credentials of web servers, in `taipan/credentials.json` in the user's configuration directory.

use std::path::PathBuf;

use etcetera::BaseStrategy as _;
use serde_json::{Value, json};
use taipan_transfer::{Credentials, CredentialsError};

use super::{AuthError, Listed, Secret, read, write};

/// The credentials of web servers.
pub(crate) struct WebCredentials;

/// Names another file.
const VARIABLE: &str = "TAIPAN_CREDENTIALS";

impl WebCredentials {
    fn path() -> Result<PathBuf, AuthError> {
        if let Some(path) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            return Ok(PathBuf::from(path));
        }
        let strategy = etcetera::choose_base_strategy();
        let strategy = strategy.map_err(|_| AuthError::NoHome { variable: VARIABLE })?;
        Ok(strategy.config_dir().join("taipan/credentials.json"))
    }

    pub(super) fn save(host: &str, secret: &Secret) -> Result<String, AuthError> {
        let path = Self::path()?;
        let mut file = read(&path)?;
        let entry = match &secret.user {
            Some(user) => json!({ "user": user, "password": secret.password }),
            None => json!({ "token": secret.password }),
        };
        file.insert(host.to_owned(), entry);
        write(&path, &file)?;
        Ok(path.display().to_string())
    }

    pub(super) fn remove(host: &str) -> Result<Option<String>, AuthError> {
        let path = Self::path()?;
        let mut file = read(&path)?;
        if file.remove(host).is_none() {
            return Ok(None);
        }
        write(&path, &file)?;
        Ok(Some(path.display().to_string()))
    }

    pub(super) fn list() -> Result<Vec<Listed>, AuthError> {
        let path = Self::path()?;
        let listed = |(host, entry): (String, Value)| Listed {
            server: format!("https://{host}"),
            user: entry.get("user").and_then(Value::as_str).map(str::to_owned),
            place: path.display().to_string(),
        };
        Ok(read(&path)?.into_iter().map(listed).collect())
    }

    /// Adds them to others. An entry that cannot be used is omitted with a warning.
    pub(crate) fn add_to(mut credentials: Credentials) -> Result<Credentials, AuthError> {
        let Ok(path) = Self::path() else {
            return Ok(credentials);
        };
        for (host, entry) in read(&path)? {
            let text = |name: &str| entry.get(name).and_then(Value::as_str);
            let all = credentials.clone();
            let added: Result<Credentials, CredentialsError> =
                match (text("user"), text("password"), text("token")) {
                    (Some(user), Some(password), _) => all.with_basic(&host, user, password),
                    (_, _, Some(token)) => all.with_bearer(&host, token),
                    _ => {
                        tracing::warn!("{}: no credentials for {host}", path.display());
                        continue;
                    }
                };
            match added {
                Ok(added) => credentials = added,
                Err(error) => tracing::warn!("{}: {error}", path.display()),
            }
        }
        Ok(credentials)
    }
}
