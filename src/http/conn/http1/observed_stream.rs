//! Owns the stream between hyper's HTTP/1 server and the socket: it notes what the client sends and accepts,
//! filters heads, replaces hyper's own error answers, and writes interim responses.

use super::super::shared::ConnState;
use super::super::{LARGE_RESPONSE, MAX_UNSENT};
use super::head_filter::HeadFilter;
use crate::io::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream of a client that speaks HTTP/1.
#[derive(Debug)]
pub(in crate::http::conn) struct ObservedStream {
    stream: Stream,
    conn_state: Arc<ConnState>,
    head_filter: HeadFilter,
    /// Written bytes, up to [`LARGE_RESPONSE`].
    written: usize,
}

impl ObservedStream {
    pub(in crate::http::conn) fn new(
        stream: Stream,
        conn_state: Arc<ConnState>,
        head_filter: HeadFilter,
    ) -> Self {
        Self { stream, conn_state, head_filter, written: 0 }
    }

    /// Returns the stream, and the read bytes that hyper never got.
    pub(in crate::http::conn) fn into_parts(mut self) -> (Stream, Vec<u8>) {
        if self.written >= LARGE_RESPONSE {
            self.stream.limit_unsent(None);
        }
        (self.stream, self.head_filter.into_held())
    }

    /// Writes the replacement for hyper's own response, if hyper is writing that.
    fn poll_answer(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        loop {
            let answer = self.head_filter.replacement(bytes)?;
            match Pin::new(&mut self.stream).poll_write(cx, answer) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(count)) if self.head_filter.advance(count) => {
                    return Some(Poll::Ready(Ok(bytes.len())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
    }

    /// Writes interim responses before hyper writes.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_interim(cx))?;
        self.conn_state.interim.mark_writing();
        Poll::Ready(Ok(()))
    }

    /// Records that the client accepted bytes.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        let Poll::Ready(Ok(length)) = written else { return };
        self.conn_state.note_bytes_written();
        if self.written < LARGE_RESPONSE {
            self.written += length;
            if self.written >= LARGE_RESPONSE {
                self.stream.limit_unsent(Some(MAX_UNSENT));
            }
        }
    }

    fn write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, conn_state, .. } = self;
        conn_state.interim.poll_write(|bytes| Pin::new(&mut *stream).poll_write(cx, bytes))
    }
}

impl AsyncRead for ObservedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, conn_state, head_filter, .. } = self.get_mut();
        if head_filter.drain_held(into) {
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let read = Pin::new(stream).poll_read(cx, into);
        if into.filled().len() > before {
            conn_state.note_bytes_read();
            head_filter.filter_read(into, before);
        }
        read
    }
}

impl AsyncWrite for ObservedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        if let Some(written) = self.poll_answer(cx, bytes) {
            return written;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        if let Some(written) = bytes.first().and_then(|first| self.poll_answer(cx, first)) {
            return written;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written all its data.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.conn_state.is_busy() {
            self.head_filter.shared.mark_idle();
        }
        // hyper flushes when it has no more data.
        self.conn_state.interim.flushed();
        ready!(self.write_interim(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.conn_state.flush.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
