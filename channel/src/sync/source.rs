//! An index that is fetched into a file: that of the source, or the one that a mirror has published.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256 as Hasher};
use taipan_transfer::{Engine, FetchError, Job, MirrorSet, Sha256, Sink, SinkError, Validators};

use crate::{
    index::IndexError,
    layout::index_file,
    records::{RecordTable, ScanError},
};

/// The largest text of an index, in bytes.
const MAX_TEXT: u64 = 4 << 30;

/// The forms in which an index is fetched, the best first.
const FORMS: [&str; 2] = ["repodata.json.zst", "repodata.json"];

/// An index in a local file.
#[derive(Debug)]
pub(crate) struct LocalIndex {
    /// The file with its text.
    pub(crate) path: PathBuf,
    /// The digest of the text.
    pub(crate) sha256: Sha256,
    /// What it lists.
    pub(crate) table: RecordTable,
    /// The printable URL that sent it.
    pub(crate) url: String,
    /// The validators of that URL.
    pub(crate) validators: Validators,
}

/// The response to a request for an index.
#[derive(Debug)]
pub(crate) enum IndexResponse {
    /// It is still the one with these validators.
    NotModified,
    /// The index.
    Index(Box<LocalIndex>),
    /// There is none.
    Absent,
}

/// Fetches an index into a file of this name in `work`.
pub(crate) async fn fetch_index_file(
    engine: &Engine,
    mirrors: &MirrorSet,
    subdir: &str,
    validators: &BTreeMap<String, Validators>,
    work: &Path,
    name: &str,
) -> Result<IndexResponse, FetchError> {
    let mut failure: Option<FetchError> = None;
    for form in FORMS {
        match fetch_form(engine, mirrors, subdir, form, validators, work.join(name)).await {
            Ok(IndexResponse::Absent) => {}
            Ok(response) => return Ok(response),
            Err(error) => {
                let has_response = error.has_response();
                failure = Some(error);
                // Servers that do not answer for one file do not answer for the other.
                if !has_response {
                    break;
                }
            }
        }
    }
    failure.map_or(Ok(IndexResponse::Absent), Err)
}

/// Fetches one form of an index, `repodata.json` or `repodata.json.zst`, into a file.
pub(crate) async fn fetch_form(
    engine: &Engine,
    mirrors: &MirrorSet,
    subdir: &str,
    form: &str,
    validators: &BTreeMap<String, Validators>,
    path: PathBuf,
) -> Result<IndexResponse, FetchError> {
    let mut job = Job::metadata(format!("{subdir}/{form}"), index_file(subdir, form));
    let of_form = (validators.iter())
        .filter(|(url, _)| url.ends_with(&format!("/{form}")) || url.starts_with("oci://"));
    job.validators = of_form.map(|(url, it)| (url.clone(), it.clone())).collect();
    let mut sink = IndexSink::new(path, form.ends_with(".zst"));
    let fetched = match engine.fetch(mirrors, &job, &mut sink).await {
        Ok(fetched) => fetched,
        Err(error) if error.is_absent() => return Ok(IndexResponse::Absent),
        Err(error) => return Err(error),
    };
    let Some((sha256, table)) = sink.found.take() else {
        return Ok(IndexResponse::NotModified);
    };
    Ok(IndexResponse::Index(Box::new(LocalIndex {
        path: sink.path,
        sha256,
        table,
        url: fetched.url,
        validators: fetched.validators,
    })))
}

/// Writes the text of an index to a file while it arrives, and accepts it only if it can be used.
struct IndexSink {
    path: PathBuf,
    is_compressed: bool,
    writer: Option<Writer>,
    found: Option<(Sha256, RecordTable)>,
}

enum Writer {
    Plain(Text),
    Zstd(Box<zstd::stream::write::Decoder<'static, Text>>),
}

/// A text on its way to a file.
struct Text {
    file: BufWriter<File>,
    hasher: Hasher,
    length: u64,
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.length > MAX_TEXT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl IndexSink {
    fn new(path: PathBuf, is_compressed: bool) -> Self {
        Self {
            path,
            is_compressed,
            writer: None,
            found: None,
        }
    }

    fn failed(&self, source: io::Error) -> SinkError {
        let path = self.path.clone();
        SinkError::Write { path, source }
    }

    fn writer(&mut self) -> Result<&mut Writer, SinkError> {
        if self.writer.is_none() {
            let file = File::create(&self.path).map_err(|error| self.failed(error))?;
            let text = Text {
                file: BufWriter::with_capacity(256 << 10, file),
                hasher: Hasher::new(),
                length: 0,
            };
            self.writer = Some(if self.is_compressed {
                let decoder = zstd::stream::write::Decoder::new(text);
                let mut decoder = decoder.map_err(|error| self.failed(error))?;
                let window = decoder.window_log_max(27);
                window.map_err(|error| self.failed(error))?;
                Writer::Zstd(Box::new(decoder))
            } else {
                Writer::Plain(text)
            });
        }
        Ok(self.writer.as_mut().expect("it was just set"))
    }
}

fn rejected(error: impl std::error::Error + Send + Sync + 'static) -> SinkError {
    SinkError::Rejected(Box::new(error))
}

#[async_trait]
impl Sink for IndexSink {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError> {
        // A login page, or the error page of a proxy.
        if self.writer.is_none()
            && let Some(error) = IndexError::if_web_page(&bytes)
        {
            return Err(rejected(error));
        }
        let path = self.path.clone();
        let written = match self.writer()? {
            Writer::Plain(text) => text.write_all(&bytes),
            Writer::Zstd(decoder) => decoder.write_all(&bytes),
        };
        written.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::PermissionDenied => SinkError::Write {
                path,
                source: error,
            },
            _ => rejected(error),
        })
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.writer = None;
        self.found = None;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        self.writer()?;
        let text = match self.writer.take() {
            Some(Writer::Zstd(mut decoder)) => {
                decoder.flush().map_err(rejected)?;
                decoder.into_inner()
            }
            Some(Writer::Plain(text)) => text,
            None => return Ok(()),
        };
        let path = self.path.clone();
        let read = move || -> Result<(Sha256, RecordTable), SinkError> {
            let mut text = text;
            text.flush().map_err(|source| SinkError::Write {
                path: path.clone(),
                source,
            })?;
            let sha256 = Sha256::from_bytes(text.hasher.finalize().into());
            match RecordTable::read(&path) {
                Ok(table) => Ok((sha256, table)),
                Err(ScanError::Read(source)) => Err(SinkError::Write { path, source }),
                Err(error) => Err(rejected(error)),
            }
        };
        let read = tokio::task::spawn_blocking(read).await;
        self.found = Some(read.map_err(|error| SinkError::Failed(Box::new(error)))??);
        Ok(())
    }
}
