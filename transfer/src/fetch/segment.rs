//! One segment of a file on its way: its request, and its body in batches.

use bytes::Bytes;
use futures_util::FutureExt as _;
use taipan_mirrors::SegmentId;
use tokio::sync::oneshot;

use crate::{BackendError, Validators, exchange::Response};

/// Pieces are collected up to this many bytes before they are written.
const BATCH: usize = 256 << 10;

/// Reads the body of a segment.
pub(crate) struct SegmentReader {
    pub(crate) segment: SegmentId,
    response: Response,
    /// Ends when the segment is dropped.
    dropped: oneshot::Receiver<()>,
}

/// What has happened to a segment.
pub(crate) enum SegmentEvent {
    Opened(SegmentReader),
    Pieces {
        reader: SegmentReader,
        pieces: Vec<Bytes>,
        /// Bytes that arrived and were not wanted.
        skipped: u64,
        end: Option<Result<(), BackendError>>,
    },
    Failed {
        segment: SegmentId,
        error: BackendError,
    },
    Dropped,
}

/// Waits for the header of the response.
pub(crate) async fn open(
    segment: SegmentId,
    request: impl Future<Output = Result<Response, BackendError>>,
    mut dropped: oneshot::Receiver<()>,
) -> SegmentEvent {
    let response = tokio::select! {
        _ = &mut dropped => return SegmentEvent::Dropped,
        response = request => response,
    };
    match response {
        Ok(response) => SegmentEvent::Opened(SegmentReader {
            segment,
            response,
            dropped,
        }),
        Err(error) => SegmentEvent::Failed { segment, error },
    }
}

impl SegmentReader {
    /// The validators of the version that the mirror sends.
    pub(crate) fn version(&self) -> &Validators {
        &self.response.validators
    }

    /// Whether the body has ended where the server said, before the end of the requested range.
    pub(crate) fn is_partial(&self) -> bool {
        self.response.is_partial()
    }

    /// Waits for the next bytes, and takes along what else has arrived.
    pub(crate) async fn read(mut self) -> SegmentEvent {
        let first = tokio::select! {
            _ = &mut self.dropped => return SegmentEvent::Dropped,
            first = self.response.next() => first,
        };
        let mut pieces = Vec::new();
        let mut bytes = 0;
        let mut end = None;
        let mut next = Some(first);
        while let Some(step) = next.take() {
            match step {
                Ok(None) => end = Some(Ok(())),
                Err(error) => end = Some(Err(error)),
                Ok(Some(piece)) => {
                    bytes += piece.len();
                    pieces.push(piece);
                    if bytes < BATCH {
                        // Cancel-safe: a piece that is not ready stays in the body.
                        next = self.response.next().now_or_never();
                    }
                }
            }
        }
        SegmentEvent::Pieces {
            skipped: self.response.take_skipped(),
            reader: self,
            pieces,
            end,
        }
    }
}
