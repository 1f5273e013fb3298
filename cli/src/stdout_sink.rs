//! Writes a file to stdout.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use taipan_transfer::{Expected, Sha256, Sink, SinkError, Verifier};

use crate::printer::Printer;

/// Writes a file to stdout while it arrives. Written bytes cannot be taken back: after a restart of
/// the file, the bytes up to the written length must be the same, and only the rest is written.
pub(crate) struct StdoutSink {
    printer: Arc<Printer>,
    /// Over the written bytes.
    written: Verifier,
    /// Over the bytes since the restart; `None` once they are as many as the written ones.
    since_restart: Option<Verifier>,
    is_broken: bool,
}

impl StdoutSink {
    pub(crate) fn new(printer: &Arc<Printer>) -> Self {
        Self {
            printer: Arc::clone(printer),
            written: Verifier::new(Expected::default()),
            since_restart: None,
            is_broken: false,
        }
    }

    /// Whether the file has other bytes after a restart than those that were written.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn broken(&mut self) -> SinkError {
        self.is_broken = true;
        let text = "the content differs from the part that was already written to stdout";
        SinkError::Failed(text.into())
    }

    /// Drops the bytes that are already written, and returns the rest.
    fn skip(&mut self, mut bytes: Bytes) -> Result<Bytes, SinkError> {
        let Some(since_restart) = &mut self.since_restart else {
            return Ok(bytes);
        };
        let left = self.written.length() - since_restart.length();
        let written = bytes.split_to(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
        since_restart.update(&written);
        if since_restart.length() < self.written.length() {
            return Ok(bytes);
        }
        let since_restart = self.since_restart.take();
        if since_restart.map(digest) == Some(digest(self.written.clone())) {
            Ok(bytes)
        } else {
            Err(self.broken())
        }
    }
}

/// The digest of all bytes of a verifier without expectations.
fn digest(verifier: Verifier) -> Option<Sha256> {
    verifier.finish().ok()
}

#[async_trait]
impl Sink for StdoutSink {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SinkError> {
        let bytes = self.skip(bytes)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.written.update(&bytes);
        let printer = Arc::clone(&self.printer);
        // Writing to stdout blocks when the reader is slow.
        let written = tokio::task::spawn_blocking(move || printer.raw(&bytes)).await;
        let result = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        result.map_err(|source| SinkError::Write {
            path: PathBuf::from("stdout"),
            source,
        })
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.since_restart =
            (self.written.length() > 0).then(|| Verifier::new(Expected::default()));
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        if self.since_restart.is_some() {
            // The file is shorter than the written part.
            return Err(self.broken());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printer::Mode;

    /// A sink that has written these bytes before a restart.
    fn restarted(written: &'static [u8]) -> StdoutSink {
        let mut sink = StdoutSink::new(&Arc::new(Printer::new(Mode::Quiet, false)));
        sink.written.update(written);
        sink.since_restart = Some(Verifier::new(Expected::default()));
        sink
    }

    #[test]
    fn written_bytes_are_skipped_after_a_restart() {
        let mut sink = restarted(b"12345");
        assert_eq!(sink.skip(Bytes::from_static(b"123")).unwrap(), "");
        assert_eq!(sink.skip(Bytes::from_static(b"4567")).unwrap(), "67");
        assert_eq!(sink.skip(Bytes::from_static(b"8")).unwrap(), "8");
        assert!(!sink.is_broken());
    }

    #[tokio::test]
    async fn other_bytes_after_a_restart_break_the_sink() {
        let mut sink = restarted(b"12345");
        sink.skip(Bytes::from_static(b"12x456")).unwrap_err();
        assert!(sink.is_broken());
        let mut sink = restarted(b"12345");
        sink.write(Bytes::from_static(b"123")).await.unwrap();
        sink.finish().await.unwrap_err();
        assert!(sink.is_broken());
    }

    #[tokio::test]
    async fn a_file_may_restart_more_than_once() {
        let mut sink = restarted(b"12345");
        assert_eq!(sink.skip(Bytes::from_static(b"12")).unwrap(), "");
        sink.restart().await.unwrap();
        assert_eq!(sink.skip(Bytes::from_static(b"123456")).unwrap(), "6");
        sink.finish().await.unwrap();
    }
}
