//! First lines of scripts whose interpreter is in the prefix.
//!
//! The kernel truncates a `#!` line after 127 bytes and at the first space, so a prefix that is
//! long or has a space needs another form:
//!
//! - for python, `/bin/sh` with a second line that is a shell command to the shell and a string
//!   to python. It works whether or not the environment is active. A script that reads its own
//!   `__doc__`, has a `__future__` import or declares an encoding other than UTF-8 cannot have
//!   that line in front, and gets the second form;
//! - for everything else, `/usr/bin/env NAME`, as conda does. It finds the interpreter in an
//!   active environment. Options follow `env -S`, because the kernel passes everything after
//!   the interpreter as one argument.

use std::borrow::Cow;

use memchr::memmem;

use super::prefix_replacement::Replacement;
use crate::platform::MAX_SHEBANG;

/// Replaces the placeholder in a text file, and rewrites a first line that the kernel
/// would not accept.
///
/// Only a first line that begins with `#!` is considered; one that works is not changed.
pub(crate) fn replace_text<'a>(data: &'a [u8], replacement: &Replacement) -> Cow<'a, [u8]> {
    let Some((line, rest)) = split_shebang(data) else {
        return replacement.text(data);
    };
    let Some(first) = rewrite(line, rest, replacement) else {
        return replacement.text(data);
    };
    let mut out = first;
    out.extend_from_slice(&replacement.text(rest));
    Cow::Owned(out)
}

/// The first line of an entry point script: `python` is the interpreter's absolute path.
pub(crate) fn for_entry_point(python: &str) -> String {
    if python.len() + 2 <= MAX_SHEBANG && !python.contains(char::is_whitespace) {
        format!("#!{python}\n")
    } else if let Some(line) = polyglot(python, "") {
        line
    } else {
        env_line(python, "")
    }
}

/// The line without its end, and the rest of the file including that end.
fn split_shebang(data: &[u8]) -> Option<(&[u8], &[u8])> {
    if !data.starts_with(b"#!") {
        return None;
    }
    let mut end = memchr::memchr(b'\n', data).unwrap_or(data.len());
    if data[..end].ends_with(b"\r") {
        end -= 1;
    }
    Some(data.split_at(end))
}

/// The new first line, without its end, or `None` if plain replacement suffices.
fn rewrite(line: &[u8], rest: &[u8], replacement: &Replacement) -> Option<Vec<u8>> {
    let line = std::str::from_utf8(line).ok()?;
    let command = line[2..].trim_start_matches([' ', '\t']);
    if !command.starts_with('/') {
        return None;
    }
    let (interpreter, options) =
        command.split_at(command.find([' ', '\t']).unwrap_or(command.len()));
    let replace = |text: &str| text.replace(replacement.placeholder(), replacement.prefix());
    let (new_interpreter, new_options) = (replace(interpreter), replace(options));
    let length = line.len() - command.len() + new_interpreter.len() + new_options.len();
    let fits = length <= MAX_SHEBANG && !new_interpreter.contains(char::is_whitespace);
    if fits {
        return None;
    }
    let python = interpreter_name(&new_interpreter).starts_with("python");
    let line = (python && can_have_a_string_in_front(rest))
        .then(|| polyglot(&new_interpreter, &new_options))
        .flatten()
        .unwrap_or_else(|| env_line(&new_interpreter, &new_options));
    Some(line.trim_end_matches('\n').as_bytes().to_vec())
}

fn interpreter_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// `#!/usr/bin/env NAME`, with `-S` if there are options to split.
fn env_line(interpreter: &str, options: &str) -> String {
    let name = interpreter_name(interpreter);
    let options = options.trim();
    if options.is_empty() {
        format!("#!/usr/bin/env {name}\n")
    } else {
        format!("#!/usr/bin/env -S {name} {options}\n")
    }
}

/// Two lines that `/bin/sh` reads as `exec "python" "$0" "$@"` and python as a string.
///
/// `None` when the path has a character that is special to the shell between double quotes or to
/// python between single quotes.
fn polyglot(python: &str, options: &str) -> Option<String> {
    let special = ['"', '$', '`', '\\', '\'', '\n', '\r'];
    if python.contains(special) || options.contains(special) {
        return None;
    }
    let options = options.trim();
    let space = if options.is_empty() { "" } else { " " };
    Some(format!(
        "#!/bin/sh\n'''exec' \"{python}\"{space}{options} \"$0\" \"$@\" #'''\n"
    ))
}

