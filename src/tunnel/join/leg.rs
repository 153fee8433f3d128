//! Owns one side's stream of a tunnel, and what waits for it. It must not know the other side.

use crate::io::Readiness;
use crate::outcome::Why;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with the bytes that were read from it ahead.
#[derive(Debug)]
pub struct Opened<S> {
    /// The stream.
    pub stream: S,
    /// What stands before its next byte.
    pub ahead: Vec<u8>,
}

/// One side's stream, and what waits for it.
pub(super) struct Leg<S> {
    pub(super) stream: S,
    /// What the HTTP parser had read ahead; relayed first.
    #[expect(clippy::box_collection, reason = "nearly always none: one word for it")]
    ahead: Option<Box<Vec<u8>>>,
    pub(super) waiting: Option<Box<Waiting>>,
    /// Why writing failed; what it still has to say is read nevertheless.
    pub(super) broken: Option<io::ErrorKind>,
    unflushed: bool,
    shut: bool,
}

pub(super) struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Leg<S> {
    pub(super) fn new(opened: Opened<S>) -> Self {
        let ahead = (!opened.ahead.is_empty()).then(|| Box::new(opened.ahead));
        Self { stream: opened.stream, ahead, waiting: None, broken: None, unflushed: false, shut: false }
    }

    #[inline]
    pub(super) fn read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Ok(self.read_ahead(&ahead, buffer)));
        }
        let mut into = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    #[cold]
    fn read_ahead(&mut self, ahead: &[u8], buffer: &mut [u8]) -> usize {
        let (now, later) = ahead.split_at(ahead.len().min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.ahead = (!later.is_empty()).then(|| Box::new(later.to_vec()));
        now.len()
    }

    /// Whether another read may find something.
    pub(super) fn may_read(&self) -> bool {
        self.ahead.is_some() || self.stream.may_read()
    }

    /// Writes, or keeps what is not taken.
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

    /// Writes as much as is taken; what is left.
    fn write_some<'a>(&mut self, mut bytes: &'a [u8], cx: &mut Context<'_>) -> &'a [u8] {
        while !bytes.is_empty() && self.broken.is_none() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => self.broken = Some(io::ErrorKind::WriteZero),
                Poll::Ready(Ok(taken)) => {
                    bytes = &bytes[taken..];
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => self.broken = Some(error.kind()),
                Poll::Pending => break,
            }
        }
        bytes
    }

    /// Whether some of what waits was taken, and whether more is left.
    pub(super) fn write_waiting(&mut self, cx: &mut Context<'_>) -> (bool, bool) {
        let Some(mut waiting) = self.waiting.take() else { return (false, false) };
        let left = self.write_some(&waiting.bytes[waiting.taken..], cx).len();
        let took = waiting.bytes.len() - left > waiting.taken;
        waiting.taken = waiting.bytes.len() - left;
        if left > 0 && self.broken.is_none() {
            self.waiting = Some(waiting);
        }
        (took, self.waiting.is_some())
    }

    /// What is dropped from now on tells its peer of a break, unless its end was told in order.
    pub(super) fn reset_on_close(&mut self) {
        if !self.shut {
            self.stream.reset_on_close();
        }
    }

    /// Flushes what a layer below may hold, and ends the stream if that is wanted.
    #[inline]
    pub(super) fn flush(&mut self, shut: bool, cx: &mut Context<'_>) {
        let has_more = self.unflushed || (shut && !self.shut);
        if !has_more || self.broken.is_some() || self.waiting.is_some() {
            return;
        }
        if self.unflushed {
            self.unflushed = Pin::new(&mut self.stream).poll_flush(cx).is_pending();
        }
        if shut && !self.shut {
            // An error says that the peer is gone, which reading says as well.
            self.shut = Pin::new(&mut self.stream).poll_shutdown(cx).is_ready();
        }
    }
}

/// What an error of reading says of its peer.
pub(super) fn unread(kind: io::ErrorKind) -> Why {
    match kind {
        // HTTP/2 without END_STREAM: the connection ended. A socket says so only when it is written to.
        io::ErrorKind::BrokenPipe => Why::Eof,
        _ => why(kind),
    }
}

/// What an error of a socket says of its peer.
pub(super) fn why(kind: io::ErrorKind) -> Why {
    match kind {
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Why::TcpTimeout
        }
        // TLS without close_notify.
        io::ErrorKind::UnexpectedEof => Why::Eof,
        _ => Why::Reset,
    }
}
