//! The environment variables of taipan's settings.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
    str::FromStr,
};

/// The variables of taipan and conda. An empty variable counts as unset.
#[derive(Debug, Default)]
pub(crate) struct Environment(HashMap<String, OsString>);

/// A variable with an invalid value.
#[derive(Debug, thiserror::Error)]
#[error("invalid value `{value}` of the environment variable {name}")]
pub(crate) struct EnvironmentError {
    name: &'static str,
    value: String,
}

impl Environment {
    /// The variables of this process.
    pub(crate) fn current() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect()
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>, EnvironmentError> {
        self.parsed(name, |text| Some(text.to_owned()))
    }

    pub(crate) fn number<T: FromStr>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, EnvironmentError> {
        self.parsed(name, |text| text.parse().ok())
    }

    /// The value of a variable, parsed by `parse`, which returns `None` for an invalid value.
    pub(crate) fn parsed<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, EnvironmentError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value.to_str().and_then(parse) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(EnvironmentError {
                name,
                value: value.to_string_lossy().into_owned(),
            }),
        }
    }

    fn value(&self, name: &str) -> Option<&OsStr> {
        let value = self.0.get(name)?.as_os_str();
        (!value.is_empty()).then_some(value)
    }
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(n, v)| (n.into(), v.into()));
        Self(
            variables
                .filter(|(name, _): &(String, OsString)| {
                    name.starts_with("TAIPAN_") || name.starts_with("CONDA")
                })
                .collect(),
        )
    }
}
