use std::collections::HashSet;

use crate::lists::list_error::{ListError, ListProblem, SkipReason, Skipped, within};
use crate::safe_url::shorten;
use crate::{Location, Mirror, Provenance};

/// In bytes.
const MOST_BYTES: usize = 4 << 20;
const MOST_MIRRORS: usize = 4096;

/// A plain list of mirrors, one per line.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorList {
    /// In the order of the list; never empty, no two at the same location.
    pub mirrors: Vec<Mirror>,
    pub skipped: Vec<Skipped>,
}

impl MirrorList {
    /// Reads a list in which each line is a URL or an absolute path, or `Server = URL`. Blank lines
    /// and lines that begin with `#` are ignored. In a URL, `$name` and `${name}` are replaced by the
    /// values in `variables`.
    ///
    /// Errors call the list `file`; `provenance` gives that of the mirror in a line.
    pub fn parse(
        text: &str,
        file: &str,
        variables: &[(&str, &str)],
        provenance: impl Fn(u32) -> Provenance,
    ) -> Result<Self, ListError> {
        let error = |line, problem| ListError::at_line(file, line, problem);
        within("the length in bytes", text.len(), MOST_BYTES)
            .map_err(|problem| error(1, problem))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim_start().starts_with('<') {
            // Login portals respond with a page instead of the list.
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
            let entries = list.mirrors.len() + list.skipped.len() + 1;
            within("the number of entries", entries, MOST_MIRRORS)
                .map_err(|problem| error(line, problem))?;
            match read_entry(entry, variables) {
                Ok((location, _)) if !provenance(line).may_name(&location) => {
                    let why = SkipReason::LocalPath;
                    list.skipped.push(Skipped { line, why });
                }
                Ok((location, country)) if seen.insert(location.key()) => {
                    let mut mirror = Mirror::new(location, provenance(line));
                    mirror.country = country;
                    list.mirrors.push(mirror);
                }
                Ok((location, _)) => {
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

/// A mirror and the country in the second column. What follows `#` there is a comment; other columns are ignored.
fn read_entry(
    entry: &str,
    variables: &[(&str, &str)],
) -> Result<(Location, Option<String>), SkipReason> {
    let entry = entry
        .strip_prefix("Server")
        .and_then(|rest| rest.trim_start().strip_prefix('='))
        .map_or(entry, str::trim_start);
    if !entry.contains("://") && !entry.starts_with('/') {
        return Err(SkipReason::NotAnEntry);
    }
    // A path may have blanks, a URL has none.
    let (place, columns) = match entry.split_once(char::is_whitespace) {
        Some((url, columns)) if entry.contains("://") => (url, columns),
        _ => (entry, ""),
    };
    let location = Location::parse(&substitute(place, variables)?).map_err(SkipReason::Location)?;
    let columns = columns.split('#').next().unwrap_or_default();
    let country = columns.split_whitespace().next().filter(|column| {
        column.len() == 2 && column.bytes().all(|byte| byte.is_ascii_alphabetic())
    });
    Ok((location, country.map(str::to_ascii_uppercase)))
}

/// Replaces `$name` and `${name}` by their values, which are not expanded again.
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
    fn a_second_column_is_a_country_or_a_note() {
        let list = parse(
            "https://a.example/pub DE\nhttps://b.example/\tfr # fast\nhttps://c.example/ # note\n\
             https://d.example/#anchor university of x\nServer = https://e.example/$arch us\n/srv/two words\n",
        )
        .unwrap();
        assert_eq!(list.skipped, []);
        let found: Vec<_> = list
            .mirrors
            .iter()
            .map(|mirror| mirror.country.as_deref())
            .collect();
        assert_eq!(
            found,
            [Some("DE"), Some("FR"), None, None, Some("US"), None]
        );
        assert_eq!(urls(&list)[0], "https://a.example/pub");
        assert_eq!(urls(&list)[4], "https://e.example/x86_64");
        assert_eq!(urls(&list)[5], "file:///srv/two%20words");
    }

    #[test]
    fn unusable_entries_are_skipped_with_their_line() {
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
    fn the_error_of_a_list_without_mirrors_names_a_skipped_entry() {
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
    fn a_list_over_the_limit_is_refused() {
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
