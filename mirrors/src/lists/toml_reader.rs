use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::lists::mirrors_file_error::{
    MirrorsFileError, MirrorsFileProblem as Problem, nearest_key,
};
use crate::safe_url::shorten;

/// A value, and where it stands.
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// The text at hand, for the places of errors.
pub(crate) struct Reader<'a> {
    pub(crate) text: &'a str,
    pub(crate) file: Arc<str>,
    /// The byte at which each line begins.
    line_starts: Vec<usize>,
}

impl<'a> Reader<'a> {
    /// A reader of a text that is not too long.
    pub(crate) fn checked(
        text: &'a str,
        file: &str,
        most: usize,
    ) -> Result<Self, MirrorsFileError> {
        if text.len() > most {
            let (what, got) = ("the length in bytes", text.len());
            let problem = Problem::TooMuch { what, got, most };
            return Err(Self::new("", file).error(&(0..0), "", problem));
        }
        Ok(Self::new(text, file))
    }

    fn new(text: &'a str, file: &str) -> Self {
        let after_breaks = text
            .bytes()
            .enumerate()
            .filter(|&(_, b)| b == b'\n')
            .map(|(i, _)| i + 1);
        Self {
            text,
            file: file.into(),
            line_starts: [0].into_iter().chain(after_breaks).collect(),
        }
    }

    pub(crate) fn error(
        &self,
        span: &Range<usize>,
        key: &str,
        problem: Problem,
    ) -> MirrorsFileError {
        let (line, column) = self.place(span.start);
        MirrorsFileError {
            file: self.file.to_string(),
            line,
            column,
            key: key.to_owned(),
            problem,
        }
    }

    /// Line and column of a byte, counted from 1.
    pub(crate) fn place(&self, byte: usize) -> (u32, u32) {
        let byte = byte.min(self.text.len());
        let line = self.line_starts.partition_point(|&start| start <= byte);
        let before = &self.text.as_bytes()[self.line_starts[line - 1]..byte];
        // A character is counted at its first byte; those that continue it begin with the bits 10.
        let column = before.iter().filter(|&&b| b & 0xC0 != 0x80).count() + 1;
        let counted = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (counted(line), counted(column))
    }

    pub(crate) fn line(&self, value: &Value<'_>) -> u32 {
        self.place(value.span().start).0
    }

    pub(crate) fn known_keys(
        &self,
        table: &DeTable<'_>,
        at: &str,
        known: &'static [&'static str],
    ) -> Result<(), MirrorsFileError> {
        // The table is sorted by name; the first in the text is what a reader looks for.
        let unknown = table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else { return Ok(()) };
        let name = shorten(key.get_ref(), 80);
        let here = if at.is_empty() {
            name
        } else {
            format!("{at}.{name}")
        };
        let nearest = nearest_key(key.get_ref(), known);
        Err(self.error(&key.span(), &here, Problem::UnknownKey { nearest, known }))
    }

    pub(crate) fn required<'t, 'v>(
        &self,
        table: &'t DeTable<'v>,
        entry: &Value<'_>,
        at: &str,
        key: &'static str,
    ) -> Result<&'t Value<'v>, MirrorsFileError> {
        table
            .get(key)
            .ok_or_else(|| self.error(&entry.span(), at, Problem::MissingKey { missing: key }))
    }

    pub(crate) fn string<'v>(
        &self,
        value: &'v Value<'_>,
        at: &str,
    ) -> Result<&'v str, MirrorsFileError> {
        value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong_type(value, at, "a string", value.get_ref()))
    }

    pub(crate) fn boolean(&self, value: &Value<'_>, at: &str) -> Result<bool, MirrorsFileError> {
        value
            .get_ref()
            .as_bool()
            .ok_or_else(|| self.wrong_type(value, at, "true or false", value.get_ref()))
    }

    pub(crate) fn integer(
        &self,
        value: &Value<'_>,
        at: &str,
        range: &'static str,
    ) -> Result<i64, MirrorsFileError> {
        let DeValue::Integer(number) = value.get_ref() else {
            return Err(self.wrong_type(value, at, "a whole number", value.get_ref()));
        };
        i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| self.out_of_range(value, at, range))
    }

    pub(crate) fn number(&self, value: &Value<'_>, at: &str) -> Result<f64, MirrorsFileError> {
        // A number beyond the type's range becomes infinite or NaN, which no range contains.
        match value.get_ref() {
            DeValue::Float(number) => Ok(number.as_str().parse().unwrap_or(f64::NAN)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "what loses precision is out of range"
            )]
            DeValue::Integer(_) => Ok(self.integer(value, at, "between 0.001 and 1000")? as f64),
            other => Err(self.wrong_type(value, at, "a number", other)),
        }
    }

    pub(crate) fn out_of_range(
        &self,
        value: &Value<'_>,
        at: &str,
        range: &'static str,
    ) -> MirrorsFileError {
        let text = shorten(self.text.get(value.span()).unwrap_or_default(), 80);
        self.error(
            &value.span(),
            at,
            Problem::OutOfRange { value: text, range },
        )
    }

    pub(crate) fn wrong_type(
        &self,
        value: &Value<'_>,
        at: &str,
        expected: &'static str,
        found: &DeValue<'_>,
    ) -> MirrorsFileError {
        let found = match found {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.error(&value.span(), at, Problem::WrongType { expected, found })
    }
}
