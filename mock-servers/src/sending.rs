//! Sending the body of a response: pieces, pace, and faults.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame};

use crate::content::Reader;
use crate::log::Entry;
use crate::pace::{self, Pacer};
use crate::request::Cut;
use crate::server::Connection;

/// How a fault ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Close,
    Reset,
    Stall,
}

/// The size of pieces without shaping: large enough for fast clients.
const LARGE_PIECE: usize = 256 * 1024;

/// A rate of this response alone.
#[derive(Debug)]
pub(crate) struct Drip {
    pacer: Pacer,
    /// The remaining bytes before it begins.
    after: u64,
    /// Bytes per second.
    rate: u64,
}

impl Drip {
    pub(crate) fn new(after: u64, rate: u64) -> Self {
        Self {
            pacer: Pacer::default(),
            after,
            rate,
        }
    }

    /// The largest piece that keeps the rate smooth.
    fn piece(&self) -> usize {
        if self.after == 0 {
            pace::piece(self.rate)
        } else {
            usize::try_from(self.after).unwrap_or(usize::MAX)
        }
    }

    async fn pace(&mut self, bytes: usize) {
        if self.after == 0 {
            self.pacer.pace(bytes, self.rate).await;
        } else {
            self.after = self.after.saturating_sub(bytes as u64);
        }
    }
}

/// The state of sending.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) reader: Reader,
    pub(crate) connection: Arc<Connection>,
    pub(crate) entry: Arc<Entry>,
    /// The offset in the file of the byte to be changed.
    pub(crate) corrupt: Option<u64>,
    /// The remaining bytes, then this end.
    pub(crate) cut: Option<(u64, Ending)>,
    /// The rest of the declared `Content-Length`.
    pub(crate) promised: u64,
    pub(crate) drip: Option<Drip>,
}

impl Outbound {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let mut largest = self.connection.piece().min(LARGE_PIECE);
        if let Some(drip) = &self.drip {
            largest = largest.min(drip.piece());
        }
        if let Some((left, ending)) = self.cut {
            if left == 0 {
                return Err(self.connection.end(ending).await);
            }
            largest = largest.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        largest = largest.min(usize::try_from(self.promised).unwrap_or(usize::MAX));
        let at = self.reader.position();
        let piece = match self.reader.next(largest).await {
            Ok(Some(piece)) => piece,
            Ok(None) if self.promised == 0 => return Ok(None),
            // The declared length is too large. hyper would detect it, too, but drop unsent bytes.
            Ok(None) => return Err(self.connection.end(Ending::Close).await),
            // A file that has become unreadable can no longer be reported.
            Err(_) => return Err(Cut),
        };
        let piece = match self.corrupt.and_then(|offset| offset.checked_sub(at)) {
            Some(offset) if offset < piece.len() as u64 => {
                let mut damaged = piece.to_vec();
                damaged[usize::try_from(offset).expect("within the piece")] ^= 1;
                Bytes::from(damaged)
            }
            _ => piece,
        };
        self.connection.pace(piece.len()).await;
        if let Some(drip) = &mut self.drip {
            drip.pace(piece.len()).await;
        }
        let len = piece.len() as u64;
        self.promised -= len;
        if let Some((left, _)) = &mut self.cut {
            *left -= len;
        }
        // hyper does not poll again after the declared length, so the end is recorded here.
        let complete = self.promised == 0;
        self.entry.update(|entry| {
            entry.bytes_sent += len;
            entry.complete |= complete;
        });
        Ok(Some(piece))
    }
}

type Step = BoxFuture<'static, (Outbound, Result<Option<Bytes>, Cut>)>;

/// The body for hyper. It has no size hint, because hyper would then require a correct `Content-Length`.
pub(crate) enum Payload {
    Idle(Option<Box<Outbound>>),
    Busy(Step),
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle(_) => "Payload::Idle",
            Self::Busy(_) => "Payload::Busy",
        })
    }
}

impl Payload {
    pub(crate) fn new(outbound: Outbound) -> Self {
        Self::Idle(Some(Box::new(outbound)))
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Cut;

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Idle(None))
    }

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        loop {
            match &mut *self {
                Self::Idle(outbound) => {
                    let Some(mut outbound) = outbound.take() else {
                        return Poll::Ready(None);
                    };
                    *self = Self::Busy(Box::pin(async move {
                        let result = outbound.next().await;
                        (*outbound, result)
                    }));
                }
                Self::Busy(step) => {
                    let (outbound, result) = std::task::ready!(step.as_mut().poll(cx));
                    return Poll::Ready(match result {
                        Ok(Some(piece)) => {
                            *self = Self::new(outbound);
                            Some(Ok(Frame::data(piece)))
                        }
                        Ok(None) => {
                            *self = Self::Idle(None);
                            None
                        }
                        Err(cut) => {
                            *self = Self::Idle(None);
                            Some(Err(cut))
                        }
                    });
                }
            }
        }
    }
}
