//! Arguments of `taipan auth`.

use clap::{Args, Subcommand};

/// Commands for saved credentials.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Save credentials for a server
    ///
    /// Those of a registry go into the configuration of docker, or into the credential helper that it names: other
    /// tools use them, too. Those of a web server go into taipan/credentials.json in the user's configuration
    /// directory, which only the user can read. Without --username the secret is a bearer token.
    Login(LoginArgs),
    /// Remove the credentials for a server
    Logout {
        /// The server: oci://HOST or https://HOST
        #[arg(value_name = "SERVER")]
        server: String,
    },
    /// List the servers with saved credentials, without the secrets
    List,
}

/// Options of `auth login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The server: oci://HOST or https://HOST, with :PORT if it has another one
    #[arg(value_name = "SERVER")]
    pub(crate) server: String,
    /// The user; without it, the secret is a bearer token (not for registries)
    #[arg(short, long, value_name = "USER")]
    pub(crate) username: Option<String>,
    /// Read the password or token from stdin instead of asking for it
    #[arg(long)]
    pub(crate) password_stdin: bool,
}
