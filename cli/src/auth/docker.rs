//! Credentials of registries in `config.json` of docker, or in the helper that it names.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Map, Value, json};

use super::{AuthError, Listed, read, write};

/// The key of Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";

/// The most bytes of the output of a helper that are used.
const MAX_OUTPUT: usize = 4 << 20;

fn path() -> Result<PathBuf, AuthError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = match (variable("DOCKER_CONFIG"), variable("HOME")) {
        (Some(directory), _) => PathBuf::from(directory),
        (None, Some(home)) => PathBuf::from(home).join(".docker"),
        (None, None) => {
            return Err(AuthError::NoHome {
                variable: "DOCKER_CONFIG",
            });
        }
    };
    Ok(directory.join("config.json"))
}

/// The key of a registry in the file.
fn key(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB,
        host => host,
    }
}

/// The helper of a registry.
fn helper_of(config: &Map<String, Value>, key: &str) -> Option<String> {
    let own = config
        .get("credHelpers")
        .and_then(|helpers| helpers.get(key));
    let name = own.or_else(|| config.get("credsStore"))?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

pub(super) fn save(host: &str, user: &str, password: &str) -> Result<String, AuthError> {
    let path = path()?;
    let mut config = read(&path)?;
    let key = key(host);
    let helper = helper_of(&config, key);
    let entry = match &helper {
        Some(name) => {
            let text = json!({ "ServerURL": key, "Username": user, "Secret": password });
            run(name, "store", &text.to_string())?;
            json!({})
        }
        None => json!({ "auth": encode(&format!("{user}:{password}")) }),
    };
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    if let Some(auths) = auths.as_object_mut() {
        auths.insert(key.to_owned(), entry);
    } else {
        *auths = json!({ key: entry });
    }
    write(&path, &config)?;
    Ok(helper.map_or_else(|| path.display().to_string(), |name| helper_program(&name)))
}

pub(super) fn remove(host: &str) -> Result<Option<String>, AuthError> {
    let path = path()?;
    let mut config = read(&path)?;
    let key = key(host);
    let auths = config.get_mut("auths").and_then(Value::as_object_mut);
    let had_entry = auths.is_some_and(|auths| auths.remove(key).is_some());
    let mut place = None;
    if let Some(name) = helper_of(&config, key)
        && (had_entry || in_helper(&name)?.iter().any(|(server, _)| server == key))
    {
        run(&name, "erase", key)?;
        place = Some(helper_program(&name));
    }
    if had_entry {
        write(&path, &config)?;
        place.get_or_insert_with(|| path.display().to_string());
    }
    Ok(place)
}

pub(super) fn list() -> Result<Vec<Listed>, AuthError> {
    let path = path()?;
    let config = read(&path)?;
    let mut all = Vec::new();
    let auths = config.get("auths").and_then(Value::as_object);
    for (server, entry) in auths.into_iter().flatten() {
        if helper_of(&config, server).is_some() {
            continue;
        }
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let of_auth = || Some(decode(text("auth")?)?.split_once(':')?.0.to_owned());
        let user = text("username").map(str::to_owned).or_else(of_auth);
        all.push(listed(server, user, path.display().to_string()));
    }
    let mut names: Vec<String> = Vec::new();
    let own = config.get("credHelpers").and_then(Value::as_object);
    let own = own.into_iter().flatten().map(|(_, name)| name);
    for name in own
        .chain(config.get("credsStore"))
        .filter_map(Value::as_str)
    {
        if !name.is_empty() && !names.iter().any(|it| it == name) {
            names.push(name.to_owned());
        }
    }
    for name in names {
        for (server, user) in in_helper(&name)? {
            all.push(listed(&server, Some(user), helper_program(&name)));
        }
    }
    Ok(all)
}

fn listed(key: &str, user: Option<String>, place: String) -> Listed {
    let host = if key == HUB { "docker.io" } else { key };
    let host = host
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    Listed {
        server: format!("oci://{host}"),
        user,
        place,
    }
}

/// The servers and users that a helper knows.
fn in_helper(name: &str) -> Result<Vec<(String, String)>, AuthError> {
    let output = run(name, "list", "")?;
    let found: Map<String, Value> = serde_json::from_str(&output).unwrap_or_default();
    let found = found.into_iter();
    Ok(found
        .map(|(server, user)| (server, user.as_str().unwrap_or_default().to_owned()))
        .collect())
}

fn helper_program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// Runs a helper. Its output may contain a secret, so that it is no part of an error.
fn run(name: &str, action: &str, input: &str) -> Result<String, AuthError> {
    let program = helper_program(name);
    let failed = |source| AuthError::Helper {
        name: program.clone(),
        source,
    };
    // A name is part of a program's name, not of a path.
    if name.contains('/') {
        return Err(failed(std::io::ErrorKind::InvalidInput.into()));
    }
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper need not read all of it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(AuthError::HelperFailed {
            name: program,
            status: output
                .status
                .code()
                .map_or_else(|| "none".to_owned(), |code| code.to_string()),
        });
    }
    let most = output.stdout.len().min(MAX_OUTPUT);
    Ok(String::from_utf8_lossy(&output.stdout[..most]).into_owned())
}

fn encode(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

fn decode(text: &str) -> Option<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}
