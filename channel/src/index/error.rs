//! What is wrong with an index or with one of its records.

/// What is wrong with an index. Lines and columns count from 1, columns in bytes.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file is a web page: a captive portal, a login form, a server's error page.
    #[error("this is a web page, not a repodata.json; it begins with `{beginning}`")]
    WebPage {
        /// The first characters.
        beginning: String,
    },
    /// The file has bytes that are no text.
    #[error("a repodata.json is UTF-8 text, and the byte at offset {offset} is not")]
    NotText {
        /// Where, in bytes from the beginning.
        offset: usize,
    },
    /// The file ends in the middle.
    #[error("the repodata.json is cut short: it ends at line {line}, column {column}")]
    CutShort {
        /// The last line.
        line: usize,
        /// The column in it.
        column: usize,
    },
    /// The file is not JSON.
    #[error("the repodata.json is not JSON at line {line}, column {column}")]
    Syntax {
        /// Line of the fault.
        line: usize,
        /// Column of the fault.
        column: usize,
        /// What was expected there.
        #[source]
        source: serde_json::Error,
    },
    /// The file is JSON, of another shape than that of a repodata.json.
    #[error("the repodata.json has another shape than expected at line {line}, column {column}")]
    Shape {
        /// Line of the fault.
        line: usize,
        /// Column of the fault.
        column: usize,
        /// What was expected there.
        #[source]
        source: serde_json::Error,
    },
    /// More records than allowed.
    #[error("the repodata.json lists more than {limit} records")]
    TooManyRecords {
        /// The limit.
        limit: usize,
    },
    /// A record that is longer than allowed.
    #[error("the record of {file_name} has {length} bytes, more than the {limit} allowed")]
    RecordTooLarge {
        /// Its file name.
        file_name: String,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The file is longer than its records could be addressed in.
    #[error("the repodata.json has {length} bytes, more than can be addressed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The file's base URL cannot be used (CEP 15).
    #[error("the repodata.json gives `{base_url}` as its base_url: {reason}")]
    BaseUrl {
        /// What the file says.
        base_url: String,
        /// Why not.
        reason: &'static str,
    },
    /// The file is of a version that came later than this program.
    #[error("the repodata.json is of version {version}; this program reads up to {newest}")]
    Version {
        /// What the file says.
        version: u64,
        /// The newest that is understood.
        newest: u64,
    },
    /// A name has records, and none of them can be read.
    #[error("no record of {name} can be read, for instance {file_name}")]
    NoUsableRecord {
        /// The name asked for.
        name: String,
        /// The first of its records.
        file_name: String,
        /// What is wrong with that one.
        #[source]
        source: RecordError,
    },
}

/// What is wrong with one record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Its file name is not that of a package.
    #[error("the file name cannot be used: {reason}")]
    FileName {
        /// Why not.
        reason: &'static str,
    },
    /// It is a record of another package than its file name says.
    #[error("the record says that it is of {name}, its file name says otherwise")]
    OtherName {
        /// The name in the record.
        name: String,
    },
    /// Its fields cannot be read: one is missing, of the wrong type, or malformed.
    #[error("the record cannot be read")]
    Fields(#[from] serde_json::Error),
}

impl IndexError {
    /// Bytes that are no UTF-8. A compressed body that nobody unpacked looks like this, too.
    pub(super) fn not_text(text: &[u8], offset: usize) -> Self {
        if is_web_page(text) {
            Self::web_page(text)
        } else {
            Self::NotText { offset }
        }
    }

    /// Sorts the parser's complaint by what the reader of it can do.
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

    /// This error, when the text looks like a web page.
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
