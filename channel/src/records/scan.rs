//! A pass over the text of a `repodata.json` in a file, in bounded memory. It finds where the records are and hands each to
//! its caller; values that are not records are handed over, too.

use std::io::{self, BufRead};

/// The longest text of one record, in bytes.
const MAX_RECORD: usize = 1 << 20;

/// The longest text of another value, in bytes.
const MAX_OTHER: usize = 256 << 20;

/// The longest key, in bytes.
const MAX_KEY: usize = 4096;

/// How deep values may be nested: less than what parsers of the whole text accept.
const MAX_DEPTH: usize = 100;

/// Why a text is not an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The file cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// The text is not JSON of the right structure.
    #[error("it is not an index: {what} at byte {offset}")]
    Syntax {
        /// What was found or missed.
        what: &'static str,
        /// Where, in bytes from the beginning.
        offset: u64,
    },
    /// A value is not JSON, or not of the right type.
    #[error("the value of `{key}` at byte {offset} cannot be read")]
    Value {
        /// The key.
        key: String,
        /// Where, in bytes from the beginning.
        offset: u64,
        /// The cause.
        source: serde_json::Error,
    },
    /// A value is too large.
    #[error("the value of `{key}` is longer than {limit} bytes")]
    TooLong {
        /// The key.
        key: String,
        /// The limit in bytes.
        limit: usize,
    },
}

/// A value in the text.
#[derive(Debug)]
pub(crate) struct Value<'a> {
    /// The keys of the objects around it, and its own, as they are written, without quotes.
    pub(crate) path: &'a [&'a str],
    /// Where its text begins.
    pub(crate) offset: u64,
    /// Its text.
    pub(crate) text: &'a [u8],
}

/// Which objects hold records: the keys that lead to them.
pub(crate) const RECORD_MAPS: [&[&str]; 5] = [
    &["packages"],
    &["packages.conda"],
    &["v3", "conda"],
    &["v3", "tar.bz2"],
    &["v3", "whl"],
];

/// Whether a key leads to an object that holds other maps of records.
fn is_outer(path: &[String]) -> bool {
    path.len() == 1 && path[0] == "v3"
}

fn is_record_map(path: &[String]) -> bool {
    RECORD_MAPS.iter().any(|map| *map == path)
}

/// Passes over a text. `visit` is called for each record, and for each other value at the top or in `v3`.
pub(crate) fn scan(
    input: &mut impl BufRead,
    visit: &mut dyn FnMut(Value<'_>) -> Result<(), ScanError>,
) -> Result<(), ScanError> {
    let mut scanner = Scanner { input, offset: 0 };
    let mut path = Vec::new();
    scanner.object(&mut path, visit)?;
    scanner.space()?;
    match scanner.peek()? {
        None => Ok(()),
        Some(_) => Err(scanner.error("more than one value")),
    }
}

struct Scanner<'r, R> {
    input: &'r mut R,
    offset: u64,
}

