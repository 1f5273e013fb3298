//! Prefix replacement, for the fuzz targets. Not part of any build without `--cfg fuzzing`.

use super::{prefix_replacement::Replacement, shebang};

/// Replaces in a text.
pub fn replace_in_text(placeholder: &str, prefix: &str, data: &[u8]) -> Vec<u8> {
    Replacement::new(placeholder, prefix)
        .text(data)
        .into_owned()
}

/// Replaces in a text whose first line may name an interpreter.
pub fn replace_in_script(placeholder: &str, prefix: &str, data: &[u8]) -> Vec<u8> {
    shebang::replace_text(data, &Replacement::new(placeholder, prefix)).into_owned()
}

/// Replaces in a binary; `None` when the prefix does not fit.
pub fn replace_in_binary(placeholder: &str, prefix: &str, data: &[u8]) -> Option<Vec<u8>> {
    let mut data = data.to_vec();
    Replacement::new(placeholder, prefix)
        .binary(&mut data)
        .ok()?;
    Some(data)
}
