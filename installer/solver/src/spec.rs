//! Specs as people type them.

use std::{fmt, ops::Range};

use rattler_conda_types::{
    MatchSpec, PackageName, ParseMatchSpecError, ParseMatchSpecOptions, VersionSpec,
};

/// A spec that cannot be read. `Display` gives the message, the spec with a mark below the place,
/// and a hint where there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecError {
    /// The spec as it was typed.
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
            "the spec `{spec}` cannot be read: {message}\n  {spec}\n  {mark:>width$}",
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

/// Reads a spec as conda's command line does: `numpy`, `numpy=1.26` (any 1.26), `numpy==1.26`
/// (that version), `numpy 1.26.*`, `python>=3.10,<3.13`, `numpy=1.26.4=py312*`,
/// `conda-forge::numpy`, `conda-forge/linux-64::numpy`, `numpy[build=py312*]`.
///
/// # Errors
///
/// When it cannot be read, or names no single package. Its place is marked.
pub fn parse_spec(spec: &str) -> Result<MatchSpec, SpecError> {
    let fail = |message: String, place, hint| {
        Err(SpecError {
            spec: spec.to_owned(),
            message,
            place,
            hint,
        })
    };
    if let Some(control) = spec.find(char::is_control) {
        // Shown with escapes: the message goes to a terminal.
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
    let name = name_part(spec);
    if spec[name.clone()].is_empty() {
        let message = "there is no package name".to_owned();
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
                    "versions are written so: `{}={version}`",
                    &spec[name.start..start]
                );
                ("`@` has no place in a name".to_owned(), Some(hint))
            }
            '^' | '$' | '*' | '?' => (
                "patterns are not allowed, a spec names one package".to_owned(),
                None,
            ),
            other => (format!("`{other}` has no place in a package name"), None),
        };
        return fail(message, start..start + odd.len_utf8(), hint);
    }
    // Extras, conditions and flags (CEP 44) would change what is installed, and nothing here
    // heeds them; so they are refused, not passed over.
    match MatchSpec::from_str(spec, ParseMatchSpecOptions::lenient()) {
        Ok(parsed) if parsed.name.as_exact().is_some() => Ok(parsed),
        Ok(_) => fail("it does not name one package".to_owned(), name, None),
        Err(error) => {
            let (place, hint) = locate(spec, name.end, &error);
            fail(describe(&error), place, hint)
        }
    }
}

/// The name that a spec asks for, if it is one name and not a pattern.
pub(crate) fn exact_name(spec: &MatchSpec) -> Option<&PackageName> {
    spec.name.as_exact()
}

/// Names of virtual packages begin so; channels cannot supply them.
pub(crate) fn is_virtual(name: &str) -> bool {
    name.starts_with("__")
}

/// Where the name stands: after the channel, before the first thing that is no part of a name.
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

/// The place of the fault. The parser does not tell, so its steps are gone through: brackets,
/// then the version, then what remains.
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
        let hint = "if the shell took the rest, quote the spec: `'python >=3.10'`";
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
        version.map(|version| format!("`^` is not known here; `~={version}` and `>={version}` are"))
    };
    // The first of several bounds that is not one by itself.
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
            "the spec `numpy@1.26` cannot be read: `@` has no place in a name\n  numpy@1.26\n       \
             ^\n  hint: versions are written so: `numpy=1.26`"
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