/// Whether a string before the first statement does not change the meaning of the script.
fn can_have_a_string_in_front(rest: &[u8]) -> bool {
    if memmem::find(rest, b"__doc__").is_some() || memmem::find(rest, b"__future__").is_some() {
        return false;
    }
    // PEP 263: an encoding is declared in the first or second line, and a line moves it to the
    // third. UTF-8 is the default, so losing that declaration loses nothing.
    let body = rest.strip_prefix(b"\r").unwrap_or(rest);
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    let second = &body[..memchr::memchr(b'\n', body).unwrap_or(body.len())];
    let second = String::from_utf8_lossy(second).to_ascii_lowercase();
    let declares = second.trim_start().starts_with('#')
        && (second.contains("coding:") || second.contains("coding="));
    !declares || second.contains("utf-8") || second.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(data: &str, prefix: &str) -> String {
        let replacement = Replacement::new("/ph", prefix);
        String::from_utf8(replace_text(data.as_bytes(), &replacement).into_owned()).unwrap()
    }

    #[test]
    fn shebang_table() {
        let long = format!("/{}", "l".repeat(150));
        let cases = [
            // A line that works is left alone, byte for byte.
            (
                "#!/ph/bin/python -E\nx /ph",
                "/env",
                "#!/env/bin/python -E\nx /env".to_owned(),
            ),
            ("#! /ph/bin/perl\n", "/env", "#! /env/bin/perl\n".to_owned()),
            (
                "#!/bin/bash /ph/x\n",
                "/my env",
                "#!/bin/bash /my env/x\n".to_owned(),
            ),
            (
                "#!/usr/bin/env python\n/ph\n",
                "/my env",
                "#!/usr/bin/env python\n/my env\n".to_owned(),
            ),
            // Only the first line counts, and only with `#!`.
            (
                "# #!/ph/bin/python\n",
                "/my env",
                "# #!/my env/bin/python\n".to_owned(),
            ),
            (
                "\n#!/ph/bin/perl\n",
                "/my env",
                "\n#!/my env/bin/perl\n".to_owned(),
            ),
            (
                "#!relative /ph\n",
                "/my env",
                "#!relative /my env\n".to_owned(),
            ),
            // Spaces and length.
            (
                "#!/ph/bin/perl\nuse x;\n",
                "/my env",
                "#!/usr/bin/env perl\nuse x;\n".to_owned(),
            ),
            (
                "#!/ph/bin/perl -w -T\n",
                "/my env",
                "#!/usr/bin/env -S perl -w -T\n".to_owned(),
            ),
            ("#!/ph/bin/perl", &long, "#!/usr/bin/env perl".to_owned()),
            (
                "#!/ph/bin/perl\r\nx\r\n",
                "/my env",
                "#!/usr/bin/env perl\r\nx\r\n".to_owned(),
            ),
            (
                "#!/ph/bin/python3.11 -E\nimport re\n",
                "/my env",
                "#!/bin/sh\n'''exec' \"/my env/bin/python3.11\" -E \"$0\" \"$@\" #'''\nimport re\n"
                    .to_owned(),
            ),
            (
                "#!/ph/bin/python\n# -*- coding: utf-8 -*-\n",
                &long,
                format!(
                    "#!/bin/sh\n'''exec' \"{long}/bin/python\" \"$0\" \"$@\" #'''\n# -*- coding: utf-8 -*-\n"
                ),
            ),
            // Scripts that a string in front would change, and paths that cannot be quoted.
            (
                "#!/ph/bin/python\nprint(__doc__)\n",
                "/my env",
                "#!/usr/bin/env python\nprint(__doc__)\n".to_owned(),
            ),
            (
                "#!/ph/bin/python\n# coding: latin-1\n",
                "/my env",
                "#!/usr/bin/env python\n# coding: latin-1\n".to_owned(),
            ),
            (
                "#!/ph/bin/python\nx\n",
                "/a $b",
                "#!/usr/bin/env python\nx\n".to_owned(),
            ),
        ];
        for (data, prefix, wanted) in cases {
            assert_eq!(replaced(data, prefix), wanted, "{data:?} with {prefix:?}");
        }
    }

    #[test]
    fn a_line_of_127_bytes_stays_and_one_of_128_does_not() {
        let prefix =
            |length: usize| format!("/{}", "p".repeat(length - "#!/".len() - "/bin/perl".len()));
        let stays = prefix(127);
        assert_eq!(
            replaced("#!/ph/bin/perl\n", &stays),
            format!("#!{stays}/bin/perl\n")
        );
        assert_eq!(
            replaced("#!/ph/bin/perl\n", &prefix(128)),
            "#!/usr/bin/env perl\n"
        );
    }

    #[test]
    fn entry_points_run_without_activation() {
        assert_eq!(
            for_entry_point("/env/bin/python3.11"),
            "#!/env/bin/python3.11\n"
        );
        assert_eq!(
            for_entry_point("/my énv/bin/python3.11"),
            "#!/bin/sh\n'''exec' \"/my énv/bin/python3.11\" \"$0\" \"$@\" #'''\n"
        );
        assert_eq!(
            for_entry_point("/my `env/bin/python"),
            "#!/usr/bin/env python\n"
        );
    }
}
