//! Owns a stream of HTTP/2 that has become a tunnel, both ways (RFC 8441 5): END_STREAM stands for FIN, RST_STREAM for
//! RST.

use super::super::activity::Exchange;
use crate::io::{Arrivals, Layered, Stream};
use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A tunnel. It ends with END_STREAM when it is dropped, if it has not ended before.
#[derive(Debug)]
pub(in crate::http::serve) struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// What came and was not read.
    came: Bytes,
    has_ended: bool,
    /// Goes on with it, so that its connection is not idle.
    _exchange: Arc<Exchange>,
}

impl Tunnel {
    pub(super) fn new(send: SendStream<Bytes>, recv: RecvStream, exchange: Arc<Exchange>) -> Self {
        let came = Bytes::new();
        Self { send, recv, came, has_ended: false, _exchange: exchange }
    }

    /// Waits until the client's window has room, for `most` bytes at most.
    fn poll_room(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(most);
        loop {
            // Asked once: a window can shrink in between.
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(most)));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                // It was reset, or has ended.
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.has_ended {
            // It fails only where the stream has ended already.
            let _ = self.send.send_data(Bytes::new(), true);
        }
    }
}

impl Arrivals for Tunnel {
    /// Its frames come among those of others.
    fn has_arrived(&self) -> Option<bool> {
        None
    }
}

impl Layered for Tunnel {
    fn below(&mut self) -> Option<&mut Stream> {
        None
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.came.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => self.came = data,
                Some(Err(error)) => {
                    // The client does not want it any more, as a page that was closed.
                    let is_left = matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL));
                    return Poll::Ready(if is_left { Ok(()) } else { Err(to_io(error)) });
                }
            }
        }
        let length = self.came.len().min(into.remaining());
        into.put_slice(&self.came[..length]);
        self.came.advance(length);
        // It fails only when the stream has ended, and needs no window.
        let _ = self.recv.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let length = ready!(self.poll_room(bytes.len(), cx))?;
        self.send.send_data(Bytes::copy_from_slice(&bytes[..length]), false).map_err(to_io)?;
        Poll::Ready(Ok(length))
    }

    /// The connection's task writes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_ended {
            self.has_ended = true;
            self.send.send_data(Bytes::new(), true).map_err(to_io)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn to_io(error: h2::Error) -> io::Error {
    if error.is_io()
        && let Some(error) = error.get_io()
    {
        return error.kind().into();
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
