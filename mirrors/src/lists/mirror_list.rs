use std::collections::HashSet;

use crate::lists::list_error::{ListError, ListProblem, SkipReason, Skipped};
use crate::safe_url::shorten;
use crate::{Location, Mirror, Provenance};

/// The longest list that is read, in bytes.
const MOST_BYTES: usize = 4 << 20;
/// The most mirrors of a list.
const MOST_MIRRORS: usize = 4096;

/// A plain list of mirrors: one per line.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorList {
    /// The mirrors in the order of the list; never empty, no two at the same place.
    pub mirrors: Vec<Mirror>,
    /// What was passed over.
    pub skipped: Vec<Skipped>,
}

impl MirrorList {
    /// Reads a list in which each line is a URL or an absolute path, or `Server = URL`. Blank lines
    /// and lines that begin with `#` say nothing. In a URL, `$name` and `${name}` stand for the
    /// values given in `variables`.
    ///
    /// `file` is what errors call the list; `provenance` says who named the mirrors of a line.
    pub fn parse(
        text: &str,
        file: &str,
        variables: &[(&str, &str)],
        provenance: impl Fn(u32) -> Provenance,
    ) -> Result<Self, ListError> {
        let error = |line, problem| ListError::at_line(file, line, problem);
        if text.len() > MOST_BYTES {
            let what = "the length in bytes";
            let problem = ListProblem::TooMuch {
                what,
                got: text.len(),
                most: MOST_BYTES,
            };
            return Err(error(1, problem));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim_start().starts_with('<') {
            // A server that answers with a page instead of a list is common behind login portals.
            let found = shorten(text.trim_start().lines().next().unwrap_or_default(), 60);
            let found = format!("markup (`{found}`)");
            return Err(error(
                1,
                ListProblem::Foreign {
                    expected: "a list of mirrors",
                    found,
                },
            ));
        }
        let mut list = Self {
            mirrors: Vec::new(),
            skipped: Vec::new(),
        };
        let mut seen = HashSet::new();
        for (line, entry) in (1..).zip(text.lines()) {
            let entry = entry.trim();
            if entry.is_empty() || entry.starts_with('#') {
                continue;
            }
            if list.mirrors.len() + list.skipped.len() == MOST_MIRRORS {
                let (what, most) = ("the number of entries", MOST_MIRRORS);
                return Err(error(
                    line,
                    ListProblem::TooMuch {
                        what,
                        got: most + 1,
                        most,
                    },
                ));
            }
            match read_entry(entry, variables) {
                Ok(location) if !provenance(line).may_name(&location) => {
                    let why = SkipReason::LocalPath;
                    list.skipped.push(Skipped { line, why });
                }
                Ok(location) if seen.insert(location.key()) => {
                    list.mirrors.push(Mirror::new(location, provenance(line)));
                }
                Ok(location) => {
                    let why = SkipReason::Duplicate(location.to_string());
                    list.skipped.push(Skipped { line, why });
                }
                Err(why) => list.skipped.push(Skipped { line, why }),
            }
        }
        if list.mirrors.is_empty() {
            return Err(error(
                1,
                ListProblem::NothingUsable {
                    skipped: list.skipped,
                },
            ));
        }
        Ok(list)
    }
}

fn read_entry(entry: &str, variables: &[(&str, &str)]) -> Result<Location, SkipReason> {
    let entry = entry
        .strip_prefix("Server")
        .and_then(|rest| rest.trim_start().strip_prefix('='))
        .map_or(entry, str::trim_start);
    if !entry.contains("://") && !entry.starts_with('/') {
        return Err(SkipReason::NotAnEntry);
    }
    Location::parse(&substitute(entry, variables)?).map_err(SkipReason::Location)
}

/// Puts values for `$name` and `${name}`, once: values are not looked at again.
fn substitute(text: &str, variables: &[(&str, &str)]) -> Result<String, SkipReason> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let (name, remaining) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            after.split_at(end.unwrap_or(after.len()))
        });
        let value = variables.iter().find(|(known, _)| *known == name);
        let (_, value) = value.ok_or_else(|| SkipReason::UnknownVariable(shorten(name, 40)))?;
        out.push_str(value);
        rest = remaining;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MirrorList, ListError> {
        let provenance = |line| Provenance::File {
            file: "list".into(),
            line,
        };
        MirrorList::parse(text, "list", &[("arch", "x86_64")], provenance)
    }

    fn urls(list: &MirrorList) -> Vec<String> {
        list.mirrors
            .iter()
            .map(|mirror| mirror.location.to_string())
            .collect()
    }

    #[test]
    fn urls_paths_and_server_lines_are_read() {
        let list = parse(
            "# comment\n\n   https://a.example/pub/\n/srv/copy\nServer = https://b.example/$arch/os\n\
             #Server = https://c.example/\nhttps://d.example/${arch}x\r\n",
        )
        .unwrap();
        assert_eq!(
            urls(&list),
            [
                "https://a.example/pub",
                "file:///srv/copy",
                "https://b.example/x86_64/os",
                "https://d.example/x86_64x"
            ]
        );
        assert_eq!(
            list.mirrors[2].provenance,
            Provenance::File {
                file: "list".into(),
                line: 5
            }
        );
        assert_eq!(list.skipped, []);
    }

    #[test]
    fn what_cannot_be_used_is_passed_over_with_its_line() {
        let list = parse(
            "https://a.example/\nftp://b.example/\nhttps://A.example:443\nhello\n\
             https://c.example/$release\n",
        )
        .unwrap();
        assert_eq!(list.mirrors.len(), 1);
        let said: Vec<String> = list.skipped.iter().map(ToString::to_string).collect();
        assert!(
            said[0].starts_with("line 2: `ftp://` is not a kind of mirror"),
            "{said:?}"
        );
        assert_eq!(
            said[1..],
            [
                "line 3: `https://a.example/` is already in the list",
                "line 4: neither a mirror nor a comment",
                "line 5: the variable `$release` is not set"
            ]
        );
    }

    #[test]
    fn a_list_from_a_server_names_no_local_path() {
        let text = "/etc\nfile:///etc\nhttps://a.example/\n";
        let provenance = |_| Provenance::Discovered {
            from: "https://list.example/".into(),
        };
        let list = MirrorList::parse(text, "list", &[], provenance).unwrap();
        assert_eq!(urls(&list), ["https://a.example/"]);
        assert!(
            list.skipped
                .iter()
                .all(|skipped| skipped.why == SkipReason::LocalPath)
        );
    }

    #[test]
    fn a_list_without_mirrors_says_what_it_has_instead() {
        assert_eq!(
            parse("# only\n# comments\n").unwrap_err().to_string(),
            "list:1: no usable mirror"
        );
        let message = parse("rsync://a.example/\nrsync://b.example/\n")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("no usable mirror; line 1: `rsync://`"),
            "{message}"
        );
        assert!(message.ends_with("and 1 more"), "{message}");
    }

    #[test]
    fn a_login_page_is_not_taken_for_a_list() {
        let message = parse("\n<!DOCTYPE html><p>https://a.example/\n")
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "list:1: expected a list of mirrors, found markup (`<!DOCTYPE html><p>https://a.example/`)"
        );
    }

    #[test]
    fn a_list_without_end_is_refused() {
        let many: Vec<String> = (0..5000)
            .map(|i| format!("https://m{i}.example/\n"))
            .collect();
        let message = parse(&many.concat()).unwrap_err().to_string();
        assert!(
            message.starts_with("list:4097: the number of entries"),
            "{message}"
        );
    }
}
