//! The body of a request that sends a file.

use std::{
    io::{self, Seek as _},
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    fs::File,
    io::{AsyncRead as _, ReadBuf},
    time::Sleep,
};

use crate::{
    BackendError,
    destination::{
        content::{Content, PIECE, slice},
        sending::Sending,
    },
};

/// How many bytes in memory are handed over at a time, so that a rate limit and the detection of stalls apply.
const MEMORY_PIECE: usize = 64 << 10;

/// Some bytes of a content, measured and limited as they are sent.
pub(crate) struct SendBody {
    source: Source,
    left: u64,
    sending: Arc<Sending>,
    /// Until then the rate limit lets no more bytes pass.
    pause: Option<Pin<Box<Sleep>>>,
}

enum Source {
    Memory(Bytes),
    File { file: File, buffer: BytesMut },
}

impl SendBody {
    /// A body with these bytes of the content.
    pub(crate) fn open(
        content: &Content,
        range: Range<u64>,
        sending: &Arc<Sending>,
    ) -> Result<Self, BackendError> {
        let left = range.end.saturating_sub(range.start);
        let source = match content {
            Content::Bytes(bytes) => Source::Memory(slice(bytes, range)),
            Content::File { path, .. } => {
                let failed = |source| BackendError::Read {
                    path: path.clone(),
                    source,
                };
                let mut file = std::fs::File::open(path).map_err(failed)?;
                let start = io::SeekFrom::Start(range.start);
                file.seek(start).map_err(failed)?;
                let mut file = File::from_std(file);
                file.set_max_buf_size(PIECE);
                Source::File {
                    file,
                    buffer: BytesMut::new(),
                }
            }
        };
        Ok(Self {
            source,
            left,
            sending: Arc::clone(sending),
            pause: None,
        })
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        // A client that asks for more bytes has sent the earlier ones.
        this.sending.touch();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(context));
            this.pause = None;
            this.sending.touch();
        }
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let piece = match &mut this.source {
            Source::Memory(bytes) => bytes.split_to(bytes.len().min(MEMORY_PIECE)),
            Source::File { file, buffer } => {
                let room = usize::try_from(this.left).unwrap_or(PIECE).min(PIECE);
                buffer.resize(room, 0);
                let mut read = ReadBuf::new(&mut buffer[..]);
                ready!(Pin::new(file).poll_read(context, &mut read))?;
                let filled = read.filled().len();
                buffer.split_to(filled).freeze()
            }
        };
        if piece.is_empty() {
            let error = "it became shorter while it was sent";
            return Poll::Ready(Some(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                error,
            ))));
        }
        this.left = this.left.saturating_sub(piece.len() as u64);
        this.pause = (this.sending.count(piece.len() as u64))
            .map(|until| Box::pin(tokio::time::sleep_until(until)));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
