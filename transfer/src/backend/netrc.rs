//! `.netrc` files: logins by host.
//!
//! The format is that of ftp(1), with what curl and Python's `netrc` have added: quoted values
//! and comments.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

/// The largest file that is read, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// The most machines in a file.
const MAX_MACHINES: usize = 4096;

/// Logins by host, as a `.netrc` file holds them. Its `Debug` shows no password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Netrc {
    machines: Vec<Machine>,
}

#[derive(Clone, PartialEq, Eq)]
struct Machine {
    /// In lower case; `None` for `default`.
    host: Option<String>,
    login: String,
    password: String,
}

impl fmt::Debug for Netrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.machines.iter().map(|machine| match &machine.host {
            Some(host) => host,
            None => "default",
        });
        f.debug_list().entries(hosts).finish()
    }
}

/// Why a `.netrc` file cannot be used. Contains no text of the file, because any of it may be part
/// of a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetrcError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file exceeds a limit.
    #[error("the netrc file has more than {most} {what}")]
    TooMuch {
        /// What the limit is for.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// The file is not in the format.
    #[error("line {line} of the netrc file: {what}")]
    Syntax {
        /// The number of the line, from 1.
        line: usize,
        /// The error.
        what: &'static str,
    },
}

impl Netrc {
    /// The path of the file: the value of the environment variable `NETRC` if it is set and not
    /// empty, else `.netrc` in the home directory.
    pub fn locate(variable: Option<OsString>, home: Option<&Path>) -> Option<PathBuf> {
        match variable.filter(|value| !value.is_empty()) {
            Some(path) => Some(path.into()),
            None => Some(home?.join(".netrc")),
        }
    }

    /// Reads and parses a file; `None` if it does not exist.
    pub fn read(path: &Path) -> Result<Option<Self>, NetrcError> {
        use io::Read as _;
        let failed = |source| NetrcError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        // One byte more than is allowed, so that a larger file is detected.
        let limit = MAX_BYTES as u64 + 1;
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        Self::parse(&String::from_utf8_lossy(&bytes)).map(Some)
    }

    /// Parses the text of a file.
    pub fn parse(text: &str) -> Result<Self, NetrcError> {
        if text.len() > MAX_BYTES {
            let (what, most) = ("bytes", MAX_BYTES);
            return Err(NetrcError::TooMuch { what, most });
        }
        let mut lexer = Lexer {
            rest: text.strip_prefix('\u{feff}').unwrap_or(text),
            line: 1,
        };
        let mut machines: Vec<Machine> = Vec::new();
        while let Some(keyword) = lexer.keyword() {
            let host = match keyword {
                "machine" => Some(lexer.value()?.to_ascii_lowercase()),
                "default" => None,
                "macdef" => {
                    lexer.value()?;
                    lexer.skip_macro();
                    continue;
                }
                "login" | "password" | "account" => {
                    let value = lexer.value()?;
                    let Some(machine) = machines.last_mut() else {
                        return Err(lexer.error("expected `machine` or `default` before this"));
                    };
                    match keyword {
                        "login" => machine.login = value,
                        "password" => machine.password = value,
                        _ => {}
                    }
                    continue;
                }
                // Such as `port 21`, which other programs know.
                _ => continue,
            };
            if machines.len() == MAX_MACHINES {
                let (what, most) = ("machines", MAX_MACHINES);
                return Err(NetrcError::TooMuch { what, most });
            }
            machines.push(Machine {
                host,
                login: String::new(),
                password: String::new(),
            });
        }
        Ok(Self { machines })
    }

    #[cfg(fuzzing)]
    pub(crate) fn machines(&self) -> Vec<(Option<String>, String, String)> {
        let machines = self.machines.iter();
        machines
            .map(|one| (one.host.clone(), one.login.clone(), one.password.clone()))
            .collect()
    }

