//! The command line, for the history of an environment.

use taipan_mirrors::masked_in;

/// The command line of this process, quoted for a shell and without passwords.
pub(super) fn command_line() -> String {
    let arguments: Vec<String> = std::env::args().map(|argument| quote(&argument)).collect();
    arguments.join(" ")
}

fn quote(argument: &str) -> String {
    let argument = masked_in(argument);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%~".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument;
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
        for url in [
            "https://me:secret@host.example/c",
            "--channel=https://me:secret@host.example/c",
            "https://host.example/t/secret/c::foo >=1",
            "--mirrors=https://host.example/list?sig=secret",
        ] {
            let quoted = quote(url);
            assert!(!quoted.contains("secret"), "{quoted}");
            assert!(quoted.contains("host.example"), "{quoted}");
        }
    }
}
