//! Owns what is seen of a connection's bytes below hyper's server of HTTP/1: the first byte of each request, and
//! what the client takes.

use super::super::activity::Activity;
use super::super::{LONG, UNSENT};
use super::along::Along;
use crate::io::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream of a client that speaks HTTP/1.
#[derive(Debug)]
pub(in crate::http::serve) struct Watched {
    stream: Stream,
    activity: Arc<Activity>,
    along: Along,
    /// Bytes that were written, as far as they matter.
    written: usize,
}

impl Watched {
    pub(in crate::http::serve) fn new(stream: Stream, activity: Arc<Activity>, along: Along) -> Self {
        Self { stream, activity, along, written: 0 }
    }

    /// The stream, and what was read of it and never given to hyper.
    pub(in crate::http::serve) fn into_parts(mut self) -> (Stream, Vec<u8>) {
        if self.written >= LONG {
            self.stream.limit_unsent(None);
        }
        (self.stream, self.along.into_held())
    }

    /// Writes the answer that stands for hyper's own, if that is what hyper writes.
    fn poll_answer(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        loop {
            let answer = self.along.answer(bytes)?;
            match Pin::new(&mut self.stream).poll_write(cx, answer) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(count)) if self.along.wrote(count) => {
                    return Some(Poll::Ready(Ok(bytes.len())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
    }

    /// What must be done before hyper writes.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_interim(cx))?;
        self.activity.interim.begins();
        Poll::Ready(Ok(()))
    }

    /// The client took some bytes.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        let Poll::Ready(Ok(length)) = written else { return };
        self.activity.bytes_went();
        if self.written < LONG {
            self.written += length;
            if self.written >= LONG {
                self.stream.limit_unsent(Some(UNSENT));
            }
        }
    }

    fn write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, activity, .. } = self;
        activity.interim.poll_write(|bytes| Pin::new(&mut *stream).poll_write(cx, bytes))
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, activity, along, .. } = self.get_mut();
        if along.give(into) {
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let read = Pin::new(stream).poll_read(cx, into);
        if into.filled().len() > before {
            activity.bytes_came();
            along.came(into, before);
        }
        read
    }
}

impl AsyncWrite for Watched {
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

    /// hyper flushes when all that it had to write is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.activity.is_busy() {
            self.along.shared.is_idle();
        }
        // hyper flushes when it has given all it had.
        self.activity.interim.flushed();
        ready!(self.write_interim(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.activity.flush.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
