//! `~/.conda/environments.txt`, conda's list of the environments of a user.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::location::Prefix;
use crate::error::PrefixError;

/// Adds the prefix to the list in `file`, unless it is listed. Nothing in this crate calls it:
/// whether an environment is registered is the choice of the caller.
pub fn register_environment(prefix: &Prefix, file: &Path) -> Result<(), PrefixError> {
    let known = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            return Err(PrefixError::Io {
                action: "read",
                path: file.into(),
                source,
            });
        }
    };
    if known.lines().any(|line| line.trim() == prefix.text()) {
        return Ok(());
    }
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(PrefixError::io("create directory", directory))?;
    }
    let mut list = fs::File::options()
        .append(true)
        .create(true)
        .open(file)
        .map_err(PrefixError::io("open", file))?;
    let separator = if known.is_empty() || known.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    // One write, so that lines of two processes do not mix.
    list.write_all(format!("{separator}{}\n", prefix.text()).as_bytes())
        .map_err(PrefixError::io("write", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_listed_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".conda/environments.txt");
        let (one, two) = (
            Prefix::open("/envs/one").unwrap(),
            Prefix::open("/envs/two").unwrap(),
        );
        for prefix in [&one, &two, &one] {
            register_environment(prefix, &file).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "/envs/one\n/envs/two\n");
    }
}
