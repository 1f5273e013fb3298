//! The socket below hyper. Unlike hyper, it can wait until all bytes have left, and close with a reset.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// The handle of a wire for the body of the response.
#[derive(Debug, Default)]
pub(crate) struct Control {
    reset: AtomicBool,
    flush_wanted: AtomicBool,
    flushed: Notify,
    abort: Notify,
    written: AtomicU64,
}

impl Control {
    /// Makes the close of the connection a reset.
    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::SeqCst);
    }

    /// The number of bytes that the socket has accepted.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    fn count(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = result {
            self.written.fetch_add(length as u64, Ordering::SeqCst);
        }
        result
    }

    /// Requests the end of the connection.
    pub(crate) fn abort(&self) {
        self.abort.notify_one();
    }

    /// Waits for a request to end the connection.
    pub(crate) async fn aborted(&self) {
        self.abort.notified().await;
    }

    /// Waits until hyper has passed all its bytes to the socket. hyper flushes when the body is not ready,
    /// which it is while this waits.
    pub(crate) async fn flushed(&self) {
        self.flush_wanted.store(true, Ordering::SeqCst);
        self.flushed.notified().await;
    }
}

#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    control: Arc<Control>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, control: Arc<Control>) -> Self {
        Self { stream, control }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.control.reset.load(Ordering::SeqCst) {
            // Without linger the kernel drops unsent bytes and sends RST. If the option cannot be set, the
            // peer sees an ordinary close.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.control.count(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.control.flush_wanted.swap(false, Ordering::SeqCst) {
            self.control.flushed.notify_one();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.control.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
