//! One segment of a file on its way: its request, and its body.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use taipan_mirrors::{MirrorId, Pick, SegmentId};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    BackendError, Body, ByteRange, Expected, GetRequest, GetResponse, MirrorSet, Target,
    VerifyError, limits::Limits, run::LAST_WORD,
};

/// Pieces are put together up to this many bytes before they are written.
const BATCH: usize = 256 << 10;

/// What reads the body of a segment.
pub(crate) struct Reader {
    pub(crate) segment: SegmentId,
    body: Body,
    url: String,
    /// Bytes that are still to come, as long as the segment is not shortened.
    left: u64,
    stall: Duration,
    limits: Arc<Limits>,
    mirror: (u64, MirrorId),
    dropped: oneshot::Receiver<()>,
}

/// What has happened on a line.
pub(crate) enum Landed {
    Opened(Reader),
    Pieces {
        reader: Reader,
        pieces: Vec<Bytes>,
        end: Option<Result<(), BackendError>>,
    },
    Failed {
        segment: SegmentId,
        error: BackendError,
    },
    Dropped,
}

/// A request on its way.
pub(crate) struct Asking {
    pub(crate) segment: SegmentId,
    pub(crate) mirrors: MirrorSet,
    pub(crate) target: Target,
    pub(crate) expected: Expected,
    pub(crate) size: u64,
    pub(crate) range: Range<u64>,
    pub(crate) pick: Pick,
    pub(crate) limits: Arc<Limits>,
    pub(crate) dropped: oneshot::Receiver<()>,
}

impl Asking {
    pub(crate) async fn ask(mut self) -> Landed {
        let segment = self.segment;
        let url = self.mirrors.describe(self.pick.mirror, &self.target);
        let patience = self.pick.first_byte_timeout;
        let backend = self.mirrors.backend(self.pick.mirror);
        let request = GetRequest {
            target: &self.target,
            expected: self.expected,
            range: ByteRange::new(self.range.start, self.range.end),
            validators: None,
        };
        let answer = tokio::select! {
            _ = &mut self.dropped => return Landed::Dropped,
            answer = timeout(patience, backend.get(request)) => answer,
        };
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Landed::Failed { segment, error },
            Err(_) => {
                let (what, after) = ("no answer", patience);
                let error = BackendError::Timeout { url, what, after };
                return Landed::Failed { segment, error };
            }
        };
        let GetResponse::Body {
            start, total, body, ..
        } = answer
        else {
            let error = BackendError::Unasked { url };
            return Landed::Failed { segment, error };
        };
        if let Some(got) = total
            && got != self.size
        {
            let source = VerifyError::Size {
                expected: self.size,
                got,
            };
            let error = BackendError::Corrupt { url, source };
            return Landed::Failed { segment, error };
        }
        if start != self.range.start {
            let wanted = ByteRange::new(self.range.start, self.range.end);
            let error = BackendError::WrongRange {
                url,
                wanted: wanted.unwrap_or(ByteRange::from(self.range.start)),
                got: "the whole file".to_owned(),
            };
            return Landed::Failed { segment, error };
        }
        Landed::Opened(Reader {
            segment,
            body,
            url,
            left: self.range.end - self.range.start,
            stall: self.pick.stall_timeout,
            limits: self.limits,
            mirror: (self.mirrors.number(), self.pick.mirror),
            dropped: self.dropped,
        })
    }
}

impl Reader {
    /// Waits for the next bytes, and takes along what else is here already.
    pub(crate) async fn read(mut self) -> Landed {
        let patience = if self.left == 0 {
            self.stall.min(LAST_WORD)
        } else {
            self.stall
        };
        let first = tokio::select! {
            _ = &mut self.dropped => return Landed::Dropped,
            first = timeout(patience, self.body.next()) => first,
        };
        let mut pieces = Vec::new();
        let mut bytes = 0;
        let mut end = None;
        let mut next = first.ok();
        if next.is_none() {
            let (url, what, after) = (self.url.clone(), "the body stalled", patience);
            end = Some(Err(BackendError::Timeout { url, what, after }));
        }
        while let Some(step) = next.take() {
            match step {
                None => end = Some(Ok(())),
                Some(Err(error)) => end = Some(Err(error)),
                Some(Ok(piece)) => {
                    bytes += piece.len();
                    pieces.push(piece);
                    if bytes < BATCH {
                        next = self.body.next().now_or_never();
                    }
                }
            }
        }
        self.left = self.left.saturating_sub(bytes as u64);
        self.limits.take(self.mirror, bytes as u64).await;
        Landed::Pieces {
            reader: self,
            pieces,
            end,
        }
    }
}
