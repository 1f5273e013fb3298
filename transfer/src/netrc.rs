//! `.netrc` files: logins by host.
//!
//! The format is that of ftp(1), with what curl and Python's `netrc` have added: quoted values
//! and comments.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

/// The longest file that is read, in bytes.
const MOST_BYTES: usize = 1 << 20;
/// The most machines in a file.
const MOST_MACHINES: usize = 4096;

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

/// Why a `.netrc` file is of no use. No text of the file is in it, because any of it may be part
/// of a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetrcError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is longer, or has more machines, than any that is meant.
    #[error("the netrc file has more than {most} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// It is not in the format.
    #[error("line {line} of the netrc file: {what}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What was expected.
        what: &'static str,
    },
}

impl Netrc {
    /// Where the file is to be looked for: at the value of the environment variable `NETRC` if
    /// that is set and not empty, else at `.netrc` in the home directory.
    pub fn locate(variable: Option<OsString>, home: Option<&Path>) -> Option<PathBuf> {
        match variable.filter(|value| !value.is_empty()) {
            Some(path) => Some(path.into()),
            None => Some(home?.join(".netrc")),
        }
    }

    /// Reads a file; `None` when there is none.
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
        let mut text = String::new();
        // One byte more than is allowed, so that a longer file is seen to be one.
        let limit = MOST_BYTES as u64 + 1;
        file.take(limit).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text).map(Some)
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, NetrcError> {
        if text.len() > MOST_BYTES {
            let (what, most) = ("bytes", MOST_BYTES);
            return Err(NetrcError::TooMuch { what, most });
        }
        let mut tokens = Tokens {
            rest: text.strip_prefix('\u{feff}').unwrap_or(text),
            line: 1,
        };
        let mut machines: Vec<Machine> = Vec::new();
        while let Some(keyword) = tokens.keyword() {
            let host = match keyword {
                "machine" => Some(tokens.value()?.to_ascii_lowercase()),
                "default" => None,
                "macdef" => {
                    tokens.value()?;
                    tokens.skip_macro();
                    continue;
                }
                "login" | "password" | "account" => {
                    let value = tokens.value()?;
                    let Some(machine) = machines.last_mut() else {
                        return Err(tokens.error("a `machine` or `default` comes before this"));
                    };
                    match keyword {
                        "login" => machine.login = value,
                        "password" => machine.password = value,
                        _ => {}
                    }
                    continue;
                }
                _ => {
                    let what = "expected `machine`, `default`, `login`, `password`, `account` or \
                                `macdef`; a value with spaces in it is to be put in quotes";
                    return Err(tokens.error(what));
                }
            };
            if machines.len() == MOST_MACHINES {
                let (what, most) = ("machines", MOST_MACHINES);
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

    /// The login and password for a host: the first that names it and, if `login` is given, has
    /// that login. `default` is for every host, but only if `default_too`.
    pub(crate) fn find(
        &self,
        host: &str,
        login: Option<&str>,
        default_too: bool,
    ) -> Option<(&str, &str)> {
        let found = self.machines.iter().find(|machine| {
            let named = match &machine.host {
                Some(name) => name.eq_ignore_ascii_case(host),
                None => default_too,
            };
            named && login.is_none_or(|login| login == machine.login)
        })?;
        let empty = found.login.is_empty() && found.password.is_empty();
        (!empty).then_some((&found.login, &found.password))
    }
}

struct Tokens<'t> {
    rest: &'t str,
    line: usize,
}

impl<'t> Tokens<'t> {
    fn error(&self, what: &'static str) -> NetrcError {
        NetrcError::Syntax {
            line: self.line,
            what,
        }
    }

    /// Takes so many bytes, which end at a character.
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

    /// The next word where a keyword is due. A `#` begins a comment here, and is a character like
    /// any other in a value.
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

    /// The next word where a value is due: a bare one, or one in quotes in which a backslash
    /// takes the meaning from what follows it.
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

    /// A macro ends with the first empty line.
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
    fn a_file_is_read_as_others_read_it() {
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
    fn what_is_not_in_the_format_is_told_by_its_line_and_not_shown() {
        for (text, line) in [
            ("machine a login me password my secret\n", 1),
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
        for text in ["x".repeat(MOST_BYTES + 1), "default ".repeat(5_000)] {
            let error = Netrc::parse(&text).unwrap_err();
            assert!(matches!(error, NetrcError::TooMuch { .. }), "{error:?}");
        }
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
    fn the_variable_comes_before_the_home() {
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
        /// Whatever is written is read, and the first entry for a host is the one that counts.
        #[test]
        fn what_is_written_is_read(
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
        fn any_text_is_read_or_refused(
            words in prop::collection::vec("machine|default|login|password|macdef|\"|#|\\\\|é|a|\n|\n\n", 0..30),
            gap in " ?",
        ) {
            let _ = Netrc::parse(&words.join(&gap));
        }
    }
}
