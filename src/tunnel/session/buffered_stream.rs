//! Owns the stream of one side of a tunnel, and the bytes that wait for it. It must not know the other side.

use crate::io::{PrefixedStream, Readiness};
use crate::outcome::Cause;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream of one side, and the bytes that wait for it.
pub(super) struct BufferedStream<S> {
    pub(super) io: S,
    /// Bytes that the HTTP parser had read. The session relays them first.
    #[expect(clippy::box_collection, reason = "one word, because nearly all streams have none")]
    ahead: Option<Box<Vec<u8>>>,
    pub(super) waiting: Option<Box<Waiting>>,
    /// Why a write failed. Reads go on, because the peer may have sent bytes before.
    pub(super) broken: Option<io::ErrorKind>,
    is_unflushed: bool,
    is_shut: bool,
}

pub(super) struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> BufferedStream<S> {
    pub(super) fn new(opened: PrefixedStream<S>) -> Self {
        let ahead = (!opened.ahead.is_empty()).then(|| Box::new(opened.ahead));
        Self { io: opened.stream, ahead, waiting: None, broken: None, is_unflushed: false, is_shut: false }
    }

    #[inline]
    pub(super) fn read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Ok(self.read_ahead(&ahead, buffer)));
        }
        let mut into = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    #[cold]
    fn read_ahead(&mut self, ahead: &[u8], buffer: &mut [u8]) -> usize {
        let (now, later) = ahead.split_at(ahead.len().min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.ahead = (!later.is_empty()).then(|| Box::new(later.to_vec()));
        now.len()
    }

    /// Whether the next read may find something.
    pub(super) fn may_read(&self) -> bool {
        self.ahead.is_some() || self.io.may_read()
    }

    /// Writes `bytes`, and keeps what the stream does not take.
    pub(super) fn write(&mut self, mut bytes: &[u8], cx: &mut Context<'_>) {
        if self.waiting.is_none() {
            bytes = self.write_some(bytes, cx);
        }
        if bytes.is_empty() || self.broken.is_some() {
            return;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::new(Waiting { bytes: Vec::new(), taken: 0 }));
        waiting.bytes.extend_from_slice(bytes);
    }

    /// Writes as much as the stream takes, and returns the rest.
    fn write_some<'a>(&mut self, mut bytes: &'a [u8], cx: &mut Context<'_>) -> &'a [u8] {
        while !bytes.is_empty() && self.broken.is_none() {
            match Pin::new(&mut self.io).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => self.broken = Some(io::ErrorKind::WriteZero),
                Poll::Ready(Ok(taken)) => {
                    bytes = &bytes[taken..];
                    self.is_unflushed = true;
                }
                Poll::Ready(Err(error)) => self.broken = Some(error.kind()),
                Poll::Pending => break,
            }
        }
        bytes
    }

    /// Writes waiting bytes. Returns whether the stream took some, and whether any are left.
    pub(super) fn write_waiting(&mut self, cx: &mut Context<'_>) -> (bool, bool) {
        let Some(mut waiting) = self.waiting.take() else { return (false, false) };
        let left = self.write_some(&waiting.bytes[waiting.taken..], cx).len();
        let has_progress = waiting.bytes.len() - left > waiting.taken;
        waiting.taken = waiting.bytes.len() - left;
        if left > 0 && self.broken.is_none() {
            self.waiting = Some(waiting);
        }
        (has_progress, self.waiting.is_some())
    }

    /// Makes the drop look like a failure to the peer, unless this stream was shut down before.
    pub(super) fn reset_on_close(&mut self) {
        if !self.is_shut {
            self.io.reset_on_close();
        }
    }

    /// Flushes the buffers of a layer, and shuts the stream down if `shut` is set.
    #[inline]
    pub(super) fn flush(&mut self, shut: bool, cx: &mut Context<'_>) {
        let has_more = self.is_unflushed || (shut && !self.is_shut);
        if !has_more || self.broken.is_some() || self.waiting.is_some() {
            return;
        }
        if self.is_unflushed {
            self.is_unflushed = Pin::new(&mut self.io).poll_flush(cx).is_pending();
        }
        if shut && !self.is_shut {
            // An error means that the peer is gone, which the next read reports as well.
            self.is_shut = Pin::new(&mut self.io).poll_shutdown(cx).is_ready();
        }
    }
}

/// The cause of the end that a read error shows.
pub(super) fn read_cause_of(kind: io::ErrorKind) -> Cause {
    match kind {
        // The connection of an HTTP/2 stream ended without END_STREAM. Sockets return this for writes only.
        io::ErrorKind::BrokenPipe => Cause::Eof,
        _ => cause_of(kind),
    }
}

/// The cause of the end that a socket error shows.
pub(super) fn cause_of(kind: io::ErrorKind) -> Cause {
    match kind {
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Cause::TcpTimeout
        }
        // TLS without close_notify.
        io::ErrorKind::UnexpectedEof => Cause::Eof,
        _ => Cause::Reset,
    }
}