    /// The login and password for a host: the first entry that names it and, if `login` is given,
    /// has that login. `default` matches every host that has no entry, but only if `use_default`.
    pub(crate) fn find(
        &self,
        host: &str,
        login: Option<&str>,
        use_default: bool,
    ) -> Option<(&str, &str)> {
        let has_login = |machine: &&Machine| login.is_none_or(|login| login == machine.login);
        let mut candidates = self.machines.iter().filter(has_login);
        let is_named = |machine: &&Machine| {
            let name = machine.host.as_deref();
            name.is_some_and(|name| name.eq_ignore_ascii_case(host))
        };
        let named = candidates.clone().find(is_named);
        let found = named.or_else(|| candidates.find(|it| use_default && it.host.is_none()))?;
        let empty = found.login.is_empty() && found.password.is_empty();
        (!empty).then_some((&found.login, &found.password))
    }
}

struct Lexer<'t> {
    rest: &'t str,
    line: usize,
}

impl<'t> Lexer<'t> {
    fn error(&self, what: &'static str) -> NetrcError {
        NetrcError::Syntax {
            line: self.line,
            what,
        }
    }

    /// Takes the next `length` bytes, which end at a character boundary.
    fn take(&mut self, length: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn skip_space(&mut self) {
        let space = self.rest.len() - self.rest.trim_start().len();
        self.take(space);
    }

    fn word(&mut self) -> &'t str {
        let end = self.rest.find(char::is_whitespace);
        self.take(end.unwrap_or(self.rest.len()))
    }

