//! Decodes repodata while it arrives, and accepts it only if it parses.

use std::io::Write as _;

use async_trait::async_trait;
use bytes::Bytes;
use taipan_transfer::{Sink, SinkError};
use url::Url;

use crate::index::{IndexError, IndexLimits, RepodataIndex};

/// How a repodata file is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    Json,
    Zst,
}

impl Encoding {
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Json => "repodata.json",
            Self::Zst => "repodata.json.zst",
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the repodata is longer than the limit of {0} bytes")]
struct TooLong(usize);

/// A buffer that does not grow beyond a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                TooLong(self.limit),
            ));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Decoder {
    Json(Bounded),
    Zst(Box<zstd::stream::write::Decoder<'static, Bounded>>),
}

/// Turns the body of a repodata file into an index.
pub(crate) struct RepodataSink {
    encoding: Encoding,
    channel: String,
    subdir_url: Url,
    limit: usize,
    limits: IndexLimits,
    decoder: Option<Decoder>,
    index: Option<RepodataIndex>,
}

impl RepodataSink {
    pub(crate) fn new(
        encoding: Encoding,
        channel: String,
        subdir_url: Url,
        limit: usize,
        limits: IndexLimits,
    ) -> Self {
        let (decoder, index) = (None, None);
        Self {
            encoding,
            channel,
            subdir_url,
            limit,
            limits,
            decoder,
            index,
        }
    }

    /// The index; `None` before the sink has finished.
    pub(crate) fn into_index(self) -> Option<RepodataIndex> {
        self.index
    }

    fn decoder(&mut self) -> Result<&mut Decoder, SinkError> {
        if self.decoder.is_none() {
            let bounded = Bounded {
                bytes: Vec::new(),
                limit: self.limit,
            };
            self.decoder = Some(match self.encoding {
                Encoding::Json => Decoder::Json(bounded),
                Encoding::Zst => {
                    let decoder = zstd::stream::write::Decoder::new(bounded);
                    let mut decoder = decoder.map_err(|e| SinkError::Failed(Box::new(e)))?;
                    // Channels are compressed with long windows: 128 MiB is the window of
                    // `zstd --long`, 2 GiB the limit of the format.
                    decoder
                        .window_log_max(27)
                        .map_err(|e| SinkError::Failed(Box::new(e)))?;
                    Decoder::Zst(Box::new(decoder))
                }
            });
        }
        Ok(self.decoder.as_mut().expect("it was just set"))
    }
}

fn rejected(error: impl std::error::Error + Send + Sync + 'static) -> SinkError {
    SinkError::Rejected(Box::new(error))
}

#[async_trait]
impl Sink for RepodataSink {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError> {
        // A login page, or the error page of a proxy. The decoder would only report a wrong magic
        // number.
        if self.decoder.is_none()
            && let Some(error) = IndexError::if_web_page(&bytes)
        {
            return Err(rejected(error));
        }
        match self.decoder()? {
            Decoder::Json(text) => text.write_all(&bytes).map_err(rejected),
            Decoder::Zst(decoder) => decoder.write_all(&bytes).map_err(rejected),
        }
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.decoder = None;
        self.index = None;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        self.decoder()?;
        let text = match self.decoder.take() {
            Some(Decoder::Zst(mut decoder)) => {
                // A truncated frame shows only as JSON that ends too early.
                decoder.flush().map_err(rejected)?;
                decoder.into_inner().bytes
            }
            Some(Decoder::Json(text)) => text.bytes,
            None => Vec::new(),
        };
        let (channel, url, limits) = (self.channel.clone(), self.subdir_url.clone(), self.limits);
        let walk = move || RepodataIndex::from_json(text, &channel, &url, limits);
        let walked = tokio::task::spawn_blocking(walk).await;
        let walked = walked.map_err(|error| SinkError::Failed(Box::new(error)))?;
        self.index = Some(walked.map_err(rejected)?);
        Ok(())
    }
}
