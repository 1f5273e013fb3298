//! The command line, for the history of an environment.

use taipan_mirrors::SafeUrl;

/// The command line of this process, quoted for a shell and without passwords.
pub(super) fn command_line() -> String {
    let arguments: Vec<String> = std::env::args().map(|argument| quote(&argument)).collect();
    arguments.join(" ")
}

fn quote(argument: &str) -> String {
    let is_url = argument.contains("://");
    // `SafeUrl` masks the password.
    let masked = is_url.then(|| argument.parse::<SafeUrl>().ok().map(|url| url.to_string()));
    let masked = masked.flatten();
    let argument = masked.as_deref().unwrap_or(argument);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%~".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', "'\\''").replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_and_passwords_masked() {
        assert_eq!(quote("--prefix=/env"), "--prefix=/env");
        assert_eq!(quote("python >=3.10"), "'python >=3.10'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
        let url = quote("https://me:secret@host.example/c");
        assert!(!url.contains("secret"), "{url}");
    }
}
