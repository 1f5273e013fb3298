//! Parsing of specs.

use std::{fmt, ops::Range};

use rattler_conda_types::package::DistArchiveIdentifier;
use rattler_conda_types::{
    Channel, MatchSpec, PackageName, ParseMatchSpecError, ParseMatchSpecOptions, VersionSpec,
};
use taipan_channel::ChannelIndexes;
use taipan_mirrors::without_credentials_in;

/// A spec that cannot be parsed. `Display` shows the message, the spec with a mark below the place,
/// and a hint if there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecError {
    /// The spec as it was given.
    pub spec: String,
    /// What is wrong, in a few words.
    pub message: String,
    /// The bytes of the spec that are wrong; empty where something is missing.
    pub place: Range<usize>,
    /// What was probably meant.
    pub hint: Option<String>,
}

impl std::error::Error for SpecError {}

impl fmt::Display for SpecError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.spec[..self.place.start].chars().count();
        let width = self.spec[self.place.clone()].chars().count().max(1);
        write!(
            formatter,
            "invalid spec `{spec}`: {message}\n  {spec}\n  {mark:>width$}",
            spec = self.spec,
            message = self.message,
            mark = "^".repeat(width),
            width = before + width,
        )?;
        if let Some(hint) = &self.hint {
            write!(formatter, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Parses a spec as conda's command line does: `numpy`, `numpy=1.26` (any 1.26), `numpy==1.26`
/// (that version), `numpy 1.26.*`, `python>=3.10,<3.13`, `numpy=1.26.4=py312*`,
/// `conda-forge::numpy`, `conda-forge/linux-64::numpy`, `numpy[build=py312*]`. Credentials in the URL of a channel are taken
/// off: they are no part of its name.
///
/// # Errors
///
/// When it cannot be parsed, or does not name one package.
pub fn parse_spec(spec: &str) -> Result<MatchSpec, SpecError> {
    let bare = without_credentials_in(spec);
    let spec = bare.as_str();
    let fail = |message: String, place, hint| {
        Err(SpecError {
            spec: spec.to_owned(),
            message,
            place,
            hint,
        })
    };
    if let Some(control) = spec.find(char::is_control) {
        // Escaped, because the message goes to a terminal.
        let before: String = spec[..control].escape_debug().collect();
        let escaped = spec[control..]
            .chars()
            .take(1)
            .flat_map(char::escape_debug)
            .count();
        return Err(SpecError {
            spec: spec.escape_debug().collect(),
            message: "it contains a control character".to_owned(),
            place: before.len()..before.len() + escaped,
            hint: None,
        });
    }
    if let Some(file) = package_file(spec) {
        let hint = match DistArchiveIdentifier::try_from_filename(file) {
            Some(parts) => format!(
                "a spec names a package of a channel: `{}[fn='{file}']`",
                parts.identifier.name
            ),
            None => "a spec names a package of a channel, e.g. `numpy >=1.26`".to_owned(),
        };
        return fail(
            "it is a package file or a URL, and not a spec".to_owned(),
            0..spec.len(),
            Some(hint),
        );
    }
    let name = name_part(spec);
    if spec[name.clone()].is_empty() {
        let message = "the package name is missing".to_owned();
        return fail(
            message,
            name,
            Some("a spec begins with a name, e.g. `numpy >=1.26`".into()),
        );
    }
    let odd = spec[name.clone()]
        .char_indices()
        .find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')));
    if let Some((at, odd)) = odd {
        let start = name.start + at;
        let (message, hint) = match odd {
            '@' => {
                let version = &spec[start + 1..];
                let hint = format!(
                    "use `=` for a version: `{}={version}`",
                    &spec[name.start..start]
                );
                (
                    "`@` is not allowed in a package name".to_owned(),
                    Some(hint),
                )
            }
            '^' | '$' | '*' | '?' => ("patterns are not allowed".to_owned(), None),
            other => (format!("`{other}` is not allowed in a package name"), None),
        };
        return fail(message, start..start + odd.len_utf8(), hint);
    }
    // Extras, conditions and flags (CEP 44) would change what is installed, and are not supported,
    // so they are refused instead of ignored.
    match MatchSpec::from_str(spec, ParseMatchSpecOptions::lenient()) {
        Ok(parsed) if parsed.name.as_exact().is_some() => Ok(parsed),
        Ok(_) => fail("it does not name one package".to_owned(), name, None),
        Err(error) => {
            let (place, hint) = locate(spec, name.end, &error);
            fail(describe(&error), place, hint)
        }
    }
}

/// The last part of a text that is the path or URL of a package and no spec.
fn package_file(spec: &str) -> Option<&str> {
    let bare = spec.split('#').next().unwrap_or_default().trim();
    let is_url = bare.contains("://") && !bare.contains("::") && !bare.contains('[');
    let is_archive = [".conda", ".tar.bz2"]
        .iter()
        .any(|ending| bare.ends_with(ending));
    (is_url || is_archive).then(|| bare.rsplit('/').next().unwrap_or_default())
}

/// The name in a spec, if it is one name and not a pattern.
pub(crate) fn exact_name(spec: &MatchSpec) -> Option<&PackageName> {
    spec.name.as_exact()
}

/// Whether a name is that of a virtual package, which no channel can have.
pub(crate) fn is_virtual(name: &str) -> bool {
    name.starts_with("__")
}

/// Whether the channel of a spec is this one: by URL, by the name that the user gave it, or by the
/// end of its path (so that `conda-forge::` matches the conda-forge of a mirror, too).
pub(crate) fn is_channel(wanted: &Channel, channel: &ChannelIndexes) -> bool {
    let url = channel.url.as_str().trim_end_matches('/');
    if wanted.base_url.as_str().trim_end_matches('/') == url {
        return true;
    }
    wanted.name.as_deref().is_some_and(|name| {
        let name = name.trim_matches('/');
        name == channel.name
            || url
                .strip_suffix(name)
                .is_some_and(|before| before.ends_with('/'))
    })
}

/// A spec without the `*` of an absent version.
pub(crate) fn tidy(spec: &str) -> String {
    let spec = spec.trim();
    spec.strip_suffix(" *").unwrap_or(spec).to_owned()
}

/// The range of the name: after the channel, before the first character that is not part of it.
fn name_part(spec: &str) -> Range<usize> {
    let bracket = spec.find('[').unwrap_or(spec.len());
    let start = spec[..bracket].rfind("::").map_or(0, |at| at + 2);
    let start = start + (spec[start..].len() - spec[start..].trim_start().len());
    let end = spec[start..]
        .find(|c: char| c.is_whitespace() || "=<>!~[,|(".contains(c))
        .map_or(spec.len(), |length| start + length);
    start..end
}

fn describe(error: &ParseMatchSpecError) -> String {
    match error {
        ParseMatchSpecError::InvalidBracketKey(key)
            if ["extras", "when", "flags"].contains(&key.as_str()) =>
        {
            format!("`{key}` is not supported")
        }
        ParseMatchSpecError::InvalidBracket => "the brackets are not closed, or odd".to_owned(),
        other => other.to_string(),
    }
}

/// The place of the error, which the parser does not state. Its steps are repeated: brackets, then
/// the version, then the rest.
fn locate(
    spec: &str,
    name_end: usize,
    error: &ParseMatchSpecError,
) -> (Range<usize>, Option<String>) {
    let end = spec.trim_end().len();
    let rest = name_end.min(end)..end;
    if let ParseMatchSpecError::InvalidBracketKey(key) = error
        && let Some(at) = spec.rfind(key.as_str())
    {
        let known = "version, build, build_number, channel, subdir, fn, url, md5, sha256, license";
        return (at..at + key.len(), Some(format!("known keys are {known}")));
    }
    if let Some(bracket) = spec.find('[')
        && matches!(
            error,
            ParseMatchSpecError::InvalidBracket
                | ParseMatchSpecError::MultipleBracketSectionsNotAllowed
                | ParseMatchSpecError::InvalidHashDigest
                | ParseMatchSpecError::InvalidBuildNumber(_)
                | ParseMatchSpecError::MultipleValueForKey(_)
        )
    {
        return (bracket..end, None);
    }
    let text = spec[rest.clone()].trim();
    if text.is_empty() {
        return (0..end, None);
    }
    let start = rest.start + (spec[rest.clone()].len() - spec[rest].trim_start().len());
    let operator = text.len()
        - text
            .trim_start_matches(['=', '<', '>', '!', '~', ' '])
            .len();
    if operator == text.len() {
        let hint = "if the shell interpreted the rest, quote the spec: `'python >=3.10'`";
        return (
            end..end,
            Some(format!("a version must follow `{text}`; {hint}")),
        );
    }
    let hint = if text.starts_with("=>") || text.starts_with("=<") {
        Some(format!(
            "did you mean `{}`?",
            text.replacen("=>", ">=", 1).replacen("=<", "<=", 1)
        ))
    } else {
        let version = text.strip_prefix('^');
        version.map(|version| format!("`^` is not supported; use `~={version}` or `>={version}`"))
    };
    // The first of several bounds that is invalid.
    let mut at = start;
    for bound in text.split_inclusive([',', '|']) {
        let bare = bound.trim_end_matches([',', '|']);
        let lenient = rattler_conda_types::ParseStrictness::Lenient;
        if VersionSpec::from_str(bare.trim(), lenient).is_err() {
            let inner = bare.len() - bare.trim_start().len();
            return (at + inner..at + bare.trim_end().len().max(inner), hint);
        }
        at += bound.len();
    }
    (start..end, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_read_as_condas_command_line_does() {
        for (typed, understood) in [
            ("numpy", "numpy"),
            ("NumPy", "numpy"),
            ("numpy=1.26", "numpy 1.26.*"),
            ("numpy==1.26", "numpy ==1.26"),
            ("numpy 1.26", "numpy ==1.26"),
            ("numpy 1.26.*", "numpy 1.26.*"),
            ("numpy=1.26.*", "numpy 1.26.*"),
            ("python>=3.10", "python >=3.10"),
            ("python >=3.10,<3.13", "python >=3.10,<3.13"),
            ("python >=3.10, <3.13", "python >=3.10,<3.13"),
            ("numpy=1.26.4=py312*", "numpy ==1.26.4 py312*"),
            ("numpy 1.26.4 py312_0", "numpy ==1.26.4 py312_0"),
            ("numpy[version='>=2']", "numpy >=2"),
            (" numpy ", "numpy"),
        ] {
            let spec = parse_spec(typed).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(spec.to_string(), understood, "{typed}");
        }
        let spec = parse_spec("conda-forge/linux-64::numpy >=1").unwrap();
        assert_eq!(spec.channel.as_ref().unwrap().name(), "conda-forge");
        assert_eq!(spec.subdir.as_deref(), Some("linux-64"));
    }

    #[test]
    fn package_files_and_urls_are_told_from_specs() {
        for text in [
            "./foo-1-0.conda",
            "/srv/c/noarch/foo-1-0.tar.bz2",
            "foo-1-0.conda",
            "https://h.example/noarch/foo-1-0.conda#0123456789abcdef0123456789abcdef",
        ] {
            let error = parse_spec(text).unwrap_err();
            assert!(error.message.contains("package file"), "{error}");
            assert!(error.hint.unwrap().contains("`foo[fn='foo-1-0."), "{text}");
        }
        for text in ["https://h.example/c", "file:///srv/x"] {
            assert!(
                parse_spec(text).unwrap_err().message.contains("URL"),
                "{text}"
            );
        }
        for text in [
            "https://h.example/c::foo",
            "foo[url='https://h.example/c/foo-1-0.conda']",
        ] {
            parse_spec(text).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_read_is_marked_and_explained() {
        for (typed, mark, hint) in [
            ("", "", "begins with a name"),
            (">=1.26", "", "begins with a name"),
            ("nump!y", "!y", ""),
            ("num&py", "&", ""),
            ("numpy@1.26", "@", "`numpy=1.26`"),
            ("num*", "*", ""),
            ("numpy >=", "", "quote the spec"),
            ("numpy =>1.26", "=>1.26", "`>=1.26`"),
            ("numpy ^1.26", "^1.26", "`~=1.26`"),
            ("numpy >=1.26,<<2", "<<2", ""),
            ("numpy[version='>=1'", "[version='>=1'", ""),
            ("numpy[colour=red]", "colour", "known keys"),
            ("numpy[extras=[blas]]", "extras", ""),
            ("numpy[md5=12]", "[md5=12]", ""),
        ] {
            let error = match parse_spec(typed) {
                Ok(spec) => panic!("{typed} was read as {spec}"),
                Err(error) => error,
            };
            assert_eq!(&error.spec[error.place.clone()], mark, "{error}");
            assert!(
                error.hint.as_deref().unwrap_or_default().contains(hint),
                "{error}"
            );
        }
        assert_eq!(
            parse_spec("numpy@1.26").unwrap_err().to_string(),
            "invalid spec `numpy@1.26`: `@` is not allowed in a package name\n  numpy@1.26\n       \
             ^\n  hint: use `=` for a version: `numpy=1.26`"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let error = parse_spec("num\u{1b}[31mpy").unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_spec_panics(spec in "\\PC{0,30}") {
            if let Err(error) = parse_spec(&spec) {
                drop(error.to_string());
            }
        }

        #[test]
        fn nothing_like_a_spec_panics(
            parts in proptest::collection::vec(proptest::sample::select(vec![
                "numpy", "é", "::", "[", "]", "=", ">=", "<", "~", "^", "!", ",", "|", "(", ")",
                " ", "1.26", "*", "version", "md5", "extras", "'", "\"", "\\", "/", ".", "#", "@",
                "\n", "$", "https://", "file:///", "linux-64", "when",
            ]), 0..12)
        ) {
            let spec = parts.concat();
            if let Err(error) = parse_spec(&spec) {
                drop(error.to_string());
            }
        }
    }
}
