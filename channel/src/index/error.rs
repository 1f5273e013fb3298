//! The errors of an index and of its records.

/// Why an index cannot be used. Lines and columns count from 1, columns in bytes.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file is a web page: a captive portal, a login form, a server's error page.
    #[error("a web page instead of a repodata.json; it begins with `{beginning}`")]
    WebPage { beginning: String },
    /// The file is not text.
    #[error("the repodata.json is not UTF-8 text at byte {offset}")]
    NotText { offset: usize },
    /// The file ends in the middle.
    #[error("the repodata.json is truncated at line {line}, column {column}")]
    CutShort { line: usize, column: usize },
    /// The file is not JSON.
    #[error("the repodata.json is not JSON at line {line}, column {column}")]
    Syntax {
        line: usize,
        column: usize,
        #[source]
        source: serde_json::Error,
    },
    /// The file is JSON, but not that of a repodata.json.
    #[error("the repodata.json has an unexpected structure at line {line}, column {column}")]
    Shape {
        line: usize,
        column: usize,
        #[source]
        source: serde_json::Error,
    },
    /// More records than allowed.
    #[error("the repodata.json lists more than {limit} records")]
    TooManyRecords { limit: usize },
    /// A record that is longer than allowed.
    #[error("the record of {file_name} has {length} bytes, more than the {limit} allowed")]
    RecordTooLarge {
        file_name: String,
        length: usize,
        limit: usize,
    },
    /// The file is too long for 32-bit offsets.
    #[error("the repodata.json has {length} bytes, more than the 4 GiB that are supported")]
    TooLong { length: usize },
    /// The file's base URL cannot be used (CEP 15).
    #[error("the base_url `{base_url}` of the repodata.json is invalid: {reason}")]
    BaseUrl {
        base_url: String,
        reason: &'static str,
    },
    /// The file has a newer format.
    #[error("unsupported repodata version {version}; versions up to {newest} are supported")]
    Version { version: u64, newest: u64 },
    /// A name has records, and none of them can be read.
    #[error("no record of {name} can be read, e.g. {file_name}")]
    NoUsableRecord {
        name: String,
        file_name: String,
        #[source]
        source: RecordError,
    },
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Its file name is not that of a package.
    #[error("invalid file name: {reason}")]
    FileName { reason: &'static str },
    /// It is a record of another package than its file name says.
    #[error("the record is of {name}, unlike its file name")]
    OtherName { name: String },
    /// Its fields cannot be read: one is missing, of the wrong type, or malformed.
    #[error("invalid record")]
    Fields(#[from] serde_json::Error),
}

impl IndexError {
    /// For bytes that are not UTF-8, such as a compressed body.
    pub(super) fn not_text(text: &[u8], offset: usize) -> Self {
        if is_web_page(text) {
            Self::web_page(text)
        } else {
            Self::NotText { offset }
        }
    }

    /// Classifies an error of the parser.
    pub(super) fn from_json(text: &str, error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        if is_web_page(text.as_bytes()) {
            Self::web_page(text.as_bytes())
        } else if error.is_eof() {
            Self::CutShort { line, column }
        } else if error.is_data() {
            Self::Shape {
                line,
                column,
                source: error,
            }
        } else {
            Self::Syntax {
                line,
                column,
                source: error,
            }
        }
    }

    /// The error for a web page, if the text looks like one.
    pub(crate) fn if_web_page(text: &[u8]) -> Option<Self> {
        is_web_page(text).then(|| Self::web_page(text))
    }

    fn web_page(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&text[..text.len().min(200)]);
        let beginning = text.trim_start_matches(['\u{feff}', ' ', '\n', '\r', '\t']);
        let beginning = beginning
            .chars()
            .take(40)
            .filter(|c| !c.is_control())
            .collect();
        Self::WebPage { beginning }
    }
}

fn is_web_page(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    text.trim_ascii_start().first() == Some(&b'<')
}
