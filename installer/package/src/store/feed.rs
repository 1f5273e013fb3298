use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The asynchronous end of a byte queue with a blocking reader at the other end.
///
/// Dropping it unfinished makes the reader fail, so that a truncated body is never complete.
pub(super) struct ByteFeed {
    messages: UnboundedSender<Message>,
    /// One permit per byte of capacity; a piece holds its permits until it is read. The channel
    /// itself is unbounded, because it cannot count bytes.
    room: Arc<Semaphore>,
    capacity: u32,
}

/// The blocking end; an [`io::Read`]. Must not be read on an asynchronous worker thread.
pub(super) struct FeedReader {
    messages: UnboundedReceiver<Message>,
    room: Arc<Semaphore>,
    piece: Bytes,
    permit: Option<OwnedSemaphorePermit>,
    end: Option<End>,
}

/// The reader is gone: it was dropped, or its thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the feed is gone")]
pub(super) struct FeedClosed;

enum Message {
    Piece(Bytes, OwnedSemaphorePermit),
    Finish,
}

#[derive(Clone, Copy)]
enum End {
    Finished,
    Failed(io::ErrorKind),
}

/// A queue for `capacity` bytes, at least one. A larger piece is accepted when the queue is empty,
/// so the queue holds at most `capacity` bytes or one piece.
pub(super) fn byte_feed(capacity: usize) -> (ByteFeed, FeedReader) {
    let capacity =
        u32::try_from(capacity.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX >> 3);
    let room = Arc::new(Semaphore::new(capacity as usize));
    let (sender, receiver) = unbounded_channel();
    let feed = ByteFeed {
        messages: sender,
        room: Arc::clone(&room),
        capacity,
    };
    let reader = FeedReader {
        messages: receiver,
        room,
        piece: Bytes::new(),
        permit: None,
        end: None,
    };
    (feed, reader)
}

impl ByteFeed {
    /// Waits for room, then queues the bytes. Cancel-safe: a dropped call has queued nothing.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), FeedClosed> {
        if bytes.is_empty() {
            return Ok(());
        }
        let wanted = u32::try_from(bytes.len()).map_or(self.capacity, |n| n.min(self.capacity));
        let permit = Arc::clone(&self.room)
            .acquire_many_owned(wanted)
            .await
            .map_err(|_| FeedClosed)?;
        self.messages
            .send(Message::Piece(bytes, permit))
            .map_err(|_| FeedClosed)
    }

    /// The bytes are complete.
    pub(super) fn finish(self) {
        // An error means that the reader is gone, which is no concern here.
        let _ = self.messages.send(Message::Finish);
    }
}

impl Read for FeedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        while self.piece.is_empty() {
            self.permit = None;
            match self.end {
                Some(End::Finished) => return Ok(0),
                Some(End::Failed(kind)) => return Err(kind.into()),
                None => {}
            }
            match self.messages.blocking_recv() {
                Some(Message::Piece(piece, permit)) => {
                    self.piece = piece;
                    self.permit = Some(permit);
                }
                Some(Message::Finish) => self.end = Some(End::Finished),
                None => {
                    let kind = io::ErrorKind::ConnectionAborted;
                    self.end = Some(End::Failed(kind));
                    return Err(io::Error::new(kind, "the feed was dropped before its end"));
                }
            }
        }
        let n = self.piece.len().min(into.len());
        self.piece.copy_to_slice(&mut into[..n]);
        if self.piece.is_empty() {
            self.permit = None;
        }
        Ok(n)
    }
}

impl Drop for FeedReader {
    fn drop(&mut self) {
        // Wakes a sender that waits for room.
        self.room.close();
    }
}

impl fmt::Debug for ByteFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteFeed")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FeedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedReader").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_and_then_the_end() {
        let (feed, mut reader) = byte_feed(8);
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let expected: Vec<u8> = (0..200).collect();
        for piece in expected.chunks(7) {
            feed.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        feed.send(Bytes::from(vec![9; 100])).await.unwrap();
        feed.finish();
        let all = reading.await.unwrap().unwrap();
        assert_eq!(all[..200], expected);
        assert_eq!(all[200..], [9; 100]);
    }

    #[tokio::test]
    async fn a_full_queue_makes_the_sender_wait_and_a_cancelled_send_sends_nothing() {
        let (feed, mut reader) = byte_feed(4);
        feed.send(Bytes::from_static(b"abcd")).await.unwrap();
        {
            let mut waiting = std::pin::pin!(feed.send(Bytes::from_static(b"never")));
            assert!(poll_once(waiting.as_mut()).is_pending());
        }
        let mut waiting = Box::pin(feed.send(Bytes::from_static(b"ef")));
        assert!(poll_once(waiting.as_mut()).is_pending());
        let mut reader = tokio::task::spawn_blocking(move || {
            let mut four = [0; 4];
            reader.read_exact(&mut four).unwrap();
            assert_eq!(&four, b"abcd");
            reader
        })
        .await
        .unwrap();
        waiting.await.unwrap();
        feed.finish();
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            rest
        });
        assert_eq!(rest.await.unwrap(), b"ef");
    }

    #[tokio::test]
    async fn a_dropped_reader_wakes_the_sender() {
        let (feed, reader) = byte_feed(2);
        feed.send(Bytes::from_static(b"ab")).await.unwrap();
        let mut waiting = Box::pin(feed.send(Bytes::from_static(b"c")));
        assert!(poll_once(waiting.as_mut()).is_pending());
        drop(reader);
        assert_eq!(waiting.await, Err(FeedClosed));
    }

    #[tokio::test]
    async fn an_unfinished_feed_is_an_error_for_the_reader() {
        let read_all = |mut reader: FeedReader| {
            tokio::task::spawn_blocking(move || {
                let mut seen = Vec::new();
                let error = reader.read_to_end(&mut seen).unwrap_err();
                // And it stays one.
                assert!(reader.read(&mut [0]).is_err());
                (seen, error.kind())
            })
        };
        let (feed, reader) = byte_feed(8);
        feed.send(Bytes::from_static(b"abc")).await.unwrap();
        drop(feed);
        let (seen, kind) = read_all(reader).await.unwrap();
        assert_eq!(
            (&seen[..], kind),
            (&b"abc"[..], io::ErrorKind::ConnectionAborted)
        );
    }
}