impl<R: BufRead> Scanner<'_, R> {
    fn error(&self, what: &'static str) -> ScanError {
        ScanError::Syntax {
            what,
            offset: self.offset,
        }
    }

    fn peek(&mut self) -> Result<Option<u8>, ScanError> {
        loop {
            match self.input.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ScanError::Read(error)),
            }
        }
    }

    fn take(&mut self) {
        self.input.consume(1);
        self.offset += 1;
    }

    fn space(&mut self) -> Result<(), ScanError> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek()? {
            self.take();
        }
        Ok(())
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), ScanError> {
        self.space()?;
        if self.peek()? != Some(byte) {
            return Err(self.error(what));
        }
        self.take();
        Ok(())
    }

    /// A key, without its quotes, as it is written.
    fn key(&mut self) -> Result<String, ScanError> {
        self.expect(b'"', "no key")?;
        let mut bytes = Vec::new();
        loop {
            match self.peek()? {
                None => return Err(self.error("a key without an end")),
                Some(b'"') => {
                    self.take();
                    break;
                }
                Some(byte) => {
                    self.take();
                    bytes.push(byte);
                    if byte == b'\\' {
                        let next = self.peek()?;
                        let next = next.ok_or_else(|| self.error("a key without an end"))?;
                        bytes.push(next);
                        self.take();
                    }
                }
            }
            if bytes.len() > MAX_KEY {
                return Err(self.error("a key that is too long"));
            }
        }
        let key = String::from_utf8(bytes).map_err(|_| self.error("a key that is not UTF-8"))?;
        let is_odd = |byte: u8| byte == b'\\' || byte < 0x20;
        if key.bytes().any(is_odd) {
            let checked: Result<serde::de::IgnoredAny, _> =
                serde_json::from_str(&format!("\"{key}\""));
            checked.map_err(|_| self.error("a key that is no JSON"))?;
        }
        Ok(key)
    }

    /// The members of an object; those of record maps one by one.
    fn object(
        &mut self,
        path: &mut Vec<String>,
        visit: &mut dyn FnMut(Value<'_>) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        self.expect(b'{', "no object")?;
        self.space()?;
        if self.peek()? == Some(b'}') {
            self.take();
            return Ok(());
        }
        let in_map = is_record_map(path);
        let limit = if in_map { MAX_RECORD } else { MAX_OTHER };
        let mut text = Vec::new();
        loop {
            let key = self.key()?;
            self.expect(b':', "no colon behind a key")?;
            self.space()?;
            path.push(key);
            let opens = self.peek()? == Some(b'{');
            if !in_map && opens && (is_outer(path) || is_record_map(path)) {
                self.object(path, visit)?;
            } else {
                let offset = self.offset;
                text.clear();
                self.value(&mut text, limit).map_err(|error| match error {
                    Some(error) => error,
                    None => ScanError::TooLong {
                        key: path.last().cloned().unwrap_or_default(),
                        limit,
                    },
                })?;
                let keys: Vec<&str> = path.iter().map(String::as_str).collect();
                visit(Value {
                    path: &keys,
                    offset,
                    text: &text,
                })?;
            }
            path.pop();
            self.space()?;
            match self.peek()? {
                Some(b',') => self.take(),
                Some(b'}') => {
                    self.take();
                    return Ok(());
                }
                _ => return Err(self.error("neither a comma nor the end of an object")),
            }
        }
    }

    /// The text of a value. `None` as error if it is too long. Its brackets match; the rest is checked by its reader.
    fn value(&mut self, text: &mut Vec<u8>, limit: usize) -> Result<(), Option<ScanError>> {
        let mut open: Vec<u8> = Vec::new();
        let mut in_string = false;
        let mut is_escaped = false;
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Some(ScanError::Read(error))),
            };
            if buffer.is_empty() {
                return Err(Some(self.error("a value without an end")));
            }
            let mut used = 0;
            let mut is_complete = false;
            let mut wrong = None;
            for &byte in buffer {
                if in_string {
                    used += 1;
                    if is_escaped {
                        is_escaped = false;
                    } else if byte == b'\\' {
                        is_escaped = true;
                    } else if byte == b'"' {
                        in_string = false;
                        is_complete = open.is_empty();
                    }
                } else {
                    match byte {
                        b'"' => in_string = true,
                        b'{' | b'[' => {
                            if open.len() >= MAX_DEPTH {
                                wrong = Some("values that are nested too deeply");
                                break;
                            }
                            open.push(byte);
                        }
                        b'}' | b']' if open.is_empty() => {
                            // The end of the object around a number or word.
                            is_complete = true;
                            break;
                        }
                        b'}' | b']' => {
                            let opening = if byte == b'}' { b'{' } else { b'[' };
                            if open.pop() != Some(opening) {
                                wrong = Some("brackets that do not match");
                                break;
                            }
                            is_complete = open.is_empty();
                        }
                        b',' | b' ' | b'\t' | b'\r' | b'\n' if open.is_empty() => {
                            is_complete = true;
                            break;
                        }
                        _ => {}
                    }
                    used += 1;
                }
                if is_complete {
                    break;
                }
            }
            if text.len() + used > limit {
                return Err(None);
            }
            text.extend_from_slice(&buffer[..used]);
            self.input.consume(used);
            self.offset += used as u64;
            if let Some(what) = wrong {
                return Err(Some(self.error(what)));
            }
            if is_complete {
                if text.is_empty() {
                    return Err(Some(self.error("no value")));
                }
                return Ok(());
            }
        }
    }
}
