//! A file on its way to stdout.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use taipan_transfer::{Expected, Sha256, Sink, SinkError, Verifier};

use crate::printer::Printer;

/// Writes a file to stdout while it arrives. What is written cannot be taken back: when the body has to
/// start again, what comes must be the same as far as it was written, and the rest follows.
pub(crate) struct StdoutSink {
    printer: Arc<Printer>,
    /// What is out.
    written: Verifier,
    /// What has come since the start, as long as it is no more than what is out.
    again: Option<Verifier>,
    is_broken: bool,
}

impl StdoutSink {
    pub(crate) fn new(printer: &Arc<Printer>) -> Self {
        Self {
            printer: Arc::clone(printer),
            written: Verifier::new(Expected::default()),
            again: None,
            is_broken: false,
        }
    }

    /// Whether what is out is not the beginning of what came later.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn broken(&mut self) -> SinkError {
        self.is_broken = true;
        let text = "what was already written to stdout was not this file, and cannot be taken back";
        SinkError::Failed(text.into())
    }

    /// Passes over what is out already; gives what is not.
    fn skip(&mut self, mut bytes: Bytes) -> Result<Bytes, SinkError> {
        let Some(again) = &mut self.again else {
            return Ok(bytes);
        };
        let left = self.written.length() - again.length();
        let passed = bytes.split_to(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
        again.update(&passed);
        if again.length() < self.written.length() {
            return Ok(bytes);
        }
        let again = self.again.take();
        if again.map(digest) == Some(digest(self.written.clone())) {
            Ok(bytes)
        } else {
            Err(self.broken())
        }
    }
}

/// The digest of what a verifier has seen, of which nothing is expected.
fn digest(seen: Verifier) -> Option<Sha256> {
    seen.finish().ok()
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
        // Who reads may be slow, and stdout knows no other way than to wait.
        let written = tokio::task::spawn_blocking(move || printer.raw(&bytes)).await;
        let result = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        result.map_err(|source| SinkError::Write {
            path: PathBuf::from("stdout"),
            source,
        })
    }

    async fn restart(&mut self) -> Result<(), SinkError> {
        self.again = (self.written.length() > 0).then(|| Verifier::new(Expected::default()));
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SinkError> {
        if self.again.is_some() {
            // It is shorter than what is out.
            return Err(self.broken());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printer::Mode;

    /// A sink that has written this before the body had to start again.
    fn restarted(written: &'static [u8]) -> StdoutSink {
        let mut sink = StdoutSink::new(&Arc::new(Printer::new(Mode::Quiet, false)));
        sink.written.update(written);
        sink.again = Some(Verifier::new(Expected::default()));
        sink
    }

    #[test]
    fn what_is_out_is_passed_over_when_it_comes_again() {
        let mut sink = restarted(b"12345");
        assert_eq!(sink.skip(Bytes::from_static(b"123")).unwrap(), "");
        assert_eq!(sink.skip(Bytes::from_static(b"4567")).unwrap(), "67");
        assert_eq!(sink.skip(Bytes::from_static(b"8")).unwrap(), "8");
        assert!(!sink.is_broken());
    }

    #[tokio::test]
    async fn what_differs_from_what_is_out_cannot_follow_it() {
        let mut sink = restarted(b"12345");
        sink.skip(Bytes::from_static(b"12x456")).unwrap_err();
        assert!(sink.is_broken());
        let mut sink = restarted(b"12345");
        sink.write(Bytes::from_static(b"123")).await.unwrap();
        sink.finish().await.unwrap_err();
        assert!(sink.is_broken());
    }

    #[tokio::test]
    async fn a_body_may_start_again_more_than_once() {
        let mut sink = restarted(b"12345");
        assert_eq!(sink.skip(Bytes::from_static(b"12")).unwrap(), "");
        sink.restart().await.unwrap();
        assert_eq!(sink.skip(Bytes::from_static(b"123456")).unwrap(), "6");
        sink.finish().await.unwrap();
    }
}
