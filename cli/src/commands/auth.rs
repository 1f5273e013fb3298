//! `taipan auth`.

use std::io::{IsTerminal as _, Read as _};

use serde::Serialize;

use crate::{
    args::{AuthCommand, LoginArgs},
    auth::{self, AuthError, Place, Secret},
    error::AppError,
    exit::Exit,
    printer::{Printer, table},
};

/// The longest password that is read, in bytes.
const MAX_SECRET: u64 = 64 << 10;

#[derive(Debug, Serialize)]
struct Done<'a> {
    server: &'a str,
    /// `None` if there were no credentials.
    place: Option<&'a str>,
}

/// Saves, removes or lists credentials.
pub(crate) fn run(printer: &Printer, command: &AuthCommand) -> Result<Exit, AppError> {
    match command {
        AuthCommand::Login(args) => login(printer, args)?,
        AuthCommand::Logout { server } => {
            let place = Place::parse(server)?;
            let removed = auth::remove(&place)?;
            let server = place.url();
            let done = Done {
                server: &server,
                place: removed.as_deref(),
            };
            printer.object("auth-logout", &done);
            match &removed {
                Some(place) => printer.say(&format!(
                    "Removed the credentials for {server} from {place}"
                )),
                None => printer.say(&format!("There are no credentials for {server}")),
            }
        }
        AuthCommand::List => {
            let all = auth::list()?;
            let mut rows = vec![["server", "user", "saved in"].map(str::to_owned).to_vec()];
            for listed in &all {
                printer.object("credentials", listed);
                let user = listed.user.clone().unwrap_or_else(|| "(token)".to_owned());
                rows.push(vec![listed.server.clone(), user, listed.place.clone()]);
            }
            if all.is_empty() {
                printer.say("No credentials are saved");
            } else {
                printer.data(&table(&rows, &[0, 1, 2]));
            }
        }
    }
    Ok(Exit::Done)
}

fn login(printer: &Printer, args: &LoginArgs) -> Result<(), AuthError> {
    let place = Place::parse(&args.server)?;
    if matches!(place, Place::Registry(_)) && args.username.is_none() {
        return Err(AuthError::NoUser);
    }
    let user = args.username.as_deref();
    if user.is_some_and(|user| user.is_empty() || user.contains([':', '\n', '\r'])) {
        return Err(AuthError::Secret {
            what: "the user name (it may not have a colon, either)",
        });
    }
    let secret = Secret {
        user: args.username.clone(),
        password: password(args, &place)?,
    };
    let saved = auth::save(&place, &secret)?;
    let server = place.url();
    let done = Done {
        server: &server,
        place: Some(&saved),
    };
    printer.object("auth-login", &done);
    printer.say(&format!(
        "Saved the credentials for {server} in {saved}; they have not been tried"
    ));
    Ok(())
}

/// The password from stdin or from the terminal. It is never an argument: other users see arguments.
fn password(args: &LoginArgs, place: &Place) -> Result<String, AuthError> {
    let mut text = String::new();
    if args.password_stdin {
        let stdin = std::io::stdin().lock();
        let read = stdin.take(MAX_SECRET).read_to_string(&mut text);
        read.map_err(AuthError::Read)?;
    } else {
        if !std::io::stdin().is_terminal() {
            return Err(AuthError::NoTerminal);
        }
        let terminal = console::Term::stderr();
        let what = if args.username.is_some() {
            "Password"
        } else {
            "Token"
        };
        let prompt = format!("{what} for {}: ", place.url());
        terminal.write_str(&prompt).map_err(AuthError::Read)?;
        text = terminal.read_secure_line().map_err(AuthError::Read)?;
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.contains(['\n', '\r']) {
        return Err(AuthError::Secret {
            what: "the password",
        });
    }
    Ok(text.to_owned())
}