    /// The next word, where a keyword is expected. `#` begins a comment here, and is an ordinary
    /// character in a value.
    fn keyword(&mut self) -> Option<&'t str> {
        loop {
            self.skip_space();
            if self.rest.starts_with('#') {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.take(end);
            } else if self.rest.is_empty() {
                return None;
            } else {
                return Some(self.word());
            }
        }
    }

    /// The next word, where a value is expected: without quotes, or in quotes with backslash
    /// escapes.
    fn value(&mut self) -> Result<String, NetrcError> {
        self.skip_space();
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let word = self.word();
            if word.is_empty() {
                return Err(self.error("the value is missing"));
            }
            return Ok(word.to_owned());
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.take(1 + at + 1);
                    return Ok(value);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 'r')) => value.push('\r'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, other)) => value.push(other),
                    None => break,
                },
                other => value.push(other),
            }
        }
        Err(self.error("the quotes are not closed"))
    }

    /// Skips a macro, which ends with the first empty line.
    fn skip_macro(&mut self) {
        while !self.rest.is_empty() {
            let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
            let in_name_line = self.take(end);
            let next = self.rest.split('\n').next().unwrap_or_default();
            if next.trim().is_empty() || in_name_line.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find<'n>(netrc: &'n Netrc, host: &str) -> Option<(&'n str, &'n str)> {
        netrc.find(host, None, true)
    }

    #[test]
    fn a_file_is_parsed_as_by_curl_and_python() {
        let text = "\u{feff}# comment, with machine in it\n\
            machine Mirror.example login me password #s3cret # and a comment\n\
            macdef init\n machine fake login x password y\n quit\n\n\
            machine two.example\n\taccount work\n\tlogin \"a b\"\n\tpassword \"q\\\"\\\\\\t\"\n\
            machine two.example login other password 2\n\
            machine empty.example\n\
            default login anonymous password user@example\n";
        let netrc = Netrc::parse(text).unwrap();
        assert_eq!(find(&netrc, "mirror.example"), Some(("me", "#s3cret")));
        assert_eq!(find(&netrc, "TWO.example"), Some(("a b", "q\"\\\t")));
        assert_eq!(
            netrc.find("two.example", Some("other"), true),
            Some(("other", "2"))
        );
        assert_eq!(netrc.find("two.example", Some("nobody"), true), None);
        assert_eq!(find(&netrc, "empty.example"), None);
        assert_eq!(find(&netrc, "fake"), Some(("anonymous", "user@example")));
        assert_eq!(netrc.find("fake", None, false), None);
        let shown = format!("{netrc:?}");
        assert!(shown.contains("mirror.example") && !shown.contains("s3cret"));
    }

    #[test]
    fn a_syntax_error_names_the_line_and_shows_no_text() {
        for (text, line) in [
            ("machine a\nlogin me\npassword", 3),
            ("\n\nlogin me", 3),
            ("machine a password \"secret\n", 1),
            ("machine", 1),
        ] {
            let error = Netrc::parse(text).unwrap_err();
            assert!(
                matches!(error, NetrcError::Syntax { line: l, .. } if l == line),
                "{text}: {error:?}"
            );
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
        for text in ["x".repeat(MAX_BYTES + 1), "default ".repeat(5_000)] {
            let error = Netrc::parse(&text).unwrap_err();
            assert!(matches!(error, NetrcError::TooMuch { .. }), "{error:?}");
        }
    }

    #[test]
    fn unknown_words_are_skipped_and_a_host_precedes_the_default() {
        let text = "default login d password d\nmachine a port 21 login me password secret\n";
        let netrc = Netrc::parse(text).unwrap();
        assert_eq!(find(&netrc, "a"), Some(("me", "secret")));
        assert_eq!(find(&netrc, "b"), Some(("d", "d")));
    }

    #[test]
    fn a_comment_in_another_encoding_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netrc");
        std::fs::write(&path, b"# caf\xe9\nmachine a login b password c\n").unwrap();
        let netrc = Netrc::read(&path).unwrap().unwrap();
        assert_eq!(find(&netrc, "a"), Some(("b", "c")));
    }

    #[test]
    fn a_macro_may_be_empty_or_end_with_the_file() {
        for text in [
            "macdef x\n\nmachine a login b password c",
            "machine a login b password c macdef x\n machine a\n password z",
            "machine a login b password c\nmacdef x",
        ] {
            let netrc = Netrc::parse(text).unwrap();
            assert_eq!(find(&netrc, "a"), Some(("b", "c")), "{text}");
        }
    }

    #[test]
    fn the_variable_precedes_the_home_directory() {
        let home = Some(Path::new("/home/me"));
        let at = |variable: Option<&str>, home| Netrc::locate(variable.map(Into::into), home);
        assert_eq!(at(Some("/x/y"), home), Some("/x/y".into()));
        assert_eq!(at(Some(""), home), Some("/home/me/.netrc".into()));
        assert_eq!(at(None, home), Some("/home/me/.netrc".into()));
        assert_eq!(at(None, None), None);
        let missing = Netrc::read(Path::new("/no/such/file"));
        assert!(matches!(missing, Ok(None)));
        let directory = Netrc::read(Path::new("/"));
        assert!(matches!(directory, Err(NetrcError::Read { .. })));
    }

    fn quoted(value: &str) -> String {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{escaped}\"")
    }

    proptest! {
        /// The first entry for a host is used.
        #[test]
        fn a_written_file_is_parsed_back(
            entries in prop::collection::vec(("[a-c]{1,2}", "[!-~é \n]{1,8}", "[!-~é \n]{0,8}"), 0..12),
            gap in "[ \n\t]{1,3}",
        ) {
            let mut text = String::new();
            for (host, login, password) in &entries {
                let words = ["machine", host, "login", &quoted(login), "password", &quoted(password)];
                text.push_str(&words.join(&gap));
                text.push_str(&gap);
            }
            let netrc = Netrc::parse(&text).unwrap();
            for host in ["a", "b", "c", "ab", "ca"] {
                let first = entries.iter().find(|entry| entry.0 == host);
                let expected = first.map(|entry| (entry.1.as_str(), entry.2.as_str()));
                prop_assert_eq!(find(&netrc, host), expected);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(
            words in prop::collection::vec("machine|default|login|password|macdef|\"|#|\\\\|é|a|\n|\n\n", 0..30),
            gap in " ?",
        ) {
            let _ = Netrc::parse(&words.join(&gap));
        }
    }
}
